"""A command's model, task, pipeline and search, opened from its configuration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from logging import getLogger

from litestage.config import RunConfig, SearchConfig
from litestage.data import Task, load_task
from litestage.errors import LiteStageError
from litestage.methods.setting import NotThisBudget
from litestage.methods.shorthand import seeded
from litestage.plan import ExitRule, Plan, StagePlan
from litestage.ranks import launch
from litestage.search import find_strategy
from litestage.search.calibrated import Calibrated
from litestage.search.candidate import SearchResult
from litestage.search.enough import confirming
from litestage.search.ladders import Ladders
from litestage.search.problem import SearchProblem
from litestage.session import Session
from litestage.stages import Pipeline, Question
from litestage.stats import Bound
from litestage.store import ResultStore, default_store_path


@dataclass
class Workbench:
    """A command's model, task and pipeline, opened from its configuration."""

    config: RunConfig
    session: Session
    task: Task
    pipeline: Pipeline

    @classmethod
    def open(cls, config: RunConfig, session: Session | None = None) -> Workbench:
        """Loads what the configuration names, on as many ranks. Raises LiteStageError for whatever it cannot.

        Args:
            session: the configuration's model where it is loaded already.
        """
        if config.grid.given:
            raise LiteStageError("grid is an option of litestage compare; give this command one model, task and seed.")
        launch(config.trainer, config.engine.device)
        task = replace(load_task(config.task), seed=config.seed)
        chosen = config.pipeline or config.model.pipeline
        pipeline = task.through(chosen, config.analyze, config.model.chat_template).with_limits(config.max_new_tokens)
        Plan({}).with_exit(ExitRule(**config.exit), pipeline.stage_names)  # a stage it does not have is told here
        if session is None:
            store = ResultStore(config.store or default_store_path())
            session = open_session(config, config.model.pretrained, store)
        return cls(config, session, task, pipeline)

    @property
    def exit_rule(self) -> ExitRule:
        return ExitRule(**self.config.exit)

    def calibration(self) -> list[Question]:
        """The calibration questions that a search and all it measures may see, as the seed draws them."""
        return self._calibration[0]

    def confirmation(self) -> list[Question]:
        """The calibration questions that certify what a search found, and that nothing else may see."""
        return self._calibration[1]

    @property
    def _bound(self) -> Bound:
        search = self.config.search
        return Bound(search.max_accuracy_drop, search.confidence, search.bound)

    @property
    def _calibration(self) -> tuple[list[Question], list[Question]]:
        search = self.config.search
        asked = self.task.questions("calibration")[: search.calibration]
        confirm = confirming(len(asked), self._bound) if search.confirm is None else search.confirm
        if confirm >= len(asked):
            raise LiteStageError(
                f"search.confirm is {confirm}, but the calibration split has {len(asked)} questions, which leaves none "
                "to search with; give fewer."
            )
        return asked[: len(asked) - confirm], asked[len(asked) - confirm :]

    def plan(self, spec: str) -> Plan:
        """The plan that a shorthand or a file stands for, on this task; ``random`` draws with the command's seed."""
        seen = SearchQuestions(self)
        return self.session.plan(seeded(spec, self.config.seed), seen, self.pipeline, self.exit_rule)

    def with_suffixes(self, plan: Plan, suffixes: Iterable[str]) -> Plan:
        """The plan with what a spec's suffixes add: the exit rule, calibrated where it takes that, or drafts."""
        return self.session.with_suffixes(plan, suffixes, SearchQuestions(self), self.pipeline, self.exit_rule)

    def search(self, options: SearchConfig | None = None) -> SearchResult:
        """Searches a plan, measuring what the search needs (or taking what was kept from before).

        Args:
            options: another way of searching than the configuration's.
        """
        if options is not None:
            return replace(self, config=replace(self.config, search=options)).search()
        found, draft = self._searched(), self.config.search.draft
        return found if draft == "none" else replace(found, plan=self.with_suffixes(found.plan, [draft]))

    def _searched(self) -> SearchResult:
        search, calibrated = self.config.search, self.calibrated()
        by = find_strategy(search.strategy)
        ladders = by.ladders(calibrated)
        if not ladders.estimates:  # what only a strategy with estimates looks at
            for name, value in (("compensation", search.compensation), ("exit_rules", search.exit_rules)):
                if value != getattr(SearchConfig(), name):
                    getLogger(__name__).warning(
                        "search.strategy=%s makes no use of search.%s=%s.", search.strategy, name, value
                    )
        return by.run(self._problem(calibrated, ladders))

    def best_budget(self, method: str) -> SearchResult:
        """A method's fastest plan within the bound, over all budgets that it knows: the same in every stage."""
        calibrated = self.calibrated()
        ladders: dict[str, list[StagePlan]] = {stage: [StagePlan()] for stage in self.pipeline.stage_names}
        known: dict[str, None] = {}
        for budget in range(calibrated.max_budget, 0, -1):  # a greedy order for the largest holds all the others
            try:
                plan = self.plan(f"{method}:{budget}")
            except NotThisBudget:
                continue
            if plan.hash not in known:
                known[plan.hash] = None
                for stage, ladder in ladders.items():
                    ladder.insert(1, plan[stage])
        return find_strategy("one_budget").run(self._problem(calibrated, Ladders(ladders), {"baseline": method}))

    def calibrated(self) -> Calibrated:
        """What a search measures on the calibration questions."""
        return Calibrated(self.session, self.pipeline, self.calibration(), self.config.search)

    def exit_problem(self, plan: Plan) -> SearchProblem:
        """What exit rules lose and save on one plan: rung 0, which they are held against uncut."""
        ladders = {stage: [replace(plan[stage], exit=None)] for stage in self.pipeline.stage_names}
        return self._problem(self.calibrated(), Ladders(ladders), {"exits_of": plan.hash})

    def _problem(
        self, calibrated: Calibrated, ladders: Ladders, origin: Mapping[str, str] | None = None
    ) -> SearchProblem:
        search = self.config.search
        if search.exit and self.exit_rule.lacks:
            raise LiteStageError(
                f"search.exit has the rule {self.exit_rule.rule!r} on throughout, which has no {self.exit_rule.lacks} "
                f"yet; give exit.{self.exit_rule.lacks}."
            )
        return SearchProblem(
            session=self.session if search.reuse else self.session.without_reuse(),
            pipeline=self.pipeline,
            questions=calibrated.questions,
            ladders=ladders.plans,
            costs=self.session.step_costs(stage.compensation for ladder in ladders.plans.values() for stage in ladder),
            bound=self._bound,
            exit=self.exit_rule if search.exit else None,
            reference_exit=self.exit_rule if search.against == "full+exit" else None,
            try_exits=search.try_exits and not search.exit,
            exit_rules=search.exit_rules,
            finalists=search.finalists,
            timed_questions=search.timed_questions,
            journal=self.session.reusing.store,
            confirm=self.confirmation(),
            prefix_cache=search.phase == "decode",  # all prompts are run at full depth, so stages can share them
            task=self.task.name,
            estimates=ladders.estimates,
            origin=origin
            or {"ranking": calibrated.ranking, "compensation": search.compensation if ladders.estimates else "none"},
        )


@dataclass(frozen=True)
class SearchQuestions:
    """The calibration split as methods may see it: without the questions that certify."""

    bench: Workbench

    @property
    def name(self) -> str:
        return self.bench.task.name

    def questions(self, split: str) -> list[Question]:
        return self.bench.calibration() if split == "calibration" else self.bench.task.questions(split)


def open_session(config: RunConfig, pretrained: str, store: ResultStore) -> Session:
    return Session.open(
        pretrained,
        revision=config.model.revision,
        adapter=config.model.adapter,
        generation_config=config.model.generation_config,
        dtype=config.engine.dtype,
        weights=config.engine.weights,
        device=config.engine.device,
        store=store,
        chat_template=config.model.chat_template,
        calibration_questions=config.search.calibration,
        batch_size=config.engine.batch_size,
        path=config.engine.path,
        compiling=config.engine.compile,
    )
