"""Attacks on encrypted images and on models trained on them: those of the literature, and better ones.

Each attack is a function of what its attacker has (images, pairs, an encryption oracle, logits, weights)
and returns a `Result`: what was recovered, how good it is, and what was used. `judge` runs a scheme through
all of them. Nothing else of blockenc imports this package.
"""

from blockenc.attacks.base import Result
from blockenc.attacks.harness import Judgement, judge
from blockenc.attacks.key_search import Estimate, estimate_key, random_keys
from blockenc.attacks.registry import ATTACKS, Attack, Situation

__all__ = [
    "ATTACKS",
    "Attack",
    "Estimate",
    "Judgement",
    "Result",
    "Situation",
    "estimate_key",
    "judge",
    "random_keys",
]
