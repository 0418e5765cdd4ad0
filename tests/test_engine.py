"""The engine's bookkeeping: the context's end, empty input, sub-layers in order, what it refuses."""

import copy
from dataclasses import replace

import pytest
import torch
from test_parity import PROMPTS, ragged, run
from tiny import FAMILIES, LAYERS, Characters, random_prompts, tiny_engine, tiny_model
from transformers import (
    Gemma2Config,
    Gemma3Config,
    Gemma3TextConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    OPTConfig,
    Qwen2Config,
    Qwen3_5TextConfig,
)

from litestage.decoder import Decoder
from litestage.decoder.families import family_of
from litestage.decoder.load import fingerprint, load_model
from litestage.engine import Decoding, Engine, Request, common_prefix
from litestage.errors import LiteStageError
from litestage.plan import SkipSet, StagePlan

CONTEXT = 256


# --- the context's end ---


def test_a_prompt_that_leaves_no_room_is_too_long_and_the_others_go_on():
    engine = tiny_engine("llama")
    too_long, just_fits, short = random_prompts((CONTEXT, CONTEXT - 1, 9))
    rows = run(engine, ragged([too_long, just_fits, short], 5))
    assert [row.stop for row in rows] == ["too_long", "length", "length"]
    assert [len(row.tokens) for row in rows] == [0, 1, 5]
    assert rows[0].text == ""
    assert [row.prompt_tokens for row in rows] == [CONTEXT, CONTEXT - 1, 9]
    assert rows[2].tokens == run(engine, ragged([short], 5))[0].tokens


def test_a_limit_is_lowered_to_the_room_there_is():
    row = run(tiny_engine("llama"), ragged(random_prompts((CONTEXT - 6,)), 20))[0]
    assert (len(row.tokens), row.stop) == (6, "length")


def test_nothing_but_prompts_that_are_too_long():
    rows = run(tiny_engine("llama"), ragged(random_prompts((CONTEXT + 3, CONTEXT)), 5))
    assert [row.stop for row in rows] == ["too_long", "too_long"]


def test_no_requests_and_empty_prompts():
    assert run(tiny_engine("llama"), []) == []
    with pytest.raises(LiteStageError, match="A prompt is empty"):
        run(tiny_engine("llama"), [Request((), 5)])


# --- prefixes ---


def test_the_common_prefix_leaves_every_row_a_token_of_its_own():
    assert common_prefix([(1, 2, 3), (1, 2, 4)]) == (1, 2)
    assert common_prefix([(1, 2), (1, 2, 3)]) == (1,)  # one prompt is the other's beginning
    assert common_prefix([(5, 6, 7), (5, 6, 8, 9), (5, 1, 8)]) == (5,)
    assert common_prefix([(1, 2), (3, 4)]) == ()  # nothing in common


# --- verification (more in test_verify): a draft saves steps and changes nothing ---


def outcome(generations):
    return [(row.tokens, row.text, row.stop) for row in generations]


def drafts_of(tokens, seed):
    """One right, one wrong from each position on, one cut short, one too long, one of noise, and none."""
    noise = random_prompts((len(tokens),) * 2, seed)
    wrong = [(*tokens[:at], *noise[0][at:]) for at in range(len(tokens))]
    return [tokens, *wrong, tokens[:5], (*tokens, *noise[1]), noise[1], ()]


@pytest.mark.parametrize("family", FAMILIES)
def test_whatever_the_draft_the_text_is_the_plans_own(family):
    engine, plan = tiny_engine(family), StagePlan(SkipSet(mhsa=(0,), ffn=(2,)), phase="decode")
    plain = engine.generate(ragged(PROMPTS[:4]), plan, Decoding(stop=("k",)), confidences=True).generations
    drafts = [drafts_of(row.tokens, seed) for seed, row in enumerate(plain)]
    for choice in range(0, min(map(len, drafts)), 2):  # another kind of draft in every row
        requests = [
            replace(request, draft=drafts[row][(choice + 3 * row) % len(drafts[row])])
            for row, request in enumerate(ragged(PROMPTS[:4]))
        ]
        verified = engine.generate(requests, plan, Decoding(stop=("k",)), confidences=True).generations
        assert outcome(verified) == outcome(plain)
        for one, two in zip(verified, plain, strict=True):
            assert one.confidences == pytest.approx(two.confidences, abs=1e-5)


# --- the decoder ---


@pytest.mark.parametrize("family", FAMILIES)
def test_a_decoder_is_two_sublayers_a_layer_in_the_order_they_run(family):
    decoder = Decoder(tiny_model(family))
    assert decoder.sublayers == [(k, n) for n in range(LAYERS) for k in ("mhsa", "ffn")]
    windows = [8 if layer in FAMILIES[family].sliding else None for layer in range(LAYERS)]
    assert [layer.attention.heads.window for layer in decoder.architecture.layers] == windows


def test_an_unsupported_family_lists_the_supported_ones():
    with pytest.raises(LiteStageError, match=r"'opt' is not supported; supported are gemma2, gemma3_text, .*smollm3"):
        Decoder(type("Model", (), {"config": OPTConfig()}))


def test_rotary_scaling_that_moves_earlier_positions_is_refused():
    config = LlamaConfig(rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0})
    with pytest.raises(LiteStageError, match="'dynamic'"):
        Decoder(type("Model", (), {"config": config}))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            Gemma3Config(),
            r"'gemma3' is not supported; of this one, .* \('gemma3_text'\); supported are",
        ),
        (Qwen3_5TextConfig(), r"'qwen3_5_text' model has layers of the kinds linear_attention; only attention"),
        (Gemma3TextConfig(use_bidirectional_attention=True), r"'gemma3_text' model attends to what follows"),
        (LlamaConfig(is_causal=False), r"'llama' model attends to what follows \(.*is_causal: false\)"),
        (Qwen2Config(is_causal=False), r"'qwen2' model attends to what follows"),
        (LlamaConfig(sliding_window=8), r"'llama' model has sliding_window=8 in its configuration.*drops keys"),
        (LlamaConfig(attention_chunk_size=8), r"attention_chunk_size=8"),
        (MistralConfig(sliding_window=None, attention_chunk_size=8), r"attention_chunk_size=8"),
        (GraniteConfig(sliding_window=8), r"sliding_window=8"),
        (Olmo2Config(sliding_window=8), r"sliding_window=8"),
        (
            Gemma3TextConfig(rope_parameters={"sliding_attention": {"rope_type": "dynamic", "factor": 2.0}}),
            r"rope_type 'dynamic'",
        ),
    ],
)
def test_what_a_supported_familys_relatives_have_of_their_own_is_refused(config, said):
    with pytest.raises(LiteStageError, match=said):
        Decoder(type("Model", (), {"config": config}))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (LlamaConfig(num_key_value_heads=3), "32 query heads to 3 key-value heads"),
        (LlamaConfig(num_attention_heads=8, num_key_value_heads=16), "8 query heads to 16 key-value heads"),
        (Olmo2Config(num_key_value_heads=0), "32 query heads to 0 key-value heads"),
        (LlamaConfig(num_hidden_layers=0), "no layers"),
        (LlamaConfig(max_position_embeddings=0), "max_position_embeddings=0"),
        (LlamaConfig(rope_parameters={"rope_type": "spiral", "rope_theta": 1e4}), "rope_type='spiral'"),
        (MistralConfig(sliding_window=1), "layers with sliding_window=1"),
        (MistralConfig(sliding_window=-3), "layers with sliding_window=-3"),
        (MistralConfig(layer_types=["full_attention", "sliding_attention"] * 16), "layer_types of 2 kinds"),
        (Gemma3TextConfig(sliding_window=None), "layers with sliding_window=None"),
        (Qwen2Config(layer_types=["sliding_attention"] * 32), "layers with sliding_window=None"),
        (Gemma2Config(attn_logit_softcapping=0.0), "attn_logit_softcapping=0"),
        (Gemma2Config(final_logit_softcapping=0.0), "final_logit_softcapping=0"),
        (GraniteConfig(logits_scaling=0.0), "logits_scaling=0"),
    ],
)
def test_what_a_configuration_says_that_cannot_be_computed_is_refused_before_it_ends_the_process(config, said):
    """Heads that do not divide each other read beside their keys or ended the process; transformers fails too."""
    with pytest.raises(LiteStageError, match=f"{said}.*config.json"):
        Decoder(type("Model", (), {"config": config}))


@pytest.mark.parametrize(("family", "share"), [("llama", 0.5), ("llama", 2.0), ("phi3", 2.0)])
def test_a_rotation_of_other_channels_than_the_attention_turns_is_refused(family, share):
    """transformers' attention fails at them, but Phi-3's at fewer, which it turns."""
    config = copy.deepcopy(tiny_model(family).config)
    config.rope_parameters = {"rope_type": "linear", "rope_theta": 1e4, "factor": 1.0, "partial_rotary_factor": share}
    model = type(tiny_model(family))(copy.deepcopy(config)) if family == "llama" else copy.deepcopy(tiny_model(family))
    if family != "llama":
        model.model.rotary_emb.inv_freq = torch.ones(8)
    with pytest.raises(LiteStageError, match=r"turns \d+ channels of heads that are 8 wide.*partial_rotary_factor"):
        Decoder(model)


def test_a_window_that_hides_nothing_is_not_refused():
    for config in (
        LlamaConfig(max_position_embeddings=256, sliding_window=256),
        LlamaConfig(sliding_window=8, layer_types=["full_attention"] * 32),
    ):
        family_of(config)


@pytest.mark.parametrize("eos", [-1, [2, -5], 999_999, "2", True, [2, None]], ids=str)
def test_an_end_of_text_that_is_no_token_of_the_models_is_one_sentence(eos):
    model = copy.deepcopy(tiny_model("llama"))
    model.generation_config.eos_token_id = eos
    with pytest.raises(LiteStageError, match="eos_token_id is"):
        Engine(model, Characters())


def test_a_model_without_an_end_of_sequence_is_refused():
    model = copy.deepcopy(tiny_model("llama"))
    model.generation_config.eos_token_id = None
    tokenizer = Characters()
    assert Engine(model, tokenizer).eos == (2,)  # the tokenizer's
    tokenizer.eos_token_id = None
    assert Engine(model, tokenizer).eos == (2,)  # the configuration's
    model.config.eos_token_id = None
    with pytest.raises(LiteStageError, match="end-of-sequence"):
        Engine(model, tokenizer)


# --- what identifies a model ---


def test_the_fingerprint_changes_with_any_weight_and_with_the_architecture():
    model = copy.deepcopy(tiny_model("llama"))
    before = fingerprint(model)
    assert before == fingerprint(tiny_model("llama"))
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            one = parameter.view(-1)[-1].clone()
            parameter.view(-1)[-1] += 1e-3
            assert fingerprint(model) != before, name
            parameter.view(-1)[-1] = one
    assert fingerprint(model) == before
    model.config.rms_norm_eps = 1e-3
    assert fingerprint(model) != before


def test_two_weights_that_change_places_change_the_fingerprint():
    model = copy.deepcopy(tiny_model("llama"))
    weight = model.model.layers[0].mlp.up_proj.weight
    before = fingerprint(model)
    with torch.no_grad():
        weight[:] = weight[torch.randperm(len(weight), generator=torch.Generator().manual_seed(0))]
    assert fingerprint(model) != before


def test_two_neighbours_of_a_large_matrix_that_change_places_change_the_fingerprint():
    model = copy.deepcopy(tiny_model("llama"))
    weights = model.model.embed_tokens.weight.view(-1)
    before = fingerprint(model)
    for first in (1, 4001):
        with torch.no_grad():
            weights[[first, first + 1]] = weights[[first + 1, first]]
        assert fingerprint(model) != before
        before = fingerprint(model)


def test_the_fingerprint_is_of_the_values_wherever_they_lie_in_memory():
    model = copy.deepcopy(tiny_model("llama"))
    before = fingerprint(model)
    weight = model.model.layers[0].mlp.up_proj.weight
    weight.data = weight.data.t().contiguous().t()
    assert fingerprint(model) == before


# --- loading ---


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"name": "./no/such/folder"}, "'./no/such/folder'"),
        ({"name": "reference", "dtype": "float23"}, "'float23'; did you mean 'float32'"),
        ({"name": "reference", "dtype": "int4"}, "known: auto, bfloat16, float16, float32"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_named_in_one_sentence(arguments, named):
    with pytest.raises(LiteStageError) as error:
        load_model(**arguments)
    assert named in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_without_weights_is_named(tmp_path):
    tiny_model("llama").config.save_pretrained(tmp_path)
    with pytest.raises(LiteStageError) as error:
        load_model(str(tmp_path))
    assert str(tmp_path) in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_a_folder_of_another_family_is_refused(tmp_path):
    OPTConfig(hidden_size=8, num_hidden_layers=1, ffn_dim=8, num_attention_heads=1).save_pretrained(tmp_path)
    with pytest.raises(LiteStageError, match="'opt' is not supported"):
        load_model(str(tmp_path))


def test_norms_whose_epsilon_is_negative_are_refused_in_one_sentence():
    model = copy.deepcopy(tiny_model("llama"))
    model.model.norm.variance_epsilon = -1.0
    with pytest.raises(LiteStageError, match=r"epsilon of -1; correct it in its config\.json"):
        Engine(model, Characters())


def test_weights_that_are_not_safetensors_are_refused(tmp_path):
    tiny_model("llama").config.save_pretrained(tmp_path)
    torch.save(tiny_model("llama").state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(LiteStageError, match="safetensors"):
        load_model(str(tmp_path))


def test_a_saved_model_loads_in_the_dtype_asked_for(tmp_path):
    from tiny_model import save_tiny_model

    folder = save_tiny_model(tmp_path)
    loaded = load_model(folder)
    assert loaded.model.dtype == torch.float32
    assert not loaded.model.training
    assert load_model(folder).fingerprint == loaded.fingerprint
    half = load_model(folder, dtype="bfloat16")
    assert half.model.dtype == torch.bfloat16
    assert half.fingerprint != loaded.fingerprint
    batch = Engine(half.model, half.tokenizer).generate([Request((5, 6, 7), 3)], StagePlan(), Decoding())
    assert len(batch.generations[0].tokens) == 3
