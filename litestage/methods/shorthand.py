"""Plans by shorthand: ``full``, ``uniform:8``, ``random:8:1``; any of them with suffixes: ``full+prefix+lookup``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from litestage.errors import LiteStageError, did_you_mean
from litestage.methods import METHODS, Measurements, Setting
from litestage.methods.own import is_file, own_method
from litestage.plan import Plan, load_plan

SUFFIXES = ("exit", "prefix", "lookup", "self")
"""What may be added to any method, in the order in which it is: the exit rule; the prefix cache between stages; drafts
looked up, or written by the model with more skipped."""
_FILE = re.compile(r".+\.(?:yaml|yml|py)(?=[+:]|$)", re.DOTALL)
"""The file that a method begins with, whose folder may have a plus in its name, as an adapter's results do."""


def cut(spec: str) -> tuple[str, str]:
    """A method as it is given, and the suffixes behind it: ``cosine:8+exit`` is ``cosine:8`` and ``+exit``."""
    file = _FILE.match(spec)
    body, plus, suffixes = spec[file.end() if file else 0 :].partition("+")
    return (file[0] if file else "") + body, plus + suffixes


def parted(spec: str) -> tuple[str, tuple[str, ...]]:
    """The same with its suffixes one by one: ``cosine:8`` and ``exit``.

    Raises:
        LiteStageError: an unknown suffix, one given twice, or two ways of drafting.
    """
    body, added = cut(spec)
    suffixes = added.split("+")[1:]
    for suffix in suffixes:
        if suffix not in SUFFIXES:
            raise LiteStageError(
                f"The plan {spec!r} ends in '+{suffix}'; only '+exit', '+prefix', '+lookup' and '+self' can follow "
                "a method."
            )
    if len({*suffixes}) < len(suffixes) or {"lookup", "self"} <= {*suffixes}:
        raise LiteStageError(f"The plan {spec!r} has a suffix too many; give each once, and one of +lookup and +self.")
    return body, tuple(sorted(suffixes, key=SUFFIXES.index))


def distinct(specs: Iterable[str]) -> list[str]:
    """Each plan once, as it is first written: ``full+exit+lookup`` is ``full+lookup+exit``."""
    first: dict[tuple[str, tuple[str, ...]], str] = {}
    for spec in specs:
        first.setdefault(parted(spec), spec)
    return list(first.values())


def wants_drafts(spec: str) -> bool:
    """Whether a suffix asks for drafts."""
    return not {"lookup", "self"}.isdisjoint(parted(spec)[1])


@dataclass(frozen=True)
class Shorthand:
    """A method, its budget in sub-layers per stage, and its seed."""

    method: str
    budget: int = 0
    seed: int = 0


def parse_shorthand(spec: str) -> Shorthand:
    """Reads a shorthand, but for its suffixes (:func:`parted`).

    Raises:
        LiteStageError: unknown method or suffix, or a budget or seed that is not a number, missing, or negative.
    """
    body, _ = parted(spec)
    method, *numbers = body.split(":")
    if is_file(method):
        own_method(method)  # a mistake in the file is told before a model is loaded
    elif method not in METHODS:
        raise LiteStageError(f"There is no method {method!r} (in plan {spec!r}); {did_you_mean(method, METHODS)}")
    allowed = {"full": (0, 0), "random": (1, 2)}.get(method, (1, 1))
    if not allowed[0] <= len(numbers) <= allowed[1]:
        form = {"full": "full", "random": "random:BUDGET:SEED"}.get(method, f"{method}:BUDGET")
        raise LiteStageError(
            f"The plan {spec!r} is not complete; write {form}, "
            f"for example {form.replace('BUDGET', '8').replace('SEED', '1')}."
        )
    try:
        values = [int(number) for number in numbers]
    except ValueError:
        raise LiteStageError(
            f"The plan {spec!r} needs whole numbers after {method!r}; for example {method}:8."
        ) from None
    if values and values[0] < 0:
        raise LiteStageError(
            f"The plan {spec!r} has the negative budget {values[0]}; give the number of sub-layers to skip."
        )
    budget, seed = (*values, 0, 0)[:2]
    return Shorthand(method, budget, seed)


def check_spec(spec: str) -> None:
    """Reads a shorthand or a plan file once before a model is loaded for it, which can take minutes.

    Raises:
        LiteStageError: what does not read.
    """
    body, _ = parted(spec)
    if body.endswith((".yaml", ".yml")):
        load_plan(body)
    else:
        parse_shorthand(spec)


def seeded(spec: str, seed: int) -> str:
    """The shorthand with this seed where it draws and names none: ``random:8`` becomes ``random:8:3``."""
    body, suffixes = cut(spec)
    return f"{body}:{seed}{suffixes}" if body.startswith("random:") and body.count(":") == 1 else spec


def plan_from_shorthand(
    shorthand: Shorthand,
    *,
    stages: tuple[str, ...],
    layers: int,
    measurements: Measurements,
    limits: Mapping[str, int] | None = None,
) -> Plan:
    """The plan a shorthand stands for on a model of ``layers`` layers; nothing is measured unless it is needed.

    Suffixes are the session's to add: drafts, for one, are made of what the plan writes.

    Args:
        limits: by stage, the most tokens one continuation may have.
    """
    setting = Setting(stages, layers, shorthand.budget, measurements, shorthand.seed, limits or {})
    method = shorthand.method
    make = own_method(method) if is_file(method) else METHODS[method if shorthand.budget else "full"]
    return Plan(
        make(setting),
        provenance={"method": method, "budget": shorthand.budget, "seed": shorthand.seed},
    )
