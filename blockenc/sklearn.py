"""Encryption as a scikit-learn transformer, for kernel machines. Nothing else here imports scikit-learn."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np

try:
    from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(
        f"BlockEncrypt needs scikit-learn 1.6 or newer ({error}): pip install 'blockenc[sklearn]'"
    ) from None

from blockenc.cipher import Cipher, as_cipher
from blockenc.hidden import hide, reveal


class BlockEncrypt(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Encrypts images that are the rows of a matrix, as scikit-learn has them: [n_samples, n_features].

    cipher: a Cipher, of as many channels as the images have.
    shape: (height, width) of grey images, or (height, width, channels); features are in the order of the
        values of a NumPy image, channels last. Default: a row of n_features grey pixels, which only schemes
        of block size 1 divide.
    maximum: the value that stands for white. Values are from 0 to it: 255 for bytes, 1 for floats, 16 for
        scikit-learn's digits. The negative of v is maximum - v.

    Results are float32 or float64 where X is, float32 for float16, of the type of X for integers and
    maximum=255, else float64. A scheme of shuffle, scramble, rotate, colour and np takes any values. One with
    ffx or nibbles has 256 of them: for it, every v * 255 / maximum must be an integer up to the rounding of
    its type; what is none is refused, and not rounded. (For the digits and ffx give maximum=17, where each
    value is a multiple of the byte 15, or 255.)

    Shuffle, scramble, rotate and colour permute features, and np mirrors them at maximum / 2. So distances
    stay as they are, and so do inner products about `mid_`, and a kernel machine learns the same from them
    (arXiv 2111.08927): SVC with the kernels "linear" and "rbf", nearest neighbours, StandardScaler and
    PCA before them. Not so where np is: gamma="scale", which depends on the variance of all values together
    (give a number), LinearSVC, which shrinks its intercept, and polynomial kernels. Ffx keeps no distances.

    mid_: maximum / 2, after `fit`. n_features_in_, feature_names_in_: as of every estimator.

    It holds a Cipher, and no key of its own: get_params and repr show a fingerprint and a scheme. Its pickle,
    which joblib's processes are sent (GridSearchCV(n_jobs=2)) and which Pipeline(memory=...) puts on disk,
    carries the plan for `shape`: whoever reads it can encrypt and decrypt such images, and has no key. A
    cipher with per_image is refused, since scikit-learn drops and repeats rows and knows no ids.

    >>> from blockenc import Key
    >>> x = np.random.default_rng(0).integers(0, 17, (5, 64)).astype(float)
    >>> cipher = Cipher(Key.generate(), block_size=4, steps=["shuffle", "np"], channels=1)
    >>> encrypt = BlockEncrypt(cipher, shape=(8, 8), maximum=16).fit(x)
    >>> y = encrypt.transform(x)
    >>> bool((encrypt.inverse_transform(y) == x).all())
    True
    >>> float(np.square(x[0] - x[1]).sum()) == float(np.square(y[0] - y[1]).sum())
    True
    """

    def __init__(
        self,
        cipher: Cipher,
        shape: tuple[int, int] | tuple[int, int, int] | None = None,
        maximum: float = 255,
    ) -> None:
        cipher = hide(cipher)
        self.shape = shape
        self.maximum = maximum
        self.cipher = reveal(cipher)

    @property
    def cipher(self) -> Cipher:
        # None where it was refused: the traceback of that shows this.
        return self.__dict__.get("cipher")  # type: ignore[return-value]

    @cipher.setter
    def cipher(self, value: Cipher) -> None:
        # At once, and not in fit as is the custom: else repr would show, and pickles would carry, key bytes.
        value = hide(value)
        self.__dict__["cipher"] = as_cipher(value)

    def fit(self, X: Any, y: Any = None) -> BlockEncrypt:
        """Check X against `shape`, and compile. Raises TypeError or ValueError naming the argument."""
        X = validate_data(self, X, dtype="numeric")
        self._shape = self._checked_shape(X.shape[1])
        if type(self.maximum) not in (int, float) and not isinstance(self.maximum, (np.integer, np.floating)):
            raise TypeError(f"maximum: expected a number, got {type(self.maximum).__name__}")
        if not 0 < self.maximum < math.inf:
            raise ValueError(f"maximum: expected a finite number above 0, got {self.maximum!r}")
        if self.cipher.per_image:
            raise ValueError("cipher: has per_image=True, and rows have no ids")
        if self.cipher.scheme.is_decimal:
            raise ValueError('cipher: expected the "byte" profile of ffx, got the "decimal" one')
        self._check_values(X)
        # A copy: parameters stay as they were given.
        self._compiled = copy.copy(self.cipher).prepare(*self._shape[:2])
        self.mid_ = float(self.maximum) / 2
        self._n_features_out = X.shape[1]
        return self

    def transform(self, X: Any) -> Any:
        """The encrypted images, rows as X has them. Raises ValueError for values that cannot be
        encrypted, with the place of one."""
        return self._apply(X, decrypt=False)

    def inverse_transform(self, X: Any) -> Any:
        """The images that `transform` made X of, up to the rounding of v / maximum and of 1 - v."""
        return self._apply(X, decrypt=True)

    def _apply(self, X: Any, decrypt: bool) -> Any:
        check_is_fitted(self)
        X = validate_data(self, X, dtype="numeric", reset=False)
        self._check_values(X)
        function = self._compiled.decrypt if decrypt else self._compiled.encrypt
        images = X.reshape(len(X), *self._shape)
        floats = X.dtype.kind == "f"
        if not floats and self.maximum == 255:
            return function(images.astype(np.uint8)).reshape(X.shape).astype(X.dtype)
        kind = np.float32 if floats and X.dtype.itemsize < 8 else np.float64
        fractions = images.astype(kind) / kind(self.maximum)
        return function(fractions).reshape(X.shape) * kind(self.maximum)

    def _check_values(self, X: np.ndarray) -> None:
        if X.dtype.kind not in "biuf" or (X.dtype.kind == "f" and X.dtype.itemsize > 8):
            raise TypeError(f"X: expected integers or floats of at most 64 bits, got {X.dtype}")
        # The first in scikit-learn's words, which its own checks of estimators look for.
        for wrong, what in (
            (X < 0, "Negative values in data passed to BlockEncrypt"),
            (np.greater(X, self.maximum), f"expected values up to maximum={self.maximum!r}"),
        ):
            if wrong.any():
                raise ValueError(f"X: {what}, got {_first(X, wrong)}")
        if not self.cipher.scheme.makes_integers:
            return
        bytes_ = X.astype(np.float64) * (255 / float(self.maximum))
        precision = np.finfo(X.dtype).eps if X.dtype.kind == "f" else np.finfo(np.float64).eps
        between = np.abs(bytes_ - np.rint(bytes_)) > 512 * precision
        if between.any():
            raise ValueError(
                f"X: the scheme has 256 values, k * maximum / 255 with maximum={self.maximum!r}, got "
                f"{_first(X, between)}; give another maximum, or round X yourself"
            )

    def _checked_shape(self, features: int) -> tuple[int, int, int]:
        shape = (1, features) if self.shape is None else self.shape
        if not isinstance(shape, (tuple, list)) or len(shape) not in (2, 3):
            raise TypeError(f"shape: expected (height, width) or (height, width, channels), got {shape!r}")
        if not all(isinstance(side, (int, np.integer)) and side > 0 for side in shape):
            raise ValueError(f"shape: expected positive integers, got {shape!r}")
        height, width, channels = (*map(int, shape), 1)[:3]
        if height * width * channels != features:
            raise ValueError(f"shape: expected {features} values, one for each feature of X, got {shape!r}")
        scheme = self.cipher.scheme
        if channels != scheme.channels:
            raise ValueError(
                f"shape: expected {scheme.channels} channels as in the cipher's scheme, got {shape!r}"
            )
        if height % scheme.side or width % scheme.side:
            raise ValueError(
                f"shape: expected height and width to be multiples of {scheme.side}, got {shape!r}"
            )
        return height, width, channels

    def __getstate__(self) -> Any:
        """With the plan for `shape`, since what unpickles this to fit it has no key to compile it with."""
        state = super().__getstate__()
        if isinstance(self.shape, (tuple, list)) and not self.cipher.per_image:
            state["cipher"] = copy.copy(self.cipher).prepare(*self.shape[:2])
        return state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _first(X: np.ndarray, wrong: np.ndarray) -> str:
    row, column = np.argwhere(wrong)[0]
    return f"{X[row, column]} in row {row}, column {column}"
