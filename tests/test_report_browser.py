"""What a browser makes of hostile strings in a report: nothing."""

import http.server
import json
import re
import shutil
import subprocess
import threading

import pytest
from run_folders import (
    COSINE,
    FULL,
    OURS,
    PLOT,
    SEARCH,
    SLOW,
    compared,
    experimented,
    question,
    results,
    stage,
    traced,
)
from test_report import Elements, page

from litestage.report import read_run, write_report

OWN = "document.documentElement.dataset.owned=1"
PAYLOADS = (
    f"<script>{OWN}</script>",
    f"</title></style></pre></svg></textarea><script>{OWN}</script>",
    f'"><img src=x onerror="{OWN}">',
    f"'><svg onload='{OWN}'>",
    f'" autofocus tabindex=1 onfocus="{OWN}" x="',
    f"--></text><script>{OWN}</script><!--",
    f"]]><script>{OWN}</script>",
    "<img src=http://127.0.0.1:PORT/image><link rel=stylesheet href=http://127.0.0.1:PORT/style>",
    "<style>@import 'http://127.0.0.1:PORT/import';</style>",
    "{{ 7 * 7 }}{% raw %}$x$",
)


def hostile(folder, port):
    """A run whose every name and text is an attack."""
    attack = "".join(PAYLOADS).replace("PORT", str(port))
    trace = traced("A", attack)
    for at in trace["stages"]:
        at["stops"] = [attack]
    wrong = {**trace, "answer": attack, "correct": False}
    evil = [
        {**m, "name": f"{m['name']}{attack}", "stages": {attack: stage(9, 1, **{attack: 3}), f"b{attack}": stage(9)}}
        for m in (FULL, OURS, SLOW)
    ]
    lines = [
        {**question(0, attack, (attack, attack), full=trace, **{attack: wrong}), "id": attack, "why": attack},
    ]
    for line in lines:
        for answered in line["traces"].values():
            for number, at in enumerate(answered["stages"]):
                at["name"] = f"{number}{attack}"
    found = {**results(*evil), "task": attack, "command": attack, "environment": {"hardware": attack}}
    found |= {"model": {"name": attack}, "latency_measured": attack}
    cosine = {f"{name}{attack}": row for name, row in COSINE.items()}
    search = json.loads(json.dumps(SEARCH).replace('"think"', json.dumps(attack)))
    compared(
        folder,
        lines=lines,
        results=found,
        search=search,
        profile={
            "schema": "litestage.profile/1",
            "importance": {"cosine": cosine, "norm_ratio": cosine, "questions": 1},
        },
    )
    (folder / "plan.yaml").write_text(attack)
    (folder / "config.yaml").write_text(attack)
    rows = [{"stage": attack, attack: 1}]
    plot = PLOT.replace(
        "<rect", f"<script>{OWN}</script><image href='http://127.0.0.1:{port}/plot'/><rect onload='{OWN}'"
    )
    experimented(folder / "more", plot, shows=[attack, attack], experiment=attack, command=attack, rows=rows)
    write_report([read_run(folder), read_run(folder / "more")], folder / "out")
    return (folder / "out" / "report.html").read_text(encoding="utf-8")


@pytest.fixture
def asked_for():
    """A web server on this machine: its port, and every path that was asked of it."""
    paths = []

    class Listening(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            paths.append(self.path)
            self.send_response(404)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Listening)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port, paths
    server.shutdown()
    server.server_close()


def opened(html, tmp_path):
    """The page as Chromium has it once everything that could run has run."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium here: hostile strings were only checked against the page's source")
    file = tmp_path / "opened.html"
    file.write_text(html, encoding="utf-8")
    command = [
        browser,
        *[
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
        ],
        *["--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--virtual-time-budget=3000"],
        f"--user-data-dir={tmp_path / 'browser'}",
        "--dump-dom",
        file.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "</html>" in done.stdout, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_hostile_strings_do_nothing_in_a_browser(tmp_path, asked_for):
    port, paths = asked_for
    html = hostile(tmp_path / "run", port)
    policy = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
    assert len(policy.findall(html)) == 1
    unguarded = policy.sub("", html)  # escaping has to hold without the policy
    control = unguarded.replace("<main>", "<main>" + "".join(PAYLOADS[:4]) + PAYLOADS[7].replace("PORT", str(port)))
    assert 'data-owned="1"' in opened(control, tmp_path)
    assert "/image" in paths
    paths.clear()
    dom = opened(unguarded, tmp_path)
    assert "data-owned" not in dom.split(">", 2)[1]
    found = Elements(dom)
    assert not {"script", "link"} & {tag for tag, _ in found.elements}
    assert not [a for _, a in found.elements for name in a if name.startswith("on") or name == "autofocus"]
    assert "<script>" in "".join(found.words)  # it is there, as text
    assert "{{ 7 * 7 }}" in "".join(found.words)
    assert paths == []


@pytest.mark.slow
def test_the_policy_alone_stops_what_escaping_would_let_through(tmp_path, asked_for):
    port, paths = asked_for
    attack = "".join(PAYLOADS).replace("PORT", str(port))
    dom = opened(page(compared(tmp_path / "run")).replace("<main>", f"<main>{attack}"), tmp_path)
    assert "data-owned" not in dom.split(">", 2)[1]
    assert paths == []
