"""What every attack returns."""

from __future__ import annotations

import dataclasses
import importlib.util
from typing import Any


@dataclasses.dataclass(frozen=True)
class Result:
    """What an attack recovered, how good it is, and what it used.

    attack: the attack's name.
    scores: figures by name, for instance "key share" (of the secret's entries that are right, 0 to 1),
        "SSIM", "PSNR" (dB), "accuracy" (0 to 1). Higher is better for the attacker.
    used: what the attacker used, by name: "images", "pairs", "queries", "seconds".
    recovered: the images, secrets or model recovered. It is not part of `to_dict` and not shown by repr,
        since it may hold a key.
    """

    attack: str
    scores: dict[str, float]
    used: dict[str, float]
    recovered: Any = dataclasses.field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Attack, scores and uses, for a JSON file."""
        return {"attack": self.attack, "scores": dict(self.scores), "used": dict(self.used)}


def why_no_scipy() -> str:
    """What to install where there is no SciPy; "" where there is."""
    has = importlib.util.find_spec("scipy") is not None
    return "" if has else "SciPy is not installed: pip install 'blockenc[attacks]'"


def needs_scipy(attack: str) -> None:
    """Raises ModuleNotFoundError where there is no SciPy."""
    if reason := why_no_scipy():
        raise ModuleNotFoundError(f"{attack}: {reason}")
