"""Attacks on encrypted images and on models trained on them: those of the literature, and better ones.

Each attack is a function of what its attacker has (images, pairs, an encryption oracle, logits, weights)
and returns a `Result`: what was recovered, how good it is, and what was used. Nothing else of blockenc
imports this package.
"""

from blockenc.attacks.base import Result

__all__ = ["Result"]
