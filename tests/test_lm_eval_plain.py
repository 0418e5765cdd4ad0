"""Ordinary tasks inside lm-eval give the numbers of its own model; under a plan they give others."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
from lm_eval_runs import evaluate, lite_stage, reported
from tiny_model import save_tiny_model

from litestage.errors import LiteStageError

OVER_ROWS = """
task: %s
dataset_path: json
dataset_kwargs: {data_files: {test: %s}}
test_split: test
"""
TASKS = {
    "tiny_choice": """
output_type: multiple_choice
doc_to_text: "{{question}}\\nAnswer:"
doc_to_choice: "{{options}}"
doc_to_target: "{{'ABCD'.index(answer)}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    "tiny_rolling": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}]
""",
    "tiny_generate": """
output_type: generate_until
doc_to_text: "{{question}}\\nAnswer:"
doc_to_target: answer
generation_kwargs: {until: ["\\n"], max_gen_toks: 12, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
""",
}


@pytest.fixture(scope="module")
def plain_tasks(tmp_path_factory) -> Path:
    from litestage.menagerie import load_split

    where = tmp_path_factory.mktemp("tasks")
    questions = [row.question for row in load_split("menagerie", "test")[:12]]
    rows = [
        {"question": q.text, "options": list(q.options), "answer": q.answer, "text": (q.text + " ") * (40 * n + 1)}
        for n, q in enumerate(questions)
    ]
    data = where / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, text in TASKS.items():
        (where / f"{name}.yaml").write_text(OVER_ROWS % (name, data) + text)
    return where


@pytest.mark.slow
@pytest.mark.parametrize("bos", [False, True], ids=["plain tokenizer", "tokenizer adds BOS"])
def test_ordinary_tasks_give_the_same_numbers_as_model_hf(plain_tasks, tmp_path, bos: bool, monkeypatch):
    from lm_eval.models.huggingface import HFLM

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    pretrained = save_tiny_model(tmp_path / "model", bos=bos)
    ours = lite_stage(pretrained=pretrained, plan="full", batch_size=3)
    theirs = HFLM(pretrained=pretrained, device="cpu", batch_size=1)
    mine, hf = (evaluate(lm, *TASKS, include=plain_tasks, limit=12) for lm in (ours, theirs))
    for task in ("tiny_choice", "tiny_generate"):
        assert reported(mine, task) == reported(hf, task)
    assert reported(mine, "tiny_rolling")["word_perplexity"] == pytest.approx(
        reported(hf, "tiny_rolling")["word_perplexity"], rel=1e-4
    )
    for one, other in zip(mine["samples"]["tiny_choice"], hf["samples"]["tiny_choice"], strict=True):
        for mine_of, hf_of in zip(one["filtered_resps"], other["filtered_resps"], strict=True):
            assert mine_of[0] == pytest.approx(hf_of[0], abs=1e-3)
            assert mine_of[1] == hf_of[1]
    texts = [[sample["filtered_resps"] for sample in each["samples"]["tiny_generate"]] for each in (mine, hf)]
    assert texts[0] == texts[1]
    assert len({str(text) for text in texts[0]}) > 1


@pytest.mark.slow
def test_a_plan_changes_ordinary_tasks_and_needs_a_default_stage(plain_tasks, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    tiny = save_tiny_model(tmp_path / "model")

    def first(plan):
        found = evaluate(lite_stage(pretrained=tiny, plan=str(plan)), "tiny_choice", include=plain_tasks)
        return found["samples"]["tiny_choice"][0]["filtered_resps"]

    assert first("full") != first("uniform:4")
    (tmp_path / "plan.yaml").write_text("schema: litestage.plan/1\nstages: {recall: {skip: {mhsa: [1], ffn: []}}}\n")
    with pytest.raises(LiteStageError, match=r"no stage 'default' \(it names recall\)"):
        first(tmp_path / "plan.yaml")
    with pytest.raises(LiteStageError, match="calibration split"):
        first("cosine:2")


def test_generation_keywords_that_are_not_applied_are_refused(plain_tasks, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    model = lite_stage(pretrained=save_tiny_model(tmp_path / "model"))

    def texts(**keywords):
        found = evaluate(model, "tiny_generate", include=plain_tasks, gen_kwargs=keywords or None)
        return [sample["resps"][0][0] for sample in found["samples"]["tiny_generate"]]

    for keywords, complaint in (
        ({"repetition_penalty": 5.0}, "'repetition_penalty' has no use"),
        ({"num_beams": 3}, "'num_beams' has no use"),
        ({"min_new_tokens": 8}, "'min_new_tokens' has no use"),
        ({"max_gen_toks": "many"}, "max_gen_toks is 'many'"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"litestage": 5}, "'litestage' is 5"),
    ):
        with pytest.raises(LiteStageError, match=complaint):
            texts(**keywords)
    assert texts(num_beams=1, repetition_penalty=1.0) == texts()


@pytest.fixture
def said(monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("lm_eval"), "propagate", True)
    return caplog


def scored(context, continuation):
    return SimpleNamespace(args=(context, continuation), task_name="t", doc_id=0)


def test_a_continuation_without_a_token_has_no_likelihood(tmp_path):
    """It would be a certain one, and the best of all."""
    model = lite_stage(pretrained=save_tiny_model(tmp_path / "model"))
    for context in ("Why?", ""):
        with pytest.raises(LiteStageError, match="has no token of its own, so it has no likelihood"):
            model.loglikelihood([scored("Why?", " so"), scored(context, "")])
    with pytest.raises(LiteStageError, match="continuation ' so' of 'Why\\?'"):
        model._loglikelihood_tokens([(("Why?", " so"), [5, 6], [])])


@pytest.mark.parametrize("bos", [False, True])
def test_a_context_of_blanks_alone_is_scored_as_an_empty_one(tmp_path, bos: bool):
    """lm-eval takes the blanks for the continuation's."""
    model = lite_stage(pretrained=save_tiny_model(tmp_path / "model", bos=bos), batch_size=3)
    blank, empty, _ = model.loglikelihood([scored(" ", "a"), scored("", " a"), scored("Where does", " a")])
    assert blank == pytest.approx(empty, abs=1e-4)


def test_prompts_that_lose_their_beginning_are_counted(tmp_path, said):
    model = lite_stage(pretrained=save_tiny_model(tmp_path / "model", context=64))
    asked = SimpleNamespace(args=("a " * 60, {"max_gen_toks": 8}), task_name="t", doc_id=0)
    model.loglikelihood([scored("Why?", " so"), scored("a " * 100, " so"), scored("b " * 100, " so")])
    assert "2 prompts do not fit the model's context of 64 tokens" in said.text
    said.clear()
    model.generate_until([asked])
    assert "1 prompts do not fit" in said.text
    said.clear()
    model.loglikelihood_rolling([scored("a " * 300, "")])
    assert not said.messages


def test_a_chat_template_for_stages_alone_is_said_where_there_are_none(tmp_path, said):
    folder = Path(save_tiny_model(tmp_path / "model"))
    settings = folder / "tokenizer_config.json"
    template = "{% for m in messages %}<{{ m.content }}>{% endfor %}"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "chat_template": template}))
    model = lite_stage(pretrained=str(folder), chat_template=True)
    for _ in range(2):
        model.loglikelihood([scored("Why?", " so")])
    assert said.text.count("--apply_chat_template") == 1
    said.clear()
    model = lite_stage(pretrained=str(folder), chat_template=True)
    model.apply_chat_template([{"role": "user", "content": "Why?"}])
    model.loglikelihood([scored("<Why?>", " so")])
    assert not said.messages


def test_the_chat_template_that_lm_eval_names_is_the_one_that_is_used(tmp_path):
    """It writes the one named into its results, and lets the tokenizer take its default."""
    model = lite_stage(pretrained=save_tiny_model(tmp_path / "model"))
    each = "{% for m in messages %}SIGN{{ m.content }}{% endfor %}"
    model.tokenizer.chat_template = {
        name: each.replace("SIGN", sign) for name, sign in (("default", "?"), ("tool", "!"))
    }
    turns = [{"role": "user", "content": "Why"}]
    assert model.apply_chat_template(turns) == "?Why"
    with pytest.raises(LiteStageError, match="'tol'; did you mean 'tool'"):
        model.chat_template("tol")
    assert model.chat_template("tool") == each.replace("SIGN", "!")
    assert model.apply_chat_template(turns) == "!Why"
    assert model.session.loaded.tokenizer is model.tokenizer  # so the stages' prompts, too


def test_examples_of_a_task_by_likelihood_are_calibration_questions(tmp_path):
    """lm-eval would take test questions, the one that is asked with its answer among them."""
    for split, numbers in {"calibration": range(3), "test": range(3, 6)}.items():
        rows = [{"question": f"What is {number}?", "options": ["odd", "even"], "answer": "A"} for number in numbers]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "ours.yaml").write_text("rows: {calibration: calibration.jsonl, test: test.jsonl}")
    text = "task: numbers\nclass: !function litestage.harness.task.LikelihoodTask\nmetadata: {questions: ours.yaml}\n"
    (tmp_path / "numbers.yaml").write_text(text)
    samples = evaluate(lite_stage(), "numbers", include=tmp_path, limit=3, num_fewshot=3)["samples"]["numbers"]
    for number, sample in enumerate(samples, 3):
        prompt = sample["arguments"][0][0]
        assert all(f"What is {example}?\nAnswer: odd" in prompt for example in range(3))
        assert prompt.endswith(f"What is {number}?\nAnswer:")
        assert prompt.count("What is") == 4
