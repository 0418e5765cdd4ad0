"""longrope, whose rotary factors change with a text's length: in every family the tokens are ``generate``'s own."""

import copy
from dataclasses import replace

import pytest
from oracle import Oracle
from test_parity import ragged, run
from tiny import FAMILIES, LONGROPE_SWITCH, LONGROPES, Characters, greedy, random_model, random_prompts

from litestage.decoder.families import architecture
from litestage.engine import Decoding, Engine, Request
from litestage.plan import SkipSet, StagePlan

LENGTHS = (5, LONGROPE_SWITCH - 9, LONGROPE_SWITCH - 1, LONGROPE_SWITCH, LONGROPE_SWITCH + 1, 40)
"""Prompts that end before the factors change, at it, and beyond; all but the first write past it."""
GIVEN = {name for name, tiny in FAMILIES.items() if tiny.config.model_type not in ("phi3", "gemma3_text")}
"""Families that are given such factors here; those of Phi-3's class have them, and Gemma-3's layers turn otherwise."""


def longrope_model(family):
    config = copy.deepcopy(FAMILIES[family].config)
    if family in GIVEN:
        pairs = architecture(random_model(config)).ropes["all layers"].channels // 2
        config.rope_parameters |= {
            "rope_type": "longrope",
            "short_factor": [1.0] * pairs,
            "long_factor": [2.0 + pair for pair in range(pairs)],
            "original_max_position_embeddings": LONGROPE_SWITCH,
        }
    return random_model(config)


@pytest.mark.parametrize("family", [*sorted(GIVEN), *LONGROPES])
def test_tokens_are_generates_own_on_both_sides_of_the_change(family):
    model, prompts = longrope_model(family), random_prompts(LENGTHS)
    expected = [greedy(model, prompt, 16) for prompt in prompts]
    engine = Engine(model, Characters())
    assert [row.tokens for row in run(engine, ragged(prompts, 16))] == expected
    alone = [engine.generate(ragged([prompt], 16), StagePlan(), Decoding()).generations[0] for prompt in prompts]
    assert [row.tokens for row in alone] == expected
    assert any(
        len(tokens) > LONGROPE_SWITCH - len(prompt) > 0 for tokens, prompt in zip(expected, prompts, strict=True)
    )


@pytest.mark.parametrize("path", ["host", "static"])
@pytest.mark.parametrize("family", ["llama", "qwen2", *LONGROPES])
def test_so_they_are_for_options_that_share_a_lane_and_for_drafts(family, path):
    """A question's options on both sides of the change, under a plan; their drafts cross it."""
    model, (head,) = longrope_model(family), random_prompts((LONGROPE_SWITCH - 3,))
    tails = random_prompts((1, 2, 3, 4, 9, 12), seed=4)
    requests = [Request(head + tail, 14) for tail in tails]
    for plan in (StagePlan(), StagePlan(SkipSet(mhsa=(1,), ffn=(2,)), phase="decode")):
        expected = [row.tokens for row in Oracle(model, Characters()).generate(requests, plan, Decoding()).generations]
        engine = Engine(model, Characters(), path)
        assert [row.tokens for row in run(engine, requests, plan)] == expected
        noise = random_prompts((14,) * len(requests), seed=5)
        for count in (4, 9, 14):
            drafts = [(*tokens[:count], *other) for tokens, other in zip(expected, noise, strict=True)]
            drafted = [replace(request, draft=draft) for request, draft in zip(requests, drafts, strict=True)]
            assert [row.tokens for row in run(engine, drafted, plan)] == expected


@pytest.mark.parametrize("family", ["llama", *LONGROPES])
def test_what_was_written_is_greedy_by_its_log_likelihoods(family):
    model, prompts = longrope_model(family), random_prompts(LENGTHS)
    engine, until = Engine(model, Characters()), LONGROPE_SWITCH - 5
    short = [(prompt, greedy(model, prompt, max(1, until - len(prompt)))) for prompt in prompts]
    long = [(prompt, greedy(model, prompt, 16)) for prompt in prompts if len(prompt) > LONGROPE_SWITCH]
    assert all(is_greedy for _, is_greedy in engine.loglikelihood([*short, *long], StagePlan()))
