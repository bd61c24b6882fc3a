"""Keys folded into the weights of trained models. A stem of one's own joins by handlers of its type."""

from blockenc.folding import convolutions, embeddings, patches  # each registers its handlers
from blockenc.folding.registry import Folding, fold, patch_size, unfold

__all__ = ["Folding", "convolutions", "embeddings", "fold", "patch_size", "patches", "unfold"]
