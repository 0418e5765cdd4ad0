"""Plan files, their tensors, and shorthands."""

from functools import partial

import pytest
import torch
import yaml

from litestage.methods.shorthand import parse_shorthand
from litestage.plan import Plan, SkipSet, StagePlan, load_plan, save_plan

HEAD = "schema: litestage.plan/1\n"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- 1",
        "5",
        "{",
        "schema: litestage.plan/2\nstages: {}",
        "schema: 1",
        "stages: {}",
        HEAD,
        HEAD + "stages: []",
        HEAD + "stages: null",
        HEAD + "stages: {a: 5}",
        HEAD + "stages: {a: {skip: 5}}",
        HEAD + "stages: {a: {skip: {mhsa: 5}}}",
        HEAD + "stages: {a: {skip: {mhsa: [x]}}}",
        HEAD + "stages: {a: {skip: {mhsa: [-1]}}}",
        HEAD + "stages: {a: {skip: {mhsa: [1, 1]}}}",
        HEAD + "stages: {a: {skip: {mhsa: [1.5]}}}",
        HEAD + "stages: {a: {skip: {attention: [1]}}}",
        HEAD + "stages: {a: {phase: prefill}}",
        HEAD + "stages: {a: {phase: [both]}}",
        HEAD + "stages: {a: {compensation: x}}",
        HEAD + "stages: {a: {compensation: 5}}",
        HEAD + "stages: {a: {compensation: [scale]}}",
        HEAD + "stages: {a: {skip: {ffn: [1]}, compensation: scale}}",
        HEAD + "stages: {a: {exit: 5}}",
        HEAD + "stages: {a: {exit: {rule: confidance}}}",
        HEAD + "stages: {a: {exit: {threshold: 2}}}",
        HEAD + "stages: {a: {exit: {threshold: x}}}",
        HEAD + "stages: {a: {exit: {threshold: .nan}}}",
        HEAD + "stages: {a: {exit: {window: 0}}}",
        HEAD + "stages: {a: {exit: {window: x}}}",
        HEAD + "stages: {a: {exit: {rule: [a]}}}",
        HEAD + "stages: {a: {exit: {patience: 3}}}",
        HEAD + "stages: {a: {exit: {rule: by_stage}}}",
        HEAD + "stages: {a: {exit: {rule: repetition, times: 0}}}",
        HEAD + "stages: {a: {exit: {1: 2}}}",
        HEAD + "stages: {a: {schedule: 5}}",
        HEAD + "stages: {a: {schedule: {steps: [{from: x}]}}}",
        HEAD + "stages: {a: {schedule: {online: {threshold: .nan}}}}",
        HEAD + "stages: {a: {schedule: {steps: [{from: 1, mhsa: 5}]}}}",
        HEAD + "stages: {a: {schedule: {[a]: b}}}",
        HEAD + "stages: {}\nmodel: 5",
        HEAD + "stages: {}\nmodel: {layers: [12]}",
        HEAD + "stages: {}\nmodel: {layers: many}",
        HEAD + "stages: {}\nextra: 5",
        HEAD + "stages: {}\nprovenance: [x]",
        HEAD + "stages: {}\ncertificate: yes",
        HEAD + "stages: {}\ncertificate: {plan: x}",
        HEAD + "stages: {a: {}, a: {}}",
        HEAD + "stages: {a: {exit: {threshold: true}}}",
    ],
)
def test_a_plan_that_cannot_be_is_one_sentence(one_sentence, tmp_path, text):
    (tmp_path / "plan.yaml").write_text(text)
    one_sentence(lambda: load_plan(tmp_path / "plan.yaml"), "plan.yaml")


def test_the_commands_say_so_too(refused, tmp_path, not_text):
    (tmp_path / "plan.yaml").write_text(HEAD + "stages: {a: {exit: {rule: confidance}}}")
    for command in (("plan", "show"), ("plan", "validate")):
        refused(*command, "plan.yaml", names=["plan.yaml", "confidance", "confidence"])
        refused(*command, "absent.yaml", names=["absent.yaml"])
    (tmp_path / "folder.yaml").mkdir()
    refused("plan", "show", "folder.yaml", names=["folder"])
    for content in not_text.values():
        (tmp_path / "plan.yaml").write_bytes(content)
        refused("plan", "show", "plan.yaml", names=["plan.yaml", "UTF-8"])


def test_a_plans_names_and_hashes_stay_texts(tmp_path):
    (tmp_path / "plan.yaml").write_text(
        HEAD
        + "model: {layers: '012', name: 010, fingerprint: 12e4567}\n"
        + "pipeline: {hash: 0012345678901234}\nstages: {on: {}, 1e5: {}}"
    )
    plan = load_plan(tmp_path / "plan.yaml")
    assert (plan.model["name"], plan.model["fingerprint"], plan.pipeline["hash"]) == (
        "010",
        "12e4567",
        "0012345678901234",
    )
    assert list(plan.stages) == ["on", "1e5"]
    assert plan.model["layers"] == 12


@pytest.mark.parametrize("content", [b"", b"\0" * 7, b"\xff" * 64, b"9" * 100, b"\x02\0\0\0\0\0\0\0{}"])
def test_tensors_that_are_none_are_one_sentence(one_sentence, tmp_path, content):
    stage = {"skip": {"ffn": [1]}, "compensation": "scale"}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump({"schema": "litestage.plan/1", "stages": {"a": stage}}))
    (tmp_path / "plan.safetensors").write_bytes(content)
    one_sentence(lambda: load_plan(tmp_path / "plan.yaml"), "plan.")


@pytest.mark.parametrize(
    ("form", "fits", "others"),
    [
        ("scale", [(), (1,), (8,)], [(3,), (1, 8)]),
        ("affine", [(2, 8)], [(3, 8), (2, 7), (8,)]),
        ("lowrank:2", [(5, 8)], [(4, 8)]),
        ("linear", [(9, 8)], [(8, 8)]),
        ("block", [(8, 8)], [(9, 8), ()]),
        ("tuned", [(32, 8)], [(8, 32), (8,)]),
    ],
)
def test_a_tensor_of_another_shape_is_one_sentence(one_sentence, form, fits, others):
    for shape in (*fits, *others):
        stage = StagePlan(SkipSet(ffn=(1,)), compensation=form, tensors={"ffn.1": torch.ones(shape)})
        check = partial(Plan({"recall": stage}).validate, layers=5, width=8)
        if shape in fits:
            check()
        else:
            one_sentence(check, list(shape), "ffn 1 in stage 'recall'", form)


@pytest.mark.parametrize(("compensation", "key"), [("block", "ffn.1"), ("linear", "ffn.1"), ("tuned", "ffn.3")])
def test_a_skip_set_edited_under_its_compensation_is_one_sentence(one_sentence, tmp_path, compensation, key):
    """A matrix that stood for three sub-layers would stand for two."""
    file, wider = tmp_path / "plan.yaml", SkipSet(mhsa=(2,), ffn=(1, 2))
    rows = {"block": 8, "linear": 9, "tuned": 32}[compensation]
    keys = [f"{kind}.{layer}" for kind, layer in wider.names] if compensation == "linear" else [key]
    tensors = {name: torch.ones(rows, 8) for name in keys}
    plan = Plan({"recall": StagePlan(wider, compensation=compensation, tensors=tensors), "analyze": StagePlan()})
    save_plan(plan, file)
    assert load_plan(file) == plan
    text = file.read_text()
    file.write_text(text.replace("ffn: [1, 2]", "ffn: [1]"))
    one_sentence(lambda: load_plan(file), "'recall' leaves out ffn.1 mhsa.2", "fitted for ffn.1 mhsa.2 ffn.2")


def test_what_is_no_tensor_is_one_sentence(one_sentence):
    stage = StagePlan(SkipSet(ffn=(1,)), compensation="scale", tensors={"ffn.1": "x"})
    one_sentence(lambda: Plan({"recall": stage}).validate(layers=5, width=8), "no tensor", "ffn 1")


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "+exit",
        "full:3",
        "full+",
        "full+exit+exit",
        "full+exti",
        "uniform",
        "uniform:",
        "uniform:x",
        "uniform:-1",
        "uniform:1.5",
        "uniform:1:2",
        "uniform:1e3",
        "random:1:2:3",
        "random:1:-x",
        ":8",
        "UNIFORM:8",
        "nosuch.py:8",
        "uniform:8:",
        " full",
    ],
)
def test_a_shorthand_that_is_none_is_one_sentence(one_sentence, spec):
    one_sentence(lambda: parse_shorthand(spec))
