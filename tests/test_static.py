"""Static steps write what the oracle writes, are made once, and are the same operations every time.

There is no CUDA graph on a CPU. What stands in for one here is a tape: it records the operations of one step and then
only repeats those, with the same tensors in the same places, as a graph does.
"""

import copy
import random
from dataclasses import replace

import pytest
import torch
from oracle import tiny_oracle
from test_fast import SUBLAYERS, fans, outcome
from test_parity import PROMPTS, families, ragged, run
from test_prefix_cache import stages
from test_skip_parity import compensated
from tiny import LAYERS, Characters, tiny_engine, tiny_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from litestage.decoder.regions import Product
from litestage.engine import Decoding, Engine, PrefixCache, Request, scheduler
from litestage.engine.graph import cache
from litestage.engine.graph.cache import StaticKVCache
from litestage.engine.graph.decode_step import Column
from litestage.engine.graph.readback import POLL
from litestage.engine.graph.runner import GraphRunner
from litestage.errors import LiteStageError
from litestage.plan import ExitRule, SkipSet, StagePlan

WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "_unique", "is_nonzero", "equal", "item")
"""Operations whose results the host waits for."""


class Tape(TorchDispatchMode):
    """Records one run of a function, tensor operation by tensor operation; called, it repeats them."""

    def __init__(self, function):
        super().__init__()
        self.calls = []
        with self:
            function()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert not any(name in str(func) for name in WAITING), f"{func} waits for the device"
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, out))
        return out

    def __call__(self):
        now = {}

        def current(value):
            return now.get(id(value), value) if isinstance(value, torch.Tensor) else value

        for func, args, kwargs, recorded in self.calls:
            out = func(*tree_map(current, args), **tree_map(current, kwargs))
            before, after = (part if isinstance(part, (list, tuple)) else [part] for part in (recorded, out))
            now.update({id(one): two for one, two in zip(before, after, strict=True)})


@pytest.fixture(autouse=True)
def small_buckets(monkeypatch):
    monkeypatch.setattr(cache, "SMALLEST_BUCKET", 32)


def static_engine(family="llama", taped=True):
    engine = Engine(tiny_model(family), Characters(), "static")
    if taped:  # as on CUDA: recorded, and ahead of the host
        engine.runner.graphs.capture, engine.runner.ahead = Tape, 1
    return engine


def both(engine, family, requests, plan, decoding):
    ours = engine.generate(requests, plan, decoding, confidences=plan.exit is not None).generations
    theirs = tiny_oracle(family).generate(requests, plan, decoding, confidences=plan.exit is not None)
    assert outcome(ours) == outcome(theirs.generations)
    for one, two in zip(ours, theirs.generations, strict=True):
        assert one.confidences == pytest.approx(two.confidences, abs=1e-4)
    return ours


@families
def test_random_plans_write_what_the_oracle_writes(family):
    """One row and many; rows end by all that may end them; lanes are refilled, moved and used again."""
    engine, rng, stops = static_engine(family), random.Random(family), set()
    for requests in (fans(14), ragged(PROMPTS[:1]), fans(3, seed=4)):
        for phase in ("both", "decode"):
            skip = SkipSet.of(rng.sample(SUBLAYERS, rng.randrange(5)))
            rule = rng.choice([None, ExitRule(threshold=rng.uniform(0.3, 0.7), window=rng.randrange(1, 4))])
            plan = StagePlan(skip, phase=phase, exit=rule)
            assert engine.why_not_static(plan) is None
            stops |= {row.stop for row in both(engine, family, requests, plan, Decoding(stop=("k", "Zq")))}
    assert "length" in stops
    assert len(stops) > 1


@pytest.mark.parametrize("form", ["affine", "linear"])
def test_compensated_plans(form):
    skip, tensors, _ = compensated(form)
    both(static_engine("qwen2"), "qwen2", fans(5), StagePlan(skip, compensation=form, tensors=tensors), Decoding())


def test_drafts_are_verified_before_static_steps_go_on():
    plain = run(tiny_oracle("llama"), ragged(PROMPTS))
    drafted = [Request(prompt, 16, draft=row.tokens[:5] * 2) for prompt, row in zip(PROMPTS, plain, strict=True)]
    assert outcome(run(static_engine(), drafted)) == outcome(run(tiny_oracle("llama"), drafted))


def test_sampled_tokens_are_drawn_from_each_rows_own_stream():
    requests = [replace(request, stream=str(row)) for row, request in enumerate(fans(4))]
    decoding = Decoding(temperature=0.8, top_k=50, top_p=0.95, seed=5)
    sampled = both(static_engine(), "llama", requests, StagePlan(), decoding)
    assert outcome(sampled) != outcome(run(tiny_engine("llama"), requests))


def test_the_device_ends_rows_where_the_host_does(monkeypatch):
    """Every look finds no tokens left in exactly the columns whose rows end by what the device can see."""
    decode, checked = GraphRunner.decode, []

    def decoded(self, batch):
        decode(self, batch)
        running = batch.cache.running
        for column, row in running.rows.items() if running else ():
            left = Column(*running.step.kept.state[:, column]).left
            checked.append(row.stop)
            assert (left == 0) == (row.stop is not None)
            assert left in (0, row.limit - len(row.tokens))

    monkeypatch.setattr(GraphRunner, "decode", decoded)
    requests = [replace(request, limit=2 * request.limit) for request in fans(9)]
    for threshold in (0.0, 0.3, 0.5):
        for family in ("llama", "qwen2", "gemma2"):
            plan = StagePlan(exit=ExitRule(threshold=threshold, window=3))
            static_engine(family, taped=False).generate(requests, plan, Decoding())
    assert set(checked) >= {None, "exit", "length", "eos"}


# --- ahead of the host ---


def test_the_device_runs_ahead_of_the_host_and_what_is_beyond_a_rows_end_is_dropped_but_counted():
    """One row that a stop string ends, which the device cannot see: it goes on for as long as the host is behind."""
    plain, plan = run(tiny_oracle("llama"), ragged(PROMPTS[:1]))[0], StagePlan()
    stop, steps = Decoding(stop=(plain.text[4],)), []
    at = plain.text.index(plain.text[4])  # the token that ends it: the first is the prefill's, the others a step each
    for ahead in (0, 1, 3):
        engine = static_engine()
        engine.runner.ahead = ahead
        before = replace(engine.decoder.work)
        row = engine.generate([Request(PROMPTS[0], 16)], plan, stop).generations[0]
        assert (row.stop, row.text) == ("stop_string", plain.text[:at])
        work = engine.decoder.work.since(before)
        steps.append(work.steps)
        assert work.tokens == len(PROMPTS[0]) + work.steps
    seen = -(-at // POLL) * POLL
    assert steps == [min(seen + ahead * POLL, 15) for ahead in (0, 1, 3)]


def test_what_was_decoded_ahead_is_given_to_the_rows_before_their_lanes_are_refilled_or_moved(monkeypatch):
    requests, settled = fans(24), []
    settle = StaticKVCache.settle
    monkeypatch.setattr(
        StaticKVCache, "settle", lambda self: (settled.append(self.running and self.running.ahead), settle(self))
    )
    engine = static_engine()
    engine.runner.ahead = 2
    both(engine, "llama", requests, StagePlan(), Decoding(stop=("k", "Zq")))
    assert {1, 2} & set(settled)


def test_what_a_stage_leaves_is_carried_over_while_the_device_runs_ahead(monkeypatch):
    """Shared beginnings and earlier stages are filled into lanes whose steps are recorded, as on a CPU's own path."""
    monkeypatch.setattr(scheduler, "MAX_ROWS", 6)
    plans, engine = [StagePlan(SkipSet(mhsa=(1,), ffn=(2,)))] * 3, static_engine("qwen2")
    engine.runner.ahead = 2
    afresh, all_tokens = stages(tiny_engine("qwen2"), plans, None)
    carried, fewer = stages(engine, plans, PrefixCache())
    assert outcome(carried) == outcome(afresh)
    assert fewer < 0.9 * all_tokens  # what the device writes beyond a row's end counts


# --- compiled ---


@pytest.fixture
def compiles(monkeypatch):
    """Everything of the compiler but the code that it writes, which takes seconds for each region."""
    compile_, counters = torch.compile, torch._dynamo.utils.counters
    torch._dynamo.reset()
    counters.clear()
    monkeypatch.setattr(torch, "compile", lambda function, **_: compile_(function, fullgraph=True, backend="aot_eager"))
    return counters["stats"]


@families
def test_the_regions_that_are_compiled_write_what_the_oracle_writes(family, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    engine = Engine(tiny_model(family), Characters(), "static", "on")
    for requests in (fans(2, seed=4), ragged(PROMPTS[:1])):
        plan = StagePlan(SkipSet(mhsa=(0,), ffn=(2,)), exit=ExitRule(threshold=0.4, window=2))
        both(engine, family, requests, plan, Decoding())
    assert engine.runner._regions
    assert engine.runner.why_not_compiled is None


def test_a_region_is_compiled_once_and_serves_every_layer_and_mask(compiles):
    engine, requests, made = Engine(tiny_model("llama"), Characters(), "static", "on"), ragged(PROMPTS[:1]), []
    for skip in (SkipSet(), SkipSet(mhsa=(1,)), SkipSet(mhsa=(0, 3), ffn=(1, 2))):
        both(engine, "llama", requests, StagePlan(skip), Decoding())
        made.append(engine.runner.made)
        # before and after the attention, feed-forward, head, and the move to the next token
        assert compiles["unique_graphs"] == 5
    assert made[0] < made[1] < made[2]


def test_longer_lanes_and_other_buckets_compile_nothing(compiles):
    engine = Engine(tiny_model("llama"), Characters(), "static", "on")
    graphs = []
    for prompt, limit in ((PROMPTS[0], 9), (PROMPTS[0] * 12, 60), (PROMPTS[0], 60)):
        both(engine, "llama", [Request(prompt, limit)], StagePlan(), Decoding())
        graphs.append(compiles["unique_graphs"])
    assert graphs == [5, 5, 5]


@pytest.mark.slow
def test_the_compiler_writes_code_that_keeps_keys_and_values_where_they_are(monkeypatch):
    """As on CUDA, but for the CPU; the region that writes, for all: a compiler takes seconds for each."""
    compile_, written = torch.compile, []

    def one(function, **given):
        if function.__name__ != "project":
            return function
        written.append(function)
        return compile_(function, **given)

    monkeypatch.setattr(torch, "compile", one)
    engine = Engine(tiny_model("qwen2"), Characters(), "static", "on")
    both(engine, "qwen2", [Request(PROMPTS[0], 9)], StagePlan(SkipSet(ffn=(1,))), Decoding())
    assert engine.runner.why_not_compiled is None
    assert len(written) == 1


def test_compiled_regions_hold_no_weights_of_their_own(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    model = copy.deepcopy(tiny_model("qwen2"))
    held = sum(tensor.nbytes for tensor in model.parameters() if tensor.dim() == 2)
    engine = Engine(model, Characters(), "static", "on")
    run(engine, [Request(PROMPTS[0], 3)])
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in _matrices(engine)}
    assert sum(storage.nbytes() for storage in storages.values()) == held


def _matrices(engine):
    """All matrices of the model and of what its regions were given."""
    regions = engine.runner._regions
    given = [cell.cell_contents for step in regions.sublayers.values() for cell in step.__closure__ or ()]
    products = [part for part in (*given, regions._head) if isinstance(part, Product)]
    assert len(products) == 4 * LAYERS + 1
    matrices = [product.weight for product in products]
    return [*matrices, *(parameter for parameter in engine.decoder.body.parameters() if parameter.dim() == 2)]


def test_a_compiler_that_fails_is_done_without(monkeypatch):
    def fails(function, **_):
        def compiled(*args):
            raise RuntimeError("a compiler raised:\nno headers\n\nand a long trace")

        return compiled

    monkeypatch.setattr(torch, "compile", fails)
    engine = Engine(tiny_model("llama"), Characters(), "static", "on")
    both(engine, "llama", fans(2, seed=4), StagePlan(), Decoding())
    assert engine.runner.why_not_compiled == "sub-layers could not be compiled: a compiler raised: no headers"


def test_what_is_compiled_is_said():
    reasons = {choice: Engine(tiny_model("llama"), Characters(), "static", choice) for choice in ("auto", "on", "off")}
    said = {choice: engine.runner.why_not_compiled for choice, engine in reasons.items()}
    assert said == {"auto": "engine.compile is auto: on CUDA only", "on": None, "off": "engine.compile is off"}
    with pytest.raises(LiteStageError, match=r"engine\.compile is 'yes'; known: auto, off, on"):
        Engine(tiny_model("llama"), Characters(), "static", "yes")


def test_static_steps_have_one_thread_however_many_pytorch_has():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        both(static_engine(), "llama", fans(14), StagePlan(), Decoding())
    finally:
        torch.set_num_threads(threads)


# --- made once ---


def test_a_step_is_made_once_for_a_skip_set_and_stays_where_it_is():
    """Other questions, limits, stop strings and thresholds are entered; only another path or shape is made anew."""
    engine, requests = static_engine(), ragged(PROMPTS[:3])
    decoding, rule = engine.runner, ExitRule(threshold=0.5, window=3)
    skipping = StagePlan(SkipSet(mhsa=(1,)), exit=rule)

    def places():
        lanes = decoding._caches[4]
        kept = [lanes.positions, lanes.branches, *(layer.whole for layer in lanes._layers.values())]
        kept += [tensor for step in lanes.steps.values() for tensor in step.kept if tensor is not None]
        return {tensor.data_ptr() for tensor in kept}

    engine.generate(requests, skipping, Decoding())
    made, where = decoding.made, places()
    for threshold, limit, stop in ((0.1, 4, "q"), (0.9, 9, "k"), (0.4, 16, "x")):
        asked = [replace(request, limit=limit) for request in requests]
        engine.generate(asked, replace(skipping, exit=replace(rule, threshold=threshold)), Decoding((stop,)))
    assert (decoding.made, places()) == (made, where)
    engine.generate(requests, StagePlan(SkipSet(mhsa=(2,)), exit=rule), Decoding())
    assert decoding.made > made
    again = decoding.made
    engine.generate(requests, skipping, Decoding())
    assert decoding.made == again
    assert where < places()


@torch.inference_mode()
def test_a_step_is_the_same_operations_every_time_and_what_it_keeps_lies_still():
    """What it writes for later lies in the tensors made with it; all others it makes are gone when it ends."""
    engine = static_engine(taped=False)
    engine.generate(ragged(PROMPTS[:2]), StagePlan(), Decoding())
    (step,) = engine.runner._caches[2].steps.values()
    step.kept.at.zero_()  # as after every entry
    lanes, (first, second) = step._cache, (Tape(step.run).calls for _ in range(2))
    assert [(str(call[0]), tree_map(_shape, call[1])) for call in first] == [
        (str(call[0]), tree_map(_shape, call[1])) for call in second
    ]
    kept = [*filter(torch.is_tensor, step.kept), lanes.positions, lanes.branches]
    kept += [layer.whole for layer in lanes._layers.values()]
    still = {tensor.untyped_storage().data_ptr() for tensor in kept}
    written = [
        {args[0].untyped_storage().data_ptr() for func, args, *_ in calls if func._schema.is_mutable}
        for calls in (first, second)
    ]
    made = [
        {out.untyped_storage().data_ptr() for *_, out in calls if isinstance(out, torch.Tensor)} - still
        for calls in (first, second)
    ]
    assert written[0] - made[0] == written[1] - made[1]
    assert written[0] - made[0] <= still
    assert len(written[0] & still) == 4 + 1 + LAYERS  # state, tokens, steps, positions; branches; keys and values


def _shape(value):
    return (tuple(value.shape), value.dtype) if isinstance(value, torch.Tensor) else value


def test_longer_questions_move_the_lanes_and_shorter_ones_go_on_reading_few_slots():
    engine = static_engine()
    long = [Request(PROMPTS[0] * 12, 60, group=0)]
    both(engine, "llama", [Request(PROMPTS[0], 60)], StagePlan(), Decoding())
    both(engine, "llama", long, StagePlan(), Decoding())
    both(engine, "llama", [Request(PROMPTS[0], 8)], StagePlan(), Decoding())
    seen = sorted(step.seen for step in engine.runner._caches[1].steps.values())
    assert all(slots % 32 == 0 for slots in seen)  # what the attention's kernels want of a mask
    assert seen[0] == 32
    assert seen[-1] >= len(long[0].prompt) + 60


# --- what is left to the host's steps, and why ---


def test_what_is_left_to_the_hosts_steps_is_said():
    schedule = StagePlan(SkipSet(ffn=(1,)), schedule={"online": {"observe": 2, "threshold": 0.9}})
    engine = static_engine()
    assert "schedule" in engine.why_not_static(schedule)
    assert outcome(run(engine, ragged(PROMPTS[:2]), schedule)) == outcome(
        run(tiny_oracle("llama"), ragged(PROMPTS[:2]), schedule)
    )
    assert tiny_engine("llama").why_not_static(StagePlan()) == "engine.path is not static"


def test_where_no_graph_can_be_recorded_decoding_goes_on_step_by_step(monkeypatch):
    engine = static_engine(taped=False)
    graphs = engine.runner.graphs
    graphs._memory = object()  # as on a GPU
    monkeypatch.setattr(graphs, "_graph", lambda function: (_ for _ in ()).throw(RuntimeError("out of memory\nhere")))
    made = []
    for _ in range(2):
        assert outcome(run(engine, ragged(PROMPTS))) == outcome(run(tiny_oracle("llama"), ragged(PROMPTS)))
        made.append(engine.runner.made)
    assert engine.why_not_static(StagePlan()) == "a CUDA graph could not be captured: out of memory"
    assert made[0] == made[1]
