"""Keys of the networks of the grid: searched with the network's answers, and drawn at random."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from benchmarks.accuracy import data
from benchmarks.attacks_models.target import Target
from blockenc import Cipher, ExplicitKey, Scheme
from blockenc.attacks import Result, key_search
from blockenc.attacks.relaxed import relaxed_key

CURVE = 40  # points of a curve that are kept


def right_key(target: Target) -> dict[str, float]:
    """What the owner gets, on the images that all keys are scored on."""
    x, y = target.test
    with torch.no_grad():
        found = target.asked(Cipher(target.key, target.scheme).encrypt(x)).argmax(1)
    return {"accuracy": float((found == y).float().mean())}


def random(target: Target) -> dict[str, Any]:
    """Fake keys: what each of many random keys gives."""
    sizes = target.sizes
    found = key_search.random_keys(target.asked, target.test, target.scheme, keys=sizes.random_keys)
    accuracies = sorted((round(a, 4) for a in found.recovered), reverse=True)
    return {**found.to_dict(), "right key": right_key(target), "accuracies": accuracies}


def published(target: Target) -> dict[str, Any]:
    """Algorithm 4 of arXiv 2010.00801 as its code has it: ties are kept, entries of all steps are swapped."""
    return _searched(target, target.sizes.starts, target.sizes.batch, keep_ties=True)


def by_loss(target: Target) -> dict[str, Any]:
    """What lowers the cross-entropy stays; single entries of masks change."""
    return _searched(target, target.sizes.loss_starts, target.sizes.batch, objective="loss", flips=True)


def by_loss_of_more(target: Target) -> dict[str, Any]:
    """The same with larger queries."""
    return _searched(target, target.sizes.loss_starts, target.sizes.large, objective="loss", flips=True)


def one_step(target: Target, kind: str) -> dict[str, Any]:
    """A search by loss for the secret of one step, where those of all others are known."""
    secrets = key_search.secrets_of(target.scheme, target.key)
    known = {n: secrets[n] for n, step in enumerate(target.scheme.bound_steps) if step.kind != kind}
    sizes = target.sizes
    return _searched(target, sizes.loss_starts, sizes.large, objective="loss", flips=True, known=known)


def relaxed(target: Target) -> dict[str, Any]:
    """By gradients, with labelled training images; the secret of ffx is known."""
    secrets = key_search.secrets_of(target.scheme, target.key)
    known = {n: secrets[n] for n, step in enumerate(target.scheme.bound_steps) if step.kind == "ffx"}
    train = target.found.train
    assert isinstance(train, data.Part)
    some = train.some(target.sizes.relaxed_images)
    x = some.x.permute(0, 3, 1, 2).contiguous().to(target.device)
    right = right_key(target)
    found = relaxed_key(
        target.network,
        (x, some.y.to(target.device)),
        target.scheme,
        known=known,
        truth=target.key,
        test=target.test,
        steps=target.sizes.relaxed_steps,
        stop=target.stop,
    )
    return {**found.to_dict(), "right key": right}


def _searched(target: Target, starts: int, batch: int, **options: Any) -> dict[str, Any]:
    secrets = key_search.secrets_of(target.scheme, target.key)
    tables = [secret[1] for secret in secrets if isinstance(secret, tuple)]
    right = right_key(target)  # first: raises Stopped where no time is left
    found = key_search.estimate_key(
        target.network,
        target.images(0, batch),
        target.scheme,
        rounds=target.sizes.rounds,
        restarts=starts,
        table=tables[0] if tables else None,
        truth=target.key,
        test=target.test,
        stop=target.stop,
        **options,
    )
    return {
        **found.to_dict(),
        "right key": right,
        **_told(found, target.scheme),
        "starts": starts,
    }


def _told(found: Result, scheme: Scheme) -> dict[str, Any]:
    estimate = found.recovered
    chosen = np.unique(np.linspace(0, len(estimate.curve) - 1, CURVE).astype(int))
    return {
        "curve": [_rounded(estimate.curve[n]) for n in chosen],
        "ends": [_rounded(point) for point in estimate.ends],
        "key": [
            [part.astype(int).tolist() for part in (secret if isinstance(secret, tuple) else (secret,))]
            for secret in key_search.secrets_of(scheme, estimate.key)
        ],
    }


def key_of(told: dict[str, Any]) -> ExplicitKey:
    """The key that a recorded search found."""
    secrets = [tuple(map(np.array, parts)) for parts in told["key"]]
    return ExplicitKey([secret if len(secret) > 1 else secret[0] for secret in secrets])


def _rounded(point: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in point.items()}
