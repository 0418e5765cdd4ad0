"""Log-likelihoods equal those of the whole model read off its logits, whatever the batch, and follow the plan."""

import pytest
import torch
from tiny_model import save_tiny_model

from litestage.plan import SkipSet, StagePlan

PAIRS = [
    ([5, 6, 7], [8, 9]),
    ([5, 6, 7, 11, 12, 13, 14, 15], [20]),
    ([9], [30, 31, 32, 33, 34]),
    ([40] * 30, [41, 42, 43]),
]


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    from litestage.session import Session

    return Session.open(save_tiny_model(tmp_path_factory.mktemp("tiny")), device="cpu")


def of_the_whole_model(model, context: list[int], ending: list[int]) -> tuple[float, bool]:
    with torch.inference_mode():
        logits = model(torch.tensor([context + ending])).logits[0, len(context) - 1 : -1]
    target = torch.tensor(ending)
    return float(logits.log_softmax(-1)[range(len(ending)), target].sum()), bool((logits.argmax(-1) == target).all())


@pytest.mark.parametrize("phase", ["both", "decode"])
def test_full_depth_equals_the_model_in_a_ragged_batch(session, phase: str):
    scores = session.engine.loglikelihood(PAIRS, StagePlan(phase=phase))
    for (score, greedy), (context, ending) in zip(scores, PAIRS, strict=True):
        expected = of_the_whole_model(session.loaded.model, context, ending)
        assert score == pytest.approx(expected[0], abs=1e-4)
        assert greedy == expected[1]


def test_greedy_is_what_the_model_would_write(session):
    context = [5, 6, 7, 8]
    with torch.inference_mode():
        written = session.loaded.model.generate(
            torch.tensor([context]), attention_mask=torch.ones(1, 4), max_new_tokens=6, do_sample=False
        )
    ((_, greedy),) = session.engine.loglikelihood([(context, written[0, 4:].tolist())], StagePlan())
    assert greedy


def test_a_skip_set_acts_in_the_phases_it_names(session):
    skip = SkipSet(mhsa=(1,), ffn=(2,))
    full, both, decode = (
        [score for score, _ in session.engine.loglikelihood(PAIRS, plan)]
        for plan in (StagePlan(), StagePlan(skip=skip), StagePlan(skip=skip, phase="decode"))
    )
    assert all(one != pytest.approx(other, abs=1e-3) for one, other in zip(full, both, strict=True))
    assert decode[1] == pytest.approx(full[1], abs=1e-4)  # one token: predicted from the context alone, at full depth
    assert decode[0] != pytest.approx(full[0], abs=1e-3)
    assert decode[0] != pytest.approx(both[0], abs=1e-3)
