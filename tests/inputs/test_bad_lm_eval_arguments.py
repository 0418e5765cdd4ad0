"""--model_args, --gen_kwargs, and lm-eval's task files that name ours."""

import pytest

from litestage.harness.arguments import ModelArguments, as_typed, joined, quoted
from litestage.harness.staged import decoding_of


@pytest.mark.parametrize(
    "given",
    [
        {"revison": "x"},
        {"plan": "unifrom:8"},
        {"plan": "absent.yaml"},
        {"plan": ""},
        {"plan": "uniform:8+exti"},
        {"plan": ["full"]},
        {"plan": 1.5},
        {"plan": True},
        {"pretrained": {}},
        {"revision": float("inf")},
        {"pipeline": "nosuch"},
        {"pipeline": "absent.yaml"},
        {"analyze": "per_opton"},
        {"analyze": 5},
        {"batch_size": 0},
        {"batch_size": -1},
        {"batch_size": "many"},
        {"batch_size": 1.5},
        {"batch_size": True},
        {"devices": 0},
        {"devices": "x"},
        {"devices": [1]},
        {"num_nodes": -1},
        {"chat_template": "yes"},
        {"trust_remote_code": True},
    ],
    ids=str,
)
def test_a_model_argument_that_cannot_be_is_one_sentence(one_sentence, given):
    one_sentence(lambda: ModelArguments.parse(given), next(iter(given)) if "plan" not in given else "")


def test_a_plan_file_with_an_unknown_exit_rule_is_refused_before_a_model_is_loaded(one_sentence, tmp_path):
    (tmp_path / "p.yaml").write_text("schema: litestage.plan/1\nstages: {a: {exit: {rule: confidance}}}")
    one_sentence(lambda: ModelArguments.parse({"plan": str(tmp_path / "p.yaml")}), "confidance")


def test_the_most_questions_at_a_time_are_lm_evals_own_option(one_sentence):
    given = {"batch_size": "auto", "max_batch_size": 5}
    assert ModelArguments.parse(given).batch_size == 5
    assert ModelArguments.parse({**given, "batch_size": "2"}).batch_size == 2
    assert ModelArguments.parse({"batch_size": "auto"}).batch_size == 64
    one_sentence(lambda: ModelArguments.parse({"max_batch_size": 0}), "max_batch_size is 0")


TYPED = ["12e4567", "0012345", "010", "1e3", "1_000", "true", "nan", ".5", "on", "main", "-1", "0x1f"]


@pytest.mark.parametrize("typed", TYPED)
def test_texts_in_an_argument_string_stay_texts(typed):
    from lm_eval.utils import simple_parse_args_string

    given = simple_parse_args_string(quoted(f"pretrained=reference,revision={typed},batch_size=4,plan='full'"))
    assert given == {"pretrained": "reference", "revision": typed, "batch_size": 4, "plan": "full"}


@pytest.mark.parametrize("typed", TYPED)
@pytest.mark.parametrize(
    "form", ["pretrained=reference,revision={}", "revision={}", "--model_args=revision={},plan=full"]
)
def test_texts_on_lm_evals_command_line_stay_texts(typed, form):
    from lm_eval._cli.utils import key_val_to_dict

    word = form.format(typed)
    read = key_val_to_dict(word.removeprefix("--model_args="))
    given = as_typed(read, ["lm_eval", "--model_args", word, "--tasks", "x"])
    assert ModelArguments.parse({"revision": given["revision"]}).revision == typed


def test_a_text_that_no_word_holds_any_more_is_one_sentence(one_sentence):
    given = as_typed({"revision": float("inf")}, ["lm_eval", "run", "--config", "x.yaml"])
    one_sentence(lambda: ModelArguments.parse(given), "revision", "quotes")
    assert ModelArguments.parse({"revision": 1234567}).revision == "1234567"


@pytest.mark.parametrize(
    ("given", "added", "arrives"),
    [
        ({"device": "cpu"}, {"device": "cuda:0"}, {"device": "cpu"}),  # lm-eval's default gives way
        ({"device": "cpu"}, {"device": "cpu", "max_batch_size": None}, {"device": "cpu"}),
        ({"batch_size": 4}, {"batch_size": "4"}, {"batch_size": "4"}),
        (
            {"plan": "full"},
            {"batch_size": 1, "device": "cuda:0"},
            {"plan": "full", "batch_size": 1, "device": "cuda:0"},
        ),
        ({"batch_size": 4}, None, {"batch_size": 4}),
    ],
    ids=str,
)
def test_what_lm_eval_has_an_option_for_may_stand_in_the_models_arguments_too(given, added, arrives):
    """It hands both on, as one keyword twice."""
    assert joined(given, added) == arrives


def test_two_values_for_one_argument_are_one_sentence(one_sentence):
    """What lm-eval writes into its results is its own option's: another would have run than stands there."""
    one_sentence(lambda: joined({"batch_size": 4}, {"batch_size": 1}), "batch_size is 4", "--batch_size 4")
    one_sentence(lambda: joined({"device": "cuda"}, {"device": "cpu"}), "'cuda'", "'cpu'")


@pytest.mark.parametrize("way", ["string", "obj"])
def test_a_model_is_made_with_the_device_in_its_arguments(way, monkeypatch):
    from litestage.harness.lm import LiteStageLM

    made = []
    monkeypatch.setattr(LiteStageLM, "__init__", lambda self, **arguments: made.append(arguments))
    given = {"string": "device=cpu,plan=full", "obj": {"device": "cpu", "plan": "full"}}[way]
    getattr(LiteStageLM, f"create_from_arg_{way}")(given, {"batch_size": 1, "max_batch_size": None, "device": "cuda:0"})
    assert made == [{"device": "cpu", "plan": "full", "batch_size": 1}]


@pytest.mark.parametrize(
    "keywords",
    [
        {"temperature": "hot"},
        {"temperature": -1},
        {"temperature": float("nan")},
        {"do_sample": True, "temperature": 0},
        {"temperature": 1e-45},
        {"do_sample": True, "top_k": -1},
        {"do_sample": True, "top_k": "x"},
        {"do_sample": True, "top_p": 2},
        {"do_sample": True, "seed": 1.5},
        {"temperature": [1]},
        {"temperature": 1, "seed": None},
    ],
    ids=str,
)
def test_a_generation_keyword_that_cannot_be_is_one_sentence(one_sentence, keywords):
    one_sentence(lambda: decoding_of(keywords))


@pytest.mark.parametrize("unused", [{"top_p": 0.5}, {"top_k": 7}, {"temperature": 1, "do_sample": False}], ids=str)
def test_how_to_sample_without_sampling_is_said(caplog, monkeypatch, unused):
    import logging

    monkeypatch.setattr(logging.getLogger("lm_eval"), "propagate", True)
    assert decoding_of(unused) == decoding_of({})
    assert f"{next(iter(unused))} is " in caplog.text
    caplog.clear()
    decoding_of({"top_p": 1.0, "top_k": 0, "temperature": 0.0, "do_sample": False})
    decoding_of({"top_p": 0.5, "do_sample": True})
    assert not caplog.messages


TASK = """task: mine_multistage
class: !function litestage.harness.task.StagedTask
generation_kwargs: {litestage: %s}
"""


@pytest.fixture
def task_folder(tmp_path, monkeypatch):
    """A folder with an lm-eval task, our task and pipeline; the working folder is another one."""
    folder = tmp_path / "there"
    (tmp_path / "here").mkdir()
    folder.mkdir()
    (folder / "rows.jsonl").write_text('{"question": "Why?", "options": ["a", "b"], "answer": "A"}\n')
    (folder / "mine.yaml").write_text("rows: {calibration: rows.jsonl, test: rows.jsonl}")
    (folder / "two.yaml").write_text("stages: [{name: one, prompt: x}, {name: two, prompt: y}]")
    monkeypatch.chdir(tmp_path / "here")
    return folder


@pytest.mark.parametrize("include", ["{folder}", "../there"])
def test_a_task_file_finds_what_lies_beside_it_from_any_folder(task_folder, include):
    from lm_eval.tasks import TaskManager

    (task_folder / "t.yaml").write_text(TASK % "{task: mine.yaml, pipeline: two.yaml}")
    manager = TaskManager(include_path=include.format(folder=task_folder), include_defaults=False)
    task = manager.load(["mine_multistage"])["tasks"]["mine_multistage"]
    assert task.dataset["test"][0]["question"] == "Why?"
    assert task.config.metadata["data"] == {"rows": {"calibration": "rows.jsonl", "test": "rows.jsonl"}}
    assert any("two" in entry["metric"] for entry in task.config.metric_list)


@pytest.mark.parametrize("kind", ["StagedTask", "LikelihoodTask"])
def test_a_task_file_given_by_its_path_is_told_how_else(one_sentence, task_folder, kind):
    """lm-eval hands on what is in it, and not where it lies."""
    from lm_eval.tasks import TaskManager

    from litestage.harness import task

    named = {"generation_kwargs": {"litestage": {"task": "mine.yaml"}}, "metadata": {"questions": "mine.yaml"}}
    config = {"task": "mine", "class": getattr(task, kind), **named}
    manager = TaskManager(include_defaults=False)
    one_sentence(lambda: manager.load([config]), "'mine.yaml'", "--include_path", "--tasks mine")


@pytest.mark.parametrize(
    "request_",
    [
        "{task: absent.yaml}",
        "{task: [x]}",
        "5",
        "[task]",
        "null",
        "{}",
        "{task: null}",
        "{task: menagerie, pipeline: absent.yaml}",
        "{task: menagerie, pipline: cot}",
        "{task: menagerie, plan: full}",
    ],
)
def test_a_task_file_that_names_nothing_is_one_sentence(one_sentence, task_folder, request_):
    from lm_eval.tasks import TaskManager

    (task_folder / "t.yaml").write_text(TASK % request_)
    manager = TaskManager(include_path=str(task_folder), include_defaults=False)
    one_sentence(lambda: manager.load(["mine_multistage"]))


@pytest.mark.parametrize(
    "line",
    [
        "metric_list: [{metric: exact_match}]",
        "num_fewshot: 4",
        "description: Answer.",
        "filter_list: [{name: last, filter: [{function: take_first}]}]",
        "test_split: calibration",
        "output_type: multiple_choice",
        "metrics: [acc]",
        "repeats: 0",
    ],
)
def test_a_key_of_a_staged_tasks_file_that_nothing_reads_is_one_sentence(one_sentence, task_folder, line):
    from lm_eval.tasks import TaskManager

    (task_folder / "t.yaml").write_text(TASK % "{task: mine.yaml}" + line)
    manager = TaskManager(include_path=str(task_folder), include_defaults=False)
    one_sentence(lambda: manager.load(["mine_multistage"]), "'mine_multistage'", line.partition(":")[0])


@pytest.mark.parametrize(
    "line",
    ["num_fewshot: 0", "test_split: test", "task_alias: mine", "repeats: 2", "tag: mine", "metadata: {version: 2}"],
)
def test_a_key_that_something_reads_or_that_changes_nothing_may_stand(task_folder, line):
    from lm_eval.tasks import TaskManager

    (task_folder / "t.yaml").write_text(TASK % "{task: mine.yaml}" + line)
    manager = TaskManager(include_path=str(task_folder), include_defaults=False)
    assert manager.load(["mine_multistage"])["tasks"]


@pytest.mark.parametrize(
    ("made", "named"),
    [
        ("documents.remove_columns(['options'])", "no 'options'"),
        ("documents.filter(lambda document: False)", "no document"),
        ("datasets.concatenate_datasets([documents, documents.map(lambda d: {'options': ['b', 'a']})])", "'rows-1'"),
    ],
)
def test_documents_that_are_no_questions_or_two_under_one_id_are_one_sentence(one_sentence, task_folder, made, named):
    from lm_eval_runs import evaluate, lite_stage

    (task_folder / "mine.py").write_text(f"import datasets\ndef made(documents):\n    return {made}\n")
    (task_folder / "t.yaml").write_text(TASK % "{task: mine.yaml}" + "process_docs: !function mine.made\n")
    one_sentence(lambda: evaluate(lite_stage(batch_size=2), "mine_multistage", include=task_folder), named)


def test_two_tasks_over_the_same_questions_do_not_touch_each_other(task_folder):
    """The second one asks them with their options the other way round: neither a repeat of the first's, nor a clash."""
    from lm_eval_runs import evaluate, lite_stage

    (task_folder / "mine.py").write_text(
        "def turned(documents):\n    return documents.map(lambda d: {'options': d['options'][::-1]})\n"
    )
    hot = TASK.replace("litestage:", "do_sample: true, temperature: 3.0, litestage:") % "{task: mine.yaml}"
    (task_folder / "t.yaml").write_text(hot)
    (task_folder / "again.yaml").write_text(hot.replace("mine_multi", "again_multi"))
    (task_folder / "turned.yaml").write_text(
        hot.replace("mine_multi", "turned_multi") + "process_docs: !function mine.turned\n"
    )
    tasks = "mine_multistage", "again_multistage", "turned_multistage"

    def texts(*names):
        samples = evaluate(lite_stage(batch_size=2), *names, include=task_folder, torch_random_seed=1)["samples"]
        return {name: samples[name][0]["resps"] for name in names}

    together = texts(*tasks)
    assert all(texts(name)[name] == together[name] for name in tasks[1:])
    assert together["turned_multistage"] != together["mine_multistage"] == together["again_multistage"]


def test_a_question_that_does_not_fit_has_no_seconds_in_lm_evals_means(task_folder):
    """It ends at once, and would make all look faster than they are."""
    from lm_eval_runs import evaluate, lite_stage

    long = '{"question": "%s", "options": ["a", "b"], "answer": "A"}' % ("word " * 3000)
    with (task_folder / "rows.jsonl").open("a") as rows:
        rows.write(f"{long}\n")
    (task_folder / "t.yaml").write_text(TASK % "{task: mine.yaml}")
    found = evaluate(lite_stage(pipeline="single"), "mine_multistage", include=task_folder)
    short, long = found["samples"]["mine_multistage"]
    means = found["results"]["mine_multistage"]
    assert long["stop_too_long_answer"] == 1
    assert means["parse_failure,none"] >= 0.5
    for name in ("latency_s", "prefill_s_answer", "decode_s_answer"):
        assert means[f"{name},none"] == short[name]
        assert name not in long
        assert found["higher_is_better"]["mine_multistage"][name] is False
    listed = {entry["metric"] for entry in found["configs"]["mine_multistage"]["metric_list"]}
    assert listed <= long.keys() & short.keys()  # or lm-eval's W&B logger is a KeyError after all the work
    assert "acc" in listed


@pytest.mark.parametrize("samples", [[], [1, 0], [0, 0], [-1], [2], ["0"], 0, [[0]]])
def test_samples_that_lm_eval_would_take_for_others_are_one_sentence(one_sentence, samples):
    from lm_eval_runs import evaluate, lite_stage

    named = {"menagerie_multistage": samples if samples != [2] else [600]}
    asked = lambda: evaluate(lite_stage(), "menagerie_multistage", limit=None, samples=named)  # noqa: E731
    one_sentence(asked, "--samples of 'menagerie_multistage'", "0 to 599")


@pytest.mark.slow
def test_lm_eval_run_from_another_folder_answers_the_task_beside_the_file(task_folder, monkeypatch, capsys):
    """The whole command, from a folder that holds none of the files."""
    import sys

    from lm_eval.__main__ import cli_evaluate

    (task_folder / "t.yaml").write_text(TASK % "{task: mine.yaml, pipeline: two.yaml}")
    words = (
        "lm_eval --model litestage --model_args device=cpu,plan=full --tasks mine_multistage --include_path ../there"
    )
    monkeypatch.setattr(sys, "argv", words.split())
    cli_evaluate()
    assert "tokens_two" in capsys.readouterr().out
