"""The Python front door."""

import pytest

import litestage
from litestage.errors import LiteStageError
from litestage.menagerie.questions import load_split


@pytest.fixture(scope="module")
def answerer():
    return litestage.load("reference", plan="uniform:4+exit")


def test_an_answer_has_text_label_option_and_trace(answerer):
    question = load_split("menagerie", "calibration")[0].question
    answer = answerer(question.text, question.options)
    assert answer.label in "ABCD"
    assert answer.option == question.options["ABCD".index(answer.label)]
    assert answer.label in answer.text
    assert [stage.name for stage in answer.trace.stages] == ["recall", "analyze", "summarize"]
    assert len(answer.trace.stages[1].texts) == 4
    assert answer.trace.latency_s > 0


def test_full_depth_knows_its_world():
    full = litestage.load()
    rows = [row.question for row in load_split("menagerie", "calibration")[:20]]
    right = sum(full(question.text, question.options).label == question.answer for question in rows)
    assert right >= 17


def test_a_prompt_longer_than_the_context_is_one_clear_error(answerer):
    with pytest.raises(LiteStageError, match="context holds"):
        answerer("Where does a turtle live? " * 2000, ["river", "swamp"])


def test_bad_input_raises_the_sentence():
    with pytest.raises(LiteStageError, match="no options"):
        litestage.load()("Where does a turtle live?", [])
    with pytest.raises(LiteStageError, match="cosin"):
        litestage.load(plan="cosin:4")


@pytest.mark.parametrize("options", ["ABCD", {"A": "river"}, 5, None, [1, 2], ["river", None]], ids=str)
def test_options_that_are_no_list_of_texts_are_one_clear_error(answerer, options):
    with pytest.raises(LiteStageError, match=r"list of texts|where a text is due"):
        answerer("Where does a turtle live?", options)


def test_paths_devices_and_pipelines_may_be_objects(tmp_path):
    import torch

    (tmp_path / "plan.yaml").write_text("schema: litestage.plan/1\nstages: {recall: {skip: {ffn: [3]}}}\n")
    loaded = litestage.load(plan=tmp_path / "plan.yaml", device=torch.device("cpu"), store=tmp_path / "store.sqlite")
    assert loaded.plan["recall"].skip.ffn == (3,)
    assert litestage.load(pipeline=loaded.pipeline).pipeline is loaded.pipeline
    with pytest.raises(LiteStageError, match="absent"):
        litestage.load(tmp_path / "absent")


def test_a_plan_object_is_checked_against_the_model():
    plan = litestage.Plan.full(["recall"])
    assert litestage.load(plan=plan).plan is plan
    from litestage.plan import SkipSet, StagePlan

    with pytest.raises(LiteStageError, match="99"):
        litestage.load(plan=litestage.Plan({"recall": StagePlan(skip=SkipSet(mhsa=(99,)))}))
