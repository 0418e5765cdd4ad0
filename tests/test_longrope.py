"""longrope, whose rotary factors change with a text's length: in every family the tokens are ``generate``'s own."""

import copy

import pytest
from test_parity import ragged, run
from tiny import FAMILIES, LONGROPE_SWITCH, Characters, greedy, random_model, random_prompts

from litestage.engine import Decoding, Engine
from litestage.plan import StagePlan

LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [2.0, 3.0, 4.0, 5.0],
    "original_max_position_embeddings": LONGROPE_SWITCH,
}
LENGTHS = (5, LONGROPE_SWITCH - 9, LONGROPE_SWITCH - 1, LONGROPE_SWITCH, LONGROPE_SWITCH + 1, 40)
"""Prompts that end before the factors change, at it, and beyond; all but the first write past it."""
ROPES = [family for family in FAMILIES if not family.startswith("phi3")]


@pytest.mark.parametrize("family", [*ROPES, "phi3_longrope"])
def test_tokens_are_generates_own_on_both_sides_of_the_change(family):
    config = copy.deepcopy(FAMILIES[family].config)
    if family in ROPES:
        config.rope_parameters = dict(LONGROPE)
    model, prompts = random_model(config), random_prompts(LENGTHS)
    expected = [greedy(model, prompt, 16) for prompt in prompts]
    engine = Engine(model, Characters())
    assert [row.tokens for row in run(engine, ragged(prompts, 16))] == expected
    alone = [engine.generate(ragged([prompt], 16), StagePlan(), Decoding()).generations[0] for prompt in prompts]
    assert [row.tokens for row in alone] == expected
    assert any(
        len(tokens) > LONGROPE_SWITCH - len(prompt) > 0 for tokens, prompt in zip(expected, prompts, strict=True)
    )
