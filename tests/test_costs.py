"""Step costs: fitted from timings that are made up here, so nothing depends on a clock."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from litestage.engine import Batch
from litestage.plan import SkipSet, StagePlan
from litestage.profile import StepCosts, measure_step_costs
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
    """An engine whose passes take what the formula says, times a factor of its mask and of how often it was asked."""

    factor: Callable[[SkipSet, int], float] = lambda skip, asked: 1.0
    eos: tuple[int, ...] = (2,)
    decoder: Any = field(
        default_factory=lambda: SimpleNamespace(
            layers=LAYERS,
            sublayers=[SimpleNamespace(name=(kind, layer)) for layer in range(LAYERS) for kind in ("mhsa", "ffn")],
            config=SimpleNamespace(vocab_size=50),
            context_length=512,
        )
    )
    asked: list[SkipSet] = field(default_factory=list)

    def generate(self, requests, plan, decoding):
        assert self.eos == (-1,)  # no made-up text ends early
        self.asked.append(plan.skip)
        rows, prompt, steps = len(requests), len(requests[0].prompt), requests[0].limit
        active = LAYERS - len(plan.skip.mhsa), LAYERS - len(plan.skip.ffn)
        prefill = seconds_of(PREFILL, rows, prompt, prompt, *active)
        decode = sum(seconds_of(DECODE, rows, 1, prompt + steps / 2, *active) for _ in range(steps - 1))
        factor = self.factor(plan.skip, len(self.asked))
        return Batch([], prefill * factor, decode * factor)


def test_the_fit_recovers_the_coefficients():
    engine = MadeUpEngine()
    costs = measure_step_costs(engine)
    assert costs.layers == LAYERS
    assert costs.prefill == pytest.approx(PREFILL, rel=1e-4)
    assert costs.decode == pytest.approx(DECODE, rel=1e-4)
    assert costs.held_out_error < 1e-6
    assert engine.eos == (2,)  # the engine that was measured is as it was


def test_a_hiccup_in_a_measurement_does_not_move_the_fit():
    costs = measure_step_costs(MadeUpEngine(lambda skip, asked: 20.0 if asked % 7 == 0 else 1.0))
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


def test_a_shared_prefix_is_counted_once():
    prefill, _ = COSTS.stage_seconds(StagePlan(), stage("analyze", (40, 40, 40), (1, 1, 1), shared=36))
    expected = seconds_of(PREFILL, 1, 36, 36, LAYERS, LAYERS) + seconds_of(PREFILL, 3, 4, 40, LAYERS, LAYERS)
    assert prefill == pytest.approx(expected)


def test_rows_that_end_stop_costing():
    plan = StagePlan()
    _, together = COSTS.stage_seconds(plan, stage("analyze", (40, 40), (5, 21)))
    _, both_long = COSTS.stage_seconds(plan, stage("analyze", (40, 40), (21, 21)))
    _, alone = COSTS.stage_seconds(plan, stage("analyze", (40,), (21,)))
    assert alone < together < both_long


def test_skipping_takes_its_share_off_each_phase():
    trace = stage("recall", (40,), (11,))
    skip = SkipSet(mhsa=(0, 1), ffn=(2,))
    prefill, decode = COSTS.stage_seconds(StagePlan(skip), trace)
    assert prefill == pytest.approx(seconds_of(PREFILL, 1, 40, 40, LAYERS - 2, LAYERS - 1))
    full_prefill, full_decode = COSTS.stage_seconds(StagePlan(), trace)
    assert COSTS.stage_seconds(StagePlan(skip, phase="decode"), trace) == pytest.approx((full_prefill, decode))
    assert decode < full_decode


def test_a_stand_in_costs_its_own():
    costs = replace(COSTS, stand_ins={"block": ((1e-3, 1e-5), (1e-4, 1e-6))})
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
    def disturbed_first(skip, asked):
        return 3.0 if asked <= 6 * 4 * 4 and len(skip) not in (0, LAYERS // 2, LAYERS) else 1.0

    calm = MadeUpEngine()
    measure_step_costs(calm)
    engine = MadeUpEngine(disturbed_first)
    costs = measure_step_costs(engine)
    assert len(engine.asked) > len(calm.asked)
    assert costs.held_out_error > 0.1 or not caplog.records
    always = measure_step_costs(MadeUpEngine(lambda skip, asked: 1.0 if len(skip) in (0, 3, 6) else 2.0))
    assert always.held_out_error > 0.1
    assert "other work" in caplog.text


def test_costs_survive_json():
    assert StepCosts.from_dict(json.loads(json.dumps(COSTS.to_dict()))) == COSTS


def test_options_one_after_another_cost_as_much_as_alone():
    costs = StepCosts(4, tuple(1e-4 * (i + 1) for i in range(7)), tuple(1e-5 * (i + 1) for i in range(7)), 0.0)
    apart = replace(stage("analyze", (20, 22), (5, 9)), one_by_one=True)
    alone = [
        costs.stage_seconds(StagePlan(), stage("analyze", (prompt,), (tokens,)))
        for prompt, tokens in ((20, 5), (22, 9))
    ]
    assert costs.stage_seconds(StagePlan(), apart) == pytest.approx(tuple(map(sum, zip(*alone, strict=True))))
