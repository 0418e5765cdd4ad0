"""Thousands of questions through engine and store: memory stays where it is after the warm-up, and so does the pace."""

import ctypes
import gc
import json
import os
import platform
import resource
import subprocess
import sys
from itertools import islice
from pathlib import Path
from time import process_time

import pytest

QUESTIONS = int(os.environ.get("LITESTAGE_LONG_RUN", "1000"))
"""How many; 10,000 is what is promised, and takes half an hour."""
PARTS = 10
GROWTH = 1.05
"""Memory at the end, over what it was after the second part."""
PACE = 1.05 if QUESTIONS >= 10_000 else 1.25
"""CPU seconds of the last part over the second's: a part of few questions wavers more."""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="reads the resident set as Linux and glibc give it")
def test_memory_and_pace_stay_where_they_are(tmp_path):
    """The menagerie's training questions, each once, of four and five options in turns, in a process of their
    own: what other tests left in this one would be measured too."""
    run = subprocess.run(
        [sys.executable, __file__, str(tmp_path / "store.sqlite")], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    parts = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(parts) == PARTS
    assert all(part["answered"] > 0.9 * part["questions"] for part in parts)
    assert sum(part["questions"] for part in parts) == QUESTIONS
    assert parts[-1]["ran"] > 2 * QUESTIONS
    memory = [part["resident_bytes"] for part in parts]
    assert memory[-1] <= GROWTH * memory[1], [round(one / 1e6) for one in memory]
    seconds = [part["cpu_s"] for part in parts]
    assert seconds[-1] <= PACE * seconds[1], [round(one, 2) for one in seconds]


def main(store):
    from litestage.menagerie import load_split
    from litestage.plan import Plan
    from litestage.session import Session
    from litestage.stages import load_pipeline

    session = Session.open("reference", store=store)
    pipeline = load_pipeline("recall_analyze_summarize")
    plans = {"full": Plan.full(pipeline.stage_names)}
    rows = zip(load_split("menagerie", "train"), load_split("menagerie_five", "train"), strict=True)
    questions = [row.question for pair in islice(rows, -(-QUESTIONS // 2)) for row in pair][:QUESTIONS]
    each = len(questions) // PARTS
    for part in range(PARTS):
        began = process_time()
        traces = session.run(questions[part * each : (part + 1) * each], plans, pipeline)["full"]
        seconds = process_time() - began
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what the allocator has free and could give back is nobody's
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
        answered = sum(trace.answer is not None for trace in traces)
        figures = {"questions": each, "answered": answered, "cpu_s": seconds, "resident_bytes": resident}
        print(json.dumps(figures | {"ran": session.reusing.ran}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
