"""Exit rules in a generation, from the store, calibrated by stage and as data; by hand: test_exit_rules_by_hand.py."""

import re
from dataclasses import replace

import numpy as np
import pytest
from test_parity import PROMPTS, ragged
from tiny import FAMILIES, Characters, random_model, random_prompts, tiny_engine, tiny_model
from transformers import LlamaConfig

from litestage.drafts.lookup import Phrases
from litestage.engine import Decoding, Engine, Request
from litestage.engine.rows import Detokenise
from litestage.errors import LiteStageError
from litestage.plan import ExitRule, Plan, SkipSet, StagePlan, load_plan, save_plan
from litestage.plan.draft import Draft
from litestage.plan.exit import EXIT_RULES, Confidence, by_name
from litestage.plan.exit.rule import Uncut
from litestage.profile.exits import WARM_UP, calibrated_exits
from litestage.stages import Question
from litestage.store import ResultStore, ReusingEngine
from litestage.trace import StageTrace, Trace

# --- in a generation ------------------------------------------------------------------------------------------------

FIRING = [
    ExitRule("relative_drop", ratio=1.0, window=3),
    ExitRule("deepconf", threshold=1e6, window=3, k=7),
    ExitRule("entropy", threshold=0.0, window=3),
    ExitRule("margin", threshold=1.0, window=3),
    ExitRule("repetition", length=1, times=2),
]


@pytest.fixture(scope="module")
def engine():
    return tiny_engine("llama")


def thresholds(uncut, rule, count=3):
    """The rule at some values that fire at some steps of some texts."""
    name = next(iter(rule.signals), None)
    if name is None:
        return [rule]
    means = sorted(
        float(np.mean(g.signals[name][at : at + rule.window]))
        for g in uncut
        for at in range(len(g.tokens) - rule.window + 1)
    )
    places = [len(means) * part // (count + 1) for part in range(1, count + 1)]
    between = [(means[at] + means[at + 1]) / 2 for at in places]
    return [replace(rule, threshold=value) for value in between if value <= 1 or rule.rule != "margin"]


@pytest.mark.parametrize("rule", FIRING, ids=lambda rule: rule.rule)
def test_cutting_the_uncut_generation_equals_running_with_the_rule(engine, rule):
    requests = ragged(random_prompts((6, 11, 19, 27), seed=4), 24)
    uncut = engine.generate(requests, StagePlan(exit=rule.uncut), Decoding(), confidences=True).generations
    detokenise = Detokenise(engine.tokenizer)
    stops = set()
    for tried in [rule, *thresholds(uncut, rule)]:
        ran = engine.generate(requests, StagePlan(exit=tried), Decoding(), confidences=True).generations
        for row, whole in zip(ran, uncut, strict=True):
            cut = whole.cut(tried, 2, detokenise)
            assert (cut.tokens, cut.text, cut.stop) == (row.tokens, row.text, row.stop), tried
        stops |= {(row.stop, len(row.tokens)) for row in ran}
    assert any(stop == "exit" for stop, _ in stops)


class Chatty(Characters):
    """One character of three is the end of a sentence."""

    def decode(self, tokens, skip_special_tokens=True):
        text = super().decode(tokens, skip_special_tokens)
        return "".join("." if ord(character) % 3 == 0 else character for character in text)


@pytest.mark.parametrize("path", ["fast", "static"])
@pytest.mark.parametrize("skip", [SkipSet(), SkipSet(mhsa=(1,), ffn=(0,))])
def test_an_answer_on_trial_is_what_would_follow_and_leaves_nothing_behind(path, skip):
    engine, rule = Engine(tiny_model("llama"), Chatty(), path), ExitRule("answer_probe", words=" So: ")
    shared = random_prompts((17,), seed=5)[0]
    prompts = [(*shared, 9), (*shared, 8, 7), *random_prompts((6, 30), seed=6)]
    requests = [Request(prompt, 16) for prompt in prompts]
    plan = StagePlan(skip)
    silent = engine.generate(requests, plan, Decoding(), confidences=True).generations
    uncut = engine.generate(requests, replace(plan, exit=rule.uncut), Decoding(), confidences=True).generations
    assert [row.tokens for row in uncut] == [row.tokens for row in silent]
    assert [row.confidences for row in uncut] == [pytest.approx(row.confidences, abs=1e-5) for row in silent]
    tried, detokenise = 0, Detokenise(engine.tokenizer)
    for prompt, row in zip(prompts, uncut, strict=True):
        for at, sure in enumerate(row.signals[rule.signals[0]]):
            before = row.tokens[:at]
            if re.search(r"[.!?][\"')\]]*$", detokenise(before)):
                then = engine.next_token_logits([*prompt, *before, *map(ord, " So: ")], plan)
                assert sure == pytest.approx(float(then.softmax(-1).max()), rel=1e-4)
                tried += 1
            else:
                assert sure == 0
    assert tried > 10
    surest = sorted(sure for row in uncut for sure in row.signals[rule.signals[0]])
    for threshold in (surest[-1], surest[-tried // 2], 0):
        at = replace(rule, threshold=threshold)
        ran = engine.generate(requests, replace(plan, exit=at), Decoding(), confidences=True).generations
        cut = [row.cut(at, 2, detokenise) for row in uncut]
        assert [(row.tokens, row.stop) for row in cut] == [(row.tokens, row.stop) for row in ran]
        assert "exit" in {row.stop for row in ran}


def test_drafts_stand_aside_for_answers_on_trial_and_a_schedule_is_refused():
    engine, prompts = Engine(tiny_model("llama"), Chatty()), random_prompts((20, 7, 13), seed=7)
    requests = [Request(prompt, 16) for prompt in prompts]

    def rows(rule, given):
        return engine.generate(requests, StagePlan(exit=rule, draft=given), Decoding()).generations

    known = Phrases.of(prompts, [row.tokens for row in rows(None, None)])
    draft = Draft(sources=("calibration",), phrases=known, least=0)
    assert sum(row.accepted for row in rows(None, draft)) > 10  # several tokens in a pass, no room for a trial between
    (name,) = ExitRule("answer_probe", words=" So: ").signals
    surest = max(sure for row in rows(Uncut(signals=(name,)), None) for sure in row.signals[name])
    rule = ExitRule("answer_probe", words=" So: ", threshold=surest)
    plain, drafted = rows(rule, None), rows(rule, draft)
    assert "exit" in {row.stop for row in plain}
    assert [(row.tokens, row.stop, row.signals, row.accepted) for row in drafted] == [
        (row.tokens, row.stop, row.signals, 0) for row in plain
    ]
    with pytest.raises(LiteStageError, match="'answer_probe' does not go with a schedule"):
        StagePlan(exit=rule, schedule={"steps": [{"from": 2, "ffn": [1]}]})


def test_an_answer_is_not_tried_where_the_context_has_no_room_for_it():
    config = LlamaConfig(**{**FAMILIES["llama"].config.to_dict(), "max_position_embeddings": 40})
    engine, prompt = Engine(random_model(config), Chatty()), random_prompts((20,), seed=7)[0]
    for words, tried in ((" So: ", True), (" So the answer is option", False)):
        rule = ExitRule("answer_probe", words=words)
        (row,) = engine.generate([Request(prompt, 16)], StagePlan(exit=rule.uncut), Decoding()).generations
        assert any(row.signals[rule.signals[0]]) == tried


def test_one_record_serves_all_thresholds_of_a_rule_and_another_rule_has_its_own(engine):
    reusing = ReusingEngine(engine, "f", ResultStore())
    requests = ragged(PROMPTS, 12)

    def generate(rule):
        before = reusing.ran
        made = reusing.generate(requests, StagePlan(exit=rule), Decoding())
        return [(row.tokens, row.stop) for row in made], reusing.ran - before

    for rule in FIRING[1:4]:
        expected = engine.generate(requests, StagePlan(exit=rule), Decoding()).generations
        made, ran = generate(rule)
        assert made == [(row.tokens, row.stop) for row in expected]
        assert ran == len(requests)
        for other in thresholds(engine.generate(requests, StagePlan(exit=rule.uncut), Decoding()).generations, rule):
            assert generate(other)[1] == 0
    assert generate(None)[1] == len(requests)
    assert generate(Confidence(threshold=0.9))[1] == 0  # confidences are in every record
    assert generate(ExitRule("repetition", length=1, times=2))[1] == 0


# --- calibrated by stage --------------------------------------------------------------------------------------------


def test_each_stage_gets_its_own_threshold_from_its_own_texts():
    rule = ExitRule("deepconf", window=1, k=3, eta=50)
    plan = Plan({"recall": StagePlan(exit=rule), "summarize": StagePlan(exit=rule), "analyze": StagePlan()})
    questions = [Question(str(n), "?", ("a", "b"), "A") for n in range(40)]
    asked = []

    def answer(uncut, count):
        some = questions[:count]
        asked.extend(some)
        assert all(stage.exit is None or stage.exit.signals == ("top3",) for stage in uncut.stages.values())
        assert uncut["analyze"].exit is None

        def stage(name, value):
            return StageTrace(name, (1,), 0, (1,), ("",), ("eos",), signals=({"top3": (value,)},))

        return [Trace(q.id, "", (stage("recall", 1.0), stage("summarize", 5.0)), "A", True) for q in some]

    found = calibrated_exits(plan, answer)
    assert len(asked) == WARM_UP
    assert (found["recall"].exit.threshold, found["summarize"].exit.threshold) == (1.0, 5.0)
    assert found["analyze"].exit is None
    assert calibrated_exits(found, lambda uncut, count: pytest.fail("asked again")) is found
    with pytest.raises(LiteStageError, match="'recall' has no threshold"):
        plan.validate(layers=12)
    found.validate(layers=12)


# --- as data --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in EXIT_RULES if name != "by_stage"])
def test_every_rule_goes_into_a_plans_file_and_comes_back(tmp_path, name):
    rule = ExitRule(name)
    assert type(rule) is EXIT_RULES[name]
    assert rule.rule == name
    assert ExitRule(**rule.to_dict()) == rule
    assert str(rule)
    plan = Plan({"recall": StagePlan(exit=rule)})
    save_plan(plan, tmp_path / "plan.yaml")
    assert load_plan(tmp_path / "plan.yaml").hash == plan.hash
    assert load_plan(tmp_path / "plan.yaml")["recall"].exit == rule


@pytest.mark.parametrize("name", [name for name in EXIT_RULES if name != "by_stage"])
def test_what_a_search_tries_of_a_rule_are_rules_of_that_name_each_once(name):
    tried = EXIT_RULES[name].grid()
    assert {rule.rule for rule in tried} == {name}
    assert len(set(tried)) == len(tried) >= 3


def test_a_rule_for_a_stage_that_is_not_there_is_refused():
    rule = ExitRule(rule="by_stage", stages={"recal": {"rule": "sentence_end"}})
    with pytest.raises(LiteStageError, match="exit names the stage 'recal'; did you mean 'recall'"):
        Plan.full(["recall", "analyze"]).with_exit(rule)


def test_a_rule_by_stage_gives_each_stage_its_own_and_others_none():
    given = {"rule": "by_stage", "stages": {"recall": {"rule": "sentence_end"}, "analyze": {"threshold": 0.4}}}
    rule = ExitRule(**given)
    assert ExitRule(**rule.to_dict()) == rule
    plan = Plan.full(("recall", "analyze", "summarize")).with_exit(rule)
    assert plan["recall"].exit == ExitRule("sentence_end")
    assert plan["analyze"].exit == Confidence(threshold=0.4)
    assert plan["summarize"].exit is None
    assert hash(rule) == hash(ExitRule(**given))
    with pytest.raises(LiteStageError, match="by_stage"):
        StagePlan(exit=rule)


def test_the_confidence_rule_is_the_plan_that_it_was():
    """Its hash is in stores and in results that exist."""
    assert Confidence().to_dict() == {"rule": "confidence", "threshold": 0.5, "window": 5}
    assert ExitRule() == ExitRule("confidence", 0.5, 5) == Confidence()


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"rule": "entropi"}, ["'entropi'", "'entropy'"]),
        ({"rule": ["a"]}, ["['a']"]),
        ({"rule": "entropy", "ratio": 1}, ["'entropy'", "'ratio'", "threshold"]),
        ({"rule": "relative_drop", "ratio": 1.5}, ["ratio", "1.5"]),
        ({"rule": "relative_drop", "window": 0}, ["window", "0"]),
        ({"rule": "deepconf", "threshold": -1}, ["threshold", "-1"]),
        ({"rule": "deepconf", "eta": 101}, ["eta", "101"]),
        ({"rule": "deepconf", "k": 0}, ["k", "0"]),
        ({"rule": "entropy", "threshold": "x"}, ["threshold", "'x'"]),
        ({"rule": "margin", "threshold": 2}, ["threshold", "2"]),
        ({"rule": "repetition", "times": 1.5}, ["times", "1.5"]),
        ({"rule": "sentence_end", "sentences": True}, ["sentences", "True"]),
        ({"rule": "convergence", "sentences": 0}, ["sentences", "0"]),
        ({"rule": "convergence", "words": " "}, ["words", "' '"]),
        ({"rule": "convergence", "words": None}, ["words", "None"]),
        ({"rule": "answer_probe", "words": ""}, ["words", "''"]),
        ({"rule": "answer_probe", "threshold": 1.5}, ["threshold", "1.5"]),
        ({"threshold": float("nan")}, ["threshold", "nan"]),
        ({"rule": "entropy", "threshold": float("inf")}, ["threshold", "inf"]),
        ({"rule": "deepconf", "threshold": float("inf")}, ["threshold", "inf"]),
        ({"rule": "by_stage", "stages": {"recall": {1: 2}}}, ["'confidence'", "'1'"]),
    ],
)
def test_a_rule_that_makes_no_sense_is_told_in_one_sentence(given, named):
    with pytest.raises(LiteStageError) as error:
        ExitRule(**given)
    for word in named:
        assert word in str(error.value)


def test_a_rule_and_its_parameters_are_options_of_every_command():
    from litestage.config import load_config

    assert load_config([]).exit == Confidence().to_dict()
    assert load_config(["exit.threshold=0.4", "exit.window=3"]).exit == Confidence(threshold=0.4, window=3).to_dict()
    chosen = load_config(["exit.rule=relative_drop", "exit.ratio=0.7"]).exit
    assert chosen == {"rule": "relative_drop", "ratio": 0.7, "window": 5}
    assert load_config(["exit={rule: sentence_end, sentences: 2}"]).exit == {"rule": "sentence_end", "sentences": 2}
    for override, named in (("exit.rule=deepcon", "'deepconf'"), ("exit.patience=3", "'patience'")):
        with pytest.raises(LiteStageError, match=f"exit: .*{named}"):
            load_config([override])


# --- on the embedded model ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_deepconf_is_calibrated_where_it_is_used_by_the_clock_and_from_the_store(tmp_path):
    from litestage.config import load_config
    from litestage.session.workbench import Workbench

    options = [f"store={tmp_path / 'store.sqlite'}", "exit={rule: deepconf, eta: 10, window: 4}"]
    bench = Workbench.open(load_config([*options, "search.calibration=12"]))
    plan = bench.plan("full+exit")
    found = {name: stage.exit.threshold for name, stage in plan.stages.items()}
    assert len(set(found.values())) == 3  # each stage its own
    assert bench.plan("full+exit").hash == plan.hash
    questions = bench.task.questions("test")[:3]
    kept = bench.session.run(questions, {"cut": plan}, bench.pipeline)["cut"]
    timed = bench.session.run(questions, {"cut": plan}, bench.pipeline, timed=True)["cut"]
    texts = [[stage.texts for stage in trace.stages] for trace in kept]
    assert texts == [[stage.texts for stage in trace.stages] for trace in timed]
    assert any("exit" in stage.stops for trace in kept for stage in trace.stages)
    with pytest.raises(LiteStageError, match=r"has no threshold.*exit\.threshold"):
        Workbench.open(load_config([*options, "search.exit=true", "search.calibration=4"]), bench.session).search()


def test_two_rules_of_one_name_are_refused():
    """A copy of a shipped rule, to begin one's own with, would otherwise run wherever a plan names the shipped one."""

    class Copied(ExitRule):
        rule = "confidence"

    assert by_name([Confidence, Uncut]) == {"confidence": Confidence, "uncut": Uncut}
    with pytest.raises(LiteStageError, match=f"confidence and {__name__} are both called 'confidence'; rename one"):
        by_name([Confidence, Uncut, Copied])
