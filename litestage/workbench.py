"""A command's model, task, pipeline and search, opened from its configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from litestage.config import RunConfig
from litestage.data import Task, load_task
from litestage.errors import LiteStageError
from litestage.plan import ExitRule, Plan
from litestage.progress import bar
from litestage.ranks import from_rank_zero, launch
from litestage.search import SearchProblem, SearchResult, greedy_search
from litestage.search.ladders import FidelityLadders, cosine_ladders, fidelity_ladders
from litestage.search.pareto import pareto_search
from litestage.search.problem import Ladder
from litestage.session import Session
from litestage.stages import Pipeline, Question
from litestage.store import ResultStore, default_store_path


@dataclass
class Workbench:
    """A command's model, task and pipeline, opened from its configuration."""

    config: RunConfig
    session: Session
    task: Task
    pipeline: Pipeline

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

    def search(self) -> SearchResult:
        """Searches a plan, measuring what the search needs (or taking what was kept from before)."""
        if self.config.search.strategy == "pareto":
            made = self._fidelity_ladders()
            problem = self._problem(
                made.ladders, {"ranking": "fidelity", "compensation": self.config.search.compensation}
            )
            return self._with_bar(None, lambda advance: pareto_search(problem, made.harms, advance))
        ranking = self.config.search.ranking
        importance = self.session.importance(self.calibration(), self.pipeline)
        problem = self._problem(
            cosine_ladders(importance, ranking, self._max_budget()), {"ranking": f"cosine, {ranking}"}
        )
        rungs = sum(map(len, problem.ladders.values()))
        return self._with_bar(rungs, lambda advance: greedy_search(problem, advance))

    def ladders(self, ranking: str) -> Mapping[str, Ladder]:
        """By stage, what is skipped at each budget: by ``fidelity``, or by cosine, ``global`` or ``per_stage``."""
        if ranking == "fidelity":
            return self._fidelity_ladders().ladders
        return cosine_ladders(self.session.importance(self.calibration(), self.pipeline), ranking, self._max_budget())

    def _problem(self, ladders: Mapping[str, Ladder], origin: Mapping[str, str]) -> SearchProblem:
        return SearchProblem(
            session=self.session,
            pipeline=self.pipeline,
            questions=self.calibration(),
            ladders=ladders,
            costs=self.session.step_costs(),
            max_accuracy_drop=self.config.search.max_accuracy_drop,
            origin=origin,
            exit=self.exit_rule if self.config.search.exit else None,
        )

    def _max_budget(self) -> int:
        sublayers, budget = 2 * self.session.engine.decoder.layers, self.config.search.max_budget
        if budget is not None and budget > sublayers:
            raise LiteStageError(f"search.max_budget is {budget}, but the model has {sublayers} sub-layers; give less.")
        return sublayers // 2 if budget is None else budget

    def _fidelity_ladders(self) -> FidelityLadders:
        """Ladders by fidelity ranking on full depth's own outputs for the calibration questions."""
        questions = self.calibration()
        plan = Plan.full(self.pipeline.stage_names)
        traces = self.session.run(questions, {"full": plan}, self.pipeline, progress="calibration: full depth")["full"]
        full = self.session.contestant(self.pipeline, plan)
        costs = self.session.step_costs()
        budget, compensation = self._max_budget(), self.config.search.compensation
        return from_rank_zero(lambda: fidelity_ladders(full, questions, traces, costs, budget, compensation))

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
