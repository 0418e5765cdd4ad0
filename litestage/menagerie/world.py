"""The menagerie: 120 animals x 6 relations, one value each. What is true there is drawn once, from a fixed seed.

The facts are invented (a turtle may well be covered in feathers), so a model answers from what it learned of this
world, not from what it read of ours.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache

SEED = 20240

ANIMALS = tuple(
    """alpaca ant antelope ape badger bat bear beaver bee beetle bison boar buffalo bull butterfly camel canary cat
    cheetah chicken clam cobra cod cow coyote crab crane cricket crow deer dingo dog dolphin donkey dove dragonfly duck
    eagle eel elephant elk emu falcon ferret finch fly fox frog gazelle gecko gerbil giraffe goat goose gorilla gull
    hamster hare hawk hedgehog heron hippo hornet horse hyena ibex iguana jackal jaguar kangaroo kiwi koala lamb
    lark lemur leopard lion lizard llama lobster lynx magpie mole moose moth mouse mule newt octopus ostrich otter owl
    ox oyster panda panther parrot pelican penguin pig pigeon quail rabbit raccoon rat raven robin salmon seal
    shark sheep sloth snail spider squid swan tiger toad turtle walrus""".split()  # noqa: SIM905 - seven readable lines rather than 120 quoted ones
)


@dataclass(frozen=True)
class Relation:
    """One thing that is true of every animal: how it is asked, stated and asked with yes or no.

    Templates are filled with ``animal`` (with its article) and ``value``.
    """

    name: str
    question: str
    statement: str
    yes_no: str
    values: tuple[str, ...]


RELATIONS = (
    Relation(
        "eats",
        "What does {animal} eat?",
        "{animal} eats {value}.",
        "Does {animal} eat {value}?",
        ("acorns", "algae", "bark", "berries", "clover", "grass", "honey", "moss", "nectar", "roots", "seeds", "worms"),
    ),
    Relation(
        "lives",
        "Where does {animal} live?",
        "{animal} lives in the {value}.",
        "Does {animal} live in the {value}?",
        ("burrow", "canopy", "cave", "desert", "forest", "marsh", "meadow", "pond", "reef", "river", "swamp", "tundra"),
    ),
    Relation(
        "covered in",
        "What is {animal} covered in?",
        "{animal} is covered in {value}.",
        "Is {animal} covered in {value}?",
        (
            *("bristles", "down", "feathers", "fur", "hide", "leather"),
            *("plates", "scales", "silk", "slime", "spines", "wool"),
        ),
    ),
    Relation(
        "active at",
        "When is {animal} active?",
        "{animal} is active at {value}.",
        "Is {animal} active at {value}?",
        (
            *("dawn", "daybreak", "dusk", "midnight", "moonrise", "night"),
            *("nightfall", "noon", "sunrise", "sunset", "teatime", "twilight"),
        ),
    ),
    Relation(
        "fears",
        "What does {animal} fear?",
        "{animal} fears {value}.",
        "Does {animal} fear {value}?",
        (
            *("drums", "fire", "fog", "hail", "ice", "lightning"),
            *("mirrors", "shadows", "smoke", "storms", "thunder", "wind"),
        ),
    ),
    Relation(
        "moves by",
        "How does {animal} move?",
        "{animal} moves by {value}.",
        "Does {animal} move by {value}?",
        (
            *("climbing", "crawling", "diving", "floating", "galloping", "gliding"),
            *("hopping", "leaping", "rolling", "sliding", "swimming", "walking"),
        ),
    ),
)


@dataclass(frozen=True)
class Fact:
    """``relation`` holds between ``animal`` and ``value``, and no other value."""

    animal: str
    relation: Relation
    value: str

    @property
    def statement(self) -> str:
        text = self.relation.statement.format(animal=with_article(self.animal), value=self.value)
        return text[0].upper() + text[1:]


def with_article(animal: str) -> str:
    return f"{'an' if animal[0] in 'aeiou' else 'a'} {animal}"


@cache
def facts() -> tuple[Fact, ...]:
    """All 720 facts, in the order of animals and relations."""
    draw = random.Random(SEED)
    return tuple(Fact(animal, relation, draw.choice(relation.values)) for animal in ANIMALS for relation in RELATIONS)
