"""A grid's results.json (``litestage.grid/1``): every method with every model and task, and its average over tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import exp, log
from statistics import fmean
from typing import Any

from litestage.comparison.grid.cells import Cell
from litestage.comparison.results import estimate
from litestage.plan.words import certified
from litestage.stats import holm, over_independent, over_the_same

AVERAGED = (
    "Averages give every task the same weight: means of accuracy, drop, agreement and tokens, the geometric mean of "
    "speed-ups; their 95 % intervals take the tasks as independent (MOVER). Over seeds, which ask the same test "
    "questions, limits are averaged like the figures themselves and get no closer. p is adjusted after Holm over "
    "every comparison here."
)

Row = dict[str, Any]
Average = Callable[[Sequence[float], Sequence[Sequence[float]]], tuple[float, float, float]]


def summarise_grid(cells: Sequence[Cell], found: Mapping[Cell, Mapping[str, Any]], failed: Mapping[Cell, str]) -> Row:
    """The summary.

    Args:
        found: results.json of the comparisons that are done.
        failed: what went wrong with others, a sentence each.
    """
    found = {cell: found[cell] for cell in cells if cell in found}
    p_values = _adjusted(found)
    fulls = {cell: _entry(results, "full") for cell, results in found.items()}
    rows = [
        _over_seeds(model, task, method, {cell: _entry(found[cell], method) for cell in group}, p_values, fulls)
        for (model, task), group in _grouped(found).items()
        for method in [entry["name"] for entry in found[group[0]]["methods"]]
    ]
    environments = [dict(results["environment"]) for results in found.values()]
    return {
        "models": list(dict.fromkeys(cell.model for cell in cells)),
        "tasks": list(dict.fromkeys(cell.task for cell in cells)),
        "seeds": list(dict.fromkeys(cell.seed for cell in cells)),
        "cells": [_state(cell, found.get(cell), failed.get(cell)) for cell in cells],
        "averaged": AVERAGED,
        "rows": rows,
        "averages": _over_tasks(rows),
        "environments": [one for at, one in enumerate(environments) if one not in environments[:at]],
    }


def _state(cell: Cell, results: Mapping[str, Any] | None, error: str | None) -> Row:
    named = {"model": cell.model, "task": cell.task, "seed": cell.seed, "folder": cell.folder.as_posix()}
    if error is not None:
        return {**named, "state": "failed", "error": error}
    return {**named, "state": "to do"} if results is None else {**named, "state": "done", "n": results["n"]}


def _grouped(found: Mapping[Cell, Any]) -> dict[tuple[str, str], list[Cell]]:
    """The comparisons of each model and task, which differ in their seeds."""
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in found:
        groups.setdefault((cell.model, cell.task), []).append(cell)
    return groups


def _entry(results: Mapping[str, Any], method: str) -> Mapping[str, Any]:
    return next(entry for entry in results["methods"] if entry["name"] == method)


def _adjusted(found: Mapping[Cell, Mapping[str, Any]]) -> dict[tuple[Cell, str], float]:
    """Every drop's McNemar p-value, adjusted for all of them."""
    return holm(
        {
            (cell, entry["name"]): entry["mcnemar_p"]
            for cell, results in found.items()
            for entry in results["methods"]
            if entry["name"] != "full"
        }
    )


def _over_seeds(
    model: str,
    task: str,
    method: str,
    entries: Mapping[Cell, Mapping[str, Any]],
    p_values: Mapping[tuple[Cell, str], float],
    fulls: Mapping[Cell, Mapping[str, Any]],
) -> Row:
    """A method with one model on one task; the p-value is the smallest of its seeds'.

    Args:
        fulls: full depth's entries.
    """
    measured = list(entries.values())
    row: Row = {
        "model": model,
        "task": task,
        "method": method,
        "certified": list(dict.fromkeys(certified(entry, fulls[cell]) for cell, entry in entries.items())),
        "seeds": [cell.seed for cell in entries],
        **_accuracy(measured, over_the_same),
        "tokens": fmean(sum(stage["tokens"] for stage in entry["stages"].values()) for entry in measured),
    }
    adjusted = [p_values[cell, method] for cell in entries if (cell, method) in p_values]
    if adjusted:
        row["mcnemar_p_holm"] = min(adjusted)
    if all("speedup" in entry for entry in measured):
        row |= _speedup(measured, over_the_same)
    if len(measured) > 1:
        row["by_seed"] = [
            {name: entry[name] for name in ("accuracy", "accuracy_drop", "speedup") if name in entry}
            for entry in measured
        ]
    return row


def _over_tasks(rows: Sequence[Row]) -> list[Row]:
    """Every method's average over a model's tasks."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["model"], row["method"]), []).append(row)
    return [
        {
            "model": model,
            "method": method,
            "tasks": [row["task"] for row in group],
            **_accuracy(group, over_independent),
            "tokens": fmean(row["tokens"] for row in group),
            **(_speedup(group, over_independent) if all("speedup" in row for row in group) else {}),
        }
        for (model, method), group in groups.items()
    ]


def _accuracy(entries: Sequence[Mapping[str, Any]], average: Average) -> Row:
    names = ["accuracy_drop", *(["agreement"] if all("agreement" in entry for entry in entries) else [])]
    row: Row = {"accuracy": fmean(entry["accuracy"] for entry in entries)}
    for name in names:
        mean, *interval = average([entry[name] for entry in entries], [entry[f"{name}_ci95"] for entry in entries])
        row |= estimate(name, mean, interval)
    return row


def _speedup(entries: Sequence[Mapping[str, Any]], average: Average) -> Row:
    """Averaged as logarithms: twice and half as fast make one."""
    mean, low, high = average(
        [log(entry["speedup"]) for entry in entries],
        [[log(limit) for limit in entry["speedup_ci95"]] for entry in entries],
    )
    return estimate("speedup", exp(mean), [exp(low), exp(high)])
