"""Generation settings that come with a model: EOS ids are followed, and of the rest nothing is left out in silence."""

import json
import logging

import pytest
from tiny_model import save_tiny_model
from transformers import GenerationConfig

from litestage.decoder import load_model
from litestage.decoder.generation import left_out
from litestage.errors import LiteStageError

CHANGING = {
    "repetition_penalty": 1.05,
    "encoder_repetition_penalty": 1.5,
    "no_repeat_ngram_size": 3,
    "encoder_no_repeat_ngram_size": 3,
    "bad_words_ids": [[5]],
    "suppress_tokens": [5],
    "begin_suppress_tokens": [5],
    "forced_bos_token_id": 5,
    "forced_eos_token_id": 5,
    "min_length": 9,
    "min_new_tokens": 9,
    "exponential_decay_length_penalty": [3, 1.5],
    "sequence_bias": [[[5], 2.0]],
    "stop_strings": ["."],
    "guidance_scale": 2.0,
    "num_beams": 4,
    "penalty_alpha": 0.6,
    "max_time": 1.0,
}
HARMLESS = {
    **{"eos_token_id": [0, 1], "pad_token_id": 0, "bos_token_id": 1, "max_length": 2048, "max_new_tokens": 2048},
    **{"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 20, "repetition_penalty": 1.0, "num_beams": 1},
    **{"length_penalty": 1.0, "no_repeat_ngram_size": 0, "transformers_version": "4.37.0", "renormalize_logits": True},
}


@pytest.fixture
def with_settings(tmp_path):
    def save(**settings) -> str:
        folder = save_tiny_model(tmp_path / "model")
        path = tmp_path / "model" / "generation_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
        return folder

    return save


@pytest.mark.parametrize("field", CHANGING)
def test_each_field_that_changes_greedy_output_is_named(field):
    assert left_out(GenerationConfig(**{field: CHANGING[field]})) == {field: CHANGING[field]}


def test_what_does_not_change_it_is_not():
    assert left_out(GenerationConfig(**HARMLESS)) == {}
    assert left_out(GenerationConfig()) == {}


def test_they_are_said_once_at_loading_and_kept_with_the_model(with_settings, caplog):
    loaded = load_model(with_settings(repetition_penalty=1.1, no_repeat_ngram_size=3, temperature=0.7, do_sample=True))
    (said,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert "repetition_penalty=1.1, no_repeat_ngram_size=3, which is left out" in said
    assert loaded.about["generation_config_left_out"] == {"repetition_penalty": 1.1, "no_repeat_ngram_size": 3}


def test_they_can_be_refused(with_settings):
    folder = with_settings(repetition_penalty=1.1, suppress_tokens=[3])
    with pytest.raises(LiteStageError, match=r"repetition_penalty=1\.1, suppress_tokens=\[3\]"):
        load_model(folder, generation_config="refuse")
    assert load_model(with_settings(), generation_config="refuse").generation_config_left_out == {}
    with pytest.raises(LiteStageError, match="did you mean 'refuse'"):
        load_model(folder, generation_config="refused")


def test_results_name_them_and_litestage_compare_and_lm_eval_can_refuse_them(with_settings, tmp_path):
    from litestage.comparison.compare import compare
    from litestage.config import load_config
    from litestage.harness.lm import LiteStageLM
    from litestage.session.workbench import Workbench

    folder = with_settings(repetition_penalty=1.1)
    limits = "max_new_tokens={recall: 4, analyze: 4, summarize: 4}"
    options = [f"model.pretrained={folder}", f"store={tmp_path}/store.sqlite", "methods=[full]", "questions=1", limits]
    bench = Workbench.open(load_config([*options, "latency_questions=0"]))
    assert compare(bench).results["model"]["generation_config_left_out"] == {"repetition_penalty": 1.1}
    with pytest.raises(LiteStageError, match="repetition_penalty"):
        Workbench.open(load_config([*options, "model.generation_config=refuse"]))
    lm = LiteStageLM(pretrained=folder, device="cpu", store=str(tmp_path / "store.sqlite"))
    assert lm.get_model_info()["model_generation_config_left_out"] == {"repetition_penalty": 1.1}
    with pytest.raises(LiteStageError, match="repetition_penalty"):
        LiteStageLM(pretrained=folder, device="cpu", generation_config="refuse")


def test_end_of_text_is_what_generate_takes(with_settings):
    from litestage.session import Session

    assert Session.open(with_settings(eos_token_id=[7, 9])).engine.eos == (7, 9)
