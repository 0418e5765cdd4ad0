"""What a search measures on the calibration questions, and the ladders of plans that it makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from litestage.errors import LiteStageError
from litestage.profile import StepCosts
from litestage.profile.fidelity import Ranking
from litestage.profile.forced import Sequenced, pooled, stage_sequences
from litestage.progress import bar
from litestage.ranks import from_rank_zero
from litestage.search import find_strategy
from litestage.search.ladders import Ladder, Ladders, budget_ladder, fidelity_ranking, priced_ladder
from litestage.stages import Pipeline, Question

if TYPE_CHECKING:
    from litestage.config import SearchConfig
    from litestage.session import Session

PRICED_QUESTIONS = 32
"""Over how many questions' token counts a rung's seconds are predicted."""


def most_skipped(search: SearchConfig, layers: int) -> int:
    """The most sub-layers to skip in a stage. Raises LiteStageError where the model has fewer."""
    sublayers, budget = 2 * layers, search.max_budget
    if budget is not None and budget > sublayers:
        raise LiteStageError(f"search.max_budget is {budget}, but the model has {sublayers} sub-layers; give less.")
    return sublayers // 2 if budget is None else budget


@dataclass
class Calibrated:
    """A model's sub-layers ranked on calibration questions, as the options of a search say.

    Every measurement is made when it is first needed; those that took long are kept in the store.
    """

    session: Session
    pipeline: Pipeline
    questions: Sequence[Question]
    search: SearchConfig

    @property
    def ranking(self) -> str:
        """What sub-layers are ranked by: as the search is told, or what goes with its strategy."""
        return self.search.ranking or find_strategy(self.search.strategy).ranking

    @property
    def costs(self) -> StepCosts:
        """Step costs on this machine, those of the forms of compensation among them."""
        return self.session.step_costs(self._forms)

    @property
    def max_budget(self) -> int:
        """The most sub-layers to skip in a stage. Raises LiteStageError where the model has fewer."""
        return most_skipped(self.search, self.session.engine.decoder.layers)

    def ladders(self, ranking: str) -> Mapping[str, Ladder]:
        """By stage, what is skipped at each budget: by ``fidelity``, or by cosine, ``global`` or ``per_stage``."""
        ranked = self._ranked(ranking).items()
        return {stage: budget_ladder(of.order, self.max_budget, self.search.phase) for stage, of in ranked}

    def shared_ladders(self) -> dict[str, Ladder]:
        """The same ladder for every stage. Raises LiteStageError for a ranking that has none."""
        if self.ranking == "per_stage":
            raise LiteStageError("search.strategy one_budget has one order for all stages; rank globally.")
        if self.ranking == "fidelity":
            ladder = budget_ladder(self._by_fidelity(None).order, self.max_budget, self.search.phase)
            return dict.fromkeys(self.pipeline.stage_names, ladder)
        return dict(self.ladders(self.ranking))

    def priced_ladders(self) -> Ladders:
        """Each stage's ladder, made of every budget and form of compensation, with what each rung may do."""
        ranked, costs, budget = self._ranked(self.ranking), self.costs, self.max_budget
        sequences = self._sequences
        _, traces = self.session.full_depth(self.questions, self.pipeline)

        def priced() -> Ladders:
            made = {}
            for index, stage in enumerate(self.pipeline.stage_names):
                of_stage = [trace.stages[index] for trace in traces[:PRICED_QUESTIONS]]
                order, harm = ranked[stage].order, ranked[stage].harm
                with bar(f"{stage}: what skipping harms", budget + 1, guessed=True) as advance:
                    made[stage] = priced_ladder(
                        *(self.session.engine, sequences[stage], of_stage, order, self._forms, costs, budget),
                        phase=self.search.phase,
                        harm=harm,
                        advance=advance,
                    )
            return Ladders(
                {stage: ladder for stage, (ladder, _) in made.items()},
                {stage: estimates for stage, (_, estimates) in made.items()},
            )

        return from_rank_zero(priced)

    @property
    def _forms(self) -> tuple[str, ...]:
        """The forms of compensation to choose from."""
        compensation = self.search.compensation
        return {"none": ("none",), "auto": ("none", "block")}.get(compensation, ("none", compensation))

    @cached_property
    def _sequences(self) -> dict[str, list[Sequenced]]:
        """By stage, the prompts that full depth met on the calibration questions, with what it wrote."""
        full, traces = self.session.full_depth(self.questions, self.pipeline)
        return stage_sequences(full, self.questions, traces)

    def _ranked(self, ranking: str) -> dict[str, Ranking]:
        """By stage, the order in which its sub-layers may be skipped."""
        if ranking != "fidelity":
            importance = self.session.importance(self.questions, self.pipeline)
            own = ranking == "per_stage"
            return {stage: Ranking(importance.ranking(stage if own else None)) for stage in importance.cosine}
        return {stage: self._by_fidelity(stage) for stage in self.pipeline.stage_names}

    def _by_fidelity(self, stage: str | None) -> Ranking:
        """A stage's order, or that of all stages together (None); measured once, then kept."""
        session, costs, budget = self.session, self.costs, self.max_budget
        asked = [asdict(question) for question in self.questions]
        known = asked, self.pipeline.hash, session.chat_template, budget, costs.decode

        def measure() -> dict[str, Any]:
            sequences = self._sequences
            rows = sequences[stage] if stage else pooled(sequences, min(map(len, sequences.values())))

            def ranked() -> dict[str, Any]:
                with bar(f"{stage or 'all stages'}: sub-layers ranked", budget) as advance:
                    ranking = fidelity_ranking(session.engine, rows, costs, budget, advance)
                return {"order": ranking.order, "harm": ranking.harm}

            return from_rank_zero(ranked)

        kept = session.kept.once(session.kept.key("fidelity_ranking", stage, *known), measure)
        return Ranking([(str(kind), int(layer)) for kind, layer in kept["order"]], kept["harm"])
