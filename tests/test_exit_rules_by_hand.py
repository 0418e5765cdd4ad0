"""Every exit rule against traces worked out by hand."""

import math

import numpy as np
import pytest
import torch

from litestage.engine.signals import measure
from litestage.plan import ExitRule
from litestage.plan.exit import Steps, exit_step

WORDS = {1: "Ice", 2: " is", 3: " cold", 4: ".", 5: " So", 6: " 3", 7: "5", 8: '"'}


def text(tokens):
    return "".join(WORDS[token] for token in tokens)


def step(rule, **seen):
    return exit_step(rule, Steps(text=text, **seen))


def test_relative_drop_compares_with_the_texts_own_beginning():
    rule = ExitRule("relative_drop", ratio=0.5, window=2)
    # beginning: mean of 0.8 and 0.6 is 0.7, so it ends at a mean of 0.35 or less, from the fourth step on
    assert step(rule, confidences=[0.8, 0.6, 0.3, 0.5, 0.2, 0.1]) == 4  # 0.5 and 0.2: exactly 0.35
    assert step(rule, confidences=[0.8, 0.6, 0.3, 0.41]) is None  # 0.355
    assert step(rule, confidences=[0.2, 0.2, 0.12, 0.12]) is None  # unsure from the start: no drop
    assert step(rule, confidences=[0.8, 0.6, 0.1]) is None  # the windows would overlap


def test_entropy_ends_what_is_wide_open_and_margin_what_has_a_rival():
    wide = ExitRule("entropy", threshold=1.5, window=2)
    assert step(wide, tokens=[1] * 4, signals={"entropy": [1.0, 1.4, 1.6, 2.0]}) == 2  # 1.4 and 1.6: exactly 1.5
    assert step(wide, tokens=[1] * 2, signals={"entropy": [3.0, 0.0 - 0.1]}) is None
    rival = ExitRule("margin", threshold=0.1, window=2)
    assert step(rival, tokens=[1] * 4, signals={"margin": [0.5, 0.15, 0.05, 0.0]}) == 2
    assert step(rival, tokens=[1] * 2, signals={"margin": [0.0, 0.21]}) is None


def test_repetition_counts_what_was_said_and_overlaps_count_once():
    rule = ExitRule("repetition", length=2, times=3)
    assert step(rule, tokens=[7, 8, 1, 7, 8, 2, 7, 8, 3]) == 7  # 7 8 for the third time
    assert step(rule, tokens=[5, 5, 5, 5, 5]) is None  # 5 5 twice without overlap
    assert step(rule, tokens=[5, 5, 5, 5, 5, 5]) == 5
    assert step(rule, tokens=[7, 8, 7, 8]) is None


def test_a_sentence_ends_where_the_next_one_begins():
    rule = ExitRule("sentence_end", sentences=1)
    assert step(rule, tokens=[1, 2, 3, 4, 5]) == 4  # "Ice is cold." and then " So"
    assert step(rule, tokens=[1, 2, 3, 4]) is None  # nothing has begun after it
    assert step(rule, tokens=[1, 2, 6, 4, 7]) is None  # "Ice is 3.5"
    assert step(rule, tokens=[1, 2, 3, 4, 8, 5]) == 5  # a quotation mark belongs to the sentence before
    assert step(ExitRule("sentence_end", sentences=2), tokens=[1, 2, 3, 4, 5, 2, 3, 4, 5]) == 8


def test_convergence_ends_where_the_stated_answer_has_stayed():
    said = ("", " So the answer is", " option A", " option B", ".", " Or not.", " Then", "\nThe Answer is: (")

    def ends(tokens, **parameters):
        steps = Steps(tokens=tokens, text=lambda some: "".join(said[token] for token in some))
        return exit_step(ExitRule("convergence", **parameters), steps)

    assert ends([1, 2, 4, 5, 6], sentences=1) == 3  # stated, and the next sentence has begun
    assert ends([1, 2, 4, 5, 6]) == 4  # it stands after two sentences
    assert ends([1, 2, 4, 1, 3, 4, 6]) is None  # another answer by the second
    assert ends([1, 2, 4, 1, 3, 4, 5, 6]) == 7  # which has stayed by the third
    assert ends([1, 2, 4, 7, 2, 4, 6]) == 6  # said in other words, the same
    assert ends([5, 5, 5, 6]) is None  # nothing is stated
    assert ends([5, 1, 2, 4, 6], sentences=1) == 4
    assert ends([1, 2, 4, 5, 6], sentences=1, words="or") == 4  # " Or not." once it is over
    assert ends([1, 2, 4, 5, 6], sentences=1, words="hence") is None


def test_deepconf_ends_below_the_threshold_and_not_at_it():
    rule = ExitRule("deepconf", threshold=2.0, window=2, k=5)
    assert step(rule, tokens=[1] * 4, signals={"top5": [5.0, 3.0, 1.0, 0.5]}) == 3  # 3 and 1 are exactly 2; 1 and 0.5
    assert step(rule, tokens=[1], signals={"top5": [0.0]}) is None  # the window is not full


def test_deepconfs_threshold_is_the_percentile_of_each_texts_least_window_mean():
    texts = [[4.0, 2.0, 6.0], [1.0, 1.0, 9.0], [8.0, 8.0, 8.0], [5.0]]
    least = [3.0, 1.0, 8.0, 5.0]  # windows of two: 3, 4; 1, 5; 8, 8; and the short one whole
    for eta in (10, 50, 90):
        rule = ExitRule("deepconf", window=2, k=5, eta=eta).calibrated([Steps(signals={"top5": row}) for row in texts])
        assert rule.threshold == pytest.approx(np.percentile(least, 100 - eta))
        assert not rule.lacks
    given = ExitRule("deepconf", threshold=7.0, k=5)
    assert given.calibrated([Steps(signals={"top5": [1.0]})]) == given


def test_signals_are_what_they_are_called():
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0], [0.0, 0.0, 0.0, 0.0]])
    p = logits.double().softmax(-1).tolist()
    entropy = [-sum(q * math.log(q) for q in row) for row in p]
    assert measure("entropy", logits).tolist() == pytest.approx(entropy, rel=1e-5)
    assert measure("margin", logits).tolist() == pytest.approx([p[0][0] - p[0][1], 0.0], abs=1e-6)
    top2 = [-(math.log(row[0]) + math.log(row[1])) / 2 for row in p]
    assert measure("top2", logits).tolist() == pytest.approx(top2, rel=1e-5)
    assert measure("top20", logits).tolist() == pytest.approx([-sum(map(math.log, row)) / 4 for row in p], rel=1e-5)
    with pytest.raises(ValueError, match="topmost"):
        measure("topmost", logits)
