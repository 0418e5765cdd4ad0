"""An engine that looks a generation up before running it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch

from litestage.engine import Decoding, Engine, Generation, Request
from litestage.engine.carry import Carry
from litestage.engine.rows import DRAWING
from litestage.engine.types import Detokenise
from litestage.plan import StagePlan
from litestage.store.store import ResultStore

RECORD_VERSION = 1


class ReusingEngine:
    """Generations from the store where they are there, from the engine where they are not. Never timed.

    In float32 and greedy decoding a generation is stored uncut, with its confidences: exit rules only shorten a
    fixed sequence, so one record serves every threshold and window. Otherwise (batch shape can change tokens, or a
    random stream is involved) the exit rule and the batch's shape are part of the key.

    Attributes:
        reuse: look generations up and keep them; without, all are run anew, as for a search that knows no store.
        ran: generations that were run so far.
        reused: generations that were found in the store instead.
    """

    def __init__(self, engine: Engine, fingerprint: str, store: ResultStore, reuse: bool = True) -> None:
        self.engine, self.fingerprint, self.store, self.reuse = engine, fingerprint, store, reuse
        self.ran = self.reused = 0

    def generate(
        self,
        requests: Sequence[Request],
        plan: StagePlan,
        decoding: Decoding,
        neighbours: Sequence[StagePlan] = (),
        carry: Carry | None = None,
    ) -> list[Generation]:
        """One generation per request, in order; ``carry`` is the engine's.

        What a neighbour is known to have written for the same prompt, the first that is known, is verified in one pass
        instead of decoded token by token; the result is the same (:mod:`litestage.engine.verify`).
        """
        exact = self.engine.decoder.dtype == torch.float32 and decoding.temperature == 0
        run_plan = _without_exit(plan) if exact else plan
        keys = self._keys(requests, run_plan, decoding, exact)
        found = self.store.get(keys) if self.reuse else {}
        first = {key: index for index, key in reversed(list(enumerate(keys))) if key not in found}
        missing = sorted(first.values())  # the same prompt twice is run once
        if missing and not (exact and self.reuse):  # the batch's shape is in the key, so it is run whole
            missing = list(range(len(keys)))
        if missing:
            todo = [requests[index] for index in missing]
            if exact and self.reuse:
                todo = self._with_drafts(todo, neighbours, decoding)
            batch = self.engine.generate(todo, run_plan, decoding, confidences=True, carry=carry)
            new = {keys[index]: _record(result) for index, result in zip(missing, batch.generations, strict=True)}
            if self.reuse:
                self.store.put(new, model=self.fingerprint, engine=self.engine.name)
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
            keys = self._keys(requests, _without_exit(neighbour), decoding, exact=True)
            known = self.store.get(keys)
            requests = [
                replace(request, draft=tuple(known[key]["tokens"])) if key in known else request
                for request, key in zip(requests, keys, strict=True)
            ]
        return requests

    def _keys(self, requests: Sequence[Request], plan: StagePlan, decoding: Decoding, exact: bool) -> list[str]:
        decoder = self.engine.decoder
        common: dict[str, Any] = {
            "version": RECORD_VERSION,
            "model": self.fingerprint,
            "plan": plan.computation,
            "exit": asdict(plan.exit) if plan.exit else None,
            "decoding": asdict(decoding),
            "engine": self.engine.name,
            "dtype": str(decoder.dtype),
            "torch": str(torch.__version__),
            "device": decoder.device.type,
            "batch": None if exact else [len(requests), max(len(request.prompt) for request in requests)],
        }
        prefix = hashlib.sha256(json.dumps(common, sort_keys=True).encode())
        keys = []
        for request in requests:
            digest = prefix.copy()
            stream = f"{DRAWING}/{request.stream}" if decoding.temperature > 0 else ""
            digest.update(f"{list(request.prompt)}|{request.limit}|{stream}".encode())
            keys.append(digest.hexdigest())
        return keys


def _without_exit(plan: StagePlan) -> StagePlan:
    return replace(plan, exit=None)


def _record(generation: Generation) -> dict[str, Any]:
    return {"tokens": generation.tokens, "stop": generation.stop, "confidences": generation.confidences}


def _generation(record: dict[str, Any], request: Request, detokenise: Detokenise) -> Generation:
    tokens = tuple(record["tokens"])
    return Generation(
        tokens=tokens,
        text=detokenise(tokens),
        stop=record["stop"],
        prompt_tokens=len(request.prompt),
        confidences=tuple(record["confidences"]),
    )
