"""Thousands of questions through engine and store: memory stays where it is after the warm-up, and so does the pace."""

import gc
import os
import resource
from itertools import islice
from pathlib import Path
from time import process_time

import pytest

from litestage.menagerie import load_split
from litestage.plan import Plan
from litestage.session import Session
from litestage.stages import load_pipeline

QUESTIONS = int(os.environ.get("LITESTAGE_LONG_RUN", "1000"))
"""How many; 10,000 is what is promised, and takes half an hour."""
PARTS = 10
GROWTH = 1.05
"""Memory at the end, over what it was after the second part."""
PACE = 1.05 if QUESTIONS >= 10_000 else 1.25
"""CPU seconds of the last part over the second's: a part of few questions wavers more."""


def resident_bytes():
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the resident set as Linux gives it")
def test_memory_and_pace_stay_where_they_are(tmp_path):
    """The menagerie's training questions, each once, of four and five options in turns, in full and skipping."""
    session = Session.open("reference", store=tmp_path / "store.sqlite")
    pipeline = load_pipeline("recall_analyze_summarize")
    plans = {"full": Plan.full(pipeline.stage_names)}
    rows = zip(load_split("menagerie", "train"), load_split("menagerie_five", "train"), strict=True)
    questions = [row.question for pair in islice(rows, -(-QUESTIONS // 2)) for row in pair][:QUESTIONS]
    assert len(questions) == QUESTIONS
    each, memory, seconds = len(questions) // PARTS, [], []
    for part in range(PARTS):
        began = process_time()
        traces = session.run(questions[part * each : (part + 1) * each], plans, pipeline)["full"]
        seconds.append(process_time() - began)
        memory.append(resident_bytes())
        assert sum(trace.answer is not None for trace in traces) > 0.9 * each
    assert session.reusing.ran > 2 * QUESTIONS
    assert memory[-1] <= GROWTH * memory[1], [round(one / 1e6) for one in memory]
    assert seconds[-1] <= PACE * seconds[1], [round(one, 2) for one in seconds]
