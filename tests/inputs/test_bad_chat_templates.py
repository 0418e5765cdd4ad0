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


EVERY = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "role"),
    [
        (
            EVERY.replace("<{{", "{% if m.role != 'system' %}<{{").replace("{% endfor %}", "{% endif %}{% endfor %}"),
            "system",
        ),
        ("<user>{{ messages[-1].content }}", "system"),
        ("<system>{{ messages[0].content }}", "user"),
        ("Hello!", "user"),
    ],
)
def test_a_chat_template_that_leaves_a_turn_out_is_one_sentence(one_sentence, tokenizer, template, role):
    tokenizer.chat_template = template
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Be brief. Why?"}]
    one_sentence(lambda: chat_text(tokenizer, turns), "leaves out", f"turn of {role}", "Be brief.")


@pytest.mark.parametrize(
    ("template", "turns", "text"),
    [
        ("{% for m in messages %}{{ m.content | trim }}|{% endfor %}", [("user", " Why? \n")], "Why?|"),
        ("{{ messages[1].content }} {{ messages[0].content }}", [("system", "b"), ("user", "a b")], "a b b"),
        (
            "{% for m in messages %}{{ m.content.split('</think>')[-1] }}|{% endfor %}",
            [("user", "Why?"), ("assistant", "<think>Hm.</think>So.")],
            "Why?|So.|",
        ),
        (
            "{{ messages[0].content.replace('/no_think', '') }}|{{ messages[1].content }}",
            [("system", "Be brief. /no_think"), ("user", "")],
            "Be brief. |",
        ),
    ],
)
def test_one_that_trims_moves_or_obeys_a_turn_is_followed(tokenizer, template, turns, text):
    tokenizer.chat_template = template
    assert chat_text(tokenizer, [{"role": role, "content": content} for role, content in turns]) == text


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
