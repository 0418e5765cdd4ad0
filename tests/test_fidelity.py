"""Fidelity ranking and compensation, against the same thing done the long way."""

import math
from collections import Counter

import pytest
import torch
from tiny import LAYERS, random_prompts, tiny_engine

from litestage.engine import Decoding, Request
from litestage.engine.cache import KVCache
from litestage.engine.prefix import padded
from litestage.plan import SkipSet, StagePlan
from litestage.profile.compensation import fit_compensation
from litestage.profile.fidelity import rank_by_fidelity
from litestage.profile.forced import TeacherForced, drawn

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


def test_each_round_drops_what_harms_least_for_its_time():
    """A cheap attention and a dear FFN: checked against trying every remaining sub-layer in the first round."""
    engine = tiny_engine("llama")
    pairs, saving = sequences(engine, limit=3), {"mhsa": 1.0, "ffn": 2.0}
    ranking = rank_by_fidelity(TeacherForced(engine, pairs), 3, saving)
    names = [sublayer.name for sublayer in engine.decoder.sublayers]
    nothing = long_way_harm(engine, pairs, [])
    first = min(names, key=lambda name: (long_way_harm(engine, pairs, [name]) - nothing) / saving[name[0]])
    assert ranking.order[0] == first
    for budget, value in enumerate(ranking.harm):
        assert value == pytest.approx(long_way_harm(engine, pairs, ranking.order[:budget]), abs=1e-4)
    assert ranking.evaluations <= len(names) + 3 * len(names)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_an_output_counts_as_changed_when_decoding_it_would_change_it(family):
    engine = tiny_engine(family)
    pairs, skip = sequences(engine), SkipSet(mhsa=(1,))
    forced = TeacherForced(engine, pairs)
    requests = [Request(prompt, len(output), group=i) for i, (prompt, output) in enumerate(pairs)]
    written = engine.generate(requests, StagePlan(skip=skip), Decoding()).generations
    with torch.inference_mode():
        changed = forced.changed(forced.after(skip)[-1]).tolist()
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
        run = unseen.streams[0]
        rows = [[*prompt, 5] for prompt in many[30:]]
        ids, positions, valid = padded(rows, [0] * len(rows), engine.decoder.device)
        _, attending = engine.plain.enter(ids, positions, KVCache(len(rows), engine.decoder.device), valid)
        for replace in engine.decoder.path(StagePlan(skip=skip, compensation=form, tensors=tensors), "prefill"):
            run = replace(run, attending)
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
