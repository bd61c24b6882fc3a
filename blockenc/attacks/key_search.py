"""Keys searched with a model: a key under which a model classifies well is near the right one.

The attacker knows the scheme, has labelled plain images, and may ask the model for the logits of encrypted
ones. It encrypts under keys of its own choice, and keeps what the model likes better. A *query* is one batch
that the model is asked about.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch.nn import functional

from blockenc.attacks.base import Result
from blockenc.cipher import Cipher
from blockenc.hidden import hide, reveal
from blockenc.keys import AnyKey, ExplicitKey, Key, as_key
from blockenc.scheme import Scheme
from blockenc.steps import Ffx, Np, Period, Shuffle

Logits: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
Labelled: TypeAlias = tuple[torch.Tensor, torch.Tensor]
Point: TypeAlias = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """The key that a search ended with, and how it came there.

    curve: after so many "queries": "accuracy" on the attacker's batch, "loss" (cross-entropy) on it, and,
        where the right key is known, "key share".
    """

    key: ExplicitKey = dataclasses.field(repr=False)
    curve: list[Point]


def random_keys(logits: Logits, batch: Labelled, scheme: Scheme, *, keys: int = 100, seed: int = 0) -> Result:
    """The accuracies of a model under random keys (arXiv 2010.00801, random key attack).

    logits: encrypted images, as `Cipher.encrypt` gives them, to logits [N, classes].
    batch: plain images, uint8 [N, C, H, W], and their labels, int64 [N].
    keys: how many, each of which is one query.

    Scores: "accuracy", the best one, "mean accuracy" and "least accuracy". `recovered`: all of them, in the
    order in which the keys were drawn.

    >>> from blockenc import Scheme
    >>> batch = torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64)
    >>> random_keys(lambda y: torch.zeros(len(y), 10), batch, Scheme(), keys=3).used
    {'images': 4, 'queries': 3}
    """
    rng = np.random.default_rng(seed)
    _check(batch, keys, "keys")
    found = []
    for _ in range(keys):
        found.append(_judged(logits, batch, Cipher(Key(rng.bytes(32)), scheme))[0])
    scores = {
        "accuracy": max(found),
        "mean accuracy": sum(found) / len(found),
        "least accuracy": min(found),
    }
    used: dict[str, float] = {"images": len(batch[1]), "queries": keys}
    return Result("random keys", scores, used, found)


def estimate_key(
    logits: Logits,
    batch: Labelled,
    scheme: Scheme,
    *,
    objective: Literal["accuracy", "loss"] = "accuracy",
    keep_ties: bool = False,
    flips: bool = False,
    rounds: int = 10,
    restarts: int = 1,
    most_queries: int | None = None,
    known: Mapping[int, Any] | None = None,
    table: Any = None,
    truth: AnyKey | None = None,
    test: Labelled | None = None,
    seed: int = 0,
) -> Result:
    """A key found by swaps that the model likes (arXiv 2010.00801, Algorithm 4, and better).

    From a random key, in each round and for all i < j, entries i and j of each secret are swapped, and the
    swap stays if the model answers better on the batch. As published: objective "accuracy", 10 rounds, a
    batch of 128 images; the published code also keeps ties. Swaps of equal entries change nothing and are not
    asked about; a round that changed nothing, where no ties are kept, is the last one.

    logits, batch: as for `random_keys`.
    scheme: of shuffle, np and ffx steps that treat all blocks alike, as those of version 1 do.
    objective: "accuracy", or "loss" (cross-entropy), which also tells where no answer changes.
    flips: single entries of masks change, rather than two that differ: n queries a round and not up to n^2/4,
        and the number of selected entries need not be half.
    restarts: searches from so many random keys, of which the best by the objective is the answer.
    most_queries: the search ends after so many, in all.
    known: secrets that the attacker has, by the number of their step, in the form of `ExplicitKey`; the
        others are searched.
    table: of ffx, 256 integers; the attacker is handed it, as in the published code, and searches the mask
        only. Needed for an ffx step that is not known.
    truth: the right key, for the scores only.
    test: other images and labels, for the scores only; the batch unless given.

    Scores: "accuracy" on `test`; with the truth "key share" (entries of the searched secrets that are right,
    0 to 1, where chance is 1/n for a shuffle of n values and 1/2 for a mask) and "key share of step n".
    `recovered` is an `Estimate`. Raises TypeError or ValueError naming the argument.

    >>> import blockenc
    >>> scheme = blockenc.Scheme(2, ["np"], channels=1)
    >>> batch = torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64)
    >>> estimate_key(lambda y: torch.zeros(len(y), 10), batch, scheme, rounds=1).scores
    {'accuracy': 1.0}
    """
    truth = hide(truth)
    if objective not in ("accuracy", "loss"):
        raise ValueError(f"objective: expected 'accuracy' or 'loss', got {objective!r}")
    known = dict(known or {})
    search = _Search(logits, batch, scheme, known, table, np.random.default_rng(seed))
    _check(batch, rounds, "rounds")
    _check(batch, restarts, "restarts")
    _check(batch, 1 if most_queries is None else most_queries, "most_queries")
    search.limit = most_queries
    if reveal(truth) is not None:
        search.right = secrets_of(scheme, truth)  # type: ignore[arg-type]
    ends = [search.run(objective, keep_ties, flips, rounds) for _ in range(restarts) if not search.over]
    _, secrets = max(ends, key=lambda end: end[0])
    key = ExplicitKey(secrets)
    scores = {"accuracy": _judged(logits, batch if test is None else test, Cipher(key, scheme))[0]}
    if search.right is not None:
        scores["key share"] = search.share(secrets)
        for n in search.searched:
            same = _entries(secrets[n]) == _entries(search.right[n])
            scores[f"key share of step {n}"] = float(same.mean())
    used: dict[str, float] = {"images": len(batch[1]), "queries": search.queries}
    return Result("key estimation", scores, used, Estimate(key, search.curve))


def secrets_of(scheme: Scheme, key: AnyKey) -> list[Any]:
    """The secrets of a scheme's steps under a key, as `ExplicitKey` takes them: what an attack is scored by.

    Of schemes whose steps treat all blocks alike. Raises ValueError for others.
    """
    held = as_key(hide(key))
    periods = _periods(scheme)
    infos = scheme.infos(scheme.side, scheme.side, [None])
    found = []
    for n, (step, period) in enumerate(zip(scheme.bound_steps, periods)):
        if isinstance(held, ExplicitKey):
            secret = step.checked(reveal(held.secret(n, len(periods))), period)
        else:
            secret = step.draw(held.member(step.kind), infos[n], period)
        parts = [np.array(part).reshape(-1) for part in (secret if isinstance(secret, tuple) else (secret,))]
        found.append(tuple(parts) if len(parts) > 1 else parts[0])
    return found


class _Search:
    """A search in progress: how many queries were made, and the curve."""

    def __init__(
        self,
        logits: Logits,
        batch: Labelled,
        scheme: Scheme,
        known: dict[int, Any],
        table: Any,
        rng: np.random.Generator,
    ) -> None:
        self.logits, self.batch, self.scheme, self.known, self.rng = logits, batch, scheme, known, rng
        self.periods = _periods(scheme)
        steps = range(len(self.periods))
        if set(known) - set(steps):
            raise ValueError(f"known: expected numbers of steps, 0 to {len(steps) - 1}, got {sorted(known)}")
        self.searched = [n for n in steps if n not in known]
        if not self.searched:
            raise ValueError("known: expected at least one step to search, got secrets for all")
        self.table = table
        if table is None and any(isinstance(scheme.bound_steps[n], Ffx) for n in self.searched):
            raise ValueError("table: expected the table of ffx, which is not searched, got None")
        self.queries = 0
        self.limit: int | None = None
        self.right: list[Any] | None = None
        self.curve: list[Point] = []

    @property
    def over(self) -> bool:
        return self.limit is not None and self.queries >= self.limit

    def run(
        self, objective: Literal["accuracy", "loss"], keep_ties: bool, flips: bool, rounds: int
    ) -> tuple[float, list[Any]]:
        """One search from a random key: the best value of the objective, and the secrets that gave it."""
        secrets = [self.known[n] if n in self.known else self._start(n) for n in range(len(self.periods))]
        best = self._ask(secrets, objective, None, keep_ties)
        for _ in range(rounds):
            changed = False
            for n in self.searched:
                entries = _entries(secrets[n])
                for places in _moves(entries, flips):
                    before = entries[places]  # a copy
                    if len(places) > 1 and before[0] == before[1]:
                        continue
                    if self.over:
                        return best, secrets
                    entries[places] = before[::-1] if len(places) > 1 else ~before
                    value = self._ask(secrets, objective, best, keep_ties)
                    if value > best or (keep_ties and value == best):
                        best, changed = value, True
                    else:
                        entries[places] = before
            if not changed:
                break
        return best, secrets

    def share(self, secrets: list[Any]) -> float:
        """The part of the entries searched for that are right."""
        assert self.right is not None
        same = [_entries(secrets[n]) == _entries(self.right[n]) for n in self.searched]
        return float(np.concatenate(same).mean())

    def _start(self, n: int) -> Any:
        step, period = self.scheme.bound_steps[n], self.periods[n]
        length = period.length * (2 if getattr(step, "cells", "byte") == "nibble" else 1)
        order = self.rng.permutation(length)
        if isinstance(step, Shuffle):
            return order
        mask = order < length // 2
        return (mask, np.asarray(self.table)) if isinstance(step, Ffx) else mask

    def _ask(self, secrets: list[Any], objective: str, best: float | None, keep_ties: bool) -> float:
        accuracy, loss = _judged(self.logits, self.batch, Cipher(ExplicitKey(secrets), self.scheme))
        self.queries += 1
        value = accuracy if objective == "accuracy" else -loss
        if best is None or value > best or (keep_ties and value == best):
            point = {"queries": float(self.queries), "accuracy": accuracy, "loss": loss}
            if self.right is not None:
                point["key share"] = self.share(secrets)
            self.curve.append(point)
        return value


def _moves(entries: np.ndarray, flips: bool) -> Iterator[list[int]]:
    """The places of what one move changes: two entries that are swapped, or one of a mask that is flipped."""
    count = 1 if flips and entries.dtype == bool else 2
    return map(list, itertools.combinations(range(len(entries)), count))


def _entries(secret: Any) -> np.ndarray:
    """What is searched of a secret: its permutation or mask, and not the table of ffx."""
    return secret[0] if isinstance(secret, tuple) else secret  # type: ignore[no-any-return]


def _periods(scheme: Scheme) -> list[Period]:
    """The period of each step. Raises ValueError unless all blocks are treated alike, by known kinds."""
    for step in scheme.bound_steps:
        whole = isinstance(step, Np) and step.unit == "block"
        if not isinstance(step, (Shuffle, Np, Ffx)) or whole or step.period != step.block_size:
            raise ValueError(
                "scheme: expected shuffle, np and ffx of values, of which every block has the same secret, "
                f"got {step!r}"
            )
    return list(scheme.periods(scheme.side, scheme.side))


def _check(batch: Labelled, number: int, name: str) -> None:
    if number < 1:
        raise ValueError(f"{name}: expected at least 1, got {number}")
    if not len(batch[1]) or len(batch[0]) != len(batch[1]):
        raise ValueError(f"batch: expected a label an image, got {len(batch[0])} and {len(batch[1])}")


@torch.no_grad()
def _judged(logits: Logits, batch: Labelled, cipher: Cipher) -> tuple[float, float]:
    """Accuracy and cross-entropy of a model on images encrypted under a cipher."""
    x, y = batch
    found = logits(cipher.encrypt(x)).float()
    accuracy = float((found.argmax(1) == y).float().mean())
    return accuracy, float(functional.cross_entropy(found, y))
