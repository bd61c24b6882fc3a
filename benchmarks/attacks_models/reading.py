"""What the answers of the networks of the grid give away: the table of ffx, masks, and neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.accuracy import fast
from benchmarks.attacks_models.target import Network, Target
from blockenc import Cipher
from blockenc.attacks import key_search, seriation, slopes


def table(target: Target) -> dict[str, Any]:
    """Seriation of positions that ffx enciphers, of one alone, and with a network that learned nothing."""
    images = target.encrypted(target.sizes.ordered_images)
    secrets = key_search.secrets_of(target.scheme, target.key)
    mask, truth = next(secret for secret in secrets if isinstance(secret, tuple))
    positions = np.flatnonzero(mask)[: target.sizes.positions].tolist()

    def ordered(logits: Network, positions: list[int]) -> dict[str, Any]:
        found = seriation.seriation(logits, images, target.scheme.side, positions, table=truth)
        return {**found.to_dict(), "positions": len(positions)}

    return {
        "one position": ordered(target.network, positions[:1]),
        "several positions": ordered(target.network, positions),
        "several positions, untrained network": ordered(untrained(target), positions),
    }


def masks(target: Target) -> dict[str, Any]:
    """Slopes of all positions, and of a network that learned nothing."""
    plan = Cipher(target.key, target.scheme).plan()

    def read(logits: Network) -> dict[str, Any]:
        return slopes.read_slopes(
            logits,
            target.encrypted(target.sizes.slope_images),
            target.scheme.side,
            enciphered=int((plan.table_of[0] > 0).sum()),
            truth=plan,
        ).to_dict()

    return {"trained": read(target.network), "untrained": read(untrained(target))}


def untrained(target: Target) -> Network:
    """The initial network, answering as the trained one does."""
    run = target.network.run
    return Network(fast.Run(run.config, run.found, run.device, run.bf16))
