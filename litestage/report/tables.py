"""The report's tables, as text: the HTML page and the Markdown twin print the same cells."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import floor, log2
from statistics import fmean
from typing import Any

from litestage.plan.certificate import SAYS_NOTHING_OF
from litestage.plan.words import certified
from litestage.report.wording import share, signed_points, times

KINDS = ("mhsa", "ffn")


@dataclass(frozen=True)
class Table:
    """Columns and rows of text; the first column names the row. ``ours`` are the rows to point out.

    ``note`` is a sentence or two that everybody should read, ``remarks`` what some will want to know.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    ours: frozenset[int] = frozenset()
    note: str = ""
    remarks: Sequence[str] = ()


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]], figures: Collection[str] = ()) -> str:
    """A table in Markdown, of cells that mean nothing else there; ``figures`` are the columns that end alike."""

    def line(cells: Iterable[str]) -> str:
        return f"| {' | '.join(cells)} |"

    return "\n".join([line(columns), line("---:" if it in figures else "---" for it in columns), *map(line, rows)])


def methods_table(results: Mapping[str, Any]) -> Table:
    """Every method of a comparison, with what its figures are of."""
    shown = methods_cells(results)
    ours = frozenset(i for i, name in enumerate(shown["method"]) if name.startswith("litestage"))
    rows = list(zip(*shown.values(), strict=True))
    return Table("Methods", list(shown), rows, ours, _methods_note(results), _methods_remarks(results))


def methods_cells(results: Mapping[str, Any]) -> dict[str, list[str]]:
    """By column, every method's cell; columns that no method has a figure for are left out."""
    methods = results["methods"]
    stages = " / ".join(methods[0]["stages"])
    any_chosen = any(method.get("chosen_by_likelihood") for method in methods)
    columns = {
        "method": [method["name"] for method in methods],
        "accuracy": [f"{method['accuracy']:.1%}" for method in methods],
        "drop, points [95 %]": [signed_points(m) for m in methods],
        "same answers [95 %]": [share(m) for m in methods],
        "certified": [certified(method, methods[0]) for method in methods],
        "p (Holm)": [_p(method.get("mcnemar_p_holm")) for method in methods],
        "ms": [f"{m['latency_s']['mean'] * 1000:.1f}" if "latency_s" in m else "" for m in methods],
        "p95 ms": [f"{m['latency_s']['p95'] * 1000:.1f}" if "latency_s" in m else "" for m in methods],
        "speed-up [95 %]": [times(m) for m in methods],
        f"tokens: {stages}": [" / ".join(f"{s['tokens']:.1f}" for s in m["stages"].values()) for m in methods],
        f"skipped, MHSA+FFN: {stages}": [
            " / ".join("+".join(f"{round(s['skipped'][kind], 1):g}" for kind in KINDS) for s in m["stages"].values())
            for m in methods
        ],
        "no answer": [str(method["parse_failures"]) for method in methods],
        "by likelihood": [str(m.get("chosen_by_likelihood", 0)) if any_chosen else "" for m in methods],
        "peak CUDA MB": [f"{m['peak_cuda_mb']:.0f}" if "peak_cuda_mb" in m else "" for m in methods],
    }
    return {name: cells for name, cells in columns.items() if any(cells)}


def _methods_note(results: Mapping[str, Any]) -> str:
    """What the figures are of."""
    note = (
        f"The same {results['n']} questions of the {results['split']} split; brackets are 95 % intervals, paired over "
    )
    note += f"questions. Latency: {results['latency_measured']}."
    if memory := results.get("memory"):
        note += f" Peak memory: {memory['peak_resident_mb']:.0f} MB resident, {memory['covers']}."
    return note


def _methods_remarks(results: Mapping[str, Any]) -> list[str]:
    """How to read the columns, and what rows have to say of themselves, the same only once."""
    remarks = [
        "drop: full depth's accuracy minus the method's. An interval that holds 0 leaves open whether there is any.",
        "same answers: the share of questions answered as full depth answers them, right or wrong. A method can keep "
        "its accuracy and yet change many answers.",
        "speed-up: the sum of full depth's times over the sum of the method's, on the same questions.",
        "tokens: new tokens per question, all rows of a stage together. skipped: sub-layers a token does without.",
    ]
    if any(method.get("chosen_by_likelihood") for method in results["methods"]):
        remarks.append(
            "by likelihood: of so many questions the last text named no option, and the letter that the model held the "
            "most probable after it was taken."
        )
    if any("certified" in method for method in results["methods"]):
        remarks.append(
            "certified: the bound that a row's plan is shown to keep, and the confidence, by calibration questions "
            f"that its search did not see, for each row by itself. It says nothing of {SAYS_NOTHING_OF}. An exit rule "
            "that is added to a certified plan makes another plan, which is not certified."
        )
    if any("same_text" in method for method in results["methods"]):
        remarks.append(
            "same text: the plan computes full depth's text another way, and so many of the questions had the very "
            "same tokens: all of them in float32; in bfloat16 rounding changes some. Of a plan with a prefix cache, "
            "which is only there by the clock, it is the share of the timed questions."
        )
    adjusted = any("mcnemar_p_holm" in method for method in results["methods"])
    if adjusted:
        remarks.append("p: McNemar's exact test of the drop, adjusted after Holm for all methods here.")
    if (detectable := results.get("minimum_detectable_drop")) and detectable["drop"] > 0:
        remarks.append(
            f"A drop of {detectable['drop'] * 100:.1f} points is the least that this test would find with "
            f"{detectable['power']:.0%} certainty on so many questions"
            f"{', before p is adjusted' if adjusted else ''}."
        )
    noted: dict[str, list[str]] = {}
    for method in results["methods"]:
        if "note" in method:
            noted.setdefault(method["note"], []).append(method["name"])
    return [*remarks, *(f"{', '.join(names)}: {note}." for note, names in noted.items())]


def entropy_table(traces: Sequence[Mapping[str, Any]]) -> Table | None:
    """Least mean entropy of the next token, by method and stage, in bits; None where no confidences were kept."""
    if not traces:
        return None
    rows = []
    for method, first in traces[0]["traces"].items():
        stages = range(len(first["stages"]))
        cells = [_bits(_confidences(traces, method, index)) for index in stages]
        rows.append([method, *cells])
    if not any(cell for row in rows for cell in row[1:]):
        return None
    names = [stage["name"] for stage in next(iter(traces[0]["traces"].values()))["stages"]]
    return Table(
        "Token entropy by stage, at least",
        ["method", *names],
        rows,
        note=f"Bits per token, the mean over the {len(traces)} sampled questions. Of each step only the largest "
        f"probability is kept, so this is the least entropy that a distribution with such a largest one can have; "
        f"the true one is higher wherever the rest is spread over several tokens.",
    )


def _confidences(traces: Sequence[Mapping[str, Any]], method: str, index: int) -> list[float]:
    stages = [trace["traces"][method]["stages"][index] for trace in traces]
    return [value for stage in stages for row in stage.get("confidences") or () for value in row]


def _bits(confidences: Sequence[float]) -> str:
    return f"{fmean(map(least_entropy, confidences)):.3f}" if confidences else ""


def least_entropy(largest: float) -> float:
    """Bits: the least Shannon entropy of a distribution whose largest probability is ``largest``, from 0 to 1.

    It has as many outcomes of that probability as there is room for, and one of the rest.
    """
    largest = min(1.0, max(largest, 1e-6))
    many = floor(1 / largest)
    rest = 1 - many * largest
    return many * largest * log2(1 / largest) + (rest * log2(1 / rest) if rest > 1e-12 else 0.0)


def experiment_table(experiment: Mapping[str, Any]) -> Table:
    """An experiment's rows: their plain entries, each figure with its interval."""
    flat = [_flat(row) for row in experiment["rows"]]
    columns = list(dict.fromkeys(name for row in flat for name in row))
    return Table("All rows", columns, [[row.get(name, "") for name in columns] for row in flat])


def _flat(row: Mapping[str, Any]) -> dict[str, str]:
    cells: dict[str, str] = {}
    for name, value in row.items():
        if name.endswith("_ci95") or name == "plan":
            continue
        if isinstance(value, Mapping):
            if all(isinstance(inner, int | float | str) for inner in value.values()):
                cells[name.replace("_", " ")] = " / ".join(_plain(inner) for inner in value.values())
            continue
        interval = row.get(f"{name}_ci95")
        text = _plain(value)
        cells[name.replace("_", " ")] = f"{text} [{_plain(interval[0])}, {_plain(interval[1])}]" if interval else text
    return cells


def _plain(value: object) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _p(value: float | None) -> str:
    return "" if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"
