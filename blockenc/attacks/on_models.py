"""The attacks of `judge` on a model that was trained under the scheme: what its answers give away."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import numpy as np
import torch

from blockenc.attacks import key_search, plaintext, seriation, slopes
from blockenc.attacks.base import Result, why_no_scipy
from blockenc.attacks.registry import Attack, Situation
from blockenc.cipher import Cipher
from blockenc.hidden import hide, reveal
from blockenc.keys import AnyKey

RANDOM_KEYS = 100
ORDERED_IMAGES = 2  # whose values seriation replaces
SLOPE_IMAGES = 32


@dataclasses.dataclass(frozen=True, repr=False)
class Model:
    """A model under attack. Holds a secret, the right key: its repr shows nothing.

    logits: encrypted images, as `Cipher.encrypt` gives them, to logits [N, classes].
    labelled: what the attacker has: plain images, uint8 [N, C, H, W], and their labels, int64 [N].
    test: other ones, for the scores.
    key: the right one, for the scores; and of ffx its table, which searches are handed as published.
    """

    logits: Callable[[torch.Tensor], torch.Tensor]
    labelled: tuple[torch.Tensor, torch.Tensor]
    test: tuple[torch.Tensor, torch.Tensor]
    key: AnyKey

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", hide(self.key))

    def __repr__(self) -> str:
        return "Model()"


def _model(s: Situation) -> Model:
    model: Model = s.more["model"]
    return model


def _why_not(s: Situation) -> str:
    if "model" not in s.more:
        return "no model"
    searched = {"shuffle", "np", "ffx"}
    if s.scheme.depends_on_size or not set(s.scheme.kinds) <= searched or s.scheme.is_decimal:
        return "a scheme that searches do not know"
    return plaintext.refusal(s.scheme)


def _why_not_ordered(s: Situation) -> str:
    return _why_not(s) or ("" if s.scheme.kinds.count("ffx") == 1 else "no table, or more than one")


def _why_not_slopes(s: Situation) -> str:
    return _why_not(s) or why_no_scipy()


def _right(s: Situation) -> Result:
    model = _model(s)
    x, y = model.test
    found = (model.logits(Cipher(reveal(model.key), s.scheme).encrypt(x)).argmax(1) == y).double().mean()
    return Result("right key", {"accuracy": float(found)}, {"images": float(len(y))})


def _random(s: Situation) -> Result:
    model = _model(s)
    found = key_search.random_keys(model.logits, model.test, s.scheme, keys=RANDOM_KEYS, seed=s.seed)
    return dataclasses.replace(found, attack="random keys")


def _search(s: Situation) -> Result:
    """By loss, until nothing gets better or half of the time is up: the rest is for other attacks."""
    model, end = _model(s), time.monotonic() + s.seconds / 2
    found = key_search.estimate_key(
        model.logits,
        model.labelled,
        s.scheme,
        objective="loss",
        flips=True,
        table=_table(s),
        truth=reveal(model.key),
        test=model.test,
        stop=lambda: time.monotonic() > end,
        seed=s.seed,
    )
    return dataclasses.replace(found, attack="key search")


def _table(s: Situation) -> np.ndarray | None:
    """That of ffx, of plain values."""
    secrets = _ffx(s)
    return None if secrets is None else secrets[1]


def _ffx(s: Situation) -> tuple[np.ndarray, np.ndarray] | None:
    """The mask and the table of the scheme's ffx step, if there is one."""
    secrets = key_search.secrets_of(s.scheme, reveal(_model(s).key))
    return next((secret for secret in secrets if isinstance(secret, tuple)), None)


def _ordered(s: Situation) -> Result:
    """Of the first position that ffx enciphers."""
    model = _model(s)
    secrets = _ffx(s)
    assert secrets is not None
    mask, table = secrets
    images = Cipher(reveal(model.key), s.scheme).encrypt(model.labelled[0][:ORDERED_IMAGES])
    position = int(np.flatnonzero(mask)[0])
    return seriation.seriation(model.logits, images, s.scheme.side, [position], table=table)


def _slopes(s: Situation) -> Result:
    model = _model(s)
    cipher = Cipher(reveal(model.key), s.scheme)
    secrets = _ffx(s)
    return slopes.read_slopes(
        model.logits,
        cipher.encrypt(model.labelled[0][:SLOPE_IMAGES]),
        s.scheme.side,
        enciphered=0 if secrets is None else int(secrets[0].sum()),
        truth=cipher.plan(),
    )


MODEL_ATTACKS: tuple[Attack, ...] = (
    Attack("right key", "the key", "accuracy", None, "images", _why_not, _right),
    Attack("random keys", "the scheme", "accuracy", None, "queries", _why_not, _random),
    Attack("key search", "labelled images, logits", "accuracy", None, "queries", _why_not, _search),
    Attack("seriation", "logits", "rank correlation", None, "queries", _why_not_ordered, _ordered),
    Attack("slopes", "logits", "neighbour", None, "queries", _why_not_slopes, _slopes),
)
