"""Where no letter can be read, the most likely one is taken: by the model's next-token logits, counted and timed."""

import json
from dataclasses import replace
from pathlib import Path
from time import sleep

import pytest
import torch
from run_folders import FULL, method, results
from tiny import FAMILIES, Characters, contestant, random_model, reference_logits, some_questions, staged_model
from tiny_model import save_tiny_model

from litestage.comparison.results import Measured, summarise
from litestage.comparison.samples import write_samples
from litestage.engine import Engine, Generation
from litestage.harness.metrics import metric_names, metrics
from litestage.harness.task import answered
from litestage.plan import Plan, SkipSet, StagePlan
from litestage.report.failures import failures
from litestage.report.runs import Run
from litestage.report.tables import methods_table
from litestage.runner import run
from litestage.stages import Pipeline, Question, Stage
from litestage.store import ResultStore, ReusingEngine
from litestage.trace import Trace

NEVER = r"(?!)([A-Z])"
STAGES = (
    Stage("recall", "{{ question }} Recall:", 8),
    Stage("summarize", "{{ question }} {{ recall }} So:", 6),
)
LIKELY = Pipeline("likely", STAGES, NEVER, choose="likelihood", cue="So it is")
QUESTIONS = some_questions(7)
SKIPPING = StagePlan(skip=SkipSet(mhsa=(1,), ffn=(2,)))


def plan_of(stage: StagePlan) -> Plan:
    return Plan(dict.fromkeys(("recall", "summarize"), stage))


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    from litestage.session import Session

    return Session.open(save_tiny_model(tmp_path_factory.mktemp("tiny")), device="cpu")


def most_likely_by_transformers(model, encode, question: Question, trace: Trace, skip: SkipSet) -> str:
    """The letter after the last prompt, its text and the cue, from logits of the Hugging Face model."""
    prompt = STAGES[1].prompts(question, {"recall": trace.stages[0].texts[0]})[0]
    text = trace.stages[1].texts[0]
    written = f"{prompt} {text}{'' if text.endswith(('.', chr(34), chr(39))) else '.'}" if text else prompt
    scores = []
    for label in question.labels:
        context, whole = encode(f"{written} So it is"), encode(f"{written} So it is {label}")
        ending = whole[len(context) :]
        assert whole[: len(context)] == context
        logits = reference_logits(model, context, ending, skip)
        scores.append(float(logits.log_softmax(-1)[range(len(ending)), torch.tensor(ending)].sum()))
    return question.labels[scores.index(max(scores))]


@pytest.mark.parametrize("plan", [StagePlan(), SKIPPING], ids=["full", "skipping"])
@pytest.mark.parametrize("path", ["host", "static"])
def test_the_letter_is_the_one_that_transformers_holds_the_most_likely(session, plan: StagePlan, path: str):
    engine = Engine(session.loaded.model, session.loaded.tokenizer, path)
    anew = ReusingEngine(engine, session.loaded.fingerprint, ResultStore())
    answering = replace(session.contestant(LIKELY, plan_of(plan)), engine=anew)
    letters = set()
    for question, trace in zip(QUESTIONS, answering.answer(QUESTIONS), strict=True):
        expected = most_likely_by_transformers(session.loaded.model, session.encode, question, trace, plan.skip)
        assert (trace.answer, trace.chosen_by_likelihood, trace.parse_failure) == (expected, True, False)
        assert trace.correct == (expected == question.answer)
        letters.add(trace.answer)
    assert len(letters) > 1  # else the test could not tell


def test_plans_choose_by_their_last_stage(session):
    chosen = {
        name: [trace.answer for trace in session.run(QUESTIONS, {"one": plan}, LIKELY)["one"]]
        for name, plan in {
            "full": plan_of(StagePlan()),
            "last": Plan({"recall": StagePlan(), "summarize": StagePlan(skip=SkipSet(mhsa=(0, 1, 2), ffn=(0, 1, 2)))}),
        }.items()
    }
    assert chosen["full"] != chosen["last"]


@pytest.mark.parametrize("plan", [StagePlan(), SKIPPING], ids=["full", "skipping"])
@pytest.mark.parametrize("family", FAMILIES)
def test_endings_of_many_tokens_are_compared_as_a_whole(family: str, plan: StagePlan):
    """As with a tokenizer that writes a letter in several tokens."""
    model = random_model(FAMILIES[family].config)
    engine = Engine(model, Characters())
    draw = torch.Generator().manual_seed(3)
    context = torch.randint(3, 90, (20,), generator=draw).tolist()
    for endings in ([[5], [6], [7]], [[5, 9], [6, 8], [7]], [[5, 9], [5, 8, 4], [5, 7]], [[5], [5, 7]], [[5]]):
        scores = []
        for ending in endings:
            logits = reference_logits(model, context, ending, plan.skip).log_softmax(-1)
            scores.append(float(logits[range(len(ending)), torch.tensor(ending)].sum()))
        index = engine.choose([[*context, *ending] for ending in endings], plan)
        assert index == scores.index(max(scores))


@pytest.mark.parametrize("endings", [[[5], [6]], [[5, 9], [6, 8]]], ids=["one token", "two"])
def test_logits_that_are_no_numbers_choose_nothing(endings):
    model = random_model(FAMILIES["llama"].config)
    model.model.norm.weight.fill_(torch.nan)
    assert Engine(model, Characters()).choose([[4, 5, *ending] for ending in endings], StagePlan()) is None


@pytest.fixture
def says(monkeypatch):
    """Has the last stage write a given text."""

    def make(text: str, question: Question, pipeline: Pipeline = LIKELY) -> Trace:
        def generate(self, requests, *_):
            return [Generation((1,), text, "eos", len(request.prompt)) for request in requests]

        monkeypatch.setattr(ReusingEngine, "generate", generate)
        return contestant(plan_of(StagePlan()), pipeline=pipeline).answer([question])[0]

    return make


def test_only_what_names_no_option_is_chosen(says):
    """A letter that is read stands; one that is no option's, and none at all, do not."""
    question = Question("q", "Where?", ("here", "there"), "A")
    reading = replace(LIKELY, answer="option ([A-Z])")
    assert not says("option B", question, reading).chosen_by_likelihood
    for text in ("option Z", "a text", ""):
        trace = says(text, question, reading)
        assert trace.chosen_by_likelihood
        assert trace.answer in question.labels
    never = replace(reading, choose="none")
    for text in ("option Z", "a text"):
        trace = says(text, question, never)
        assert (trace.answer, trace.chosen_by_likelihood, trace.parse_failure) == (None, False, True)


def test_the_cue_follows_the_text_and_is_not_said_twice():
    question = Question("q", "Where?", ("here", "there"), "A")
    said = {
        text: [str(prompt) for prompt in LIKELY.answered_by(question, {"recall": "x", "summarize": text})]
        for text in ("It is here", "")
    }
    assert said["It is here"] == [f"Where? x So: It is here. So it is {label}" for label in "AB"]
    assert said[""] == [f"Where? x So: So it is {label}" for label in "AB"]
    bare = replace(LIKELY, cue="")
    assert bare.answered_by(question, {"recall": "x", "summarize": "It is"})[1] == "Where? x So: It is B"
    begun = replace(LIKELY, stages=(STAGES[0], replace(STAGES[1], reply="So it is")))
    assert begun.answered_by(question, {"recall": "x", "summarize": ""})[0].endswith("Assistant: So it is A")


def test_its_time_counts_in_the_latency(monkeypatch):
    monkeypatch.setattr(Engine, "choose", lambda self, sequences, plan: sleep(0.5) or 1)
    (trace,) = run(QUESTIONS[:1], {"full": contestant(plan_of(StagePlan()), pipeline=LIKELY)}, timed=True)["full"]
    assert trace.answer == "B"
    assert trace.latency_s >= 0.5 + sum(stage.prefill_s + stage.decode_s for stage in trace.stages)
    (untimed,) = run(QUESTIONS[:1], {"full": contestant(plan_of(StagePlan()), pipeline=LIKELY)})["full"]
    assert untimed.latency_s is None


def test_a_text_that_fills_the_context_is_left_out(says, monkeypatch):
    """The letter is then asked for right behind the prompt; where that leaves no room either, there is none."""
    asked = []
    monkeypatch.setattr(Engine, "choose", lambda self, sequences, plan: asked.append(bytes(sequences[0])) or 0)
    room = staged_model().model.config.max_position_embeddings
    last = replace(LIKELY, stages=(STAGES[0], replace(STAGES[1], prompt="{{ question }} So:")))
    for length, written in ((room - 60, b"So: text. So it is A"), (room - 16, b"So: So it is A"), (room - 5, None)):
        asked.clear()
        trace = says("text", Question("q", "W" * length, ("here", "there"), "A"), last)
        assert trace.chosen_by_likelihood == (written is not None)
        assert [sequence.endswith(written) for sequence in asked] == ([True] if written else [])


def test_the_share_is_reported_everywhere(tmp_path):
    full = plan_of(StagePlan())
    traces = run(QUESTIONS, {"full": contestant(full, pipeline=LIKELY)})["full"]
    mixed = [*traces[:2], *(replace(trace, chosen_by_likelihood=False, answer=None) for trace in traces[2:])]
    measured = {"full": Measured(full, mixed, ())}
    (entry,) = summarise(measured)
    assert (entry["chosen_by_likelihood"], entry["parse_failures"]) == (2, len(QUESTIONS) - 2)
    write_samples(QUESTIONS, measured, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert [line.get("chosen_by_likelihood", False) for line in lines] == [True, True, *[False] * (len(lines) - 2)]
    assert Trace.from_dict(json.loads(json.dumps(traces[0].to_dict()))) == traces[0]
    assert metrics(traces[0])["chosen_by_likelihood"] == 1
    assert list(metrics(traces[0])) == metric_names(["recall", "summarize"], timed=False)
    assert answered(traces[0]).endswith(f"\nby likelihood: {traces[0].answer}")


def test_the_report_says_how_many_and_sees_a_collapse_behind_them():
    chosen = method("cosine", 0.4, 1.2, [1.1, 1.3], skipped=4, chosen_by_likelihood=40)
    table = methods_table(results(FULL, chosen))
    at = list(table.columns).index("by likelihood")
    assert [row[at] for row in table.rows] == ["0", "40"]
    assert any(remark.startswith("by likelihood:") for remark in table.remarks)
    assert "by likelihood" not in methods_table(results(FULL)).columns
    found = failures(Run(Path("run"), comparison=results(FULL, chosen)))
    assert any("Summary collapse: cosine" in sentence for sentence in found)
