"""What is told of results: every figure is of the questions and plans that its words name."""

from types import SimpleNamespace

import pytest
import torch

from litestage.experiment.trials import Trials
from litestage.plan import Plan, SkipSet, StagePlan
from litestage.profile.costs import StandInCosts, StepCosts
from litestage.trace import StageTrace, Trace


def answered(question="q0", stop="eos", latency_s=None):
    """A question's trace of one stage."""
    whole = stop == "eos"
    stage = StageTrace("think", (9,), 0, (4 if whole else 0,), ("A",), (stop,))
    return Trace(question, "p", (stage,), "A" if whole else None, whole, latency_s)


def bench(**session):
    session = SimpleNamespace(batch_size=8, reusing=SimpleNamespace(store=None), **session)
    return SimpleNamespace(session=session, pipeline=SimpleNamespace(stage_names=["think"]))


def test_an_experiments_predicted_times_have_the_price_of_what_stands_in():
    def step_costs(forms=()):
        price = StandInCosts((0.5, 0.0), (0.5, 0.0))
        by_sublayer = (0, 0, 1, 0, 0, 1, 0)
        return StepCosts(2, by_sublayer, by_sublayer, 0.0, {form: price for form in forms if form != "none"})

    class Answered(Trials):
        def traces(self, plan, *_, **__):
            return [answered()]

    trials, cut = Answered(bench(step_costs=step_costs), ["a question"]), SkipSet(mhsa=(1,))
    bare = Plan({"think": StagePlan(skip=cut)})
    filled = Plan({"think": StagePlan(skip=cut, compensation="scale", tensors={"mhsa.1": torch.ones(4)})})
    assert trials.seconds(filled) == pytest.approx([trials.seconds(bare)[0] + 4 * 0.5])  # prefill and three steps
