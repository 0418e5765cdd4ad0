"""Runs a decoder over prompts under a plan: cache, batching, stopping. Knows token ids, not questions."""

from litestage.engine.engine import Batch, Engine
from litestage.engine.prefix_cache import PrefixCache, common_length, common_prefix
from litestage.engine.prompt_tree import share_a_lane
from litestage.engine.requests import Decoding, Generation, Request
from litestage.engine.rows import Detokenise
from litestage.engine.sampler import DRAWING

__all__ = [
    "DRAWING",
    "Batch",
    "Decoding",
    "Detokenise",
    "Engine",
    "Generation",
    "PrefixCache",
    "Request",
    "common_length",
    "common_prefix",
    "share_a_lane",
]
