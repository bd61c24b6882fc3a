"""Support vector machines on scikit-learn's digits, plain and encrypted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC

from blockenc import Cipher, Key, Scheme
from blockenc.sklearn import BlockEncrypt
from blockenc.steps import Np, Rotate, Scramble

KEY = Key(bytes(range(32)))
SHAPE = (8, 8)
MAXIMUM = 17  # digits are 0 to 16, and so multiples of the byte 15, which ffx needs
# A number, since "scale" depends on the variance of all values together, which np changes.
MACHINES = {"linear": SVC(kernel="linear"), "RBF": SVC(kernel="rbf", gamma=0.001)}
STEPS = {
    "shuffle": ("shuffle",),
    "np": ("np",),
    "shuffle, np": ("shuffle", "np"),
    "ffx": ("ffx",),
    "all three": ("shuffle", "np", "ffx"),
}


class Case(NamedTuple):
    name: str
    scheme: Scheme


def cases() -> Iterator[Case]:
    for name, steps in STEPS.items():
        for size in (2, 4, 8):
            yield Case(f"{name}, M = {size}", Scheme(size, steps, channels=1))
    of_blocks = [Scramble(period="image"), Rotate(period="image"), Np(unit="block", period="image")]
    yield Case("scramble, rotate, np of blocks, b = 2", Scheme(2, of_blocks, channels=1))


def data(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Images to train and to test on, and the labels of each: halves, each with as many of every class."""
    x, y = load_digits(return_X_y=True)
    return tuple(train_test_split(x, y, test_size=0.5, random_state=seed, stratify=y))  # type: ignore


def measure(case: Case, machine: str, wrong_keys: int, seed: int) -> dict[str, Any]:
    """Accuracies of a machine that learned from encrypted images."""
    x, x_test, y, y_test = data(seed)
    plain = MACHINES[machine].fit(x, y).predict(x_test)

    def encrypted(key: Key, images: np.ndarray) -> np.ndarray:
        encrypt = BlockEncrypt(Cipher(key, case.scheme), SHAPE, MAXIMUM)
        return encrypt.fit_transform(images)  # type: ignore[no-any-return]

    learned = MACHINES[machine].fit(encrypted(KEY, x), y)

    def accuracy(images: np.ndarray) -> float:
        return float((learned.predict(images) == y_test).mean())

    others = (KEY.derive(f"wrong {n}") for n in range(wrong_keys))
    right = learned.predict(encrypted(KEY, x_test))
    return {
        "name": case.name,
        "scheme": case.scheme.to_json(),
        "machine": machine,
        "plain": float((plain == y_test).mean()),
        "right": float((right == y_test).mean()),
        "as plain": float((right == plain).mean()),
        "wrong": [accuracy(encrypted(other, x_test)) for other in others],
        "none": accuracy(x_test),
    }
