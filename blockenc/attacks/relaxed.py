"""Keys found by gradients: a permutation relaxed to a matrix, and a mask to signs, that a model likes best.

The attacker has the model with its weights, knows the scheme, and has labelled plain images. What the key
does to a block is replaced by something that has a slope, and trained as a layer before the frozen model; in
the end it is rounded to a key. A search by swaps asks thousands of queries for less.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from blockenc.attacks.base import Result, needs_scipy
from blockenc.attacks.key_search import Labelled, secrets_of
from blockenc.blocks import to_images, to_vectors
from blockenc.cipher import Cipher
from blockenc.hidden import hide, reveal
from blockenc.keys import AnyKey, ExplicitKey, Key
from blockenc.scheme import Scheme
from blockenc.steps import Ffx, Shuffle

SINKHORN_ROUNDS = 20
START = 0.1  # standard deviation of the initial weights


def relaxed_key(
    model: Callable[[torch.Tensor], torch.Tensor],
    labelled: Labelled,
    scheme: Scheme,
    *,
    known: Mapping[int, Any] | None = None,
    truth: AnyKey | None = None,
    test: Labelled | None = None,
    steps: int = 150,
    batch: int = 100,
    lr: float = 0.1,
    heats: tuple[float, float] = (1.0, 0.1),
    stop: Callable[[], bool] = lambda: False,
    seed: int = 0,
) -> Result:
    """A key out of the gradients of a model.

    model: encrypted images, floats [N, C, H, W] in [0, 1], to logits [N, classes]; differentiable.
    labelled: plain images, uint8 [N, C, H, W], and their labels, int64 [N].
    scheme: of shuffle, np and ffx steps of one block size, of bytes, which treat all blocks alike.
    known: secrets that the attacker has, by the number of their step, in the form of `ExplicitKey`; needed
        for an ffx step. Through its table the slope is taken as 0.
    truth: the right key, for the scores only. test: other images and labels, for the scores only.
    steps, batch, lr: of Adam, on so many images each. heats: the temperature of the first and of the last
        step; the lower, the nearer matrices are to permutations and signs to 1 and -1.
    stop: asked before every step; once it says so, what there is is rounded.

    A permutation is the Sinkhorn normalisation of a matrix (G. Mena and others, Learning latent permutations
    with Gumbel-Sinkhorn networks, ICLR 2018, arXiv 1802.08665, without noise), rounded by an assignment. That
    it finds these keys is ours.

    Scores: "accuracy" on `test` under the key found; with the truth "key share" of what was searched, and
    "key share of step n". `recovered`: an `ExplicitKey`. Raises ModuleNotFoundError without SciPy, and
    ValueError naming the argument.

    >>> import blockenc
    >>> scheme, key = blockenc.Scheme(2, ["np"], channels=1), blockenc.Key(bytes(range(32)))
    >>> cipher = blockenc.Cipher(key, scheme, gradient="straight-through")
    >>> x = (255 * torch.eye(4).repeat_interleave(4, 0)).to(torch.uint8).view(4, 1, 4, 4)
    >>> centres = cipher.encrypt(x / 255).flatten(1)
    >>> def nearest(y):
    ...     return -10 * ((y.flatten(1)[:, None] - centres) ** 2).sum(2)
    >>> relaxed_key(nearest, (x, torch.arange(4)), scheme, truth=key).scores["key share"]
    1.0
    """
    needs_scipy("relaxed_key")
    truth = hide(truth)
    known = dict(known or {})
    sought = _sought(scheme, known)
    x, y = labelled
    if not len(y) or len(x) != len(y):
        raise ValueError(f"labelled: expected a label an image, got {len(x)} and {len(y)}")
    if steps < 1:
        raise ValueError(f"steps: expected at least 1, got {steps}")
    generator = torch.Generator().manual_seed(seed)
    weights = {
        n: (START * torch.randn(shape, generator=generator)).to(x.device).requires_grad_()
        for n, shape in sought.items()
    }
    optimizer = torch.optim.Adam(list(weights.values()), lr=lr)
    done, heat = 0, heats[0]
    while done < steps and not stop():
        heat = heats[0] * (heats[1] / heats[0]) ** (done / steps)
        some = torch.randint(len(y), (min(batch, len(y)),), generator=generator).to(x.device)
        v = to_vectors(x[some], scheme.side).float() / 255
        for n, step in enumerate(scheme.bound_steps):
            v = _relaxed(v, weights[n], heat) if n in sought else _exact(v, step, known[n])
        encrypted = to_images(v, scheme.side, *x.shape[1:])
        loss = functional.cross_entropy(model(encrypted), y[some])
        slopes = torch.autograd.grad(loss, list(weights.values()))
        for weight, slope in zip(weights.values(), slopes):
            weight.grad = slope
        optimizer.step()
        done += 1
    secrets = [
        _rounded(weights[n].detach(), heat) if n in sought else known[n]
        for n in range(len(scheme.bound_steps))
    ]
    key = ExplicitKey(secrets)
    tested, labels = labelled if test is None else test
    with torch.no_grad():
        answers = model(Cipher(key, scheme).encrypt(tested).float() / 255).argmax(1)
    scores = {"accuracy": float((answers == labels).float().mean())}
    if reveal(truth) is not None:
        right = secrets_of(scheme, truth)  # type: ignore[arg-type]
        equal = {n: secrets[n] == right[n] for n in sought}
        scores["key share"] = float(np.concatenate(list(equal.values())).mean())
        scores.update({f"key share of step {n}": float(same.mean()) for n, same in equal.items()})
    used: dict[str, float] = {"images": len(y), "gradients": done}
    return Result("relaxed key", scores, used, key)


def sinkhorn(weights: torch.Tensor, heat: float) -> torch.Tensor:
    """A matrix whose rows and columns each add up to 1 (nearly), [L, L], out of any weights [L, L]."""
    logarithms = weights / heat
    for _ in range(SINKHORN_ROUNDS):
        logarithms = logarithms - logarithms.logsumexp(1, keepdim=True)
        logarithms = logarithms - logarithms.logsumexp(0, keepdim=True)
    return logarithms.exp()


def _sought(scheme: Scheme, known: Mapping[int, Any]) -> dict[int, tuple[int, ...]]:
    """The shapes of the weights of what is searched, by the number of the step."""
    template = secrets_of(scheme, Key(bytes(32)))  # raises ValueError for schemes of other kinds
    cells = {getattr(step, "cells", "byte") for step in scheme.bound_steps}
    sizes = {step.block_size for step in scheme.bound_steps}
    if scheme.is_decimal or cells != {"byte"} or len(sizes) > 1:
        raise ValueError(f"scheme: expected steps of bytes with one block size, got {scheme!r}")
    if set(known) - set(range(len(template))):
        raise ValueError(f"known: expected numbers of steps, 0 to {len(template) - 1}, got {sorted(known)}")
    found: dict[int, tuple[int, ...]] = {}
    for n, step in enumerate(scheme.bound_steps):
        if n in known:
            continue
        if isinstance(step, Ffx):
            raise ValueError(f"known: expected the secret of step {n}, ffx, which is not searched")
        length = len(template[n])
        found[n] = (length, length) if isinstance(step, Shuffle) else (length,)
    if not found:
        raise ValueError("known: expected at least one step to search, got secrets for all")
    return found


def _relaxed(v: torch.Tensor, weights: torch.Tensor, heat: float) -> torch.Tensor:
    """Values [N, blocks, L] in [0, 1] under a matrix for a permutation, or signs for a mask."""
    if weights.dim() == 2:
        return v @ sinkhorn(weights, heat).T
    return 0.5 + torch.tanh(weights / heat) * (v - 0.5)


def _rounded(weights: torch.Tensor, heat: float) -> np.ndarray:
    from scipy.optimize import linear_sum_assignment

    if weights.dim() == 1:
        return (weights < 0).cpu().numpy()
    order: np.ndarray = linear_sum_assignment(-sinkhorn(weights, heat).cpu().numpy())[1]
    return order


def _exact(v: torch.Tensor, step: Any, secret: Any) -> torch.Tensor:
    """Values under a secret that is known."""
    if isinstance(step, Shuffle):
        return v[..., torch.as_tensor(np.asarray(secret).reshape(-1), device=v.device)]
    if not isinstance(step, Ffx):
        return torch.where(torch.as_tensor(np.asarray(secret).reshape(-1), device=v.device), 1 - v, v)
    mask, table = (torch.as_tensor(np.asarray(part).reshape(-1), device=v.device) for part in secret)
    bytes_ = (v.detach() * 255).round().clamp(0, 255).long()
    return torch.where(mask, table[bytes_].float() / 255, v)
