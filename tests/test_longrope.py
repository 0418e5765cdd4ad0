"""longrope, whose rotary factors change with a text's length: in every family the tokens are ``generate``'s own."""

import copy

import pytest
from test_parity import ragged, run
from tiny import FAMILIES, LONGROPE_SWITCH, LONGROPES, Characters, greedy, random_model, random_prompts

from litestage.decoder.families import architecture
from litestage.engine import Decoding, Engine
from litestage.plan import StagePlan

LENGTHS = (5, LONGROPE_SWITCH - 9, LONGROPE_SWITCH - 1, LONGROPE_SWITCH, LONGROPE_SWITCH + 1, 40)
"""Prompts that end before the factors change, at it, and beyond; all but the first write past it."""
GIVEN = {name for name, tiny in FAMILIES.items() if tiny.config.model_type not in ("phi3", "gemma3_text")}
"""Families that are given such factors here; those of Phi-3's class have them, and Gemma-3's layers turn otherwise."""


def with_longrope(family):
    config = copy.deepcopy(FAMILIES[family].config)
    if family in GIVEN:
        pairs = architecture(random_model(config)).ropes["all layers"].channels // 2
        config.rope_parameters |= {
            "rope_type": "longrope",
            "short_factor": [1.0] * pairs,
            "long_factor": [2.0 + pair for pair in range(pairs)],
            "original_max_position_embeddings": LONGROPE_SWITCH,
        }
    return config


@pytest.mark.parametrize("family", [*sorted(GIVEN), *LONGROPES])
def test_tokens_are_generates_own_on_both_sides_of_the_change(family):
    config = with_longrope(family)
    model, prompts = random_model(config), random_prompts(LENGTHS)
    expected = [greedy(model, prompt, 16) for prompt in prompts]
    engine = Engine(model, Characters())
    assert [row.tokens for row in run(engine, ragged(prompts, 16))] == expected
    alone = [engine.generate(ragged([prompt], 16), StagePlan(), Decoding()).generations[0] for prompt in prompts]
    assert [row.tokens for row in alone] == expected
    assert any(
        len(tokens) > LONGROPE_SWITCH - len(prompt) > 0 for tokens, prompt in zip(expected, prompts, strict=True)
    )
