"""What is wrong with a model is said at every front door, and code that comes with one is run at none."""

import ast
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from test_loading import edit, without
from tiny_model import save_tiny_model

from litestage.decoder import load_model

ROOT = Path(__file__).parent.parent


@pytest.fixture
def folder(tmp_path) -> Path:
    return Path(save_tiny_model(tmp_path / "model"))


FRONT_DOORS = {
    "litestage": lambda folder, tmp: [
        *("-c", "from litestage.cli import main; main()", "compare", f"model.pretrained={folder}"),
        *(f"store={tmp}/store.sqlite", f"output={tmp}/out"),
    ],
    "lm_eval": lambda folder, tmp: [
        *("-m", "lm_eval", "--model", "litestage", "--model_args", f"pretrained={folder},store={tmp}/store.sqlite"),
        *("--tasks", "menagerie_multistage", "--limit", "1"),
    ],
    "training": lambda folder, tmp: [
        *("-m", "litestage.training", "staged", f"model.pretrained={folder}", "data.files=[]"),
        *("data.menagerie=[menagerie]", f"output={tmp}/tuned", "steps=1"),
    ],
    "training evaluation": lambda folder, tmp: ["-m", "litestage.training.evaluate", str(folder), "limit=1"],
}


def last_words(ran: subprocess.CompletedProcess) -> str:
    assert ran.returncode == 2, (ran.stdout, ran.stderr)
    assert "Traceback" not in ran.stderr
    return ran.stderr.strip().splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("door", FRONT_DOORS)
def test_every_front_door_says_so_and_exits_with_2(door, folder, tmp_path):
    without("lm_head.weight")(folder)
    command = [sys.executable, *FRONT_DOORS[door](folder, tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=900, check=False)
    assert "lacks lm_head.weight" in last_words(ran)


# --- no code ---

EVIL = "open({0!r}, 'w').write('ran')\nclass C: pass\n"


def with_code(folder: Path, of: str, ran: Path) -> None:
    """Code of the folder's own, for the model or the tokenizer, that would leave a file behind."""
    (folder / "evil.py").write_text(EVIL.format(str(ran)))
    if of == "model":
        classes = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.C"}
        edit(folder / "config.json", model_type="evil", auto_map=classes)
    else:
        classes = {"AutoTokenizer": ["evil.C", "evil.C"]}
        edit(folder / "tokenizer_config.json", tokenizer_class="Evil", auto_map=classes)


@pytest.mark.slow
@pytest.mark.parametrize("of", ["model", "tokenizer"])
@pytest.mark.parametrize("door", FRONT_DOORS)
def test_a_models_own_code_is_never_asked_about_and_never_run(door, of, folder, tmp_path):
    with_code(folder, of, tmp_path / "ran")
    ours, terminal = pty.openpty()
    os.write(ours, b"y\n" * 9)  # a terminal at which somebody says yes to everything
    ran = subprocess.run(
        [sys.executable, *FRONT_DOORS[door](folder, tmp_path)],
        stdin=terminal,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=900,
        check=False,
    )
    os.close(ours)
    os.close(terminal)
    assert "needs code of its own" in last_words(ran)
    assert "[y/N]" not in ran.stdout + ran.stderr
    assert not (tmp_path / "ran").exists()


def test_code_beside_a_family_that_transformers_knows_is_not_run(folder, tmp_path):
    (folder / "evil.py").write_text(EVIL.format(str(tmp_path / "ran")))
    edit(folder / "config.json", auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.C"})
    assert load_model(str(folder)).model.config.model_type == "llama"
    assert not (tmp_path / "ran").exists()


def test_every_from_pretrained_of_transformers_says_that_it_trusts_no_code():
    careless = [
        f"{path.name}:{node.lineno}"
        for room in ("litestage", "tests")
        for path in (ROOT / room).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).startswith("Auto")
        and ast.unparse(node.func).endswith(".from_pretrained")
        and not any(keyword.arg == "trust_remote_code" for keyword in node.keywords)
    ]
    assert careless == []
