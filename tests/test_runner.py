"""The runner: traces in the order of the questions, times that are times, and nothing done twice after a crash."""

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tiny import PIPELINE, contestant, some_questions

from litestage.engine import Decoding
from litestage.errors import LiteStageError
from litestage.plan import ExitRule, Plan, SkipSet, StagePlan
from litestage.runner import Contestant, run
from litestage.runner.contestant import NOT_MEASURED
from litestage.stages import Pipeline, Question, Stage
from litestage.store import ResultStore
from litestage.store.journal import until_written
from litestage.trace import Trace

QUESTIONS = some_questions(7)
SKIPPING = Plan({"recall": StagePlan(SkipSet(ffn=(1,))), "analyze": StagePlan(SkipSet(mhsa=(0,)))})


def written(traces):
    """What does not depend on a clock or on the last digit of a confidence."""
    return [
        replace(
            trace,
            stages=tuple(replace(stage, **NOT_MEASURED, confidences=None) for stage in trace.stages),
            latency_s=None,
        )
        for trace in traces
    ]


@pytest.fixture
def asked(monkeypatch):
    """(plan, question) in the order in which contestants are asked."""
    seen: list[tuple[str, str]] = []
    answer = Contestant.answer

    def spy(self, questions, *, timed=False):
        seen.extend((self.plan.hash, question.id) for question in questions)
        return answer(self, questions, timed=timed)

    monkeypatch.setattr(Contestant, "answer", spy)
    return seen


# --- traces ---


def test_traces_come_in_the_order_of_the_questions():
    shuffled = [QUESTIONS[index] for index in (4, 0, 6, 2, 5, 1, 3)]
    traces = run(shuffled, {"full": contestant()}, batch_size=3)["full"]
    assert [trace.question_id for trace in traces] == [question.id for question in shuffled]


def test_a_trace_says_what_happened_in_every_stage():
    question = QUESTIONS[2]
    trace = run([question], {"full": contestant()})["full"][0]
    assert [stage.name for stage in trace.stages] == ["recall", "analyze", "summarize"]
    recall, analyze, summarize = trace.stages
    assert len(recall.texts) == len(summarize.texts) == 1
    assert len(analyze.texts) == len(analyze.stops) == len(analyze.prompt_tokens) == len(question.options)
    head = f"{question.text} Recall: {recall.texts[0]} Analyze: "
    assert analyze.shared_tokens == len(head)  # one character, one token; what differs is the option
    assert analyze.prompt_tokens == tuple(len(head) + len(f"{o.label} {o.text},") for o in question.lettered)
    assert recall.shared_tokens == 0
    assert trace.tokens == sum(recall.tokens) + sum(analyze.tokens) + sum(summarize.tokens)
    assert trace.plan == Plan.full(PIPELINE.stage_names).hash
    assert [len(row) for row in analyze.confidences] == list(analyze.tokens)
    assert Trace.from_dict(json.loads(json.dumps(trace.to_dict()))) == trace


def test_an_answer_is_right_wrong_or_missing():
    letters = run(QUESTIONS, {"full": contestant()})["full"]
    for question, trace in zip(QUESTIONS, letters, strict=True):
        named = PIPELINE.parse_answer({"summarize": trace.stages[2].texts[0]})
        assert trace.answer == (named if named in question.labels else None)
        assert trace.correct == (trace.answer == question.answer)
    silent = replace(PIPELINE, answer="no such text ([A-Z])")
    for trace in run(QUESTIONS, {"full": contestant(pipeline=silent)})["full"]:
        assert (trace.answer, trace.correct, trace.parse_failure) == (None, False, True)
    unknown = [replace(question, answer=None) for question in QUESTIONS]
    assert {trace.correct for trace in run(unknown, {"full": contestant()})["full"]} == {None}


def test_a_letter_that_no_option_has_is_no_answer(monkeypatch):
    monkeypatch.setattr(Pipeline, "parse_answer", lambda self, outputs: "C")
    three = Question("three", "Where?", ("here", "there", "nowhere"), "C")
    two = Question("two", "Where?", ("here", "there"), "B")
    traces = run([three, two], {"full": contestant()})["full"]
    assert [(trace.answer, trace.correct, trace.parse_failure) for trace in traces] == [
        ("C", True, False),
        (None, False, True),
    ]


def test_a_question_that_is_too_long_is_wrong_and_the_run_goes_on():
    long = Question("long", "Where " * 100 + "?", ("here", "there"), "A")
    traces = run([QUESTIONS[0], long, QUESTIONS[1]], {"full": contestant()})["full"]
    assert [trace.too_long for trace in traces] == [False, True, False]
    assert (traces[1].answer, traces[1].correct, traces[1].tokens) == (None, False, 0)
    alone = run([QUESTIONS[1]], {"full": contestant()})["full"]
    assert written(alone) == written(traces[2:])
    timed = run([long], {"full": contestant()}, timed=True)["full"]
    assert written(timed) == written(traces[1:2])


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_the_batch_size_does_not_change_what_is_written(batch_size):
    expected = run(QUESTIONS, {"skipping": contestant(SKIPPING)}, batch_size=3)["skipping"]
    traces = run(QUESTIONS, {"skipping": contestant(SKIPPING)}, batch_size=batch_size)["skipping"]
    assert written(traces) == written(expected)


@pytest.mark.parametrize("rule", [None, ExitRule(threshold=0.3, window=3)])
def test_timed_and_untimed_runs_write_the_same(rule):
    plan = SKIPPING.with_exit(rule, PIPELINE.stage_names)
    untimed = run(QUESTIONS, {"plan": contestant(plan)})["plan"]
    timed = run(QUESTIONS, {"plan": contestant(plan)}, timed=True)["plan"]
    assert written(timed) == written(untimed)
    if rule:
        assert "exit" in {stop for trace in timed for stage in trace.stages for stop in stage.stops}


def test_one_option_after_another_writes_what_all_at_once_write():
    sequential = contestant(pipeline=PIPELINE.with_mode("per_option_sequential"))
    for timed in (False, True):
        one_by_one = run(QUESTIONS, {"full": sequential}, timed=timed)["full"]
        at_once = run(QUESTIONS, {"full": contestant()}, timed=timed)["full"]
        assert [[stage.texts for stage in trace.stages] for trace in one_by_one] == [
            [stage.texts for stage in trace.stages] for trace in at_once
        ]
        assert {trace.stages[1].shared_tokens for trace in one_by_one} == {0}  # nothing was shared


def test_neighbours_change_no_text():
    store = ResultStore()
    run(QUESTIONS, {"full": contestant(store=store)})
    near = contestant(SKIPPING, store=store, neighbours=(Plan.full(PIPELINE.stage_names),))
    assert written(run(QUESTIONS, {"near": near})["near"]) == written(
        run(QUESTIONS, {"far": contestant(SKIPPING)})["far"]
    )


def test_sampled_answers_do_not_depend_on_the_batch():
    hot = Decoding(temperature=1.0, seed=5)
    expected = written(run(QUESTIONS, {"full": contestant(decoding=hot)}, batch_size=7)["full"])
    assert written(run(QUESTIONS, {"full": contestant(decoding=hot)}, batch_size=2)["full"]) == expected
    assert written(run(QUESTIONS, {"full": contestant(decoding=hot)}, timed=True)["full"]) == expected
    assert written(run(QUESTIONS, {"full": contestant()})["full"]) != expected


# --- times ---


def test_untimed_runs_report_no_latency():
    for trace in run(QUESTIONS, {"full": contestant()}, batch_size=1)["full"]:
        assert trace.latency_s is None
        assert all(stage.prefill_s is None and stage.decode_s is None for stage in trace.stages)


class Poisoned(ResultStore):
    """A store that must not be touched."""

    def get(self, keys):
        raise AssertionError("a timed run read the store")

    def put(self, records):
        raise AssertionError("a timed run wrote to the store")


def test_timed_runs_report_latency_and_touch_no_store():
    traces = run(QUESTIONS, {"full": contestant(store=Poisoned())}, timed=True)["full"]
    for trace in traces:
        assert all(stage.prefill_s > 0 and stage.decode_s > 0 for stage in trace.stages)
        assert trace.latency_s > sum(stage.prefill_s + stage.decode_s for stage in trace.stages)  # the answer is read
    with pytest.raises(AssertionError, match="read the store"):
        run(QUESTIONS, {"full": contestant(store=Poisoned())})


def test_contestants_take_turns_question_by_question(asked):
    plans = {"full": Plan.full(PIPELINE.stage_names), "skipping": SKIPPING, "exit": SKIPPING.with_exit(ExitRule())}
    run(QUESTIONS, {name: contestant(plan) for name, plan in plans.items()}, timed=True)
    hashes = [plan.hash for plan in plans.values()]
    warming, turns = asked[:3], asked[3:]
    assert warming == [(name, QUESTIONS[0].id) for name in hashes]
    for index, question in enumerate(QUESTIONS):
        turn = turns[3 * index : 3 * index + 3]
        assert [asked_for for _, asked_for in turn] == [question.id] * 3
        first = index % 3  # each begins as often as the others
        assert [name for name, _ in turn] == [*hashes[first:], *hashes[:first]]
    assert len(turns) == 3 * len(QUESTIONS)


def test_a_contestant_of_another_model_answers_once_before_the_clock(asked):
    """Its weights would else be in no cache, while those of all others are."""
    other = contestant(SKIPPING, family="qwen2")
    traces = run(QUESTIONS[:2], {"full": contestant(), "again": contestant(), "other": other}, timed=True)
    full, of_other = contestant().plan.hash, SKIPPING.hash
    first, second = (question.id for question in QUESTIONS[:2])
    asked_first = [full, full, full, of_other, of_other]  # full once more: the last to be warmed up was another model
    asked_second = [full, full, of_other, of_other, full, full]
    assert asked[3:] == [*((plan, first) for plan in asked_first), *((plan, second) for plan in asked_second)]
    assert all(len(of) == 2 for of in traces.values())


def test_several_contestants_keep_apart():
    plans = {"full": Plan.full(PIPELINE.stage_names), "skipping": SKIPPING}
    together = run(QUESTIONS, {name: contestant(plan) for name, plan in plans.items()}, batch_size=3)
    for name, plan in plans.items():
        assert written(together[name]) == written(run(QUESTIONS, {name: contestant(plan)})[name])
        assert {trace.plan for trace in together[name]} == {plan.hash}
    assert written(together["full"]) != written(together["skipping"])


# --- after a crash ---


def crash_after(monkeypatch, answers):
    """The run breaks off when the contestants have been asked this often."""
    answer, count = Contestant.answer, [0]

    def crashing(self, questions, *, timed=False):
        count[0] += 1
        if count[0] > answers:
            raise KeyboardInterrupt
        return answer(self, questions, timed=timed)

    monkeypatch.setattr(Contestant, "answer", crashing)


def journalled(store):
    """By question, what the store holds of unfinished runs."""
    keys = [key for (key,) in store.connection.execute("SELECT key FROM results WHERE key LIKE 'journal/%' ORDER BY 1")]
    return {key.split("/", 3)[3]: record for key, record in store.get(keys).items()}


def break_off(monkeypatch, store, answers, **options):
    """A run that ends after so many answers, and what it leaves in the journal."""
    with monkeypatch.context() as crash:
        crash_after(crash, answers)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            run(QUESTIONS, {"full": contestant()}, journal=store, **options)
    return journalled(store)


def test_a_finished_run_leaves_no_journal():
    store = ResultStore()
    run(QUESTIONS, {"full": contestant()}, journal=store)
    assert journalled(store) == {}


def test_a_damaged_record_is_run_again(monkeypatch, asked):
    store = ResultStore()
    assert len(break_off(monkeypatch, store, 2, batch_size=2)) == 4
    with store.connection as connection:
        connection.execute("UPDATE results SET record = substr(record, 1, 40) WHERE key LIKE 'journal/%/q0'")
        connection.execute("UPDATE results SET record = substr(record, 1, 40) WHERE key LIKE 'journal/%/q3'")
    damaged = 4 - len(journalled(store))
    asked.clear()
    traces = run(QUESTIONS, {"full": contestant()}, batch_size=2, journal=store)["full"]
    assert len(asked) == len(QUESTIONS) - 4 + damaged > len(QUESTIONS) - 4
    assert written(traces) == written(run(QUESTIONS, {"full": contestant()})["full"])


def test_measured_times_are_taken_up_too(monkeypatch):
    store = ResultStore()
    left = break_off(monkeypatch, store, 1 + 3, timed=True)  # the warm-up, then three questions
    before = [Trace.from_dict(left[question.id]["full"]) for question in QUESTIONS[:3]]
    assert len(left) == 3
    assert run(QUESTIONS, {"full": contestant()}, timed=True, journal=store)["full"][:3] == before


def test_two_identical_runs_at_once_do_not_touch_each_others_journal(monkeypatch, asked):
    """The second begins in the first's third batch, takes up what there is, and ends; then the first is killed."""
    store, batches, seconds = ResultStore(), [], []
    answer = Contestant.answer

    def beside(self, questions, *, timed=False):
        batches.append(questions)
        if len(batches) == 3:
            seconds.extend(run(QUESTIONS, {"full": contestant()}, batch_size=2, journal=store)["full"])
            assert journalled(store) == {}
        if len(batches) == 6:  # the second needed two
            raise KeyboardInterrupt
        return answer(self, questions, timed=timed)

    with monkeypatch.context() as crash:
        crash.setattr(Contestant, "answer", beside)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            run(QUESTIONS, {"full": contestant()}, batch_size=2, journal=store)
    assert len(journalled(store)) == 6
    asked.clear()
    traces = run(QUESTIONS, {"full": contestant()}, batch_size=2, journal=store)["full"]
    assert len(asked) == 1
    assert written(traces) == written(seconds) == written(run(QUESTIONS, {"full": contestant()})["full"])


def test_what_could_not_be_written_is_not_lost(monkeypatch, asked):
    """The run was done, but the disk was full when its results were to be written."""
    store = ResultStore()
    before = []

    def unwritable():
        before.extend(run(QUESTIONS, {"full": contestant()}, timed=True, journal=store)["full"])
        raise LiteStageError("the disk is full")

    with pytest.raises(LiteStageError, match="full"), until_written(store):
        unwritable()
    asked.clear()
    with until_written(store):
        assert run(QUESTIONS, {"full": contestant()}, timed=True, journal=store)["full"] == before
    assert asked == []
    assert journalled(store) == {}


@pytest.mark.parametrize(
    "other",
    [
        {"plan": SKIPPING},
        {"pipeline": PIPELINE.with_limits({"recall": 7})},
        {"decoding": Decoding(temperature=1.0)},
        {"family": "qwen3"},
        {"encode": lambda text: [1, *map(ord, text)]},
    ],
    ids=lambda other: next(iter(other)),
)
def test_another_run_does_not_take_up_this_journal(monkeypatch, asked, other):
    store = ResultStore()
    break_off(monkeypatch, store, 2, batch_size=2)
    asked.clear()
    run(QUESTIONS, {"full": contestant(**other)}, batch_size=2, journal=store)
    assert len(asked) == len(QUESTIONS)
    asked.clear()
    run([*QUESTIONS[:-1], replace(QUESTIONS[-1], text="Why?")], {"full": contestant()}, journal=store)
    assert len(asked) == len(QUESTIONS)


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from litestage.runner import Contestant, run
from litestage.store import ResultStore
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
from tiny import contestant, some_questions

answer, batches = Contestant.answer, []

def until_the_third(self, questions, *, timed=False):
    batches.append(questions)
    if len(batches) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return answer(self, questions, timed=timed)

Contestant.answer = until_the_third
folder = Path(sys.argv[2])
answering = contestant(store=ResultStore(folder / "store.sqlite"))
run(some_questions(7), {"full": answering}, batch_size=2, journal=answering.engine.store)
"""


@pytest.mark.slow
def test_after_kill_9_only_what_is_missing_is_computed(tmp_path, asked):
    """A real kill in the third batch: the journal and the store hold the first two, and the next run does the rest."""
    killed = subprocess.run([sys.executable, "-c", KILLED, str(Path(__file__).parent), str(tmp_path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    store = ResultStore(tmp_path / "store.sqlite")
    kept = len(store) - 4  # the journal's
    assert kept > 0
    expected = written(run(QUESTIONS, {"full": contestant()})["full"])

    asked.clear()
    resumed = contestant(store=store)
    traces = run(QUESTIONS, {"full": resumed}, batch_size=2, journal=store)["full"]
    assert len(asked) == len(QUESTIONS) - 4
    assert resumed.engine.reused == 0  # what the journal holds is not even looked up
    assert resumed.engine.ran == len(store) - kept
    assert written(traces) == expected

    again = contestant(store=store)  # no journal: the store has it all
    assert written(run(QUESTIONS, {"full": again}, batch_size=2)["full"]) == expected
    assert again.engine.ran == 0


def test_a_pipeline_of_one_stage_runs_too():
    pipeline = Pipeline("one", (Stage("say", "{{ question }}", 5),), answer="([A-Z])")
    trace = run(QUESTIONS[:1], {"full": contestant(Plan.full(["say"]), pipeline=pipeline)}, timed=True)["full"][0]
    assert [stage.name for stage in trace.stages] == ["say"]
    assert trace.stages[0].tokens == (5,)
