"""What a user holds: a key and a scheme, compiled; images in, images of the same kind out."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Mapping, Sequence, Set
from operator import index
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch

from blockenc.backends import aten
from blockenc.dtypes import result_dtype, torch_dtype
from blockenc.gradient import differentiates, straight_through
from blockenc.hidden import hide, reveal
from blockenc.images import FITS, as_tensor, cut_back, fitted
from blockenc.keys import AnyKey, ExplicitKey, KeySet, as_key
from blockenc.ops import APPLY, APPLY_OUT, check_no_derivative, check_size, has_values, header_of
from blockenc.plan import BYTE_VALUES, DECIMAL_VALUES, Plan
from blockenc.plan.compilation import Compiler, check_key
from blockenc.plan.packing import DECIMAL_IN, DECIMAL_OUT, QUANTISES
from blockenc.scheme import Scheme
from blockenc.steps import Step
from blockenc.value_range import within_unit_range

# The output stage computes in float32: beyond the first a number is infinite, up to the second it is 0.
FLOAT32_MAX = float(np.finfo(np.float32).max)
FLOAT32_ZERO = 2.0**-150

Dtype: TypeAlias = torch.dtype | np.dtype | str
Fit: TypeAlias = Literal["error", "pad", "crop"]
ImageId: TypeAlias = int | str | bytes

# Plans that a cipher keeps, and ciphers that are kept for a key: a new normalisation for each batch, or a
# new size for each photo, must not fill memory.
MOST_KEPT = 32
ANY_SIZE = (0, 0)  # in the place of height and width


def keep(kept: dict[Any, Any], key: Any, value: Any) -> None:
    """Adds to a cache, from which the oldest entry goes where it is full."""
    while len(kept) >= MOST_KEPT:
        with contextlib.suppress(KeyError, StopIteration):  # another thread was faster
            del kept[next(iter(kept))]
    kept[key] = value


# A call such as blockenc.encrypt(x, key, block_size=8) should not check its scheme anew. Typed, since 4 and
# 4.0 are equal, and only one of them is a block size.
_kept_scheme = functools.lru_cache(maxsize=MOST_KEPT, typed=True)(Scheme)


def torch_operations() -> contextlib.AbstractContextManager[None]:
    """What torch's own operations, which may start threads, are done in. A trace cannot enter it."""
    return contextlib.nullcontext() if torch.compiler.is_compiling() else aten.one_thread_if_forked()


def scheme_of(scheme: Scheme | None, **fields: Any) -> Scheme:
    """The scheme given, or one of the fields given (None: not given). Raises TypeError for both."""
    given = {name: value for name, value in fields.items() if value is not None}
    if scheme is None:
        if isinstance(given.get("steps"), list):
            given["steps"] = tuple(given["steps"])
        try:
            hash(tuple(given.values()))
        except TypeError:  # no scheme has such a value, and Scheme says which
            return Scheme(**given)
        return _kept_scheme(**given)
    if not isinstance(scheme, Scheme):
        raise TypeError(f"scheme: expected a Scheme, got {type(scheme).__name__}")
    if given:
        raise TypeError(f"scheme: give a Scheme or its fields, got both ({', '.join(sorted(given))})")
    return scheme


class Passes(NamedTuple):
    """The plans that are applied one after the other, and each in the form that the operators take."""

    plans: Sequence[Plan]
    packed: Sequence[torch.Tensor]

    def dtypes(self, x: torch.dtype, dtype: torch.dtype) -> list[torch.dtype]:
        """Of the results of the passes: in between are integers, or floats of x's type until one
        quantises."""
        found = []
        for plan in self.plans[:-1]:
            if plan.quantises or not x.is_floating_point:
                x = torch.uint16 if plan.out_values == DECIMAL_VALUES else torch.uint8
            found.append(x)
        return [*found, dtype]

    def apply(
        self, x: torch.Tensor, dtype: torch.dtype, backend: str | None, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        for packed, between in zip(self.packed[:-1], self.dtypes(x.dtype, dtype)):
            x = APPLY(x, packed, between, backend)
        if out is None:
            return APPLY(x, self.packed[-1], dtype, backend)  # type: ignore[no-any-return]
        APPLY_OUT(x, self.packed[-1], out, backend)
        return out


def _pack(
    plans: Sequence[Plan], mean: Sequence[float] | None, std: Sequence[float] | None, device: torch.device
) -> tuple[torch.Tensor, ...]:
    """The plans on a device. Outside the modes of a trace, so that what is kept is a real tensor."""
    last = plans[-1].with_output(mean, std)
    with torch.utils._python_dispatch._disable_current_modes():
        packed = tuple(torch.from_numpy(plan.packed).to(device) for plan in (*plans[:-1], last))
        for tensor in packed:
            if device.type != "cpu":
                header_of(tensor)  # now: while a CUDA graph is captured, a first look at it could not wait
    return packed


class Cipher:
    """A scheme under a key, compiled once, applied to any number of images.

    key: a Key, a KeySet, an ExplicitKey, or 32 bytes.
    scheme: a Scheme; or give its fields as keywords (block_size=, steps=, channels=, ffx=).
    per_image: every image has keys of its own, derived from the key and the image's id; `encrypt` and
        `decrypt` are then given the ids.
    backend: "cuda", "native", "numba" or "aten", and with an instruction-set level "native/avx2" and the
        like; default: BLOCKENC_BACKEND, else the fastest there is.
    check_values: look for values outside [0, 1] in floating images on the CPU (one more pass over them; not
        in a compiled graph or inside of torch.func). Those beyond by up to half a step of a byte, 0.5/255,
        are rounding errors of earlier transforms and are clamped; farther ones, infinities and NaN raise
        ValueError. Without the check they are clamped, NaN becoming 0, where a step makes integers, and
        otherwise transformed like any number.
    fit: what `encrypt` does with images whose height or width is no multiple of `scheme.side` (the block
        size), the words of the command line: "error", "pad" (the last row and column are repeated at the
        bottom and the right, up to the next multiple; `decrypt` takes `size` to cut that off again) or
        "crop". Default: "error"; but EncryptTransform pads, and warns.
    gradient: what autograd is told about floating images that require grad. None: that there is no
        derivative, an error. "straight-through" (for attacks, and for training what makes the images):
        results are the same, and gradients go back to where the values came from. That is exact for
        shuffle, scramble, rotate, colour, np (whose slope is -1) and std. Through ffx and the rounding to
        integers the slope is taken as 1, though the true derivative is 0 or none. First derivatives of
        autograd only: torch.func, forward mode, `out` and compiled graphs refuse as before. Not with
        nibbles, half of a value having no slope, nor with per_image.

    Where the period of a step is the whole image, its secret belongs to the size of the image: it is
    derived, and the plan compiled, when a size is first met. Such a cipher, and one with per_image, holds
    the key; others use it here and do not keep it.

    A pickled Cipher (DataLoader workers under spawn need it) carries its plans, not the key: who reads
    the pickle can encrypt and decrypt under this scheme and, in scheme version 1, under every other one of
    the same key, block size and channels that has no other steps. Keep data apart by different keys. It
    knows the sizes of images that `prepare` was given or that were met before, and no others. One with
    per_image is not pickled.

    Raises TypeError or ValueError naming the argument.

    >>> from blockenc import Key
    >>> cipher = Cipher(Key.generate(), block_size=8, steps=["shuffle", "np"])
    >>> x = np.arange(16 * 24 * 3, dtype=np.uint8).reshape(16, 24, 3)
    >>> bool((cipher.decrypt(cipher.encrypt(x)) == x).all())
    True
    """

    def __init__(
        self,
        key: AnyKey,
        scheme: Scheme | None = None,
        *,
        block_size: int | None = None,
        steps: Sequence[str | Step] | None = None,
        channels: int | None = None,
        ffx: Literal["byte", "decimal"] | None = None,
        per_image: bool = False,
        backend: str | None = None,
        check_values: bool = True,
        fit: Fit | None = None,
        gradient: Literal["straight-through"] | None = None,
    ) -> None:
        key = hide(key)
        self.scheme = scheme_of(scheme, block_size=block_size, steps=steps, channels=channels, ffx=ffx)
        self.per_image = per_image
        self.backend = backend
        self.check_values = check_values
        if fit is not None and fit not in FITS:
            raise ValueError(f"fit: expected one of {', '.join(FITS)}, got {fit!r}")
        self.fit, self.fit_given = fit or "error", fit is not None
        if gradient not in (None, "straight-through"):
            raise ValueError(f"gradient: expected None or 'straight-through', got {gradient!r}")
        if gradient and per_image:
            raise ValueError("gradient: goes with per_image=False only")
        if gradient and any(getattr(step, "cells", "byte") == "nibble" for step in self.scheme.bound_steps):
            raise ValueError("gradient: expected None where steps work on nibbles, which have no slope")
        self.gradient = gradient
        key = as_key(key)
        check_key(self.scheme, key)
        if per_image and not key.derives:
            raise ValueError(
                "per_image: keys of images are derived, and nothing is derived of an ExplicitKey, or of the "
                "published code's keys (KeySet.from_seed)"
            )
        if per_image and self.scheme.is_decimal:
            raise ValueError(
                "per_image: goes with the byte profile of ffx only, and the scheme has the decimal one"
            )
        integers, decimal = QUANTISES * self.scheme.makes_integers, self.scheme.is_decimal
        self._flags = {False: integers | DECIMAL_OUT * decimal, True: integers | DECIMAL_IN * decimal}
        self._side = self.scheme.side
        self.fingerprint = key.fingerprint
        self._key: KeySet | ExplicitKey | None = key
        self._plans: dict[tuple[int, int], dict[bool, list[Plan]]] = {}
        self._prepared: dict[tuple[int, int], dict[bool, list[Plan]]] = {}  # these stay
        self._linear: dict[tuple[int, int], dict[bool, list[Plan]]] = {}  # for gradients
        self._compiled: dict[tuple, tuple[torch.Tensor, ...]] = {}
        self._any_size = not self.scheme.depends_on_size
        if self._any_size:
            side = self.scheme.side
            compiler = Compiler(self.scheme, key, [b""] if per_image else None)
            plans = compiler.plans(side, side)
            self._any_size = all(plan.grid is None for passes in plans.values() for plan in passes)
            if self._any_size and not per_image:
                self._plans[ANY_SIZE] = plans
                if gradient:
                    self._linear[ANY_SIZE] = Compiler(self.scheme, key, linear=True).plans(side, side)
                self._key = None

    def encrypt(
        self,
        x: Any,
        out: torch.Tensor | None = None,
        dtype: Dtype | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        ids: Sequence[ImageId] | ImageId | None = None,
    ) -> Any:
        """The encrypted images, of the kind, shape, layout and device of x.

        x: a torch tensor [N, C, H, W] or [C, H, W] of any strides; a NumPy array, another array that
            speaks DLPack (CuPy, JAX) or a PIL image, [N, H, W, C] or [H, W, C]; under a scheme of one
            channel also grey images [H, W] and [N, H, W]. uint8, or float32, float16, bfloat16 or
            float64 in [0, 1]. H and W are multiples of `scheme.side`, unless `fit` says otherwise.
        out: torch tensors only: written and returned instead of a new tensor; apart from x.
        dtype: of the result. Default: x's, and float32 (value / m) for uint8 under the decimal profile.
            A float type for uint8 images gives value / 255; torch.uint16 gives raw decimal values.
            float64 is computed in float64 (no value loses a bit that no step quantises), in plain torch
            operations, which is slower.
        mean, std: C numbers each; the result is (value / scale - mean) / std, in the same pass.
        ids: with per_image only, and then necessary: the id of each image (of a single image, also without
            brackets): a number from 0, text or bytes, of which 7, "7" and b"7" are the same.

        Raises TypeError or ValueError naming the argument.

        >>> from blockenc import Key
        >>> cipher = Cipher(Key.generate(), block_size=4, per_image=True)
        >>> x = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
        >>> y = cipher.encrypt(x, ids=["cat-1", "cat-2"])
        >>> torch.equal(cipher.decrypt(y, ids=["cat-1", "cat-2"]), x), torch.equal(y[0], y[1])
        (True, False)
        """
        return self._apply(x, False, out, dtype, mean, std, None, ids)

    __call__ = encrypt

    def decrypt(
        self,
        y: Any,
        out: torch.Tensor | None = None,
        dtype: Dtype | None = None,
        size: tuple[int, int] | None = None,
        ids: Sequence[ImageId] | ImageId | None = None,
    ) -> Any:
        """The images that `encrypt` made y of, of the kind, shape, layout and device of y.

        size: (height, width) before padding, of images that `fit="pad"` padded: what it added is cut off.
        out, dtype, ids: as for `encrypt`.

        Exact for uint8 images (dtype=torch.uint8 for decimal float ones), and for float images that went
        through no step that makes integers (ffx, nibbles) up to the rounding of 1 - v; such a step quantises
        floats to 1/255.

        >>> from blockenc import Key
        >>> cipher = Cipher(Key.generate(), fit="pad")
        >>> x = torch.zeros(3, 10, 10, dtype=torch.uint8)
        >>> torch.equal(cipher.decrypt(cipher.encrypt(x), size=(10, 10)), x)
        True
        """
        return self._apply(y, True, out, dtype, None, None, size, ids)

    def result_dtype(
        self, x: torch.dtype, dtype: torch.dtype | None = None, *, decrypt: bool = False
    ) -> torch.dtype:
        """The dtype of the result for images of the dtype x, where `dtype` is asked for. Raises TypeError."""
        return result_dtype(x, self._flags[decrypt], dtype)

    def plan(self, *, decrypt: bool = False) -> Plan:
        """The compiled transform, for those who write backends or fold keys into weights.

        Raises ValueError where it is not a single plan for images of every size; `plans` gives those.
        """
        plans = self._plans.get(ANY_SIZE, {}).get(decrypt, [])
        if len(plans) != 1:
            raise ValueError(
                "scheme: its plan depends on the size of the images, or on the image, or it takes several "
                "passes; expected one that a single plan expresses, such as every scheme of version 1"
            )
        return plans[0]

    @property
    def takes_any_size(self) -> bool:
        """Whether the same plans serve images of every size."""
        return self._any_size

    def plans(self, height: int, width: int, *, decrypt: bool = False) -> list[Plan]:
        """The plans for images of that size in pixels, applied one after the other; mostly a single one."""
        if self.per_image:
            raise ValueError("per_image: every image has plans of its own")
        return self._plans_of_size(height, width)[decrypt]

    def prepare(self, height: int, width: int) -> Cipher:
        """Compiles the plans for images of that size now, so that a pickle of this cipher has them."""
        if not self.per_image:
            self._prepared[self._size(height, width)] = self._plans_of_size(height, width)
            if self.gradient:
                self._linear_plans(height, width)
        return self

    def __repr__(self) -> str:
        if "_any_size" not in vars(self):  # shown by the traceback of an error within __init__
            return "Cipher(unfinished)"
        per_image = ", per_image=True" if self.per_image else ""
        return f"Cipher(fingerprint={self.fingerprint!r}, scheme={self.scheme!r}{per_image})"

    def __copy__(self) -> Cipher:
        new = type(self).__new__(type(self))
        kept = {name: dict(getattr(self, name)) for name in ("_plans", "_prepared", "_linear", "_compiled")}
        new.__dict__.update(self.__dict__, **kept)
        return new

    def __deepcopy__(self, memo: Any) -> Cipher:
        return self.__copy__()  # keys and plans are immutable

    def __getstate__(self) -> dict[str, Any]:
        if self.per_image:
            raise TypeError(
                "a Cipher with per_image=True is not pickled: it holds the key; make one in each process "
                "(a DataLoader's worker_init_fn), or start workers by fork"
            )
        return {**self.__dict__, "_compiled": {}, "_key": None}

    def _size(self, height: int, width: int) -> tuple[int, int]:
        # operator.index, since a trace with dynamic shapes then takes the size for a constant; int() keeps a
        # symbol, for which no plan can be compiled.
        return ANY_SIZE if self._any_size else (index(height), index(width))

    def _plans_of_size(self, height: int, width: int) -> dict[bool, list[Plan]]:
        size = self._size(height, width)
        plans = self._prepared.get(size) or self._plans.get(size)
        if plans is None:
            if self._key is None:
                known = ", ".join(f"{h} x {w}" for h, w in {**self._prepared, **self._plans}) or "none"
                raise ValueError(
                    f"x: this Cipher was pickled, without its key, and has no plan for {size[0]} x {size[1]} "
                    f"pixels (it has: {known}); call prepare(height, width) before it is pickled"
                )
            side = self.scheme.side
            if size[0] % side or size[1] % side or min(size) < 1:
                raise ValueError(
                    f"height, width: expected positive multiples of {side}, got {size[0]} x {size[1]}"
                )
            plans = Compiler(self.scheme, self._key).plans(*size)
            keep(self._plans, size, plans)
        return plans

    def _linear_plans(self, height: int, width: int) -> dict[bool, list[Plan]]:
        size = self._size(height, width)
        self._plans_of_size(height, width)  # says so where there are none for that size
        plans = self._linear.get(size)
        if plans is None:
            if self._key is None:
                raise ValueError("gradient: this Cipher was pickled before prepare(height, width) was called")
            plans = Compiler(self.scheme, self._key, linear=True).plans(*size)
            keep(self._linear, size, plans)
        return plans

    def _passes(
        self,
        tensor: torch.Tensor,
        decrypt: bool,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        ids: Sequence[ImageId] | ImageId | None,
    ) -> Passes:
        if mean is not None or std is not None:
            mean, std = _per_channel(mean, std, self.scheme.channels)
        if self.per_image or ids is not None:
            plans = self._plans_of_images(tensor, decrypt, ids)
            return Passes(plans, _pack(plans, mean, std, tensor.device))
        size = self._size(tensor.shape[-2], tensor.shape[-1])
        plans = self.plans(*size, decrypt=decrypt)
        key = (size, decrypt, tensor.device, mean, std)
        packed = self._compiled.get(key)
        if packed is None:
            packed = self._pack(*key)
            keep(self._compiled, key, packed)
        return Passes(plans, packed)

    def _pack(
        self,
        size: tuple[int, int],
        decrypt: bool,
        device: torch.device,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
    ) -> tuple[torch.Tensor, ...]:
        return _pack(self._plans_of_size(*size)[decrypt], mean, std, device)

    # A graph is traced for a size of images, and its plans are constants of the graph: deriving and packing
    # them is not traced. torch.compiler.assume_constant_result sets the same, but it would import
    # torch._dynamo, which takes a second.
    plans._dynamo_marked_constant = True  # type: ignore[attr-defined]
    _pack._dynamo_marked_constant = True  # type: ignore[attr-defined]

    def _plans_of_images(
        self, tensor: torch.Tensor, decrypt: bool, ids: Sequence[ImageId] | ImageId | None
    ) -> list[Plan]:
        if not self.per_image:
            raise TypeError("ids: go with Cipher(key, scheme, per_image=True) only")
        if torch.compiler.is_compiling():
            raise RuntimeError(
                "ids: a graph would keep the keys of these images; encrypt outside of torch.compile"
            )
        assert self._key is not None
        count = tensor.shape[0] if tensor.dim() == 4 else 1
        given = image_ids(ids, count)
        number_of = {image: number for number, image in enumerate(dict.fromkeys(given))}
        h, w = (self.scheme.side,) * 2 if self._any_size else tensor.shape[-2:]
        compiler = Compiler(self.scheme, self._key, list(number_of) or [b""])
        key_of_image = np.array([number_of[image] for image in given], np.int32)
        plans = compiler.plans(h, w, [decrypt])[decrypt]
        return [dataclasses.replace(plan, key_of_image=key_of_image) for plan in plans]

    def _apply(
        self,
        x: Any,
        decrypt: bool,
        out: torch.Tensor | None,
        dtype: Dtype | None,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        size: tuple[int, int] | None,
        ids: Sequence[ImageId] | ImageId | None,
    ) -> Any:
        if out is not None and not isinstance(out, torch.Tensor):
            raise TypeError(f"out: expected a torch tensor, got {type(out).__name__}")
        if out is not None and not isinstance(x, torch.Tensor):
            raise TypeError(f"out: goes with torch tensors only, x is {type(x).__name__}")
        side = self._side
        tensor, back = as_tensor(x, self.scheme.channels)
        if not decrypt and self.fit != "error":
            with torch_operations():
                tensor = fitted(tensor, side, self.fit)
        want = None if dtype is None else torch_dtype(dtype)
        if tensor.is_floating_point() and not torch.compiler.is_compiling():
            if out is None and self.gradient is not None and differentiates(tensor, want):
                check_size(tensor.shape, side)
                linear = self._linear_plans(tensor.shape[-2], tensor.shape[-1])[decrypt]

                def apply(v: torch.Tensor) -> torch.Tensor:
                    return self._apply(v, decrypt, None, dtype, mean, std, None, ids)  # type: ignore[no-any-return]

                result = straight_through(tensor, apply, linear, std)
                return back(result if size is None else cut_back(result, size, side))
            check_no_derivative("x", tensor)
            # A graph cannot branch on values, and traced tensors have none.
            if self.check_values and tensor.device.type == "cpu" and has_values(tensor):
                tensor = within_unit_range(tensor)
        check_size(tensor.shape, side)
        passes = self._passes(tensor, decrypt, mean, std, ids)
        if (mean is not None or std is not None) and not (
            want or (out.dtype if out is not None else tensor.dtype)
        ).is_floating_point:
            raise TypeError("mean, std: normalised images are floating; give dtype=torch.float32 or another")
        if out is not None:
            if want is not None and want != out.dtype:
                raise TypeError(f"dtype: expected that of out, {out.dtype}, got {want}")
            target = out.unsqueeze(-3) if tensor.dim() > x.dim() else out
            if torch.float64 in (tensor.dtype, out.dtype):
                with torch_operations():
                    result = self._in_float64(tensor, decrypt, passes, out.dtype, mean, std)
                if target.shape != result.shape:
                    raise ValueError(f"out: expected shape {tuple(result.shape)}, got {tuple(out.shape)}")
                target.copy_(result)
            else:
                passes.apply(tensor, target.dtype, self.backend, target)
            return out if size is None else cut_back(out, size, side)
        if torch.float64 in (tensor.dtype, want):
            with torch_operations():
                result = self._in_float64(tensor, decrypt, passes, want or torch.float64, mean, std)
        else:
            result = passes.apply(
                tensor, self.result_dtype(tensor.dtype, want, decrypt=decrypt), self.backend
            )
        if size is not None:
            result = cut_back(result, size, side)
        return back(result)

    def _in_float64(
        self,
        x: torch.Tensor,
        decrypt: bool,
        passes: Passes,
        dtype: torch.dtype,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
    ) -> torch.Tensor:
        """What the operator does not do: images in float64, or results in it."""
        plans = [plan.with_output(None, None) for plan in passes.plans]
        passes = Passes(plans, _pack(plans, None, None, x.device))
        first, last = plans[0], plans[-1]
        # No image, of the same kind: the operator's checks, of derivatives too, without its work.
        none = (x if x.dim() == 4 else x[None])[:0]
        none = none.float() if x.dtype == torch.float64 else none
        other = None if dtype == torch.float64 else dtype
        passes.apply(none, self.result_dtype(none.dtype, other, decrypt=decrypt), self.backend)
        if any(plan.quantises for plan in plans) or not x.is_floating_point():
            exact = x
            if x.dtype == torch.float64:  # float32 is as good, up to the integers
                byte = first.nearest and first.in_values == last.out_values == BYTE_VALUES
                exact = (x * 255).nan_to_num(0.0).clamp(0, 255).round().to(torch.uint8) if byte else x.float()
            if not dtype.is_floating_point:
                return passes.apply(exact, dtype, self.backend)
            integers = torch.uint16 if last.out_values == DECIMAL_VALUES else torch.uint8
            y = passes.apply(exact, integers, self.backend).double() / last.out_scale
        else:
            y = x.double()
            for plan in plans:
                y = aten.transform(y, plan, torch.float64)
        if mean is not None and std is not None:
            mean_, std_ = (
                torch.tensor(numbers, dtype=torch.float64, device=y.device)[:, None, None]
                for numbers in (mean, std)
            )
            y = (y - mean_) / std_
        return y.to(dtype)


def as_cipher(cipher: Cipher, name: str = "cipher") -> Cipher:
    """The argument of that name. Raises TypeError unless it is a Cipher.

    Whoever calls this has hidden it before (`hide`): users pass the bytes of a key in its place, which then
    do not show in a traceback.
    """
    cipher = hide(cipher)
    if not isinstance(reveal(cipher), Cipher):
        raise TypeError(f"{name}: expected a Cipher, got {type(reveal(cipher)).__name__}")
    return reveal(cipher)


def image_ids(ids: Sequence[ImageId] | ImageId | None, count: int) -> list[bytes]:
    """The ids of so many images as bytes: text in UTF-8, numbers in decimal digits.

    Raises TypeError or ValueError where one is missing, or is none.
    """
    if ids is None:
        raise TypeError(f"ids: expected an id for each of {count} images, since per_image=True, got none")
    if isinstance(ids, (Mapping, Set)):
        raise TypeError(f"ids: expected a sequence, an id for each image in order, got {type(ids).__name__}")
    one = isinstance(ids, (str, bytes)) or getattr(ids, "ndim", None) == 0 or not hasattr(ids, "__iter__")
    several: list[Any] = [ids] if one else list(ids)  # type: ignore[arg-type]
    if len(several) != count:
        raise ValueError(f"ids: expected an id for each of {count} images, got {len(several)}")
    return [_id_bytes(n, value) for n, value in enumerate(several)]


def _id_bytes(n: int, value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError:
            raise ValueError(f"ids[{n}]: expected text that UTF-8 can encode, got {value!r}") from None
    if isinstance(value, torch.Tensor) and value.dim() == 0 and not value.is_floating_point():
        value = value.item()  # of a batch of indices that a DataLoader collated
    try:
        if isinstance(value, bool):
            raise TypeError
        number = index(value)
    except TypeError:  # of an array, too, which has an index only if it holds a single integer
        raise TypeError(f"ids[{n}]: expected an integer, str or bytes, got {type(value).__name__}") from None
    if number < 0:
        raise ValueError(f"ids[{n}]: expected an integer of at least 0, got {number}")
    return str(number).encode()


def _per_channel(
    mean: Sequence[float] | None, std: Sequence[float] | None, channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if mean is None or std is None:
        raise ValueError("mean, std: give both or neither")
    values = []
    for name, given in (("mean", mean), ("std", std)):
        try:
            numbers = tuple(float(value) for value in given)
        except (TypeError, ValueError, OverflowError):
            raise TypeError(f"{name}: expected {channels} numbers, got {given!r}") from None
        if len(numbers) != channels:
            raise ValueError(f"{name}: expected {channels} numbers, one a channel, got {len(numbers)}")
        # Plain comparisons, which a trace can follow; NaN fails the first one.
        finite = all(abs(number) <= FLOAT32_MAX for number in numbers)
        if not finite or (name == "std" and any(abs(number) <= FLOAT32_ZERO for number in numbers)):
            raise ValueError(
                f"{name}: expected finite float32 numbers{', std not 0' * (name == 'std')}, got {given!r}"
            )
        values.append(numbers)
    return values[0], values[1]
