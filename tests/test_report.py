"""The report: what it says is what the files say, it can be read by everybody, and nothing in it can act."""

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from math import log2
from pathlib import Path

import pytest
from run_folders import (
    FULL,
    OURS,
    PROFILE,
    SEARCH,
    SLOW,
    compared,
    experimented,
    method,
    question,
    results,
    traced,
)

from litestage.errors import LiteStageError
from litestage.report import read_run, write_report
from litestage.report.answer import answer, in_two_sentences
from litestage.report.excerpt import comparison, fill
from litestage.report.failures import failures
from litestage.report.palette import HUES
from litestage.report.pictures.accuracy import pareto_front
from litestage.report.pictures.budgets import over_budgets
from litestage.report.pictures.confidence import mean_by_step
from litestage.report.tables import entropy_table, least_entropy, methods_table

ROOT = Path(__file__).parents[1]


def page(folder):
    write_report([read_run(folder)], folder)
    return (folder / "report.html").read_text(encoding="utf-8")


class Elements(HTMLParser):
    """Every element's name and attributes, and the text between."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.words = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.words.append(data)


def test_the_answer_is_full_depth_and_the_fastest_searched_plan():
    assert in_two_sentences(results(FULL, OURS, SLOW)) == (
        "Full depth answers 90.0% of 100 questions right, in 100 ms each. litestage is 1.50 times as fast "
        "(95 % interval 1.40 to 1.60) and loses 2.0 points of accuracy (95 % interval -3.0 to 7.0)."
    )


def test_without_a_search_the_answer_is_the_fastest_method_that_does_not_surely_lose():
    early = method("early-exit", 0.5, 3.0, [2.9, 3.1], skipped=5)
    even = method("uniform", 0.89, 1.2, [1.1, 1.3], skipped=1)
    assert "uniform is 1.20 times as fast" in in_two_sentences(results(FULL, early, even))


def test_a_variant_that_happens_to_be_faster_is_not_the_answer():
    variant = method("litestage-bare", 0.87, 1.7, [1.6, 1.8], skipped=3)
    assert "litestage is 1.50 times as fast" in in_two_sentences(results(FULL, OURS, variant))


def test_the_two_failures_are_named(tmp_path):
    found = failures(read_run(compared(tmp_path)))
    assert [sentence.split(":")[0] for sentence in found] == ["Latency inversion", "Summary collapse"]
    assert "cosine skips 16 sub-layers" in found[0]
    assert "59 tokens a question instead of 14" in found[0]
    assert "40% of 100 questions" in found[1]


@pytest.mark.parametrize(
    "fine",
    [
        method("cosine", 0.4, 1.1, [0.9, 1.3], skipped=4, failed=3),  # faster; 3 of 100 against 0 may be chance
        method("full+exit", 0.9, 0.8, [0.7, 0.9]),  # slower, but nothing is skipped
    ],
)
def test_neither_is_called_without_need(tmp_path, fine):
    assert failures(read_run(compared(tmp_path, FULL, fine))) == []


def test_a_slowdown_within_noise_is_not_called_certain(tmp_path):
    (only,) = failures(read_run(compared(tmp_path, FULL, method("cosine", 0.9, 0.95, [0.8, 1.1], skipped=1))))
    assert only.startswith("Perhaps a latency inversion")


def test_the_front_holds_what_nothing_beats():
    equal = method("slower, as accurate", 0.88, 1.4, [1.3, 1.5])
    assert [m["name"] for m in pareto_front([FULL, SLOW, OURS, equal])] == ["litestage", "full"]


def test_a_retrained_model_is_no_part_of_the_front():
    half = method("full-half", 0.9, 2.0, [1.9, 2.1], model="reference-half")
    assert [m["name"] for m in pareto_front([FULL, SLOW, OURS, half])] == ["litestage", "full"]


def test_among_many_methods_only_the_front_is_named_at_its_point(tmp_path):
    others = [method(f"other{at}", 0.5, 0.9 + at / 100, [0.8, 1.1]) for at in range(9)]
    write_report([read_run(compared(tmp_path, FULL, OURS, *others))], tmp_path)
    drawn = (tmp_path / "figures" / "accuracy.svg").read_text(encoding="utf-8")
    words = re.findall(r"<text [^>]*>([^<]*)</text>", drawn)
    assert {"full", "litestage", "1", "9", "1 other0", "9 other8"} <= {" ".join(word.split()) for word in words}


def test_pictures_in_files_are_dark_where_the_reader_likes_dark_pages(tmp_path):
    page(compared(tmp_path))
    drawn = (tmp_path / "figures" / "tokens.svg").read_text(encoding="utf-8")
    assert "@media (prefers-color-scheme: dark)" in drawn
    assert not re.search(r"(?:fill|stroke): #(?!b0b0b0)", drawn)  # but the grid's grey, which is seen on both


def test_confidence_is_the_mean_of_the_rows_still_running():
    assert mean_by_step([[1.0, 0.5, 0.2], [0.8, 0.1], [0.6, 0.9], [0.4, 0.5, 0.6]]) == pytest.approx([0.7, 0.5])


def test_entropy_is_the_least_that_the_largest_probability_allows():
    assert least_entropy(0.75) == pytest.approx(2 - 0.75 * log2(3))  # one other outcome
    assert least_entropy(0.4) == pytest.approx(0.8 * log2(2.5) + 0.2 * log2(5))  # 0.4, 0.4, 0.2
    table = entropy_table([question(full=traced("A", confidences=(1.0, 0.5, 0.25)))])
    assert table.rows == [["full", "1.000", "1.000"]]  # (0 + 1 + 2) / 3


def test_the_table_leaves_out_what_nothing_was_measured_for():
    untimed = {key: value for key, value in FULL.items() if not key.startswith(("latency", "speedup"))}
    assert not any("ms" in column or "speed-up" in column for column in methods_table(results(untimed)).columns)
    assert "p (Holm)" in methods_table(results(FULL, {**OURS, "mcnemar_p_holm": 0.02})).columns
    for drop, said in ((0.031, True), (0.0, False), (-0.2, False)):
        remarks = methods_table(
            {**results(FULL, OURS), "minimum_detectable_drop": {"drop": drop, "power": 0.8}}
        ).remarks
        assert any("is the least that this test would find" in remark for remark in remarks) == said


AGREEING = {"agreement": 0.7, "agreement_ci95": [0.6, 0.78]}


def test_how_many_answers_are_full_depths_stands_beside_the_drop_wherever_it_was_counted(tmp_path):
    """Results of before have none: their tables stay as they were."""
    before, now = (methods_table(results(FULL, ours)) for ours in (OURS, {**OURS, **AGREEING}))
    assert not any("same answers" in column for column in before.columns)
    at = now.columns.index("same answers [95 %]")
    assert now.columns[at - 1].startswith("drop")
    assert now.rows[1][at] == "70.0% [60.0, 78.0]"
    assert "answers 70.0% of them as full depth does" in in_two_sentences(results(FULL, {**OURS, **AGREEING}))
    content = {**results({**FULL, **AGREEING}, {**OURS, **AGREEING}), "memory": {"peak_resident_mb": 1.0}}
    content["environment"] = {"threads": 1, "hardware": "a laptop"}
    for name, shown in (("with", content), ("without", {**content, "methods": [FULL, OURS]})):
        (tmp_path / name / "menagerie").mkdir(parents=True)
        (tmp_path / name / "menagerie" / "results.json").write_text(json.dumps(shown))
    columns, line, *rows = comparison(tmp_path / "with").splitlines()
    assert "| drop, points [95 %] | same answers [95 %] | ms |" in columns
    assert {row.count("|") for row in (columns, line, *rows[:2])} == {9}
    assert "| 70.0% [60.0, 78.0] |" in rows[1]
    assert "same answers" not in comparison(tmp_path / "without")


@pytest.mark.parametrize("wrong", [{"agreement": "most", "agreement_ci95": [0.6, 0.8]}, {"agreement": 0.7}])
def test_an_agreement_that_is_none_is_one_sentence(tmp_path, wrong):
    with pytest.raises(LiteStageError, match=r"results\.json is not whole: .*agreement"):
        read_run(compared(tmp_path, FULL, {**OURS, **wrong}))


def at(budget, accuracy, speedup):
    made = method(f"cosine:{budget}", accuracy, speedup, [speedup, speedup], skipped=budget)
    return {**made, "method": "cosine", "budget": budget}


def test_a_method_at_several_budgets_is_a_line_over_them():
    entries = [at(8, 0.5, 0.8), at(2, 0.9, 1.1), at(4, 0.8, 1.3), {**at(4, 0.8, 1.3), "method": "uniform"}]
    picture = over_budgets(results(FULL, *entries))
    above, below = picture.figure.axes
    (line,) = above.get_lines()  # uniform stands at one budget only
    assert list(line.get_xdata()) == [0, 2, 4, 8]
    assert list(line.get_ydata()) == pytest.approx([90, 90, 80, 50])
    assert list(below.get_lines()[0].get_ydata()) == pytest.approx([100, 100 / 1.1, 100 / 1.3, 125])
    assert "cosine: 90.0 % and 91 ms at 2, 80.0 % and 77 ms at 4, 50.0 % and 125 ms at 8." in picture.alt
    assert over_budgets(results(FULL, OURS, at(4, 0.8, 1.3))) is None
    untimed = [{k: v for k, v in m.items() if not k.startswith(("latency", "speedup"))} for m in (FULL, *entries)]
    assert len(over_budgets(results(*untimed)).figure.axes) == 1


@pytest.mark.parametrize(
    ("budgets", "rule", "said"),
    [
        ({"think": 4, "answer": 2}, None, "skips 4 sub-layers in think, 2 in answer."),
        ({"think": 0, "answer": 0}, {"rule": "confidence", "threshold": 0.5, "window": 5},
         "skips nothing and ends a stage early (exit rule: confidence <= 0.5 over 5)."),
        ({"think": 1, "answer": 0}, {"rule": "confidence", "threshold": 0.5, "window": 5},
         "skips 1 sub-layer in think, 0 in answer and ends a stage early"),
    ],
)  # fmt: skip
def test_what_a_search_found_is_said_be_it_the_exit_rule_alone(tmp_path, budgets, rule, said):
    chosen = {**SEARCH["chosen"], "budgets": budgets, "exit": rule}
    compared(tmp_path, search={**SEARCH, "chosen": chosen})
    (tmp_path / "results.json").unlink()
    assert f"the chosen one {said}" in answer(read_run(tmp_path))


def test_the_page_holds_every_part_and_asks_nothing_of_the_network(tmp_path):
    text = page(compared(tmp_path))
    found = Elements(text)
    assert [words for words in ("Pareto", "Tokens by stage", "The search in stage think", "Importance", "Confidence")
            if words not in text] == []  # fmt: skip
    assert "litestage compare task=mine" in text
    assert "a laptop" in text
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in found.elements}
    for tag, attributes in found.elements:
        for name in ("src", "href", "xlink:href", "srcset", "action"):
            assert attributes.get(name, "#").startswith(("#", "data:")), (tag, attributes)
    assert not re.search(r"url\((?!#)|@import", text)


def test_every_picture_says_what_one_would_see(tmp_path):
    found = Elements(page(compared(tmp_path)))
    pictures = [attributes for _, attributes in found.elements if attributes.get("role") == "img"]
    assert len(pictures) == 3 + 3 + 1 + 2
    assert "litestage: 88.0 % at 67 ms" in pictures[0]["aria-label"]
    ids = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_traces_stand_beside_full_depth_and_what_parts_from_it_is_marked(tmp_path):
    found = Elements(
        page(compared(tmp_path, lines=[question(full=traced("A"), litestage=traced("A"), cosine=traced("B"))]))
    )
    (shown,) = [attributes["class"] for tag, attributes in found.elements if tag == "details" and "question" in
                attributes.get("class", "")]  # fmt: skip
    assert shown.split() == ["question", "parts-1"]
    assert [words for words in found.words if "the same as full depth" in words] == ["the same as full depth"] * 4


def test_a_page_of_endless_texts_stays_below_3_mb(tmp_path):
    ramble = {name: traced("A", f"{name} <&> " * 1_000) for name in ("full", "litestage", "cosine")}
    page(compared(tmp_path, lines=[question(number, text="Why? " * 50, **ramble) for number in range(40)]))
    assert 1_000_000 < (tmp_path / "report.html").stat().st_size < 3_000_000


def test_several_runs_make_one_page_and_one_results_file(tmp_path):
    runs = [read_run(compared(tmp_path / "one")), read_run(experimented(tmp_path / "two"))]
    write_report(runs, tmp_path / "both")
    text = (tmp_path / "both" / "report.html").read_text(encoding="utf-8")
    assert "Think loses first. Answer bears all." in text
    assert "0.125 [0.1, 0.15]" in text
    kept = json.loads((tmp_path / "both" / "results.json").read_text())
    assert [run["results"]["schema"] for run in kept["runs"]] == [
        "litestage.results/1",
        "litestage.experiment/1",
    ]


def test_the_markdown_twin_links_figures_that_are_there(tmp_path):
    page(compared(tmp_path))
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    links = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert len(links) == 9
    assert all((tmp_path / link).is_file() for link in links)
    assert "| litestage | 88.0% | +2.0 \\[-3.0, +7.0\\] |" in text


def test_markdown_takes_texts_as_they_are(tmp_path):
    text = "```\n# not a heading\n````\n<b>not bold</b>"
    compared(tmp_path, FULL, {**OURS, "name": "a|b<i>"}, lines=[question(full=traced("A", text))])
    page(tmp_path)
    made = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert f"`````text\n{text}\n`````" in made
    assert "| a\\|b\\<i\\> |" in made


def test_a_search_or_a_profile_alone_is_a_report_too(tmp_path):
    (tmp_path / "search.json").write_text(json.dumps(SEARCH))
    assert "the chosen one skips 4 sub-layers in think, 2 in answer" in page(tmp_path)
    assert "litestage search task=mine" in page(tmp_path)
    (tmp_path / "search.json").unlink()
    (tmp_path / "profile.json").write_text(json.dumps(PROFILE))
    assert "Over 8 calibration questions" in page(tmp_path)


@pytest.mark.parametrize("name", ["README.md", "docs/experiments.md"])
def test_the_figures_in_the_documentation_are_those_of_the_committed_reports(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert "<!-- end " in text
    assert fill(text, ROOT / "reports") == text, "run make readme"


def luminance(colour):
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_colours_can_be_told_from_the_page_in_light_and_dark(tmp_path):
    """WCAG 2.1: 3 to 1 for graphics, 4.5 to 1 for text."""
    style = page(compared(tmp_path)).split("</style>")[0]
    light, dark = (
        dict(re.findall(r"--(\w+): (#\w{6})", part)) for part in re.findall(r":root \{([^}]*ink[^}]*)\}", style)
    )
    for colours, hues in ((light, HUES), (dark, HUES.values())):
        assert min(contrast(hue, colours["paper"]) for hue in hues) >= 3
        for text in ("ink", "quiet", "ours", "right", "wrong"):
            assert min(contrast(colours[text], colours[under]) for under in ("paper", "card")) >= 4.5, text
        assert contrast(colours["ink"], colours["warn"]) >= 4.5


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({}, "There is no run"),
        ({"results.json": "{"}, "is not JSON"),
        ({"results.json": '{"schema": "other/1"}'}, "'other/1'"),
        ({"results.json": "[]"}, "has the schema None"),
        ({"search.json": json.dumps(SEARCH), "traces.jsonl": f"{json.dumps(question())}\n{{"}, "row 2 is not JSON"),
    ],
)
def test_a_folder_that_holds_no_run_is_one_sentence(litestage, tmp_path, files, named):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    code, _, err = litestage("report", tmp_path)
    assert (code, named in err) == (2, True), err


def test_a_report_of_several_runs_does_not_overwrite_one_of_them(litestage, tmp_path):
    one, two = compared(tmp_path / "one"), experimented(tmp_path / "two")
    code, _, err = litestage("report", one, two, "--output", one)
    assert (code, "must stay" in err) == (2, True), err
    assert json.loads((one / "results.json").read_text())["schema"] == "litestage.results/1"


def test_a_window_system_that_is_not_there_costs_no_report(tmp_path):
    command = [sys.executable, "-c", "from litestage.cli import main; main()", "report", compared(tmp_path / "run")]
    done = subprocess.run(command, env={**os.environ, "MPLBACKEND": "nowhere"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
