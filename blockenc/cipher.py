"""What a user holds: a key and a scheme, compiled; images in, images of the same kind out."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from blockenc.hidden import hide
from blockenc.key import AnyKey, as_key_set
from blockenc.ops import FLOATS, check_no_derivative, is_traced
from blockenc.plan import Plan, compile_plan
from blockenc.scheme import Scheme
from blockenc.value_range import within_unit_range

# PIL modes whose images are uint8 arrays of colour samples.
PIL_MODES = ("L", "LA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB")

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
            speaks DLPack (CuPy, JAX) or a PIL image, [N, H, W, C] or [H, W, C]. uint8, or float32,
            float16 or bfloat16 in [0, 1]. H and W are multiples of the block size.
        out: torch tensors only: written and returned instead of a new tensor; apart from x.
        dtype: of the result. Default: x's, and float32 (value / m) for uint8 under the decimal profile.
            A float type for uint8 images gives value / 255; torch.uint16 gives raw decimal values.
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
    ) -> Any:
        """The images that `encrypt` made y of, of the kind, shape, layout and device of y.

        Exact for uint8 images (dtype=torch.uint8 for decimal float ones), and for float images that went
        through no ffx step up to the rounding of 1 - v; an ffx step quantises floats to 1/255.
        """
        return self._apply(y, True, out, dtype, None, None)

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
    ) -> Any:
        if out is not None and not isinstance(out, torch.Tensor):
            raise TypeError(f"out: expected a torch tensor, got {type(out).__name__}")
        if isinstance(x, torch.Tensor):
            tensor, back = x, None
        elif out is not None:
            raise TypeError(f"out: goes with torch tensors only, x is {type(x).__name__}")
        else:
            tensor, back = _to_tensor(x)
        if tensor.dim() in (3, 4) and tensor.shape[-3] != self.scheme.channels:
            raise ValueError(
                f"x: expected {self.scheme.channels} channels as in the scheme, got {tensor.shape[-3]} "
                f"(shape {tuple(x.shape) if hasattr(x, 'shape') else tuple(tensor.shape)}); "
                f"{'torch tensors are channels-first' if back is None else 'arrays are channels-last'}"
            )
        want = None if dtype is None else torch_dtype(dtype)
        if tensor.dtype in FLOATS and not torch.compiler.is_compiling():
            check_no_derivative("x", tensor)
            # A graph cannot branch on values, and traced tensors have none.
            if self.check_values and tensor.device.type == "cpu" and not is_traced(tensor):
                tensor = within_unit_range(tensor)
        compiled = self._compile(decrypt, mean, std, tensor.device)
        if (mean is not None or std is not None) and not (
            want or (out.dtype if out is not None else tensor.dtype)
        ).is_floating_point:
            raise TypeError("mean, std: normalised images are floating; give dtype=torch.float32 or another")
        if out is not None:
            if want is not None and want != out.dtype:
                raise TypeError(f"dtype: expected that of out, {out.dtype}, got {want}")
            torch.ops.blockenc.apply_out(tensor, *compiled, out, self.backend)
            return out
        result = torch.ops.blockenc.apply(tensor, *compiled, want, self.backend)
        return result if back is None else back(result)

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
    come from x unless given), `backend`, and dtype, mean, std and out of `Cipher.encrypt`.
    """
    key = hide(key)
    return _one_call(x, key, options, ("out", "dtype", "mean", "std"), Cipher.encrypt)


def decrypt(y: Any, key: AnyKey, **options: Any) -> Any:
    """Decrypt images; `Cipher.decrypt` in one call. The arguments are those of `encrypt`."""
    key = hide(key)
    return _one_call(y, key, options, ("out", "dtype"), Cipher.decrypt)


def _one_call(
    x: Any, key: AnyKey, options: dict[str, Any], names: tuple[str, ...], method: Callable[..., Any]
) -> Any:
    call = {name: options.pop(name) for name in names if name in options}
    rest = {name: options.pop(name) for name in ("backend", "check_values") if name in options}
    scheme = options.pop("scheme", None)
    if scheme is None:
        options.setdefault("channels", _channels(x))
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
    from blockenc.key import Key

    if isinstance(key, Key):
        cipher = key._ciphers.get((scheme, *rest.items()))
        if cipher is None:
            cipher = Cipher(key, scheme, **rest)
            _keep(key._ciphers, (scheme, *rest.items()), cipher)
    else:
        cipher = Cipher(key, scheme, **rest)
    return method(cipher, x, **call)


def _channels(x: Any) -> int:
    """The channels of x; 3 where x is not an image at all, which the cipher then says."""
    if hasattr(x, "getbands"):
        return len(x.getbands())
    shape: Any = getattr(x, "shape", ())
    if len(shape) not in (3, 4):
        return 3
    return int(shape[-3] if isinstance(x, torch.Tensor) else shape[-1])


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


def _to_tensor(x: Any) -> tuple[torch.Tensor, Callable[[torch.Tensor], Any]]:
    """x as a channels-first tensor sharing its memory, and the way back to x's kind."""
    if hasattr(x, "getbands"):  # a PIL image; Pillow is not imported for this
        if x.mode not in PIL_MODES:
            raise ValueError(
                f"x: expected a PIL image of mode {', '.join(PIL_MODES)}, got {x.mode!r}; convert it first, "
                'for instance with x.convert("RGB")'
            )
        array = np.asarray(x)
        tensor = _from_numpy(array if array.ndim == 3 else array[:, :, None])
        return tensor, lambda y: _to_pil(y, x.mode)
    if isinstance(x, np.ndarray):
        if x.ndim not in (3, 4):
            raise ValueError(f"x: expected [H, W, C] or [N, H, W, C], got shape {x.shape}")
        return _from_numpy(x), _to_numpy
    if hasattr(x, "__dlpack__"):
        tensor = torch.utils.dlpack.from_dlpack(x)
        if tensor.dim() not in (3, 4):
            raise ValueError(f"x: expected [H, W, C] or [N, H, W, C], got shape {tuple(tensor.shape)}")
        return tensor.movedim(-1, -3), lambda y: _like(x)(y.movedim(-3, -1))
    raise TypeError(
        "x: expected a torch tensor, a NumPy array, a PIL image or an array that speaks DLPack, "
        f"got {type(x).__name__}"
    )


class _Unguarded:
    """A read-only array offered as writeable (it is never written): torch warns of read-only memory."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array  # keeps the memory alive
        self.__array_interface__ = {
            **array.__array_interface__,
            "data": (array.__array_interface__["data"][0], False),
        }


def _from_numpy(array: np.ndarray) -> torch.Tensor:
    odd = any(stride < 0 or stride % max(array.itemsize, 1) for stride in array.strides)
    if odd or not array.dtype.isnative:  # torch has none of them: reversed, fields of records, swapped
        array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    if not array.flags.writeable and array.dtype.kind in "uif":
        array = np.asarray(_Unguarded(array))
    try:
        return torch.from_numpy(array).movedim(-1, -3)
    except TypeError:
        raise TypeError(f"x: expected a uint8 or floating image, got dtype {array.dtype}") from None


def _to_numpy(tensor: torch.Tensor) -> np.ndarray:
    if tensor.dtype == torch.bfloat16:
        raise TypeError("dtype: NumPy has no bfloat16; give torch tensors, or dtype=float32")
    return tensor.movedim(-3, -1).numpy()


def _to_pil(tensor: torch.Tensor, mode: str) -> Any:
    from PIL import Image

    if tensor.dtype != torch.uint8:
        raise TypeError(
            f"dtype: a PIL image holds uint8, the result is {tensor.dtype}; "
            "pass numpy.asarray(image), or use the byte profile"
        )
    array = _to_numpy(tensor)
    return Image.fromarray(np.ascontiguousarray(array if array.shape[2] > 1 else array[:, :, 0]), mode=mode)


def _like(x: Any) -> Callable[[torch.Tensor], Any]:
    """The from_dlpack of the library that x comes from."""
    if hasattr(x, "__array_namespace__"):
        return x.__array_namespace__().from_dlpack  # type: ignore[no-any-return]
    module = sys.modules[type(x).__module__.split(".")[0]]
    if not hasattr(module, "from_dlpack"):
        raise TypeError(f"x: {type(x).__name__} gives DLPack, but {module.__name__} has no from_dlpack")
    return module.from_dlpack  # type: ignore[no-any-return]
