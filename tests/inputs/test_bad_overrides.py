"""key=value: what is typed is what arrives, and what cannot be is one sentence in every command."""

from dataclasses import dataclass, field

import pytest

from litestage.config import load_config, load_schema
from litestage.decoder import load_model
from litestage.experiment import threshold
from litestage.overrides import configure
from litestage.plan import ExitRule

COMMANDS = [
    ("compare",),
    ("demo",),
    ("profile",),
    ("search",),
    ("experiment", "sensitivity"),
    ("experiment", "paper"),
    ("plan", "show", "full"),
    ("plan", "validate", "absent.yaml"),
    ("store", "stats"),
    ("store", "prune"),
    ("data", "build"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("override", ["nonsense", "=", "no.such.option=1", "\udcff=1"])
def test_what_is_no_option_is_one_sentence_in_every_command(refused, command, override):
    refused(*command, override)


@pytest.mark.parametrize("override", ["exit=entropy", "max_new_tokens=5", "variants=[a]"])
def test_one_value_for_an_option_with_keys_of_its_own_is_told_what_to_write(one_sentence, override):
    key, _, value = override.partition("=")
    one_sentence(lambda: load_config([override]), f"{key}.KEY={value}" if value[0] != "[" else f"{key}.KEY=")


@pytest.mark.parametrize("command", COMMANDS[:6], ids=" ".join)
@pytest.mark.parametrize(
    "override",
    [
        "methods=[full",
        "methods={full",
        "methods=@full",
        "methods=full",
        "methods=[[full]]",
        "methods=[full, null]",
        "max_new_tokens={recall: many}",
        "search=5",
        "search.exit=perhaps",
        "seed=1.5",
        "seed=1e99999",
        "seed=-1",
        "budget=nan",
        "search.max_accuracy_drop=nan",
        "search.max_accuracy_drop=2",
        "search.max_accuracy_drop=.inf",
        "search.confidence=1",
        "search.confidence=nan",
        "search.bound=speed",
        "search.confirm=-1",
        "search.confirm=100000",
        "exit.rule=confidance",
        "exit.rule=[a]",
        "exit.patience=3",
        "exit={rule: relative_drop, ratio: 2}",
        "exit={rule: by_stage, stages: 5}",
        "exit={rule: by_stage, stages: {recall: 5}}",
        "exit=5",
        "search.exit_rules=[confidance]",
        "exit.threshold=2",
        "exit.threshold=nan",
        "exit.window=0",
        "exit.window=five",
        "variants={mine: {strategy: fast}}",
        "variants={mine: 5}",
        "variants={mine: {exit: {rule: x}}}",
        "task=${no.such.key}",
        "task=${",
    ],
)
def test_a_value_that_cannot_be_is_one_sentence_before_anything_runs(refused, monkeypatch, command, override):
    monkeypatch.setattr("litestage.session.session.load_model", _not_yet)
    refused(*command, override, names=[override.split("=")[0].split(".")[0]])


def _not_yet(*_, **__):
    raise AssertionError("a model was loaded")


@pytest.mark.parametrize("key", ["model.revision", "output", "store", "task", "pipeline", "model.name"])
@pytest.mark.parametrize(
    "typed",
    [
        "12e4567",
        "0012345",
        "010",
        "1e3",
        "1_000",
        "0x1F",
        "on",
        "no",
        "true",
        "2024-01-01",
        "1:30",
        ".inf",
        ".5",
        "=",
        "a: b",
        "[x]",
        "{a}",
        "a #b",
        "@x",
        "%x",
        "*x",
        "&x y",
        "!x",
        "|",
        "> x",
        "- x",
        "?",
        "x,y",
        "'",
        '"x',
        "~x",
        " x",
    ],
)
def test_text_stays_text(key, typed):
    value = load_config([f"{key}={typed}"])
    for part in key.split("."):
        value = getattr(value, part)
    assert value == typed


def test_quotes_around_a_text_come_off_and_nothing_is_nothing_where_that_may_be():
    assert load_config(["output='a b'"]).output == "a b"
    assert load_config(['output="010"']).output == "010"
    assert [load_config([f"output={nothing}"]).output for nothing in ("null", "~", "")] == [None] * 3
    assert load_config(["task=null"]).task == "null"


def test_texts_in_lists_stay_as_they_are_typed():
    assert load_config(["methods=[full, 010, on, 1e3, 2024-01-01]"]).methods == [
        "full",
        "010",
        "on",
        "1e3",
        "2024-01-01",
    ]


@pytest.mark.parametrize(("typed", "meant"), [("010", 10), ("+3", 3), ("1000", 1000)])
def test_a_number_with_a_nought_before_it_is_itself(typed, meant, tmp_path):
    assert load_config([f"seed={typed}"]).seed == meant
    (tmp_path / "c.yaml").write_text(f"seed: {typed}")
    assert load_config([], tmp_path / "c.yaml").seed == meant


def test_a_mapping_that_is_given_replaces_the_default_and_one_key_changes_one(tmp_path):
    (tmp_path / "c.yaml").write_text("max_new_tokens: {recall: 5}\nvariants: {a: {strategy: pareto}}")
    assert load_config([], tmp_path / "c.yaml").max_new_tokens == {"recall": 5}
    both = load_config(["max_new_tokens.analyze=7"], tmp_path / "c.yaml")
    assert both.max_new_tokens == {"recall": 5, "analyze": 7}
    other = load_config(["max_new_tokens={analyze: 7}", "variants={b: {strategy: greedy}}"], tmp_path / "c.yaml")
    assert (other.max_new_tokens, list(other.variants)) == ({"analyze": 7}, ["b"])


@dataclass
class Rows:
    rows: dict[str, int] = field(default_factory=lambda: {"recall": 64, "analyze": 32})


def test_a_mapping_replaces_one_that_a_schema_or_an_earlier_file_has():
    given = {"rows": {"summarize": 16}}
    assert configure(Rows, [given], []).rows == {"summarize": 16}
    assert configure(Rows, [{"rows": {"recall": 1}}, given], []).rows == {"summarize": 16}
    assert configure(Rows, [], ["rows={summarize: 16}"]).rows == {"summarize": 16}
    assert configure(Rows, [], ["rows.summarize=16"]).rows == {"recall": 64, "analyze": 32, "summarize": 16}


def test_training_rows_that_are_given_replace_the_default(tmp_path):
    from litestage.training.config import load_config as load_training

    (tmp_path / "t.yaml").write_text(
        "output: 010\ndata: {menagerie: [menagerie]}\nmodel: {pretrained: x}\nrows: {summarize: 16}\n"
    )
    config = load_training(str(tmp_path / "t.yaml"))
    assert (config.rows, config.output) == ({"summarize": 16}, "010")
    assert load_training(str(tmp_path / "t.yaml"), ["rows.recall=8"]).rows == {"summarize": 16, "recall": 8}
    assert load_training(str(tmp_path / "t.yaml"), ["rows={recall: 8}"]).rows == {"recall": 8}


@pytest.mark.parametrize(
    "rule",
    [
        {"rule": "confidance"},
        {"rule": None},
        {"threshold": -0.1},
        {"threshold": float("nan")},
        {"threshold": "0.5"},
        {"threshold": True},
        {"window": 0},
        {"window": 2.0},
        {"window": True},
        {"window": "5"},
    ],
)
def test_an_exit_rule_that_is_none_cannot_be_made(one_sentence, rule):
    one_sentence(lambda: ExitRule(**rule), "exit")


@pytest.mark.parametrize("override", ["thresholds=[0.5,2]", "windows=[0]", "thresholds=[]", "exit.rule=x"])
def test_an_experiments_rules_are_checked_with_its_options(one_sentence, override):
    one_sentence(lambda: load_schema(threshold.Options, [override]))


@pytest.mark.parametrize(
    "methods",
    [
        "[full,litestage,cosin:4]",
        "[full,absent.yaml]",
        "[uniform:x]",
        "[uniform:-1]",
        "[cosine:best+exti]",
        "[random:2:best]",
        "[mine.py:4]",
        "[one/mine.py:4,two/mine.py:4]",
        "[010]",
    ],
)
def test_a_method_that_is_none_is_refused_before_a_model_is_loaded(refused, monkeypatch, methods):
    monkeypatch.setattr("litestage.session.session.load_model", _not_yet)
    refused("compare", f"methods={methods}")


@pytest.mark.parametrize("device", ["", "tpu", "meta", "cpu:x", "CPU", "cuda:99", "mps:7"])
def test_a_device_that_computes_nothing_is_one_sentence(one_sentence, device):
    one_sentence(lambda: load_model(device=device), "device", repr(device))


@pytest.mark.parametrize("name", ["full", "litestage", "cosine", "full-half", "full-int8"])
def test_a_variant_that_would_stand_in_a_methods_place_is_one_sentence(refused, name):
    """As ``full`` it would be what all others are held against."""
    refused("compare", f"variants={{{name}: {{strategy: pareto}}}}", names=[f"variants.{name}"])
