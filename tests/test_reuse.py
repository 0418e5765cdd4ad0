"""An engine that looks generations up: found again for the same, never for anything else."""

from dataclasses import replace

import pytest
import torch
from test_parity import PROMPTS
from tiny import Characters, random_model, staged_model

from litestage.engine import Decoding, Engine, Request
from litestage.plan import ExitRule, SkipSet, StagePlan
from litestage.store import ResultStore, ReusingEngine


class Counting(Engine):
    """An engine that counts the rows it is asked to run."""

    ran = 0

    def generate(self, requests, plan, decoding, **options):
        self.ran += len(requests)
        return super().generate(requests, plan, decoding, **options)


def counting(store, model=None, fingerprint="tiny"):
    return ReusingEngine(Counting(model or staged_model().model, Characters()), fingerprint, store)


def requests_of(prompts, limit=8):
    return [Request(prompt, limit, group=row, stream=f"q{row}") for row, prompt in enumerate(prompts)]


REQUESTS = requests_of(PROMPTS[:3])
PLAN = StagePlan(SkipSet(mhsa=(1,)))


@pytest.fixture
def warm():
    """An engine whose store holds ``REQUESTS`` under ``PLAN``."""
    reusing = counting(ResultStore())
    reusing.generate(REQUESTS, PLAN, Decoding())
    reusing.engine.ran = 0
    return reusing


def test_the_same_again_is_found_and_is_the_same(warm):
    again = warm.generate(REQUESTS, PLAN, Decoding())
    assert warm.engine.ran == 0
    fresh = warm.engine.generate(REQUESTS, PLAN, Decoding(), confidences=True).generations
    assert [(row.tokens, row.text, row.stop, row.prompt_tokens) for row in again] == [
        (row.tokens, row.text, row.stop, row.prompt_tokens) for row in fresh
    ]


def test_an_engine_that_only_looks_up_finds_what_is_there_and_keeps_nothing(warm):
    looking = ReusingEngine(warm.engine, "tiny", warm.store, keep=False)
    for _ in range(2):  # what it ran before is run again
        warm.engine.ran = 0
        looking.generate(requests_of(PROMPTS[:5]), PLAN, Decoding())
        assert warm.engine.ran == 2


def test_only_what_is_missing_is_run(warm):
    more = requests_of(PROMPTS[:5])
    rows = warm.generate(more[::-1], PLAN, Decoding())
    assert warm.engine.ran == 2
    assert [row.tokens for row in rows] == [
        row.tokens for row in warm.engine.generate(more[::-1], PLAN, Decoding()).generations
    ]


def scaled(ratio):
    return replace(PLAN, compensation="scale", tensors={"mhsa.1": torch.tensor(ratio)})


@pytest.mark.parametrize(
    "change",
    [
        {"requests": requests_of(PROMPTS[3:6])},
        {"requests": requests_of([prompt[:-1] for prompt in PROMPTS[:3]])},
        {"requests": requests_of(PROMPTS[:3], limit=9)},
        {"plan": StagePlan()},
        {"plan": StagePlan(SkipSet(ffn=(1,)))},
        {"plan": StagePlan(SkipSet(mhsa=(1, 2)))},
        {"plan": replace(PLAN, phase="decode")},
        {"plan": scaled(1.5)},
        {"decoding": Decoding(stop=("z",))},
        {"decoding": Decoding(temperature=1.0)},
        {"engine": {"fingerprint": "another"}},
        {"engine": {"model": random_model(staged_model().model.config).to(torch.bfloat16)}},
    ],
    ids=["prompt", "shorter", "limit", "full", "kind", "more", "phase", "scale", "stop", "sampling", "model", "dtype"],
)
def test_nothing_is_found_for_anything_else(warm, change):
    if "engine" in change:
        warm = counting(warm.store, **change["engine"])
    warm.generate(change.get("requests", REQUESTS), change.get("plan", PLAN), change.get("decoding", Decoding()))
    assert warm.engine.ran == len(REQUESTS)


def test_a_compensations_numbers_are_part_of_the_key(warm):
    warm.generate(REQUESTS, scaled(1.5), Decoding())
    warm.engine.ran = 0
    warm.generate(REQUESTS, scaled(1.25), Decoding())
    assert warm.engine.ran == len(REQUESTS)
    warm.generate(REQUESTS, scaled(1.5), Decoding())
    assert warm.engine.ran == len(REQUESTS)


@pytest.mark.parametrize("window", [1, 3, 5])
@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.35, 0.6, 1.0])
def test_in_float32_one_record_serves_every_exit_rule(warm, threshold, window):
    plan = replace(PLAN, exit=ExitRule(threshold=threshold, window=window))
    cut = warm.generate(REQUESTS, plan, Decoding())
    assert warm.engine.ran == 0
    ran = warm.engine.generate(REQUESTS, plan, Decoding()).generations
    assert [(row.tokens, row.text, row.stop) for row in cut] == [(row.tokens, row.text, row.stop) for row in ran]


def test_a_record_made_under_an_exit_rule_is_uncut():
    reusing = counting(ResultStore())
    always = ExitRule(threshold=1.0, window=2)
    assert {row.stop for row in reusing.generate(REQUESTS, replace(PLAN, exit=always), Decoding())} == {"exit"}
    assert {len(row.tokens) for row in reusing.generate(REQUESTS, PLAN, Decoding())} == {8}
    assert reusing.engine.ran == len(REQUESTS)


def test_in_bfloat16_the_exit_rule_and_the_batch_are_part_of_the_key():
    """Batch shape can change tokens there, so a record holds for its own batch only."""
    reusing = counting(ResultStore(), random_model(staged_model().model.config).to(torch.bfloat16))
    ask = [
        (REQUESTS, PLAN),
        (REQUESTS, replace(PLAN, exit=ExitRule(threshold=0.3))),
        (REQUESTS, replace(PLAN, exit=ExitRule(threshold=0.4))),
        (REQUESTS[:2], PLAN),
    ]
    for requests, plan in ask:
        before = reusing.engine.ran
        first = reusing.generate(requests, plan, Decoding())
        assert reusing.engine.ran == before + len(requests)
        assert reusing.generate(requests, plan, Decoding()) == first
        assert reusing.engine.ran == before + len(requests)


def test_sampled_rows_are_kept_by_seed_and_stream():
    reusing, hot = counting(ResultStore()), Decoding(temperature=1.0, seed=1)
    first = reusing.generate(REQUESTS, PLAN, hot)
    assert reusing.generate(REQUESTS, PLAN, hot) == first
    assert reusing.engine.ran == 3
    other_stream = [replace(request, stream=f"{request.stream}/2") for request in REQUESTS]
    assert [row.tokens for row in reusing.generate(other_stream, PLAN, hot)] != [row.tokens for row in first]
    assert [row.tokens for row in reusing.generate(REQUESTS, PLAN, replace(hot, seed=2))] != [
        row.tokens for row in first
    ]
    assert reusing.engine.ran == 9


# --- neighbours ---


def test_a_neighbours_text_is_a_draft_and_changes_nothing(warm):
    """What full depth wrote is verified under the plan: the same record as without it."""
    store = ResultStore()
    drafted = counting(store)
    full = drafted.generate(REQUESTS, StagePlan(), Decoding())
    seen = []
    generate = drafted.engine.generate
    drafted.engine.generate = lambda requests, *rest, **options: (
        seen.extend(requests) or generate(requests, *rest, **options)
    )
    verified = drafted.generate(REQUESTS, PLAN, Decoding(), [StagePlan(SkipSet(ffn=(0,))), StagePlan()])
    assert [request.draft for request in seen] == [row.tokens for row in full]
    plain = warm.generate(REQUESTS, PLAN, Decoding())
    assert [(row.tokens, row.text, row.stop) for row in verified] == [(row.tokens, row.text, row.stop) for row in plain]
    assert drafted.generate(REQUESTS, PLAN, Decoding()) == verified  # kept under the plan's own key
