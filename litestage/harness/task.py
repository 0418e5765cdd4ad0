"""lm-eval's side of a staged task: documents from ``litestage.data``, figures from traces.

A YAML in ``tasks/``, or in a folder of one's own that ``--include_path`` names, says no more than this, with the name
of a litestage task or the path of its YAML; the pipeline's stages decide which metrics there are::

    task: obqa_multistage
    class: !function litestage.harness.task.StagedTask
    generation_kwargs: {litestage: {task: obqa}}
"""

from __future__ import annotations

import sys
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import lm_eval.api.task as theirs
from lm_eval.api.registry import get_aggregation

from litestage.conf import beside
from litestage.data import Task, load_task
from litestage.errors import LiteStageError, known_keys
from litestage.harness.metrics import metric_list, metric_names, metrics
from litestage.reading import whole
from litestage.stages import Question
from litestage.trace import Trace

# lm-eval 0.4 has one class for all tasks of a YAML; from 0.5 on there is one for each output type.
_BY_OUTPUT_TYPE = hasattr(theirs, "GenerateTask")
_Generated: Any = theirs.GenerateTask if _BY_OUTPUT_TYPE else theirs.ConfigurableTask
_Chosen: Any = theirs.MultipleChoiceTask if _BY_OUTPUT_TYPE else theirs.ConfigurableTask  # 0.4's own is another thing

KEY = "litestage"
"""The generation keyword that tells our model which task and pipeline a request belongs to."""


_STAGED: dict[str, Any] = {
    "output_type": "generate_until",
    "test_split": "test",
    "doc_to_text": (
        "{{question}}\n{% for option in options %}({{'ABCDEFGHIJKLMNOPQRSTUVWXYZ'[loop.index0]}}) {{option}}"
        "{{' ' if not loop.last}}{% endfor %}"
    ),
    "doc_to_target": "answer",
    "num_fewshot": 0,
}
"""What lm-eval wants to be told of a staged task; its prompt is for the samples' file only."""
_READ = ("task", "task_alias", "class", "metadata", "generation_kwargs", "repeats", "process_docs", "doc_to_text")
"""The keys of a staged task's YAML that change something; others may stand at what they are anyway."""

_SCORED: dict[str, Any] = {
    "output_type": "multiple_choice",
    "test_split": "test",
    "fewshot_split": "calibration",  # else lm-eval takes test questions, and may show one beside its own answer
    "doc_to_text": "Question: {{question}}\nAnswer:",
    "doc_to_choice": "{{options}}",
    "doc_to_target": "{{'ABCDEFGHIJKLMNOPQRSTUVWXYZ'.index(answer)}}",
    "metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")],
}
"""The same of a task by likelihood; a task's YAML may say otherwise."""


class Answered(str):
    """A question's transcript, with its trace as ``stats``. Equal to, hashed, pickled and dumped like its text."""

    stats: Trace | None

    def __new__(cls, text: str, stats: Trace | None = None) -> Answered:
        answered = super().__new__(cls, text)
        answered.stats = stats
        return answered


def answered(trace: Trace) -> Answered:
    """The trace as lm-eval's response: one line per stage and row, and the answer where no text names it."""
    lines = [f"{stage.name}: {text}" for stage in trace.stages for text in stage.texts]
    lines += [f"by likelihood: {trace.answer}"] * trace.chosen_by_likelihood
    return Answered("\n".join(lines), trace)


def question_of(doc: dict[str, Any]) -> Question:
    """The question in a document of a staged task. Raises LiteStageError where a task's ``process_docs`` left none."""
    for key in ("id", "question", "options", "answer"):
        if key not in doc:
            raise LiteStageError(
                f"A document of a staged task has no {key!r} (it has {', '.join(doc)}); keep it there."
            )
    return Question(doc["id"], doc["question"], tuple(doc["options"]), doc["answer"])


def _document(question: Question) -> dict[str, Any]:
    return {"id": question.id, "question": question.text, "options": list(question.options), "answer": question.answer}


def asked_of(keywords: dict[str, Any]) -> dict[str, Any]:
    """What a staged task's generation keywords say to our model. Raises LiteStageError for what a task never says."""
    request = keywords[KEY]
    if not isinstance(request, dict) or not isinstance(request.get("task"), str):
        raise LiteStageError(
            f"The generation keyword {KEY!r} is {request!r:.80}; leave it out, a staged task's YAML has it."
        )
    return request


class _OwnQuestions:
    """For a task over a litestage task's test questions; ``source`` is that task."""

    source: Task
    config: Any
    dataset: Any

    def download(self, *args: Any, **keywords: Any) -> None:
        """Puts the questions of every split that the task's YAML names where lm-eval looks for documents."""
        import datasets

        named = [getattr(self.config, f"{use}_split") for use in ("training", "validation", "test", "fewshot")]
        self.dataset = {
            split: datasets.Dataset.from_list([_document(question) for question in self.source.questions(split)])
            for split in dict.fromkeys(named)
            if split is not None
        }


class LikelihoodTask(_OwnQuestions, _Chosen):
    """The same questions without stages, for any model: which option's text is the most probable after the question.

    ``acc`` compares log-likelihoods as they are, ``acc_norm`` by the length of the text, as in lm-eval's own tasks::

        task: obqa_likelihood
        class: !function litestage.harness.task.LikelihoodTask
        metadata: {questions: obqa}
    """

    def __init__(self, config: dict[str, Any]) -> None:
        config = deepcopy({**_SCORED, **{key: value for key, value in config.items() if key != "class"}})
        config["metadata"] = {"version": 1.0, **(config.get("metadata") or {})}
        if "questions" not in config["metadata"]:
            raise LiteStageError(
                f"The lm-eval task {config.get('task')!r} names no questions; add to its YAML "
                "metadata: {questions: mine.yaml}."
            )
        self.source = load_task(_found(config, str(config["metadata"]["questions"])))
        super().__init__(config=config)


def _found(config: dict[str, Any], name: str) -> str:
    """A YAML file that a task's YAML names, relative to where lm-eval 0.4.13 read that, or a shipped one's name.

    Raises:
        LiteStageError: it is not there, and lm-eval has not said where it read the task's.
    """
    source = str(config["metadata"].get("config_source", ""))
    found = beside(Path(source).parent, name)
    if source == "inline" and found.endswith((".yaml", ".yml")) and not Path(found).exists():
        raise LiteStageError(
            f"The lm-eval task {config.get('task')!r} names {name!r}, and lm-eval does not say beside which file: give "
            f"that one's folder as --include_path, and --tasks {config.get('task')}."
        )
    return found


class StagedTask(_OwnQuestions, _Generated):
    """A multiple-choice task that a model answers in stages."""

    _every: list[str] | None = None

    def __init__(self, config: dict[str, Any]) -> None:
        for key, value in config.items():
            if key not in _READ and value != _STAGED.get(key):
                raise LiteStageError(
                    f"The lm-eval task {config.get('task')!r} has {key}: {value!r:.80}, which nothing reads in "
                    f"stages: prompts are a pipeline's, questions a litestage task's, figures of traces; leave it out."
                )
        config = deepcopy({**_STAGED, **{key: value for key, value in config.items() if key != "class"}})
        config["repeats"] = whole(config.get("repeats", 1), f"repeats of {config.get('task')!r}", least=1)
        config["metadata"] = {"version": 1.0, **(config.get("metadata") or {})}
        config["generation_kwargs"] = {"until": [], "do_sample": False, **(config.get("generation_kwargs") or {})}
        request = config["generation_kwargs"].get(KEY) or {}
        if not isinstance(request, dict) or request.get("task") is None:
            raise LiteStageError(
                f"The lm-eval task {config.get('task')!r} names no questions; add to its YAML "
                "generation_kwargs: {litestage: {task: mine.yaml}}."
            )
        if not isinstance(request["task"], str):
            raise LiteStageError(
                f"The lm-eval task {config.get('task')!r} has litestage: {request!r:.80}; write {{task: mine.yaml}}."
            )
        known_keys(f"litestage of the lm-eval task {config.get('task')!r}", request, ("task", "pipeline"))
        request |= {
            key: _found(config, request[key]) for key in ("task", "pipeline") if isinstance(request.get(key), str)
        }
        self.source = load_task(request["task"])
        overridden = (config.get("metadata") or {}).get("pipeline")  # lm-eval puts --model_args there
        request["pipeline"] = overridden or request.get("pipeline")  # else the task's own: which, a chat decides
        config["metric_list"] = _listed(metric_names(self.source.through(request["pipeline"]).stage_names))
        config["process_results"] = metrics  # named so that lm-eval looks up no metric functions; see process_results
        super().__init__(config=config)
        self.config.metadata = {**(self.config.metadata or {}), "data": dict(self.source.source.origin)}

    def test_docs(self) -> Any:
        """The documents that ``process_docs`` left. Raises LiteStageError where they are none, or no questions."""
        documents = super().test_docs()
        if not len(documents):
            raise LiteStageError(f"The process_docs of the lm-eval task {self.config.task!r} leaves no document.")
        question_of(documents[0])
        return documents

    def build_all_requests(self, *args: Any, **keywords: Any) -> None:
        """As lm-eval does, but only for our model, and never from its request cache (it ignores the pipeline)."""
        if "litestage.harness.lm" not in sys.modules:
            raise LiteStageError(_NEEDS_OURS.format(self.config.task))
        if keywords.get("system_instruction"):
            raise LiteStageError("--system_instruction does not reach the stages' prompts; use a pipeline YAML.")
        if (limit := keywords.get("limit")) is not None and limit < 1:
            raise LiteStageError(f"--limit leaves {limit} questions of {self.config.task!r}; give 1 or more.")
        if (samples := keywords.get("samples")) is not None:
            self._check_samples(samples)
        super().build_all_requests(*args, **{**keywords, "cache_requests": False, "rewrite_requests_cache": False})

    def _check_samples(self, samples: Any) -> None:
        """Raises LiteStageError for what lm-eval would take as all questions, as fewer, or as others in its files."""
        there = range(len(self.eval_docs))
        if not isinstance(samples, list) or not samples or samples != [number for number in there if number in samples]:
            raise LiteStageError(
                f"--samples of {self.config.task!r} is {samples!r:.80}; give numbers of its questions, 0 to "
                f"{len(there) - 1}, in ascending order and each once."
            )

    def construct_requests(self, doc: dict[str, Any], ctx: str, **keywords: Any) -> Any:
        """The request: its context is only for show, the stages make their own prompts from the document."""
        made = super().construct_requests(doc, ctx, **keywords)
        instances = made if isinstance(made, list) else [made]  # a list from lm-eval 0.5 on; 0.4 takes one, too
        for instance in instances:
            asked_of(instance.arguments[1])["chat_template"] = bool(keywords.get("apply_chat_template"))
        return instances

    def process_results(self, doc: dict[str, Any], results: list[Any]) -> dict[str, float]:
        """The question's figures.

        Raises:
            LiteStageError: the response carries no trace, so another model gave it.
        """
        trace = getattr(results[0], "stats", None)
        if trace is None:
            raise LiteStageError(_NEEDS_OURS.format(self.config.task))
        figures = metrics(trace)
        self._list_metrics(list(figures))
        return figures

    def _list_metrics(self, names: list[str]) -> None:
        """Announces the metrics that every question so far has: lm-eval's W&B logger wants each listed one of all."""
        if self._every is None:  # what was listed until now is a timed run's through the task's own pipeline
            self._every, self._aggregation_list, self._higher_is_better = names, {}, {}
        self._every = [name for name in self._every if name in names]
        self.config.metric_list = metric_list(self._every)
        for entry in metric_list(names):
            self._aggregation_list[entry["metric"]] = get_aggregation("mean")
            self._higher_is_better[entry["metric"]] = entry["higher_is_better"]


def _listed(names: list[str]) -> list[dict[str, Any]]:
    """``metric_list``; from lm-eval 0.5 on with functions, as names that it knows itself are held to its output types.

    The functions are never called: ``process_results`` has every figure.
    """
    listed = metric_list(names)
    if _BY_OUTPUT_TYPE:
        for entry in listed:
            named = partial(_never)
            named.__name__ = entry["metric"]  # type: ignore[attr-defined]
            entry["metric"] = named
    return listed


def _never(*_: Any, **__: Any) -> float:
    raise NotImplementedError


_NEEDS_OURS = (
    "The task {!r} is answered in stages, each prompted with what the earlier ones wrote; other models only continue "
    "one prompt, so run it with --model litestage (pretrained=<the same model>)."
)
