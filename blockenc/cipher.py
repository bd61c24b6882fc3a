"""What a user holds: a key and a scheme, compiled; images in, images of the same kind out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from blockenc.backends import aten
from blockenc.hidden import hide
from blockenc.images import FITS, as_tensor, channels_of, cut_back, fitted
from blockenc.keys.key import AnyKey, as_key_set
from blockenc.ops import check_no_derivative, has_values
from blockenc.plan import BYTE_VALUES, DECIMAL_VALUES, Plan, compile_plan
from blockenc.scheme import Scheme
from blockenc.value_range import within_unit_range

# The output stage computes in float32: beyond the first a number is infinite, up to the second it is 0.
FLOAT32_MAX = float(np.finfo(np.float32).max)
FLOAT32_ZERO = 2.0**-150


# Plans that a cipher keeps, and ciphers that a key keeps: a new normalisation for each batch must not fill
# memory.
MOST_KEPT = 32


def _keep(kept: dict[Any, Any], key: Any, value: Any) -> None:
    """Adds to a cache, from which the oldest entry goes where it is full."""
    while len(kept) >= MOST_KEPT:
        with contextlib.suppress(KeyError):  # another thread was faster
            del kept[next(iter(kept))]
    kept[key] = value


def torch_operations() -> contextlib.AbstractContextManager[None]:
    """What torch's own operations, which may start threads, are done in. A trace cannot enter it."""
    return contextlib.nullcontext() if torch.compiler.is_compiling() else aten.one_thread_if_forked()


class _Compiled(NamedTuple):
    """A plan in the form the operators take."""

    plan: torch.Tensor
    block_size: int
    tables: int
    flags: int


def _pack(
    plan: Plan, mean: Sequence[float] | None, std: Sequence[float] | None, device: torch.device
) -> _Compiled:
    """The plan on a device. Outside the modes of a trace, so that what is kept is a real tensor."""
    plan = plan.with_output(mean, std)
    with torch.utils._python_dispatch._disable_current_modes():
        packed = torch.from_numpy(plan.packed).to(device)
    return _Compiled(packed, plan.block_size, len(plan.tables), plan.flags)


# What torch.compiler.assume_constant_result sets; calling that would import torch._dynamo, for a second.
_pack._dynamo_marked_constant = True  # type: ignore[attr-defined]


class Cipher:
    """A scheme under a key, compiled once, applied to any number of images.

    key: a Key, a KeySet, or 32 bytes. It is used here and not kept.
    scheme: a Scheme; or give its fields as keywords (block_size=, steps=, channels=, ffx=).
    backend: "cuda", "native", "numba" or "aten"; default: BLOCKENC_BACKEND, else the fastest there is.
    check_values: look for values outside [0, 1] in floating images on the CPU (one more pass over them; not
        in a compiled graph or inside of torch.func). Those beyond by up to half a step of a byte, 0.5/255,
        are rounding errors of earlier transforms and are clamped; farther ones, infinities and NaN raise
        ValueError. Without the check they are clamped, NaN becoming 0, where an ffx step quantises, and
        otherwise transformed like any number.
    fit: what `encrypt` does with images whose height or width is no multiple of the block size, the words
        of the command line: "error", "pad" (the last row and column are repeated at the bottom and the
        right, up to the next multiple; `decrypt` takes `size` to cut that off again) or "crop". Default:
        "error"; but EncryptTransform pads, and warns.

    A pickled Cipher (DataLoader workers under spawn need it) carries its plans, not the key: who reads
    the pickle can encrypt and decrypt under this scheme and, in scheme version 1, under every other one of
    the same key, block size and channels that has no other steps. Keep data apart by different keys.
    """

    def __init__(
        self,
        key: AnyKey,
        scheme: Scheme | None = None,
        *,
        backend: str | None = None,
        check_values: bool = True,
        fit: str | None = None,
        **fields: Any,
    ) -> None:
        key = hide(key)
        if scheme is not None and fields:
            raise TypeError(f"scheme: give a Scheme or its fields, got both ({', '.join(sorted(fields))})")
        if scheme is not None and not isinstance(scheme, Scheme):
            raise TypeError(f"scheme: expected a Scheme, got {type(scheme).__name__}")
        self.scheme = scheme or Scheme(**fields)
        self.backend = backend
        self.check_values = check_values
        if fit is not None and fit not in FITS:
            raise ValueError(f"fit: expected one of {', '.join(FITS)}, got {fit!r}")
        self.fit, self.fit_given = fit or "error", fit is not None
        key = as_key_set(key)
        self.fingerprint = key.fingerprint
        self._plans = {decrypt: compile_plan(self.scheme, key, decrypt=decrypt) for decrypt in (False, True)}
        self._compiled: dict[tuple, _Compiled] = {}

    def encrypt(
        self,
        x: Any,
        out: torch.Tensor | None = None,
        dtype: torch.dtype | np.dtype | str | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> Any:
        """The encrypted images, of the kind, shape, layout and device of x.

        x: a torch tensor [N, C, H, W] or [C, H, W] of any strides; a NumPy array, another array that
            speaks DLPack (CuPy, JAX) or a PIL image, [N, H, W, C] or [H, W, C]; under a scheme of one
            channel also grey images [H, W] and [N, H, W]. uint8, or float32, float16, bfloat16 or
            float64 in [0, 1]. H and W are multiples of the block size, unless `fit` says otherwise.
        out: torch tensors only: written and returned instead of a new tensor; apart from x.
        dtype: of the result. Default: x's, and float32 (value / m) for uint8 under the decimal profile.
            A float type for uint8 images gives value / 255; torch.uint16 gives raw decimal values.
            float64 is computed in float64 (no value loses a bit that no step quantises), in plain torch
            operations, which is slower.
        mean, std: C numbers each; the result is (value / scale - mean) / std, in the same pass.

        Raises TypeError or ValueError naming the argument.
        """
        return self._apply(x, False, out, dtype, mean, std)

    __call__ = encrypt

    def decrypt(
        self,
        y: Any,
        out: torch.Tensor | None = None,
        dtype: torch.dtype | np.dtype | str | None = None,
        size: tuple[int, int] | None = None,
    ) -> Any:
        """The images that `encrypt` made y of, of the kind, shape, layout and device of y.

        size: (height, width) before padding, of images that `fit="pad"` padded: what it added is cut off.

        Exact for uint8 images (dtype=torch.uint8 for decimal float ones), and for float images that went
        through no ffx step up to the rounding of 1 - v; an ffx step quantises floats to 1/255.
        """
        return self._apply(y, True, out, dtype, None, None, size)

    def plan(self, *, decrypt: bool = False) -> Plan:
        """The compiled transform, for those who write backends or export graphs."""
        return self._plans[decrypt]

    def __repr__(self) -> str:
        if "_plans" not in vars(self):  # shown by the traceback of an error within __init__
            return "Cipher(unfinished)"
        return f"Cipher(fingerprint={self.fingerprint!r}, scheme={self.scheme!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_compiled": {}}

    def _apply(
        self,
        x: Any,
        decrypt: bool,
        out: torch.Tensor | None,
        dtype: torch.dtype | np.dtype | str | None,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        size: tuple[int, int] | None = None,
    ) -> Any:
        if out is not None and not isinstance(out, torch.Tensor):
            raise TypeError(f"out: expected a torch tensor, got {type(out).__name__}")
        if out is not None and not isinstance(x, torch.Tensor):
            raise TypeError(f"out: goes with torch tensors only, x is {type(x).__name__}")
        tensor, back = as_tensor(x, self.scheme.channels)
        if not decrypt and self.fit != "error":
            with torch_operations():
                tensor = fitted(tensor, self.scheme.block_size, self.fit)
        want = None if dtype is None else torch_dtype(dtype)
        if tensor.is_floating_point() and not torch.compiler.is_compiling():
            check_no_derivative("x", tensor)
            # A graph cannot branch on values, and traced tensors have none.
            if self.check_values and tensor.device.type == "cpu" and has_values(tensor):
                tensor = within_unit_range(tensor)
        compiled = self._compile(decrypt, mean, std, tensor.device)
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
                    result = self._in_float64(tensor, decrypt, out.dtype, mean, std)
                if target.shape != result.shape:
                    raise ValueError(f"out: expected shape {tuple(result.shape)}, got {tuple(out.shape)}")
                target.copy_(result)
            else:
                torch.ops.blockenc.apply_out(tensor, *compiled, target, self.backend)
            return out if size is None else cut_back(out, size, self.scheme.block_size)
        if torch.float64 in (tensor.dtype, want):
            with torch_operations():
                result = self._in_float64(tensor, decrypt, want or torch.float64, mean, std)
        else:
            result = torch.ops.blockenc.apply(tensor, *compiled, want, self.backend)
        if size is not None:
            result = cut_back(result, size, self.scheme.block_size)
        return back(result)

    def _in_float64(
        self,
        x: torch.Tensor,
        decrypt: bool,
        dtype: torch.dtype,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
    ) -> torch.Tensor:
        """What the operator does not do: images in float64, or results in it."""
        plan, compiled = self._plans[decrypt], self._compile(decrypt, None, None, x.device)
        # No image, of the same kind: the operator's checks, of derivatives too, without its work.
        none = (x if x.dim() == 4 else x[None])[:0]
        none = none.float() if x.dtype == torch.float64 else none
        torch.ops.blockenc.apply(none, *compiled, None if dtype == torch.float64 else dtype, self.backend)
        if plan.quantises or not x.is_floating_point():
            exact = x
            if x.dtype == torch.float64:  # float32 is as good, up to the integers
                byte = plan.in_values == plan.out_values == BYTE_VALUES
                exact = (x * 255).nan_to_num(0.0).clamp(0, 255).round().to(torch.uint8) if byte else x.float()
            if not dtype.is_floating_point:
                return torch.ops.blockenc.apply(exact, *compiled, dtype, self.backend)  # type: ignore[no-any-return]
            integers = torch.uint16 if plan.out_values == DECIMAL_VALUES else torch.uint8
            y: torch.Tensor = torch.ops.blockenc.apply(exact, *compiled, integers, self.backend)
            y = y.double() / plan.out_scale
        else:
            y = aten.transform(x.double(), plan, torch.float64)
        if mean is not None and std is not None:
            mean_, std_ = (
                torch.tensor(numbers, dtype=torch.float64, device=y.device)[:, None, None]
                for numbers in (mean, std)
            )
            y = (y - mean_) / std_
        return y.to(dtype)

    def _compile(
        self,
        decrypt: bool,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        device: torch.device,
    ) -> _Compiled:
        if mean is None and std is None:
            key: tuple = (decrypt, device)
        else:
            mean, std = _per_channel(mean, std, self.scheme.channels)
            key = (decrypt, device, mean, std)
        compiled = self._compiled.get(key)
        if compiled is None:
            compiled = _pack(self._plans[decrypt], mean, std, device)
            _keep(self._compiled, key, compiled)
        return compiled


def encrypt(x: Any, key: AnyKey, **options: Any) -> Any:
    """Encrypt images; `Cipher.encrypt` in one call.

    key: a Key, a KeySet or 32 bytes. options: the fields of a Scheme (block_size, steps, ffx; channels
    come from x unless given), `backend`, `check_values`, `fit`, and dtype, mean, std and out of
    `Cipher.encrypt`. An x of other than 1, 3 or 4 channels needs channels=, since its shape may as well be
    that of many images; only a NumPy array [N, S, S] is taken for N square grey images.
    """
    key = hide(key)
    return _one_call(x, key, options, ("out", "dtype", "mean", "std"), Cipher.encrypt)


def decrypt(y: Any, key: AnyKey, **options: Any) -> Any:
    """Decrypt images; `Cipher.decrypt` in one call. The arguments are those of `encrypt`, and its size."""
    key = hide(key)
    return _one_call(y, key, options, ("out", "dtype", "size"), Cipher.decrypt)


def _one_call(
    x: Any, key: AnyKey, options: dict[str, Any], names: tuple[str, ...], method: Callable[..., Any]
) -> Any:
    call = {name: options.pop(name) for name in names if name in options}
    rest = {name: options.pop(name) for name in ("backend", "check_values", "fit") if name in options}
    scheme = options.pop("scheme", None)
    if scheme is None:
        if "channels" not in options:
            options["channels"] = channels_of(x)
        try:
            scheme = Scheme(**options)
        except TypeError as error:
            if "unexpected keyword" not in str(error):
                raise
            unknown = sorted(set(options) - {"block_size", "steps", "channels", "ffx", "version"})
            raise TypeError(f"options: no argument is called {', '.join(unknown)}") from None
    elif not isinstance(scheme, Scheme):
        raise TypeError(f"scheme: expected a Scheme, got {type(scheme).__name__}")
    elif options:
        raise TypeError(f"scheme: give a Scheme or its fields, got both ({', '.join(sorted(options))})")
    # A Key owns the ciphers made of it, so that repeated calls compile once.
    from blockenc.keys.key import Key

    if isinstance(key, Key):
        cipher = key._ciphers.get((scheme, *rest.items()))
        if cipher is None:
            cipher = Cipher(key, scheme, **rest)
            _keep(key._ciphers, (scheme, *rest.items()), cipher)
    else:
        cipher = Cipher(key, scheme, **rest)
    return method(cipher, x, **call)


def torch_dtype(dtype: torch.dtype | np.dtype | str | type) -> torch.dtype:
    """A torch, NumPy or named dtype as torch's. Raises TypeError naming the argument."""
    if isinstance(dtype, torch.dtype):
        return dtype
    try:
        name = dtype if dtype == "bfloat16" else np.dtype(dtype).name
    except TypeError:
        name = str(dtype)
    found = getattr(torch, str(name), None)
    if not isinstance(found, torch.dtype):
        raise TypeError(f"dtype: expected a torch or NumPy dtype, got {dtype!r}")
    return found


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
