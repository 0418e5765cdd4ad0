"""``litestage profile``."""

from __future__ import annotations

from collections.abc import Sequence

from litestage.atomic import write_json
from litestage.cli.output import command_line, output_folder, print_json, print_table, say_unused
from litestage.config import load_config, save_config


def run_profile(overrides: Sequence[str], as_json: bool) -> None:
    """Measures importance and step costs, prints them and writes profile.json."""
    config = load_config(overrides)
    say_unused("profile", overrides)
    from litestage.environment import peak_memory
    from litestage.plan import SkipSet
    from litestage.report import read_run
    from litestage.session.profiled import profile_of
    from litestage.session.workbench import Workbench
    from litestage.tracking import track

    bench = Workbench.open(config)
    folder = output_folder(config, "profile")
    importance = bench.session.importance(bench.calibration(), bench.pipeline)
    costs = bench.session.step_costs()
    stages = list(importance.cosine)
    ranking = importance.ranking()
    rows = [
        [f"{kind} {layer}", str(rank), *(f"{importance.cosine[stage][kind, layer]:.4f}" for stage in stages)]
        for rank, (kind, layer) in enumerate(ranking, start=1)
    ]
    print_table(
        ["sub-layer", "skipped as no.", *stages],
        rows,
        title=f"Cosine before and after, {importance.questions} calibration questions",
    )
    sublayers = bench.session.engine.decoder.layers
    timings = []
    for label, skip in (
        ("full depth", SkipSet()),
        ("without attention", SkipSet(mhsa=tuple(range(sublayers)))),
        ("without FFN", SkipSet(ffn=tuple(range(sublayers)))),
    ):
        prefill, decode = costs.pass_seconds(skip, prompt=64, context=96)
        timings.append([label, f"{prefill * 1000:.2f}", f"{decode * 1000:.2f}"])
    print_table(
        ["one row", "prefill of 64 tokens, ms", "decode step at 96, ms"], timings, title="Step costs on this machine"
    )
    print(f"Step costs are off by {costs.held_out_error:.1%} (median) on masks that were not in the fit.")
    content = {
        **profile_of(bench, importance),
        "step_costs": costs.to_dict(),
        "memory": peak_memory(),
        "command": command_line("profile", *overrides),
    }
    save_config(config, folder)
    write_json(folder / "profile.json", content)
    print(f"Written to {folder}/: profile.json")
    track(config.tracking, read_run(folder), "profile")
    print_json(as_json, content)
