"""Sub-layer dropout: while a model is tuned it goes without sub-layers, as a plan would have it later."""

import copy
from pathlib import Path

import pytest
import torch
from tiny import LAYERS, tiny_engine, tiny_model
from transformers import AutoTokenizer

from litestage.menagerie import load_split
from litestage.plan import SkipSet, StagePlan
from litestage.stages import load_pipeline
from litestage.stages.gold import write_staged
from litestage.training.batches import QuestionSteps
from litestage.training.config import load_config
from litestage.training.dropout import SublayerDropout
from litestage.training.examples import ExampleTokens, row_examples
from litestage.training.module import summed_loss
from litestage.training.run import train
from litestage.training.tree import collate, tree_of

PIPELINE = load_pipeline("recall_analyze_summarize")
REFERENCE = Path(__file__).parent.parent / "litestage" / "reference" / "full"


def dropped(keep: torch.Tensor) -> SkipSet:
    return SkipSet.of(("ffn" if index % 2 else "mhsa", index // 2) for index, kept in enumerate(keep) if not kept)


@pytest.mark.parametrize("family", ["llama", "gemma2", "granite"])
def test_the_loss_is_that_of_the_model_without_what_was_dropped(family: str):
    model, engine = copy.deepcopy(tiny_model(family)), tiny_engine(family)
    dropout = SublayerDropout(model, {"analyze": 1.0}, seed=3)
    prompt, written = [5, 9, 12, 7], [3, 8, 4]
    tree = tree_of([([*prompt, *written], [0.0] * len(prompt) + [1.0] * len(written))], "analyze")
    losses = set()
    for step in range(4):
        skip = dropped(dropout.drawn(["analyze"], step, 0)[:, 0])
        with torch.no_grad(), dropout.dropping(["analyze"], step, 0, torch.device("cpu")):
            loss = float(summed_loss(model, collate([tree])))
        (score, _), *_ = engine.loglikelihood([(prompt, written)], StagePlan(skip=skip))
        assert loss == pytest.approx(-score, abs=1e-4)
        losses.add(round(loss, 4))
    assert len(losses) > 1
    with torch.no_grad():
        whole = float(summed_loss(model, collate([tree])))
    assert whole == pytest.approx(-engine.loglikelihood([(prompt, written)], StagePlan())[0][0], abs=1e-4)


@pytest.mark.parametrize("count", [64, 65])
def test_every_sequence_of_a_large_batch_goes_without_its_own(count: int):
    model, engine = copy.deepcopy(tiny_model("llama")), tiny_engine("llama")
    dropout = SublayerDropout(model, {"analyze": 1.0}, seed=3)
    prompt, written = [5, 9, 12, 7], [3, 8, 4]
    trees = [tree_of([([*prompt, *written], [0.0] * len(prompt) + [1.0] * len(written))], "analyze")] * count
    with torch.no_grad(), dropout.dropping(["analyze"] * count, 0, 0, torch.device("cpu")):
        loss = float(summed_loss(model, collate(trees)))
    plans = [StagePlan(skip=dropped(keep)) for keep in dropout.drawn(["analyze"] * count, 0, 0).T]
    scores = [engine.loglikelihood([(prompt, written)], plan)[0][0] for plan in plans]
    assert loss == pytest.approx(-sum(scores), rel=1e-4)
    assert len({plan.skip for plan in plans}) > 1


def test_later_layers_are_dropped_more_often_and_each_stage_at_its_own_rate():
    dropout = SublayerDropout(copy.deepcopy(tiny_model("llama")), {"analyze": 0.5, "recall": 1.0}, seed=0)
    drawn = dropout.drawn(["analyze"] * 4000 + ["recall"] * 4000 + ["summarize"] * 10, step=1, part=0)
    gone = 1 - torch.stack([drawn[:, :4000].mean(1), drawn[:, 4000:8000].mean(1)])
    for index in range(2 * LAYERS):
        share = 2 ** (index // 2 / (LAYERS - 1)) - 1
        assert gone[:, index].tolist() == pytest.approx([0.5 * share, share], abs=0.03)
    assert drawn[:, 8000:].all()
    assert not torch.equal(drawn[0::2, :4000], drawn[1::2, :4000])  # attention and feed-forward are drawn apart
    again = SublayerDropout(copy.deepcopy(tiny_model("llama")), dropout.rates, seed=0)
    assert torch.equal(again.drawn(["analyze"], 7, 2), dropout.drawn(["analyze"], 7, 2))
    assert not torch.equal(dropout.drawn(["analyze"] * 9, 7, 2), dropout.drawn(["analyze"] * 9, 8, 2))


def test_each_stage_of_a_question_is_a_tree_of_its_own_and_nothing_is_lost():
    tokenizer = AutoTokenizer.from_pretrained(REFERENCE, trust_remote_code=False)
    row, encode = load_split("menagerie", "test")[0], ExampleTokens(tokenizer)
    trees = next(QuestionSteps([row], PIPELINE, encode, questions=1, apart=True).trees())
    assert [tree.stage for tree in trees] == list(PIPELINE.stage_names)
    expected = [
        sum(sum(weights) for _, weights in encode.of_stage(each)) for each in row_examples(row, PIPELINE).values()
    ]
    assert [sum(tree.weights) for tree in trees] == pytest.approx(expected)


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_an_adapter_is_tuned_with_dropout(tmp_path: Path, compiled: bool):
    write_staged(load_split("menagerie", "train")[:16], tmp_path / "rows.jsonl")
    options = [
        *(f"data.files=[{tmp_path / 'rows.jsonl'}]", f"model.pretrained={REFERENCE}", f"output={tmp_path / 'out'}"),
        *("lora={rank: 4}", "sublayer_dropout={analyze: 0.5, recall: 0.2}", "questions=4", "tokens=400", "steps=3"),
        *("threads=1", "accelerator=cpu", "precision=32-true", f"compile={compiled}"),
    ]
    # the reference model has more layers than may be compiled one by one: what is compiled for one is good for all
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        train(load_config("staged", options))
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


def test_every_seed_step_and_part_draws_its_own():
    of = [SublayerDropout(copy.deepcopy(tiny_model("llama")), {"a": 1.0}, seed) for seed in (0, 1, 2**32 - 1)]
    drawn = [each.drawn(["a"] * 20, step, part) for each in of for step in (0, 1, 2**16) for part in (0, 1)]
    assert len({tuple(keep.flatten().tolist()) for keep in drawn}) == len(drawn)
