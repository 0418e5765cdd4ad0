"""The identity of a result: what tokens depend on is in the store's key, and what is reported is what ran."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import Characters, random_model, random_prompts, staged_model, tiny_engine
from tiny_model import save_tiny_model

from litestage.config import load_config
from litestage.decoder import lean, native, panels
from litestage.engine import Decoding, Engine, Request
from litestage.environment import environment
from litestage.plan import StagePlan
from litestage.session import Session
from litestage.session.workbench import Workbench
from litestage.store import ResultStore, ReusingEngine
from litestage.store import identity as identities
from litestage.store.identity import tokenizer_digest

REQUESTS = [Request(prompt, 8, group=row, stream=f"q{row}") for row, prompt in enumerate(random_prompts((5, 9, 12)))]


def reusing(store, model=None, tokenizer=None, path="fast"):
    engine = Engine(model or random_model(staged_model().model.config), tokenizer or Characters(), path)
    return ReusingEngine(engine, "tiny", store)


@pytest.fixture
def store():
    """Holds ``REQUESTS`` at full depth."""
    store = ResultStore()
    reusing(store).generate(REQUESTS, StagePlan(), Decoding())
    return store


def found(store, **engine):
    """How many of ``REQUESTS`` another engine finds."""
    asking = reusing(store, **engine)
    asking.generate(REQUESTS, StagePlan(), Decoding())
    return asking.reused


def test_the_same_engine_made_anew_finds_all(store):
    assert found(store) == len(REQUESTS)


def configured(**settings):
    model = random_model(staged_model().model.config)
    for name, value in settings.items():
        setattr(model.generation_config, name, value)
    return model


@pytest.mark.parametrize("settings", [{"eos_token_id": 7}, {"eos_token_id": [2, 7]}, {"repetition_penalty": 1.1}])
def test_what_ends_a_text_and_how_tokens_are_chosen_are_in_the_key(store, settings):
    assert found(store, model=configured(**settings)) == 0


class Shouting(Characters):
    """Another way to make text of tokens, so that other strings stop it."""

    def decode(self, tokens, skip_special_tokens=True):
        return super().decode(tokens, skip_special_tokens).upper()


def test_the_tokenizer_is_in_the_key(store):
    assert found(store, tokenizer=Shouting()) == 0
    templated = Characters()
    templated.chat_template = "{{ messages }}"
    assert found(store, tokenizer=templated) == 0


def test_the_path_the_kernels_and_the_machine_are_in_the_key(store, monkeypatch):
    assert found(store, path="static") == 0
    if native_runs():
        with monkeypatch.context() as machine:
            machine.setattr(native, "library", lambda: None)
            assert found(store) == 0
    with monkeypatch.context() as machine:
        machine.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX1")
        assert found(store) == 0
    with monkeypatch.context() as machine:
        machine.setattr(torch, "get_num_threads", lambda: 9)
        assert found(store) == 0
    with monkeypatch.context() as machine:
        machine.setattr(torch, "__version__", "1.0")
        assert found(store) == 0
    with monkeypatch.context() as machine:
        machine.setattr(identities, "VERSION", 1)
        assert found(store) == 0
    assert found(store) == 3


def native_runs():
    return native.library() is not None


def test_c_code_of_another_compiler_is_another_kernel(store, monkeypatch):
    if not native_runs():
        pytest.skip("no C compiler here")
    monkeypatch.setattr(native.library(), "digest", "another")
    assert found(store) == 0


def test_in_bfloat16_a_record_holds_for_its_own_batch_only():
    """Of the same shape, but of other rows: what ends beside a row changes what it is multiplied with."""
    store, model = ResultStore(), random_model(staged_model().model.config).to(torch.bfloat16)
    reusing(store, model).generate(REQUESTS, StagePlan(), Decoding())
    beside = [*REQUESTS[:2], replace(REQUESTS[2], prompt=random_prompts((12,), seed=9)[0])]
    other = reusing(store, model)
    other.generate(beside, StagePlan(), Decoding())
    assert (other.ran, other.reused) == (3, 0)
    together = reusing(store, model)
    together.generate([replace(request, group=0) for request in REQUESTS], StagePlan(), Decoding())
    assert (together.ran, together.reused) == (3, 0)
    again = reusing(store, model)
    again.generate(REQUESTS, StagePlan(), Decoding())
    assert (again.ran, again.reused) == (0, 3)


# --- through a folder ---


def test_an_edited_generation_config_finds_nothing_of_the_one_before(tmp_path):
    """The case that was seen: another end of text in generation_config.json, and the old texts came back."""
    folder = save_tiny_model(tmp_path / "model")
    prompt = "Where does a turtle live?"

    def written(store):
        session = Session.open(folder, store=store)
        request = Request(tuple(session.encode(prompt)), 12)
        (generation,) = session.reusing.generate([request], StagePlan(), Decoding())
        return generation.tokens

    before = written(tmp_path / "store.sqlite")
    assert len(set(before)) > 1
    config = Path(folder, "generation_config.json")
    config.write_text(json.dumps({**json.loads(config.read_text()), "eos_token_id": before[1]}))
    ended = written(tmp_path / "store.sqlite")
    assert ended == before[: before.index(before[1]) + 1] == written(None)
    assert written(tmp_path / "store.sqlite") == ended


def test_a_digest_changes_with_what_a_tokenizer_does_and_not_with_how_it_was_called(tmp_path):
    from transformers import AutoTokenizer

    folder = save_tiny_model(tmp_path / "model")

    def load():
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)

    tokenizer = load()
    digest = tokenizer_digest(tokenizer)
    tokenizer("and another", truncation=True, max_length=3)
    assert tokenizer_digest(tokenizer) == digest == tokenizer_digest(load())
    path = Path(folder, "tokenizer.json")
    rules = json.loads(path.read_text())
    rules["model"]["merges"].pop()
    path.write_text(json.dumps(rules))
    assert tokenizer_digest(load()) != digest
    tokenizer.chat_template = "{{ messages }}"
    assert tokenizer_digest(tokenizer) != digest


# --- what is reported ---


def test_the_environment_names_what_runs(monkeypatch):
    for engine in (tiny_engine("llama"), tiny_engine("phi3_longrope")):
        assert (environment(engine)["engine"], environment(engine)["c_kernels"]) == (
            ("fast/2+c", True) if native_runs() else ("fast/2", False)
        )
    assert environment(tiny_engine("llama", "static"))["engine"].startswith("static/3")
    monkeypatch.setattr(lean, "FUSED_BYTES", 0)  # as for a large model: float32 runs in PyTorch
    large = Engine(random_model(staged_model().model.config), Characters())
    assert (environment(large)["engine"], environment(large)["c_kernels"]) == ("fast/2", False)


def test_the_environment_names_bfloat16_panels():
    model = random_model(staged_model().model.config).to(torch.bfloat16)
    name = environment(Engine(model, Characters()))["engine"]
    assert name == ("fast/2+panels" if panels.runs(torch.empty(2, 2, dtype=torch.bfloat16)) else "fast/2")


# --- nothing is generated twice ---


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_no_calibration_output_is_generated_twice(tmp_path, monkeypatch, dtype):
    """A whole search, rankings included: every prompt goes through a plan once, whatever its numbers are."""
    asked, generate = Counter(), Engine.generate

    def counting(self, requests, plan, decoding, **options):
        asked.update((json.dumps(plan.computation), str(plan.exit), request.prompt) for request in set(requests))
        return generate(self, requests, plan, decoding, **options)

    monkeypatch.setattr(Engine, "generate", counting)
    options = ["search.ranking=fidelity", "search.calibration=12", "search.max_budget=2", "engine.batch_size=5"]
    options += ["search.finalists=0", "search.max_accuracy_drop=0.5"]
    model = save_tiny_model(tmp_path / "model")
    bench = Workbench.open(
        load_config([f"model.pretrained={model}", f"engine.dtype={dtype}", f"store={tmp_path / 'store'}", *options])
    )
    bench.plan("cosine:2")
    bench.plan("finercut:2")
    found = bench.search()
    assert len(found.candidates) > 1
    full = [times for (plan, rule, _), times in asked.items() if plan == json.dumps(StagePlan().computation)]
    assert len(full) >= 12 * 3
    assert max(full) == 1
