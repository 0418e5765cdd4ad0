"""The YAML that --config, model=, engine= and a training command name."""

import pytest

from litestage.config import load_config
from litestage.harness.arguments import ModelArguments

BAD = {
    "a list": "- a\n- b",
    "a text": "just words",
    "a number": "5",
    "empty": "",
    "comments only": "# nothing\n",
    "cut short": "search: {strategy: pareto",
    "a tab": "search:\n\tstrategy: pareto",
    "the same key twice": "seed: 1\nseed: 2",
    "a key that is not known": "serach: {}",
    "a number as a key": "1: x",
    "a list as a key": "? [a]\n: b",
    "a value of another type": "search: [1, 2]",
    "nothing where something must be": "search: null",
    "an alias of itself": "variants: &a {x: *a}",
    "an alias that is not there": "task: *a",
    "a tag that makes objects": "task: !!python/object/apply:os.system [echo]",
    "two documents": "seed: 1\n---\nseed: 2",
    "deep": "[" * 3000,
    "an interpolation of nothing": "task: ${nothing}",
    "NaN": "search: {max_accuracy_drop: .nan}",
    "an unknown exit rule": "exit: {rule: confidance}",
    "half a surrogate pair": 'task: "\\ud800"',
    "laughs": "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"{b}: &{b} [{','.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefg", "bcdefgh", strict=True)),
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_a_config_that_does_not_read_is_one_sentence(refused, tmp_path, text):
    (tmp_path / "c.yaml").write_text(text)
    refused("compare", "--config", "c.yaml")


@pytest.mark.parametrize("group", ["model", "engine"])
@pytest.mark.parametrize("text", ["- a", "", "{", "nosuch: 1", "name: [x]"])
def test_a_groups_file_that_does_not_read_is_one_sentence(refused, tmp_path, group, text):
    (tmp_path / "c.yaml").write_text(text)
    refused("profile", f"{group}=c.yaml")


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_a_training_file_that_does_not_read_is_one_sentence(one_sentence, tmp_path, text):
    from litestage.training.config import load_config as load_training

    (tmp_path / "c.yaml").write_text(text)
    one_sentence(lambda: load_training(str(tmp_path / "c.yaml")))


def test_absent_a_folder_and_other_encodings_are_one_sentence(refused, tmp_path, not_text):
    refused("compare", "--config", "absent.yaml", names=["absent.yaml"])
    refused("compare", "--config", "absent", names=["absent"])
    (tmp_path / "folder.yaml").mkdir()
    refused("compare", "--config", "folder.yaml", names=["folder.yaml", "folder"])
    refused("compare", "--config", "x" * 300 + ".yaml")
    refused("compare", "--config", "a\0b.yaml")
    for content in not_text.values():
        (tmp_path / "c.yaml").write_bytes(content)
        refused("compare", "--config", "c.yaml", names=["c.yaml", "UTF-8"])


def test_a_byte_order_mark_comes_off(tmp_path):
    (tmp_path / "c.yaml").write_bytes(b"\xef\xbb\xbfseed: 7\n")
    assert load_config([], tmp_path / "c.yaml").seed == 7


def test_text_in_a_file_stays_text(tmp_path):
    (tmp_path / "c.yaml").write_text("output: 010\ntask: on\nmodel: {revision: 12e4567, name: 0012345}\nmethods: [1e3]")
    config = load_config([], tmp_path / "c.yaml")
    assert (config.output, config.task, config.methods) == ("010", "on", ["1e3"])
    assert (config.model.revision, config.model.name) == ("12e4567", "0012345")


def test_a_model_that_a_file_gives_is_not_called_reference(tmp_path):
    """`full-half` would stand beside it as the same model retrained."""
    (tmp_path / "c.yaml").write_text("model: {pretrained: owner/model}\n")
    assert load_config([], tmp_path / "c.yaml").model.name == "owner/model"
    assert load_config(["model.name=mine"], tmp_path / "c.yaml").model.name == "mine"
    (tmp_path / "c.yaml").write_text("model: {pretrained: owner/model, name: ours}\n")
    assert load_config([], tmp_path / "c.yaml").model.name == "ours"


def test_files_that_a_config_names_are_looked_for_beside_it_and_output_is_not(tmp_path, monkeypatch):
    there = tmp_path / "there"
    (there / "tuned").mkdir(parents=True)
    for name in ("mine.yaml", "late.py", "plan.yaml", "tuned/config.json"):
        (there / name).touch()
    (there / "c.yaml").write_text(
        "task: mine.yaml\nmodel: {pretrained: tuned}\nmethods: [full, 'late.py:4+exit', plan.yaml+exit, absent.yaml]\n"
        "output: tuned\nstore: mine.yaml\n"
    )
    monkeypatch.chdir(tmp_path)
    config = load_config([], there / "c.yaml")
    assert config.task == str(there / "mine.yaml")
    assert config.model.pretrained == str(there / "tuned")
    assert config.methods == ["full", f"{there}/late.py:4+exit", f"{there}/plan.yaml+exit", "absent.yaml"]
    assert (config.output, config.store) == ("tuned", "mine.yaml")


def test_a_path_in_the_users_home_is_there_and_no_folder_of_that_name_here(tmp_path, monkeypatch):
    """No shell but bash reads the sign behind an equals sign, and none does in a file or in --model_args."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "c.yaml").write_text("output: ~/runs\nmodel: {pretrained: ~/tuned}\nmethods: [full, ~/plan.yaml]\n")
    config = load_config(["store=~/s.sqlite", "exit.rule=answer_probe", "exit.words=~ so"], tmp_path / "c.yaml")
    assert (config.output, config.model.pretrained) == (f"{tmp_path}/runs", f"{tmp_path}/tuned")
    assert (config.store, config.methods) == (f"{tmp_path}/s.sqlite", ["full", f"{tmp_path}/plan.yaml"])
    assert config.exit["words"] == "~ so"
    assert ModelArguments.parse({"store": "~/s.sqlite"}).store == f"{tmp_path}/s.sqlite"


def test_an_anchor_that_is_used_is_no_trouble(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "variants:\n  a: &a {strategy: pareto}\n  b: {<<: *a, compensation: none}\n  c: *a\n"
    )
    assert load_config([], tmp_path / "c.yaml").variants["b"] == {"strategy": "pareto", "compensation": "none"}


@pytest.mark.parametrize(
    "override", ["token_weights=[{pattern: '('}]", "learning_rate=nan", "learning_rate=-1", "steps=0"]
)
def test_a_training_option_that_cannot_be_is_one_sentence(one_sentence, override):
    from litestage.training.config import load_config as load_training

    one_sentence(lambda: load_training("staged", [override]), override.split("=")[0])
