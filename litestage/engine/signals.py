"""What an exit rule may ask about a step besides its confidence, by name, from the step's logits.

``entropy``
    of the next token's distribution, in nats
``margin``
    the likeliest token's probability less the second's
``top20`` (or any number)
    the mean negative log-probability of the 20 likeliest tokens
"""

from __future__ import annotations

from torch import Tensor


def measure(name: str, logits: Tensor) -> Tensor:
    """The signal [rows] of logits [rows, vocabulary]. Raises ValueError for a name that is none."""
    chances = logits.float().log_softmax(dim=-1)
    if name == "entropy":
        return -(chances.exp() * chances).sum(dim=-1)
    if name == "margin":
        first, second = chances.topk(2, dim=-1).values.exp().unbind(dim=-1)
        return first - second
    kind, count = name[:3], name[3:]
    if kind != "top" or not count.isdecimal():
        raise ValueError(f"there is no signal {name!r}")
    return -chances.topk(min(int(count), chances.shape[-1]), dim=-1).values.mean(dim=-1)
