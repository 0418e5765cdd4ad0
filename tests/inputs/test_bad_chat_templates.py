"""A chat template comes with a model, and is somebody's text: broken, hostile, or against the turns it is given."""

import json

import pytest
from tiny_model import save_tiny_model

from litestage.decoder.chat import chat_text

SYSTEM = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
BAD = {
    "cut short": "{% for m in messages",
    "no name of ours": "{{ x.y }}",
    "knows no system's turn": (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
        "{{ m.content }}{% endfor %}"
    ),
    "reaches for Python": "{{ messages.__class__.__mro__[1].__subclasses__() }}",
    "goes on and on": "{% for i in range(100000000) %}x{% endfor %}",
    "divides by nothing": "{{ 1 / 0 }}",
    "is a number": 5,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def tokenizer(folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


@pytest.mark.parametrize("template", BAD.values(), ids=BAD)
def test_a_chat_template_that_does_not_take_the_turns_is_one_sentence(one_sentence, tokenizer, template):
    tokenizer.chat_template = template
    one_sentence(lambda: chat_text(tokenizer, SYSTEM, add_generation_prompt=True), "chat template", "system, user")


def test_one_that_takes_them_is_followed_to_the_letter(tokenizer):
    tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    assert chat_text(tokenizer, SYSTEM) == "<system>Be brief.<user>Why?"


def test_the_commands_say_so_too(litestage, folder, tmp_path):
    from pathlib import Path
    from shutil import copytree

    settings = Path(copytree(folder, tmp_path / "model")) / "tokenizer_config.json"
    template = {"chat_template": "{{ raise_exception('roles must alternate') }}"}
    settings.write_text(json.dumps({**json.loads(settings.read_text()), **template}))
    options = ("model.pretrained=model", "model.chat_template=true", "methods=[full]", "questions=1", "output=out")
    code, _, err = litestage("compare", *options)
    assert code == 2
    assert "Traceback" not in err
    assert "roles must alternate" in err.strip().splitlines()[-1]
