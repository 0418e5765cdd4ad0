"""What a trace derives from what it holds."""

from dataclasses import replace

import pytest

from litestage.trace import StageTrace, Trace


def test_times_per_token_follow_their_formulas_and_are_none_where_nothing_was_measured():
    """Rows that run together take a step together: four options of 3, 5, 2 and 9 tokens are 9 successive tokens."""
    together = StageTrace("one", (3,) * 4, 0, (3, 5, 2, 9), ("",) * 4, ("eos",) * 4, 0.5, 1.6, 0.5)
    assert together.tpot_s == pytest.approx((0.5 + 1.6 - 0.5) / (9 - 1))
    in_turn = replace(together, one_by_one=True, ttft_s=0.1)
    assert in_turn.tpot_s == pytest.approx((0.5 + 1.6 - 0.1) / (3 + 5 + 2 + 9 - 1))
    whole = Trace("q", "h", (together, in_turn), "A", True, latency_s=4.5)
    assert whole.ttft_s == 0.5
    assert whole.tpot_s == pytest.approx((4.5 - 0.5) / (9 + 19 - 1))
    single = replace(together, tokens=(1,) * 4)  # no token follows the first
    assert (single.tpot_s, Trace("q", "h", (single,), "A", True, 2.1).tpot_s) == (None, None)
    untimed = replace(together, prefill_s=None, decode_s=None, ttft_s=None)
    trace = Trace("q", "h", (untimed,), "A", True)
    assert (untimed.tpot_s, trace.latency_s, trace.ttft_s, trace.tpot_s) == (None,) * 4
