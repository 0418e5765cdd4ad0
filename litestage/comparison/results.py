"""results.json (``litestage.results/1``): the one file that reports, gates and other people's scripts read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from statistics import fmean, median
from typing import Any

import numpy as np

from litestage.plan import Certificate, Plan, StagePlan
from litestage.stats import (
    ALPHA,
    POWER,
    Pairs,
    accuracy_drop_bootstrap,
    accuracy_drop_interval,
    agreement,
    holm,
    mcnemar,
    minimum_detectable_drop,
    speedup_interval,
)
from litestage.trace import StageTrace, Trace


@dataclass(frozen=True)
class Measured:
    """A method's plan with its traces: all questions for accuracy, some of them one at a time for latency.

    ``peak_cuda_mb`` is what torch had allocated at most while a question was answered alone; None without CUDA.
    ``model`` is the model's name where it is another than the comparison's. ``at`` is the method without its
    budget, and its budget, where it has one. ``certificate`` is the plan's, where it is of the task compared on.
    """

    plan: Plan
    accuracy: Sequence[Trace]
    latency: Sequence[Trace]
    note: str = ""
    peak_cuda_mb: float | None = None
    model: str | None = None
    at: tuple[str, int] | None = None
    certificate: Certificate | None = None

    @property
    def correct(self) -> list[bool]:
        return [bool(trace.correct) for trace in self.accuracy]


def summarise(methods: Mapping[str, Measured]) -> list[dict[str, Any]]:
    """One entry per method, compared with the method named ``full`` question by question.

    ``mcnemar_p`` tests the drop in accuracy, and ``mcnemar_p_holm`` is the same adjusted for all the methods here.
    ``agreement`` is the share of questions answered as full depth answers them, right or wrong.
    """
    full, timed = methods["full"], answered_by_the_clock(measured.latency for measured in methods.values())
    entries = [_entry(name, measured, full, timed) for name, measured in methods.items()]
    adjusted = holm({entry["name"]: entry["mcnemar_p"] for entry in entries if entry["name"] != "full"})
    return [
        entry | ({"mcnemar_p_holm": adjusted[entry["name"]]} if entry["name"] in adjusted else {}) for entry in entries
    ]


def answered_by_the_clock(by_method: Iterable[Sequence[Trace]]) -> set[str]:
    """Ids of the timed questions that every method took to their end: others have no time to compare.

    Left out are those with a prompt that did not fit the context, or with logits that are no numbers.
    """
    timed = [trace for traces in by_method for trace in traces]
    broken = {trace.question_id for trace in timed if trace.too_long or trace.non_finite}
    return {trace.question_id for trace in timed} - broken


def detectable(methods: Mapping[str, Measured]) -> dict[str, float]:
    """The smallest drop that McNemar's test of a method against full depth would find, 4 times in 5.

    It depends on how many questions a method gains; ``gained`` is the median of the methods here, as a fraction.
    """
    full = methods["full"].correct
    gained = [
        pairs.gained / pairs.n
        for pairs in (Pairs.of(full, measured.correct) for name, measured in methods.items() if name != "full")
    ]
    typical = median(gained) if gained else 0.0
    drop = minimum_detectable_drop(len(full), typical)
    return {"drop": round(drop, 4), "gained": typical, "alpha": ALPHA, "power": POWER}


def estimate(name: str, value: float, interval: Sequence[float]) -> dict[str, Any]:
    """A figure and its 95 % interval, as entries and rows have them."""
    return {name: value, f"{name}_ci95": list(interval)}


def sped(full_s: Sequence[float], method_s: Sequence[float], name: str = "speedup") -> dict[str, Any]:
    """How many times as fast as full depth, from both ones' seconds of the same questions."""
    return estimate(name, sum(full_s) / sum(method_s), speedup_interval(full_s, method_s))


def beside(full: Sequence[Trace], method: Sequence[Trace]) -> dict[str, Any]:
    """A method's answers and full depth's to the same questions: accuracy, drop and agreement with 95 % intervals."""
    correct, full_correct = ([bool(trace.correct) for trace in traces] for traces in (method, full))
    drop, interval = fmean(full_correct) - fmean(correct), accuracy_drop_interval(full_correct, correct)
    return {
        "accuracy": fmean(correct),
        **estimate("accuracy_drop", drop, interval),
        **estimate("agreement", *agreement([trace.answer for trace in full], [trace.answer for trace in method])),
        "parse_failures": sum(trace.parse_failure for trace in method),
        "chosen_by_likelihood": sum(trace.chosen_by_likelihood for trace in method),
    }


def _entry(name: str, measured: Measured, full: Measured, timed: Set[str]) -> dict[str, Any]:
    pairs = Pairs.of(full.correct, measured.correct)
    entry: dict[str, Any] = {
        "name": name,
        **(dict(zip(("method", "budget"), measured.at, strict=True)) if measured.at else {}),
        "plan": measured.plan.hash,
        "certified": measured.certificate is not None,
        **({"certificate": asdict(measured.certificate)} if measured.certificate else {}),
        **same_text(full, measured),
        **beside(full.accuracy, measured.accuracy),
        "accuracy_drop_bootstrap95": list(accuracy_drop_bootstrap(full.correct, measured.correct)),
        "lost": pairs.lost,
        "gained": pairs.gained,
        "mcnemar_p": mcnemar(pairs),
        "too_long": sum(trace.too_long for trace in measured.accuracy),
        "non_finite": sum(trace.non_finite for trace in measured.accuracy),
    }
    clocked = [trace for trace in measured.latency if trace.question_id in timed]
    if clocked:
        seconds = _seconds(clocked)
        full_seconds = _seconds([trace for trace in full.latency if trace.question_id in timed])
        entry |= {
            "latency_s": {
                "mean": fmean(seconds),
                "median": median(seconds),
                "p95": float(np.percentile(seconds, 95)),
            },
            "latency_n": len(seconds),
            **sped(full_seconds, seconds),
            **_means(clocked, ("ttft_s", "tpot_s")),
        }
        if measured.peak_cuda_mb is not None:
            entry["peak_cuda_mb"] = measured.peak_cuda_mb
    entry["stages"] = {
        name: _stage(measured, clocked, index)
        for index, name in enumerate(stage.name for stage in measured.accuracy[0].stages)
    }
    if measured.model:
        entry["model"] = measured.model
    accepted = {name: stage["draft"]["accepted"] for name, stage in entry["stages"].items() if "draft" in stage}
    reused = {name: stage["reused"] for name, stage in entry["stages"].items() if "reused" in stage}
    told = _shares("guesses accepted", accepted), _shares("prompt not prefilled again", reused)
    if note := "; ".join(filter(None, (measured.note, *told))):
        entry["note"] = note
    return entry


def _shares(what: str, shares: Mapping[str, float]) -> str:
    """In words, by stage; empty where no stage has a share."""
    return f"{what}: {', '.join(f'{stage} {share:.0%}' for stage, share in shares.items())}" if shares else ""


def same_text(full: Measured, measured: Measured) -> dict[str, float]:
    """Of a plan that is full depth but for drafts and prefix cache, the share of questions with full depth's tokens.

    It is 1 in float32. Other plans promise nothing of the kind. A prefix cache is only there by the clock, so the share
    is of the questions that were timed.
    """
    if measured.model or measured.plan.hash == full.plan.hash or measured.plan.answers_hash != full.plan.answers_hash:
        return {}
    clocked = measured.plan.prefix_cache
    theirs, ours = (full.latency, measured.latency) if clocked else (full.accuracy, measured.accuracy)
    same = [
        [stage.token_ids for stage in one.stages] == [stage.token_ids for stage in other.stages]
        for one, other in zip(theirs, ours, strict=True)
    ]
    return {"same_text": fmean(same)} if same else {}


def _stage(measured: Measured, clocked: Sequence[Trace], index: int) -> dict[str, Any]:
    rows = [trace.stages[index] for trace in measured.accuracy]
    timed = [trace.stages[index] for trace in clocked]
    return {
        "tokens": fmean(sum(row.tokens) for row in rows),
        "skipped": _skipped(measured.plan[rows[0].name], rows),
        "stops": dict(sorted(Counter(stop for row in rows for stop in row.stops).items())),
        **_means(timed, ("prefill_s", "decode_s", "ttft_s", "tpot_s")),
        **_draft(timed),
        **_reused(timed),
    }


def _draft(clocked: Sequence[StageTrace]) -> dict[str, Any]:
    """How many tokens a question's draft guessed, and which share of all guesses was right; nothing where none was."""
    guessed = sum(stage.guessed for stage in clocked)
    if not guessed:
        return {}
    accepted = sum(stage.accepted for stage in clocked)
    return {"draft": {"guessed": guessed / len(clocked), "accepted": accepted / guessed}}


def _reused(clocked: Sequence[StageTrace]) -> dict[str, float]:
    """Which share of all prompt tokens was not prefilled again; nothing where none was."""
    reused = sum(sum(stage.reused_tokens) for stage in clocked)
    return {"reused": reused / sum(sum(stage.prompt_tokens) for stage in clocked)} if reused else {}


def _means(measured: Sequence[Trace] | Sequence[StageTrace], figures: Sequence[str]) -> dict[str, float]:
    """Means of the figures that were measured, each over those that have it; what nobody has is left out."""
    values = {figure: [getattr(one, figure) for one in measured] for figure in figures}
    known = {figure: [value for value in of if value is not None] for figure, of in values.items()}
    return {figure: fmean(of) for figure, of in known.items() if of}


def _skipped(plan: StagePlan, rows: Sequence[StageTrace]) -> dict[str, float]:
    """Sub-layers that a generated token does without: under steps, the mean over all tokens that were run.

    What an online rule adds is each row's own and not counted.
    """
    if len(plan.skip_sets) == 1:
        return {"mhsa": len(plan.skip.mhsa), "ffn": len(plan.skip.ffn)}
    run = [token for row in rows for count in row.tokens for token in range(1, max(2, count))]
    sets = [plan.skip_at(token) or plan.skip for token in run]
    return {kind: round(fmean(len(getattr(skip, kind)) for skip in sets), 2) for kind in ("mhsa", "ffn")}


def _seconds(traces: Sequence[Trace]) -> list[float]:
    return [trace.latency_s for trace in traces if trace.latency_s is not None]
