"""Modules for models: encryption as a first layer, stems that absorb a key, and `protect`."""

from blockenc.folding.stems import protect, unprotect
from blockenc.nn.embedding import BlockEmbedding
from blockenc.nn.encrypt import Encrypt

__all__ = ["BlockEmbedding", "Encrypt", "protect", "unprotect"]
