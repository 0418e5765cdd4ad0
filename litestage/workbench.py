"""A command's model, task, pipeline and search, opened from its configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace

from litestage.config import RunConfig, SearchConfig
from litestage.data import Task, load_task
from litestage.errors import LiteStageError
from litestage.methods.setting import NotThisBudget
from litestage.plan import ExitRule, Plan, StagePlan
from litestage.profile import StepCosts
from litestage.profile.forced import Sequenced, pooled, stage_sequences
from litestage.progress import bar
from litestage.ranks import from_rank_zero, launch
from litestage.runner import Contestant
from litestage.search import SearchProblem, SearchResult, greedy_search
from litestage.search.ladders import (
    Ladder,
    Order,
    PricedLadders,
    budget_ladder,
    cosine_orders,
    fidelity_orders,
    priced_ladder,
)
from litestage.search.one_budget import one_budget_search
from litestage.search.pareto import pareto_search
from litestage.session import Session
from litestage.stages import Pipeline, Question
from litestage.store import ResultStore, default_store_path
from litestage.trace import Trace

PRICED_QUESTIONS = 32
"""Over how many questions' token counts a rung's seconds are predicted."""


@dataclass
class Workbench:
    """A command's model, task and pipeline, opened from its configuration."""

    config: RunConfig
    session: Session
    task: Task
    pipeline: Pipeline
    _sequences_of: dict[str, list[Sequenced]] | None = field(default=None, init=False, repr=False)

    @classmethod
    def open(cls, config: RunConfig) -> Workbench:
        """Loads what the configuration names, on as many ranks. Raises LiteStageError for whatever it cannot."""
        launch(config.trainer, config.engine.device)
        task = load_task(config.task)
        pipeline = task.through(config.pipeline, config.analyze).with_limits(config.max_new_tokens)
        store = ResultStore(config.store or default_store_path())
        return cls(config, open_session(config, config.model.pretrained, store), task, pipeline)

    @property
    def exit_rule(self) -> ExitRule:
        return ExitRule(self.config.exit.rule, self.config.exit.threshold, self.config.exit.window)

    def calibration(self) -> list[Question]:
        """The first ``search.calibration`` questions of the calibration split; the test split is never looked at."""
        return self.task.questions("calibration")[: self.config.search.calibration]

    def search(self, options: SearchConfig | None = None) -> SearchResult:
        """Searches a plan, measuring what the search needs (or taking what was kept from before).

        Args:
            options: another way of searching than the configuration's.
        """
        if options is not None:
            return replace(self, config=replace(self.config, search=options)).search()
        search = self.config.search
        if search.strategy == "pareto":
            made = self._priced_ladders()
            problem = self._problem(made.ladders)
            return self._with_bar(None, lambda advance: pareto_search(problem, made.estimates, advance))
        if search.strategy == "one_budget":
            problem = self._problem(self._shared_ladders())
            rungs = min(map(len, problem.ladders.values())) - 1
            return self._with_bar(rungs, lambda advance: one_budget_search(problem, advance))
        problem = self._problem(self.ladders(self.ranking))
        rungs = sum(map(len, problem.ladders.values()))
        return self._with_bar(rungs, lambda advance: greedy_search(problem, advance))

    def best_budget(self, method: str) -> SearchResult:
        """A method's fastest plan within the bound, over all budgets that it knows: the same in every stage."""
        ladders: dict[str, list[StagePlan]] = {stage: [StagePlan()] for stage in self.pipeline.stage_names}
        known: dict[str, None] = {}
        for budget in range(self._max_budget(), 0, -1):  # a greedy order for the largest holds all the others
            try:
                plan = self.session.plan(f"{method}:{budget}", self.task, self.pipeline)
            except NotThisBudget:
                continue
            if plan.hash not in known:
                known[plan.hash] = None
                for stage, ladder in ladders.items():
                    ladder.insert(1, plan[stage])
        problem = self._problem(ladders, {"baseline": method})
        return self._with_bar(len(known), lambda advance: one_budget_search(problem, advance))

    @property
    def ranking(self) -> str:
        """What the search ranks sub-layers by: as it is told, or what goes with the strategy."""
        return self.config.search.ranking or ("global" if self.config.search.strategy == "greedy" else "fidelity")

    def ladders(self, ranking: str) -> Mapping[str, Ladder]:
        """By stage, what is skipped at each budget: by ``fidelity``, or by cosine, ``global`` or ``per_stage``."""
        return {stage: budget_ladder(orders[0], self._max_budget()) for stage, orders in self._orders(ranking).items()}

    def _problem(self, ladders: Mapping[str, Ladder], origin: Mapping[str, str] | None = None) -> SearchProblem:
        search, store = self.config.search, self.session.reusing.store
        return SearchProblem(
            session=self.session if search.reuse else self.session.without_reuse(),
            pipeline=self.pipeline,
            questions=self.calibration(),
            ladders=ladders,
            costs=self._costs(),
            max_accuracy_drop=search.max_accuracy_drop,
            exit=self.exit_rule if search.exit else None,
            try_exits=search.try_exits and not search.exit,
            finalists=search.finalists,
            timed_questions=search.timed_questions,
            journal=store.path.parent / "journals" if store.path else None,
            origin=origin or {"ranking": self.ranking, "compensation": search.compensation},
        )

    def _forms(self) -> tuple[str, ...]:
        """The forms of compensation to choose from."""
        compensation = self.config.search.compensation
        return {"none": ("none",), "auto": ("none", "block")}.get(compensation, ("none", compensation))

    def _costs(self) -> StepCosts:
        return self.session.step_costs(form for form in self._forms() if form != "none")

    def _max_budget(self) -> int:
        sublayers, budget = 2 * self.session.engine.decoder.layers, self.config.search.max_budget
        if budget is not None and budget > sublayers:
            raise LiteStageError(f"search.max_budget is {budget}, but the model has {sublayers} sub-layers; give less.")
        return sublayers // 2 if budget is None else budget

    def _full_depth(self, progress: str | None = None) -> tuple[Contestant, list[Trace]]:
        """Full depth, and its answers to the calibration questions."""
        plan = Plan.full(self.pipeline.stage_names)
        traces = self.session.run(self.calibration(), {"full": plan}, self.pipeline, progress=progress)["full"]
        return self.session.contestant(self.pipeline, plan), traces

    def _sequences(self) -> dict[str, list[Sequenced]]:
        """By stage, the prompts that full depth met on the calibration questions, with what it wrote."""
        if self._sequences_of is None:
            full, traces = self._full_depth("calibration: full depth")
            self._sequences_of = stage_sequences(full, self.calibration(), traces)
        return self._sequences_of

    def _orders(self, ranking: str) -> dict[str, list[Order]]:
        """By stage, the orders in which its sub-layers may be skipped."""
        if ranking != "fidelity":
            importance = self.session.importance(self.calibration(), self.pipeline)
            return {stage: [order] for stage, order in cosine_orders(importance, ranking).items()}
        return {stage: self._fidelity_orders(stage) for stage in self.pipeline.stage_names}

    def _shared_ladders(self) -> dict[str, Ladder]:
        """The same ladder for every stage."""
        if self.ranking == "per_stage":
            raise LiteStageError("search.strategy one_budget has one order for all stages; rank globally.")
        if self.ranking == "fidelity":
            ladder = budget_ladder(self._fidelity_orders(None)[0], self._max_budget())
            return dict.fromkeys(self.pipeline.stage_names, ladder)
        return dict(self.ladders(self.ranking))

    def _fidelity_orders(self, stage: str | None) -> list[Order]:
        """A stage's orders, or those of all stages together (None); measured once, then kept."""
        costs, budget, store = self._costs(), self._max_budget(), self.session.reusing.store
        asked = [asdict(question) for question in self.calibration()]
        known = asked, self.pipeline.hash, self.session.chat_template, budget, costs.decode
        key = self.session.key("fidelity", stage, *known)
        kept = from_rank_zero(lambda: store.get([key]).get(key))
        if kept is None:
            sequences = self._sequences()
            rows = sequences[stage] if stage else pooled(sequences, min(map(len, sequences.values())))
            kept = from_rank_zero(lambda: {"orders": fidelity_orders(self.session.engine, rows, costs, budget)})
            store.put({key: kept}, model=self.session.loaded.fingerprint, engine=self.session.engine.name)
        return [[(str(kind), int(layer)) for kind, layer in order] for order in kept["orders"]]

    def _priced_ladders(self) -> PricedLadders:
        """Each stage's ladder, made of every order, budget and form of compensation, with what each rung may do."""
        orders, costs, budget = self._orders(self.ranking), self._costs(), self._max_budget()
        sequences = self._sequences()
        _, traces = self._full_depth()

        def priced() -> PricedLadders:
            made = {}
            for index, stage in enumerate(self.pipeline.stage_names):
                of_stage = [trace.stages[index] for trace in traces[:PRICED_QUESTIONS]]
                made[stage] = priced_ladder(
                    self.session.engine, sequences[stage], of_stage, orders[stage], self._forms(), costs, budget
                )
            return PricedLadders(
                {stage: ladder for stage, (ladder, _) in made.items()},
                {stage: estimates for stage, (_, estimates) in made.items()},
            )

        return from_rank_zero(priced)

    def _with_bar(self, total: int | None, search: Callable[[Callable[[str], None]], SearchResult]) -> SearchResult:
        with bar("search", total) as advance:
            return search(lambda message: advance(1))


def open_session(config: RunConfig, pretrained: str, store: ResultStore) -> Session:
    return Session.open(
        pretrained,
        revision=config.model.revision,
        dtype=config.engine.dtype,
        device=config.engine.device,
        store=store,
        chat_template=config.model.chat_template,
        calibration_questions=config.search.calibration,
        batch_size=config.engine.batch_size,
        path=config.engine.path,
    )
