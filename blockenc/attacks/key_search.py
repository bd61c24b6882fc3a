"""Keys searched with a model: a key under which a model classifies well is near the right one.

The attacker knows the scheme, has labelled plain images, and may ask the model for the logits of encrypted
ones. It encrypts under keys of its own choice, and keeps what the model likes better. A *query* is one batch
that the model is asked about under one key; searches that run beside each other ask in one call.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch.nn import functional

from blockenc.attacks.base import Result
from blockenc.blocks import to_images, to_vectors
from blockenc.cipher import Cipher
from blockenc.hidden import hide, reveal
from blockenc.keys import AnyKey, ExplicitKey, Key, as_key
from blockenc.scheme import Scheme
from blockenc.steps import Ffx, Np, Period, Shuffle

Logits: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
Labelled: TypeAlias = tuple[torch.Tensor, torch.Tensor]
Point: TypeAlias = dict[str, float]
_Entries: TypeAlias = list[np.ndarray]  # of each step, what is searched: a permutation or a mask


@dataclasses.dataclass(frozen=True)
class Estimate:
    """The key that a search ended with, and how it came there.

    curve: of the search that found it, after so many "queries" of its own: "accuracy" on the attacker's
        batch, "loss" (cross-entropy) on it, and, where the right key is known, "key share".
    ends: the last point of each search's curve, one for each restart.
    """

    key: ExplicitKey = dataclasses.field(repr=False)
    curve: list[Point]
    ends: list[Point]


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
    found = [
        _judged(logits, batch[1], Cipher(Key(rng.bytes(32)), scheme).encrypt(batch[0]))[0][0]
        for _ in range(keys)
    ]
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
    stop: Callable[[], bool] = lambda: False,
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
    restarts: searches from so many random keys, of which the best by the objective is the answer. They run
        beside each other: `logits` is given the batch under all their keys at once, restarts * N images.
    most_queries: the search ends after so many, in all.
    known: secrets that the attacker has, by the number of their step, in the form of `ExplicitKey`; the
        others are searched.
    table: of ffx, 256 integers; the attacker is handed it, as in the published code, and searches the mask
        only. Needed for an ffx step that is not known.
    truth: the right key, for the scores only.
    test: other images and labels, for the scores only; the batch unless given.
    stop: asked before every call of `logits`; once it says so, the search ends with what it has.

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
        search.right = [_entries(secret) for secret in secrets_of(scheme, truth)]  # type: ignore[arg-type]
    climbs = [_Climb(search, objective, keep_ties, flips) for _ in range(restarts)]
    search.run(climbs, rounds, stop)
    asked = [climb for climb in climbs if climb.curve]
    if not asked:
        raise ValueError("stop: expected at least one query before it, got none")
    best = max(asked, key=lambda climb: climb.best)
    key = ExplicitKey(search.secrets(best.key))
    x, y = batch if test is None else test
    scores = {"accuracy": _judged(logits, y, Cipher(key, scheme).encrypt(x))[0][0]}
    if search.right is not None:
        scores["key share"] = search.share(best.key)
        for n in search.searched:
            scores[f"key share of step {n}"] = float((best.key[n] == search.right[n]).mean())
    used: dict[str, float] = {"images": len(batch[1]), "queries": search.queries}
    estimate = Estimate(key, best.curve, [climb.curve[-1] for climb in asked])
    return Result("key estimation", scores, used, estimate)


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
    """What all searches from one call have in common: the images, what is known, and the queries made."""

    def __init__(
        self,
        logits: Logits,
        batch: Labelled,
        scheme: Scheme,
        known: dict[int, Any],
        table: Any,
        rng: np.random.Generator,
    ) -> None:
        self.logits, self.batch, self.scheme, self.rng = logits, batch, scheme, rng
        self.periods = _periods(scheme)
        steps = range(len(self.periods))
        if set(known) - set(steps):
            raise ValueError(f"known: expected numbers of steps, 0 to {len(steps) - 1}, got {sorted(known)}")
        self.searched = [n for n in steps if n not in known]
        if not self.searched:
            raise ValueError("known: expected at least one step to search, got secrets for all")
        if table is None and any(isinstance(scheme.bound_steps[n], Ffx) for n in self.searched):
            raise ValueError("table: expected the table of ffx, which is not searched, got None")
        self.known = {
            n: np.asarray(
                _entries(secret), int if isinstance(scheme.bound_steps[n], Shuffle) else bool
            ).reshape(-1)
            for n, secret in known.items()
        }
        self.tables = {
            n: np.asarray(known[n][1] if n in known else table).reshape(-1)
            for n in steps
            if isinstance(scheme.bound_steps[n], Ffx)
        }
        self.queries = 0
        self.limit: int | None = None
        self.right: _Entries | None = None
        whole = all(
            step.block_size == scheme.side and getattr(step, "cells", "byte") == "byte"
            for step in scheme.bound_steps
        )
        # Positions before images, so that a key moves and changes whole rows.
        self.vectors = to_vectors(batch[0], scheme.side).flatten(0, 1).T.contiguous()
        self.by_plans = not whole or scheme.is_decimal or batch[0].device.type == "cpu"

    def run(self, climbs: Sequence[_Climb], rounds: int, stop: Callable[[], bool]) -> None:
        """All searches to their ends, or to the limit, or until `stop` says so; each asks once a turn."""
        going = [(climb, climb.keys(rounds)) for climb in climbs]
        waiting = [(climb, steps, next(steps)) for climb, steps in going]
        while waiting and not stop():
            if self.limit is not None:
                waiting = waiting[: self.limit - self.queries]
                if not waiting:
                    return
            answers = _judged(self.logits, self.batch[1], self.encrypted([key for _, _, key in waiting]))
            self.queries += len(waiting)
            still = []
            for (climb, steps, _), answer in zip(waiting, answers):
                with contextlib.suppress(StopIteration):
                    still.append((climb, steps, steps.send(answer)))
            waiting = still

    def secrets(self, key: _Entries) -> list[Any]:
        return [(entries, self.tables[n]) if n in self.tables else entries for n, entries in enumerate(key)]

    def start(self) -> _Entries:
        """A random key, but for the secrets that are known."""
        return [self.known[n] if n in self.known else self._drawn(n) for n in range(len(self.periods))]

    def share(self, key: _Entries) -> float:
        """The part of the entries searched for that are right."""
        assert self.right is not None
        return float(np.concatenate([key[n] == self.right[n] for n in self.searched]).mean())

    def encrypted(self, keys: Sequence[_Entries]) -> torch.Tensor:
        """The batch under each of K keys, uint8 [K * N, C, H, W]."""
        x = self.batch[0]
        if self.by_plans:
            return torch.cat([Cipher(ExplicitKey(self.secrets(key)), self.scheme).encrypt(x) for key in keys])
        # On a GPU it takes longer to compile a plan than to ask the query that it is for.
        v = self.vectors.expand(len(keys), *self.vectors.shape)
        for n, step in enumerate(self.scheme.bound_steps):
            entries = torch.from_numpy(np.stack([key[n] for key in keys])).to(x.device)[:, :, None]
            if isinstance(step, Shuffle):
                v = v.gather(1, entries.expand_as(v))
            elif isinstance(step, Np):
                v = torch.where(entries, 255 - v, v)
            else:
                table = torch.from_numpy(self.tables[n].astype(np.uint8)).to(x.device)
                v = torch.where(entries, table[v.long()], v)
        return to_images(v.transpose(1, 2), self.scheme.side, *x.shape[1:])

    def _drawn(self, n: int) -> np.ndarray:
        step, period = self.scheme.bound_steps[n], self.periods[n]
        length = period.length * (2 if getattr(step, "cells", "byte") == "nibble" else 1)
        order = self.rng.permutation(length)
        return order if isinstance(step, Shuffle) else order < length // 2


class _Climb:
    """One search from a random key: the best key so far, and how it came there."""

    def __init__(
        self, search: _Search, objective: Literal["accuracy", "loss"], keep_ties: bool, flips: bool
    ) -> None:
        self.search, self.objective, self.keep_ties, self.flips = search, objective, keep_ties, flips
        self.key = search.start()
        self.best = -np.inf
        self.queries = 0
        self.curve: list[Point] = []

    def keys(self, rounds: int) -> Generator[_Entries, tuple[float, float], None]:
        """The keys that the search asks about, each of which it is sent the accuracy and the loss of."""
        self._better(self.key, (yield self.key))
        for _ in range(rounds):
            changed = False
            for n in self.search.searched:
                for places in _moves(self.key[n], self.flips):
                    entries = self.key[n].copy()
                    before = entries[places]
                    if len(places) > 1 and before[0] == before[1]:
                        continue
                    entries[places] = before[::-1] if len(places) > 1 else ~before
                    key = [*self.key[:n], entries, *self.key[n + 1 :]]
                    changed |= self._better(key, (yield key))
            if not changed:
                return

    def _better(self, key: _Entries, answer: tuple[float, float]) -> bool:
        """Whether the model answers better under a key, which then is the best one."""
        self.queries += 1
        accuracy, loss = answer
        value = accuracy if self.objective == "accuracy" else -loss
        if not (value > self.best or (self.keep_ties and value == self.best)):
            return False
        self.key, self.best = key, value
        point = {"queries": float(self.queries), "accuracy": accuracy, "loss": loss}
        if self.search.right is not None:
            point["key share"] = self.search.share(key)
        self.curve.append(point)
        return True


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
def _judged(logits: Logits, y: torch.Tensor, images: torch.Tensor) -> list[tuple[float, float]]:
    """Accuracy and cross-entropy of a model on encrypted images [K * N, C, H, W] of labels [N], for each
    K."""
    found = logits(images).float()
    labels = y.repeat(len(found) // len(y))
    right = (found.argmax(1) == labels).float()
    losses = functional.cross_entropy(found, labels, reduction="none")
    answers = torch.stack([right, losses]).view(2, -1, len(y)).mean(2).T.tolist()
    return [(accuracy, loss) for accuracy, loss in answers]
