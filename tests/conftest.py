"""What every test gets: one thread (tiny models are faster so) and a cache folder of its own."""

import os
from pathlib import Path

import pytest


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
