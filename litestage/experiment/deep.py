"""Long generation: how errors grow with the distance from the prompt where sub-layers are skipped, and what running all
of them again does about it: every so many tokens, where the model is unsure, or to verify every token.

A refresh runs prompt and text so far through all sub-layers, which mends keys and values, and takes the next token from
there. What was written before stays. All texts are held against those of full depth for the same prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import fmean
from typing import Any

from litestage.comparison.results import estimate
from litestage.config import RunConfig
from litestage.engine import Decoding, common_length
from litestage.errors import at_least, one_of
from litestage.experiment.findings import NO_CLOCK, Findings, Row
from litestage.experiment.options import sublayer_budgets
from litestage.experiment.panels import LINE, coloured, legend, name_axes, panels, with_intervals
from litestage.experiment.refresh import Tokens, Writer, Written, going_on
from litestage.experiment.texts import order_on
from litestage.experiment.trials import Trials
from litestage.experiment.wording import distinct, only, percent_of, where
from litestage.plan import ExitRule, SkipSet, StagePlan
from litestage.profile.forced import Sequenced, TeacherForced, about, stage_sequences
from litestage.progress import bar
from litestage.ranks import from_rank_zero
from litestage.report.wording import percent
from litestage.session import Session
from litestage.session.workbench import Workbench
from litestage.stages import Question
from litestage.stats.proportion import share_of_texts

STATIC, PROMPT, SPECULATED = "never", "for the prompt only", "self-speculation"


@dataclass
class Options(RunConfig):
    """Options of ``experiment deep``.

    Attributes:
        stage: whose texts are written; the one in which full depth writes most unless given. Its prompts are those of
            full depth; of its options each question has one.
        budgets: sub-layers skipped, in the stage's greedy order by whole outputs.
        tokens: most tokens of a text.
        past_the_end: whether texts go on past their end, for a model that writes short ones.
        every: refresh every so many tokens.
        below: refresh where a token's probability is no more than this.
        draft: tokens drafted at a time without the same sub-layers, and verified by all (self-speculation).
        bins: tokens of a bin of distance.
    """

    stage: str | None = None
    budgets: list[int] = field(default_factory=lambda: [4, 8])
    tokens: int = 256
    past_the_end: bool = False
    every: list[int] = field(default_factory=lambda: [4, 8, 16])
    below: list[float] = field(default_factory=lambda: [0.5, 0.9])
    draft: int = 4
    bins: int = 8


def run(bench: Workbench, config: Options) -> Findings:
    """Writes full depth's long texts on the test split, then those of every policy."""
    _check(bench, config)
    session = going_on(bench.session) if config.past_the_end else bench.session
    stage, prompts = _prompts(bench, config, bench.task.questions("test")[: config.questions])
    learned = _prompts(bench, config, bench.calibration())[1]
    stop = next(one.stop for one in bench.pipeline.stages if one.name == stage)
    writer = Writer(session, config.tokens, Decoding(stop=stop))
    full = [written.tokens for written in writer.write(prompts, StagePlan())]
    own = list(zip(learned, (text.tokens for text in writer.write(learned, StagePlan())), strict=True))
    order = order_on(replace(bench, session=session), about(own, 4000), "outputs", max(config.budgets))
    texts = list(zip(prompts, full, strict=True))
    rows: list[dict[str, Any]] = []
    forced: list[dict[str, Any]] = []
    policies, sublayers = _policies(config), 2 * session.engine.decoder.layers
    with bar("policies on long texts", len(config.budgets) * (len(policies) + 1)) as advance:
        for budget in config.budgets:
            plan = StagePlan(skip=SkipSet.of(order[:budget]))
            forced += from_rank_zero(partial(_by_distance, session, texts, plan, budget, config))
            for name, (every, below) in policies.items():
                written = writer.write(prompts, plan, every, below)
                tokens = sum(len(text.tokens) for text in written)
                share = sum(len(text.refreshes) for text in written) / tokens
                passes = 1 - (1 - share) * budget / sublayers
                rows.append({"budget": budget, "refreshed": name, **_compared(full, written, share, passes)})
                advance(1)
            written, guessed, accepted = from_rank_zero(partial(writer.speculate, prompts, plan.skip, config.draft))
            tokens = sum(len(text.tokens) for text in written)
            verified = 1 - accepted / tokens  # a pass through all sub-layers adds a token to those it accepts
            passes = verified + guessed / tokens * (1 - budget / sublayers)
            rows.append({"budget": budget, "refreshed": SPECULATED, **_compared(full, written, verified, passes)})
            advance(1)
    return Findings(
        questions=len(prompts),
        rows=rows,
        columns={
            "refreshed": "refreshed",
            "skipped": "budget",
            "same text, % [95 %]": lambda row: percent(row, "same_text"),
            "tokens until it\ndiffers, % [95 %]": lambda row: percent(row, "until_it_differs"),
            "full-depth\ntokens, %": lambda row: f"{row['full_depth_tokens'] * 100:.1f}",
            "sub-layer passes\nper token, %": lambda row: f"{row['passes_per_token'] * 100:.1f}",
        },
        shows=(_accumulates(forced, rows, config), _mends(rows)),
        figure=_figure(rows, forced, config),
        more={
            "stage": stage,
            "past_the_end": config.past_the_end,
            "tokens_of_full_depth": fmean(map(len, full)),
            "by_distance": forced,
        },
        latency=NO_CLOCK,
    )


def _check(bench: Workbench, config: Options) -> None:
    sublayer_budgets(bench, config.budgets)
    at_least(1, tokens=config.tokens, bins=config.bins, draft=config.draft)
    at_least(1, every=min(config.every, default=1))
    for below in config.below:
        ExitRule(threshold=below)
    if config.stage is not None:
        one_of("stage", config.stage, bench.pipeline.stage_names)


def _policies(config: Options) -> dict[str, tuple[int | None, float | None]]:
    """By name: every how many tokens all sub-layers run, and at or below which probability."""
    return {
        STATIC: (None, None),
        PROMPT: (config.tokens, None),
        **{f"every {every} tokens": (every, None) for every in config.every},
        **{f"where {below:g} or less": (None, below) for below in config.below},
    }


def _prompts(bench: Workbench, config: Options, questions: Sequence[Question]) -> tuple[str, list[Tokens]]:
    """The stage's name, and one of its prompts for every question, as full depth meets it."""
    trials = Trials(bench, questions)
    traces = trials.traces(trials.full, progress="full depth's answers")
    sequences = stage_sequences(bench.session.contestant(bench.pipeline, trials.full), questions, traces)
    stage = config.stage or max(sequences, key=lambda name: fmean(len(output) for _, output in sequences[name]))
    prompts, at = [], 0
    index = bench.pipeline.stage_names.index(stage)
    for number, trace in enumerate(traces):
        rows = len(trace.stages[index].texts)
        prompts.append(tuple(sequences[stage][at + number % rows][0]))
        at += rows
    return stage, prompts


def _by_distance(
    session: Session, texts: Sequence[Sequenced], plan: StagePlan, budget: int, config: Options
) -> list[dict[str, Any]]:
    """By distance from the prompt, how often the plan's next token is not full depth's after full depth's own text."""
    counted: dict[int, list[tuple[int, int]]] = {}
    size = session.batch_size
    for at in range(0, len(texts), size):
        part = texts[at : at + size]
        forced = TeacherForced(session.engine, part)
        stream = forced.after(plan.skip)[-1]
        chosen = forced.decoder.logits(forced.predicting(stream)).argmax(dim=-1).tolist()
        for _, output in part:
            wrong = [token != wanted for token, wanted in zip(chosen, output, strict=False)]
            chosen = chosen[len(output) :]
            for start in range(0, len(output), config.bins):
                binned = wrong[start : start + config.bins]
                counted.setdefault(start, []).append((sum(binned), len(binned)))
    rows = []
    for start, pairs in sorted(counted.items()):
        found = {"budget": budget, "from": start, "to": start + config.bins, "texts": len(pairs)}
        rows.append({**found, **estimate("differs", *share_of_texts(*zip(*pairs, strict=True)))})
    return rows


def _compared(full: Sequence[Tokens], written: Sequence[Written], share: float, passes: float) -> dict[str, Any]:
    """A policy's texts beside full depth's.

    Args:
        share: tokens at which all sub-layers ran.
        passes: sub-layers that a token waits for, one after another, as a share of full depth's.
    """
    same = [common_length(wanted, text.tokens) for wanted, text in zip(full, written, strict=True)]
    identical = [wanted == text.tokens for wanted, text in zip(full, written, strict=True)]
    return {
        **estimate("same_text", *share_of_texts(identical, [1] * len(full))),
        **estimate("until_it_differs", *share_of_texts(same, [len(wanted) for wanted in full])),
        "full_depth_tokens": share,
        "passes_per_token": passes,
        "still_same": [
            fmean(count > at for count, wanted in zip(same, full, strict=True) if len(wanted) > at)
            for at in range(max(map(len, full)))
        ],
    }


def _accumulates(forced: Sequence[Row], rows: Sequence[Row], config: Options) -> str:
    parts = []
    for budget in config.budgets:
        of = where(forced, budget=budget)
        first, last = of[0], of[-1]
        never = only(rows, budget=budget, refreshed=STATIC)
        grows = last["differs_ci95"][0] > first["differs_ci95"][1]
        falls = last["differs_ci95"][1] < first["differs_ci95"][0]
        how = "more" if grows else "less" if falls else "no measurably other share"
        parts.append(
            f"with {budget} skipped {percent_of(first, 'differs')} of the next tokens differ over the first "
            f"{config.bins} and {percent_of(last, 'differs')} from the {last['from'] + 1}th on, {how}, and left to "
            f"itself a text is the same for {percent_of(never, 'until_it_differs')} of full depth's tokens"
        )
    return f"After full depth's own text, {'; '.join(parts)}."


def _mends(rows: Sequence[Row]) -> str:
    """What refreshing does at each budget, and whether asking the model when beats a fixed period."""
    parts = []
    for budget in distinct(rows, "budget"):
        never, *refreshed, speculated = where(rows, budget=budget)
        if not refreshed:
            continue
        best = max(refreshed, key=lambda row: (row["until_it_differs"], -row["full_depth_tokens"]))
        asked = [row for row in refreshed if row["refreshed"].startswith("where ")]
        fixed = [row for row in refreshed if row["refreshed"].startswith("every ")]
        beaten = [
            (one, other)
            for one in asked
            for other in fixed
            if one["full_depth_tokens"] <= other["full_depth_tokens"]
            and one["until_it_differs_ci95"][0] > other["until_it_differs_ci95"][1]
        ]
        trigger = "no trigger measurably beats a period that runs as many tokens at full depth"
        if beaten:
            one, other = max(beaten, key=lambda pair: pair[0]["until_it_differs"])
            trigger = (
                f"refreshing {one['refreshed']} ({one['full_depth_tokens']:.0%} of tokens) beats {other['refreshed']} "
                f"({other['full_depth_tokens']:.0%})"
            )
        parts.append(
            f"with {budget} skipped {percent_of(never, 'same_text')} of the texts are full depth's if never refreshed, "
            f"at most {percent_of(best, 'same_text')} if refreshed {best['refreshed']}, which runs "
            f"{best['full_depth_tokens']:.0%} of the tokens at full depth; {trigger}; self-speculation "
            f"leaves {percent_of(speculated, 'same_text')} as they are and has a token wait for "
            f"{speculated['passes_per_token']:.0%} of full depth's sub-layers, {never['passes_per_token']:.0%} if "
            f"nothing is ever verified"
        )
    said = f"{'; '.join(parts)}."
    return said[:1].upper() + said[1:]


def _figure(rows: Sequence[Row], forced: Sequence[Row], config: Options) -> Any:
    figure, axes = panels(1 + len(config.budgets), width=3.9, share_y=False)
    for budget, colour in coloured(config.budgets):
        chosen = where(forced, budget=budget)
        style = {"color": colour, "label": f"{budget} skipped", **LINE}
        middles = [row["from"] + config.bins / 2 for row in chosen]
        with_intervals(axes[0], middles, chosen, "differs", scale=100, **style)
    name_axes(axes[0], title="after full depth's own text", x="distance from the prompt, tokens")
    name_axes(axes[0], y="next tokens that differ, %")
    legend(axes[0])
    for axis, budget in zip(axes[1:], config.budgets, strict=True):
        for row, colour in coloured(where(rows, budget=budget)):
            still = [share * 100 for share in row["still_same"]]
            axis.step(
                range(1, len(still) + 1), still, where="post", color=colour, label=row["refreshed"], linewidth=1.2
            )
        axis.set_ylim(-3, 103)
        name_axes(axis, title=f"left to itself, {budget} skipped", x="distance from the prompt, tokens")
    name_axes(axes[1], y="texts the same so far, %")
    legend(axes[-1], title="refreshed", title_fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
