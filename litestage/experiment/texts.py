"""Texts by stage that sub-layers are ranked on, and orders that follow from them.

No clock has a part in these: where budgets are numbers of sub-layers, each counts alike, however long it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from litestage import menagerie
from litestage.errors import LiteStageError
from litestage.plan import Plan, SkipSet, StagePlan
from litestage.plan.skip import SubLayerName
from litestage.profile.forced import Sequenced, TeacherForced, about, stage_sequences
from litestage.profile.greedy import Harm, divergence, greedy_order
from litestage.ranks import from_rank_zero
from litestage.reading import read_text
from litestage.session.workbench import Workbench
from litestage.stages.gold import StagedRow, read_staged
from litestage.training.examples import stage_examples

Orders = Mapping[str, Sequence[SubLayerName]]
"""By stage, the sub-layers to skip, the first of them first."""
CHUNK = 64
"""Tokens of a piece of plain text."""
OBJECTIVES: dict[str, Callable[[TeacherForced], Harm]] = {
    "outputs": lambda forced: forced.harm,
    "fidelity": divergence,
    "perplexity": lambda forced: forced.nll,
}
"""What leaving a sub-layer out may harm: whole outputs (:meth:`TeacherForced.harms`, by which litestage ranks), the
next-token distribution against full depth's (Jensen-Shannon divergence), or the likelihood of the text."""


def own_texts(bench: Workbench) -> dict[str, list[Sequenced]]:
    """By stage, the prompts that full depth meets on the calibration questions, with what it writes."""
    questions = bench.calibration()
    full, traces = bench.session.full_depth(questions, bench.pipeline)
    return stage_sequences(full, questions, traces)


def order_on(bench: Workbench, sequences: Sequence[Sequenced], objective: str, budget: int) -> list[SubLayerName]:
    """The first ``budget`` sub-layers of the greedy order on these sequences; measured once, then kept."""
    engine, kept = bench.session.engine, bench.session.kept

    def ranked() -> dict[str, Any]:
        forced = TeacherForced(engine, sequences)
        names = engine.decoder.sublayers
        order = greedy_order(forced, [[name] for name in names], budget, OBJECTIVES[objective](forced))
        return {"order": [names[index] for index in order]}

    asked = [[list(prompt), list(output)] for prompt, output in sequences]
    key = kept.key("order_on_texts", objective, asked, budget)
    found = kept.once(key, lambda: from_rank_zero(ranked))
    return [(str(kind), int(layer)) for kind, layer in found["order"]]


def orders_on(
    bench: Workbench, texts: Mapping[str, Sequence[Sequenced]], tokens: int, budget: int, objective: str = "outputs"
) -> Orders:
    """Each stage's order, as :func:`order_on`, on about so many tokens of its texts."""
    return {stage: order_on(bench, about(of_stage, tokens), objective, budget) for stage, of_stage in texts.items()}


def skipping(orders: Orders, budgets: Mapping[str, int]) -> Plan:
    """The plan that skips the first of each stage's order, as many as the stage's budget."""
    return Plan({stage: StagePlan(skip=SkipSet.of(order[: budgets[stage]])) for stage, order in orders.items()})


def gold_rows(bench: Workbench, file: str | None) -> list[StagedRow]:
    """The calibration questions' rows with gold texts."""
    variant = bench.task.source.origin.get("menagerie")
    if file is not None:
        rows = read_staged(file)
    elif variant:
        rows = menagerie.load_split(variant, "calibration")
    else:
        raise LiteStageError(
            f"The task {bench.task.name!r} has no gold texts of its stages; give gold=<staged JSONL>, or leave the "
            "rankings on gold texts out."
        )
    by_id = {row.question.id: row for row in rows}
    found = [by_id[question.id] for question in bench.calibration() if question.id in by_id]
    if not found:
        raise LiteStageError(f"gold={file} has none of the calibration questions; their ids must be the same.")
    return found


def gold_texts(bench: Workbench, rows: Sequence[StagedRow]) -> dict[str, list[Sequenced]]:
    """By stage, the prompts with the gold texts of earlier stages in them, and the stage's own gold text, ended."""
    tokenizer, end, encode = bench.session.loaded.tokenizer, bench.session.engine.eos[0], bench.session.encode
    return {
        stage: [
            (encode(one.prompt), [*tokenizer(one.completion, add_special_tokens=False)["input_ids"], end])
            for one in examples
        ]
        for stage, examples in stage_examples(rows, bench.pipeline).items()
    }


def plain_text(bench: Workbench, file: str | None) -> list[Sequenced]:
    """A file's text in pieces of ``CHUNK`` tokens; without one, the calibration questions one after the other."""
    asked = (" ".join([question.text, *question.options]) for question in bench.calibration())
    ids = bench.session.loaded.tokenizer("\n".join(asked) if file is None else read_text(file))["input_ids"]
    pieces = [ids[at : at + CHUNK] for at in range(0, len(ids), CHUNK)]
    sequences: list[Sequenced] = [(piece[:1], piece[1:]) for piece in pieces if len(piece) > 1]
    if not sequences:
        raise LiteStageError(f"The plain text {file!r} is no longer than a token; give more.")
    return sequences
