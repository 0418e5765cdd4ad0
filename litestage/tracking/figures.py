"""What a tracker is told, as plain data: every figure by name, speed-ups over every method, and tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from litestage.report import Run

SETTING = ("schema", "environment", "model", "pipeline", "command", "config")
"""Entries of a results file that say how it was made: they go to the tracker's configuration."""

Table = tuple[list[str], list[list[Any]]]


def figures(run: Run) -> dict[str, Any]:
    """Every figure by its path.

    Of a comparison all of results.json, as ``methods/<name>/stages/<stage>/tokens``, and each method's speed-up over
    every other, ``methods/<a>/speedup_over/<b>``; of a search, full depth and the chosen plan; of an experiment all but
    its rows, which are a table.
    """
    found: dict[str, Any] = {}
    if run.comparison:
        found |= dict(flat({name: value for name, value in run.comparison.items() if name not in SETTING}))
        for method, over, speedup in speedups(run.comparison):
            found[f"methods/{method}/speedup_over/{over}"] = speedup
    if run.search:
        found |= dict(flat({"search": {name: run.search[name] for name in ("met", "full", "chosen")}}))
    if run.experiment:
        rest = {name: value for name, value in run.experiment.items() if name not in (*SETTING, "rows")}
        found |= dict(flat({**rest, "shows": " ".join(run.experiment["shows"])}))
    return found


def flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf with its path; members of a list go by their ``name``, if they have one, else by their place."""
    if isinstance(value, Mapping):
        members: Sequence[tuple[str, Any]] = list(value.items())
    elif isinstance(value, list):
        named = all(isinstance(item, Mapping) and "name" in item for item in value)
        members = [(str(item["name"] if named else at), item) for at, item in enumerate(value)]
    else:
        yield path, value
        return
    for name, member in members:
        yield from flat(member, f"{path}/{name}" if path else str(name))


def speedups(results: Mapping[str, Any]) -> list[tuple[str, str, float]]:
    """How many times as fast each method is as every other: sums of seconds over the same questions."""
    timed = [method for method in results["methods"] if "latency_s" in method]
    return [
        (method["name"], over["name"], over["latency_s"]["mean"] / method["latency_s"]["mean"])
        for method in timed
        for over in timed
        if method is not over and method["latency_n"] == over["latency_n"]
    ]


def setting(run: Run) -> dict[str, Any]:
    """How a run was made: its options, and what its files say of model, machine and command."""
    import yaml

    content = run.comparison or run.experiment or run.profile or {}
    options = yaml.safe_load(run.config) if run.config else {}
    return {**(options or {}), "made": {name: content[name] for name in SETTING if name in content}}


def tables(run: Run) -> dict[str, Table]:
    """Columns and rows by the table's name."""
    found: dict[str, Table] = {}
    if run.comparison:
        found["methods_table"] = _methods(run.comparison)
        found["speedups_table"] = (["method", "over", "speedup"], [list(row) for row in speedups(run.comparison)])
    if run.search:
        found["search_table"] = _rows([dict(flat(candidate)) for candidate in run.search["candidates"]])
    if run.experiment:
        found["rows_table"] = _rows([dict(flat(row)) for row in run.experiment["rows"]])
    if run.traces:
        found["traces_table"] = _traces(run.traces)
    return found


def _methods(results: Mapping[str, Any]) -> Table:
    rows = []
    for method in results["methods"]:
        row = {"method": method["name"], "accuracy": method["accuracy"], "accuracy_drop": method["accuracy_drop"]}
        if "agreement" in method:
            row["agreement"] = method["agreement"]
        if "latency_s" in method:
            row |= {"latency_ms": method["latency_s"]["mean"] * 1000, "speedup": method["speedup"]}
        for name, stage in method["stages"].items():
            row[f"tokens_{name}"] = stage["tokens"]
            if "prefill_s" in stage:
                row[f"ms_{name}"] = (stage["prefill_s"] + stage.get("decode_s", 0.0)) * 1000
        rows.append({**row, **{name: method.get(name, 0) for name in ("parse_failures", "chosen_by_likelihood")}})
    return _rows(rows)


def _rows(rows: Sequence[Mapping[str, Any]]) -> Table:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return columns, [[row.get(name) for name in columns] for row in rows]


def _traces(traces: Sequence[Mapping[str, Any]]) -> Table:
    """One row for every text: question, method, stage and row."""
    columns = ["question", "text", "right", "method", "answer", "correct", "stage", "row", "written", "tokens", "stop"]
    rows = [
        [
            line["id"],
            line["text"],
            line["answer"],
            method,
            trace["answer"],
            trace["correct"],
            stage["name"],
            at,
            *written,
        ]
        for line in traces
        for method, trace in line["traces"].items()
        for stage in trace["stages"]
        for at, written in enumerate(zip(stage["texts"], stage["tokens"], stage["stops"], strict=True))
    ]
    return columns, rows
