"""Modules for models: encryption as a first layer, stems that absorb a key, and `protect`."""

from blockenc.nn.embedding import BlockEmbedding
from blockenc.nn.encrypt import Encrypt
from blockenc.nn.folding import protect, unprotect

__all__ = ["BlockEmbedding", "Encrypt", "protect", "unprotect"]
