"""Every shipped pipeline: it renders for any number of options and in every mode, and reads its own kind of answer."""

import os

import pytest

from litestage.conf import available
from litestage.data import load_task
from litestage.stages import Question, load_pipeline
from litestage.stages.pipeline import FAN_OUT_MODES

QUESTIONS = [
    Question("two", "Is rain wet?", ("yes", "no"), "A"),
    Question("four", "What do bees make?", ("honey", "milk", "wool", "silk"), "A"),
    Question("five", "Where is sand?", ("beach", "cloud", "sun", "moon", "ice"), "A"),
]
STAGED = ("recall_analyze_summarize", "recall_analyze_summarize_fewshot")
ITERATIVE = "menagerie_iterative"


def outputs_of(pipeline, question):
    """Something written in every stage, one text per option where it fans out."""
    return {
        stage.name: [f"{stage.name} {label}" for label in question.labels] if stage.per_option else f"all {stage.name}"
        for stage in pipeline.stages
    }


def test_these_pipelines_are_shipped():
    assert set(available("pipeline")) >= {*STAGED, "single", "cot"}


@pytest.mark.parametrize("mode", FAN_OUT_MODES)
@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.id)
@pytest.mark.parametrize("name", available("pipeline"))
def test_every_stage_renders_with_question_options_and_earlier_texts(name: str, question: Question, mode: str):
    pipeline = load_pipeline(name).with_mode(mode)
    outputs: dict = {}
    for stage in pipeline.stages:
        prompts = stage.prompts(question, outputs)
        assert len(prompts) == (len(question.options) if stage.per_option else 1)
        for prompt in prompts:
            assert question.text in prompt
            assert all(f"({option.label}) {option.text}" in prompt for option in question.lettered)
            assert prompt == prompt.rstrip()  # a trailing space would change the next token
            earlier = [text for value in outputs.values() for text in ([value] if isinstance(value, str) else value)]
            if name == ITERATIVE:  # what was written anew stands in the place of what it replaces
                assert not earlier or any(text in prompt for text in earlier)
            else:
                assert all(text in prompt for text in earlier)
        outputs[stage.name] = outputs_of(pipeline, question)[stage.name]


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.id)
def test_the_worked_examples_end_in_the_bare_format(question: Question):
    """What the few-shot prompt adds stands before the question; from there on it is the bare pipeline's prompt."""
    bare, fewshot = map(load_pipeline, STAGED)
    outputs = outputs_of(bare, question)
    for plain, shown in zip(bare.stages, fewshot.stages, strict=True):
        assert (plain.name, plain.fan_out) == (shown.name, shown.fan_out)
        assert shown.stop == ("\n",)
        for short, long in zip(plain.prompts(question, outputs), shown.prompts(question, outputs), strict=True):
            assert long.endswith("\n\n" + short)
            assert long.count("(A)") == 4  # three examples and the question


@pytest.mark.parametrize(
    ("name", "text", "letter"),
    [
        ("recall_analyze_summarize", "So the answer is option B.", "B"),
        ("recall_analyze_summarize", "So the answer is B", None),
        ("recall_analyze_summarize_fewshot", "So the answer is option (D), of course", "D"),
        ("recall_analyze_summarize_fewshot", "So it is option D.", None),
        ("recall_analyze_summarize_chat", "(D", "D"),
        ("recall_analyze_summarize_chat", "B. wool", "B"),
        ("recall_analyze_summarize_chat", "option C", "C"),
        ("recall_analyze_summarize_chat", "A desert", None),
        ("recall_analyze_summarize_chat", "honey", None),
        ("single", "C.", "C"),
        ("single", "(C) honey", "C"),
        ("single", "The answer is option C", "C"),
        ("single", "Bees make honey", None),
        ("cot", "Bees make honey. So the answer is option A.", "A"),
        ("cot", "Hence the answer is (E).", "E"),
        ("cot", "So the answer is honey.", None),
    ],
)
def test_the_answer_is_read_or_counted_as_not_there(name: str, text: str, letter: str | None):
    pipeline = load_pipeline(name)
    assert pipeline.parse_answer({pipeline.stages[-1].name: text}) == letter


@pytest.mark.skipif("LITESTAGE_DATA" not in os.environ, reason="LITESTAGE_DATA names no folder with the real data")
@pytest.mark.parametrize("task", ["obqa", "csqa", "strategyqa"])
def test_no_worked_example_is_a_row_of_the_data(task: str):
    shown = [load_pipeline(name) for name in ("recall_analyze_summarize_fewshot", "recall_analyze_summarize_chat")]
    prompts = "".join(pipeline.stages[0].prompts(QUESTIONS[0], {})[0] for pipeline in shown).lower()
    rows = load_task(task)
    asked = {question.text.lower() for split in rows.splits for question in rows.questions(split)}
    assert asked
    assert not [text for text in asked if len(text) > 20 and text in prompts]
