"""Runs a decoder over prompts under a plan: cache, batching, stopping. Knows token ids, not questions."""

from litestage.engine.engine import Batch, Engine
from litestage.engine.types import Decoding, Generation, Request

__all__ = ["Batch", "Decoding", "Engine", "Generation", "Request"]
