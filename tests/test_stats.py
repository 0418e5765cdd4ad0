"""Intervals that mean what they say."""

import numpy as np
import pytest

from litestage.stats import accuracy_drop_interval, speedup_interval


def answers(both, only_full, only_method, neither):
    full = [True] * (both + only_full) + [False] * (only_method + neither)
    method = [True] * both + [False] * only_full + [True] * only_method + [False] * neither
    return full, method


def test_no_discordant_pair_still_has_a_width():
    low, high = accuracy_drop_interval(*answers(590, 0, 0, 10))
    assert low < 0 < high
    assert high - low < 0.02


def test_the_interval_mirrors_when_the_sides_change():
    low, high = accuracy_drop_interval(*answers(500, 30, 10, 60))
    mirrored = accuracy_drop_interval(*answers(500, 10, 30, 60))
    assert mirrored == pytest.approx((-high, -low))
    assert low < 20 / 600 < high


def test_pairing_narrows_the_interval():
    """The same two accuracies, once with agreeing answers and once with answers that agree by chance."""
    low, high = accuracy_drop_interval(*answers(470, 10, 0, 120))
    loose_low, loose_high = accuracy_drop_interval(*answers(376, 104, 94, 26))
    assert high - low < 0.6 * (loose_high - loose_low)


@pytest.mark.parametrize(("p_full", "p_method", "together"), [(0.98, 0.96, 0.95), (0.9, 0.86, 0.84), (0.55, 0.5, 0.42)])
def test_coverage_of_the_drop_interval_at_600_questions(p_full, p_method, together):
    rng = np.random.default_rng(5)
    cells = rng.multinomial(
        600, [together, p_full - together, p_method - together, 1 - p_full - p_method + together], size=1500
    )
    covered = 0
    for both, only_full, only_method, neither in cells.tolist():
        low, high = accuracy_drop_interval(*answers(both, only_full, only_method, neither))
        covered += low <= p_full - p_method <= high
    assert 0.93 <= covered / len(cells) <= 0.985


def test_the_speedup_interval_holds_the_ratio_of_sums_and_excludes_one_when_it_should():
    rng = np.random.default_rng(0)
    full = rng.uniform(0.05, 0.2, 60)
    method = full / 1.5 * rng.uniform(0.95, 1.05, 60)
    low, high = speedup_interval(full, method)
    assert 1.4 < low < full.sum() / method.sum() < high < 1.6
    assert speedup_interval(full, full) == (1.0, 1.0)


def test_a_constant_factor_has_a_narrow_interval():
    full = np.linspace(0.1, 0.2, 30)
    assert speedup_interval(full, full / 2) == pytest.approx((2.0, 2.0))
