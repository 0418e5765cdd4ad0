"""At full depth and in float32, tokens equal transformers' greedy generate at batch 1, whatever batch a row runs in."""

import copy

import pytest
import torch
from oracle import Oracle
from tiny import (
    FAMILIES,
    LONGROPE_SWITCH,
    WINDOW,
    Characters,
    greedy,
    random_prompts,
    reference_logits,
    tiny_engine,
    tiny_model,
)

from litestage.decoder import families as known
from litestage.engine import Decoding, Engine, Request
from litestage.engine.sampler import Sampler
from litestage.plan import StagePlan

NEW = 16
LENGTHS = (5, 12, 17, 23, 30, 9, 21, 14)
PROMPTS = random_prompts(LENGTHS)

families = pytest.mark.parametrize("family", FAMILIES)


def ragged(prompts, limit=NEW):
    return [Request(prompt, limit, group=row) for row, prompt in enumerate(prompts)]


def run(engine, requests, plan=None, **options):
    return engine.generate(requests, plan or StagePlan(), Decoding(**options)).generations


@pytest.fixture
def chosen_from(monkeypatch):
    """By prompt: the logits from which each token was chosen."""
    seen: dict[tuple[int, ...], list[torch.Tensor]] = {}
    advance = Sampler.advance

    def spy(self, rows, logits):
        for row, of_row in zip(rows, logits, strict=True):
            if row.stop is None:
                seen.setdefault(row.request.prompt, []).append(of_row.clone())
        advance(self, rows, logits)

    monkeypatch.setattr(Sampler, "advance", spy)
    return seen


def test_the_prompts_cross_what_they_should():
    assert min(LENGTHS) < WINDOW < sorted(LENGTHS)[1]
    assert min(LENGTHS) + NEW < LONGROPE_SWITCH  # one row stays on the short factors, one starts on the long ones
    assert max(LENGTHS) > LONGROPE_SWITCH
    assert sum(length <= LONGROPE_SWITCH < length + NEW for length in LENGTHS) >= 4  # and these switch under way


@families
def test_tokens_and_logits_equal_transformers(family, chosen_from):
    model, engine = tiny_model(family), tiny_engine(family)
    expected = [greedy(model, prompt, NEW) for prompt in PROMPTS]
    assert len({token for tokens in expected for token in tokens}) > 40  # the texts say something
    logits = [reference_logits(model, prompt, tokens) for prompt, tokens in zip(PROMPTS, expected, strict=True)]
    for batch in ([[request] for request in ragged(PROMPTS)], [ragged(PROMPTS)]):
        chosen_from.clear()
        rows = [row for requests in batch for row in run(engine, requests)]
        assert [row.tokens for row in rows] == expected
        for prompt, reference in zip(PROMPTS, logits, strict=True):
            torch.testing.assert_close(torch.stack(chosen_from[prompt]), reference, atol=1e-4, rtol=0)


@families
def test_prefill_gives_the_next_tokens_logits(family):
    model, engine = tiny_model(family), tiny_engine(family)
    for prompt in PROMPTS:
        reference = model(torch.tensor([prompt])).logits[0, -1]
        torch.testing.assert_close(engine.next_token_logits(prompt, StagePlan()), reference, atol=1e-4, rtol=0)


@families
def test_rows_that_share_a_prefix_equal_rows_that_do_not(family):
    """Two questions whose options continue a shared prompt, mixed in one batch, one prompt a prefix of another."""
    model, engine = tiny_model(family), tiny_engine(family)
    first, second, *tails = PROMPTS[3], PROMPTS[1], *PROMPTS[4:]
    fans = [
        (0, first + tails[0][:1]),
        (1, second + tails[1][:2]),
        (0, first + tails[1][:9]),
        (0, first),
        (1, second + tails[2][:5]),
    ]
    requests = [Request(prompt, NEW, group=group) for group, prompt in fans]
    assert [row.tokens for row in run(engine, requests)] == [greedy(model, prompt, NEW) for _, prompt in fans]


@pytest.mark.parametrize("family", [name for name, tiny in FAMILIES.items() if tiny.sliding])
def test_the_window_matters(family):
    """Without its sliding window the same model writes something else, so the parity above tests the window."""
    wide = copy.deepcopy(tiny_model(family))
    wide.config.sliding_window = 1000
    assert greedy(wide, PROMPTS[4], NEW) != greedy(tiny_model(family), PROMPTS[4], NEW)


@families
def test_a_family_is_its_entry_alone(family, monkeypatch):
    """Under another name with the same entry it writes the same: no path asks what a model is called."""
    model = copy.deepcopy(tiny_model(family))
    monkeypatch.setitem(known.FAMILIES, "another", known.FAMILIES[model.config.model_type])
    model.config.model_type = "another"
    for engine in (*(Engine(model, Characters(), path) for path in ("host", "static")), Oracle(model, Characters())):
        ours = run(engine, ragged(PROMPTS[:3]))
        assert [row.tokens for row in ours] == [row.tokens for row in run(tiny_engine(family), ragged(PROMPTS[:3]))]


def test_a_shared_prefix_is_run_once(monkeypatch):
    engine = tiny_engine("llama")
    passes = []
    embed = engine.decoder.embed
    monkeypatch.setattr(engine.decoder, "embed", lambda ids: passes.append(len(ids)) or embed(ids))
    head = PROMPTS[4]
    run(engine, [Request((*head, *tail), 1) for tail in ((5,), (6, 7), (8,))])
    assert passes == [len(head) + 1 + 2 + 1]


@families
def test_end_of_sequence_ends_a_row_as_in_transformers(family):
    """The tokens that full texts have in different places become ends; rows leave the batch at different steps."""
    model = copy.deepcopy(tiny_model(family))
    uncut = [greedy(model, prompt, NEW) for prompt in PROMPTS]
    model.generation_config.eos_token_id = ends = [uncut[0][6], uncut[2][3], uncut[5][9]]
    rows = run(Engine(model, Characters()), ragged(PROMPTS))
    assert [row.tokens for row in rows] == [greedy(model, prompt, NEW) for prompt in PROMPTS]
    assert [row.stop for row in rows] == ["eos" if row.tokens[-1] in ends else "length" for row in rows]
    assert {len(rows[row].tokens) for row in (0, 2, 5)} != {NEW}
    assert len({len(row.tokens) for row in rows}) > 2


@families
def test_every_row_has_its_own_limit(family):
    limits = (1, 16, 3, 7, 2, 16, 5, 9)
    requests = [
        Request(prompt, limit, group=row) for row, (prompt, limit) in enumerate(zip(PROMPTS, limits, strict=True))
    ]
    rows = run(tiny_engine(family), requests)
    assert [row.stop for row in rows] == ["eos" if row.tokens[-1] == 2 else "length" for row in rows]
    assert [row.stop for row in rows].count("length") > 4
    uncut = run(tiny_engine(family), ragged(PROMPTS))
    assert [row.tokens for row in rows] == [whole.tokens[:limit] for whole, limit in zip(uncut, limits, strict=True)]
