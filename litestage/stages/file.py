"""Pipelines as YAML files: ``conf/pipeline/*.yaml``, or one's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypedDict, get_type_hints

from litestage.conf import named
from litestage.errors import LiteStageError, did_you_mean, known_keys
from litestage.reading import given_mapping, read_yaml, whole
from litestage.stages.example import Example, example_of
from litestage.stages.pipeline import Pipeline, Stage


class _Answer(TypedDict):
    pattern: str
    choose: str
    cue: str


class _File(TypedDict):
    """What a pipeline's YAML holds: where texts are meant, YAML guesses no numbers."""

    name: str
    description: str
    stages: list[Stage]
    answer: str | _Answer
    choose: str
    cue: str
    examples: list[dict[str, str | list[str]]]


def load_pipeline(name_or_path: str | Path) -> Pipeline:
    """A shipped pipeline by name (``recall_analyze_summarize``) or one's own from a YAML file.

    Raises:
        LiteStageError: no such pipeline, malformed YAML, an unknown key, or a template that names an unknown stage.
    """
    path = named("pipeline", str(name_or_path), hint=" A path to a YAML file works too.")
    raw = given_mapping(read_yaml(path, _File), path)
    try:
        return _pipeline(raw, path.stem)
    except LiteStageError as error:
        raise LiteStageError(f"{path.name}: {error} See conf/pipeline/ for examples.") from None


def _pipeline(raw: Mapping[str, Any], name: str) -> Pipeline:
    known_keys("the pipeline", raw, get_type_hints(_File))
    stages = raw.get("stages")
    if not isinstance(stages, list):
        raise LiteStageError(f"stages is {stages!r:.80}; it is a list of stages, each with a name and a prompt.")
    shown = raw.get("examples") or []
    if not isinstance(shown, list):
        raise LiteStageError(f"examples is {shown!r:.80}; it is a list of questions with a text per stage.")
    examples = tuple(example_of(entry, at) for at, entry in enumerate(shown, start=1))
    raw = {key: value for key, value in raw.items() if key not in ("stages", "examples")}
    if isinstance(raw.get("answer"), Mapping):
        raw |= _answer(raw["answer"])
    texts = {key: _text(value, key) for key, value in raw.items()}
    return Pipeline(texts.pop("name", name), tuple(_stage(entry, examples) for entry in stages), **texts)


def _answer(raw: Mapping[str, Any]) -> dict[str, Any]:
    """``answer`` as a mapping: ``pattern``, ``choose`` and ``cue``."""
    known = {"pattern": "answer", "choose": "choose", "cue": "cue"}
    for key in raw:
        if key not in known:
            raise LiteStageError(f"The answer's key {key!r} is not known; {did_you_mean(str(key), known)}")
    if "pattern" not in raw:
        raise LiteStageError("The answer has no pattern; give one with one (group) that finds the letter.")
    return {known[key]: value for key, value in raw.items()}


def _stage(raw: Any, examples: tuple[Example, ...]) -> Stage:
    if not isinstance(raw, Mapping):
        raise LiteStageError(f"a stage is {raw!r:.80}; it has a name and a prompt.")
    where = f"stage {raw.get('name')!r:.80}"
    known_keys(where, raw, (entry.name for entry in fields(Stage) if entry.name != "examples"))
    for key in ("name", "prompt"):
        if key not in raw:
            raise LiteStageError(f"{where} has no {key}; add one.")
    texts = {key: _text(raw[key], f"{key} of {where}") for key in ("name", "prompt", "reply", "mode") if key in raw}
    fan_out = None if raw.get("fan_out") is None else _text(raw["fan_out"], f"fan_out of {where}")
    stop = raw.get("stop")
    stops = [stop] if isinstance(stop, str) else stop or []  # one string is one stop, as lm-eval's until
    if not isinstance(stops, list) or not all(isinstance(each, str) and each for each in stops):
        raise LiteStageError(f"stop of {where} is {stop!r:.80}; give a text, or a list of texts, none of them empty.")
    limit = whole(raw.get("max_new_tokens", 200), f"max_new_tokens of {where}", least=1)
    return Stage(**texts, fan_out=fan_out, stop=tuple(stops), max_new_tokens=limit, examples=examples)


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise LiteStageError(f"{what} is {value!r:.80}; it is a text.")
    return value
