"""The model and the staged tasks inside lm-eval, in one process. The real command is in test_install.py, all other
tasks in test_lm_eval_plain.py.
"""

import copy
import json
import logging
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
from lm_eval_runs import evaluate, lite_stage, reported
from tiny_model import save_tiny_model

from litestage.conf import folder
from litestage.errors import LiteStageError
from litestage.harness.metrics import STOPS, metric_names, metrics
from litestage.harness.staged import decoding_of
from litestage.trace import StageTrace, Trace

STAGES = ("recall", "analyze", "summarize")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> str:
    return save_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def model(tiny):
    def make(**arguments):
        return lite_stage(**{"pretrained": tiny, "plan": "uniform:2+exit", **arguments})

    return make


def test_a_staged_task_reports_exactly_the_promised_figures(model):
    results = evaluate(model(), "menagerie_multistage")
    figures = {
        name: value for name, value in reported(results, "menagerie_multistage").items() if "_stderr" not in name
    }
    by_stage = ["tokens", "prefill_s", "decode_s", *(f"stop_{reason}" for reason in STOPS)]
    overall = ["acc", "parse_failure", "chosen_by_likelihood", "tokens", "latency_s"]
    promised = [*overall, *(f"{f}_{stage}" for stage in STAGES for f in by_stage)]
    assert sorted(figures) == sorted(promised)
    assert all(isinstance(value, float) for value in figures.values())
    seconds = [figures[f"{phase}_s_{stage}"] for stage in STAGES for phase in ("prefill", "decode")]
    assert all(value > 0 for value in seconds)
    assert sum(seconds) < figures["latency_s"] < 1.5 * sum(seconds) + 0.05  # the rest is little
    assert figures["tokens"] == sum(figures[f"tokens_{stage}"] for stage in STAGES)
    for stage in STAGES:
        assert sum(figures[f"stop_{reason}_{stage}"] for reason in STOPS) == pytest.approx(1)
    listed = results["configs"]["menagerie_multistage"]["metric_list"]
    assert sorted(entry["metric"] for entry in listed) == sorted(promised)
    assert all(entry["aggregation"] == "mean" and isinstance(entry["higher_is_better"], bool) for entry in listed)
    assert results["higher_is_better"]["menagerie_multistage"]["acc"] is True
    assert results["higher_is_better"]["menagerie_multistage"]["latency_s"] is False


def test_model_info_names_plan_engine_hardware_and_how_latency_was_measured(model):
    timed = model()
    evaluate(timed, "menagerie_multistage", limit=1)
    info = timed.get_model_info()
    plan = info["plans"]["menagerie"]
    assert len(plan["plan_hash"]) == 16
    assert (plan["method"], plan["pipeline"]) == ("uniform", "recall_analyze_summarize")
    assert plan["skipped"] == dict.fromkeys(STAGES, 2)
    assert len(info["model_fingerprint"]) == 16
    assert {"engine", "hardware", "dtype", "device", "torch"} <= set(info["environment"])
    assert "alone" in info["latency"]
    assert info["memory"]["peak_resident_mb"] > 0
    assert "not measured: 8 questions" in model(batch_size=8).get_model_info()["latency"]
    json.dumps(info)


def test_two_tasks_of_one_name_through_two_pipelines_both_stand_in_the_model_info(model, tmp_path):
    text = "task: {0}\nclass: !function litestage.harness.task.StagedTask\ngeneration_kwargs: {{litestage: {1}}}\n"
    for name, request in (("one", "{task: menagerie}"), ("two", "{task: menagerie, pipeline: single}")):
        (tmp_path / f"{name}.yaml").write_text(text.format(name, request))
    timed = model()
    evaluate(timed, "one", "two", include=tmp_path, limit=1)
    plans = timed.get_model_info()["plans"]
    assert [plan["pipeline"] for plan in plans.values()] == ["recall_analyze_summarize", "single"]


def test_a_batched_run_reports_no_seconds_and_lists_none(model):
    results = evaluate(model(batch_size=4), "menagerie_multistage", limit=3)
    figures = reported(results, "menagerie_multistage")
    assert not [name for name in figures if "latency" in name or "_s_" in name]
    listed = {entry["metric"] for entry in results["configs"]["menagerie_multistage"]["metric_list"]}
    assert listed == set(metric_names(STAGES, timed=False))
    for sample in results["samples"]["menagerie_multistage"]:
        assert listed <= set(sample)  # lm-eval's W&B logger reads every listed metric of every sample
    assert "NaN" not in json.dumps(results["results"])


def test_batched_and_timed_runs_write_the_same_text(model):
    texts = []
    for batch_size in (1, 4):
        samples = evaluate(model(batch_size=batch_size), "menagerie_five_multistage", limit=3)["samples"]
        texts.append([sample["resps"][0][0] for sample in samples["menagerie_five_multistage"]])
    assert texts[0] == texts[1]
    assert all(text.startswith("recall: ") for text in texts[0])


@pytest.mark.parametrize("given_to", ["model", "command"])
def test_another_pipeline_brings_its_own_figures(model, given_to: str):
    metadata = {"pipeline": "single"} if given_to == "command" else None  # lm_eval hands --model_args to the tasks
    results = evaluate(model(pipeline="single"), "menagerie_yesno_multistage", metadata=metadata)
    figures = {name for name in reported(results, "menagerie_yesno_multistage") if "_stderr" not in name}
    assert figures == set(metric_names(["answer"]))


def test_generation_keywords_choose_sampling_and_unknown_ones_are_refused(model):
    greedy, one, again, other = (
        [
            sample["resps"][0][0]
            for sample in evaluate(model(batch_size=4), "menagerie_multistage", gen_kwargs=keywords)["samples"][
                "menagerie_multistage"
            ]
        ]
        for keywords in (
            None,
            {"do_sample": True, "temperature": 2.0, "seed": 1},
            {"do_sample": True, "temperature": 2.0, "seed": 1},
            {"do_sample": True, "temperature": 2.0, "seed": 2},
        )
    )
    assert one == again
    assert len({*map(tuple, (greedy, one, other))}) == 3
    with pytest.raises(LiteStageError, match="did you mean 'temperature'"):
        evaluate(model(), "menagerie_multistage", gen_kwargs={"temperatur": 1})
    for keywords, complaint in (({"until": ["x"]}, "until is .*pipeline"), ({"litestage": 5}, "'litestage' is 5")):
        with pytest.raises(LiteStageError, match=complaint):
            evaluate(model(), "menagerie_multistage", gen_kwargs=keywords)
    with pytest.raises(LiteStageError, match="temperature is 0"):
        decoding_of({"do_sample": True, "temperature": 0})


@pytest.mark.parametrize("no", ["no", "False", "off", "0", 0, False])
def test_what_means_no_does_not_sample_and_what_is_neither_is_refused(no):
    assert decoding_of({"do_sample": no, "temperature": 2.0}).temperature == 0
    assert decoding_of({"do_sample": "yes", "temperature": 2.0}).temperature == 2
    with pytest.raises(LiteStageError, match="do_sample is 'maybe'"):
        decoding_of({"do_sample": "maybe"})


def test_lm_evals_seed_chooses_the_samples(model):
    one, again, other = (
        evaluate(
            model(batch_size=4),
            "menagerie_multistage",
            gen_kwargs={"do_sample": True, "temperature": 2.0},
            torch_random_seed=seed,
        )["samples"]["menagerie_multistage"][0]["resps"]
        for seed in (1, 1, 2)
    )
    assert one == again != other


@pytest.mark.parametrize("batch_size", [1, 4])
def test_repeats_are_different_samples_and_greedy_ones_the_same(model, tmp_path, batch_size: int):
    hot = "{until: [], do_sample: true, temperature: 3.0, litestage: {task: menagerie}}"
    text = "task: repeated\nclass: !function litestage.harness.task.StagedTask\nrepeats: 4\ngeneration_kwargs: "
    (tmp_path / "repeated.yaml").write_text(text + hot + "\n")
    store = str(tmp_path / "store.sqlite")
    first, again = (
        [
            sample["resps"][0]
            for sample in evaluate(
                model(store=store, batch_size=batch_size), "repeated", include=tmp_path, log_samples=True
            )["samples"]["repeated"]
        ]
        for _ in range(2)
    )
    assert first == again
    assert [len(set(answers)) for answers in first] == [4, 4]
    (tmp_path / "repeated.yaml").write_text(text + "{litestage: {task: menagerie}}\n")
    greedy = evaluate(model(batch_size=batch_size), "repeated", include=tmp_path)["samples"]["repeated"]
    assert [len(set(sample["resps"][0])) for sample in greedy] == [1, 1]


def test_what_a_killed_run_had_finished_is_in_the_store_that_was_named(model, tmp_path, monkeypatch):
    from litestage.runner import Contestant
    from litestage.store import ResultStore, default_store_path

    answer, asked = Contestant.answer, []

    def breaking(self, questions, *, timed=False):
        asked.extend(questions)
        if len(asked) == 4:  # the warm-up, then two questions
            raise KeyboardInterrupt
        return answer(self, questions, timed=timed)

    path = tmp_path / "store.sqlite"
    with monkeypatch.context() as crash:
        crash.setattr(Contestant, "answer", breaking)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            evaluate(model(store=str(path)), "menagerie_multistage", limit=4)
    kept = "SELECT COUNT(*) FROM results WHERE key LIKE 'journal/%'"
    assert ResultStore(path).connection.execute(kept).fetchone() == (2,)
    assert not (default_store_path().parent / "journals").exists()
    asked.clear()
    monkeypatch.setattr(
        Contestant,
        "answer",
        lambda self, questions, *, timed=False: asked.extend(questions) or answer(self, questions, timed=timed),
    )
    evaluate(model(store=str(path)), "menagerie_multistage", limit=4)
    assert len(asked) == 1 + 2
    assert ResultStore(path).connection.execute(kept).fetchone() == (0,)


def test_a_chat_template_wraps_every_stage_prompt(model):
    without, wrapped = model(), model()
    wrapped.tokenizer.chat_template = "USER:{{ messages[0]['content'] }}ASSISTANT:"
    plain = evaluate(without, "menagerie_multistage", limit=1)["samples"]["menagerie_multistage"][0]
    chat = evaluate(wrapped, "menagerie_multistage", limit=1, apply_chat_template=True)["samples"]
    chat = chat["menagerie_multistage"][0]
    overhead = len(wrapped.tokenizer("USER:")["input_ids"])
    (before,), (after,) = ([r.stats for r in s["filtered_resps"]] for s in (plain, chat))
    assert after.stages[0].prompt_tokens[0] >= before.stages[0].prompt_tokens[0] + overhead
    with pytest.raises(LiteStageError, match="no chat template"):
        evaluate(model(), "menagerie_multistage", limit=1, apply_chat_template=True)


@pytest.fixture
def bees(tmp_path) -> Path:
    """A task of one's own, as README has it: staged, and by likelihood."""
    row = {"question": "What do bees make?", "options": ["honey", "milk", "wool"], "answer": "A"}
    rows = [{**row, "id": str(number), "question": f"What do {number} bees make?"} for number in range(3)]
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (tmp_path / "bees.yaml").write_text("rows: {calibration: rows.jsonl, test: rows.jsonl}\n")
    folder = tmp_path / "tasks"
    folder.mkdir()
    for kind, questions in (
        ("Staged", f"generation_kwargs: {{litestage: {{task: {tmp_path / 'bees.yaml'}}}}}"),
        ("Likelihood", f"metadata: {{questions: {tmp_path / 'bees.yaml'}}}"),
    ):
        name = f"bees_{kind.lower()}"
        text = f"task: {name}\nclass: !function litestage.harness.task.{kind}Task\n{questions}\n"
        (folder / f"{name}.yaml").write_text(text)
    return folder


def test_with_a_chat_template_an_untuned_model_answers_every_question(model, bees, tmp_path_factory):
    """README's command shape: its few-shot tasks become chats, and what cannot be read is chosen by likelihood."""
    roomy = save_tiny_model(tmp_path_factory.mktemp("roomy"), context=8192)
    chatting = model(pretrained=roomy, plan="uniform:2")
    chatting.tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<reply>{% endif %}"
    )
    results = evaluate(chatting, "bees_staged", include=bees, apply_chat_template=True)
    figures = reported(results, "bees_staged")
    assert (figures["parse_failure"], figures["chosen_by_likelihood"]) == (0, 1)  # a random model's text is noise
    assert chatting.get_model_info()["plans"]["bees"]["pipeline"] == "recall_analyze_summarize_chat"
    for sample in results["samples"]["bees_staged"]:
        assert sample["resps"][0][0].splitlines()[-1] in [f"by likelihood: {letter}" for letter in "ABC"]
    evaluate(chatting, "bees_staged", include=bees)
    assert chatting.get_model_info()["plans"]["bees"]["pipeline"] == "recall_analyze_summarize_fewshot"


def test_the_same_questions_by_likelihood_as_lm_evals_own_model_answers_them(model, tiny, bees):
    figures = {}
    for name, lm in (("ours", model(plan="full")), ("hf", "hf")):
        more = {} if name == "ours" else {"model_args": f"pretrained={tiny},device=cpu,dtype=float32"}
        results = evaluate(lm, "bees_likelihood", include=bees, limit=3, **more)
        figures[name] = reported(results, "bees_likelihood")
        samples = results["samples"]["bees_likelihood"]
        figures[name]["scores"] = [pytest.approx(resp[0][0], abs=1e-3) for s in samples for resp in s["resps"]]
        assert samples[0]["arguments"][1] == ("Question: What do 0 bees make?\nAnswer:", " milk")
    assert {"acc", "acc_norm"} <= set(figures["ours"])
    assert [score.expected for score in figures["ours"].pop("scores")] == figures["hf"].pop("scores")
    assert figures["ours"] == figures["hf"]


def test_a_task_by_likelihood_without_questions_is_refused():
    from litestage.harness.task import LikelihoodTask

    with pytest.raises(LiteStageError, match="names no questions"):
        LikelihoodTask({"task": "mine"})


def test_a_response_of_another_model_is_refused_with_the_reason():
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(folder("tasks")), include_defaults=False)
    task = manager.load(["menagerie_multistage"])["tasks"]["menagerie_multistage"]
    with pytest.raises(LiteStageError, match=r"'menagerie_multistage'.*--model litestage"):
        task.process_results(task.eval_docs[0], ["So the answer is option A."])


def test_what_would_mislead_is_refused(model, tmp_path):
    with pytest.raises(LiteStageError, match="--use_cache is refused"):
        evaluate(model(), "menagerie_multistage", use_cache=str(tmp_path / "cache.db"))
    with pytest.raises(LiteStageError, match="--system_instruction"):
        evaluate(model(), "menagerie_multistage", system_instruction="Be brief.")
    with pytest.raises(LiteStageError, match="--limit leaves 0 questions"):
        evaluate(model(), "menagerie_multistage", limit=0)


def test_the_reference_model_warns_of_tasks_it_cannot_know(model, caplog, monkeypatch):
    from types import SimpleNamespace

    embedded = model()
    embedded.arguments = replace(embedded.arguments, pretrained="reference")
    # pytest listens at the root and at what does not propagate, which lm_eval's logger may or may not do by now
    monkeypatch.setattr(logging.getLogger("lm_eval"), "handlers", [])
    monkeypatch.setattr(logging.getLogger("lm_eval"), "propagate", True)
    for name in ("menagerie_five_multistage", "obqa_multistage", "obqa_multistage"):
        embedded._warn_if_unknown([SimpleNamespace(task_name=name)])
    assert [record.getMessage().count("'obqa_multistage'") for record in caplog.records] == [1]
    assert "pretrained=" in caplog.text


def test_the_trace_travels_with_the_text():
    from litestage.harness.task import answered

    stage = StageTrace("recall", (7,), 0, (3,), ("A turtle.",), ("eos",), 0.25, 0.5)
    trace = Trace("q", "hash", (stage,), "A", True)
    response = answered(trace)
    assert response == "recall: A turtle."
    assert json.dumps([response]) == '["recall: A turtle."]'
    for same in (pickle.loads(pickle.dumps(response)), copy.deepcopy(response)):
        assert same == response
        assert same.stats == trace


def test_figures_count_rows_and_leave_out_seconds_of_a_batch():
    rows = StageTrace("analyze", (9, 9, 9, 9), 5, (3, 4, 5, 6), ("",) * 4, ("eos", "exit", "eos", "length"), 0.25, 0.5)
    figures = metrics(Trace("q", "hash", (rows,), None, False, 0.75))
    assert figures["tokens"] == figures["tokens_analyze"] == 18
    assert [figures[f"stop_{reason}_analyze"] for reason in STOPS] == [0.5, 0, 0.25, 0.25, 0, 0]
    assert (figures["acc"], figures["parse_failure"], figures["latency_s"]) == (0, 1, 0.75)
    untimed = metrics(Trace("q", "hash", (replace(rows, prefill_s=None, decode_s=None),), "A", True))
    assert list(untimed) == metric_names(["analyze"], timed=False)


def test_a_task_of_ones_own_is_three_lines_beside_its_rows(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"question": f"Is {number} even?", "options": ["yes", "no"], "answer": "no"} for number in (1, 3)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "mine.yaml").write_text("rows: {calibration: rows.jsonl, test: rows.jsonl}\npipeline: single\n")
    lines = ["task: mine_multistage", "class: !function litestage.harness.task.StagedTask"]
    (tmp_path / "mine_multistage.yaml").write_text("\n".join(lines))
    with pytest.raises(LiteStageError, match="'mine_multistage' names no questions; add"):
        evaluate(model(), "mine_multistage", include=tmp_path)
    lines.append("generation_kwargs: {litestage: {task: mine.yaml}}")
    (tmp_path / "mine_multistage.yaml").write_text("\n".join(lines))
    results = evaluate(model(), "mine_multistage", include=tmp_path)
    assert results["versions"]["mine_multistage"] == 1.0
    assert reported(results, "mine_multistage")["stop_length_answer"] <= 1
    assert [sample["doc"]["answer"] for sample in results["samples"]["mine_multistage"]] == ["B", "B"]


# --- lm-eval 0.5, which has a class for each output type ---


@pytest.fixture
def as_in_0_5(monkeypatch):
    """Stands in for what lm-eval 0.5 does otherwise: its classes, lists of requests, and metrics held to a type."""
    import importlib

    import lm_eval.api.task as theirs

    import litestage.harness.task as ours

    class GenerateTask(theirs.ConfigurableTask):
        def __init__(self, config):
            known = [entry["metric"] for entry in config["metric_list"] if entry["metric"] == "acc"]
            if known:
                raise ValueError("metric acc does not match 'generate_until'")
            named = [{**entry, "metric": entry["metric"].__name__} for entry in config["metric_list"]]
            super().__init__(config={**config, "metric_list": named})

        def construct_requests(self, doc, ctx, **keywords):
            return [super().construct_requests(doc, ctx, **keywords)]

    class MultipleChoiceTask(theirs.ConfigurableTask):
        pass

    with monkeypatch.context() as patch:
        patch.setattr(theirs, "GenerateTask", GenerateTask, raising=False)
        patch.setattr(theirs, "MultipleChoiceTask", MultipleChoiceTask, raising=False)
        importlib.reload(ours)
        yield GenerateTask
    importlib.reload(ours)


def test_staged_tasks_run_under_the_classes_of_lm_eval_0_5(model, as_in_0_5):
    import litestage.harness.task as ours

    assert issubclass(ours.StagedTask, as_in_0_5)
    figures = reported(evaluate(model(batch_size=2), "menagerie_multistage"), "menagerie_multistage")
    assert {"acc", "tokens", "parse_failure", "tokens_recall"} <= set(figures)
