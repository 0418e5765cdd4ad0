"""Rows in flight are as many as memory holds; when it runs out half as many go on, with the same tokens."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_fast import fans, outcome
from test_parity import PROMPTS, ragged, run
from tiny import Characters, random_prompts, tiny_engine, tiny_model

from litestage.engine import Decoding, Engine, Request, scheduler
from litestage.engine.cache import KVCache
from litestage.engine.graph import runner as graph_runner
from litestage.engine.graph.runner import GraphRunner
from litestage.engine.memory import available_host_bytes, bytes_per_token, out_of_memory
from litestage.engine.runner import HostRunner
from litestage.errors import LiteStageError
from litestage.plan import SkipSet, StagePlan
from litestage.plan.draft import Draft

NO_MEMORY = (
    "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "8589934592 bytes. Error code 12 (Cannot allocate memory)"
)
"""What PyTorch says on a CPU."""


# --- what there is ---


def machine(root, available_kb, groups="", **files):
    """A root folder with what Linux says of memory in it."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal:  99999999 kB\nMemAvailable:  {available_kb} kB\n")
    (root / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_memory_is_what_linux_says_is_available(tmp_path):
    assert available_host_bytes(machine(tmp_path, 2048)) == 2048 * 1024
    assert available_host_bytes(tmp_path / "no/such/system") is None


def test_a_control_group_may_leave_less_and_so_may_the_one_around_it(tmp_path):
    def of(name, limit, used, droppable):
        stat = f"anon 5\ninactive_file {droppable}\n"
        return {f"{name}memory_dot_max": limit, f"{name}memory_dot_current": used, f"{name}memory_dot_stat": stat}

    inner, outer = of("job__step__", "max\n", "700\n", 100), of("job__", "1000\n", "800\n", 300)
    assert available_host_bytes(machine(tmp_path / "outer", 2048, "0::/job/step\n", **inner, **outer)) == 500
    inner = of("job__step__", "900\n", "700\n", 100)
    assert available_host_bytes(machine(tmp_path / "inner", 2048, "0::/job/step\n", **inner, **outer)) == 300
    # in a container: the group's own path is not there, what is at the top is its own
    assert (
        available_host_bytes(machine(tmp_path / "container", 1, "0::/far/away\n", **of("", "900\n", "1\n", 0))) == 899
    )


def test_control_groups_of_the_first_version(tmp_path):
    files = {
        "memory__job__memory_dot_limit_in_bytes": "5000\n",
        "memory__job__memory_dot_usage_in_bytes": "4000\n",
        "memory__job__memory_dot_stat": "inactive_file 7\ntotal_inactive_file 50\n",
        "memory__memory_dot_limit_in_bytes": "9223372036854771712\n",
        "memory__memory_dot_usage_in_bytes": "4000\n",
    }
    groups = "4:cpu,cpuacct:/job\n3:memory:/job\n0::/\n"
    assert available_host_bytes(machine(tmp_path, 2048, groups, **files)) == 1050


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError(NO_MEMORY), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"), True),
        (MemoryError(), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_an_allocator_says_is_known_from_other_errors(error, is_one):
    assert out_of_memory(error) is is_one


def test_a_tokens_keys_and_values_are_as_large_as_the_cache_makes_them():
    for family in ("llama", "gemma2", "phi3"):
        one = tiny_engine(family)
        cache, _ = one.runner.prefix(range(3, 13), StagePlan())
        assert cache.nbytes == 11 * bytes_per_token(one.decoder)


# --- rows in flight ---


@pytest.fixture
def lanes_made(monkeypatch):
    """How many lanes each generation had."""
    made = []
    real = HostRunner._cache
    monkeypatch.setattr(HostRunner, "_cache", lambda self, lanes, slots: made.append(lanes) or real(self, lanes, slots))
    return made


@pytest.mark.parametrize("fit", [1, 3, 7, 1000])
def test_as_many_rows_are_in_flight_as_memory_holds(fit, lanes_made, monkeypatch):
    requests, one = ragged(random_prompts((9, 14, 20) * 4), 6), tiny_engine("llama")
    expected = run(one, requests)
    lanes_made.clear()
    memory = 2 * fit * 26 * bytes_per_token(one.decoder)  # the longest prompt and what it may write
    monkeypatch.setattr("litestage.engine.memory.available_bytes", lambda device: memory)
    assert outcome(run(one, requests)) == outcome(expected)
    assert lanes_made == [min(fit, 12)]


# --- out of memory ---


def running_out(monkeypatch, most):
    """Forward passes of more than ``most`` lanes find no memory."""
    enter, take = KVCache.enter, GraphRunner._take_off

    def entered(self, lanes, tokens, *, fresh=False):
        if len(self.used) > most:
            raise RuntimeError(NO_MEMORY)
        return enter(self, lanes, tokens, fresh=fresh)

    def taken_off(self, batch, cache):
        if len(cache.used) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 8 GiB.")
        return take(self, batch, cache)

    monkeypatch.setattr(KVCache, "enter", entered)
    monkeypatch.setattr(GraphRunner, "_take_off", taken_off)


@pytest.mark.parametrize("path", ["host", "static"])
@pytest.mark.parametrize("plan", [StagePlan(), StagePlan(SkipSet(mhsa=(1,), ffn=(2,)), phase="decode")])
def test_out_of_memory_halves_the_rows_in_flight_and_goes_on_said_once(path, plan, monkeypatch, caplog):
    requests = [
        Request(prompt, 9, group=row, stream=str(row)) for row, prompt in enumerate(random_prompts((9, 14) * 6))
    ]
    for decoding in (Decoding(stop=("k",)), Decoding(temperature=0.9, seed=3)):
        expected = tiny_engine("llama", path).generate(requests, plan, decoding, confidences=True).generations
        with monkeypatch.context() as patch:
            running_out(patch, 4)
            caplog.clear()
            small = Engine(tiny_model("llama"), Characters(), path)
            for _ in range(2):
                rows = small.generate(requests, plan, decoding, confidences=True).generations
                assert outcome(rows) == outcome(expected)
            assert small.most_rows == 3
            assert [record.getMessage() for record in caplog.records] == [
                "out of memory on cpu with 12 rows in flight: going on with 6, and fewer if need be."
            ]


def test_a_questions_options_come_apart_where_they_do_not_fit_together(monkeypatch):
    expected, asked = run(tiny_engine("llama"), fans(3)), []
    real = scheduler.prompt_trees

    def trees(rows, most, limit):
        made = real(rows, most, limit)
        asked.append(max(len(tree.rows) for tree in made))
        if asked[-1] > 1:
            raise MemoryError
        return made

    monkeypatch.setattr(scheduler, "prompt_trees", trees)
    assert outcome(run(Engine(tiny_model("llama"), Characters()), fans(3))) == outcome(expected)
    assert asked[-1] == 1


def test_a_row_that_others_left_no_memory_for_begins_anew_alone_and_counts_anew(monkeypatch):
    """Three of four end with their first tokens; the fourth has guessed some when memory runs out."""
    (head,), tails = random_prompts((20,)), random_prompts((2, 3, 4, 5), seed=2)
    requests = [Request(head + tail, 12 if n == 3 else 1, group=n) for n, tail in enumerate(tails)]
    plan = StagePlan(draft=Draft("skip", skip=SkipSet(mhsa=(1,)), length=2))
    (alone,) = run(Engine(tiny_model("llama"), Characters()), requests[3:], plan)
    engine, verify, calls = Engine(tiny_model("llama"), Characters()), HostRunner.verify, []

    def verified(self, batch, guesses):
        calls.append(batch)
        if len(calls) == 3:
            raise MemoryError
        verify(self, batch, guesses)

    monkeypatch.setattr(HostRunner, "verify", verified)
    row = run(engine, requests, plan)[3]
    assert alone.guessed
    assert (row, row.guessed, row.accepted, row.reused) == (alone, alone.guessed, alone.accepted, 0)
    assert engine.most_rows == 2


def test_a_row_that_does_not_fit_alone_is_one_sentence(monkeypatch):
    running_out(monkeypatch, 0)
    with pytest.raises(LiteStageError) as error:
        run(Engine(tiny_model("llama"), Characters()), ragged(PROMPTS[:3], 9))
    assert "Out of memory on cpu" in str(error.value)
    assert "\n" not in str(error.value)


def test_other_errors_are_not_taken_for_it(monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(HostRunner, "_logits", fails)
    with pytest.raises(RuntimeError, match="mat1"):
        run(Engine(tiny_model("llama"), Characters()), ragged(PROMPTS[:3]))


def test_log_likelihoods_go_on_in_halves(monkeypatch, caplog):
    pairs = [(prompt, (65, 66, 67)) for prompt in random_prompts((9, 14, 5) * 4)]
    expected = tiny_engine("llama").loglikelihood(pairs, StagePlan())
    running_out(monkeypatch, 4)
    small = Engine(tiny_model("llama"), Characters())
    for (one, greedy), (other, same) in zip(small.loglikelihood(pairs, StagePlan()), expected, strict=True):
        assert (one, greedy) == (pytest.approx(other, abs=1e-4), same)
    assert len(caplog.records) == 1


def test_static_caches_are_not_kept_for_ever(monkeypatch):
    """Every number of rows leaves its lanes for later; the longest unused go when memory is short."""
    one = Engine(tiny_model("llama"), Characters(), "static")
    memory = 2 * 44 * 129 * bytes_per_token(one.decoder)  # half of it holds 44 lanes of a bucket
    monkeypatch.setattr(graph_runner, "available_bytes", lambda device: memory - held())

    def held():
        return one.runner.nbytes

    for count in (1, 2, 4, 8, 16, 32, 3, 17, 5, 30):
        requests = ragged(random_prompts((9,) * count), 6)
        assert outcome(run(one, requests)) == outcome(run(tiny_engine("llama"), requests))
        assert held() <= memory / 2
    assert len(one.runner._caches) > 1


STARVED = """
import resource, sys, torch
sys.path.insert(0, sys.argv[1])
from transformers import LlamaConfig
from tiny import Characters, random_model, random_prompts
from litestage.engine import Decoding, Engine, Request, memory
from litestage.plan import StagePlan

torch.set_num_threads(1)
memory.available_bytes = lambda device: None
model = random_model(LlamaConfig(
    vocab_size=256, hidden_size=64, intermediate_size=64, num_hidden_layers=8, num_attention_heads=16,
    num_key_value_heads=16, head_dim=64, max_position_embeddings=2048))
engine = Engine(model, Characters(), sys.argv[2])
engine.eos = (-1,)
prompts = random_prompts((200,) * 24)
engine.generate([Request(prompts[0], 4)], StagePlan(), Decoding())
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 260 * 2**20  # keys and values of 24 rows are 24 x 264 x 64 KiB, 396 MiB
unlimited = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (limit, unlimited[1]))
rows = engine.generate([Request(p, 4, group=at) for at, p in enumerate(prompts)], StagePlan(), Decoding()).generations
resource.setrlimit(resource.RLIMIT_AS, unlimited)
print(engine.most_rows, {len(row.tokens) for row in rows})
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="counts pages as Linux does")
@pytest.mark.parametrize("path", ["host", "static"])
def test_a_process_whose_memory_is_limited_goes_on_with_fewer_rows(path):
    """The allocator's own error, in a process of its own."""
    ran = subprocess.run(
        [sys.executable, "-c", STARVED, str(Path(__file__).parent), path], capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 0, ran.stderr
    most, lengths = ran.stdout.split(" ", 1)
    assert int(most) < 24
    assert lengths.strip() == "{4}"
    assert ran.stderr.count("out of memory on cpu with 24 rows in flight: going on with 12") == 1
