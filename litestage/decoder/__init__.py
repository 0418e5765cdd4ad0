"""A Hugging Face causal LM seen as embedding, 2L residual sub-layers, final norm and head."""

from litestage.decoder.decoder import Decoder
from litestage.decoder.load import LoadedModel, load_model

__all__ = ["Decoder", "LoadedModel", "load_model"]
