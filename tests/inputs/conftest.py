"""What the tests of bad input share: the command line in this process, and what a good refusal looks like."""

import os

import pytest
from hypothesis import HealthCheck, settings

from litestage.errors import LiteStageError

# By itself every property takes a few seconds; `make fuzz` sets LITESTAGE_FUZZ_EXAMPLES and gives them an hour.
settings.register_profile(
    "inputs",
    max_examples=int(os.environ.get("LITESTAGE_FUZZ_EXAMPLES", "80")),
    deadline=None,
    derandomize="LITESTAGE_FUZZ_EXAMPLES" not in os.environ,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("inputs")

NOT_TEXT = {
    "UTF-16": "{text}".encode("utf-16"),
    "Latin-1": "caf\xe9".encode("latin-1"),
    "binary": bytes(range(128, 256)),
}
"""Contents that are no UTF-8, whatever a file should hold."""


@pytest.fixture
def refused(litestage):
    """Runs a command that must end with exit code 2 and one line that names these values; nothing else is printed."""

    def run(*arguments, names=()):
        code, out, err = litestage(*arguments)
        assert code == 2, (arguments, out, err)
        assert out == ""
        assert_one_sentence(err.removesuffix("\n"), *names)

    return run


def assert_one_sentence(message, *names):
    assert "Traceback" not in message
    assert len(message.split("\n")) == 1, message
    assert len(message) < 1500, message
    for name in names:
        assert str(name) in message, message


@pytest.fixture
def one_sentence():
    """Calls something that must raise a LiteStageError of one line that names these values."""

    def run(act, *names):
        with pytest.raises(LiteStageError) as raised:
            act()
        assert_one_sentence(str(raised.value), *names)

    return run


@pytest.fixture
def not_text():
    return NOT_TEXT
