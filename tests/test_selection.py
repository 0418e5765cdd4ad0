"""Selection never sees the test split: whatever its rows say, the same plan is chosen."""

import json

import pytest
import yaml

from litestage.config import load_config
from litestage.data import load_task
from litestage.profile import StepCosts
from litestage.session import Session
from litestage.session.workbench import Workbench
from litestage.stages import Question

STRATEGIES = {
    "greedy": ["search.strategy=greedy"],
    "pareto": ["search.strategy=pareto", "search.ranking=global", "search.finalists=0"],
}


def poisoned(question: Question) -> dict[str, object]:
    """Another question with other options and the wrong answer."""
    letters = [letter for letter in question.labels if letter != question.answer]
    options = [option[::-1] for option in question.options]
    return {"id": question.id, "question": question.text[::-1], "options": options, "answer": letters[0]}


def honest(question: Question) -> dict[str, object]:
    return {
        "id": question.id,
        "question": question.text,
        "options": list(question.options),
        "answer": question.answer,
    }


def wrong(question: Question) -> dict[str, object]:
    return {**honest(question), "answer": poisoned(question)["answer"]}


def task(folder, calibration, test):
    """The menagerie's first rows as a task of one's own, each split written as told."""
    folder.mkdir()
    source = load_task("menagerie")
    for split, write in (("calibration", calibration), ("test", test)):
        rows = [json.dumps(write(question)) for question in source.questions(split)[:8]]
        (folder / f"{split}.jsonl").write_text("\n".join(rows) + "\n")
    content = {
        "name": "mine",
        "pipeline": source.pipeline,
        "max_new_tokens": dict(source.max_new_tokens),
        "rows": {"calibration": "calibration.jsonl", "test": "test.jsonl"},
    }
    (folder / "task.yaml").write_text(yaml.safe_dump(content))
    return folder / "task.yaml"


COSTS = StepCosts(12, (1e-3, 0, 2e-4, 0, 0, 3e-4, 0), (1e-3, 0, 2e-4, 0, 0, 3e-4, 0), 0.0)
"""Written down, so that the choice does not hang on this machine's clock."""


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_plan_does_not_depend_on_the_test_rows(tmp_path, monkeypatch, strategy):
    monkeypatch.setattr(Session, "step_costs", lambda self, *forms: COSTS)

    def plan_of(name, calibration, test):
        path = task(tmp_path / name, calibration, test)
        # enough sub-layers for cosine to lose the answers, so that the bound decides
        options = ["search.calibration=8", "search.confirm=0", "search.max_accuracy_drop=0.3", "search.max_budget=6"]
        options += [f"store={tmp_path}/store.sqlite"]
        return Workbench.open(load_config([f"task={path}", *STRATEGIES[strategy], *options])).search().plan

    plan = plan_of("honest", honest, honest)  # its texts serve the others, where they ask the same
    assert plan_of("poisoned", honest, poisoned).hash == plan.hash
    assert plan_of("control", wrong, honest).hash != plan.hash  # answers that are looked at do matter
