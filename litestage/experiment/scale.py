"""What a search costs, and what it finds, against depth and number of stages.

*Cost*: models of the same width in several depths with random weights, and chains of one to five stages on random
weights of the model's own depth, searched from nothing. Random weights are never scored. The cost's exponent is the
slope of a straight line through the logarithms. *Quality*: trained models and pipelines, searched on the calibration
split and tried on the test split. *Projection*: what that makes of a model nobody ran here, and labelled so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from math import log
from typing import Any

from scipy.stats import linregress
from scipy.stats import t as student

from litestage.comparison.results import estimate
from litestage.config import ModelConfig, RunConfig, SearchConfig, variant
from litestage.errors import LiteStageError, at_least
from litestage.experiment.findings import Findings, Row
from litestage.experiment.options import some
from litestage.experiment.panels import coloured, legend, name_axes, panels, with_intervals
from litestage.experiment.random_weights import chain, random_session
from litestage.experiment.resumed import Resumed
from litestage.experiment.search_cost import Costed, search_from_nothing
from litestage.experiment.trials import Trials
from litestage.experiment.wording import COLUMNS, INTERVAL, drop_of, only, where
from litestage.progress import bar, each
from litestage.session.workbench import Workbench

SIZES = {"depth": "layers", "stages": "stages_of_pipeline"}
"""By what is varied, the figure of a row that it is the number in."""
COSTS = {"sublayer_tokens": "sub-layer passes of a token", "decode_steps": "decode steps", "seconds": "seconds"}


@dataclass
class Options(RunConfig):
    """Options of ``experiment scale``. ``variants`` are the searches whose cost is measured.

    Attributes:
        searches: which of them.
        depths: layers of the models with random weights.
        stages: lengths of the chains.
        stage_tokens: most tokens of a stage of a chain.
        cost_questions: how many calibration questions these searches have.
        models: trained models beside the command's own, by name or folder, for the plans' quality.
        pipelines: pipelines beside the task's own, for the same.
        projected_layers, projected_weights: of the model that is projected; weights without embeddings.
    """

    searches: list[str] = field(default_factory=lambda: ["greedy, no reuse", "greedy"])
    depths: list[int] = field(default_factory=lambda: [3, 6, 12, 24])
    stages: list[int] = field(default_factory=lambda: [1, 2, 3, 4, 5])
    stage_tokens: int = 16
    cost_questions: int = 4
    models: list[str] = field(default_factory=list)
    pipelines: list[str] = field(default_factory=list)
    projected_layers: int = 28
    projected_weights: float = 6.53e9


def run(bench: Workbench, config: Options) -> Findings:
    """Costs first, on random weights; then quality, on trained ones."""
    some(config.variants, searches=config.searches)
    for option, sizes in (("depths", config.depths), ("stages", config.stages)):
        if len(set(sizes)) < 3:
            raise LiteStageError(f"{option} is {sizes}; give three or more, or an exponent has no interval.")
    some(depths=config.depths, stages=config.stages)
    at_least(1, depths=min(config.depths), stages=min(config.stages), stage_tokens=config.stage_tokens)
    at_least(1, cost_questions=config.cost_questions, projected_layers=config.projected_layers)
    ours = {name: value for name, value in asdict(config).items() if name not in ("store", "output", "tracking")}
    kept = Resumed(bench, "scale", ours, [asdict(question) for question in bench.task.questions("calibration")])
    rows = _costs(bench, config, kept)
    exponents = _exponents(rows, config)
    rows += _qualities(bench, config, kept)
    kept.close()
    projections = _projections(bench, config, rows, exponents)
    trained = where(rows, of="quality")
    return Findings(
        questions=len(bench.task.questions("test")[: config.questions]),
        rows=rows,
        columns={
            **{"model, pipeline": "model", "layers": "layers", "stages": "stages_of_pipeline", "search": "search"},
            "s": lambda row: f"{row['seconds']:.1f}",
            "M sub-layer\npasses": lambda row: f"{row['sublayer_tokens'] / 1e6:.2f}",
            "decode\nsteps": lambda row: f"{row['decode_steps']:,}",
            "plans": "candidates",
            "drop, points [95 %]": lambda row: _scored(row, "drop, points [95 %]"),
            "predicted\nspeed-up [95 %]": lambda row: _scored(row, "speed-up [95 %]"),
        },
        shows=(_grows(exponents), _finds(trained, projections)),
        figure=_figure(rows, config.searches),
        more={"exponents": exponents, "projections": projections},
        latency="seconds of searches by the clock; latencies of plans predicted: token counts times step costs",
    )


def _costs(bench: Workbench, config: Options, kept: Resumed) -> list[dict[str, Any]]:
    """Searches on random weights: every depth through the task's pipeline, every chain at the model's own depth."""
    rows: list[dict[str, Any]] = []
    own = bench.session.engine.decoder.layers
    with bar("searches on random weights", len(config.searches) * (len(config.depths) + len(config.stages))) as advance:

        def measure(of: str, size: str, sized: Workbench) -> None:
            for name in config.searches:
                rows.append(kept.once(f"{size}, {name}", partial(_cost, of, sized, name, config)))
                advance(1)

        for layers in config.depths:
            measure("depth", f"{layers} layers", replace(bench, session=random_session(bench, layers)))
        shallow = random_session(bench, own)
        for count in config.stages:
            chained = replace(bench, session=shallow, pipeline=chain(count, config.stage_tokens))
            measure("stages", f"{count} stages", chained)
    return rows


def _cost(of: str, bench: Workbench, name: str, config: Options) -> dict[str, Any]:
    """One search's cost; on random weights nothing else of it is kept."""
    options = replace(variant(config, name), calibration=config.cost_questions, confirm=0, finalists=0)
    asked = replace(bench, config=replace(bench.config, search=options))
    return {
        "of": of,
        "model": f"random weights, {bench.pipeline.name}",
        "stages_of_pipeline": len(bench.pipeline.stages),
        **_counted(bench, name, search_from_nothing(asked, options)),
    }


def _counted(bench: Workbench, name: str, costed: Costed) -> dict[str, Any]:
    layers = bench.session.engine.decoder.layers
    return {
        "layers": layers,
        "search": name,
        "seconds": costed.seconds,
        "sublayer_tokens": costed.tokens * 2 * layers,
        "decode_steps": costed.steps,
        "candidates": len(costed.found.candidates),
    }


def _qualities(bench: Workbench, config: Options, kept: Resumed) -> list[dict[str, Any]]:
    """The configured search on trained models and through real pipelines, from nothing, and its plan on the test split.

    The first is the command's own model and pipeline.
    """
    benches = [bench]
    for name in config.models:
        benches.append(Workbench.open(replace(config, model=ModelConfig(name=name, pretrained=name))))
    for pipeline in config.pipelines:
        through = bench.task.through(pipeline, config.analyze, config.model.chat_template)
        benches.append(replace(bench, pipeline=through))
    return [
        kept.once(f"{of.config.model.name}, {of.pipeline.name}", partial(_quality, of, config.search))
        for of in each("searches on trained weights", benches)
    ]


def _quality(bench: Workbench, options: SearchConfig) -> dict[str, Any]:
    costed, trials = search_from_nothing(bench, options), Trials.on_test(bench)
    return {
        "of": "quality",
        "model": f"{bench.config.model.name}, {bench.pipeline.name}",
        "stages_of_pipeline": len(bench.pipeline.stages),
        **_counted(bench, options.strategy, costed),
        "full_accuracy": trials.answers(trials.full)["accuracy"],
        **trials.row(costed.found.plan),
    }


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """How a cost grows with a size: the slope through the logarithms, and its 95 % interval by Student's t."""
    fit = linregress([log(size) for size in sizes], [log(max(cost, 1e-9)) for cost in costs])
    margin = float(student.ppf(0.975, len(sizes) - 2)) * float(fit.stderr)
    return float(fit.slope), (float(fit.slope) - margin, float(fit.slope) + margin)


def _exponents(rows: Sequence[Row], config: Options) -> list[dict[str, Any]]:
    found = []
    for of, size in SIZES.items():
        for search in config.searches:
            chosen = where(rows, of=of, search=search)
            for cost in COSTS:
                fitted = exponent([row[size] for row in chosen], [row[cost] for row in chosen])
                found.append({"over": of, "search": search, "cost": cost, **estimate("exponent", *fitted)})
    return found


def _projections(
    bench: Workbench, config: Options, rows: Sequence[Row], exponents: Sequence[Row]
) -> list[dict[str, Any]]:
    """Seconds of each search on a larger model, from its cost nearest the own depth, the exponent of its sub-layer
    passes, and a sub-layer's time in proportion to its weights, as where reading them is what takes the time.
    """
    model, own = bench.session.loaded.model, bench.session.engine.decoder.layers
    weights = model.num_parameters() - model.get_input_embeddings().weight.numel()
    heavier = (config.projected_weights / config.projected_layers) / (weights / own)
    found = []
    for search in config.searches:
        measured = where(rows, of="depth", search=search)
        nearest = min(measured, key=lambda row: abs(log(row["layers"] / own)))
        growth = only(exponents, over="depth", search=search, cost="sublayer_tokens")
        deeper = config.projected_layers / nearest["layers"]

        def seconds(power: float, nearest: Row = nearest, deeper: float = deeper) -> float:
            return float(nearest["seconds"] * deeper**power * heavier)

        found.append(
            {
                "search": search,
                "layers": config.projected_layers,
                "weights": config.projected_weights,
                "questions": config.cost_questions,
                **estimate("seconds", seconds(growth["exponent"]), sorted(map(seconds, growth["exponent_ci95"]))),
            }
        )
    return found


def _scored(row: Row, column: str) -> str:
    return COLUMNS[column](row) if row["of"] == "quality" else "not scored"


def _grows(exponents: Sequence[Row]) -> str:
    """The exponents of sub-layer passes, which no other program on the machine can change."""
    parts = []
    for over, size in (("depth", "layers"), ("stages", "number of stages")):
        of = where(exponents, over=over, cost="sublayer_tokens")
        said = ", ".join(
            "{exponent:.2f} with {search} ({exponent_ci95[0]:.2f} to {exponent_ci95[1]:.2f})".format_map(row)
            for row in of
        )
        parts.append(f"with the {size} to the power of {said}")
    return (
        f"On random weights, which are not scored, the sub-layer passes of a search grow {' and '.join(parts)}; "
        f"in brackets {INTERVAL}s."
    )


def _finds(trained: Sequence[Row], projections: Sequence[Row]) -> str:
    parts = [
        f"{row['model']} ({row['layers']} layers, {row['stages_of_pipeline']} stages, {row['full_accuracy']:.0%} right "
        f"at full depth) loses {drop_of(row)} at {row['predicted_speedup']:.2f} times the predicted speed"
        for row in trained
    ]
    projected = [
        f"{row['seconds'] / 3600:.1f} hours with {row['search']} ({row['seconds_ci95'][0] / 3600:.1f} to "
        f"{row['seconds_ci95'][1] / 3600:.1f} by the exponent alone)"
        for row in projections
    ]
    first = projections[0]
    return (
        f"Searched on trained weights, {'; '.join(parts)}. Projected, not measured: a model of {first['layers']} "
        f"layers and {first['weights'] / 1e9:.2f} billion weights would take {' and '.join(projected)} for "
        f"{first['questions']} questions on this machine."
    )


def _figure(rows: Sequence[Row], searches: Sequence[str]) -> Any:
    figure, (depth, stages, quality) = panels(3, width=3.8, share_y=False)
    for axis, (of, size) in zip((depth, stages), SIZES.items(), strict=True):
        for search, colour in coloured(searches):
            chosen = sorted(where(rows, of=of, search=search), key=lambda row: float(row[size]))
            x, y = [row[size] for row in chosen], [row["sublayer_tokens"] / 1e6 for row in chosen]
            axis.plot(x, y, "o-", color=colour, markersize=4, linewidth=1.2, label=search)
        axis.set_xscale("log")
        axis.set_yscale("log")
        ticks = sorted({row[size] for row in where(rows, of=of)})
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.minorticks_off()
        name_axes(axis, title="random weights", x={"depth": "layers", "stages": "stages of a chain"}[of])
    name_axes(depth, y="sub-layer passes of a token, millions")
    legend(depth)
    for row, colour in coloured(where(rows, of="quality")):
        label = f"{row['model']}, {row['layers']} layers"
        style = {"fmt": "o", "color": colour, "label": label}
        with_intervals(quality, [row["predicted_speedup"]], [row], "accuracy_drop", scale=100, **style)
    name_axes(quality, title="trained weights", x="predicted speed-up", y="accuracy lost, points")
    legend(quality)
    return figure
