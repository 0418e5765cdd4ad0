"""What every test gets: one thread (tiny models are faster so), a cache folder of its own, step costs measured once."""

import os
import sys
from pathlib import Path

import pytest

from litestage.cli import main


def pytest_collection_modifyitems(items):
    """Files with slow tests first: processes that share the files out then end together."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """No test reads or writes the user's result store. What pip has downloaded may stay where it is."""
    with pytest.MonkeyPatch.context() as patch:
        home = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
        patch.setenv("PIP_CACHE_DIR", os.environ.get("PIP_CACHE_DIR", f"{home}/pip"))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def step_costs_once():
    """A model's step costs take seconds to measure, more on a busy machine, and no test looks at their values."""
    from litestage.session import session

    measure, kept = session.measure_step_costs, {}

    def once(engine):
        kind = engine.name, engine.decoder.layers, engine.decoder.config.vocab_size
        return kept[kind] if kind in kept else kept.setdefault(kind, measure(engine))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "measure_step_costs", once)
        yield


@pytest.fixture
def litestage(monkeypatch, capsys, tmp_path):
    """Runs a command in this process, in a folder of its own: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["litestage", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        out, err = capsys.readouterr()
        return code, out, err

    return run
