"""Reruns one small comparison many times without a change, and counts how often the gate raises an alarm.

    python tests/gate_reruns.py runs/reruns 50

takes about ten minutes on two cores. Every rerun is a process of its own that keeps nothing from before, and is held
to the first run twice: as it is, and as if another version of torch had made that one, so that tokens are tested too.
Runs that are in the folder already count, so it can be stopped and started again.
"""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from litestage.gate import GateOptions, judge, read_record

COMPARISON = (
    *("methods=[full,full+exit,uniform:8,cosine:4]", "questions=30", "latency_questions=12", "search.calibration=8"),
    *("max_new_tokens.recall=8", "max_new_tokens.analyze=14", "max_new_tokens.summarize=8"),
)


def rerun(folder):
    """One comparison, unless it is there."""
    if not (folder / "traces.jsonl").is_file():
        command = [Path(sys.executable).parent / "litestage", "compare", *COMPARISON]
        subprocess.run(
            [*command, f"output={folder}", f"store={folder}/store.sqlite"], check=True, capture_output=True, timeout=600
        )
    return read_record(folder / "results.json")


def count(folder, runs):
    """Alarms of ``runs`` reruns, printed one by one."""
    first = rerun(folder / "0")
    environment = {**first.results["environment"], "torch": "another"}
    elsewhere = replace(first, results={**first.results, "environment": environment})
    alarms = 0
    for run in range(1, runs + 1):
        verdicts = [judge(before, rerun(folder / str(run)), GateOptions()) for before in (first, elsewhere)]
        alarms += not all(verdict.passed for verdict in verdicts)
        smallest = min(f.p_holm for verdict in verdicts for f in verdict.figures if f.p_holm is not None)
        speeds = {f.method: round(f.after, 2) for f in verdicts[0].figures if f.name == "speed-up"}
        print(
            json.dumps({"run": run, "alarms": alarms, "smallest_adjusted_p": smallest, "speedups": speeds}), flush=True
        )
    return alarms


if __name__ == "__main__":
    raise SystemExit(min(1, count(Path(sys.argv[1]), int(sys.argv[2]))))
