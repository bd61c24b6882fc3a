"""Attacks on one trained network of the fast recipe."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.accuracy import data, fast, fast_evaluate
from benchmarks.accuracy.train import key_set
from benchmarks.attacks_models.target import Network
from blockenc import Cipher, ExplicitKey, KeySet, Scheme
from blockenc.attacks import Result, adversarial, key_search, seriation

# Folders of trained runs, and what the table calls them.
NAMES = {"shuffle": "shuffle", "np": "np", "ffx": "ffx", "shuffle+np+ffx": "all three"}
PLAIN = "plain"
BATCH = 128  # images of a query, as published


@dataclasses.dataclass(frozen=True)
class Budget:
    """How much the attacks may use. side: keys are searched on the middle side x side pixels of images, which
    are whole blocks, so that a query costs a fraction of one of whole images."""

    queries: int = 200
    random_keys: int = 20
    side: int = 24
    test: int = 256
    pgd_images: int = 64
    pgd_steps: int = 5
    eot_keys: int = 3
    positions: int = 12
    images: int = 2


def load(folder: Path, found: data.Data) -> Network:
    return Network(fast_evaluate.load(folder, found, torch.device("cpu")))


def measure(
    name: str, runs: Path, found: data.Data, budget: Budget, seriation_only: bool = False
) -> dict[str, Any]:
    """All attacks on the network in runs/name, or seriation alone, and what it is."""
    network = load(runs / name, found)
    scheme = Scheme(network.config.block_size, network.config.step_list)
    key = key_set(0)
    rows: dict[str, Any] = {}
    if not seriation_only:
        images = images_of(found, BATCH + budget.test)
        rows["key search"], estimated = search_keys(network, scheme, key, images, budget)
        plain = load(runs / PLAIN, found)
        rows["PGD"] = change_images(network, plain, scheme, key, estimated, found, budget)
    if "ffx" in network.config.step_list:
        images = images_of(found, budget.images)[0]
        rows["seriation"] = order_values(network, scheme, key, images, budget.positions)
    return {
        "name": name,
        "training": {
            "config": dataclasses.asdict(network.config),
            "accuracy": network.run.record["epochs"][-1]["accuracy_some_images"],
            "seconds": round(network.run.record["seconds"]),
        },
        "budget": dataclasses.asdict(budget),
        "attacks": rows,
    }


def images_of(found: data.Data, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The first test images, uint8 [N, C, H, W], and their labels."""
    some = found.test.some(count)  # type: ignore[union-attr]
    return some.x.permute(0, 3, 1, 2).contiguous(), some.y


def search_keys(
    network: Network,
    scheme: Scheme,
    key: KeySet,
    images: tuple[torch.Tensor, torch.Tensor],
    budget: Budget,
) -> tuple[dict[str, Any], ExplicitKey]:
    """Searches by name, and the key of the best one."""
    x, y = images
    first = (x.shape[-1] - budget.side) // 2 // scheme.side * scheme.side
    x = x[:, :, first : first + budget.side, first : first + budget.side].contiguous()
    batch, test = (x[:BATCH], y[:BATCH]), (x[BATCH:], y[BATCH:])
    secrets = key_search.secrets_of(scheme, key)
    tables = [secret[1] for secret in secrets if isinstance(secret, tuple)]
    options: dict[str, Any] = {
        "table": tables[0] if tables else None,
        "truth": key,
        "test": test,
        "most_queries": budget.queries,
    }
    with torch.no_grad():
        right = float((network(Cipher(key, scheme).encrypt(test[0])).argmax(1) == test[1]).float().mean())
        found: dict[str, Any] = {"right key": {"scores": {"accuracy": right}}}
    random = key_search.random_keys(network, batch, scheme, keys=budget.random_keys)
    found["random keys"] = random.to_dict()
    results: dict[str, Result] = {
        "published": key_search.estimate_key(network, batch, scheme, keep_ties=True, **options),
        "loss": key_search.estimate_key(network, batch, scheme, objective="loss", flips=True, **options),
    }
    if len(secrets) > 1:
        for n, step in enumerate(scheme.bound_steps):
            known = {m: secret for m, secret in enumerate(secrets) if m != n}
            results[f"loss, all but {step.kind} known"] = key_search.estimate_key(
                network, batch, scheme, objective="loss", flips=True, known=known, **options
            )
    for name, result in results.items():
        curve = result.recovered.curve
        chosen = np.unique(np.linspace(0, len(curve) - 1, 20).astype(int))
        points = [{k: round(v, 4) for k, v in curve[n].items()} for n in chosen]
        found[name] = {**result.to_dict(), "curve": points}
    return found, results["loss"].recovered.key


def change_images(
    network: Network,
    plain: Network,
    scheme: Scheme,
    key: KeySet,
    estimated: ExplicitKey,
    found: data.Data,
    budget: Budget,
) -> dict[str, Any]:
    """PGD by what the attacker goes through, on whole images."""
    x, y = images_of(found, budget.pgd_images)
    x = x.float() / 255

    def cipher(key: KeySet | ExplicitKey) -> Cipher:
        return Cipher(key, scheme, gradient="straight-through")

    victim, others = cipher(key), [cipher(key_set(n)) for n in range(1, budget.eot_keys + 1)]
    steps = budget.pgd_steps

    def attack(**more: Any) -> dict[str, Any]:
        return adversarial.attack(network, victim, x, y, steps=steps, **more).to_dict()

    inverse = adversarial.inverse_attack(network, victim, x, y, cipher=cipher(estimated), steps=steps)
    return {
        "right key": attack(ciphers=[victim]),
        "another key": attack(ciphers=others[:1]),
        "EOT": attack(ciphers=others),
        "estimated key": attack(ciphers=[cipher(estimated)]),
        "inverse, estimated key": inverse.to_dict(),
        "transfer from a plain model": attack(surrogate=plain),
    }


def order_values(
    network: Network, scheme: Scheme, key: KeySet, images: torch.Tensor, most_positions: int
) -> dict[str, Any]:
    """Seriation of positions that ffx enciphers, of one alone, and with a network that learned nothing."""
    (mask, table) = next(s for s in key_search.secrets_of(scheme, key) if isinstance(s, tuple))
    positions = np.flatnonzero(mask)[:most_positions].tolist()
    y = Cipher(key, scheme).encrypt(images)
    run = network.run
    untrained = Network(fast.Run(network.config, run.found, run.device, run.bf16))

    def ordered(logits: Network, positions: list[int]) -> dict[str, Any]:
        found = seriation.seriation(logits, y, scheme.side, positions, table=table)
        return {**found.to_dict(), "positions": len(positions)}

    return {
        "one position": ordered(network, positions[:1]),
        "several positions": ordered(network, positions),
        "several positions, untrained network": ordered(untrained, positions),
    }
