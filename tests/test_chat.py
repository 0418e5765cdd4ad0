"""Pipelines for untuned instruct models: worked examples as turns, a reply that is begun, through the chat template."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from tiny_model import save_tiny_model

from litestage.data import load_task
from litestage.data.task import FEWSHOT
from litestage.engine import common_prefix
from litestage.errors import LiteStageError
from litestage.plan import Plan, load_plan
from litestage.stages import Pipeline, Prompt, Question, Stage, load_pipeline

CHAT = "recall_analyze_summarize_chat"
QUESTION = Question("q", "What do bees make?", ("honey", "milk", "wool"), "A")
OUTPUTS = {"recall": "Bees collect nectar", "analyze": ["bees make it", "cows give it", "sheep grow it"]}
TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}</{{ message.role }}>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    from litestage.session import Session

    opened = Session.open(save_tiny_model(tmp_path_factory.mktemp("tiny"), context=4096), device="cpu")
    opened.loaded.tokenizer.chat_template = TEMPLATE
    return replace(opened, chat_template=True)


@pytest.fixture
def chat():
    return load_pipeline(CHAT)


def shown(session, prompt) -> str:
    return session.loaded.tokenizer.decode(session.encode(prompt))


def test_examples_are_turns_and_the_reply_is_begun(session, chat):
    (recall,) = chat.stages[0].prompts(QUESTION, {})
    text = shown(session, recall)
    assert text.count("<user>") == len(chat.stages[0].examples) + 1
    assert "<assistant>Water evaporates faster" in text
    assert text.endswith("recall a fact that helps to answer this question.</user><assistant>")
    texts = [shown(session, prompt) for prompt in chat.stages[1].prompts(QUESTION, OUTPUTS)]
    for label, text in zip("ABC", texts, strict=True):
        assert "Fact: Bees collect nectar." in text
        assert text.endswith(f"<assistant>For option {label},")
    (summarize,) = chat.stages[2].prompts(QUESTION, OUTPUTS)
    assert shown(session, summarize).endswith("<assistant>So the answer is")
    assert "<assistant>So the answer is (C) a wrench.</assistant>" in shown(session, summarize)


def test_a_stages_examples_are_asked_as_the_question_is(chat):
    """Each example's user turn is what the stage would ask of that example's question."""
    example = chat.stages[2].examples[0]
    asked = chat.stages[2].prompts(example.question, example.texts)[0]
    assert asked.turns[-1] == asked.turns[0]
    assert asked.turns[1].content == "So the answer is (A) moving air carries the vapour away."


def test_options_share_all_but_the_end_of_their_prompts(session, chat):
    prompts = [session.encode(prompt) for prompt in chat.stages[1].prompts(QUESTION, OUTPUTS)]
    shared = common_prefix(prompts)
    assert "<assistant>For option" in session.loaded.tokenizer.decode(shared[-40:])


def test_in_joint_mode_the_examples_answer_for_every_option(session, chat):
    joint = chat.with_mode("joint").stages[1]
    (prompt,) = joint.prompts(QUESTION, OUTPUTS)
    assert shown(session, prompt).endswith("whether it is correct, and why.</user><assistant>")
    assert "so it is incorrect. For option B, one person cannot carry" in prompt


def test_without_a_template_the_turns_are_written_out(session, chat):
    (prompt,) = chat.stages[2].prompts(QUESTION, OUTPUTS)
    plain = replace(session, chat_template=False)
    assert plain.encode(prompt) == list(session.loaded.tokenizer(str(prompt))["input_ids"])
    assert prompt.startswith("User: Why does a wet towel")
    assert prompt.endswith("Which option is the answer?\n\nAssistant: So the answer is")


def test_a_prompt_without_turns_is_one_users_turn_as_before(session):
    (prompt,) = load_pipeline(FEWSHOT).stages[0].prompts(QUESTION, {})
    for asked in (prompt, str(prompt)):
        assert shown(session, asked) == f"<user>{prompt}</user><assistant>"


def test_what_was_written_goes_on_in_the_reply(session):
    for prompt, reply in (
        (Prompt("Why?"), "Because."),
        (Prompt.of_turns(Prompt("Why?").turns, ""), "Because."),
        (Prompt.of_turns(Prompt("Why?").turns, "Well,"), "Well, Because."),
    ):
        written = prompt + " Because."
        assert shown(session, written) == f"<user>Why?</user><assistant>{reply}"
        assert str(written) == f"{prompt} Because."


@pytest.mark.parametrize("task", ["obqa", "csqa", "strategyqa"])
def test_with_a_chat_template_the_few_shot_tasks_go_through_the_chat(task):
    task = load_task(task)
    assert (task.through().name, task.through(chat=True).name) == (FEWSHOT, CHAT)
    assert task.through(FEWSHOT, chat=True).name == FEWSHOT  # asked for by name
    assert load_task("menagerie").through(chat=True) == load_task("menagerie").through()


def test_a_question_runs_through_the_chat(session, chat):
    plan = Plan.full(chat.stage_names)
    short = chat.with_limits(dict.fromkeys(chat.stage_names, 3))
    (timed,), (untimed,) = (session.run([QUESTION], {"full": plan}, short, timed=t)["full"] for t in (True, False))
    assert [stage.texts for stage in timed.stages] == [stage.texts for stage in untimed.stages]
    assert timed.stages[1].shared_tokens >= timed.stages[1].prompt_tokens[0] - 4
    assert timed.answer in QUESTION.labels


def test_shipped_pipelines_keep_the_hashes_that_plans_name():
    """Plans found before pipelines could be chats still fit them."""
    found = load_plan(Path(__file__).parents[1] / "reports" / "menagerie" / "plan.yaml")
    assert found.pipeline["hash"] == load_task("menagerie").through().hash


# --- what is refused ---

ONE = {"name": "one", "prompt": "{{ question }}", "max_new_tokens": 5}
EXAMPLE = {"question": "Why?", "options": ["so", "no"], "answer": "A", "one": "because"}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"examples": [{**EXAMPLE, "answer": "C"}]}, ["'C'", "A, B"]),
        ({"examples": [{**EXAMPLE, "option": "D"}]}, ["Example 1", "'D'", "A, B"]),
        ({"examples": [EXAMPLE, {"question": "Why?", "options": ["so"]}]}, ["Example 2", "'answer'"]),
        ({"examples": [{**EXAMPLE, "one": ["a", "b"]}]}, ["'Why?'", "one text", "'one'"]),
        ({"examples": [{k: v for k, v in EXAMPLE.items() if k != "one"}]}, ["'Why?'", "'one'"]),
        ({"stages": [{**ONE, "fan_out": "options"}], "examples": [EXAMPLE]}, ["list of 2 texts", "'one'"]),
        ({"examples": ["one"]}, ["Example 1", "question"]),
        ({"examples": [{**EXAMPLE, "options": "so"}]}, ["Example 1", "'so'", "list"]),
        ({"stages": [{**ONE, "reply": "{{ optoin }}"}]}, ["'one'", "'optoin'", "did you mean 'option'"]),
        ({"stages": [{**ONE, "reply": "{% if %}"}]}, ["reply", "'one'", "Jinja2"]),
        ({"answer": {"pattern": "([A-Z])", "choose": "likelyhood"}}, ["'likelyhood'", "did you mean 'likelihood'"]),
        ({"answer": {"patern": "([A-Z])"}}, ["'patern'", "did you mean 'pattern'"]),
        ({"answer": {"choose": "likelihood"}}, ["pattern"]),
        ({"answer": {"pattern": "[A-Z]"}}, ["exactly one"]),
        (
            {"stages": [{**ONE, "fan_out": "options"}], "answer": {"pattern": "([A-Z])", "choose": "likelihood"}},
            ["'likelihood'", "last stage"],
        ),
    ],
)
def test_a_file_that_cannot_work_is_refused_in_one_sentence(tmp_path, change, named):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"stages": [ONE], **change}))
    with pytest.raises(LiteStageError) as error:
        load_pipeline(path)
    assert len(str(error.value).splitlines()) == 1
    for value in ("mine.yaml", *named):
        assert value in str(error.value)


def test_the_hash_changes_with_reply_examples_and_choice(tmp_path):
    def hashed(**change):
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"stages": [ONE], "answer": "([A-Z])", **change}))
        return load_pipeline(tmp_path / "mine.yaml").hash

    same = hashed()
    assert hashed(answer={"pattern": "([A-Z])", "choose": "none", "cue": "Hence"}) == same
    assert Pipeline("code", (Stage("one", "{{ question }}", 5),), "([A-Z])").hash == same
    different = {
        same,
        hashed(stages=[{**ONE, "reply": "Well,"}]),
        hashed(examples=[EXAMPLE]),
        hashed(examples=[{**EXAMPLE, "one": "since"}]),
        hashed(answer={"pattern": "([A-Z])", "choose": "likelihood"}),
        hashed(answer={"pattern": "([A-Z])", "choose": "likelihood", "cue": "Hence"}),
    }
    assert len(different) == 6
