"""Kinds of images: each as a channels-first tensor and back, and what looks like an image."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

# PIL modes whose images are uint8 arrays of colour samples.
PIL_MODES = ("L", "LA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB")
# What to do with an image of another mode, so that nothing of it is lost unseen.
_WIDE = (
    "its values have more than 8 bits: choose what becomes of them and pass an array, for instance "
    '(numpy.asarray(image) >> 8).astype("uint8") for the upper 8 of 16, or '
    'numpy.asarray(image).astype("float32") / 65535 under a scheme without ffx, which keeps all 16'
)
PIL_ADVICE = {
    "P": 'it holds palette numbers: image.convert("RGB") has its colours, "RGBA" its transparency, too',
    "PA": 'it holds palette numbers: image.convert("RGBA") has its colours and transparency',
    "1": 'convert it: image.convert("L") has the same black and white',
    "La": 'its colours are multiplied by alpha: image.convert("LA")',
    "RGBa": 'its colours are multiplied by alpha: image.convert("RGBA")',
    "RGBX": 'its fourth channel is padding: image.convert("RGB")',
    "F": "its values are floats: pass numpy.asarray(image), scaled to [0, 1]",
}

# The channels an image may have without being asked: grey, colour, colour and alpha.
USUAL_CHANNELS = (1, 3, 4)
# A side shorter than this, in pixels, is none of a picture: of a box, a matrix or a list of points.
SMALLEST_SIDE = 8

FITS = ("error", "pad", "crop")


def channels_of(x: Any) -> int:
    """The channels of x; 3 where x is not an image at all, which the cipher then says.

    Raises ValueError where the shape does not tell them: 1, 3 or 4 are channels, anything else is as likely
    a number of images or a side. Only torch tensors of four axes may have other channels, fewer than the
    pixels of a side; and an array [N, S, S] of square grey images is told by its shape.
    """
    if hasattr(x, "getbands"):
        return len(x.getbands())
    shape = tuple(getattr(x, "shape", ()))
    if len(shape) == 2:
        return 1
    if len(shape) not in (3, 4):
        return 3
    first = isinstance(x, torch.Tensor)
    axis, other = (shape[-3], shape[-1]) if first else (shape[-1], shape[-3])
    few = first and len(shape) == 4 and other not in USUAL_CHANNELS and axis < min(shape[-2:])
    if axis in USUAL_CHANNELS or few:
        return int(axis)
    if not first and len(shape) == 3 and shape[1] == shape[2] and other not in USUAL_CHANNELS:
        return 1
    raise ValueError(
        f"x: shape {shape} does not tell the channels; {_layout(shape, first)} give channels={axis} if it "
        f"has {axis}" + (", or channels=1 if these are grey images [N, H, W]" if len(shape) == 3 else "")
    )


def channels_error(name: str, shape: tuple[int, ...], channels: int, first: bool) -> ValueError:
    """What to raise for an image whose channels are not the scheme's. first: whether they come first."""
    got = shape[-3] if first else shape[-1]
    return ValueError(
        f"{name}: expected {channels} channels as in the scheme, got {got} (shape {shape}); "
        + _layout(shape, first).rstrip(";,")
    )


def _layout(shape: tuple[int, ...], first: bool) -> str:
    kind, layout = ("torch tensors", "first, [C, H, W]") if first else ("arrays", "last, [H, W, C]")
    text = f"{kind} are channels-{layout};"
    if (shape[-1] if first else shape[-3]) in USUAL_CHANNELS:
        there = "channels-last: x.movedim(-1, -3)" if first else "channels-first: numpy.moveaxis(x, -3, -1)"
        text += f" this one looks {there};"
    return text


def as_tensor(x: Any, channels: int) -> tuple[torch.Tensor, Callable[[torch.Tensor], Any]]:
    """x as a channels-first tensor sharing its memory, and the way back to x's kind.

    One grey image may have no axis of channels, [H, W], nor need a stack of them have one, [N, H, W]:
    the way back takes it out again. Raises TypeError or ValueError naming x.
    """
    if isinstance(x, torch.Tensor):
        if channels == 1 and _without_channels(x.shape, -3):
            return x.unsqueeze(-3), lambda y: y.squeeze(-3)
        if x.dim() not in (3, 4):
            raise ValueError(f"x: expected [N, C, H, W] or [C, H, W], got shape {tuple(x.shape)}")
        if x.shape[-3] != channels:
            raise channels_error("x", tuple(x.shape), channels, first=True)
        return x, lambda y: y
    if hasattr(x, "getbands"):  # a PIL image; Pillow is not imported for this
        if x.mode not in PIL_MODES:
            raise ValueError(
                f"x: expected a PIL image of mode {', '.join(PIL_MODES)}, got {x.mode!r}; "
                + mode_advice(x.mode)
            )
        array = np.asarray(x)
        tensor, back = _from_numpy(array if array.ndim == 3 else array[:, :, None]), _pil_like(x)
    elif isinstance(x, np.ndarray):
        tensor, back = _from_numpy(x), _to_numpy
    elif hasattr(x, "__dlpack__"):
        tensor, back = torch.utils.dlpack.from_dlpack(x), _dlpack_like(x)
    else:
        raise TypeError(
            "x: expected a torch tensor, a NumPy array, a PIL image or an array that speaks DLPack, "
            f"got {type(x).__name__}"
        )
    shape = tuple(tensor.shape)
    if channels == 1 and _without_channels(shape, -1):
        return tensor.unsqueeze(-3), lambda y: back(y.squeeze(-3))
    if len(shape) not in (3, 4):
        raise ValueError(
            "x: expected [H, W, C] or [N, H, W, C]"
            f"{', or [H, W] under a scheme of 1 channel' if len(shape) == 2 else ''}, got shape {shape}"
        )
    if shape[-1] != channels:
        raise channels_error("x", shape, channels, first=False)
    return tensor.movedim(-1, -3), lambda y: back(y.movedim(-3, -1))


def _without_channels(shape: tuple[int, ...], axis: int) -> bool:
    """Whether a shape under a scheme of one channel is [H, W] or, of arrays, [N, H, W].

    axis: where channels would be. Three and four are taken for the channels of a colour image, which the
    scheme does not fit. A torch tensor of three axes is always [C, H, W]: by its shape, batches of one, three
    and four grey images would be told from others.
    """
    return len(shape) == 2 or (axis == -1 and len(shape) == 3 and shape[axis] not in USUAL_CHANNELS)


def mode_advice(mode: str) -> str:
    """What to do with a PIL image of a mode that is not in PIL_MODES, so that nothing of it is lost."""
    return PIL_ADVICE.get(mode, _WIDE if mode.startswith("I") else "convert it first")


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
        return torch.from_numpy(array)
    except TypeError:
        raise TypeError(f"x: expected a uint8 or floating image, got dtype {array.dtype}") from None


def _to_numpy(tensor: torch.Tensor) -> np.ndarray:
    if tensor.dtype == torch.bfloat16:
        raise TypeError("dtype: NumPy has no bfloat16; give torch tensors, or dtype=float32")
    return tensor.numpy()


def _pil_like(image: Any) -> Callable[[torch.Tensor], Any]:
    def back(tensor: torch.Tensor) -> Any:
        from PIL import Image

        if tensor.dtype != torch.uint8:
            raise TypeError(
                f"dtype: a PIL image holds uint8, the result is {tensor.dtype}; "
                "pass numpy.asarray(image), or use the byte profile"
            )
        array = np.ascontiguousarray(tensor.numpy())
        return Image.frombytes(image.mode, (array.shape[1], array.shape[0]), array.tobytes())

    return back


def _dlpack_like(x: Any) -> Callable[[torch.Tensor], Any]:
    """The from_dlpack of the library that x comes from."""

    def back(tensor: torch.Tensor) -> Any:
        if hasattr(x, "__array_namespace__"):
            return x.__array_namespace__().from_dlpack(tensor)
        module = sys.modules[type(x).__module__.split(".")[0]]
        if not hasattr(module, "from_dlpack"):
            raise TypeError(f"x: {type(x).__name__} gives DLPack, but {module.__name__} has no from_dlpack")
        return module.from_dlpack(tensor)

    return back


# --- sizes that are no multiple of the block size ---


def fitted_side(pixels: int, block_size: int, fit: str) -> int:
    """Height or width of an encrypted image: the next multiple of the block size, up ("pad") or down."""
    if fit == "error":
        return pixels
    return (pixels + (block_size - 1 if fit == "pad" else 0)) // block_size * block_size


def fitted(x: torch.Tensor, block_size: int, fit: str) -> torch.Tensor:
    """x [..., H, W] with sides of whole blocks: padded, by repeating the last row and column, or cropped.

    Raises ValueError for an image that cropping leaves nothing of.
    """
    if fit == "error" or x.dim() < 2:
        return x
    for axis in (-2, -1):
        old = x.shape[axis]
        new = fitted_side(old, block_size, fit)
        if new > old:
            edge = x.narrow(axis, old - 1, 1)
            x = torch.cat([x, *[edge] * (new - old)], axis)
        elif new < old:
            if not new:
                raise ValueError(
                    f"x: {x.shape[-2]} x {x.shape[-1]} pixels is too small to be cropped to blocks of "
                    f'{block_size} x {block_size}; use fit="pad"'
                )
            x = x.narrow(axis, 0, new)
    return x


def cut_back(y: torch.Tensor, size: Any, block_size: int) -> torch.Tensor:
    """y [..., H, W] without the rows and columns that padding added. size: (height, width) before it."""
    try:
        height, width = (side.__index__() for side in size)
    except (TypeError, ValueError, AttributeError):
        raise TypeError(f"size: expected (height, width) before padding, got {size!r}") from None
    if any(fitted_side(a, block_size, "pad") != b or a < 1 for a, b in zip((height, width), y.shape[-2:])):
        raise ValueError(
            f"size: expected the height and width before padding by less than {block_size} pixels to "
            f"{y.shape[-2]} x {y.shape[-1]}, got {height} x {width}"
        )
    return y[..., :height, :width]


# --- what looks like an image ---


def encryptable(x: Any, channels: int) -> bool:
    """Whether x is an image that a cipher of so many channels takes as it is."""
    if hasattr(x, "getbands"):
        return x.mode in PIL_MODES and len(x.getbands()) == channels
    if not isinstance(x, (torch.Tensor, np.ndarray)) and not hasattr(x, "__dlpack__"):
        return False
    name, shape = _dtype_name(x), tuple(x.shape)
    if name not in ("uint8", "float16", "bfloat16", "float32", "float64"):
        return False
    axis = -3 if isinstance(x, torch.Tensor) else -1
    grey = channels == 1 and len(shape) >= 2 and _without_channels(shape, axis)
    return grey or (len(shape) >= 3 and shape[axis] == channels)


def looks_like_image(x: Any, channels: int) -> bool:
    """Whether x may be a picture: what must not leave unencrypted unless the user named it.

    It is a PIL image, or an array of any library whose last two axes, or last three with channels in the
    end, are sides of at least 8 pixels. Of floats and wide integers, which as often are features and
    masks, only what has an axis of 1, 3, 4 or the scheme's channels (wide integers: more than one), or
    is a matrix of floats none of which is negative. It is also the bytes of an encoded picture, or any
    long ones that are no text, a base64 text of one, and nested lists of numbers in the shape of one.
    torchvision's Mask, BoundingBoxes and their like, truth values, texts and paths are none.
    """
    if x is None or isinstance(x, (bool, int, float, complex)):
        return False
    if hasattr(x, "getbands"):
        return True
    if isinstance(x, str):
        return _is_base64_image(x)
    if isinstance(x, (bytes, bytearray, memoryview)):
        return _is_binary(bytes(x))
    if isinstance(x, (list, tuple)):
        return _looks(_lists_shape(x), "list", channels)
    if isinstance(x, (set, frozenset)):
        return any(looks_like_image(item, channels) for item in x)
    if isinstance(x, torch.Tensor) and x.is_nested:
        return any(looks_like_image(item, channels) for item in x.unbind())
    if not isinstance(getattr(x, "shape", None), tuple) or not hasattr(x, "dtype"):
        return hasattr(x, "read") and hasattr(x, "seek")  # an open file
    tv = sys.modules.get("torchvision.tv_tensors")
    if tv is not None and isinstance(x, tv.TVTensor):
        return isinstance(x, (tv.Image, tv.Video))
    if isinstance(x, np.ndarray) and x.dtype.kind in "OSV":
        if x.dtype.names:
            return any(looks_like_image(x[name], channels) for name in x.dtype.names)
        return x.dtype.kind == "V" or any(looks_like_image(item, channels) for item in x.flat)
    name, shape = _dtype_name(x), tuple(x.shape)
    # Pixels in any order, or an encoded file as torchvision.io.read_file has it; 0 and 1 are labels.
    many = len(shape) in (1, 2) and name == "uint8" and math.prod(shape) >= SMALLEST_SIDE**2
    if many and (_values(x) > 1).any():
        return True
    if _looks(shape, name, channels):
        return True
    if name.startswith(("float", "bfloat")) and len(shape) >= 2 and min(shape[-2:]) >= SMALLEST_SIDE:
        return not bool((_values(x) < 0).any())
    return False


def _values(x: Any) -> Any:
    """The values of a tensor for NumPy, where it can: in a forked child torch would wait for lost threads."""
    if not isinstance(x, torch.Tensor) or x.device.type != "cpu" or x.dtype == torch.bfloat16:
        return x
    return x.numpy(force=True)


def is_bytes(x: Any) -> bool:
    return _dtype_name(x) == "uint8"


FEW_VALUES = 16  # different ones: of a mask


def has_few_values(x: Any) -> bool:
    """Whether an array, or a large part of it, has as few different values as a mask."""
    return len(np.unique(np.asarray(_values(x)).ravel()[: 1 << 16])) <= FEW_VALUES


def describe(x: Any) -> str:
    """What x is, in an error's words; never its values."""
    if hasattr(x, "getbands"):
        return f"a PIL image {x.mode} of {x.width} x {x.height}"
    if isinstance(x, torch.Tensor):
        return f"a tensor {list(x.shape)} of {x.dtype}"
    if hasattr(x, "shape") and hasattr(x, "dtype"):
        return f"an array {list(x.shape)} of {x.dtype}"
    if shape := _lists_shape(x):
        return f"lists of numbers {list(shape)}"
    return f"{type(x).__name__} of {len(x)}" if hasattr(x, "__len__") else type(x).__name__


def _looks(shape: tuple[int, ...], dtype: str, channels: int) -> bool:
    """Whether an array of this shape and dtype may be pictures."""
    if len(shape) < 2 or dtype in ("bool", "complex64", "complex128") or 0 in shape:
        return False
    narrow = dtype in ("uint8", "int8", "uint16", "int16")
    usual = {*USUAL_CHANNELS, channels}
    if dtype in ("int32", "uint32", "int64", "uint64"):
        usual -= {1}  # a mask's
    if min(shape[-2:]) >= SMALLEST_SIDE and (narrow or usual.intersection(shape[:-2])):
        return True
    return len(shape) > 2 and min(shape[-3:-1]) >= SMALLEST_SIDE and (shape[-1] in usual or narrow)


def _dtype_name(x: Any) -> str:
    return getattr(x.dtype, "name", None) or str(x.dtype).rpartition(".")[2]


def _lists_shape(x: Any) -> tuple[int, ...]:
    """The shape of nested lists of numbers, by their first items; () of anything else."""
    shape = []
    while isinstance(x, (list, tuple)) and x:
        shape.append(len(x))
        x = x[0]
    return tuple(shape) if isinstance(x, (int, float)) else ()


# The beginnings of PNG, JPEG, GIF, WebP and TIFF files in base64.
_BASE64 = ("iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR", "SUkqA", "TU0AK")


def _is_base64_image(text: str) -> bool:
    return text.startswith("data:image") or (len(text) >= 64 and text.startswith(_BASE64))


def _is_binary(data: bytes) -> bool:
    """Whether these bytes may be a picture, encoded or not: long ones that are no text."""
    if len(data) < SMALLEST_SIDE**2:
        return False
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return True
    control = any(character < " " and character not in "\t\n\r\f\v" for character in text)
    return control or text[:2] in ("P2", "P3", "P5", "P6") or _is_base64_image(text)
