"""A plan is immutable data: into YAML and back, a stable hash, and one clear sentence for what is wrong with it."""

import dataclasses
import re

import pytest
import torch
import yaml

from litestage.errors import LiteStageError
from litestage.plan import ExitRule, Plan, SkipSet, StagePlan, load_plan, save_plan


def a_plan(**changes):
    stages = {
        "recall": StagePlan(SkipSet(mhsa=(4, 1), ffn=(3,)), exit=ExitRule(threshold=0.4, window=7)),
        "analyze": StagePlan(
            SkipSet(mhsa=(0,), ffn=(2,)),
            phase="decode",
            compensation="scale",
            tensors={"mhsa.0": torch.tensor(1.25), "ffn.2": torch.tensor(0.75)},
        ),
        "summarize": StagePlan(),
    }
    return Plan(
        **{
            "stages": stages,
            "model": {"name": "tiny", "revision": None, "layers": 5, "fingerprint": "abc"},
            "pipeline": {"name": "three", "hash": "def"},
            "provenance": {"method": "by hand", "accuracy": 0.5},
            **changes,
        }
    )


def refused(act, *named):
    """The error of ``act`` is one clear sentence that names these values."""
    with pytest.raises(LiteStageError) as error:
        act()
    message = str(error.value)
    assert len(message.splitlines()) <= 3
    for value in named:
        assert str(value) in message, message
    return message


def steps(*given, **changes):
    return StagePlan(schedule={"steps": list(given)}, **changes)


def online(**rule):
    return StagePlan(schedule={"online": rule})


# --- schedules ---


def test_which_set_is_in_force_at_a_token():
    small, larger, largest = SkipSet(mhsa=(3,)), SkipSet(mhsa=(3,), ffn=(1,)), SkipSet(mhsa=(3,), ffn=(1, 2))
    growing = {"steps": [{"from": 3, "mhsa": [3], "ffn": [1]}, {"from": 7, "mhsa": [3], "ffn": [2, 1]}]}
    plan = StagePlan(small, schedule=growing)
    assert [plan.skip_at(token) for token in (0, 1, 2, 3, 6, 7, 99)] == [small] * 3 + [larger] * 2 + [largest] * 2
    assert StagePlan(small, phase="decode", schedule=growing).skip_at(0) == SkipSet()
    assert StagePlan(small, phase="decode").skip_at(0) == SkipSet()
    assert StagePlan(small).skip_at(0) == StagePlan(small).skip_at(50) == small
    rule = StagePlan(small, schedule={"online": {"observe": 4, "threshold": 0.9}})
    assert [rule.skip_at(token) for token in (0, 4, 5)] == [small, small, None]


def test_a_schedule_survives_its_yaml(tmp_path):
    plan = Plan({"recall": steps({"from": 5, "ffn": [3, 1]}), "analyze": online(threshold=1)})
    save_plan(plan, tmp_path / "plan.yaml")
    assert load_plan(tmp_path / "plan.yaml") == plan
    assert load_plan(tmp_path / "plan.yaml").hash == plan.hash
    assert plan["recall"].schedule == {"steps": [{"from": 5, "mhsa": [], "ffn": [1, 3]}]}
    assert plan["analyze"].schedule == {"online": {"observe": 20, "threshold": 1.0}}


def test_a_scheduled_layer_that_the_model_lacks_is_named():
    plan = Plan({"recall": steps({"from": 5, "ffn": [3]})})
    plan.validate(layers=4)
    refused(lambda: plan.validate(layers=3), "ffn 3", "'recall'", "0 to 2")


def test_neighbouring_sublayers_are_one_cut():
    assert SkipSet((1, 2, 4, 7), (1, 4, 5, 6)).cuts == [
        [("mhsa", 1), ("ffn", 1), ("mhsa", 2)],
        [("mhsa", 4), ("ffn", 4)],
        [("ffn", 5)],
        [("ffn", 6), ("mhsa", 7)],
    ]


# --- YAML ---


def test_a_plan_survives_its_yaml(tmp_path):
    save_plan(a_plan(), tmp_path / "deep" / "plan.yaml")
    plan = load_plan(tmp_path / "deep" / "plan.yaml")
    assert plan == a_plan()
    assert plan.hash == a_plan().hash
    assert plan.provenance == a_plan().provenance
    assert {key: float(value) for key, value in plan["analyze"].tensors.items()} == {"mhsa.0": 1.25, "ffn.2": 0.75}
    assert plan["recall"].skip.mhsa == (1, 4)
    assert plan["recall"].exit == ExitRule("confidence", 0.4, 7)


def test_the_yaml_is_the_documented_one(tmp_path):
    save_plan(a_plan(), tmp_path / "plan.yaml")
    raw = yaml.safe_load((tmp_path / "plan.yaml").read_text())
    assert list(raw) == ["schema", "model", "pipeline", "stages", "provenance"]
    assert raw["schema"] == "litestage.plan/1"
    assert raw["stages"]["recall"] == {
        "skip": {"mhsa": [1, 4], "ffn": [3]},
        "phase": "both",
        "compensation": "none",
        "schedule": None,
        "exit": {"rule": "confidence", "threshold": 0.4, "window": 7},
    }
    assert (tmp_path / "plan.safetensors").is_file()


def test_a_plan_without_tensors_writes_no_tensors(tmp_path):
    save_plan(Plan.full(["default"]), tmp_path / "plan.yaml")
    assert [path.name for path in tmp_path.iterdir()] == ["plan.yaml"]


def test_a_plan_written_by_hand_may_leave_almost_everything_out(tmp_path):
    (tmp_path / "plan.yaml").write_text(
        "schema: litestage.plan/1\nstages:\n  recall: {skip: {ffn: [3]}, exit: none}\n  summarize:\n"
    )
    plan = load_plan(tmp_path / "plan.yaml")
    assert plan == Plan({"recall": StagePlan(SkipSet(ffn=(3,))), "summarize": StagePlan()})
    assert plan.model is plan.pipeline is None


def test_a_stage_that_is_not_named_runs_at_full_depth():
    assert a_plan()["another"] == StagePlan()
    assert len(a_plan()["another"].skip) == 0
    assert len(a_plan()["recall"].skip) > 0


# --- hash ---


def test_the_hash_is_the_same_tomorrow_and_elsewhere():
    """Fixed numbers: results and reports refer to plans by them."""
    assert Plan.full(["recall", "analyze"]).hash == "7739b3751e7904ae"
    assert a_plan().hash == "9449e9e4f40c222d"


def test_the_hash_ignores_where_a_plan_came_from_and_the_order_of_its_stages():
    plan = a_plan()
    assert a_plan(provenance={}, model=None, pipeline=None).hash == plan.hash
    assert a_plan(stages=dict(reversed(plan.stages.items()))).hash == plan.hash


@pytest.mark.parametrize(
    "change",
    [
        {"skip": SkipSet(mhsa=(0,), ffn=(3,))},
        {"skip": SkipSet(mhsa=(1, 4), ffn=(3, 4))},
        {"skip": SkipSet(mhsa=(3,), ffn=(1, 4))},
        {"phase": "decode"},
        {"exit": None},
        {"exit": ExitRule(threshold=0.41, window=7)},
        {"exit": ExitRule(threshold=0.4, window=6)},
        {"schedule": {"steps": [{"from": 5, "mhsa": [1, 4], "ffn": [2, 3]}]}},
        {"schedule": {"online": {"observe": 20, "threshold": 0.9}}},
    ],
    ids=str,
)
def test_the_hash_changes_with_everything_a_stage_does(change):
    plan = a_plan()
    stages = {**plan.stages, "recall": dataclasses.replace(plan["recall"], **change)}
    assert a_plan(stages=stages).hash != plan.hash


def test_the_hash_changes_with_a_compensations_numbers_and_a_stages_name():
    plan = a_plan()
    tensors = {"mhsa.0": torch.tensor(1.25), "ffn.2": torch.tensor(0.7501)}
    stages = {**plan.stages, "analyze": dataclasses.replace(plan["analyze"], tensors=tensors)}
    assert a_plan(stages=stages).hash != plan.hash
    renamed = {("retell" if name == "recall" else name): stage for name, stage in plan.stages.items()}
    assert a_plan(stages=renamed).hash != plan.hash


# --- immutable ---


def test_nothing_in_a_plan_can_be_changed():
    plan = a_plan()
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.stages = {}
    with pytest.raises(TypeError):
        plan.stages["recall"] = StagePlan()
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan["recall"].phase = "decode"
    with pytest.raises(TypeError):
        plan["analyze"].tensors["ffn.2"] = torch.tensor(2.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan["recall"].skip.ffn = ()


def test_a_plan_does_not_follow_the_dictionary_it_was_made_from():
    stages = {"recall": StagePlan()}
    plan = Plan(stages)
    stages["recall"] = StagePlan(SkipSet(ffn=(1,)))
    assert len(plan["recall"].skip) == 0


def test_with_exit_changes_a_copy_only():
    plan, rule = a_plan(), ExitRule(threshold=0.2)
    changed = plan.with_exit(rule, ["verify"])
    assert {name: stage.exit for name, stage in changed.stages.items()} == dict.fromkeys(
        ("recall", "analyze", "summarize", "verify"), rule
    )
    assert changed["analyze"].skip == plan["analyze"].skip
    assert changed["analyze"].tensors == plan["analyze"].tensors
    assert plan == a_plan()


def test_skip_sets_are_sorted_and_counted():
    skip = SkipSet.of([("ffn", 3), ("mhsa", 5), ("mhsa", 0)])
    assert skip == SkipSet(mhsa=(0, 5), ffn=(3,))
    assert len(skip) == 3
    assert ("mhsa", 5) in skip
    assert ("ffn", 5) not in skip


# --- values that make no sense ---


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: SkipSet(mhsa=(-1,)), ["mhsa", "-1"]),
        (lambda: SkipSet(ffn=("3",)), ["ffn", "'3'"]),
        (lambda: SkipSet(ffn=(1.5,)), ["1.5"]),
        (lambda: SkipSet(ffn=(True,)), ["True"]),
        (lambda: SkipSet(mhsa=(2, 2)), ["mhsa", "twice", "[2, 2]"]),
        (lambda: StagePlan(phase="prefill"), ["'prefill'", "both"]),
        (lambda: StagePlan(phase="decod"), ["did you mean 'decode'"]),
        (lambda: StagePlan(compensation="magic"), ["'magic'", "scale"]),
        (lambda: StagePlan(compensation="lowrank:0"), ["'lowrank:0'"]),
        (lambda: StagePlan(SkipSet(mhsa=(4,)), compensation="scale"), ["'scale'", "mhsa 4", ".safetensors"]),
        (lambda: StagePlan(SkipSet((2, 3), (2,)), compensation="block"), ["'block'", "mhsa 2", ".safetensors"]),
        (lambda: StagePlan(SkipSet((2, 3), (2,)), compensation="merged"), ["'merged'", "ffn 1", ".safetensors"]),
        (lambda: StagePlan(SkipSet(ffn=(2,)), compensation="merged"), ["'merged'", "ffn 2 begins"]),
        (lambda: StagePlan(SkipSet((0,)), compensation="merged"), ["'merged'", "mhsa 0 begins"]),
        (lambda: steps({"from": 5, "ffn": [1]}, compensation="block"), ["'block'", "fixed"]),
        (lambda: StagePlan(schedule={}), ["{}", "steps"]),
        (lambda: StagePlan(schedule={"step": []}), ["'step'", "did you mean 'steps'"]),
        (lambda: StagePlan(schedule={"steps": []}), ["[]", "from: 5"]),
        (lambda: steps({"ffn": [1]}), ["None", "from 1"]),
        (lambda: steps({"from": 0, "ffn": [1]}), ["0", "from 1"]),
        (lambda: steps({"from": 2.5}), ["2.5"]),
        (lambda: steps({"from": 4}, {"from": 4}), ["4", "rise"]),
        (lambda: steps({"from": 4, "fnn": [1]}), ["'fnn'", "did you mean 'ffn'"]),
        (lambda: steps({"from": 4, "ffn": 1}), ["'ffn': 1", "mhsa: [3]"]),
        (lambda: steps({"from": 4, "ffn": [1]}, {"from": 6, "ffn": [2]}), ["ffn 1 again", "token 6", "only grow"]),
        (lambda: steps({"from": 4, "ffn": [1]}, skip=SkipSet(mhsa=(3,))), ["mhsa 3 again", "token 4"]),
        (lambda: online(observe=0, threshold=0.9), ["observe is 0"]),
        (lambda: online(observe=5), ["threshold is None"]),
        (lambda: online(threshold=1.2), ["1.2"]),
        (lambda: online(treshold=0.9), ["'treshold'", "did you mean 'threshold'"]),
        (lambda: ExitRule(threshold=1.5), ["1.5"]),
        (lambda: ExitRule(threshold=-0.1), ["-0.1"]),
        (lambda: ExitRule(window=0), ["0", "at least 1"]),
    ],
)
def test_a_value_that_makes_no_sense_is_named(make, named):
    refused(make, *named)


# --- a plan and what it is for ---


def test_a_plan_that_fits_is_accepted():
    stages = ("recall", "analyze", "summarize")
    a_plan().validate(layers=5, fingerprint="abc", stages=stages, pipeline_hash="def")
    a_plan(model=None, pipeline=None).validate(layers=5, fingerprint="other", stages=stages, pipeline_hash="other")


@pytest.mark.parametrize(
    ("changes", "fits", "named"),
    [
        ({}, {"layers": 6}, ["5 layers", "tiny", "6"]),
        ({}, {"layers": 5, "fingerprint": "xyz"}, ["another model", "abc", "xyz"]),
        ({}, {"layers": 5, "pipeline_hash": "uvw"}, ["another pipeline", "three", "def", "uvw"]),
        ({"model": None}, {"layers": 4}, ["mhsa 4", "'recall'", "0 to 3"]),
        ({"model": None}, {"layers": 2}, ["'recall'", "0 to 1"]),
        ({}, {"layers": 5, "stages": ("recall", "analyse", "summarize")}, ["'analyze'", "did you mean 'analyse'"]),
        ({}, {"layers": 5, "stages": ("think", "say")}, ["'recall'", "say, think"]),
        ({"stages": {}}, {"layers": 5, "stages": ("default",)}, ["no stage 'default'", "none", "uniform:4"]),
        ({"stages": {"default": StagePlan()}}, {"layers": 5, "stages": ("say",)}, ["only the stage 'default'", "say"]),
    ],
)
def test_a_plan_that_does_not_fit_says_what_differs(changes, fits, named):
    refused(lambda: a_plan(**changes).validate(**fits), *named)


def test_a_staged_plan_is_refused_on_a_task_without_stages():
    message = refused(lambda: a_plan().validate(layers=5, stages=("default",)))
    assert "'recall'" in message or "recall" in message
    Plan.full(["default"]).validate(layers=5, stages=("default",))


def test_a_default_stage_may_stand_in_a_staged_plan():
    plan = Plan({"default": StagePlan(SkipSet(ffn=(1,))), "recall": StagePlan()})
    plan.validate(layers=5, stages=("recall", "summarize"))


# --- files ---


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("stages: {}", ["schema", "None", "litestage.plan/1"]),
        ("schema: litestage.plan/2\nstages: {}", ["'litestage.plan/2'"]),
        ("- a list", ["list"]),
        ("", ["NoneType"]),
        ("schema: [", ["is not YAML"]),
        ("schema: litestage.plan/1", ["'stages' is None"]),
        ("schema: litestage.plan/1\nstages: [recall]", ["['recall']"]),
        ("schema: litestage.plan/1\nstage: {}\nstages: {}", ["'stage'", "did you mean 'stages'"]),
        ("schema: litestage.plan/1\nstages: {recall: {skips: {}}}", ["'recall'", "'skips'", "did you mean 'skip'"]),
        ("schema: litestage.plan/1\nstages: {recall: {skip: {mhsa: [0], fnn: [1]}}}", ["'fnn'", "did you mean 'ffn'"]),
        ("schema: litestage.plan/1\nstages: {recall: {skip: {mhsa: [-2]}}}", ["'recall'", "-2"]),
        ("schema: litestage.plan/1\nstages: {recall: {skip: {mhsa: 3}}}", ["'recall'"]),
        ("schema: litestage.plan/1\nstages: {recall: {skip: {mhsa: ab}}}", ["'recall'", "'a'"]),
        ("schema: litestage.plan/1\nstages: {recall: {skip: [1, 2]}}", ["skip is [1, 2]"]),
        ("schema: litestage.plan/1\nstages: {recall: 7}", ["'recall' is 7"]),
        (
            "schema: litestage.plan/1\nstages: {recall: {exit: {treshold: 0.3}}}",
            ["'treshold'", "did you mean 'threshold'"],
        ),
        ("schema: litestage.plan/1\nstages: {recall: {exit: {threshold: high}}}", ["'recall'"]),
        ("schema: litestage.plan/1\nstages: {recall: {exit: 0.5}}", ["exit is 0.5"]),
        ("schema: litestage.plan/1\nstages: {recall: {exit: {window: 2.5}}}", ["2.5"]),
        ("schema: litestage.plan/1\nstages: {recall: {phase: never}}", ["'recall'", "'never'"]),
        ("schema: litestage.plan/1\nstages: {recall: {phase: 3}}", ["'recall'", "3"]),
        ("schema: litestage.plan/1\nstages: {recall: {compensation: 2}}", ["'recall'", "2"]),
        ("schema: litestage.plan/1\nstages: {recall: {schedule: fast}}", ["'recall'", "fast"]),
        ("schema: litestage.plan/1\nmodel: tiny\nstages: {}", ["model", "tiny"]),
        (
            "schema: litestage.plan/1\nstages: {recall: {skip: {ffn: [1]}, compensation: scale}}",
            ["ffn 1", ".safetensors"],
        ),
    ],
)
def test_a_file_that_is_not_a_plan_says_where_and_why(tmp_path, text, named):
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    refused(lambda: load_plan(path), path, *named)


def test_an_absent_file_is_named(tmp_path):
    refused(lambda: load_plan(tmp_path / "nowhere.yaml"), "nowhere.yaml", "litestage search")


def test_a_file_that_is_not_text_is_named(tmp_path):
    (tmp_path / "plan.yaml").write_bytes(b"\xff\xfe\x00\x01")
    refused(lambda: load_plan(tmp_path / "plan.yaml"), "plan.yaml", "UTF-16")


def test_damaged_tensors_are_named(tmp_path):
    save_plan(a_plan(), tmp_path / "plan.yaml")
    (tmp_path / "plan.safetensors").write_bytes(b"not tensors")
    refused(lambda: load_plan(tmp_path / "plan.yaml"), "plan.safetensors")


def test_another_plan_saved_over_one_with_tensors_leaves_none_behind(tmp_path):
    save_plan(a_plan(), tmp_path / "plan.yaml")
    save_plan(Plan.full(["analyze"]), tmp_path / "plan.yaml")
    plan = load_plan(tmp_path / "plan.yaml")
    assert plan.hash == Plan.full(["analyze"]).hash
    assert [path.name for path in tmp_path.iterdir()] == ["plan.yaml"]
    assert re.fullmatch("[0-9a-f]{16}", plan.hash)
