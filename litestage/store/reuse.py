"""An engine that looks a generation up before running it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cached_property
from typing import Any

import torch

from litestage.engine import DRAWING, Decoding, Detokenise, Engine, Generation, PrefixCache, Request
from litestage.plan import StagePlan
from litestage.store.identity import identity, tokenizer_digest
from litestage.store.store import ResultStore


class ReusingEngine:
    """Generations from the store where they are there, from the engine where they are not. Never timed.

    In float32 and greedy decoding a generation is stored uncut, with its confidences: exit rules only shorten a
    fixed sequence and drafts hasten it, so one record serves every threshold, window and draft; what a rule looks at
    besides confidences is in a record of its own. Otherwise (what runs beside a row can change its tokens, or a random
    stream is involved) the exit rule, the draft and the whole batch are part of the key, and nothing is carried from
    stage to stage. What non-finite logits ended is not kept.

    Attributes:
        reuse: look generations up and keep them; without, all are run anew, as for a search that knows no store.
        keep: keep what is run; without, it is looked up only.
        ran: generations that were run so far.
        reused: generations that were found in the store instead.
    """

    def __init__(
        self, engine: Engine, fingerprint: str, store: ResultStore, reuse: bool = True, keep: bool = True
    ) -> None:
        self.engine, self.fingerprint, self.store, self.reuse, self.keep = engine, fingerprint, store, reuse, keep
        self.ran = self.reused = 0

    @property
    def identity(self) -> dict[str, Any]:
        """What the engine's tokens depend on; see :mod:`litestage.store.identity`."""
        return identity(self.engine, self.fingerprint, self._tokenizer)

    @cached_property
    def _tokenizer(self) -> str:
        return tokenizer_digest(self.engine.tokenizer)

    def generate(
        self,
        requests: Sequence[Request],
        plan: StagePlan,
        decoding: Decoding,
        neighbours: Sequence[StagePlan] = (),
        prefixes: PrefixCache | None = None,
    ) -> list[Generation]:
        """One generation per request, in order; ``prefixes`` is the engine's.

        What a neighbour is known to have written for the same prompt, the first that is known, is verified in one pass
        instead of decoded token by token; the result is the same (:meth:`litestage.engine.runner.HostRunner.verify`).
        """
        exact = self.engine.decoder.dtype == torch.float32 and decoding.temperature == 0
        run_plan = _uncut(plan) if exact else plan
        keys = self._keys(requests, run_plan, decoding, exact)
        found = self.store.get(keys) if self.reuse else {}
        first = {key: index for index, key in reversed(list(enumerate(keys))) if key not in found}
        missing = sorted(first.values())  # the same prompt twice is run once
        if missing and not (exact and self.reuse):  # the batch is in the key, so it is run whole
            missing = list(range(len(keys)))
        if missing:
            todo = [requests[index] for index in missing]
            if exact and self.reuse:
                todo = self._with_drafts(todo, neighbours, decoding)
            prefixes = prefixes if exact else None
            batch = self.engine.generate(todo, run_plan, decoding, confidences=True, prefixes=prefixes)
            new = {keys[index]: _record(result) for index, result in zip(missing, batch.generations, strict=True)}
            if self.reuse and self.keep:
                kept = {key: record for key, record in new.items() if record["stop"] != "non_finite"}
                self.store.put(kept, model=self.fingerprint, engine=self.engine.name)
            found |= new
        self.ran += len(missing)
        self.reused += len(keys) - len(missing)
        detokenise = Detokenise(self.engine.tokenizer, decoding.stop)
        generations = [
            _generation(found[key], request, detokenise) for key, request in zip(keys, requests, strict=True)
        ]
        if exact and plan.exit is not None:
            rule, eos = plan.exit, self.engine.eos[0]
            generations = [generation.cut(rule, eos, detokenise) for generation in generations]
        return generations

    def _with_drafts(
        self, requests: list[Request], neighbours: Sequence[StagePlan], decoding: Decoding
    ) -> list[Request]:
        for neighbour in reversed(neighbours):  # the first one known is written last
            keys = self._keys(requests, replace(neighbour, exit=None, draft=None), decoding, exact=True)
            known = self.store.get(keys)
            requests = [
                replace(request, draft=tuple(known[key]["tokens"])) if key in known else request
                for request, key in zip(requests, keys, strict=True)
            ]
        return requests

    def _keys(self, requests: Sequence[Request], plan: StagePlan, decoding: Decoding, exact: bool) -> list[str]:
        common: dict[str, Any] = {
            **self.identity,
            "plan": plan.computation,
            "exit": plan.exit.to_dict() if plan.exit else None,
            "draft": plan.draft.settings if plan.draft else None,
            "decoding": asdict(decoding),
            "drawing": DRAWING if decoding.temperature > 0 else None,
        }
        rows = [f"{list(request.prompt)}|{request.limit}" for request in requests]
        if not exact:
            common["batch"] = [
                [row, request.group, request.stream if decoding.temperature > 0 else ""]
                for row, request in zip(rows, requests, strict=True)
            ]
            rows = [f"{index}" for index in range(len(rows))]
        prefix = hashlib.sha256(json.dumps(common, sort_keys=True).encode())
        keys = []
        for row in rows:
            digest = prefix.copy()
            digest.update(row.encode())
            keys.append(digest.hexdigest())
        return keys


def _uncut(plan: StagePlan) -> StagePlan:
    """With what its exit rule looks at measured, nothing cut, and nothing guessed."""
    return replace(plan, exit=plan.exit.uncut if plan.exit else None, draft=None)


def _record(generation: Generation) -> dict[str, Any]:
    signals = {"signals": dict(generation.signals)} if generation.signals else {}
    return {"tokens": generation.tokens, "stop": generation.stop, "confidences": generation.confidences, **signals}


def _generation(record: dict[str, Any], request: Request, detokenise: Detokenise) -> Generation:
    tokens = tuple(record["tokens"])
    return Generation(
        tokens=tokens,
        text=detokenise(tokens),
        stop=record["stop"],
        prompt_tokens=len(request.prompt),
        confidences=tuple(record["confidences"]),
        signals={name: tuple(values) for name, values in record.get("signals", {}).items()},
    )
