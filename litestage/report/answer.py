"""What was found, in two sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from litestage.plan import Certificate
from litestage.plan.words import certified, what_it_does
from litestage.report.runs import Run


def in_two_sentences(results: Mapping[str, Any]) -> str:
    """What a comparison found: full depth, then the method that it was for."""
    full = results["methods"][0]
    first = f"Full depth answers {full['accuracy']:.1%} of {results['n']} questions right"
    first += f", in {full['latency_s']['mean'] * 1000:.0f} ms each." if "latency_s" in full else "."
    best = chosen(results)
    if best is None:
        return first
    return (
        f"{first} {best['name']} {speed_and_loss(best)}"
        + (f"; it answers {best['agreement']:.1%} of them as full depth does." if "agreement" in best else ".")
        + _promised(best, full)
    )


def speed_and_loss(entry: Mapping[str, Any], than: str = "") -> str:
    """``is 1.50 times as fast (95 % interval 1.40 to 1.60) and loses 0.5 points of accuracy (...)``."""
    (slow, fast), (low, high) = entry["speedup_ci95"], entry["accuracy_drop_ci95"]
    return (
        f"is {entry['speedup']:.2f} times as fast{than} (95 % interval {slow:.2f} to {fast:.2f}) and loses "
        f"{entry['accuracy_drop'] * 100:.1f} points of accuracy (95 % interval {low * 100:.1f} to {high * 100:.1f})"
    )


def chosen(results: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The method that an answer names: ``litestage``, another searched plan, or what does not surely lose.

    Where there are several, the fastest; but the plan that was searched is not passed over for a faster variant of it,
    which would be a choice on the test questions.
    """
    timed = [method for method in results["methods"][1:] if "latency_s" in method]
    plan = [method for method in timed if method["name"] == "litestage"]
    return fastest(plan or timed, "name")


def fastest(entries: Sequence[Mapping[str, Any]], name: str) -> Mapping[str, Any] | None:
    """The fastest searched plan of these timed ones; where there is none, of what does not surely lose accuracy.

    Args:
        name: under which an entry has its method's name.
    """
    searched = [entry for entry in entries if entry[name].startswith("litestage")]
    harmless = [entry for entry in entries if entry["accuracy_drop_ci95"][0] <= 0]
    return max(searched or harmless, key=lambda entry: entry["speedup"], default=None)


def answer(run: Run) -> str:
    """The same for any run."""
    if run.comparison:
        return in_two_sentences(run.comparison)
    if run.experiment:
        return " ".join(run.experiment["shows"])
    if run.search:
        return _search(run.search)
    return _profile(run.profile or {})


def _promised(entry: Mapping[str, Any], full: Mapping[str, Any] | None = None) -> str:
    """The certificate's sentence, or that there is none or none is needed; nothing where nobody looked."""
    if "certified" not in entry:
        return ""
    if certificate := entry.get("certificate"):
        return f" {Certificate(**certificate)}"
    if "same_text" in entry:
        return f" It is full depth computed another way: the same text in {entry['same_text']:.1%} of the questions."
    if full is not None and certified(entry, full) == "full depth":
        return " It is full depth itself."
    return " It is not certified to keep a bound."


def _search(search: Mapping[str, Any]) -> str:
    full, chosen = search["full"], search["chosen"]
    tried = f"Of {len(search['candidates'])} plans tried on {full['questions']} calibration questions"
    if not search["met"]:
        found = "could be certified to stay" if search.get("walk") else "was faster"
        return f"{tried}, none {found} within the bound. The plan is full depth."
    does = what_it_does(chosen["budgets"], chosen.get("exit"))
    return (
        f"{tried}, the chosen one {does}. It is predicted to take {chosen['latency_s'] * 1000:.0f} ms a question "
        f"instead of {full['latency_s'] * 1000:.0f}, and answers {chosen['accuracy']:.1%} of them right "
        f"instead of {full['accuracy']:.1%}." + _promised(search)
    )


def _profile(profile: Mapping[str, Any]) -> str:
    importance = profile["importance"]
    found = [(value, stage, name) for stage, row in importance["cosine"].items() for name, value in row.items()]
    (_, stage, name), (_, last_stage, last) = max(found), min(found)
    return (
        f"Over {importance['questions']} calibration questions, {name} in {stage} changes the residual stream's "
        f"direction least, {last} in {last_stage} most. What changes it least is skipped first by the paper's ranking."
    )
