"""The figures of one method in two runs: what each was, what it is, and whether noise alone makes it so much worse."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from litestage.gate.record import Record, Sample
from litestage.stats import Pairs, mcnemar, pairs_interval
from litestage.stats.change import fewer_right, more, slower, slower_by_intervals, unpaired_drop_interval


@dataclass
class GateOptions:
    """Options of the gate.

    Attributes:
        alpha: the probability of any false alarm at all, over all figures that are left to chance.
        latency_tolerance: by which fraction a speed-up may fall: machines change more between runs than within one.
        token_tolerance: by which fraction tokens may rise where they need not be the same.
    """

    alpha: float = 0.01
    latency_tolerance: float = 0.1
    token_tolerance: float = 0.05


@dataclass(frozen=True)
class Figure:
    """A figure in the baseline and now.

    Attributes:
        name: accuracy, speed-up, or tokens of a stage.
        before, after: the figure; accuracy as a fraction, tokens per question.
        worse: whether it moved to the worse at all.
        how: how the two were compared.
        p_value: how likely noise alone makes it this much worse; None where nothing is left to chance.
        broken: nothing is left to chance, and it differs.
        p_holm: the p-value adjusted for the number of figures compared (Holm).
        regression: whether it got worse by more than noise.
    """

    method: str
    name: str
    before: float
    after: float
    worse: bool
    how: str
    p_value: float | None = None
    broken: bool = False
    p_holm: float | None = None
    regression: bool = False


def figures(name: str, before: Record, after: Record, exactly: bool, options: GateOptions) -> Iterator[Figure]:
    """Compares a method's accuracy, tokens by stage, and speed-up.

    Args:
        exactly: the same plan ran on the same machine and versions, so tokens must be the same.
    """
    common = _common(name, before, after)
    yield _accuracy(name, before, after, common)
    for stage in before.stages:
        yield _tokens(name, stage, before, after, common, exactly, options.token_tolerance)
    if name != "full" and "speedup" in before.methods[name] and "speedup" in after.methods[name]:
        yield _speedup(name, before, after, options.latency_tolerance)


Common = list[tuple[Sample, Sample]]


def _common(name: str, before: Record, after: Record) -> Common:
    first, second = before.samples.get(name, {}), after.samples.get(name, {})
    return [(sample, second[one]) for one, sample in first.items() if one in second]


def _accuracy(name: str, before: Record, after: Record, common: Common) -> Figure:
    if common:
        pairs = Pairs.of([first.correct for first, _ in common], [second.correct for _, second in common])
        low, high = pairs_interval(pairs)
        p = mcnemar(pairs, "greater")
        was, now = (sum(sample.correct for sample in side) / len(common) for side in zip(*common, strict=True))
        how = f"paired: {pairs.lost} lost, {pairs.gained} gained of {pairs.n}"
    else:
        rights = [
            (round(record.methods[name]["accuracy"] * record.results["n"]), int(record.results["n"]))
            for record in (before, after)
        ]
        low, high = unpaired_drop_interval(rights[0], rights[1])
        p = fewer_right(rights[0], rights[1])
        was, now = (right / n for right, n in rights)
        how = f"unpaired, samples are missing: {rights[0][1]} and {rights[1][1]} questions"
    how += f"; 95 % interval {-high * 100:+.1f} to {-low * 100:+.1f} points"
    return Figure(name, "accuracy", was, now, now < was, how, p)


def _tokens(
    name: str, stage: str, before: Record, after: Record, common: Common, exactly: bool, tolerance: float
) -> Figure:
    label = f"tokens of {stage}"
    if not common:
        was, now = (float(record.methods[name]["stages"][stage]["tokens"]) for record in (before, after))
        broken = now > was * (1 + tolerance)
        how = f"samples are missing: means within {tolerance:.0%}, noise unknown"
        return Figure(name, label, was, now, now > was, how, broken=broken)
    first, second = ([sample.tokens[stage] for sample in side] for side in zip(*common, strict=True))
    was, now = sum(first) / len(first), sum(second) / len(second)
    if exactly:
        differ = sum(a != b for a, b in zip(first, second, strict=True))
        how = f"exactly: {differ} of {len(common)} questions differ"
        return Figure(name, label, was, now, differ > 0, how, broken=differ > 0)
    how = f"within {tolerance:.0%}, paired over {len(common)} questions"
    return Figure(name, label, was, now, now > was, how, more(first, second, tolerance))


def _speedup(name: str, before: Record, after: Record, tolerance: float) -> Figure:
    (first, was), (second, now) = _times(name, before), _times(name, after)
    both, (faster, faster_now) = [one for one in first if one in second], (was[0], now[0])
    if both:
        columns = [([side[one][0] for one in both], [side[one][1] for one in both]) for side in (first, second)]
        p = slower(columns[0], columns[1], tolerance)
        if first.keys() != second.keys():  # those of other questions are not what p is of
            faster, faster_now = (sum(full) / sum(method) for full, method in columns)
        how = f"within {tolerance:.0%}, paired over {len(both)} questions"
    else:
        p = slower_by_intervals(was, now, tolerance)
        how = f"within {tolerance:.0%}, from the intervals: samples are missing"
    return Figure(name, "speed-up", faster, faster_now, faster_now < faster, how, p)


def _times(name: str, record: Record) -> tuple[dict[str, tuple[float, float]], tuple[float, float, float]]:
    """By question, full depth's seconds and the method's; and the speed-up with its interval."""
    full, method = record.samples.get("full", {}), record.samples.get(name, {})
    times = {
        one: (full[one].latency_s or 0.0, sample.latency_s)
        for one, sample in method.items()
        if sample.latency_s and one in full and full[one].latency_s
    }
    entry: Any = record.methods[name]
    return times, (entry["speedup"], *entry["speedup_ci95"])
