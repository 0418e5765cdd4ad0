"""Stages are pure text: TinyThinker's prompts to the letter, three analyze modes, and what a pipeline refuses."""

from dataclasses import replace

import pytest

from litestage.errors import LiteStageError
from litestage.stages import Pipeline, Question, Stage, load_pipeline
from litestage.stages.template import as_sentence

QUESTION = Question("q", "Where does a turtle live?", ("river", "canopy", "swamp"), "C")
HEAD = "Where does a turtle live?\n(A) river (B) canopy (C) swamp\nRecall:"
RECALL = "A turtle lives in the swamp."
VERDICTS = ["it is not the river.", "it is not the canopy", 'it is "the swamp"']


@pytest.fixture
def three():
    return load_pipeline("recall_analyze_summarize")


# --- TinyThinker's format (scripts/utils/trainer.py of shengminp/TinyThinker) ---


def test_recall(three):
    assert three.stages[0].prompts(QUESTION, {}) == [HEAD]


def test_analyze_continues_recalls_prompt_once_per_option(three):
    assert three.stages[1].prompts(QUESTION, {"recall": RECALL}) == [
        f"{HEAD} {RECALL}\nAnalyze: For option A,",
        f"{HEAD} {RECALL}\nAnalyze: For option B,",
        f"{HEAD} {RECALL}\nAnalyze: For option C,",
    ]


def test_summarize_sees_every_option_closed_with_a_full_stop(three):
    assert three.stages[2].prompts(QUESTION, {"recall": RECALL, "analyze": VERDICTS}) == [
        f"{HEAD} {RECALL}\nAnalyze: For option A, it is not the river. For option B, it is not the canopy. "
        'For option C, it is "the swamp"\nSummarize:'
    ]


def test_a_recall_without_a_full_stop_gets_one(three):
    assert three.stages[1].prompts(QUESTION, {"recall": " A turtle swims "})[0].startswith(f"{HEAD} A turtle swims.\n")


def test_joint_mode_asks_once_and_leaves_room_for_every_option(three):
    joint = three.with_mode("joint")
    assert joint.stages[1].prompts(QUESTION, {"recall": RECALL}) == [f"{HEAD} {RECALL}\nAnalyze:"]
    together = "For option A, no. For option B, no. For option C, yes"
    assert joint.stages[2].prompts(QUESTION, {"recall": RECALL, "analyze": together}) == [
        f"{HEAD} {RECALL}\nAnalyze: {together}.\nSummarize:"
    ]
    assert joint.stages[1].limit(QUESTION) == 3 * three.stages[1].limit(QUESTION)
    assert [stage.per_option for stage in joint.stages] == [False, False, False]


def test_one_option_after_another_asks_the_same_as_all_at_once(three):
    sequential = three.with_mode("per_option_sequential")
    outputs = {"recall": RECALL}
    assert sequential.stages[1].prompts(QUESTION, outputs) == three.stages[1].prompts(QUESTION, outputs)
    assert sequential.stages[1].limit(QUESTION) == three.stages[1].limit(QUESTION)
    assert sequential.hash != three.hash


def test_a_mode_that_is_not_there_is_named(three):
    with pytest.raises(LiteStageError, match="'jiont'; did you mean 'joint'"):
        three.with_mode("jiont")


def test_a_mode_for_a_pipeline_that_never_fans_out_is_checked_and_said_to_do_nothing(caplog):
    single = load_pipeline("single")
    with pytest.raises(LiteStageError, match="analyze is 'parallel'"):
        single.with_mode("parallel")
    assert single.with_mode("joint") == single
    assert "analyze=joint does nothing: no stage of the pipeline single fans out" in caplog.text


# --- sentences and answers ---


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("A turtle swims", "A turtle swims."),
        ("A turtle swims.", "A turtle swims."),
        ("  A turtle swims \n", "A turtle swims."),
        ('It said "no"', 'It said "no"'),
        ("It said 'no'", "It said 'no'"),
        ("Does it?", "Does it?."),  # TinyThinker adds one here too
        ("", "."),
    ],
)
def test_as_sentence(text, sentence):
    assert as_sentence(text) == sentence


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("So the answer is option C.", "C"),
        ("the answer is option A. No, the answer is option B.", "A"),
        ("So the answer is option C", None),
        ("So the answer is option c.", None),
        ("So the answer is C.", None),
        ("", None),
    ],
)
def test_the_answer_is_the_first_letter_the_pattern_finds(three, text, answer):
    assert three.parse_answer({"recall": "the answer is option D.", "summarize": text}) == answer


@pytest.mark.parametrize("pattern", ["([a-z])", "([A-Z]?)", "(option B)", "option( [A-Z])", "(B|x)?$"])
def test_what_a_pattern_finds_that_is_no_letter_is_no_answer(three, pattern):
    """It would be a wrong one, and no parse failure."""
    assert replace(three, answer=pattern).parse_answer({"summarize": "the answer is option B."}) is None


def test_the_answer_of_a_last_stage_that_fans_out_is_found_in_any_of_its_texts():
    pipeline = Pipeline("p", (Stage("judge", "{{ option.text }}", fan_out="options"),), answer=r"choose ([A-Z])")
    assert pipeline.parse_answer({"judge": ["no", "choose B", "choose C"]}) == "B"


# --- limits and hash ---


def test_limits_are_changed_by_stage_name(three):
    changed = three.with_limits({"recall": 7})
    assert [stage.max_new_tokens for stage in changed.stages] == [7, 200, 200]
    assert [stage.max_new_tokens for stage in three.stages] == [200, 200, 200]
    assert changed.hash != three.hash
    assert changed.stages[0].limit(QUESTION) == 7
    with pytest.raises(LiteStageError, match="'recal'; did you mean 'recall'"):
        three.with_limits({"recal": 7})
    with pytest.raises(LiteStageError, match="max_new_tokens=0"):
        three.with_limits({"recall": 0})


def test_the_hash_changes_with_every_thing_that_changes_a_text():
    def pipeline(answer=r"([A-Z])", **changes):
        return Pipeline(
            "p", (Stage(**{"name": "one", "prompt": "{{ question }}", "fan_out": "options", **changes}),), answer
        )

    hashes = {
        pipeline().hash,
        pipeline(answer=r"([A-F])").hash,
        pipeline(prompt="{{ question }}!").hash,
        pipeline(max_new_tokens=3).hash,
        pipeline(stop=("x",)).hash,
        pipeline(mode="joint").hash,
        pipeline(fan_out=None).hash,
        pipeline(name="two").hash,
    }
    assert len(hashes) == 8
    assert Pipeline("other name", pipeline().stages, r"([A-Z])", "described").hash == pipeline().hash


# --- what is refused, in one sentence that names it ---


def refused(make, *named):
    with pytest.raises(LiteStageError) as error:
        make()
    assert len(str(error.value).splitlines()) == 1
    for value in named:
        assert value in str(error.value), str(error.value)


def one(**changes):
    return Stage(**{"name": "one", "prompt": "{{ question }}", **changes})


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Pipeline("p", ()), ["'p'", "no stages"]),
        (lambda: Pipeline("p", (one(), one())), ["'one'", "twice"]),
        (lambda: Pipeline("p", (one(name="question"),)), ["'question'"]),
        (lambda: one(name="Two words"), ["'Two words'"]),
        (lambda: one(max_new_tokens=-3), ["'one'", "-3"]),
        (lambda: one(fan_out="optoins"), ["'optoins'"]),
        (lambda: one(mode="parallel"), ["'parallel'"]),
        (lambda: Pipeline("p", (one(prompt="{{ recal }}"),)), ["'one'", "'p'", "'recal'"]),
        (
            lambda: Pipeline("p", (one(name="recall"), one(name="two", prompt="{{ reccall }}"))),
            ["'two'", "'reccall'", "did you mean 'recall'"],
        ),
        (lambda: Pipeline("p", (one(name="two", prompt="{{ three }}"), one(name="three"))), ["'three'", "earlier"]),
        (lambda: Pipeline("p", (one(prompt="{{ question"),)), ["'one'", "Jinja2"]),
        (lambda: Pipeline("p", (one(prompt="{{ question | nosuchfilter }}"),)), ["'one'", "nosuchfilter"]),
        (lambda: Pipeline("p", (one(),), answer="([A-Z]"), ["'([A-Z]'"]),
        (lambda: Pipeline("p", (one(),), answer="[A-Z]"), ["exactly one"]),
        (lambda: Pipeline("p", (one(),), answer="([A-Z])([a-z])"), ["exactly one"]),
        (lambda: load_pipeline("recall_analyse_summarize"), ["did you mean 'recall_analyze_summarize'"]),
        (lambda: load_pipeline("nowhere.yaml"), ["'nowhere.yaml'"]),
    ],
)
def test_a_pipeline_that_cannot_work_is_refused_before_it_runs(make, named):
    refused(make, *named)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("stages:\n  - {name: a, prompt: '{{ question }}', max_tokens: 3}", ["max_tokens"]),
        ("stages: [", ["is not YAML", "line 1"]),
        ("name: x", ["stages"]),
        ("stages: 3", ["stages is 3", "list"]),
        ("stages:\n  - {name: a}", ["prompt"]),
        ("stages:\n  - {name: a, prompt: '{{ b }}'}", ["mine.yaml", "'b'"]),
        ("stages:\n  - {name: a, prompt: x, max_new_tokens: many}", ["mine.yaml"]),
        ("", ["is empty"]),
    ],
)
def test_a_file_that_is_not_a_pipeline_is_refused(tmp_path, text, named):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    refused(lambda: load_pipeline(path), "mine.yaml", *named)


def test_a_pipeline_of_ones_own(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "stages:\n  - {name: a, prompt: '{{ question }}', stop: [x, y]}\n  - {name: b, prompt: '{{ a }}'}\n"
    )
    pipeline = load_pipeline(tmp_path / "mine.yaml")
    assert (pipeline.name, pipeline.stage_names, pipeline.stages[0].stop) == ("mine", ("a", "b"), ("x", "y"))


# --- templates run in a sandbox ---


@pytest.mark.parametrize(
    "prompt",
    [
        "{{ question.__class__.__mro__[1].__subclasses__() }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ question.format.__globals__ }}",
        "{{ options.append(1) }}",
    ],
)
def test_a_template_reaches_nothing_but_its_texts(prompt):
    refused(lambda: one(prompt=prompt).prompts(QUESTION, {}), "stage 'one'", "can't be made")


def test_a_template_cannot_include_files():
    with pytest.raises(Exception, match="no loader"):
        one(prompt="{% include '/etc/hostname' %}").prompts(QUESTION, {})


# --- questions ---


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"text": " "}, ["'q'", "is empty"]),
        ({"options": ()}, ["'q'", "no options"]),
        ({"options": ("a", " ")}, ["empty option"]),
        ({"options": tuple(map(str, range(27)))}, ["27"]),
        ({"answer": "D"}, ["'D'", "A, B, C"]),
        ({"answer": "a"}, ["'a'"]),
        ({"answer": ""}, ["''"]),
        ({"text": None}, ["None", "text"]),
        ({"id": 5}, ["5", "text"]),
        ({"options": "xyz"}, ["'xyz'", "list"]),
        ({"options": ("x", 2.5)}, ["2.5", "text"]),
    ],
)
def test_a_malformed_question_is_refused(fields, named):
    refused(
        lambda: Question(**{"id": "q", "text": "Where?", "options": ("x", "y", "z"), "answer": "A", **fields}), *named
    )


def test_options_are_lettered_in_order():
    assert [(option.label, option.text) for option in QUESTION.lettered] == [
        ("A", "river"),
        ("B", "canopy"),
        ("C", "swamp"),
    ]
