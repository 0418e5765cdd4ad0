"""A question's training examples as one tree of tokens, so that what they have in common is computed once.

Every stage's prompt begins with the question, and the options' prompts differ in their last words only: as separate
sequences a question of four options takes about 700 tokens, as a tree about 250. Each token sees its ancestors alone
and stands at its depth, so every example is trained exactly as the engine will ask it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch


class TokenTree(NamedTuple):
    """Token ids in an order where parents come first; ``parents`` is -1 at a root; ``weights`` of each in the loss.

    ``stage`` names the only stage whose examples it holds, where that matters.
    """

    ids: list[int]
    parents: list[int]
    weights: list[float]
    stage: str = ""

    @property
    def depths(self) -> list[int]:
        depths: list[int] = []
        for parent in self.parents:
            depths.append(0 if parent < 0 else depths[parent] + 1)
        return depths


class TreeBatch(NamedTuple):
    """Trees padded on the right, and the tokens to be predicted.

    Attributes:
        input_ids: ``[trees, tokens]``.
        positions: each token's depth, ``[trees, tokens]``.
        sees: whether a token (third dimension) sees another (fourth), ``[trees, 1, tokens, tokens]``; None where every
            tree is a chain, which causal attention serves.
        rows, columns: where the hidden states stand that predict a target, ``[targets]``.
        targets: token ids, ``[targets]``.
        weights: of each target in the loss, ``[targets]``, float32.
        stages: each tree's.
    """

    input_ids: torch.Tensor
    positions: torch.Tensor
    sees: torch.Tensor | None
    rows: torch.Tensor
    columns: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    stages: tuple[str, ...] = ()

    def to(self, device: torch.device) -> TreeBatch:
        return TreeBatch(*(each.to(device) if isinstance(each, torch.Tensor) else each for each in self))  # type: ignore[arg-type]


def tree_of(sequences: Iterable[tuple[Sequence[int], Sequence[float]]], stage: str = "") -> TokenTree:
    """Merges common beginnings of (token ids, loss weights); a token that several share keeps its largest weight."""
    tree = TokenTree([], [], [], stage)
    children: dict[tuple[int, int], int] = {}
    for ids, weights in sequences:
        node = -1
        for token, weight in zip(ids, weights, strict=True):
            child = children.setdefault((node, token), len(tree.ids))
            if child == len(tree.ids):
                tree.ids.append(token)
                tree.parents.append(node)
                tree.weights.append(weight)
            tree.weights[child] = max(tree.weights[child], weight)
            node = child
    return tree


def collate(trees: Sequence[TokenTree]) -> TreeBatch:
    """Pads the trees to the longest. Any id would do as padding: nothing sees it and it has no target."""
    length = max(len(tree.ids) for tree in trees)
    input_ids = np.zeros((len(trees), length), dtype=np.int64)
    positions = np.zeros_like(input_ids)
    sees = np.zeros((len(trees), length, length), dtype=bool)
    sees[:, range(length), range(length)] = True
    targets: list[tuple[int, int, int, float]] = []
    chains = True
    for row, (tree, mask) in enumerate(zip(trees, sees, strict=True)):
        input_ids[row, : len(tree.ids)] = tree.ids
        positions[row, : len(tree.ids)] = tree.depths
        for node, (parent, weight) in enumerate(zip(tree.parents, tree.weights, strict=True)):
            chains &= parent == node - 1
            if parent >= 0:
                mask[node] |= mask[parent]
                if weight > 0:
                    targets.append((row, parent, tree.ids[node], weight))
    rows, columns, wanted, weights = zip(*targets, strict=True) if targets else ((), (), (), ())
    return TreeBatch(
        torch.from_numpy(input_ids),
        torch.from_numpy(positions),
        None if chains else torch.from_numpy(sees)[:, None],
        torch.tensor(rows, dtype=torch.long),
        torch.tensor(columns, dtype=torch.long),
        torch.tensor(wanted, dtype=torch.long),
        torch.tensor(weights, dtype=torch.float32),
        tuple(tree.stage for tree in trees),
    )


def micro_batches(trees: Sequence[TokenTree], tokens: int) -> list[TreeBatch]:
    """Batches of at most ``tokens`` tokens, padding included, of trees of similar length (0: one batch of all)."""
    batches: list[list[TokenTree]] = []
    for tree in sorted(trees, key=lambda each: len(each.ids), reverse=True):
        # The first tree of a batch is its longest.
        if batches and (not tokens or len(batches[-1][0].ids) * (len(batches[-1]) + 1) <= tokens):
            batches[-1].append(tree)
        else:
            batches.append([tree])
    return [collate(batch) for batch in batches]
