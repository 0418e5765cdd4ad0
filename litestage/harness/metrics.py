"""The figures lm-eval averages for a staged task, from one question's trace."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from litestage.trace import StageTrace, Trace

STOPS = ("eos", "stop_string", "exit", "length", "too_long", "non_finite")
_HIGHER_IS_BETTER = ("acc", "stop_eos")


def metric_names(stages: Iterable[str], *, timed: bool = True) -> list[str]:
    """The names of a question's :func:`metrics` by its stages: with seconds, as of one that ran alone, if ``timed``."""
    seconds = 0.0 if timed else None
    ended = [StageTrace(stage, (1,), 0, (1,), ("",), ("eos",), seconds, seconds) for stage in stages]
    return list(metrics(Trace("", "", tuple(ended), None, None, seconds)))


def metric_list(names: Iterable[str]) -> list[dict[str, Any]]:
    """lm-eval's ``metric_list`` for these names."""
    return [
        {"metric": name, "aggregation": "mean", "higher_is_better": name.startswith(_HIGHER_IS_BETTER)}
        for name in names
    ]


def metrics(trace: Trace) -> dict[str, float]:
    """One question's figures: counts of new tokens, seconds, and the share of a stage's rows that ended for a reason.

    Seconds are there only if the question ran alone and to its end: a batch's seconds are no question's, and one whose
    prompt did not fit the context, or whose logits were no numbers, ends too soon.
    """
    figures: dict[str, float] = {
        "acc": float(bool(trace.correct)),
        "parse_failure": float(trace.parse_failure),
        "chosen_by_likelihood": float(trace.chosen_by_likelihood),
        "tokens": float(trace.tokens),
    }
    ended = not (trace.too_long or trace.non_finite)
    if ended and trace.latency_s is not None:
        figures["latency_s"] = trace.latency_s
    for stage in trace.stages:
        figures[f"tokens_{stage.name}"] = float(sum(stage.tokens))
        if ended and stage.prefill_s is not None and stage.decode_s is not None:
            figures |= {f"prefill_s_{stage.name}": stage.prefill_s, f"decode_s_{stage.name}": stage.decode_s}
        for stop in STOPS:
            figures[f"stop_{stop}_{stage.name}"] = stage.stops.count(stop) / len(stage.stops)
    return figures
