"""Run folders as commands leave them, written by hand: three methods, two stages, round figures."""

import json


def stage(tokens, skipped=0, milliseconds=10.0, **stops):
    return {
        "tokens": tokens,
        "skipped": {"mhsa": skipped, "ffn": skipped},
        "stops": stops or {"eos": 100},
        "prefill_s": milliseconds / 4000,
        "decode_s": milliseconds * 3 / 4000,
    }


def method(name, accuracy, speedup, interval, *, skipped=0, tokens=10, failed=0, **more):
    return {
        "name": name,
        "plan": "0123456789abcdef",
        "accuracy": accuracy,
        "accuracy_drop": 0.9 - accuracy,
        "accuracy_drop_ci95": [0.9 - accuracy - 0.05, 0.9 - accuracy + 0.05],
        "parse_failures": failed,
        "too_long": 0,
        "latency_s": {"mean": 0.1 / speedup, "median": 0.1 / speedup, "p95": 0.12 / speedup},
        "latency_n": 20,
        "speedup": speedup,
        "speedup_ci95": interval,
        "stages": {"think": stage(tokens, skipped), "answer": stage(4, skipped)},
        **more,
    }


def results(*methods):
    return {
        "schema": "litestage.results/1",
        "task": "mine_multistage",
        "split": "test",
        "n": 100,
        "pipeline": {"name": "two", "hash": "feed"},
        "model": {"name": "tiny", "fingerprint": "beef"},
        "environment": {"hardware": "a laptop", "torch": "2.13.0"},
        "latency_measured": "one question at a time",
        "methods": list(methods),
        "command": "litestage compare task=mine",
    }


FULL = method("full", 0.9, 1.0, [1.0, 1.0])
OURS = method("litestage", 0.88, 1.5, [1.4, 1.6], skipped=3)
SLOW = method("cosine", 0.4, 0.8, [0.7, 0.9], skipped=4, tokens=55, failed=40)


def traced(answer, text="it is so", confidences=(1.0, 0.5, 0.25)):
    row = {"texts": [text], "tokens": [3], "stops": ["eos"], "confidences": [list(confidences)]}
    return {
        "answer": answer,
        "correct": answer == "A",
        "plan": "0123456789abcdef",
        "stages": [{"name": name, "prompt_tokens": [9], **row} for name in ("think", "answer")],
    }


def question(number=0, text="Why?", options=("because", "no reason"), **traces):
    made = traces or {"full": traced("A"), "litestage": traced("B", "it is not"), "cosine": traced(None, "so so")}
    return {"id": f"q{number}", "text": text, "options": list(options), "answer": "A", "why": "first", "traces": made}


def candidate(think, answer, accuracy, questions=64, verdict=""):
    return {
        "budgets": {"think": think, "answer": answer},
        "accuracy": accuracy,
        "accuracy_drop": 0.9 - accuracy,
        "latency_s": 0.1 - 0.004 * (think + answer),
        "stage_latency_s": {"think": 0.06 - 0.004 * think, "answer": 0.04 - 0.004 * answer},
        "tokens": 14.0,
        "questions": questions,
        "exit": None,
        "verdict": verdict,
    }


SEARCH = {
    "schema": "litestage.search/1",
    "plan": "0123456789abcdef",
    "met": True,
    "command": "litestage search task=mine",
    "full": candidate(0, 0, 0.9),
    "chosen": candidate(4, 2, 0.89, verdict="chosen"),
    "frontier": [],
    "candidates": [candidate(4, 2, 0.89, verdict="chosen"), *(candidate(n, 0, 0.9 - n / 50, 16) for n in range(5))],
}
COSINE = {
    name: {f"{kind}.{i}": 0.9 + i / 50 for kind in ("mhsa", "ffn") for i in range(4)} for name in ("think", "answer")
}
PROFILE = {"schema": "litestage.profile/1", "importance": {"cosine": COSINE, "norm_ratio": COSINE, "questions": 8}}
EXPERIMENT = {
    "schema": "litestage.experiment/1",
    "experiment": "sensitivity",
    "command": "litestage experiment sensitivity",
    "task": "mine_multistage",
    "n": 100,
    "shows": ["Think loses first.", "Answer bears all."],
    "model": {"name": "tiny", "fingerprint": "beef"},
    "environment": {"hardware": "a laptop"},
    "rows": [
        {"stage": "think", "budget": 2, "accuracy_drop": 0.125, "accuracy_drop_ci95": [0.1, 0.15], "plan": "ab"},
    ],
}
PLOT = '<svg xmlns="http://www.w3.org/2000/svg" width="10" height="10"><rect width="9" height="9"/></svg>'


def compared(folder, *methods, lines=(), **more):
    """A folder as ``litestage compare`` leaves it."""
    folder.mkdir(exist_ok=True)
    contents = {"results": results(*(methods or (FULL, OURS, SLOW))), "search": SEARCH, "profile": PROFILE, **more}
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    (folder / "traces.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines or [question()]))
    (folder / "plan.yaml").write_text("schema: litestage.plan/1\n")
    (folder / "config.yaml").write_text("task: mine\n")
    return folder


def experimented(folder, plot=PLOT, **more):
    folder.mkdir(exist_ok=True)
    (folder / "results.json").write_text(json.dumps({**EXPERIMENT, **more}))
    (folder / "plot.svg").write_text(plot)
    return folder
