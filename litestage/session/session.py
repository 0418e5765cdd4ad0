"""A session: one loaded model with its engine, store and measurements, from which contestants are made and run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from litestage.decoder import LoadedModel, load_model
from litestage.decoder.chat import chat_text
from litestage.engine import Decoding, Engine
from litestage.environment import environment
from litestage.errors import LiteStageError
from litestage.methods.shorthand import parse_shorthand, parted, plan_from_shorthand
from litestage.plan import ExitRule, Plan, load_plan
from litestage.plan.draft import Draft
from litestage.plan.stage import CHANGED
from litestage.profile import (
    Importance,
    StandInCosts,
    StepCosts,
    measure_importance,
    measure_stand_in,
    measure_step_costs,
    measure_token_share,
)
from litestage.profile.exits import calibrated_exits
from litestage.progress import bar
from litestage.ranks import from_rank_zero, own_device
from litestage.runner import Contestant, run
from litestage.session.drafts import TIMED, lookup_drafts, self_drafts, that_pay
from litestage.session.measuring import Calibration, TaskMeasurements
from litestage.stages import Pipeline, Prompt, Question
from litestage.store import KeptMeasurements, ResultStore, ReusingEngine
from litestage.trace import Trace

COSTS_VERSION = 3
"""Of what step costs are fitted to; part of the key under which they are kept."""
PLAIN_STAGE = ("default",)
"""The one stage of a task without stages."""


@dataclass
class Session:
    """A loaded model, ready to answer.

    Attributes:
        loaded: the model, its tokenizer and fingerprint.
        engine: runs it.
        reusing: the engine with the result store behind it.
        chat_template: put each stage's prompt through the tokenizer's chat template: as one user's turn, or as the
            turns that the pipeline gives it.
        calibration_questions: how many of a task's calibration questions are used for importance.
        held: measurements too large for the store, by their keys, as long as the session is open.
    """

    loaded: LoadedModel
    engine: Engine
    reusing: ReusingEngine
    chat_template: bool = False
    calibration_questions: int = 128
    batch_size: int = 64
    held: dict[str, Sequence[Any]] = field(default_factory=dict)

    @classmethod
    def open(
        cls,
        pretrained: str = "reference",
        *,
        revision: str | None = None,
        adapter: str | None = None,
        generation_config: str = "ignore",
        dtype: str = "auto",
        weights: str = "auto",
        device: str = "auto",
        store: str | Path | ResultStore | None = None,
        chat_template: bool = False,
        calibration_questions: int = 128,
        batch_size: int = 64,
        path: str = "fast",
        compiling: str = "auto",
    ) -> Session:
        """Loads a model.

        Args:
            store: file of the result store, a store already open, or None to keep results in memory only.
            path, compiling: see :class:`litestage.engine.Engine`.

        Raises:
            LiteStageError: see :func:`litestage.decoder.load_model`; or a chat template is wanted and there is none.
        """
        loaded = load_model(
            pretrained,
            revision=revision,
            adapter=adapter,
            dtype=dtype,
            weights=weights,
            device=own_device(device),
            generation_config=generation_config,
        )
        if chat_template and not getattr(loaded.tokenizer, "chat_template", None):
            raise LiteStageError(f"The tokenizer of {pretrained!r} has no chat template; leave chat_template off.")
        engine = Engine(loaded.model, loaded.tokenizer, path, compiling)
        results = store if isinstance(store, ResultStore) else ResultStore(store)
        reusing = ReusingEngine(engine, loaded.fingerprint, results)
        return cls(loaded, engine, reusing, chat_template, calibration_questions, batch_size)

    def encode(self, text: str) -> list[int]:
        """A prompt's token ids: special tokens as the tokenizer adds them, or its turns through the chat template.

        Raises:
            LiteStageError: a chat template that does not take them.
        """
        tokenizer = self.loaded.tokenizer
        if self.chat_template:
            prompt = text if isinstance(text, Prompt) else Prompt(text)
            turns = [turn._asdict() for turn in prompt.turns]
            chat = chat_text(tokenizer, turns, add_generation_prompt=True, enable_thinking=False)
            return list(tokenizer(chat + prompt.reply, add_special_tokens=False)["input_ids"])
        return list(tokenizer(text)["input_ids"])

    def without_reuse(self) -> Session:
        """The same session, but every generation is run anew."""
        reusing = ReusingEngine(self.engine, self.loaded.fingerprint, ResultStore(), reuse=False)
        return replace(self, reusing=reusing)

    def with_store(self, store: ResultStore, keep: bool = True) -> Session:
        """The same session over another store, which it keeps what is run in, or only looks up."""
        return replace(self, reusing=ReusingEngine(self.engine, self.loaded.fingerprint, store, keep=keep))

    def contestant(
        self, pipeline: Pipeline, plan: Plan, decoding: Decoding | None = None, neighbours: Sequence[Plan] = ()
    ) -> Contestant:
        """This model answering through ``pipeline`` under ``plan``; full depth is always a neighbour."""
        close = (*neighbours, Plan.full(pipeline.stage_names))
        return Contestant(self.reusing, self.encode, pipeline, plan, decoding or Decoding(), close)

    def run(
        self,
        questions: Sequence[Question],
        plans: Mapping[str, Plan],
        pipeline: Pipeline,
        *,
        timed: bool = False,
        batch_size: int | None = None,
        decoding: Decoding | None = None,
        journal: ResultStore | None = None,
        progress: str | None = None,
    ) -> dict[str, list[Trace]]:
        """Answers questions under each plan; see :func:`litestage.runner.run`."""
        contestants = {name: self.contestant(pipeline, plan, decoding) for name, plan in plans.items()}
        return run(
            questions,
            contestants,
            timed=timed,
            batch_size=batch_size or self.batch_size,
            journal=journal,
            progress=progress,
        )

    def full_depth(self, questions: Sequence[Question], pipeline: Pipeline) -> tuple[Contestant, list[Trace]]:
        """Full depth, and its answers to calibration questions: what all that is measured there starts from."""
        plan = Plan.full(pipeline.stage_names)
        traces = self.run(questions, {"full": plan}, pipeline, progress="calibration: full depth")["full"]
        return self.contestant(pipeline, plan), traces

    def plan(
        self, spec: str, task: Calibration | None, pipeline: Pipeline | None, exit_rule: ExitRule | None = None
    ) -> Plan:
        """The plan ``spec`` stands for, validated: a YAML file or a shorthand such as ``cosine:8+exit``.

        A shorthand that needs measurements makes them on the task's calibration split; the store keeps the small ones.
        Without a pipeline the plan is for a task without stages.

        Raises:
            LiteStageError: no such file or method, a plan that does not fit, or a calibration that is not possible.
        """
        stages = pipeline.stage_names if pipeline else PLAIN_STAGE
        body, suffixes = parted(spec)
        if body.endswith((".yaml", ".yml")):
            plan = load_plan(body)
            plan = plan.certified_under(self.signed(plan, pipeline))
        else:
            plan = plan_from_shorthand(
                parse_shorthand(body),
                stages=stages,
                layers=self.engine.decoder.layers,
                measurements=TaskMeasurements(self, spec, task, pipeline),
                limits={stage.name: stage.max_new_tokens for stage in pipeline.stages} if pipeline else {},
            )
            plan = self.signed(plan, pipeline)
        plan = self.with_suffixes(plan, suffixes, task, pipeline, exit_rule)
        try:
            self.check(plan, pipeline)
        except LiteStageError as error:
            raise LiteStageError(f"{body}: {error}") from None
        return plan

    def check(self, plan: Plan, pipeline: Pipeline | None) -> None:
        """Raises LiteStageError, saying what differs, where a plan does not fit this model or the pipeline."""
        plan.validate(
            layers=self.engine.decoder.layers,
            width=self.engine.decoder.width,
            fingerprint=self.loaded.fingerprint,
            stages=pipeline.stage_names if pipeline else PLAIN_STAGE,
            pipeline_hash=pipeline.hash if pipeline else None,
        )

    def with_suffixes(
        self,
        plan: Plan,
        suffixes: Iterable[str],
        task: Calibration | None,
        pipeline: Pipeline | None,
        exit_rule: ExitRule | None = None,
    ) -> Plan:
        """The plan with what a spec's suffixes add: ``exit``, ``prefix``, ``lookup`` or ``self``.

        A stage with a schedule gets no draft.
        """
        stages = pipeline.stage_names if pipeline else PLAIN_STAGE
        for suffix in suffixes:
            if suffix == "exit":
                plan = self.with_calibrated_exits(plan.with_exit(exit_rule or ExitRule(), stages), task, pipeline)
            elif suffix == "prefix":
                plan = replace(plan, prefix_cache=True)
            elif drafted := [stage for stage in stages if plan[stage].schedule is None]:
                plan = plan.with_drafts(self._drafts(suffix, plan, drafted, task, pipeline))
        return plan

    def _drafts(
        self, kind: str, plan: Plan, drafted: Sequence[str], task: Calibration | None, pipeline: Pipeline | None
    ) -> dict[str, Draft]:
        """By stage, drafts by ``lookup`` or ``self`` for the stages ``drafted``, where they pay on this machine."""
        if pipeline is None:
            if kind == "self":
                raise LiteStageError(
                    "+self ranks sub-layers on a task's calibration split, and this task has none; use +lookup."
                )
            return dict.fromkeys(drafted, Draft(sources=("prompt",)))
        questions = task.questions("calibration")[: self.calibration_questions] if task else []
        timed = min(TIMED, len(questions) // 2)
        if kind == "self":
            importance = TaskMeasurements(self, "+self", task, pipeline).importance()
            made = self_drafts(plan, importance, self.engine.decoder.layers, pipeline.stage_names)
        else:
            made = lookup_drafts(self, plan, pipeline, questions[timed:])
        drafts = {stage: made[stage] for stage in drafted if stage in made}
        if not questions:
            return drafts

        def pay() -> dict[str, Any]:
            return {"stages": list(that_pay(self, plan, drafts, pipeline, questions[:timed]))}

        asked = [asdict(question) for question in questions[:timed]]
        about = plan.with_drafts(drafts).hash, pipeline.hash, self.chat_template, asked
        stay = self._on_this_machine("drafts_that_pay", pay, *about)["stages"]
        return {stage: drafts[stage] for stage in stay}

    def with_calibrated_exits(self, plan: Plan, task: Calibration | None, pipeline: Pipeline | None) -> Plan:
        """The plan with what its exit rules lack taken from its own texts on the task's calibration questions.

        Raises:
            LiteStageError: something lacks, and there is no task to take it from.
        """

        def answer(uncut: Plan, count: int) -> list[Trace]:
            if task is None or pipeline is None:
                raise LiteStageError(
                    "The exit rule is calibrated on a task's calibration split, and this task has none; give what it "
                    "lacks in a plan file."
                )
            asked = task.questions("calibration")[: self.calibration_questions][:count]
            return self.run(asked, {"uncut": uncut}, pipeline, progress="calibration of the exit rule")["uncut"]

        return calibrated_exits(plan, answer)

    def signed(self, plan: Plan, pipeline: Pipeline | None) -> Plan:
        """The plan with this model and pipeline named in it."""
        return replace(
            plan,
            model={
                "name": self.loaded.name,
                "revision": self.loaded.revision,
                "layers": self.engine.decoder.layers,
                "fingerprint": self.loaded.fingerprint,
                **({"adapter": self.loaded.adapter} if self.loaded.adapter else {}),
                **({"weights": "int8"} if self.engine.decoder.int8 else {}),
            },
            pipeline={
                "name": pipeline.name,
                "hash": pipeline.hash,
                **({"chat_template": True} if self.chat_template else {}),
            }
            if pipeline
            else None,
        )

    @property
    def kept(self) -> KeptMeasurements:
        """What the store holds of this model's measurements."""
        return KeptMeasurements(self.reusing.store, self.reusing.identity)

    def importance(self, questions: Sequence[Question], pipeline: Pipeline) -> Importance:
        """Cosine importance of the sub-layers over the stages' prefills on ``questions``; measured once, then kept."""

        def measure() -> dict[str, Any]:
            full, traces = self.full_depth(questions, pipeline)

            def measured() -> dict[str, Any]:
                with bar("importance of the sub-layers, by stage", len(pipeline.stages)) as advance:
                    return measure_importance(full, questions, traces, advance=advance).to_dict()

            return from_rank_zero(measured)

        return Importance.from_dict(self.kept.once(self._importance_key(questions, pipeline), measure))

    def known_importance(self, questions: Sequence[Question], pipeline: Pipeline) -> Importance | None:
        """The same if it was measured before, else None."""
        known = self.kept.known(self._importance_key(questions, pipeline))
        return None if known is None else Importance.from_dict(known)

    def _importance_key(self, questions: Sequence[Question], pipeline: Pipeline) -> str:
        asked = [asdict(question) for question in questions]
        return self.kept.key("importance", asked, pipeline.hash, self.chat_template)

    def step_costs(self, forms: Iterable[str] = ()) -> StepCosts:
        """Seconds of a forward pass on this machine, and of stand-ins of the given forms; measured once, then kept.

        A form that puts nothing in a skipped sub-layer's place has no price: none, and changed feed-forwards.
        """

        def stand_in(form: str) -> StandInCosts:
            measured = self._timed(f"stand_in/{form}", lambda: asdict(measure_stand_in(self.engine, form)))
            return StandInCosts.from_dict(measured)

        costs = StepCosts.from_dict(self._timed("step_costs", lambda: measure_step_costs(self.engine).to_dict()))
        priced = sorted({*forms} - {"none", *CHANGED})
        return replace(costs, stand_ins={form: stand_in(form) for form in priced})

    def token_share(self) -> float:
        """What one more token costs in a decode step on this machine, as a share of it; measured once, then kept."""
        share: float = self._timed("token_share", lambda: {"share": measure_token_share(self.engine)})["share"]
        return share

    def _timed(self, kind: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        return self._on_this_machine(kind, lambda: from_rank_zero(measure))

    def _on_this_machine(self, kind: str, measure: Callable[[], dict[str, Any]], *content: object) -> dict[str, Any]:
        """What was measured here before, else as ``measure`` gives it, the same on all ranks."""
        return self.kept.once(self.kept.key(kind, COSTS_VERSION, environment(self.engine), *content), measure)
