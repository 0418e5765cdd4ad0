"""Plans as YAML files (``litestage.plan/1``), their compensation tensors in a ``.safetensors`` file beside them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

import yaml

from litestage.atomic import replacing, write_text
from litestage.errors import LiteStageError, known_keys
from litestage.plan.certificate import CertificateFile, certificate_from_dict, certificate_to_dict
from litestage.plan.draft import draft_from, draft_tensors
from litestage.plan.exit import ExitRule
from litestage.plan.plan import SCHEMA, Plan
from litestage.plan.skip import SkipSet
from litestage.plan.stage import StagePlan
from litestage.reading import read_yaml, whole


class _Named(TypedDict):
    name: str
    revision: str | None
    fingerprint: str | None
    hash: str | None


class _Stage(TypedDict):
    phase: str
    compensation: str


class _File(TypedDict):
    """What of a plan is text, as :func:`litestage.reading.parse_yaml` is told."""

    schema: str
    model: _Named | None
    pipeline: _Named | None
    stages: dict[str, _Stage]
    certificate: CertificateFile | None


_PLAN_KEYS = ("schema", "model", "pipeline", "prefix_cache", "stages", "certificate", "provenance")
_STAGE_KEYS = ("skip", "phase", "compensation", "compensation_digest", "schedule", "exit", "draft")


def plan_to_dict(plan: Plan) -> dict[str, Any]:
    """The plan as the YAML's plain data."""
    return {
        "schema": SCHEMA,
        "model": dict(plan.model) if plan.model else None,
        "pipeline": dict(plan.pipeline) if plan.pipeline else None,
        **({"prefix_cache": True} if plan.prefix_cache else {}),
        "stages": {
            name: {
                "skip": stage.skip.to_dict(),
                "phase": stage.phase,
                "compensation": stage.compensation,
                **({"compensation_digest": stage.compensation_digest} if stage.tensors else {}),
                "schedule": dict(stage.schedule) if stage.schedule else None,
                "exit": stage.exit.to_dict() if stage.exit else None,
                **({"draft": stage.draft.settings} if stage.draft else {}),
            }
            for name, stage in plan.stages.items()
        },
        **({"certificate": certificate_to_dict(plan.certificate)} if plan.certificate else {}),
        "provenance": dict(plan.provenance),
    }


def save_plan(plan: Plan, path: str | Path) -> None:
    """Writes the YAML and, where a stage has compensation, ``<plan>.safetensors`` beside it; another plan's goes.

    The tensors come first, and the YAML has their digest: a pair that a kill has left half old is refused.
    """
    path = Path(path)
    beside = path.with_suffix(".safetensors")
    tensors = {
        f"{name}.{key}": value
        for name, stage in plan.stages.items()
        for key, value in {**stage.tensors, **draft_tensors(stage.draft)}.items()
    }
    if tensors:
        import torch
        from safetensors.torch import save_file

        # cloned: stages may share a tensor, which safetensors refuses
        own = {key: value.clone(memory_format=torch.contiguous_format) for key, value in tensors.items()}
        with replacing(beside) as file:
            save_file(own, file, {name: _fitted_for(stage) for name, stage in plan.stages.items()})
    write_text(path, yaml.safe_dump(plan_to_dict(plan), sort_keys=False, default_flow_style=None))
    if not tensors:
        beside.unlink(missing_ok=True)


def load_plan(path: str | Path) -> Plan:
    """Reads a plan file.

    Raises:
        LiteStageError: absent, not YAML, another schema, an unknown key, or a value that makes no sense.
    """
    path = Path(path)
    if not os.path.exists(path):
        raise LiteStageError(
            f"There is no plan file at {str(path)!r}; check the path, or search one with 'litestage search'."
        )
    raw = read_yaml(path, _File)
    try:
        tensors, fitted_for = _tensors(path.with_suffix(".safetensors"))
        plan = plan_from_dict(raw, tensors)
        for name, stage in plan.stages.items():
            skipped = _fitted_for(stage)
            if stage.tensors and fitted_for.get(name, skipped) != skipped:
                raise LiteStageError(
                    f"stage {name!r} leaves out {skipped or 'nothing'}, but its compensation was fitted for "
                    f"{fitted_for[name] or 'nothing'}; put that back, or search the plan again."
                )
        return plan
    except LiteStageError as error:
        raise LiteStageError(f"{path}: {error}") from None


def plan_from_dict(raw: Any, tensors: Mapping[str, Any] | None = None) -> Plan:
    """The plan that :func:`plan_to_dict` gave; ``tensors`` by ``"<stage>.<kind>.<layer>"``."""
    if not isinstance(raw, Mapping) or raw.get("schema") != SCHEMA:
        found = raw.get("schema") if isinstance(raw, Mapping) else type(raw).__name__
        raise LiteStageError(f"schema is {found!r}, not {SCHEMA!r}; write 'schema: {SCHEMA}' and 'stages:'.")
    known_keys("the plan", raw, _PLAN_KEYS)
    stages = raw.get("stages")
    if not isinstance(stages, Mapping):
        raise LiteStageError(f"'stages' is {stages!r}; it maps each stage's name to what it skips.")
    for key in ("model", "pipeline", "provenance"):
        if not isinstance(raw.get(key) or {}, Mapping):
            raise LiteStageError(
                f"{key!r} is {raw[key]!r}; it is a mapping, as in a plan that was searched, or left out."
            )
    model = dict(raw["model"]) if raw.get("model") else None
    if model and model.get("layers") is not None:
        model["layers"] = whole(model["layers"], "model layers", least=1)
    prefix_cache = raw.get("prefix_cache", False)
    if not isinstance(prefix_cache, bool):
        raise LiteStageError(f"prefix_cache is {prefix_cache!r}; write true or false.")
    plan = Plan(
        stages={str(name): _stage(str(name), entry, tensors or {}) for name, entry in stages.items()},
        model=model,
        pipeline=raw.get("pipeline"),
        provenance=raw.get("provenance") or {},
        prefix_cache=prefix_cache,
    )
    if raw.get("certificate") is None:
        return plan
    model, pipeline = (plan.model or {}).get("fingerprint"), (plan.pipeline or {}).get("hash")
    return replace(plan, certificate=certificate_from_dict(raw["certificate"], plan.answers_hash, model, pipeline))


def _stage(name: str, raw: Any, tensors: Mapping[str, Any]) -> StagePlan:
    raw = {} if raw is None else raw
    known_keys(f"stage {name!r}", raw, _STAGE_KEYS)
    exit_rule = None if raw.get("exit") == "none" else raw.get("exit")
    compensation = raw.get("compensation") or "none"
    own = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
    # of a file left by an earlier plan of this name nothing counts that the plan does not ask for
    held = {k: value for k, value in own.items() if not k.startswith("draft.")} if compensation != "none" else {}
    try:
        told = isinstance(exit_rule, Mapping) and all(isinstance(key, str) for key in exit_rule)
        if exit_rule is not None and not told:
            raise LiteStageError(f"exit is {exit_rule!r:.80}; it holds rule and its parameters.")
        plan = StagePlan(
            skip=SkipSet.from_dict(raw.get("skip") or {}),
            phase=raw.get("phase", "both"),
            compensation=compensation,
            schedule=raw.get("schedule"),
            exit=None if exit_rule is None else ExitRule(**exit_rule),
            draft=draft_from(raw.get("draft"), own),
            tensors=held,
        )
        if raw.get("compensation_digest") not in (None, plan.compensation_digest):
            raise LiteStageError(
                "the .safetensors file beside it belongs to another plan; copy both files again, or search the plan "
                "again."
            )
        return plan
    except LiteStageError as error:
        raise LiteStageError(f"stage {name!r}: {error}") from None
    except (TypeError, AttributeError) as error:
        raise LiteStageError(f"stage {name!r} does not read as a plan ({error}); see README for one.") from None


def _fitted_for(stage: StagePlan) -> str:
    """What a stage leaves out, as its tensors' file says it: ``mhsa.3 ffn.3``."""
    return " ".join(f"{kind}.{layer}" for kind, layer in stage.skip.names)


def _tensors(path: Path) -> tuple[Mapping[str, Any], Mapping[str, str]]:
    """The tensors by name, and by stage what they were fitted for, where the file says it."""
    if not path.is_file():
        return {}, {}
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise LiteStageError(
            f"{path} does not hold tensors ({error}); copy it again, or search the plan again."
        ) from None
