"""Step costs: fitted from timings that are made up here, so nothing depends on a clock."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import takewhile
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import Characters, random_prompts, tiny_model

from litestage.engine import Batch, Decoding, Engine, Request
from litestage.plan import SkipSet, StagePlan
from litestage.profile import StandInCosts, StepCosts, measure_stand_in, measure_step_costs, measure_token_share
from litestage.profile.step_times import BUDGET_S, TOLERATED_ERROR
from litestage.trace import StageTrace

LAYERS = 6
PREFILL = (3e-3, 2e-6, 4e-4, 1e-6, 2e-9, 3e-4, 3e-6)
DECODE = (1e-3, 5e-6, 2e-4, 2e-6, 4e-9, 1e-4, 5e-6)


def seconds_of(coefficients, rows, queries, context, mhsa, ffn):
    """The documented formula, written out: f0 + f1 rq + (a0 + a1 rq + a2 rqc) A + (m0 + m1 rq) F."""
    f0, f1, a0, a1, a2, m0, m1 = coefficients
    tokens = rows * queries
    return f0 + f1 * tokens + (a0 + a1 * tokens + a2 * tokens * context) * mhsa + (m0 + m1 * tokens) * ffn


@dataclass
class MadeUpEngine:
    """An engine whose passes take what the formula says, times a factor of its mask and of how often it was asked.

    It forwards what the host's steps do: a question's options share a lane, and those that have ended cost nothing.

    Attributes:
        leaves: whether they do; else they go on costing, as in static steps.
        price: seconds of a stand-in in a pass.
    """

    factor: Callable[[SkipSet, int], float] = lambda skip, asked: 1.0
    eos: tuple[int, ...] = (2,)
    decoder: Any = field(
        default_factory=lambda: SimpleNamespace(
            layers=LAYERS,
            sublayers=[(kind, layer) for layer in range(LAYERS) for kind in ("mhsa", "ffn")],
            config=SimpleNamespace(vocab_size=50),
            context_length=512,
            width=8,
            dtype=torch.float32,
        )
    )
    leaves: bool = True
    price: float = 0.0
    asked: list[SkipSet] = field(default_factory=list)

    def generate(self, requests, plan, decoding):
        assert self.eos == (-1,)  # no made-up text ends early
        self.asked.append(plan.skip)
        rows, prompt, steps = len(requests), len(requests[0].prompt), max(request.limit for request in requests)
        active = LAYERS - len(plan.skip.mhsa), LAYERS - len(plan.skip.ffn)
        if rows > 1 and {request.group for request in requests} == {0}:
            columns = zip(*(request.prompt for request in requests), strict=True)
            shared = len(list(takewhile(lambda tokens: len(set(tokens)) == 1, columns)))
            lane = shared + rows * (prompt - shared)
            prefill, decode = seconds_of(PREFILL, 1, lane, lane, *active), 0.0
            for step in range(1, steps):
                going = sum(request.limit > step for request in requests)
                lane += going
                decode += seconds_of(DECODE, going if self.leaves else rows, 1, lane, *active)
        else:
            prefill = seconds_of(PREFILL, rows, prompt, prompt, *active)
            decode = sum(seconds_of(DECODE, rows, 1, prompt + steps / 2, *active) for _ in range(steps - 1))
        stand_ins = len(plan.tensors) * self.price
        factor = self.factor(plan.skip, len(self.asked))
        return Batch([], (prefill + stand_ins) * factor, (decode + (steps - 1) * stand_ins) * factor)

    def why_not_static(self, plan):
        return "it is made up"


def test_the_fit_recovers_the_coefficients():
    engine = MadeUpEngine()
    costs = measure_step_costs(engine)
    assert costs.layers == LAYERS
    assert costs.prefill == pytest.approx(PREFILL, rel=1e-4)
    assert costs.decode == pytest.approx(DECODE, rel=1e-4)
    assert costs.held_out_error < 0.01  # rows of one lane: the context of each step is taken at the middle
    assert engine.eos == (2,)  # the engine that was measured is as it was


def slow(times: float) -> Callable[[SkipSet, int], float]:
    return lambda skip, asked: times


@dataclass
class Clocked(MadeUpEngine):
    """Notes the prompts' tokens and the seconds of what it was asked."""

    counted: list[tuple[int, float]] = field(default_factory=list)

    def generate(self, requests, plan, decoding):
        batch = super().generate(requests, plan, decoding)
        self.counted.append((len(requests) * len(requests[0].prompt), batch.prefill_s + batch.decode_s))
        return batch


def test_a_slow_model_is_measured_within_the_budget_and_as_well():
    """On a model on which a pass takes 20 times as long; one that is quick is timed on the larger shapes too."""
    for times, largest in ((1.0, 640), (20.0, 160)):
        engine = Clocked(slow(times))
        costs = measure_step_costs(engine)
        assert costs.prefill == pytest.approx([times * each for each in PREFILL], rel=1e-4)
        assert costs.decode == pytest.approx([times * each for each in DECODE], rel=1e-4)
        assert sum(seconds for _, seconds in engine.counted) < 1.5 * BUDGET_S
        assert max(size for size, _ in engine.counted) == largest


def test_a_slow_models_stand_in_is_measured_within_the_budget_too():
    engine = Clocked(slow(20.0), price=1e-3)
    prices = measure_stand_in(engine, "linear")
    assert sum(prices.decode) == pytest.approx(20e-3, rel=0.05)
    assert sum(seconds for _, seconds in engine.counted) < 2.5 * BUDGET_S


def test_a_slow_model_on_a_disturbed_machine_is_not_measured_for_ever(caplog):
    engine = Clocked(lambda skip, asked: 20.0 if len(skip) in (0, LAYERS // 2, LAYERS) else 40.0)
    assert measure_step_costs(engine).held_out_error > TOLERATED_ERROR
    assert sum(seconds for _, seconds in engine.counted) < 3.5 * BUDGET_S
    assert "other work" in caplog.text


def test_a_hiccup_in_a_measurement_does_not_move_the_fit():
    costs = measure_step_costs(MadeUpEngine(lambda skip, asked: 20.0 if asked % 11 == 0 else 1.0))
    assert costs.decode == pytest.approx(DECODE, rel=1e-4)


def test_the_error_is_measured_on_masks_that_were_not_fitted():
    """A machine on which a mask's cost is not additive: the fit cannot know, the error says so."""
    fitted_sizes = (0, LAYERS // 2, LAYERS)
    engine = MadeUpEngine(lambda skip, asked: 1.0 if len(skip) in fitted_sizes else 2.0)
    costs = measure_step_costs(engine)
    assert {len(skip) for skip in engine.asked} - set(fitted_sizes)
    assert costs.held_out_error > 0.2
    assert costs.decode == pytest.approx(DECODE, rel=1e-4)


def test_nothing_costs_less_than_nothing():
    """Whatever noise: no coefficient is negative, so skipping is never predicted to cost time."""
    rng = random.Random(0)
    costs = measure_step_costs(MadeUpEngine(lambda skip, asked: rng.uniform(0.5, 2)))
    assert min((*costs.prefill, *costs.decode)) >= 0
    assert costs.held_out_error > 0.01


COSTS = StepCosts(LAYERS, PREFILL, DECODE, 0.03)


def stage(name, prompts, tokens, shared=0):
    return StageTrace(name, prompts, shared, tokens, ("",) * len(tokens), ("length",) * len(tokens))


def test_one_row_is_a_prefill_and_a_step_for_every_token_but_the_first():
    prefill, decode = COSTS.stage_seconds(StagePlan(), stage("recall", (40,), (11,)))
    assert prefill == pytest.approx(seconds_of(PREFILL, 1, 40, 40, LAYERS, LAYERS))
    assert decode == pytest.approx(
        sum(seconds_of(DECODE, 1, 1, 40 + step, LAYERS, LAYERS) for step in range(1, 11)), rel=0.01
    )
    assert COSTS.stage_seconds(StagePlan(), stage("recall", (40,), (1,)))[1] == 0


@pytest.mark.parametrize("path", ["host", "static"])
def test_a_shared_prefix_is_counted_once(path):
    """One pass over the prompts' tree."""
    costs = replace(COSTS, path=path)
    prefill, _ = costs.stage_seconds(StagePlan(), stage("analyze", (40, 38, 40), (1, 1, 1), shared=36))
    assert prefill == pytest.approx(seconds_of(PREFILL, 1, 46, 46, LAYERS, LAYERS))


@pytest.mark.parametrize(("path", "running"), [("host", [4, 3, 2, 1]), ("static", [4, 4, 4, 4])])
def test_rows_that_end_stop_costing_where_the_path_lets_them_go(path, running):
    """Four rows of 5, 9, 15 and 21 tokens: each path forwards, step by step, what it does of those that have ended."""
    ends = (5, 9, 15, 21)
    _, decode = replace(COSTS, path=path).stage_seconds(StagePlan(), stage("analyze", (40,) * 4, ends, shared=36))
    expected = 0.0
    for rows, first, last in zip(running, (1, *ends), ends, strict=False):
        for step in range(first, last):
            slots = 36 + 4 * 4 + sum(min(end, step) for end in ends)
            expected += seconds_of(DECODE, rows, 1, slots, LAYERS, LAYERS)
    assert decode == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("path", ["host", "static"])
def test_each_path_forwards_as_many_tokens_as_it_is_priced_for(path):
    """A question's options in the engine itself; a cost model in which nothing costs but a token, one second each."""
    engine = Engine(tiny_model("llama"), Characters(), path)
    engine.eos, limits = (-1,), (3, 9, 6, 2)
    head, *rests = random_prompts((20, 5, 5, 5, 5))
    requests = [Request((*head, *rest), limit) for rest, limit in zip(rests, limits, strict=True)]
    before = engine.decoder.work.tokens
    engine.generate(requests, StagePlan(), Decoding())
    assert (engine.why_not_static(StagePlan()) is None) == (path == "static")
    per_token = (0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    costs = StepCosts(LAYERS, per_token, per_token, 0.0, path=path)
    assert sum(costs.stage_seconds(StagePlan(), stage("analyze", (25,) * 4, limits, shared=20))) == pytest.approx(
        engine.decoder.work.tokens - before
    )


def test_a_prompt_that_did_not_fit_costs_nothing():
    fit, none = stage("analyze", (40, 900), (5, 0)), stage("analyze", (900,), (0,))
    assert COSTS.stage_seconds(StagePlan(), fit) == COSTS.stage_seconds(StagePlan(), stage("analyze", (40,), (5,)))
    assert COSTS.stage_seconds(StagePlan(), none) == (0, 0)


def test_the_check_has_rows_of_unequal_length():
    """An engine on which rows that have ended go on costing, not as it says: equal rows cannot show it."""
    assert measure_step_costs(MadeUpEngine()).held_out_error < 1e-4
    assert (
        measure_step_costs(MadeUpEngine(leaves=False)).held_out_error > 1e-2
    )  # most of a pass is its own, not a row's


def test_skipping_takes_its_share_off_each_phase():
    trace = stage("recall", (40,), (11,))
    skip = SkipSet(mhsa=(0, 1), ffn=(2,))
    prefill, decode = COSTS.stage_seconds(StagePlan(skip), trace)
    assert prefill == pytest.approx(seconds_of(PREFILL, 1, 40, 40, LAYERS - 2, LAYERS - 1))
    full_prefill, full_decode = COSTS.stage_seconds(StagePlan(), trace)
    assert COSTS.stage_seconds(StagePlan(skip, phase="decode"), trace) == pytest.approx((full_prefill, decode))
    assert decode < full_decode


def test_a_kinds_price_is_what_a_quarter_of_it_saves_over_a_generation():
    costs = StepCosts(8, PREFILL, DECODE, 0.0)
    long, short = costs.generation_prices(4096), costs.generation_prices(300)
    steps, tokens = 511, 1024
    mean_context = tokens + (1 + 512) / 2
    assert long["mhsa"] == pytest.approx(
        (4e-4 + 1e-6 * tokens + 2e-9 * tokens**2) + steps * (2e-4 + 2e-6 + 4e-9 * mean_context), rel=1e-6
    )
    assert long["ffn"] == pytest.approx((3e-4 + 3e-6 * tokens) + steps * (1e-4 + 5e-6), rel=1e-6)
    assert short["ffn"] == pytest.approx((3e-4 + 3e-6 * 200) + 99 * (1e-4 + 5e-6), rel=1e-6)  # 200 and 100 tokens
    free = StepCosts(8, (*PREFILL[:2], 0, 0, 0, *PREFILL[5:]), (*DECODE[:2], 0, 0, 0, *DECODE[5:]), 0.0)
    assert free.generation_prices(4096)["mhsa"] == pytest.approx(long["ffn"] / 100)


def test_a_stand_in_costs_its_own():
    costs = replace(COSTS, stand_ins={"block": StandInCosts((1e-3, 1e-5), (1e-4, 1e-6))})
    trace, skip = stage("recall", (40,), (11,)), SkipSet(mhsa=(1, 2), ffn=(1,))  # mhsa 1, ffn 1, mhsa 2: one cut
    bare = costs.stage_seconds(StagePlan(skip), trace)
    block = StagePlan(skip, compensation="block", tensors={"mhsa.1": torch.zeros(8, 8)})
    prefill, decode = costs.stage_seconds(block, trace)
    assert prefill == pytest.approx(bare[0] + 1e-3 + 40 * 1e-5)
    assert decode == pytest.approx(bare[1] + 10 * (1e-4 + 1e-6))


def test_a_schedule_is_priced_step_by_step():
    schedule = {"steps": [{"from": 4, "mhsa": [0], "ffn": [0]}]}
    trace = stage("recall", (40,), (11,))
    _, decode = COSTS.stage_seconds(StagePlan(schedule=schedule), trace)
    expected = sum(
        seconds_of(DECODE, 1, 1, 40 + step, LAYERS - (step >= 4), LAYERS - (step >= 4)) for step in range(1, 11)
    )
    assert decode == pytest.approx(expected, rel=0.01)


def test_a_disturbed_measurement_is_made_again_and_warned_of_only_if_that_does_not_help(caplog):
    calm = MadeUpEngine()
    measure_step_costs(calm)
    first_round = len(calm.asked)

    def disturbed_first(skip, asked):
        return 3.0 if asked <= first_round and len(skip) not in (0, LAYERS // 2, LAYERS) else 1.0

    engine = MadeUpEngine(disturbed_first)
    assert measure_step_costs(engine).held_out_error <= TOLERATED_ERROR
    assert len(engine.asked) > first_round
    assert not caplog.records
    always = measure_step_costs(MadeUpEngine(lambda skip, asked: 1.0 if len(skip) in (0, 3, 6) else 2.0))
    assert always.held_out_error > TOLERATED_ERROR
    assert "other work" in caplog.text


def test_what_one_more_token_costs_is_a_share_of_a_step():
    class Tokens(MadeUpEngine):
        """Two rows of a lane take ``more`` of a step's second longer than one."""

        more = 0.25

        def generate(self, requests, plan, decoding):
            return Batch([], 1.0, 1.25 if len(requests) == 1 else 1.25 + self.more)

    assert measure_token_share(Tokens()) == pytest.approx(0.2)  # 0.25 of 1.25
    for more, least in ((0.0, 0.02), (2.0, 0.5)):
        engine = Tokens()
        engine.more = more
        assert measure_token_share(engine) == least


# --- what a stand-in costs ---


@pytest.mark.parametrize("form", ["block", "linear", "scale", "lowrank:2"])
def test_the_price_of_a_stand_in_is_recovered_with_its_interval(form, caplog):
    """A stand-in of 0.1 ms on a machine whose passes of some ms waver by 1 % and now and then take twice as long."""
    rng = random.Random(0)
    noisy = MadeUpEngine(lambda skip, asked: rng.gauss(1, 0.01) * (2 if asked % 23 == 0 else 1), price=1e-4)
    prices = measure_stand_in(noisy, form)
    low, high = prices.decode_step_ci95
    assert low < 1e-4 < high < 2e-4
    assert sum(prices.decode) == pytest.approx(1e-4, rel=0.4)
    assert prices.measurable
    assert prices.held_out_error < TOLERATED_ERROR
    assert not caplog.records


def test_a_price_that_cannot_be_told_from_0_is_said(caplog):
    rng = random.Random(0)
    prices = measure_stand_in(MadeUpEngine(lambda skip, asked: rng.gauss(1, 0.02), price=1e-8), "block")
    low, high = prices.decode_step_ci95
    assert low < 0 < high
    assert not prices.measurable
    assert min(*prices.prefill, *prices.decode) >= 0
    assert "'block' stand-in cannot be told from 0" in caplog.text


def test_a_price_that_does_not_hold_on_another_mask_is_warned_of(caplog):
    fitted = SkipSet(mhsa=tuple(range(0, LAYERS, 2)))

    class DearerElsewhere(MadeUpEngine):
        def generate(self, requests, plan, decoding):
            batch = super().generate(requests, plan, decoding)
            factor = 1.5 if plan.skip != fitted and plan.tensors else 1.0
            return Batch([], batch.prefill_s * factor, batch.decode_s * factor)

    engine = DearerElsewhere(price=1e-4)
    assert measure_stand_in(engine, "linear").held_out_error > TOLERATED_ERROR
    assert "on a mask that was not in the fit" in caplog.text


def test_costs_survive_json():
    prices = {
        "block": StandInCosts((1e-3, 1e-5), (1e-4, 1e-6), (-1e-5, 2e-4), 0.02),
        "scale": StandInCosts((0, 0), (0, 0)),
    }
    costs = replace(COSTS, stand_ins=prices, path="static")
    assert StepCosts.from_dict(json.loads(json.dumps(costs.to_dict()))) == costs


def test_options_one_after_another_cost_as_much_as_alone():
    costs = StepCosts(4, tuple(1e-4 * (i + 1) for i in range(7)), tuple(1e-5 * (i + 1) for i in range(7)), 0.0)
    apart = replace(stage("analyze", (20, 22), (5, 9)), one_by_one=True)
    alone = [
        costs.stage_seconds(StagePlan(), stage("analyze", (prompt,), (tokens,)))
        for prompt, tokens in ((20, 5), (22, 9))
    ]
    assert costs.stage_seconds(StagePlan(), apart) == pytest.approx(tuple(map(sum, zip(*alone, strict=True))))
