"""Fidelity ranking and compensation, against the same thing done the long way."""

import math
from collections import Counter
from collections.abc import Callable
from copy import copy

import pytest
import torch
from tiny import LAYERS, random_prompts, tiny_engine

from litestage.data import load_task
from litestage.engine import Decoding, Request
from litestage.plan import Plan, SkipSet, StagePlan
from litestage.profile import StepCosts
from litestage.profile.compensation import fit_compensation
from litestage.profile.fidelity import rank_by_fidelity
from litestage.profile.forced import TeacherForced, about, drawn, stage_sequences
from litestage.profile.greedy import divergence, greedy_order
from litestage.search.ladders import CHECKED_TOKENS, priced_ladder
from litestage.session import Session
from litestage.stages import load_pipeline
from litestage.trace import StageTrace

PROMPTS = random_prompts((9, 14, 20, 12, 17, 25))


def sequences(engine, limit=12):
    outputs = engine.generate(
        [Request(prompt, limit, group=i) for i, prompt in enumerate(PROMPTS)], StagePlan(), Decoding()
    )
    return [(prompt, row.tokens) for prompt, row in zip(PROMPTS, outputs.generations, strict=True)]


@torch.inference_mode()
def long_way_nll(engine, pairs, plan):
    scores = engine.loglikelihood(pairs, plan)
    return -sum(score for score, _ in scores) / sum(len(output) for _, output in pairs)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "olmo2"])
def test_the_likelihood_is_that_of_the_engine(family):
    engine = tiny_engine(family)
    pairs = sequences(engine)
    forced = TeacherForced(engine, pairs)
    assert forced.nll(forced.streams[-1]) == pytest.approx(long_way_nll(engine, pairs, StagePlan()), abs=1e-5)
    skip = SkipSet(mhsa=(0, 2), ffn=(1,))
    with torch.inference_mode():
        streams = forced.after(skip)
    assert forced.nll(streams[-1]) == pytest.approx(long_way_nll(engine, pairs, StagePlan(skip=skip)), abs=1e-4)


@torch.inference_mode()
def long_way_harm(engine, pairs, dropped):
    """One output at a time: is it still what greedy decoding writes, and how probable is it?"""
    scores = [engine.loglikelihood([pair], StagePlan(skip=SkipSet.of(dropped)))[0] for pair in pairs]
    changed = sum(not greedy for _, greedy in scores) / len(pairs)
    return changed + sum(1 - math.exp(score) for score, _ in scores) / len(pairs)


class Counted(TeacherForced):
    """Counts how often it is asked for harms."""

    looks = 0

    def harms(self, stream):
        self.looks += 1
        return super().harms(stream)


def test_each_round_drops_what_harms_least_for_its_time():
    """A cheap attention and a dear FFN: checked against trying every remaining sub-layer in the first round."""
    engine = tiny_engine("llama")
    pairs, saving = sequences(engine, limit=3), {"mhsa": 1.0, "ffn": 2.0}
    forced, names = Counted(engine, pairs), engine.decoder.sublayers
    ranking = rank_by_fidelity([forced], 3, saving)
    nothing = long_way_harm(engine, pairs, [])
    first = min(names, key=lambda name: (long_way_harm(engine, pairs, [name]) - nothing) / saving[name[0]])
    assert ranking.order[0] == first
    for budget, value in enumerate(ranking.harm):
        assert value == pytest.approx(long_way_harm(engine, pairs, ranking.order[:budget]), abs=1e-4)
    assert 1 < forced.looks <= 1 + len(names) + 3 * len(names)  # once with nothing dropped


def test_sequences_in_parts_are_all_counted_and_what_harms_too_much_is_the_end():
    engine = tiny_engine("llama")
    pairs, saving = sequences(engine, limit=3), {"mhsa": 1.0, "ffn": 1.0}
    told = []
    ranking = rank_by_fidelity(
        [TeacherForced(engine, pairs[:2]), TeacherForced(engine, pairs[2:])], 3, saving, advance=told.append
    )
    for budget, value in enumerate(ranking.harm):
        assert value == pytest.approx(long_way_harm(engine, pairs, ranking.order[:budget]), abs=1e-4)
    assert told == [1, 1, 1]
    cut = rank_by_fidelity([TeacherForced(engine, pairs[:2]), TeacherForced(engine, pairs[2:])], 8, saving, harmful=0.0)
    assert cut.harm == ranking.harm[: len(cut.harm)]
    assert len(cut.harm) < 8  # every sub-layer of a random model harms
    assert cut.order[: len(cut.harm) - 1] == ranking.order[: len(cut.harm) - 1]
    assert len(set(cut.order)) == 8


@pytest.fixture(scope="module")
def menagerie():
    """The embedded model's engine, and the prompts and outputs of its Analyze stage on 24 calibration questions."""
    session, pipeline = Session.open("reference"), load_pipeline("recall_analyze_summarize")
    full = session.contestant(pipeline, Plan.full(pipeline.stage_names))
    questions = load_task("menagerie").questions("calibration")[:24]
    return session.engine, stage_sequences(full, questions, full.answer(questions))["analyze"]


def exhaustive_order(forced: TeacherForced, count: int, harm: Callable[[torch.Tensor], float]) -> list[int]:
    """Sub-layers in greedy order, every remaining one measured in every round."""
    names = forced.decoder.sublayers
    order: list[int] = []
    with torch.inference_mode():
        while len(order) < count:
            harms = {
                index: harm(forced.after(SkipSet.of(names[each] for each in (*order, index)))[-1])
                for index in range(len(names))
                if index not in order
            }
            order.append(min(harms, key=lambda index: harms[index]))
    return order


@pytest.mark.slow
@pytest.mark.parametrize("harm", ["divergence", "nll"])
def test_a_lazy_order_harms_no_more_than_an_exhaustive_one_at_a_fraction_of_the_tokens(menagerie, harm: str):
    engine, pairs = menagerie
    measured = [TeacherForced(engine, pairs[:24]) for _ in range(2)]
    harms = [divergence(forced) if harm == "divergence" else forced.nll for forced in measured]
    names, work = engine.decoder.sublayers, engine.decoder.work
    before = copy(work)
    lazy = greedy_order(measured[0], [[name] for name in names], 10, harms[0])
    took = work.since(before).tokens
    before = copy(work)
    exhaustive = exhaustive_order(measured[1], 10, harms[1])
    assert took < 0.3 * work.since(before).tokens
    for budget in (1, 2, 4, 6, 8, 10):
        ours, theirs = (
            harms[1](measured[1].after(SkipSet.of(names[index] for index in order[:budget]))[-1])
            for order in (lazy, exhaustive)
        )
        assert ours <= 1.02 * theirs + 1e-3
    assert greedy_order(TeacherForced(engine, pairs[:24]), [[name] for name in names], 10, harms[0], lazy[:7]) == lazy


@pytest.mark.slow
def test_on_a_trained_model_the_order_is_as_good_as_an_exhaustive_greedy_search_at_a_fraction_of_the_tokens(menagerie):
    engine, pairs = menagerie
    ranked, others = pairs[:24], TeacherForced(engine, pairs[24:])
    work, budgets = engine.decoder.work, (2, 4, 6, 8)
    before = copy(work)
    parts = [TeacherForced(engine, ranked[:6]), TeacherForced(engine, ranked[6:])]
    ranking = rank_by_fidelity(parts, 8, {"mhsa": 1.0, "ffn": 1.0})
    took = work.since(before).tokens
    before = copy(work)
    whole = TeacherForced(engine, ranked)
    names = engine.decoder.sublayers
    exhaustive = exhaustive_order(whole, 8, whole.harm)
    assert took < 0.4 * work.since(before).tokens
    with torch.inference_mode():
        for budget in budgets:
            ours = others.harm(others.after(SkipSet.of(ranking.order[:budget]))[-1])
            theirs = others.harm(others.after(SkipSet.of(names[index] for index in exhaustive[:budget]))[-1])
            assert ours <= theirs + 0.02


@pytest.mark.slow
def test_a_ladders_budgets_harm_what_they_harm_run_from_the_start(menagerie):
    """Going from one budget to the next runs only what follows the sub-layer that makes the difference."""
    engine, pairs = menagerie
    costs = StepCosts(12, (1e-3, 0, 2e-4, 0, 0, 3e-4, 0), (1e-3, 0, 2e-4, 0, 0, 3e-4, 0), 0.0)
    traces = [StageTrace("analyze", (len(prompt),), 0, (len(out),), ("",), ("eos",)) for prompt, out in pairs[:4]]
    names = engine.decoder.sublayers
    order = [names[index] for index in (9, 3, 17, 12, 20, 5)]
    for harm in ((), (0.0, 0.0, 0.0, 0.1)):  # from the bottom, and from the middle
        ladder, estimates = priced_ladder(engine, pairs, traces, order, ("none", "block"), costs, 6, harm)
        assert len(ladder) > 1
        forced = TeacherForced(engine, about(pairs, CHECKED_TOKENS, seed=1))
        nothing = forced.harm(forced.streams[-1])
        for plan, estimate in zip(ladder[1:], estimates[1:], strict=True):
            if plan.compensation == "none":
                with torch.inference_mode():
                    afresh = forced.harm(forced.after(plan.skip)[-1])
            else:
                _, stream = fit_compensation(forced, plan.skip, plan.compensation)
                afresh = forced.harm(stream)
            assert estimate.harm == pytest.approx(afresh - nothing, abs=1e-6)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_an_output_counts_as_changed_when_decoding_it_would_change_it(family):
    engine = tiny_engine(family)
    pairs, skip = sequences(engine), SkipSet(mhsa=(1,))
    forced = TeacherForced(engine, pairs)
    requests = [Request(prompt, len(output), group=i) for i, (prompt, output) in enumerate(pairs)]
    written = engine.generate(requests, StagePlan(skip=skip), Decoding()).generations
    with torch.inference_mode():
        changed = forced._changed(engine.decoder.logits(forced.predicting(forced.after(skip)[-1]))).tolist()
    assert changed == [row.tokens != output for row, (_, output) in zip(written, pairs, strict=True)]
    assert any(changed)


def test_rows_are_drawn_from_every_option():
    """Every 8th row of a stage with four options would be the first option every time."""
    rows = [((0,), (index % 4,)) for index in range(256)]
    counts = Counter(output[0] for _, output in drawn(rows, 32))
    assert len(counts) == 4
    assert max(counts.values()) < 16


@pytest.mark.parametrize("form", ["scale", "affine", "lowrank:4", "linear", "block"])
def test_compensation_brings_the_stream_closer_to_full_depth_on_unseen_prompts(form):
    engine = tiny_engine("llama")
    generator = torch.Generator().manual_seed(3)
    many = [tuple(torch.randint(3, 256, (30,), generator=generator).tolist()) for _ in range(40)]
    fitted_on = TeacherForced(engine, [(prompt, (5, 6)) for prompt in many[:30]])
    skip = SkipSet(ffn=(LAYERS - 1,))
    tensors, _ = fit_compensation(fitted_on, skip, form)
    unseen = TeacherForced(engine, [(prompt, (5, 6)) for prompt in many[30:]])
    with torch.inference_mode():
        without = unseen.after(skip)[-1]
        _, under = fit_compensation(unseen, SkipSet(), form)  # nothing skipped: full depth
        sequences = engine.sequences([[*prompt, 5] for prompt in many[30:]])
        run = sequences.stream
        for step in engine.runner.path(StagePlan(skip=skip, compensation=form, tensors=tensors), "prefill"):
            run = sequences.after(step, run)
    assert torch.allclose(under, unseen.streams[-1], atol=1e-5)
    assert (run - under)[unseen.valid].norm() < (without - under)[unseen.valid].norm()


def test_a_linear_map_recovers_a_linear_sublayer_exactly():
    from litestage.decoder.decoder import stand_in
    from litestage.profile.compensation import _fit

    torch.manual_seed(0)
    x = torch.randn(400, 6, dtype=torch.float64) + 1
    matrix, bias = torch.randn(6, 6, dtype=torch.float64) * 0.3, torch.randn(6, dtype=torch.float64)
    y = x + x @ matrix + bias
    assert torch.allclose(stand_in("linear", _fit("linear", x, y))(x), y, atol=0.02)
    assert torch.allclose(stand_in("lowrank:6", _fit("lowrank:6", x, y))(x), y, atol=0.02)
    slope = torch.linspace(0.5, 1.5, 6, dtype=torch.float64)
    assert torch.allclose(stand_in("affine", _fit("affine", x, slope * x + bias))(x), slope * x + bias, atol=0.02)
    assert stand_in("scale", _fit("scale", x, 0.7 * x))(x) == pytest.approx(0.7 * x)
    rank_two = torch.randn(6, 2, dtype=torch.float64) @ torch.randn(2, 6, dtype=torch.float64) * 0.3
    assert torch.allclose(stand_in("lowrank:2", _fit("lowrank:2", x, x + x @ rank_two))(x), x + x @ rank_two, atol=0.05)
