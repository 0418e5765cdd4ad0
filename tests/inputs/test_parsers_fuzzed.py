"""Anything at all, into every parser: a value, or a LiteStageError of one line.

``LITESTAGE_FUZZ_EXAMPLES`` sets how many examples each property gets; ``make fuzz`` gives them an hour. What was found
stands here as an example.
"""

import json
import warnings

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from run_folders import EXPERIMENT, FULL, OURS, PROFILE, SEARCH, question, results

from litestage.config import RunConfig, load_config
from litestage.data import load_task
from litestage.data.rows import FORMATS, read_jsonl, to_questions
from litestage.errors import LiteStageError
from litestage.gate import read_record as read_gate_record
from litestage.harness.arguments import ModelArguments, as_typed, quoted
from litestage.methods.shorthand import parse_shorthand
from litestage.overrides import option_names
from litestage.plan import load_plan
from litestage.plan.file import plan_from_dict
from litestage.records import Experiment, Profile, Results, Search, check, read_asked
from litestage.stages import Question, load_pipeline
from litestage.stages.gold import read_staged

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


def a_value_or_one_line(act):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return act()
    except LiteStageError as refusal:
        said = str(refusal)
    assert "\n" not in said, said
    return None


words = st.sampled_from(
    [
        "",
        "null",
        "on",
        "010",
        "1e3",
        ".nan",
        "-1",
        "5",
        "full",
        "uniform:8",
        "recall",
        "x",
        "[",
        "{",
        "- a",
        "&a",
        "*a",
        "<<",
        "!!int x",
        "${x}",
        "???",
        "\\",
        "'",
        '"',
        "2024-13-45",
        "0x_",
        "1:30",
        "\u2028",
        "\ud800",
        "\0",
        "a: b",
        "#",
        "%",
        "@",
    ]
)
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12), words)
anything = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.one_of(st.text(max_size=8), words), inner, max_size=4)
    ),
    max_leaves=12,
)


def mapping(**known):
    """A mapping with some of these keys, each with what belongs there or anything at all."""
    return st.fixed_dictionaries({}, optional={key: st.one_of(value, anything) for key, value in known.items()})


def written(value):
    return yaml.safe_dump(value, allow_unicode=True)


OPTIONS = list(option_names(RunConfig))
texts = st.one_of(st.text(max_size=200), st.lists(words, max_size=8).map("\n".join), anything.map(written))


def put(path, text):
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    return path


@given(
    st.lists(
        st.tuples(
            st.one_of(st.sampled_from(OPTIONS), st.text(max_size=12)),
            st.one_of(words, anything.map(written), st.text(max_size=20)),
        ),
        max_size=3,
    )
)
@example([("methods", "[full")])
@example([("task", "${")])
@example([("variants", "{a: {strategy: 5}}")])
@example([("max_new_tokens.recall.x", "5")])
@example([("methods[", "x")])
@example([("[", "")])
@example([("[.]", "x")])
@example([("[0", "")])
def test_overrides(pairs):
    a_value_or_one_line(lambda: load_config([f"{key}={value}" for key, value in pairs]))


@given(st.text(max_size=30))
@example("\\${x}")
def test_text_that_is_typed_is_text_that_arrives(typed):
    if "${" in typed or typed.strip() in ("", "~", "null", "Null", "NULL", "???") or typed[:1] in "'\"":
        return
    assert a_value_or_one_line(lambda: load_config([f"output={typed}"]).output) in (typed, None)


@given(texts)
@example("a: &a [*a]")
@example("variants: {? [a] : b}")
@example("2024-13-45")
def test_config_files(tmp_path, text):
    a_value_or_one_line(lambda: load_config([], put(tmp_path / "c.yaml", text)))


stages = mapping(
    name=st.sampled_from(["a", "b", "on"]),
    prompt=st.sampled_from(
        ["{{ question }}", "{{ a }}", "{{ option.text }}", "{% for o in options %}{{ o }}{% endfor %}"]
    ),
    max_new_tokens=st.integers(1, 9),
    stop=st.one_of(words, st.lists(words, max_size=3)),
    fan_out=st.just("options"),
    mode=st.sampled_from(["joint", "per_option"]),
)
patterns = st.sampled_from(["([A-Z])", "(", "x"])
pipelines = mapping(
    name=words,
    stages=st.lists(stages, max_size=3),
    answer=st.one_of(patterns, mapping(pattern=patterns, choose=st.sampled_from(["likelihood", "none"]), cue=words)),
    examples=st.lists(
        mapping(question=words, options=st.lists(words, max_size=2), answer=st.sampled_from(["A", "B"]), a=words),
        max_size=2,
    ),
)


@given(st.one_of(texts, pipelines.map(written)))
@example("stages: [{name: a, prompt: '{{ 1/0 }}'}]")
@example("stages: [{name: a, prompt: '{% macro x() %}{% endmacro %}{{ x }}'}]")
def test_pipeline_files(tmp_path, text):
    made = a_value_or_one_line(lambda: load_pipeline(put(tmp_path / "p.yaml", text)))
    if made is not None:
        question_ = Question("q", "Why?", ("a", "b"), "A")
        outputs = {stage.name: ["x", "y"] if stage.per_option else "x" for stage in made.stages}
        for stage in made.stages:
            a_value_or_one_line(lambda stage=stage: stage.prompts(question_, outputs))
        a_value_or_one_line(lambda: made.parse_answer(outputs))


tasks = mapping(
    name=words,
    pipeline=words,
    rows=mapping(calibration=st.just("r.jsonl"), test=st.just("r.jsonl"), train=words),
    hub=mapping(path=words, folder=words, format=st.sampled_from(list(FORMATS)), revision=words),
    menagerie=st.sampled_from(["menagerie", "menagerie_five"]),
    splits=mapping(calibration=mapping(of=words, draw=st.integers(), without=words), test=words, train=words),
    max_new_tokens=st.dictionaries(words, st.integers()),
)


@given(st.one_of(texts, tasks.map(written)))
def test_task_files(tmp_path, text):
    put(tmp_path / "r.jsonl", '{"question": "Why?", "options": ["a", "b"], "answer": "A"}')
    made = a_value_or_one_line(lambda: load_task(put(tmp_path / "t.yaml", text)))
    if made is not None and not hasattr(made.source, "format"):
        a_value_or_one_line(lambda: [made.questions(split) for split in made.splits])


plans = mapping(
    schema=st.just("litestage.plan/1"),
    model=mapping(name=words, layers=st.integers()),
    stages=st.dictionaries(
        words,
        mapping(
            skip=mapping(mhsa=st.lists(st.integers(0, 9)), ffn=st.lists(st.integers(0, 9))),
            phase=st.sampled_from(["both", "decode"]),
            compensation=st.sampled_from(["none", "scale", "lowrank:2"]),
            schedule=mapping(
                steps=st.lists(mapping(**{"from": st.integers(1, 9), "mhsa": st.lists(st.integers(0, 9))}))
            ),
            exit=mapping(rule=st.just("confidence"), threshold=st.floats(), window=st.integers()),
        ),
        max_size=3,
    ),
)


@given(st.one_of(plans, anything))
@example({"schema": "litestage.plan/1", "stages": {"a": {"compensation": ["scale"]}}})
@example({"schema": "litestage.plan/1", "stages": {"a": {"phase": []}}})
def test_plans(tmp_path, raw):
    plan = a_value_or_one_line(lambda: plan_from_dict(raw))
    if plan is not None:
        assert plan.hash
        a_value_or_one_line(lambda: plan.validate(layers=4, stages=["recall"]))


@given(texts)
def test_plan_files(tmp_path, text):
    a_value_or_one_line(lambda: load_plan(put(tmp_path / "p.yaml", "schema: litestage.plan/1\nstages:\n  " + text)))


rows = mapping(
    id=words,
    qid=words,
    question=words,
    question_stem=words,
    options=st.lists(words, max_size=4),
    choices=mapping(label=st.just(["A", "B"]), text=st.just(["a", "b"])),
    answer=st.sampled_from(["A", "B", "x", True]),
    answerKey=st.sampled_from(["A", "B", "x"]),
    recall=words,
)


@given(st.one_of(texts, st.lists(rows, max_size=3).map(lambda all_: "\n".join(map(json.dumps, all_)))))
@example('{"question": "\\ud800", "options": ["a"], "answer": "A"}')
@example("[" * 5000)
def test_rows(tmp_path, text):
    path = put(tmp_path / "r.jsonl", text)
    for kind in FORMATS:
        a_value_or_one_line(lambda kind=kind: to_questions(read_jsonl(path), kind, str(path), prefix="r"))
    a_value_or_one_line(lambda: read_staged(path))
    a_value_or_one_line(lambda: read_asked(path))


def changed(good):
    """The content with one part in it replaced by anything, or left out."""

    @st.composite
    def change(draw):
        content = json.loads(json.dumps(good))
        at, node = None, content
        for _ in range(draw(st.integers(1, 6))):
            keys = list(node) if isinstance(node, dict) else list(range(len(node))) if isinstance(node, list) else []
            if not keys:
                break
            at = node, draw(st.sampled_from(keys))
            node = node[at[1]]
        if at is not None:
            if draw(st.booleans()):
                at[0][at[1]] = draw(anything)
            else:
                del at[0][at[1]]
        return content

    return change()


def shown(tmp_path, **files):
    """What a report says of these files, pictures apart: drawing takes a second each."""
    from litestage.report.answer import answer
    from litestage.report.failures import failures
    from litestage.report.runs import Run
    from litestage.report.sample import to_browse
    from litestage.report.tables import entropy_table, experiment_table, methods_table
    from litestage.tracking.figures import figures, tables

    run = Run(tmp_path, **files)
    if not run.traces:
        answer(run), failures(run)
    if run.comparison:
        methods_table(run.comparison)
    if run.experiment:
        experiment_table(run.experiment)
    entropy_table(run.traces), to_browse(run.traces), figures(run), tables(run)


@given(changed(results(FULL, OURS)))
def test_results(tmp_path, content):
    def read():
        put(tmp_path / "results.json", json.dumps(content))
        read_gate_record(tmp_path / "results.json")
        check(content, Results, tmp_path)
        shown(tmp_path, comparison=content)

    a_value_or_one_line(read)


@given(
    st.one_of(
        *(
            st.tuples(st.just(name), st.just(shape), changed(good))
            for name, shape, good in (
                ("experiment", Experiment, EXPERIMENT),
                ("search", Search, SEARCH),
                ("profile", Profile, PROFILE),
            )
        )
    )
)
def test_other_records(tmp_path, given_):
    name, shape, content = given_

    def read():
        check(content, shape, tmp_path)
        shown(tmp_path, **{name: content})

    a_value_or_one_line(read)


@given(st.lists(changed(question()), min_size=1, max_size=3))
def test_traces(tmp_path, lines):
    def read():
        path = put(tmp_path / "traces.jsonl", "\n".join(map(json.dumps, lines)))
        shown(tmp_path, traces=read_asked(path))

    a_value_or_one_line(read)


@given(
    st.one_of(
        st.text(max_size=20),
        st.lists(
            st.sampled_from(["full", "uniform", ":", "8", "+", "exit", "-1", "x", "random", ".py"]), max_size=6
        ).map("".join),
    )
)
@example("uniform:\u0661")
@example("x\0.py:1")
@example("+\n")
def test_shorthands(spec):
    a_value_or_one_line(lambda: parse_shorthand(spec))


@given(
    st.dictionaries(
        st.one_of(st.sampled_from(["plan", "revision", "batch_size", "devices", "analyze", "pipeline"]), words),
        anything,
        max_size=3,
    ),
    st.text(max_size=30),
)
def test_model_arguments(given_, written_):
    from lm_eval.utils import simple_parse_args_string

    a_value_or_one_line(lambda: ModelArguments.parse(given_))
    a_value_or_one_line(lambda: ModelArguments.parse(as_typed(given_, [written_])))
    a_value_or_one_line(lambda: ModelArguments.parse(simple_parse_args_string(quoted(f"revision={written_}"))))
