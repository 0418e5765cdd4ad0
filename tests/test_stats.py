"""Intervals and tests that mean what they say, against published examples and simulated worlds."""

import numpy as np
import pytest
from scipy.stats import binom

from litestage.stats import (
    Pairs,
    accuracy_drop_bootstrap,
    accuracy_drop_interval,
    agreement,
    holm,
    mcnemar,
    minimum_detectable_drop,
    speedup_interval,
    wilson_interval,
)


def answers(both, only_full, only_method, neither):
    full = [True] * (both + only_full) + [False] * (only_method + neither)
    method = [True] * both + [False] * only_full + [True] * only_method + [False] * neither
    return full, method


# Fagerland, Lydersen and Laake, Statistical Analysis of Contingency Tables (2017), chapter 8: complete response before
# and after consolidation therapy (Cavo et al., 2012), and airway hyper-responsiveness (Bentur et al., 2009).
CAVO, BENTUR = (59, 6, 16, 80), (1, 1, 7, 12)


def test_published_examples_of_tangos_interval_and_mcnemars_exact_test():
    assert accuracy_drop_interval(*answers(*CAVO)) == pytest.approx((-0.1240, -0.0054), abs=5e-5)
    assert accuracy_drop_interval(*answers(*BENTUR)) == pytest.approx((-0.517, -0.026), abs=5e-4)
    assert mcnemar(Pairs.of(*answers(*CAVO))) == pytest.approx(0.052479, abs=5e-7)


def test_mcnemar_counts_only_questions_that_one_side_answers():
    pairs = Pairs.of(*answers(500, 10, 2, 88))
    assert pairs == Pairs(lost=10, gained=2, n=600)
    tail = (1 + 12 + 66) / 2**12  # at most 2 heads in 12 throws
    assert mcnemar(pairs) == pytest.approx(2 * tail)
    assert mcnemar(pairs, "greater") == pytest.approx(tail)
    assert mcnemar(Pairs(0, 0, 600)) == 1.0


def test_agreement_is_the_share_of_same_answers_no_answer_twice_included():
    share, interval = agreement(["A", "B", None, None, "C"], ["A", "C", None, "A", "C"])
    assert share == 3 / 5
    # Newcombe (Statistics in Medicine 17, 1998, 857-872), table I, method 3: 81 of 263 and 15 of 148
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert interval == wilson_interval(3, 5)
    low, high = wilson_interval(100, 100)
    assert 0.95 < low < high == pytest.approx(1)


def test_no_discordant_pair_still_has_a_width():
    low, high = accuracy_drop_interval(*answers(590, 0, 0, 10))
    assert low < 0 < high
    assert high - low < 0.02
    assert accuracy_drop_bootstrap(*answers(590, 0, 0, 10)) == (0, 0)  # why it is not the one that is printed


def test_everything_lost_and_everything_gained_reach_the_end():
    low, high = accuracy_drop_interval(*answers(0, 20, 0, 0))
    assert (0.5 < low < 1, high) == (True, 1)
    assert accuracy_drop_interval(*answers(0, 0, 20, 0)) == pytest.approx((-high, -low))


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


def test_the_bootstrap_agrees_with_the_score_interval_where_there_is_much_to_resample():
    many = answers(300, 60, 40, 200)
    assert accuracy_drop_bootstrap(*many) == pytest.approx(accuracy_drop_interval(*many), abs=0.003)


@pytest.mark.parametrize(
    ("p_full", "lost", "gained"),
    [
        *[(0.995, 0.01, 0.003), (0.99, 0.015, 0.005), (0.98, 0.03, 0.01)],
        *[(0.5, 0.1, 0.1), (0.5, 0.2, 0.1), (0.5, 0.05, 0.02)],
        *[(0.02, 0.012, 0.012), (0.02, 0.01, 0.005), (0.01, 0.008, 0.01)],
    ],
)
def test_coverage_of_the_drop_interval_at_600_questions(p_full, lost, gained):
    rng = np.random.default_rng(5)
    cells = rng.multinomial(600, [p_full - lost, lost, gained, 1 - p_full - gained], size=4000)
    worlds, counts = np.unique(cells[:, 1:3], axis=0, return_counts=True)
    covered = 0
    for (only_full, only_method), times in zip(worlds.tolist(), counts.tolist(), strict=True):
        low, high = accuracy_drop_interval(*answers(600 - only_full - only_method, only_full, only_method, 0))
        covered += times * (low <= lost - gained <= high)
    assert 0.93 <= covered / len(cells) <= 0.97


def test_holms_adjustment_by_hand():
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert adjusted == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})  # 4 * d, 3 * a, 2 * c, then no less
    assert holm({"a": 0.7, "b": 0.6}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


def test_the_smallest_drop_that_can_be_seen():
    """If nothing is gained, 6 lost questions are the fewest that McNemar's test calls more than noise."""
    drop = minimum_detectable_drop(600)
    assert binom.sf(5, 600, drop) == pytest.approx(0.8, abs=1e-4)
    assert 7.5 / 600 < drop < 8.5 / 600
    # Connor's sample size (Biometrics 43, 1987) for a drop of 0.1 among 0.2 discordant pairs is 155
    connor = (1.95996 * 0.2**0.5 + 0.84162 * (0.2 - 0.01) ** 0.5) ** 2 / 0.01
    assert round(connor) == 155
    assert minimum_detectable_drop(155, gained=0.05) == pytest.approx(0.1, abs=0.01)
    assert minimum_detectable_drop(5) == 1.0
    assert minimum_detectable_drop(100, gained=0.6) == 0.0  # where so much is gained there is no drop to see


def test_a_drop_of_that_size_is_found_four_times_in_five():
    n, gained = 300, 0.02
    drop = minimum_detectable_drop(n, gained)
    cells = np.random.default_rng(3).multinomial(n, [drop + gained, gained, 1 - drop - 2 * gained], size=2000)
    found = [mcnemar(Pairs(lost, won, n)) <= 0.05 for lost, won, _ in cells.tolist()]
    assert np.mean(found) == pytest.approx(0.8, abs=0.03)


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


def test_the_speedup_interval_of_a_whole_test_split_takes_little_memory():
    import tracemalloc

    seconds = np.random.default_rng(1).uniform(0.5, 2.0, (2, 1221))
    tracemalloc.start()
    speedup_interval(seconds[0], seconds[1])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 * 2**20  # all resamples at once take 293 MB


def test_coverage_of_the_speedup_interval_at_60_questions():
    """Times of a question go together, and a method's noise is its own."""
    rng = np.random.default_rng(8)
    covered = 0
    for _ in range(200):
        full = rng.lognormal(0, 0.3, 60)
        method = full / 1.5 * rng.lognormal(0, 0.1, 60)
        low, high = speedup_interval(full, method)
        covered += low <= 1.5 / np.exp(0.1**2 / 2) <= high
    assert 0.91 <= covered / 200 <= 0.98


def test_the_speed_ups_interval_takes_little_memory_and_is_the_same_in_parts(monkeypatch):
    """5,000 questions: 50 million draws, 1.2 GB at once; numbers as from one draw of all."""
    import tracemalloc

    from litestage.stats import bootstrap

    generator = np.random.default_rng(1)
    full, method = generator.uniform(1, 2, 5000), generator.uniform(0.5, 1, 5000)
    tracemalloc.start()
    speedup_interval(full, method)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50e6
    some = full[:300], method[:300]
    in_parts = speedup_interval(*some)
    monkeypatch.setattr(bootstrap, "_DRAWN", 10**9)
    assert speedup_interval(*some) == pytest.approx(in_parts, rel=1e-12)
