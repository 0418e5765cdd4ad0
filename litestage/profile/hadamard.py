"""Hadamard matrices: orthogonal, every entry of the same size, so that they spread a large channel over all."""

from __future__ import annotations

import torch
from torch import Tensor

from litestage.errors import LiteStageError


def hadamard(order: int) -> Tensor:
    """An orthonormal Hadamard matrix [order, order], float64: Kronecker products of Sylvester's and Paley's.

    Raises:
        LiteStageError: an order that these constructions do not reach.
    """
    signs = _signs(order)
    if signs is None:
        raise LiteStageError(
            f"No Hadamard matrix of order {order}, the model's width, can be made here; use a method that needs none, "
            "such as replaceme or ghosted."
        )
    return signs / order**0.5


def _signs(order: int) -> Tensor | None:
    if order == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    for factor in range(order, 1, -1):
        if order % factor == 0 and (last := _primitive(factor)) is not None:
            rest = _signs(order // factor)
            if rest is not None:
                return torch.kron(rest, last)
    return None


def _primitive(order: int) -> Tensor | None:
    """One that is not made of smaller ones: of order 2, p + 1 (Paley I) or 2 (p + 1) (Paley II), p prime."""
    pair = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    if order == 2:
        return pair
    if order % 4 == 0 and _is_prime(order - 1):
        bordered = _bordered(order - 1)  # antisymmetric where the prime is 3 modulo 4
        return bordered + torch.eye(order, dtype=torch.float64)
    half = order // 2
    if order % 4 == 0 and half % 4 == 2 and _is_prime(half - 1):
        other = torch.tensor([[1.0, -1.0], [-1.0, -1.0]], dtype=torch.float64)
        return torch.kron(_bordered(half - 1), pair) + torch.kron(torch.eye(half, dtype=torch.float64), other)
    return None


def _bordered(prime: int) -> Tensor:
    """[prime + 1, prime + 1]: which differences are squares (1) and which are not (-1), with a border; 0 in between."""
    squares = {value * value % prime for value in range(1, prime)}
    character = torch.tensor([0.0, *(1.0 if value in squares else -1.0 for value in range(1, prime))]).double()
    index = torch.arange(prime)
    made = torch.zeros(prime + 1, prime + 1, dtype=torch.float64)
    made[0, 1:] = 1.0
    made[1:, 0] = 1.0 if prime % 4 == 1 else -1.0
    made[1:, 1:] = character[(index[:, None] - index) % prime]
    return made


def _is_prime(number: int) -> bool:
    return number > 2 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))
