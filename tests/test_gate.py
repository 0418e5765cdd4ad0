"""The gate lets an unchanged engine through and stops a worse one, whatever fell; it never blames noise."""

import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from litestage.cli import main
from litestage.comparison.results import Measured
from litestage.comparison.samples import write_samples
from litestage.engine import Engine
from litestage.errors import LiteStageError
from litestage.gate import GateOptions, judge, read_record, write_baseline
from litestage.plan import Plan, StagePlan
from litestage.profile import Importance
from litestage.runner import contestant
from litestage.stages import Question
from litestage.stats.change import more, slower, slower_by_intervals, unpaired_drop_interval
from litestage.trace import Trace

BIN = Path(sys.executable).parent
STAGES = ("recall", "analyze", "summarize")


def gate(*arguments, env=None):
    """The command itself: exit code, standard output, standard error."""
    done = subprocess.run([BIN / "litestage", "gate", *map(str, arguments)], capture_output=True, text=True, env=env)
    return done.returncode, done.stdout, done.stderr


# --- made-up runs: every figure as one likes it ---


def run_folder(folder, methods, *, seconds=None, tokens=None, plan="p", n=100, **environment):
    """A results.json with its samples: ``methods`` says which of n questions each gets wrong."""
    rng = np.random.default_rng(4)
    length = rng.uniform(0.1, 0.2, n)
    entries, lines = [], []
    by_method = {name: (seconds or {}).get(name, 1.0) * length * rng.uniform(0.97, 1.03, n) for name in methods}
    for name, wrong in methods.items():
        times, full = by_method[name], by_method["full"]
        count = (tokens or {}).get(name, 10)
        entries.append(
            {
                "name": name,
                "plan": plan,
                "accuracy": 1 - len(wrong) / n,
                "speedup": sum(full) / sum(times),
                "speedup_ci95": [0.98 * sum(full) / sum(times), 1.02 * sum(full) / sum(times)],
                "stages": {stage: {"tokens": count} for stage in STAGES},
            }
        )
        lines += [
            {
                "method": name,
                "id": f"q{at}",
                "correct": at not in wrong,
                "tokens": dict.fromkeys(STAGES, count),
                "latency_s": times[at],
            }
            for at in range(n)
        ]
    folder.mkdir()
    results = {
        "schema": "litestage.results/1",
        "task": "t_multistage",
        "split": "test",
        "n": n,
        "model": {"name": "m", "fingerprint": "f"},
        "pipeline": {"name": "p", "hash": "h"},
        "environment": {"device": "cpu", "dtype": "float32", "torch": "2.13", **environment},
        "methods": entries,
    }
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "results.json"


BASE = {"full": [], "skips": range(3)}


@pytest.fixture
def verdict(tmp_path_factory):
    """Judges a made-up run against another; None takes the samples away."""

    def judged(before, after, samples=True, **options):
        records = [
            read_record(run_folder(tmp_path_factory.mktemp("made-up") / "run", **run)) for run in (before, after)
        ]
        if not samples:
            records = [replace(record, samples={}) for record in records]
        return judge(*records, GateOptions(**options))

    return judged


def fallen(verdict):
    return {(figure.method, figure.name) for figure in verdict.regressions}


def test_a_few_lost_questions_may_be_noise_and_many_are_not(verdict):
    few = verdict({"methods": BASE}, {"methods": {"full": [], "skips": range(8)}})
    assert few.passed
    assert [f.worse for f in few.figures if (f.method, f.name) == ("skips", "accuracy")] == [True]
    many = verdict({"methods": BASE}, {"methods": {"full": [], "skips": range(23)}})
    assert fallen(many) == {("skips", "accuracy")}
    assert many.regressions[0].p_value == pytest.approx(2**-20)  # 20 lost, none gained


def test_pairing_sees_what_two_accuracies_alone_do_not(verdict):
    before, after = {"methods": {"full": [], "skips": range(40)}}, {"methods": {"full": [], "skips": range(52)}}
    assert fallen(verdict(before, after)) == {("skips", "accuracy")}
    alone = verdict(before, after, samples=False)
    assert alone.passed
    assert all("unpaired" in figure.how for figure in alone.figures if figure.name == "accuracy")


def test_one_more_token_counts_where_tokens_must_be_the_same_and_only_there(verdict):
    before = {"methods": BASE, "tokens": {"skips": 50}}
    after = {"methods": BASE, "tokens": {"skips": 51}}
    assert fallen(verdict(before, after)) == {("skips", f"tokens of {stage}") for stage in STAGES}
    for change in ({"torch": "2.14"}, {"plan": "another"}):
        elsewhere = verdict(before, {**after, **change})
        assert elsewhere.passed
        assert any("tolerance" in note for note in elsewhere.notes)
    doubled = verdict(before, {**after, "tokens": {"skips": 100}, "torch": "2.14"})
    assert fallen(doubled) == {("skips", f"tokens of {stage}") for stage in STAGES}


def test_a_speedup_is_held_as_a_ratio_and_never_in_seconds(verdict):
    before = {"methods": BASE, "seconds": {"skips": 0.6}}
    slow_machine = {"methods": BASE, "seconds": {"full": 3.0, "skips": 1.8}}
    assert verdict(before, slow_machine).passed
    for samples in (True, False):
        assert fallen(verdict(before, {"methods": BASE}, samples)) == {("skips", "speed-up")}


def test_a_missing_method_fails_and_a_new_one_is_told(verdict):
    found = verdict({"methods": BASE}, {"methods": {"full": [], "other": []}})
    assert found.missing == ["skips is missing from the new results"]
    assert not found.passed
    assert any("other" in note for note in found.notes)


def test_noise_alone_rarely_fails():
    """100 pairs of runs that differ by noise only, with 12 speed-ups each: the tolerance and Holm hold alarms down."""
    rng = np.random.default_rng(6)
    alarms = 0
    for _ in range(100):
        smallest = 1.0
        for _ in range(12):
            length = rng.lognormal(0, 0.2, 20)
            times = [length / speed * rng.lognormal(0, 0.3, 20) for speed in (1, 1.5, 1, 1.5)]
            smallest = min(smallest, slower((times[0], times[1]), (times[2], times[3]), tolerance=0.1))
        alarms += 12 * smallest <= 0.01
    assert alarms <= 1


def test_p_values_of_change_by_hand():
    assert more([10] * 20, [21] * 20, 0.05) == 0.0
    assert more([10] * 20, [10] * 20, 0.05) == 1.0
    assert more([10, 20], [12, 21], 0.0) == pytest.approx(0.1024, abs=1e-4)  # differences 2 and 1: t = 3, 1 degree
    halved = slower_by_intervals((2.0, 1.9, 2.1), (1.0, 0.95, 1.05), 0.1)
    assert halved < 1e-20
    assert slower_by_intervals((2.0, 1.9, 2.1), (1.9, 1.8, 2.0), 0.1) > 0.5
    assert slower_by_intervals((2.0, 2.0, 2.0), (1.0, 1.0, 1.0), 0.1) == 1.0  # one question each tells nothing
    # Newcombe's (1998) example of 56/70 against 48/80
    assert unpaired_drop_interval((56, 70), (48, 80)) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def with_questions(results, named):
    """The run with its questions' digests, by place."""
    lines = results.with_name("samples.jsonl")
    rows = [json.loads(line) for line in lines.read_text().splitlines()]
    lines.write_text("".join(json.dumps({**row, "question": named(int(row["id"][1:]))}) + "\n" for row in rows))
    return read_record(results)


def test_another_question_under_the_same_id_is_one_sentence(tmp_path):
    before, shifted, flipped = (
        with_questions(run_folder(tmp_path / name, BASE), named)
        for name, named in (
            ("before", lambda at: f"d{at}"),
            ("shifted", lambda at: f"d{at + 1}"),
            ("flipped", lambda at: "other" if at == 7 else f"d{at}"),
        )
    )
    write_baseline(before, tmp_path / "baseline.json")
    kept = read_record(tmp_path / "baseline.json")
    assert kept.questions == before.questions
    assert judge(kept, before, GateOptions()).passed
    for after, count in ((shifted, 100), (flipped, 1)):
        with pytest.raises(LiteStageError, match=f"{count} of 100 questions have another text"):
            judge(kept, after, GateOptions())
    unknown = read_record(run_folder(tmp_path / "old", BASE))  # as files were before
    found = judge(unknown, flipped, GateOptions())
    assert found.passed
    assert [str(unknown.path) in note and "by id alone" in note for note in found.notes] == [True]


def test_samples_have_their_questions_digests(tmp_path):
    question = Question("q", "Why?", ("this", "that"), "A")
    trace = Trace("q", "h", (), "A", True)
    write_samples([question], {"full": Measured(Plan.full(("recall",)), [trace], [])}, tmp_path)
    (line,) = map(json.loads, (tmp_path / "samples.jsonl").read_text().splitlines())
    assert line["question"] == question.digest == replace(question, id="another").digest
    changes = ({"text": "Who?"}, {"options": ("that", "this")}, {"answer": "B"})
    assert len({question.digest, *(replace(question, **change).digest for change in changes)}) == 4


def test_a_baseline_keeps_every_sample(tmp_path):
    record = read_record(run_folder(tmp_path / "run", BASE))
    write_baseline(record, tmp_path / "deep" / "baseline.json")
    again = read_record(tmp_path / "deep" / "baseline.json")
    assert again.results == record.results
    assert list(again.samples["skips"]) == list(record.samples["skips"])
    one, kept = record.samples["skips"]["q7"], again.samples["skips"]["q7"]
    assert (kept.correct, kept.tokens, kept.latency_s) == (one.correct, one.tokens, pytest.approx(one.latency_s, 1e-4))


def test_a_baseline_can_be_read_whatever_the_ids_hold(tmp_path):
    results = run_folder(tmp_path / "run", BASE)
    lines = results.with_name("samples.jsonl")
    lines.write_text(lines.read_text().replace('"q7"', r'"q\n7"'))
    record = read_record(results)
    write_baseline(record, tmp_path / "baseline.json")
    again = read_record(tmp_path / "baseline.json")
    assert list(again.samples["skips"]) == list(record.samples["skips"])
    assert "q\n7" in again.samples["full"]


def test_methods_of_different_questions_are_one_sentence(litestage, tmp_path):
    results = run_folder(tmp_path / "run", BASE)
    lines = results.with_name("samples.jsonl")
    lines.write_text(lines.read_text().replace('"q7"', '"other"', 1))
    code, _, told = litestage("gate", results, "--baseline", tmp_path / "baseline.json", "--update")
    assert (code, len(told.strip().splitlines())) == (2, 1)
    assert "the question 'other' under one of 'full' and 'skips' only; run the comparison again" in told


def test_exit_codes_the_step_summary_and_json(tmp_path):
    good = run_folder(tmp_path / "good", BASE)
    bad = run_folder(tmp_path / "bad", {"full": [], "skips": range(60)})
    baseline = ("--baseline", tmp_path / "baseline.json")
    assert gate(good, *baseline)[0] == 2  # there is none yet
    assert gate(good, *baseline, "--update")[0] == 0
    code, out, err = gate(good, *baseline)
    assert (code, "Passed" in out) == (0, True), err
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    code, out, err = gate(bad, *baseline, "--json", env={"GITHUB_STEP_SUMMARY": str(summary), "PATH": "/usr/bin:/bin"})
    assert code == 1, err
    found = json.loads(out.strip().splitlines()[-1])
    assert not found["passed"]
    assert [figure["name"] for figure in found["figures"] if figure["regression"]] == ["accuracy"]
    assert "skips: accuracy fell from 97.0% to 40.0% (-57.0 points), more than noise" in " ".join(out.split())
    told = summary.read_text()
    assert told.startswith("before\n")
    assert "failed" in told
    assert "REGRESSION" in told


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"task": "other_multistage"}, "other_multistage"),
        ({"model": {"name": "another", "fingerprint": "f"}}, "another"),
        ({"schema": "litestage.experiment/1"}, "litestage.experiment/1"),
        ({"methods": []}, "not whole"),
        (
            {"methods": [{"name": "full", "plan": "p", "accuracy": 1.0, "stages": {"recall": {}}}]},
            "methods.0.stages.recall.tokens is missing",
        ),
        ({"n": 7}, "samples"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(litestage, tmp_path, change, named):
    base = run_folder(tmp_path / "base", BASE)
    other = run_folder(tmp_path / "other", BASE)
    other.write_text(json.dumps({**json.loads(other.read_text()), **change}))
    code, _, told = litestage("gate", other, "--baseline", base)
    assert code == 2
    assert named in told
    assert len(told.strip().splitlines()) == 1


# --- real comparisons on the embedded model, and real regressions in them ---

SMALL = (
    *("methods=[full,uniform:20,cosine:4]", "questions=30", "latency_questions=10", "search.calibration=8"),
    *("max_new_tokens.recall=8", "max_new_tokens.analyze=14", "max_new_tokens.summarize=8"),
)


@pytest.fixture(scope="module", autouse=True)
def seconds_by_work():
    """Seconds that follow from what was run, with some noise: a busy machine must not decide what the gate sees."""
    generate, noise, now = Engine.generate, random.Random(0), [0.0]

    def by_work(self, asked, plan, *rest, **options):
        batch = generate(self, asked, plan, *rest, **options)
        tokens = sum(len(row.tokens) for row in batch.generations)
        step_s = 1e-4 * (4 + 24 - len(plan.skip)) * noise.lognormvariate(0, 0.1)
        now[0] += step_s * (1 + tokens)
        return replace(batch, prefill_s=step_s, decode_s=step_s * tokens)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "generate", by_work)
        patch.setattr(Engine, "clock", lambda self: now[0])
        yield


def compared(folder, *more):
    """A real ``litestage compare`` with nothing kept from before."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            sys, "argv", ["litestage", "compare", *SMALL, *more, f"output={folder}", f"store={folder}.sqlite"]
        )
        with pytest.raises(SystemExit) as stop:
            main()
    assert not stop.value.code
    return folder / "results.json"


@pytest.fixture(scope="module")
def baseline(tmp_path_factory):
    folder = tmp_path_factory.mktemp("baseline")
    write_baseline(read_record(compared(folder / "run")), folder / "baseline.json")
    return folder / "baseline.json"


@pytest.fixture
def elsewhere(baseline, tmp_path):
    """The same baseline as if another torch had made it."""
    content = json.loads(baseline.read_text())
    content["environment"]["torch"] = "2.0"
    (tmp_path / "elsewhere.json").write_text(json.dumps(content))
    return tmp_path / "elsewhere.json"


def judged(results, baseline):
    return judge(read_record(baseline), read_record(results), GateOptions())


@pytest.mark.slow
def test_reruns_without_a_change_pass(baseline, elsewhere, tmp_path):
    for run in range(2):
        results = compared(tmp_path / f"run{run}")
        for against in (baseline, elsewhere):
            assert fallen(judged(results, against)) == set()
    assert gate(results, "--baseline", baseline)[0] == 0


@pytest.mark.slow
def test_an_engine_that_skips_nothing_is_caught(baseline, elsewhere, tmp_path, monkeypatch):
    generate = Engine.generate
    monkeypatch.setattr(
        Engine,
        "generate",
        lambda self, asked, plan, *rest, **options: generate(self, asked, StagePlan(), *rest, **options),
    )
    results = compared(tmp_path / "run", "methods=[full,uniform:20]")
    assert ("uniform", "speed-up") in fallen(judged(results, elsewhere))  # by the time it takes, on any machine
    assert "tokens of analyze" in {name for _, name in fallen(judged(results, baseline))}  # and by what it writes
    code, out, _ = gate(results, "--baseline", baseline)
    assert code == 1
    assert "uniform: speed-up fell" in " ".join(out.split())


@pytest.mark.slow
def test_a_worse_ranking_is_caught(baseline, elsewhere, tmp_path, monkeypatch):
    ranking = Importance.ranking
    monkeypatch.setattr(Importance, "ranking", lambda self, *more, **named: ranking(self, *more, **named)[::-1])
    results = compared(tmp_path / "run", "methods=[full,cosine:4]", "latency_questions=2")
    for against in (baseline, elsewhere):
        assert ("cosine", "accuracy") in fallen(judged(results, against))
        assert "full" not in {method for method, _ in fallen(judged(results, against))}


@pytest.mark.slow
def test_a_doubled_token_count_is_caught(baseline, elsewhere, tmp_path, monkeypatch):
    traced = contestant._stage_trace

    def doubled(*arguments):
        trace = traced(*arguments)
        return replace(trace, tokens=tuple(2 * count for count in trace.tokens))

    monkeypatch.setattr(contestant, "_stage_trace", doubled)
    results = compared(tmp_path / "run", "methods=[full,cosine:4]", "latency_questions=2")
    for against in (baseline, elsewhere):
        found = fallen(judged(results, against))
        assert {(method, f"tokens of {stage}") for method in ("full", "cosine") for stage in STAGES} <= found
