"""The baselines against their papers' and repositories' formulas, worked out by hand, and on models of known answer."""

import copy
from types import SimpleNamespace

import pytest
import torch
from tiny import FAMILIES, Characters, random_model, random_prompts

from litestage.engine import Engine
from litestage.errors import LiteStageError
from litestage.methods import METHODS, finercut, linearpatch, sleb, unifiedskip, unifiedskip_port
from litestage.methods.shorthand import parse_shorthand, plan_from_shorthand
from litestage.plan import SkipSet, StagePlan
from litestage.profile import Importance
from litestage.profile.blocks import block_influence, block_map, merged_map, nearest_window
from litestage.profile.forced import TeacherForced, pooled
from litestage.profile.greedy import divergence
from litestage.profile.hadamard import hadamard
from litestage.profile.sprint import Pruning

WHOLE_LAYERS = (
    "uniform",
    "unifiedskip",
    "unifiedskip-port",
    "skipdecode",
    "skipdecode-port",
    "early-exit",
    "shortgpt",
    "sleb",
    "replaceme",
    "ghosted",
    "linearpatch",
)


def stage_of(spec, layers, measurements=None, limits=None):
    plan = plan_from_shorthand(
        parse_shorthand(spec),
        stages=("default",),
        layers=layers,
        measurements=measurements or SimpleNamespace(),
        limits=limits,
    )
    return plan["default"]


# --- which layers ---


def span(first, last):
    return tuple(range(first, last + 1))


@pytest.mark.parametrize(
    ("layers", "count", "expected"),
    [
        (22, 4, span(17, 20)),  # K = 18 = int(22 / 1.2), interval 1: a contiguous tail but the last layer
        (22, 8, span(13, 20)),  # s = 1.5
        (24, 8, span(15, 22)),  # s = 1.5
        (22, 11, (1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 20)),  # s = 2, interval 2
        (24, 12, (1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 22)),
        (24, 16, tuple(i for i in range(1, 23) if i not in (3, 6, 9, 12, 15, 18))),  # s = 3: interval int(24 / 7) = 3
        (22, 20, span(1, 20)),
        (22, 0, ()),
    ],
)
def test_unifiedskip_leaves_out_what_the_released_selection_does_not_keep(layers, count, expected):
    assert unifiedskip.layers_to_skip(layers, count) == expected
    plan = StagePlan(SkipSet(expected, expected), phase="decode") if count else StagePlan()  # 0 is full depth itself
    assert stage_of(f"unifiedskip:{2 * count}", layers) == plan


@pytest.mark.parametrize(
    ("layers", "count", "expected"),
    [
        (22, 4, (1, 6, 11, 16, 21)),  # i mod 5 == 1: five layers, the last among them
        (22, 6, (1, 4, 7, 10, 13, 16, 19)),
        (22, 8, tuple(range(1, 22, 2))),  # eleven
        (22, 12, ()),  # i mod 1 is never 1
        (24, 5, (1, 5, 9, 13, 17, 21)),
        (32, 3, (1, 11, 21, 31)),
        (24, 0, ()),
    ],
)
def test_unifiedskips_port_leaves_out_another_number_and_says_so(layers, count, expected):
    assert unifiedskip_port.layers_to_skip(layers, count) == expected
    assert stage_of(f"unifiedskip-port:{2 * count}", layers) == StagePlan(SkipSet(expected, expected))


def test_static_early_exit_drops_the_last_layers():
    assert stage_of("early-exit:8", 22).skip == SkipSet((18, 19, 20, 21), (18, 19, 20, 21))
    assert stage_of("early-exit:12", 24).skip == SkipSet.of_layers(range(18, 24))


def test_skipdecodes_depth_falls_linearly_to_the_limit():
    plan = stage_of("skipdecode:8", 22, limits={"default": 41})
    # 4 layers over 40 tokens after the first: one more every 10th
    depths = {token: len(plan.skip_at(token).mhsa) for token in (0, 1, 10, 11, 20, 21, 30, 31, 40, 41, 99)}
    assert depths == {0: 0, 1: 0, 10: 0, 11: 1, 20: 1, 21: 2, 30: 2, 31: 3, 40: 3, 41: 4, 99: 4}
    assert plan.skip_at(41) == SkipSet((1, 2, 3, 4), (1, 2, 3, 4))  # layer 0 warms up, the upper ones stay
    assert plan.phase == "decode"
    steep = stage_of("skipdecode:12", 24, limits={"default": 3})
    assert [len(steep.skip_at(token).ffn) for token in (1, 2, 3)] == [0, 3, 6]
    assert stage_of("skipdecode:12", 24, limits={"default": 1}).skip_at(1) == SkipSet()


def test_skipdecodes_port_follows_its_formula():
    plan = stage_of("skipdecode-port:12", 24)  # no limit: 512, as released
    counts = {token: len(plan.skip_at(token).mhsa) for token in (0, 1, 102, 103, 204, 205, 512, 600)}
    assert counts == {0: 1, 1: 2, 102: 2, 103: 3, 204: 3, 205: 4, 512: 6, 600: 6}
    assert plan.skip_at(0) == SkipSet((1,), (1,))
    assert plan.skip_at(512) == SkipSet.of_layers(range(1, 7))
    short = stage_of("skipdecode-port:8", 22, limits={"default": 30})
    assert [len(short.skip_at(token).ffn) for token in (0, 1, 10, 11, 20, 21, 30)] == [1, 2, 2, 3, 3, 4, 4]
    one = stage_of("skipdecode-port:2", 22, limits={"default": 30})
    assert one == StagePlan(SkipSet((1,), (1,)))  # N_t is 1 from the prefill on


@pytest.mark.parametrize("method", WHOLE_LAYERS)
def test_a_budget_that_is_not_whole_layers_is_refused(method):
    with pytest.raises(LiteStageError, match=rf"{method} skips whole layers.*budget 5 .*even"):
        stage_of(f"{method}:5", 22)


@pytest.mark.parametrize(
    ("method", "most"),
    [
        ("uniform", 20),
        ("unifiedskip", 20),
        ("skipdecode", 21),
        ("skipdecode-port", 21),
        ("sleb", 20),
        ("replaceme", 21),
        ("linearpatch", 20),
    ],
)
def test_a_method_that_keeps_layers_says_how_many_it_can_skip(method, most):
    with pytest.raises(LiteStageError, match=rf"{method} can skip at most {most} of 22 layers"):
        stage_of(f"{method}:44", 22)


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_measured_to_skip_nothing(method):
    spec = method if method == "full" else f"{method}:0"
    assert all(len(skip) == 0 for skip in stage_of(spec, 22).skip_sets)


# --- by cosine ---


def by_sublayer(a, b):
    """Two stages' numbers, in the decoder's order of sub-layers."""
    names = [(kind, layer) for layer in range(len(a) // 2) for kind in ("mhsa", "ffn")]
    return {stage: dict(zip(names, row, strict=True)) for stage, row in (("a", a), ("b", b))}


def test_adaskips_threshold_is_the_last_chosen_cosine():
    cosine, ratios = by_sublayer((0.9, 0.5, 0.8, 0.1), (0.7, 0.5, 1.0, 0.3)), (1.25, 2.0, 0.5, 1.0)
    measurements = SimpleNamespace(importance=lambda: Importance(cosine, by_sublayer(ratios, ratios), 1))
    plan = stage_of("adaskip-paper:2", 2, measurements)  # means 0.8, 0.5, 0.9, 0.2
    assert plan.skip == SkipSet(mhsa=(0, 1))
    assert plan.schedule["online"]["observe"] == 20
    assert plan.schedule["online"]["threshold"] == pytest.approx(0.8)
    assert {key: float(value) for key, value in plan.tensors.items()} == {"mhsa.1": 0.5, "mhsa.0": 1.25}
    assert stage_of("adaskip:2", 2, measurements).schedule is None


def test_one_kind_alone_goes_by_its_own_cosines():
    cosine = by_sublayer((0.9, 0.5, 0.8, 0.1, 0.2, 0.9), (0.1, 0.5, 1.0, 0.3, 0.2, 0.9))
    measurements = SimpleNamespace(importance=lambda: Importance(cosine, cosine, 1))
    # means: attentions 0.5, 0.9, 0.2; feed-forwards 0.5, 0.2, 0.9
    assert stage_of("attention-only:2", 3, measurements) == StagePlan(SkipSet(mhsa=(0, 1)))
    assert stage_of("ffn-only:2", 3, measurements) == StagePlan(SkipSet(ffn=(0, 2)))
    for method in ("attention-only", "ffn-only"):
        with pytest.raises(LiteStageError, match=rf"{method} can skip at most 3 sub-layers.*budget is 4"):
            stage_of(f"{method}:4", 3, measurements)


# --- streams made by hand ---


def by_hand(*streams):
    """Forced sequences of one row whose last token is padding."""
    tokens = streams[0].shape[0]
    padded = [torch.cat([stream, torch.full((1, stream.shape[1]), 7.0)])[None] for stream in streams]
    return SimpleNamespace(streams=padded, valid=torch.tensor([[True] * tokens + [False]]))


def test_block_influence_of_a_stream_made_by_hand():
    x = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    turned = torch.tensor([[0.0, 1.0], [0.0, 2.0]])  # the first token by 90 degrees, the second not
    reversed_ = -turned
    influence = block_influence(by_hand(x, x, turned, x, turned * 3, x, reversed_))
    assert influence == pytest.approx([0.5, 0.0, 2.0], abs=1e-6)


def random_stream(seed, tokens=80, width=6):
    return torch.randn(tokens, width, generator=torch.Generator().manual_seed(seed))


def test_the_window_is_the_one_that_turns_the_stream_least():
    at = [random_stream(seed) for seed in range(6)]
    at[4] = at[2] + 0.01 * random_stream(9)  # layers 2 and 3 together do almost nothing
    streams = [stream for layer in range(5) for stream in (at[layer], random_stream(50 + layer))] + [at[5]]
    assert nearest_window(by_hand(*streams), 2) == 2


def test_a_linear_block_is_recovered_exactly():
    x, matrix = random_stream(1), random_stream(2, tokens=6)
    streams = [random_stream(seed) for seed in range(9)]
    streams[2], streams[6] = x, x + x @ matrix  # layers 1 and 2
    torch.testing.assert_close(block_map(by_hand(*streams), 1, 2), matrix, atol=1e-5, rtol=1e-5)
    residual, update, matrix = random_stream(3), random_stream(4), random_stream(5, tokens=6)
    streams[1], streams[2], streams[6] = residual, residual + update, residual + update @ matrix
    torch.testing.assert_close(merged_map(by_hand(*streams), 1, 2), matrix, atol=1e-4, rtol=1e-4)


def test_linearpatchs_window_keeps_the_last_layer():
    at = [random_stream(seed) for seed in range(6)]
    at[5] = at[3] + 0.01 * random_stream(9)  # layers 3 and 4, the last, together do almost nothing
    at[4] = at[2] + random_stream(10)  # layers 2 and 3 not much
    streams = [stream for layer in range(5) for stream in (at[layer], random_stream(50 + layer))] + [at[5]]
    assert nearest_window(by_hand(*streams), 2) == 3
    assert nearest_window(by_hand(*streams), 2, keep_last=True) == 2


def test_linearpatch_scales_channels_in_a_hadamard_basis():
    basis = hadamard(2)  # (1, 1; 1, -1) over the root of 2
    before, after = torch.tensor([[1.0, 2.0], [3.0, -2.0]]), torch.tensor([[4.0, 1.0], [-4.0, 1.0]])  # in that basis
    streams = [random_stream(seed, tokens=2, width=2) for seed in range(9)]
    streams[2], streams[4] = (tensor @ basis.T.float() for tensor in (before, after))
    # mean sizes (2, 2) and (4, 1), so d = (2, 1/2) and H diag(d) H' has (2 + 1/2) / 2 and (2 - 1/2) / 2
    expected = torch.tensor([[1.25, 0.75], [0.75, 1.25]])
    torch.testing.assert_close(linearpatch.patch(by_hand(*streams), 1, 1), expected)


@pytest.mark.parametrize("order", [1, 2, 4, 12, 20, 28, 36, 128, 576, 640, 896])
def test_hadamard_matrices_are_orthogonal_and_flat(order):
    made = hadamard(order)
    torch.testing.assert_close(made @ made.T, torch.eye(order, dtype=made.dtype))
    torch.testing.assert_close(made.abs(), torch.full_like(made, order**-0.5))


def test_a_width_without_a_hadamard_matrix_is_told():
    with pytest.raises(LiteStageError, match="order 6, the model's width"):
        hadamard(6)


class OfFactors:
    """A decoder of one channel whose sub-layers multiply the stream; a feed-forward hands on the stream itself."""

    def __init__(self, *factors):
        self.factors, self.valid = factors, torch.tensor([[True, True, False], [True, False, False]])
        ffn = SimpleNamespace(post_norm=None, multiplier=1.0, output=SimpleNamespace(bias=None))
        self.decoder = SimpleNamespace(
            sublayers=factors,
            architecture=SimpleNamespace(layers=[SimpleNamespace(feed_forward=ffn)] * (len(factors) // 2)),
            feed_forward_inner=lambda layer, stream: stream,
        )
        self.streams = [torch.tensor([[[1.0], [-2.0], [7.0]], [[3.0], [5.0], [5.0]]])]
        for index in range(len(factors)):
            self.streams.append(self.step(index, self.streams[-1]))

    def step(self, index, stream):
        return stream * self.factors[index]


@pytest.mark.parametrize(
    ("price", "order"),
    [
        # Behind the next feed-forward 0.2 of 2.2 is lost without attention 0, half without feed-forward 0, 0.15 of 1.35
        # without attention 1; behind feed-forward 1, the last, a third. With both gone, feed-forward 0 is 1.2 of 2.7.
        (1.0, [0, 2, 3, 1]),
        # Per second 0.36, 0.5, 0.44, 0.33. With feed-forward 1 gone, nothing is behind attention 1: 0.35 of 1.35.
        (0.25, [3, 0, 1, 2]),
    ],
)
def test_sprints_order_worked_out_by_hand(price, order):
    forced = OfFactors(1.1, 2.0, 0.9, 1.5)
    assert Pruning(forced, {"mhsa": price, "ffn": 1.0}, tunes=False).extend([], 4) == order


def test_sprint_solves_for_the_projection_behind_what_goes():
    """The stream after feed-forward 0 is 1.1 x 2 x; without attention 0 it is x + W x, so W = 1.2; and so on."""
    pruning = Pruning(OfFactors(1.1, 2.0, 0.9, 1.5), {"mhsa": 1.0, "ffn": 1.0}, tunes=True)
    assert pruning.extend([], 1) == [0]  # each can be made up for wholly but the last: the first of equals
    assert float(pruning.weights[1]) == pytest.approx(1.2, abs=1e-5)
    # attention 1: 0.9 x 1.5 = 1 + W
    assert pruning.extend([], 2) == [0, 2]
    assert float(pruning.weights[3]) == pytest.approx(0.35, abs=1e-5)


def test_the_divergence_is_jensen_shannons():
    logits = torch.log(torch.tensor([[0.5, 0.5], [0.9, 0.1]]))
    other = torch.log(torch.tensor([[0.5, 0.5], [0.1, 0.9]]))
    forced = SimpleNamespace(streams=[logits], predicting=lambda s: s, decoder=SimpleNamespace(logits=lambda s: s))
    harm = divergence(forced)
    assert harm(logits) == pytest.approx(0, abs=1e-6)
    # second token: KL(0.9, 0.1 || 0.5, 0.5) either way = 0.9 ln 1.8 + 0.1 ln 0.2 = 0.36806; the first: 0
    assert harm(other) == pytest.approx(0.36806 / 2, abs=1e-5)


def test_every_stage_gives_as_many_sequences_from_all_over():
    stages = {"a": [([i], [1]) for i in range(100)], "b": [([i], [1] if i % 2 else []) for i in range(8)]}
    chosen = [prompt[0] for prompt, _ in pooled(stages, 5)]
    assert chosen == [prompt[0] for prompt, _ in pooled(stages, 5)]
    assert len(chosen[:-4]) == len(set(chosen[:-4])) == 5
    assert max(chosen[:-4]) - min(chosen[:-4]) > 40
    assert sorted(chosen[-4:]) == [1, 3, 5, 7]  # what has no output is left out


# --- models whose answer is known ---


def model_with(dead=(), faint=(), layers=6):
    """A random Llama in which the updates of ``dead`` layers are zero, and those of ``faint`` ones tiny."""
    config = copy.deepcopy(FAMILIES["llama"].config)
    config.num_hidden_layers, config.max_position_embeddings = layers, 512
    model = random_model(config)
    for layers_, factor in ((dead, 0.0), (faint, 0.02)):
        for layer in layers_:
            model.model.layers[layer].self_attn.o_proj.weight.mul_(factor)
            model.model.layers[layer].mlp.down_proj.weight.mul_(factor)
    return model


def sequences_on(model):
    prompts = random_prompts((9, 14, 11))
    with torch.inference_mode():
        outputs = [
            model.generate(torch.tensor([p]), attention_mask=torch.ones(1, len(p)), max_new_tokens=8, do_sample=False)
            for p in prompts
        ]
        return [(p, o[0, len(p) :].tolist()) for p, o in zip(prompts, outputs, strict=True)]


def forced_on(model):
    return TeacherForced(Engine(model, Characters()), sequences_on(model))


def measured_on(model):
    return SimpleNamespace(
        order=lambda name, count, extend: extend(forced_on(model), [], count)[:count],
        of_forced=lambda measure: measure(forced_on(model)),
        steps=lambda name, count, measure: measure(forced_on(model))[count],
        prices=lambda: {"mhsa": 1.0, "ffn": 1.0},
    )


def test_sleb_drops_the_dead_layer_then_the_faint_one_and_keeps_the_ends():
    model = model_with(dead=(0, 3), faint=(1,))
    assert sleb.extend(forced_on(model), [], 2) == [2, 0]  # layers 3 and 1; layer 0 stays though it is dead
    assert sleb.extend(forced_on(model), [2], 2) == [2, 0]
    full = sleb.extend(forced_on(model), [], 4)
    assert sleb.extend(forced_on(model), full[:2], 4) == full
    assert sorted(full) == [0, 1, 2, 3]


def test_sleb_measures_what_is_gone_with_what_is_already_gone():
    """The second choice is the best pair with the first, by the whole model's own likelihood with both left out."""
    model = model_with(dead=(3,))
    chosen = sleb.extend(forced_on(model), [], 2)
    harms = {}
    for layer in (1, 2, 4):
        forced = forced_on(model)
        harms[layer - 1] = forced.nll(forced.after(SkipSet.of_layers((3, layer)))[-1])
    assert chosen == [2, min(harms, key=harms.get)]


def test_finercut_drops_dead_sublayers_then_faint_ones():
    model = model_with(dead=(3,), faint=(1,))
    order = finercut.extend(forced_on(model), [], 4)
    assert order[:2] == [6, 7]
    assert sorted(order[2:]) == [2, 3]
    assert finercut.extend(forced_on(model), order[:3], 4) == order


def test_shortgpts_first_are_the_dead_layer_and_the_faint_one():
    measurements = measured_on(model_with(dead=(3,), faint=(5,)))
    assert stage_of("shortgpt:4", 6, measurements) == StagePlan(SkipSet((3, 5), (3, 5)))


@pytest.mark.parametrize("method", ["replaceme", "ghosted", "sprint"])
def test_a_map_brings_the_stream_nearer_to_full_depths(method):
    model = model_with()
    plan = stage_of(f"{method}:4", 6, measured_on(model))
    assert len(plan.skip) == 4
    forced, engine = forced_on(model), Engine(model, Characters())
    sequences = engine.sequences([[*prompt, *output[:-1]] for prompt, output in sequences_on(model)])
    last = max(*plan.skip.mhsa, *plan.skip.ffn, *(int(key[4:]) for key in plan.tensors if key.startswith("ffn")))

    def error(stage_plan):
        stream, path = sequences.stream, engine.runner.path(stage_plan, "prefill")
        for step in path[: len(path) - 2 * (5 - last)]:
            stream = sequences.after(step, stream)
        return float((stream - forced.streams[2 * last + 2])[forced.valid].square().mean())

    with torch.inference_mode():
        assert error(plan) < 0.9 * error(StagePlan(plan.skip))
