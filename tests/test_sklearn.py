"""BlockEncrypt: what it keeps of images, what it refuses, and that no key leaves it."""

from __future__ import annotations

import io
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")

import joblib
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.utils.estimator_checks import check_estimator

from blockenc import Cipher, Key, KeySet, Scheme, schemes
from blockenc.sklearn import BlockEncrypt
from blockenc.steps import Np, Rotate, Scramble, Shuffle
from tests.test_secrets import SECRET, shows

KEY = Key(SECRET)
X, Y = load_digits(return_X_y=True)
OF_BLOCKS = Scheme(2, [Scramble(period="image"), Rotate(period="image"), Np(period="image")], channels=1)


def transformer(*steps: str, size: int = 4, maximum: float = 16, shape: Any = (8, 8)) -> BlockEncrypt:
    return BlockEncrypt(Cipher(KEY, block_size=size, steps=steps, channels=1), shape, maximum)


ISOMETRIES = (
    transformer("shuffle"), transformer("np"), transformer("shuffle", "np", size=8),
    BlockEncrypt(Cipher(KEY, OF_BLOCKS), (8, 8), 16),
)  # fmt: skip


@pytest.mark.parametrize("encrypt", ISOMETRIES, ids=str)
def test_distances_and_inner_products_are_exactly_kept(encrypt: BlockEncrypt) -> None:
    """Digits are integers, so that float64 is exact."""
    y = encrypt.fit_transform(X)
    assert y.dtype == np.float64
    assert not np.array_equal(y, X)
    assert np.array_equal(encrypt.inverse_transform(y), X)
    some, others = X[:300], y[:300]
    squares = [np.square(z[:, None] - z[None]).sum(2) for z in (some, others)]
    assert np.array_equal(*squares)
    about = [z - encrypt.mid_ for z in (some, others)]
    assert np.array_equal(about[0] @ about[0].T, about[1] @ about[1].T)
    assert encrypt.mid_ == 8


def test_ffx_keeps_no_distances() -> None:
    """So that the test above can fail."""
    y = transformer("ffx", maximum=17).fit_transform(X)
    squares = [np.square(z[:100, None] - z[None, :100]).sum(2) for z in (X, y)]
    assert not np.allclose(*squares)


@pytest.mark.parametrize("encrypt", ISOMETRIES, ids=str)
def test_machines_learn_the_same(encrypt: BlockEncrypt) -> None:
    half = slice(None, None, 2), slice(1, None, 2)
    for machine in (
        SVC(kernel="linear"), SVC(gamma=0.001), KNeighborsClassifier(1),
        make_pipeline(StandardScaler(), SVC(gamma=0.01)),
    ):  # fmt: skip
        plain = clone(machine).fit(X[half[0]], Y[half[0]]).predict(X[half[1]])
        model = make_pipeline(clone(encrypt), clone(machine)).fit(X[half[0]], Y[half[0]])
        assert np.array_equal(model.predict(X[half[1]]), plain)


def test_what_is_encrypted_is_what_the_cipher_makes() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 8, 3)).astype(np.uint8)
    cipher = Cipher(KEY, block_size=4)
    want = cipher.encrypt(pixels).reshape(5, -1)
    for kind in (np.uint8, np.int64, np.uint16, np.float32, np.float64):
        encrypt = BlockEncrypt(cipher, (4, 8, 3)).fit(pixels.reshape(5, -1).astype(kind))
        got = encrypt.transform(pixels.reshape(5, -1).astype(kind))
        assert got.dtype == kind
        assert np.allclose(got, want, atol=1e-4, rtol=0)
        assert np.allclose(encrypt.inverse_transform(got), pixels.reshape(5, -1), atol=1e-4, rtol=0)
    assert np.array_equal(BlockEncrypt(cipher, (4, 8, 3)).fit_transform(pixels.reshape(5, -1)), want)
    halves = (pixels.reshape(5, -1) / 255).astype(np.float16)
    assert BlockEncrypt(Cipher(KEY, steps=["np"]), (4, 8, 3), 1).fit_transform(halves).dtype == np.float32


def test_integers_with_another_maximum_become_floats() -> None:
    y = transformer("np").fit_transform(X.astype(np.int64))
    assert y.dtype == np.float64
    assert np.array_equal(y, transformer("np").fit_transform(X))


def test_ffx_takes_its_256_values_and_no_others() -> None:
    for maximum in (17, 255, 255.0, 51):
        for kind in (np.float64, np.float32, np.int64):
            encrypt = transformer("shuffle", "np", "ffx", maximum=maximum)
            y = encrypt.fit_transform(X.astype(kind))
            assert np.allclose(encrypt.inverse_transform(y), X, atol=1e-5)
    for maximum in (16, 20, 256):
        with pytest.raises(ValueError, match=r"X: the scheme has 256 values, k \* maximum / 255 .*row 0"):
            transformer("ffx", maximum=maximum).fit(X)
    nibbles = BlockEncrypt(Cipher(KEY, schemes.LE(), backend=None), None, 255)
    with pytest.raises(ValueError, match="shape"):
        nibbles.fit(X)
    slightly = X.copy()
    slightly[3, 5] += 1e-6
    with pytest.raises(ValueError, match="row 3, column 5"):
        transformer("ffx", maximum=17).fit(slightly)


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda x: x.__setitem__((2, 7), -0.5), "Negative values .* got -0.5 in row 2, column 7"),
        (lambda x: x.__setitem__((2, 7), 16.5), "up to maximum=16, got 16.5 in row 2, column 7"),
        (lambda x: x.__setitem__((2, 7), np.nan), "NaN"),
        (lambda x: x.__setitem__((2, 7), np.inf), "infinity"),
    ],
)
def test_values_that_are_refused(change: Callable[[np.ndarray], None], says: str) -> None:
    encrypt = transformer("shuffle").fit(X)
    wrong = X[:9].copy()
    change(wrong)
    for call in (encrypt.transform, encrypt.inverse_transform, clone(encrypt).fit):
        with pytest.raises(ValueError, match=says):
            call(wrong)


def test_kinds_of_values_that_are_refused() -> None:
    if np.dtype(np.longdouble).itemsize > 8:
        with pytest.raises(TypeError, match="at most 64 bits"):
            transformer("shuffle").fit(X.astype(np.longdouble))
    with pytest.raises(ValueError, match="Complex"):
        transformer("shuffle").fit(X.astype(complex))


@pytest.mark.parametrize(
    "shape, error, says",
    [
        ((8, 7), ValueError, "expected 64 values"),
        ((4, 4, 4), ValueError, "expected 1 channels"),
        ((2, 32), ValueError, "multiples of 4"),
        (None, ValueError, "multiples of 4"),
        ((8.0, 8), ValueError, "positive integers"),
        ((-8, -8), ValueError, "positive integers"),
        (64, TypeError, "expected .height, width."),
        ((64,), TypeError, "expected .height, width."),
    ],
)
def test_shapes(shape: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=f"shape: .*{says}"):
        transformer("shuffle", shape=shape).fit(X)


def test_other_arguments() -> None:
    for maximum, error in (("16", TypeError), (True, TypeError), (0, ValueError), (np.inf, ValueError)):
        with pytest.raises(error, match="maximum: expected"):
            transformer("np", maximum=maximum).fit(X)
    with pytest.raises(ValueError, match="per_image=True"):
        BlockEncrypt(Cipher(KEY, channels=1, per_image=True), (8, 8)).fit(X)
    decimal = Cipher(KeySet.from_seed(1, "p"), channels=1, ffx="decimal")
    with pytest.raises(ValueError, match='the "byte" profile'):
        BlockEncrypt(decimal, (8, 8)).fit(X)
    with pytest.raises(NotFittedError):
        transformer("np").transform(X)
    with pytest.raises(ValueError, match="64 features"):
        transformer("np").fit(X).transform(X[:, :32])


# --- keys ---


def test_a_key_is_refused_at_once() -> None:
    encrypt = transformer("np")
    for key in (SECRET, KEY, KeySet(all=KEY), None):
        with pytest.raises(TypeError, match="cipher: expected a Cipher, got"):
            BlockEncrypt(key)
        with pytest.raises(TypeError, match="cipher: expected a Cipher, got"):
            encrypt.set_params(cipher=key)
    assert isinstance(encrypt.cipher, Cipher)


@pytest.mark.parametrize("scheme", [Scheme(4, channels=1), OF_BLOCKS])
def test_what_is_shown_and_pickled_holds_no_key(scheme: Scheme, tmp_path: Path) -> None:
    for fit in (False, True):
        encrypt = BlockEncrypt(Cipher(KEY, scheme), (8, 8))
        want = clone(encrypt).fit(X).transform(X)
        if fit:
            encrypt.fit(X)
        for text in (repr(encrypt), str(encrypt.get_params()), encrypt._repr_html_()):
            assert KEY.fingerprint in text
            assert shows(text) == []
        buffer = io.BytesIO()
        joblib.dump(make_pipeline(encrypt), buffer)
        for data in (pickle.dumps(encrypt), buffer.getvalue()):
            assert shows(data) == []
        again = pickle.loads(pickle.dumps(encrypt))
        assert again.cipher._key is None
        assert np.array_equal(again.fit(X).transform(X), want)  # also without the key, for this shape
    with pytest.raises(ValueError, match=r"has no plan for 4 x 16|expected positive multiples"):
        again.set_params(cipher=pickle.loads(pickle.dumps(Cipher(KEY, OF_BLOCKS))), shape=(4, 16)).fit(X)


def test_clones_and_parameters_stay_as_they_were_given() -> None:
    cipher = Cipher(KEY, OF_BLOCKS)
    encrypt = BlockEncrypt(cipher, (8, 8), 16).fit(X)
    assert encrypt.cipher is cipher
    assert not cipher._prepared
    again = clone(encrypt)
    assert again.get_params()["shape"] == (8, 8)
    assert np.array_equal(again.fit_transform(X), encrypt.transform(X))


def test_a_grid_search_in_processes() -> None:
    """Ciphers, and what follows them, are parameters to be searched over."""
    ciphers = [Cipher(KEY, OF_BLOCKS).prepare(8, 8), Cipher(KEY, steps=["ffx"], channels=1)]
    model = make_pipeline(BlockEncrypt(Cipher(KEY, OF_BLOCKS), (8, 8), 17), SVC(gamma=0.001))
    grid = {"blockencrypt__cipher": ciphers}
    search = GridSearchCV(model, grid, cv=2, n_jobs=2).fit(X[:600], Y[:600])
    assert search.best_params_["blockencrypt__cipher"].scheme == OF_BLOCKS
    assert search.best_score_ == cross_val_score(SVC(gamma=0.001), X[:600], Y[:600], cv=2).mean()


def test_names_of_features() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=[f"pixel{n}" for n in range(64)])
    encrypt = transformer("shuffle").set_output(transform="pandas").fit(frame)
    y = encrypt.transform(frame)
    assert list(y.columns[:2]) == ["blockencrypt0", "blockencrypt1"]  # no pixel is where its name says
    assert np.array_equal(y.to_numpy(), transformer("shuffle").fit_transform(X))


def test_what_scikit_learn_checks_of_estimators() -> None:
    scheme = Scheme(1, [Shuffle(period="image"), Np(period="image")], channels=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = check_estimator(BlockEncrypt(Cipher(KEY, scheme), maximum=1000), on_fail=None, on_skip=None)
    failed = {check["check_name"] for check in found if check["status"] == "failed"}
    # Wrong parameters are to be taken until fit: a key would be shown and pickled till then.
    assert failed == {"check_do_not_raise_errors_in_init_or_set_params"}
    assert sum(check["status"] == "passed" for check in found) > 40
