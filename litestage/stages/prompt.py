"""A prompt: one text for a model that continues texts, and the same as the turns of a chat for one with a template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Turn(NamedTuple):
    """What one side says: ``role`` is ``user`` or ``assistant``."""

    role: str
    content: str


class Prompt(str):
    """A stage's prompt. Equal to, hashed and used like its plain text.

    Attributes:
        turns: the chat so far; the last turn is the user's.
        reply: how the assistant's answer begins; the model goes on from there.
    """

    turns: tuple[Turn, ...]
    reply: str

    def __new__(cls, text: str, turns: Sequence[Turn] = (), reply: str = "") -> Prompt:
        prompt = super().__new__(cls, text)
        prompt.turns, prompt.reply = tuple(turns) or (Turn("user", text),), reply
        return prompt

    @classmethod
    def of_turns(cls, turns: Sequence[Turn], reply: str) -> Prompt:
        """A chat. As plain text, every turn is headed by who speaks."""
        text = "\n\n".join(f"{turn.role.capitalize()}: {turn.content}" for turn in turns) + "\n\nAssistant:"
        return cls(f"{text} {reply}" if reply else text, turns, reply)

    def __add__(self, text: str) -> Prompt:
        """The prompt with ``text`` as what the model has written so far."""
        return Prompt(str(self) + text, self.turns, self.reply + text if self.reply else text.lstrip())
