"""Drafts: guessed tokens are verified, so a draft changes how long decoding takes, never what comes out."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from lm_eval_runs import evaluate, lite_stage
from tiny import FAMILIES, random_prompts, tiny_engine
from tiny_model import save_tiny_model

from litestage.cli.run_plan import show
from litestage.comparison.compare import compare
from litestage.comparison.entrants import entrant_of
from litestage.config import load_config
from litestage.drafts.lookup import Lookup, Phrases
from litestage.engine import Decoding, Request
from litestage.errors import LiteStageError
from litestage.methods.shorthand import parted
from litestage.plan import ExitRule, Plan, SkipSet, StagePlan, load_plan, save_plan
from litestage.plan.draft import Draft
from litestage.plan.words import NO_DRAFTS
from litestage.runner import Contestant
from litestage.session.drafts import self_drafts, that_pay
from litestage.session.workbench import Workbench
from litestage.trace import StageTrace, Trace

PROMPTS = random_prompts((5, 12, 17, 23, 30, 9, 21, 14))
REQUESTS = [Request(prompt, 20, group=index // 2) for index, prompt in enumerate(PROMPTS)]
# analyses of "(A) a mall (B) ... For option A,": "a mall is wrong."
OPEN, A, CLOSE, FOR, IS, WRONG, RIGHT, DOT, EOS, MALL = range(10, 20)
OTHERS = range(30, 42)
ANALYSES = [(A, other, IS, RIGHT if other < 33 else WRONG, DOT, EOS) for other in OTHERS]
QUESTIONS = [[OPEN, A, other, CLOSE, FOR] for other in OTHERS]
NEW = [OPEN, A, MALL, CLOSE, FOR]


def tokens(generations) -> list:
    return [row.tokens for row in generations]


def test_what_followed_in_the_prompt_the_last_time_is_copied():
    lookup = Lookup([1, 2, 3, 4, 1, 2, 5], None, least=0.1)
    assert lookup.guess([9, 1], 2) == [2, 5]  # after 1 stood 2, after 1 2 last a 5
    assert lookup.guess([9, 1, 7], 2) == []
    assert Lookup([1, 2, 3, 4], None, least=0.2).guess([1], 8) == [2, 3]  # 0.5, 0.25, 0.125


def test_a_formula_is_foretold_from_other_questions():
    phrases = Phrases.of(QUESTIONS, ANALYSES)
    lookup = Lookup(NEW, phrases, least=0.2)
    assert phrases.prompt_only == {OPEN, CLOSE, FOR}
    assert lookup.guess([A], 8) == [MALL, IS, WRONG, DOT, EOS]  # copied, and then not CLOSE, which nobody writes
    assert lookup.guess([A, MALL], 2) == [IS, WRONG]
    assert lookup.guess([A, MALL, IS, RIGHT], 8) == [DOT, EOS]


def test_a_draft_ends_where_it_is_not_likely_enough_to_pay():
    phrases = Phrases.of(QUESTIONS, ANALYSES)  # 12 of 12.5 go on with IS, 9 of 12.5 of these with WRONG
    for least, guessed in ((0.0, [IS, WRONG, DOT, EOS]), (0.69, [IS, WRONG]), (0.7, [IS]), (0.97, [])):
        assert Lookup(None, phrases, least).guess([A, MALL], 8) == guessed


def test_a_plan_file_keeps_a_draft_and_what_it_looks_up(tmp_path: Path):
    lookup = Draft(length=5, least=0.3, phrases=Phrases.of(QUESTIONS, ANALYSES))
    drafts = {"recall": Draft(sources=("prompt",)), "analyze": lookup, "summarize": Draft("skip", skip=SkipSet((1,)))}
    plan = Plan.full(("recall", "analyze", "summarize")).with_drafts(drafts)
    save_plan(plan, tmp_path / "plan.yaml")
    read = load_plan(tmp_path / "plan.yaml")
    assert read == plan
    assert read.hash == plan.hash
    assert read["analyze"].draft.phrases.outputs == tuple(ANALYSES)
    assert read["analyze"].draft.lookup(NEW).guess([A, MALL], 8) == [IS, WRONG, DOT, EOS]
    others = Phrases.of(QUESTIONS[:2], ANALYSES[:2])
    assert plan.with_drafts({**drafts, "analyze": replace(lookup, phrases=others)}).hash != plan.hash
    (tmp_path / "plan.safetensors").unlink()
    with pytest.raises(LiteStageError, match=r"stage 'analyze'.*keep the plan's .safetensors file beside it"):
        load_plan(tmp_path / "plan.yaml")


@pytest.mark.parametrize(
    ("draft", "named"),
    [
        ("often", "draft is 'often'"),
        ("{kind: look}", "did you mean 'lookup'"),
        ("{kind: lookup, from: calibration}", "draft from is 'calibration'"),
        ("{kind: lookup, from: [web]}", "draft from is"),
        ("{kind: lookup, from: [prompt], length: 0}", "draft length is 0"),
        ("{kind: lookup, from: [prompt], least: .nan}", "draft least is nan"),
        ("{kind: lookup, from: [prompt], leng: 3}", "did you mean 'length'"),
        ("{kind: skip}", "skips nothing"),
        ("{kind: skip, skip: [1]}", "it holds mhsa and ffn"),
        ("{kind: skip, skip: {mhsa: [-1]}}", "-1"),
    ],
)
def test_a_draft_that_makes_no_sense_is_one_sentence(tmp_path: Path, draft: str, named: str):
    (tmp_path / "plan.yaml").write_text(f"schema: litestage.plan/1\nstages: {{recall: {{draft: {draft}}}}}\n")
    with pytest.raises(LiteStageError, match="recall") as error:
        load_plan(tmp_path / "plan.yaml")
    assert named in str(error.value)
    assert "\n" not in str(error.value)


def test_suffixes_are_read_in_any_order_and_mistakes_are_said():
    assert parted("cosine:8+lookup+exit") == ("cosine:8", ("exit", "lookup"))
    assert parted("full") == ("full", ())
    for spec in ("full+lookup+self", "full+exit+exit", "full+lokup", "full+"):
        with pytest.raises(LiteStageError, match=r"plan 'full\+"):
            parted(spec)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("skip", [SkipSet(), SkipSet(mhsa=(0, 1), ffn=(2,))], ids=["full", "skipping"])
def test_tokens_are_those_of_step_by_step_decoding(family: str, skip: SkipSet):
    engine, plan = tiny_engine(family), StagePlan(skip=skip)
    plain = engine.generate(REQUESTS, plan, Decoding(), confidences=True).generations
    known = Phrases.of(PROMPTS[:6], tokens(plain)[:6])
    misled = Phrases.of(PROMPTS, [tuple(reversed(row)) for row in tokens(plain)])
    for draft in (
        Draft(sources=("prompt",), least=0),
        Draft(phrases=known, least=0),
        Draft(phrases=misled, least=0, length=3),
        Draft("skip", skip=SkipSet(ffn=(1, 3)), length=3),
    ):
        drafting = replace(plan, draft=draft)
        together = engine.generate(REQUESTS, drafting, Decoding(), confidences=True).generations
        alone = [engine.generate([each], drafting, Decoding()).generations[0] for each in REQUESTS[:3]]
        assert tokens(together) == tokens(plain)
        assert tokens(alone) == tokens(plain)[:3]
        assert [row.stop for row in together] == [row.stop for row in plain]
        for ours, theirs in zip(together, plain, strict=True):
            assert ours.confidences == pytest.approx(theirs.confidences, abs=1e-5)


def test_a_known_text_takes_few_steps_and_no_text_more_steps_than_tokens():
    engine = tiny_engine("llama")
    plain = engine.generate(REQUESTS[:1], StagePlan(), Decoding()).generations
    for outputs, most in ((tokens(plain), 4), ([(1, 2, 3)], 20)):
        before = engine.decoder.work.steps
        draft = Draft(phrases=Phrases.of([PROMPTS[0]], outputs), least=0, sources=("calibration",))
        drafted = engine.generate(REQUESTS[:1], StagePlan(draft=draft), Decoding()).generations
        assert drafted == plain
        assert engine.decoder.work.steps - before <= most


def test_limits_stop_strings_and_exits_hold_inside_a_draft():
    engine = tiny_engine("llama")
    written = tokens(engine.generate(REQUESTS[:1], StagePlan(), Decoding()).generations)
    draft = Draft(phrases=Phrases.of([PROMPTS[0]], written), least=0)
    for plan, decoding, limit in (
        (StagePlan(), Decoding(stop=(chr(written[0][6]),)), 20),
        (StagePlan(), Decoding(), 5),
        (StagePlan(), Decoding(), 1),
        (StagePlan(exit=ExitRule(threshold=1.0, window=3)), Decoding(), 20),
    ):
        request = replace(REQUESTS[0], limit=limit)
        plain = engine.generate([request], plan, decoding).generations
        assert engine.generate([request], replace(plan, draft=draft), decoding).generations == plain


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_static_steps_and_drafts_take_turns(family: str):
    """Where nothing is guessed a step is static, and where something is, the host writes it out."""
    engine, plan = tiny_engine(family, "static"), StagePlan()
    plain = engine.generate(REQUESTS, plan, Decoding()).generations
    for draft in (Draft(sources=("prompt",), least=0.4), Draft("skip", skip=SkipSet(mhsa=(1,)), length=2)):
        assert engine.generate(REQUESTS, replace(plan, draft=draft), Decoding()).generations == plain


def test_sampled_texts_are_drawn_token_by_token_as_without_a_draft():
    engine, decoding = tiny_engine("llama"), Decoding(temperature=0.8, seed=3)
    plain = engine.generate(REQUESTS[:2], StagePlan(), decoding).generations
    drafting = StagePlan(draft=Draft(sources=("prompt",), least=0))
    assert engine.generate(REQUESTS[:2], drafting, decoding).generations == plain


def test_a_schedule_has_no_draft():
    with pytest.raises(LiteStageError, match="schedule verifies no draft"):
        StagePlan(schedule={"steps": [[3, {"mhsa": [1], "ffn": []}]]}, draft=Draft(sources=("prompt",)))


@pytest.mark.slow
def test_a_comparison_has_rows_with_drafts_that_answer_as_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    bench = Workbench.open(
        load_config(
            [
                *("task=menagerie", "methods=[full,full+lookup,uniform:2+self+exit,litestage+lookup]", "questions=12"),
                *("latency_questions=6", "search.max_budget=2", "search.calibration=240", f"store={tmp_path / 's'}"),
            ]
        )
    )
    monkeypatch.setattr(
        "litestage.session.session.that_pay", lambda session, plan, drafts, *rest: drafts
    )  # a busy machine
    found = compare(bench)
    rows = {row["name"]: row for row in found.results["methods"]}
    assert list(rows) == ["full", "full+lookup", "uniform+self+exit", "litestage+lookup"]
    assert rows["full+lookup"]["agreement"] == 1.0
    assert "guesses accepted: recall" in rows["full+lookup"]["note"]
    drafted = rows["full+lookup"]["stages"]["summarize"]["draft"]
    assert drafted["guessed"] > 3
    assert drafted["accepted"] > 0.5
    assert "draft" not in rows["full"]["stages"]["summarize"]
    assert rows["uniform+self+exit"]["stages"]["analyze"]["draft"]["guessed"] > 0
    for timed, untimed in ((found.measured[name].latency, found.measured[name].accuracy[:6]) for name in rows):
        assert [stage.token_ids for trace in timed for stage in trace.stages] == [
            stage.token_ids for trace in untimed for stage in trace.stages
        ]
    plan = found.plans["litestage+lookup"]
    save_plan(plan, tmp_path / "plan.yaml")
    assert load_plan(tmp_path / "plan.yaml").certificate == found.search.plan.certificate


def test_drafts_stay_only_where_they_are_faster(monkeypatch: pytest.MonkeyPatch):
    def timed(seconds: float) -> Trace:
        stages = (StageTrace(name, (9,), 0, (5,), ("",), ("eos",), 0.01, s) for name, s in (("a", 0.1), ("b", seconds)))
        return Trace("1", "p", tuple(stages), "A", True, 1.0)

    traces = {"no": [timed(0.2), timed(0.21), timed(0.19)], "yes": [timed(0.1), timed(0.11), timed(0.12)]}
    monkeypatch.setattr("litestage.session.drafts.run", lambda *args, **options: traces)

    class Nothing:
        stage_names = ("a", "b")
        reusing = SimpleNamespace(store=None)

        def contestant(self, *args: object) -> None:
            return None

    drafts = dict.fromkeys(("a", "b"), Draft(sources=("prompt",)))
    assert set(that_pay(Nothing(), Plan.full(("a", "b")), drafts, Nothing(), [])) == {"b"}  # type: ignore[arg-type]


def test_a_draft_without_a_layer_that_the_model_has_not_is_refused():
    drafts = {"recall": Draft("skip", skip=SkipSet(mhsa=(3, 99)))}
    with pytest.raises(LiteStageError, match="drafts without mhsa 99 in stage 'recall', but the model's layers"):
        Plan.full(("recall",)).with_drafts(drafts).validate(layers=12)


def test_calibration_outputs_of_another_plan_are_refused(tmp_path: Path):
    for name, kept in (("one", ANALYSES), ("two", ANALYSES[:2])):
        draft = Draft(phrases=Phrases.of(QUESTIONS[: len(kept)], kept))
        save_plan(Plan.full(("analyze",)).with_drafts({"analyze": draft}), tmp_path / f"{name}.yaml")
    (tmp_path / "two.safetensors").replace(tmp_path / "one.safetensors")
    with pytest.raises(LiteStageError, match=r"stage 'analyze': the calibration outputs .* belong to another plan"):
        load_plan(tmp_path / "one.yaml")


def test_a_stage_that_skips_all_has_nothing_to_draft_without():
    class Ranked:
        def ranking(self) -> list[tuple[str, int]]:
            return [("mhsa", 1), ("ffn", 0), ("mhsa", 0), ("ffn", 1)]

    plan = Plan({"a": StagePlan(skip=SkipSet.of_layers((0, 1))), "b": StagePlan(skip=SkipSet(mhsa=(1,)))})
    drafts = self_drafts(plan, Ranked(), 2, ("a", "b"))  # type: ignore[arg-type]
    assert {stage: draft.skip for stage, draft in drafts.items()} == {"b": SkipSet(ffn=(0,))}


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    return Workbench.open(
        load_config(["task=menagerie", "search.calibration=8", "search.confirm=2", f"store={tmp_path / 's'}"])
    )


def test_whether_drafts_pay_is_timed_on_questions_that_were_not_looked_up(bench, monkeypatch):
    asked = {}

    def looked_up(session, plan, pipeline, questions):
        asked["looked up"] = [question.id for question in questions]
        return dict.fromkeys(pipeline.stage_names, Draft(sources=("prompt",)))

    def timed(session, plan, drafts, pipeline, questions):
        asked["timed"] = [question.id for question in questions]
        return drafts

    monkeypatch.setattr("litestage.session.session.lookup_drafts", looked_up)
    monkeypatch.setattr("litestage.session.session.that_pay", timed)
    assert set(bench.plan("full+lookup").drafts) == set(bench.pipeline.stage_names)
    assert len(asked["timed"]) == 3
    assert asked["timed"] + asked["looked up"] == [question.id for question in bench.calibration()]


def test_a_plan_of_schedules_has_no_drafts_and_nothing_is_measured_for_them(bench, monkeypatch):
    monkeypatch.setattr("litestage.session.session.lookup_drafts", None)  # it is not called
    assert bench.plan("skipdecode:4+lookup").drafts == {}


def test_a_killed_command_takes_up_what_it_has_timed_of_drafts(bench, monkeypatch):
    """Otherwise the same command might make another plan, and could not go on."""
    drafts = dict.fromkeys(bench.pipeline.stage_names, Draft(sources=("prompt",)))
    plan, questions = Plan.full(bench.pipeline.stage_names), bench.calibration()[:3]
    before = Contestant.answer
    answered: list[str] = []
    most = 4  # two to warm up, and the first question both ways

    def counted(self, asked, *, timed=False):
        if len(answered) == most:
            raise KeyboardInterrupt
        answered.extend(question.id for question in asked)
        return before(self, asked, timed=timed)

    monkeypatch.setattr(Contestant, "answer", counted)
    with pytest.raises(KeyboardInterrupt):
        that_pay(bench.session, plan, drafts, bench.pipeline, questions)
    answered.clear()
    most = 99
    that_pay(bench.session, plan, drafts, bench.pipeline, questions)
    assert set(answered) == {question.id for question in questions[1:]}


def test_plan_show_says_what_is_drafted(tmp_path: Path, capsys: pytest.CaptureFixture):
    drafts = {"recall": Draft(sources=("prompt",), length=5), "analyze": Draft("skip", skip=SkipSet((3,), (4, 6)))}
    save_plan(Plan.full(("recall", "analyze", "summarize")).with_drafts(drafts), tmp_path / "plan.yaml")
    show(str(tmp_path / "plan.yaml"), [], as_json=False)
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for word in ("drafts", "5 tokens", "lookup", "8 tokens"):
        assert word in said


def test_a_row_without_drafts_says_so_and_another_model_takes_its_suffix(bench, monkeypatch):
    monkeypatch.setattr("litestage.session.session.that_pay", lambda *args: {})
    monkeypatch.setattr("litestage.session.session.lookup_drafts", lambda *args: {})
    note = entrant_of(bench, "full+lookup", None, {}).note
    assert note == f"drafts: {NO_DRAFTS}"
    half = entrant_of(bench, "full-half+exit+lookup", None, {})
    assert half.note == f"retrained at half the depth; drafts: {NO_DRAFTS}"
    assert all(half.contestant.plan[stage].exit for stage in bench.pipeline.stage_names)


def test_under_lm_eval_drafts_that_sampling_makes_no_use_of_are_said(tmp_path, caplog):
    plan = tmp_path / "plan.yaml"
    stages = ("recall", "analyze", "summarize")
    save_plan(Plan.full(stages).with_drafts(dict.fromkeys(stages, Draft(sources=("prompt",)))), plan)
    model = lite_stage(pretrained=save_tiny_model(tmp_path / "tiny"), plan=str(plan), batch_size=4)
    for keywords, said in (({"do_sample": True, "temperature": 2.0}, 1), (None, 0)):
        caplog.clear()
        evaluate(model, "menagerie_multistage", gen_kwargs=keywords)
        assert caplog.text.count("the drafts of the plan are not used") == said
