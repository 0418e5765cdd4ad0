"""Methods by shorthand: what each skips at a budget, against numbers worked out by hand or by hooks."""

from types import SimpleNamespace

import pytest
import torch
from tiny import LAYERS, PIPELINE, contestant, encode, some_questions, staged_model

from litestage.engine import Engine
from litestage.errors import LiteStageError
from litestage.methods.shorthand import Shorthand, parse_shorthand, plan_from_shorthand
from litestage.methods.uniform import layers_to_skip
from litestage.plan import ExitRule, Plan, SkipSet, StagePlan
from litestage.profile import Importance, measure_importance
from litestage.runner import run
from litestage.session import Session
from litestage.store import ResultStore, ReusingEngine

STAGES = PIPELINE.stage_names
QUESTIONS = some_questions(4)


def never():
    raise AssertionError("importance was measured although the method does not read it")


def plan_of(spec, importance=None, layers=LAYERS, **options):
    measurements = SimpleNamespace(importance=(lambda: importance) if importance else never)
    return plan_from_shorthand(
        parse_shorthand(spec), stages=STAGES, layers=layers, measurements=measurements, **options
    )


# --- shorthand ---


def test_shorthands_read_as_they_are_written():
    assert parse_shorthand("full") == Shorthand("full")
    assert parse_shorthand("full+exit") == Shorthand("full")
    assert parse_shorthand("uniform:8") == Shorthand("uniform", 8)
    assert parse_shorthand("random:8:3+exit") == Shorthand("random", 8, 3)
    assert parse_shorthand("random:8") == Shorthand("random", 8, 0)
    assert parse_shorthand("adaskip:6+lookup+exit") == Shorthand("adaskip", 6, 0)
    assert parse_shorthand("cosine:0").budget == 0


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ("unifrom:8", ["'unifrom'", "did you mean 'uniform'"]),
        ("", ["''"]),
        ("uniform", ["'uniform'", "uniform:8"]),
        ("uniform:", ["'uniform:'", "whole numbers"]),
        ("uniform:many", ["'uniform:many'", "whole numbers"]),
        ("uniform:2.5", ["'uniform:2.5'"]),
        ("uniform:8:1", ["'uniform:8:1'"]),
        ("random:8:1:2", ["'random:8:1:2'", "random:8:1"]),
        ("cosine:-3", ["-3", "negative"]),
        ("full:3", ["'full:3'", "write full"]),
        ("cosine:8+exlt", ["'+exlt'", "'+exit'"]),
        ("plan.yml2", ["'plan.yml2'"]),
    ],
)
def test_a_shorthand_that_cannot_be_read_is_named_in_one_sentence(spec, named):
    with pytest.raises(LiteStageError) as error:
        parse_shorthand(spec)
    assert len(str(error.value).splitlines()) == 1
    for value in named:
        assert value in str(error.value), str(error.value)


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ("random:9", ["9", "0 to 8"]),
        ("cosine:99", ["99", "0 to 8"]),
        ("uniform:3", ["3", "even"]),
        ("uniform:6", ["2 of 4 layers", "4 sub-layers", "3 layers"]),
    ],
)
def test_a_budget_the_model_cannot_meet_is_named(spec, named):
    with pytest.raises(LiteStageError) as error:
        plan_of(spec)
    for value in named:
        assert value in str(error.value), str(error.value)


# --- the plans ---


def test_full_skips_nothing():
    assert plan_of("full").hash == Plan.full(STAGES).hash


@pytest.mark.parametrize(
    ("layers", "count", "expected"),
    [  # round(1 + j (L - 3) / (N - 1)), worked out by hand
        (22, 4, (1, 7, 14, 20)),
        (22, 6, (1, 5, 9, 12, 16, 20)),
        (22, 8, (1, 4, 6, 9, 12, 15, 17, 20)),
        (24, 4, (1, 8, 15, 22)),
        (24, 5, (1, 6, 12, 17, 22)),
        (24, 8, (1, 4, 7, 10, 13, 16, 19, 22)),
        (24, 2, (1, 22)),
        (24, 1, (11,)),
        (4, 2, (1, 2)),
        (24, 0, ()),
    ],
)
def test_uniform_layers(layers, count, expected):
    assert layers_to_skip(layers, count) == expected


@pytest.mark.parametrize("layers", range(3, 40))
def test_uniform_skips_exactly_as_many_inner_layers_as_asked(layers):
    for count in range(layers - 1):
        chosen = layers_to_skip(layers, count)
        assert len(set(chosen)) == count
        assert not {0, layers - 1} & set(chosen)


def test_uniform_skips_both_sublayers_of_a_layer():
    plan = plan_of("uniform:8", layers=22)
    assert all(stage == StagePlan(SkipSet((1, 7, 14, 20), (1, 7, 14, 20))) for stage in plan.stages.values())
    assert tuple(plan.stages) == STAGES


def test_random_draws_anew_in_each_stage_and_alike_for_a_seed():
    first = plan_of("random:4:1")
    assert all(len(stage.skip) == 4 for stage in first.stages.values())
    assert len({stage.skip for stage in first.stages.values()}) > 1
    assert plan_of("random:4:1").hash == first.hash
    assert plan_of("random:4:2").hash != first.hash


def test_a_budget_of_nothing_measures_nothing():
    for spec in ("cosine:0", "adaskip:0", "random:0", "uniform:0"):
        assert plan_of(spec).hash == plan_of("full").hash


# --- importance, against hooks on the Hugging Face model ---


def streams_by_hooks(model, ids):
    """The residual stream before and after every sub-layer of one prompt, each [tokens, width]."""
    seen, handles = {}, []
    before_ffn = "pre_feedforward_layernorm" if model.config.model_type == "gemma2" else "post_attention_layernorm"
    for index, layer in enumerate(model.model.layers):

        def keep(module, args, index=index):
            seen[index, "before"] = args[0][0]

        def keep_between(module, args, index=index):
            seen[index, "between"] = args[0][0]

        def keep_after(module, args, output, index=index):
            seen[index, "after"] = (output[0] if isinstance(output, tuple) else output)[0]

        handles += [
            layer.register_forward_pre_hook(keep),
            getattr(layer, before_ffn).register_forward_pre_hook(keep_between),
            layer.register_forward_hook(keep_after),
        ]
    with torch.inference_mode():
        model(torch.tensor([ids]), use_cache=False)
    for handle in handles:
        handle.remove()
    pairs = {}
    for index in range(len(model.model.layers)):
        pairs["mhsa", index] = seen[index, "before"], seen[index, "between"]
        pairs["ffn", index] = seen[index, "between"], seen[index, "after"]
    return pairs


def importance_by_hooks(model, prompts):
    """Mean over prompts of (mean over tokens of cos(x, y)) and of |y| / |x|."""
    cosines, ratios = {}, {}
    for prompt in prompts:
        for name, (x, y) in streams_by_hooks(model, prompt).items():
            per_token = (x * y).sum(-1) / (x.norm(dim=-1) * y.norm(dim=-1))
            cosines.setdefault(name, []).append(float(per_token.mean()))
            ratios.setdefault(name, []).append(float(y.pow(2).sum().sqrt() / x.pow(2).sum().sqrt()))
    return tuple({name: sum(row) / len(row) for name, row in table.items()} for table in (cosines, ratios))


def prompts_of(questions, traces):
    """By stage: the token ids of every prompt, rendered again from the texts in the traces."""
    prompts = {name: [] for name in STAGES}
    for question, trace in zip(questions, traces, strict=True):
        outputs = {}
        for stage, traced in zip(PIPELINE.stages, trace.stages, strict=True):
            prompts[stage.name] += [encode(prompt) for prompt in stage.prompts(question, outputs)]
            outputs[stage.name] = list(traced.texts) if stage.per_option else traced.texts[0]
    return prompts


@pytest.fixture(scope="module", params=["llama", "gemma2"])
def measured(request):
    """Importance as it is measured, in ragged batches, and as hooks give it, prompt by prompt."""
    answering = contestant(family=request.param)  # Gemma-2: post-norms, so the update is not what the attention gives
    traces = answering.answer(QUESTIONS)
    importance = measure_importance(answering, QUESTIONS, traces, batch_size=3)
    model = staged_model(request.param).model
    return importance, {
        stage: importance_by_hooks(model, rows) for stage, rows in prompts_of(QUESTIONS, traces).items()
    }


def test_cosines_and_norm_ratios_are_what_hooks_give(measured):
    importance, by_hooks = measured
    assert importance.questions == len(QUESTIONS)
    for stage in STAGES:
        cosines, ratios = by_hooks[stage]
        assert importance.cosine[stage] == pytest.approx(cosines, abs=1e-5)
        assert importance.norm_ratio[stage] == pytest.approx(ratios, rel=1e-4)


def test_the_ranking_is_by_the_mean_over_stages_and_per_stage(measured):
    importance, by_hooks = measured
    names = [(kind, layer) for layer in range(LAYERS) for kind in ("mhsa", "ffn")]

    def order(score):
        return sorted(names, key=score, reverse=True)

    assert importance.ranking() == order(lambda name: sum(by_hooks[stage][0][name] for stage in STAGES))
    for stage in STAGES:
        assert importance.ranking(stage) == order(lambda name, stage=stage: by_hooks[stage][0][name])


def test_cosine_skips_the_sublayers_that_change_the_stream_least(measured):
    importance, by_hooks = measured
    highest = importance.ranking()[:3]
    plan = plan_of("cosine:3", importance)
    assert all(stage == StagePlan(SkipSet.of(highest)) for stage in plan.stages.values())
    lowest_kept = min(sum(by_hooks[stage][0][name] for stage in STAGES) for name in highest)
    rest = set(by_hooks["recall"][0]) - set(highest)
    assert all(sum(by_hooks[stage][0][name] for stage in STAGES) <= lowest_kept for name in rest)


def test_adaskip_scales_by_the_norm_ratio_it_measured(measured):
    importance, by_hooks = measured
    plan = plan_of("adaskip:3", importance)
    for stage in plan.stages.values():
        assert stage.skip == plan_of("cosine:3", importance)["recall"].skip
        assert stage.compensation == "scale"
        for kind, layer in importance.ranking()[:3]:
            expected = sum(by_hooks[name][1][kind, layer] for name in STAGES) / len(STAGES)
            assert float(stage.tensors[f"{kind}.{layer}"]) == pytest.approx(expected, rel=1e-4)


def test_importance_survives_being_kept(measured):
    importance, _ = measured
    assert Importance.from_dict(importance.to_dict()) == importance


# --- resolved for a task, once ---


@pytest.fixture
def session(tmp_path):
    loaded = staged_model()
    engine = Engine(loaded.model, loaded.tokenizer)
    store = ResultStore(tmp_path / "results.sqlite")
    return Session(loaded, engine, ReusingEngine(engine, loaded.fingerprint, store), calibration_questions=3)


def task(asked):
    """A task that remembers which split was read."""
    return SimpleNamespace(name="tiny", questions=lambda split: asked.append(split) or QUESTIONS)


def test_only_the_calibration_split_is_read_and_only_by_methods_that_measure(session):
    asked = []
    for spec in ("full", "uniform:2", "random:2:1"):
        session.plan(spec, task(asked), PIPELINE)
    assert asked == []
    plan = session.plan("adaskip:2+exit", task(asked), PIPELINE)
    assert asked == ["calibration"]
    assert plan["analyze"].exit == ExitRule()
    assert plan.model["fingerprint"] == session.loaded.fingerprint
    assert plan.pipeline == {"name": "tiny", "hash": PIPELINE.hash}


def test_exit_goes_into_every_stage(session):
    full, cut = (session.plan(spec, None, PIPELINE) for spec in ("full", "full+exit"))
    assert {stage.exit for stage in cut.stages.values()} == {ExitRule("confidence", 0.5, 5)}
    rule = ExitRule(threshold=0.3, window=9)
    assert {stage.exit for stage in session.plan("uniform:4+exit", None, PIPELINE, rule).stages.values()} == {rule}
    assert cut.hash == Plan.full(PIPELINE.stage_names, ExitRule()).hash
    assert cut.hash != full.hash


def test_importance_is_measured_once_and_kept(session, monkeypatch):
    first = session.plan("cosine:3", task([]), PIPELINE)
    monkeypatch.setattr("litestage.session.session.measure_importance", lambda *_, **__: never())
    monkeypatch.setattr("litestage.session.session.run", lambda *_, **__: never())
    assert session.plan("cosine:3", task([]), PIPELINE).hash == first.hash
    assert session.plan("adaskip:5", task([]), PIPELINE)["recall"].skip.mhsa is not None
    with pytest.raises(AssertionError, match="was measured"):  # other questions are another measurement
        session.importance(QUESTIONS[:2], PIPELINE)


def test_a_ranking_without_a_task_is_refused(session):
    for spec in ("cosine:2", "adaskip:2"):
        with pytest.raises(LiteStageError, match=rf"'{spec}'.*uniform:K"):
            session.plan(spec, None, None)
    plan = session.plan("uniform:2", None, None)
    assert tuple(plan.stages) == ("default",)


def test_a_plan_runs_as_it_says(session):
    """From shorthand to traces: what the plan skips is skipped, under its own hash."""
    plan = session.plan("uniform:4", None, PIPELINE)
    traces = run(QUESTIONS, {"uniform": session.contestant(PIPELINE, plan)})["uniform"]
    assert {trace.plan for trace in traces} == {plan.hash}
    full = run(QUESTIONS, {"full": session.contestant(PIPELINE, session.plan("full", None, PIPELINE))})["full"]
    assert all(one.stages != two.stages for one, two in zip(traces, full, strict=True))
