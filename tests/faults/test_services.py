"""A hub that refuses or says nothing, a tracker that says nothing: a sentence or an offline run, and soon."""

import json
import os
import socket
import subprocess
import sys
import time

import pytest
from run_folders import compared
from test_loading import in_hub_cache
from tiny_model import save_tiny_model

from litestage.data import load_task
from litestage.decoder.load import load_model
from litestage.errors import LiteStageError


@pytest.fixture(params=["refuses", "says nothing"])
def server(request):
    """The address of a server that takes no connection, or takes it and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        if request.param == "says nothing":
            listening.listen(64)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def hub(server, monkeypatch, tmp_path):
    """The hub is that server, and is given a second."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", server)
    monkeypatch.setattr("datasets.config.HF_ENDPOINT", server)
    monkeypatch.setattr("litestage.hub.PATIENCE_S", 1.0)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    monkeypatch.delenv("LITESTAGE_DATA", raising=False)


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # what asks is left behind
@pytest.mark.parametrize(
    ("ask", "named"),
    [
        (lambda: load_model("some/body"), "'some/body'.* could it be fetched from the hub, which is out of reach"),
        (lambda: load_model("reference", adapter="some/adapter"), "'some/adapter'.* could it be fetched from the hub"),
        (lambda: load_task("obqa").questions("test"), "could not be fetched from the hub.*LITESTAGE_DATA"),
    ],
    ids=["model", "adapter", "data set"],
)
def test_a_hub_out_of_reach_is_one_sentence_within_seconds(hub, ask, named, capfd):
    began = time.monotonic()
    with pytest.raises(LiteStageError, match=named) as error:
        ask()
    assert time.monotonic() - began < 15  # its client would try for half a minute, or for ever
    assert "\n" not in str(error.value)
    assert "Retry" not in capfd.readouterr().err


@pytest.mark.slow
def test_a_model_that_was_fetched_before_loads_while_the_hub_says_nothing(server, tmp_path):
    from pathlib import Path

    commit = in_hub_cache(Path(save_tiny_model(tmp_path / "tiny")), tmp_path / "home", "somebody/tiny")
    program = "from litestage.cli import main; main()"
    options = ["plan", "show", "full", "model.pretrained=somebody/tiny", "--json"]
    shown = subprocess.run(
        [sys.executable, "-c", program, *options],
        env={**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": server, "HF_HUB_DISABLE_XET": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout.splitlines()[-1])
    assert commit


@pytest.mark.slow
def test_a_tracker_out_of_reach_leaves_an_offline_run(server, tmp_path, monkeypatch, capsys):
    from litestage.report import read_run
    from litestage.tracking import track

    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", server)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr("litestage.tracking.wandb_run.PATIENCE_S", 3)
    began = time.monotonic()
    track("wandb", read_run(compared(tmp_path)), "compare")
    told = capsys.readouterr()
    assert "could not be reached" in told.out + told.err
    assert "offline" in told.out
    assert time.monotonic() - began < 60
