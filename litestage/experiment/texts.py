"""Texts by stage that sub-layers are ranked on, and orders that follow from them.

No clock has a part in these: where budgets are numbers of sub-layers, each counts alike, however long it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

from litestage.plan import Plan
from litestage.plan.skip import SubLayerName
from litestage.profile.forced import Sequenced, TeacherForced, drawn, stage_sequences
from litestage.profile.greedy import Harm, divergence, greedy_order
from litestage.ranks import from_rank_zero
from litestage.workbench import Workbench

OBJECTIVES: dict[str, Callable[[TeacherForced], Harm]] = {
    "outputs": lambda forced: forced.harm,
    "fidelity": divergence,
    "perplexity": lambda forced: forced.nll,
}
"""What leaving a sub-layer out may harm: whole outputs (:meth:`TeacherForced.harms`, by which litestage ranks), the
next-token distribution against full depth's (Jensen-Shannon divergence), or the likelihood of the text."""


def own_texts(bench: Workbench) -> dict[str, list[Sequenced]]:
    """By stage, the prompts that full depth meets on the calibration questions, with what it writes."""
    plan, questions = Plan.full(bench.pipeline.stage_names), bench.calibration()
    traces = bench.session.run(questions, {"full": plan}, bench.pipeline, progress="calibration: full depth")["full"]
    return stage_sequences(bench.session.contestant(bench.pipeline, plan), questions, traces)


def about(sequences: Sequence[Sequenced], tokens: int) -> list[Sequenced]:
    """As many of them, by lot, as have about so many tokens, and at least eight where there are."""
    mean = fmean(len(prompt) + len(output) for prompt, output in sequences)
    return drawn(sequences, max(8, round(tokens / mean)))


def order_on(bench: Workbench, sequences: Sequence[Sequenced], objective: str, budget: int) -> list[SubLayerName]:
    """The first ``budget`` sub-layers of the greedy order on these sequences; measured once, then kept."""
    engine, kept = bench.session.engine, bench.session.kept

    def measure() -> dict[str, Any]:
        def ranked() -> dict[str, Any]:
            forced = TeacherForced(engine, sequences)
            names = [sublayer.name for sublayer in engine.decoder.sublayers]
            order = greedy_order(forced, [[name] for name in names], budget, OBJECTIVES[objective](forced))
            return {"order": [names[index] for index in order]}

        return from_rank_zero(ranked)

    asked = [[list(prompt), list(output)] for prompt, output in sequences]
    found = kept.once(kept.key("order_on_texts", objective, asked, budget), measure)
    return [(str(kind), int(layer)) for kind, layer in found["order"]]
