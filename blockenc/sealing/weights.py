"""Weights as they are sealed: tensors with a name, a type and a shape, and their bytes, chunk by chunk.

Both kinds, a safetensors file and a state_dict, give the same bytes for the same tensors: row by row, as
safetensors has them. Neither is ever in memory as a whole beyond what the caller holds of it.

A safetensors file is 8 bytes with the length of a header, the header, which is JSON, and the bytes of all
tensors (https://github.com/huggingface/safetensors, "Format"). It is read here, and not by the safetensors
library, since every byte of the file has to be accounted for, the header's too; since that library maps the
whole file into memory; and since it takes a header that has a name twice.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

import torch

from blockenc.errors import SealError
from blockenc.text import printable

MAX_HEADER = 8 << 20  # bytes: of some 70,000 tensors; what Python makes of JSON takes many times its length
MAX_DIMENSION = 2**63 - 1
_METADATA = "__metadata__"

# Bits of a value, by the names that safetensors has for types. It has none for the C32 and C128 of torch.
BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32", "C32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F8_E8M0", "I8", "U8", "BOOL"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
    "C128": 128,
}
_TORCH_NAMES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ", "float8_e8m0fnu": "F8_E8M0",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "bool": "BOOL",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8",
    "complex128": "C128", "complex64": "C64", "complex32": "C32",
}  # fmt: skip
_SAME_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.complex128}


class Entry(NamedTuple):
    """A tensor: its name, its type as a key of BITS, and its shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Its bytes."""
        return math.prod(self.shape) * BITS[self.dtype] // 8

    def count(self, chunk_bytes: int) -> int:
        """How many chunks it has; the last one may be shorter. One without values has none."""
        return -(-self.size // chunk_bytes)

    def check(self) -> Entry:
        """Itself; raises ValueError where a field is not what it should be."""
        if not isinstance(self.name, str) or self.name.encode(errors="ignore").decode() != self.name:
            raise ValueError("a name that is no text")
        if not isinstance(self.dtype, str) or self.dtype not in BITS:
            raise ValueError(f"{self.name!r} has an unknown type {str(self.dtype)[:40]!r}")
        if len(self.shape) > 64 or not all(type(n) is int and 0 <= n <= MAX_DIMENSION for n in self.shape):
            raise ValueError(f"{self.name!r} has a shape that no tensor has")
        if math.prod(self.shape) * BITS[self.dtype] % 8:
            raise ValueError(f"{self.name!r} does not fill its last byte")
        return self

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


class Weights(Protocol):
    """What can be sealed.

    source: "file" or "state_dict". entries: its tensors, in order. metadata, header: of a file, what its
    header says beside the tensors, and the SHA-256 digest of all of it in hexadecimal digits; of a
    state_dict None.
    """

    source: str
    entries: tuple[Entry, ...]
    metadata: dict[str, str] | None
    header: str | None

    def chunks(self, entry: Entry, chunk_bytes: int) -> Iterable[memoryview]:
        """The bytes of a tensor, `chunk_bytes` at once; each is gone when the next one comes."""
        ...


class StateDict:
    """A state_dict: tensors by name, on any device, each moved to the CPU by chunks.

    Raises TypeError naming an entry that has no values of its own to be sealed.
    """

    source = "state_dict"
    metadata: dict[str, str] | None = None
    header: str | None = None

    def __init__(self, tensors: Mapping[Any, Any]) -> None:
        self._tensors: dict[str, torch.Tensor] = {}
        entries = []
        for name, tensor in tensors.items():
            if not isinstance(name, str):
                raise TypeError(f"weights: expected names that are str, got {type(name).__name__}")
            _check_tensor(name, tensor)
            dtype = _TORCH_NAMES[str(tensor.dtype).removeprefix("torch.")]
            entries.append(Entry(name, dtype, tuple(tensor.shape)))
            try:
                entries[-1].check()
            except ValueError as error:
                raise ValueError(f"weights: {printable(error)}") from None
            self._tensors[name] = tensor
        self.entries = tuple(entries)

    def chunks(self, entry: Entry, chunk_bytes: int) -> Iterator[memoryview]:
        tensor = self._tensors[entry.name].detach()
        # Complex values that wait to be conjugated or negated: the only ones that are copied as a whole.
        tensor = tensor.resolve_conj().resolve_neg().view(_SAME_BITS[tensor.element_size()])
        step = chunk_bytes // tensor.element_size()
        for start in range(0, tensor.numel(), step):
            part = _values(tensor, start, min(start + step, tensor.numel()))
            yield part.view(torch.uint8).cpu().numpy().data


def _check_tensor(name: str, tensor: Any) -> None:
    def refuse(what: str) -> TypeError:
        return TypeError(f"weights[{printable(repr(name))}]: {what}")

    if not isinstance(tensor, torch.Tensor):
        raise refuse(f"expected a tensor, got {type(tensor).__name__}")
    if tensor.is_quantized:
        raise refuse("is quantised; seal what it is made of, such as int_repr() and its scales")
    if tensor.is_nested or tensor.layout != torch.strided:
        layout = "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
        raise refuse(f"expected a dense tensor, got a {layout} one; seal what it is made of")
    if tensor.device.type == "meta":
        raise refuse('is on the device "meta", which holds no values')
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        raise refuse(f"expected a torch.Tensor, got its subclass {type(tensor).__name__}")
    if str(tensor.dtype).removeprefix("torch.") not in _TORCH_NAMES:
        raise refuse(f"expected a type out of {', '.join(_TORCH_NAMES)}, got {tensor.dtype}")


def _values(tensor: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    """Values number start to stop of a tensor, row by row, without a copy of much more than these."""
    if tensor.is_contiguous():
        return tensor.view(-1)[start:stop]
    row = tensor[0].numel()
    first, behind = start // row, -(-stop // row)
    if row <= stop - start or tensor.dim() == 1:
        return tensor[first:behind].reshape(-1)[start - first * row : stop - first * row]
    parts = ((n, max(start - n * row, 0), min(stop - n * row, row)) for n in range(first, behind))
    return torch.cat([_values(tensor[n], begin, end) for n, begin, end in parts])


class SafetensorsFile:
    """An open safetensors file, whose header is checked before it is used.

    starts: by the names of tensors, the place of the first byte of each in the file.

    Raises SealError for a file that is not one, or is damaged; OSError. Use it in a `with` statement.
    """

    source = "file"
    metadata: dict[str, str] | None
    header: str | None

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO = open_regular(path)
        try:
            size = os.fstat(self._file.fileno()).st_size
            length = int.from_bytes(self._file.read(8), "little")
            if size < 8 or length > size - 8:
                raise SealError(f"{path}: not a safetensors file, or one that is cut off")
            if length > MAX_HEADER:
                raise SealError(
                    f"{path}: its header has {length} bytes; expected at most {MAX_HEADER}, which is some "
                    "70,000 tensors"
                )
            header = self._file.read(length)
            if len(header) != length:
                raise SealError(f"{path}: changed while it was read")
            self.header = hashlib.sha256(header).hexdigest()
            try:
                self.metadata, places = parse_header(header, size - 8 - length)
            except ValueError as error:
                raise SealError(f"{path}: damaged safetensors file ({printable(error)})") from None
            self.entries = tuple(places)
            self.starts = {entry.name: 8 + length + start for entry, start in places.items()}
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> SafetensorsFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def chunks(self, entry: Entry, chunk_bytes: int) -> Iterator[memoryview]:
        self._file.seek(self.starts[entry.name])
        whole = memoryview(bytearray(min(chunk_bytes, entry.size)))
        for start in range(0, entry.size, chunk_bytes):
            chunk = whole[: entry.size - start]
            if self._file.readinto(chunk) != len(chunk):  # type: ignore[attr-defined]
                raise SealError(f"{self.path}: changed while it was read")
            yield chunk


def open_regular(path: Path) -> BinaryIO:
    """A file to read. Raises SealError for what is none, such as a FIFO, which is not waited for."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise SealError(f"{path}: is not a regular file")
    return os.fdopen(descriptor, "rb")


def parse_header(header: bytes, size: int) -> tuple[dict[str, str], dict[Entry, int]]:
    """The metadata, and the tensors in the order of their bytes, each with the place of its first byte.

    size: of the bytes that follow the header, every one of which has to be of exactly one tensor. Raises
    ValueError that says what is wrong.
    """
    try:
        fields = json.loads(header.decode(), object_pairs_hook=_without_repeats)
    except RecursionError:
        raise ValueError("its header is nested too deeply") from None
    except UnicodeDecodeError:
        raise ValueError("its header is not UTF-8 text") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"its header is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise ValueError("its header is no JSON object")
    metadata = fields.pop(_METADATA, {})
    check_metadata(metadata)
    places: list[tuple[int, int, Entry]] = []
    for name, of_tensor in fields.items():
        if not isinstance(of_tensor, dict) or set(of_tensor) != {"dtype", "shape", "data_offsets"}:
            raise ValueError(f"{name!r} has other fields than dtype, shape and data_offsets")
        shape, offsets = of_tensor["shape"], of_tensor["data_offsets"]
        if not isinstance(shape, list) or not isinstance(offsets, list) or len(offsets) != 2:
            raise ValueError(f"{name!r} has a malformed shape or data_offsets")
        entry = Entry(name, of_tensor["dtype"], tuple(shape)).check()
        if any(type(offset) is not int or offset < 0 for offset in offsets):
            raise ValueError(f"{name!r} has malformed data_offsets")
        if offsets[1] - offsets[0] != entry.size:
            raise ValueError(f"{name!r} has data_offsets that are not those of {entry.size} bytes")
        places.append((offsets[0], offsets[1], entry))
    places.sort(key=lambda place: place[:2])
    end = 0
    for start, stop, entry in places:
        if start != end:
            raise ValueError(
                f"{entry.name!r} {'overlaps' if start < end else 'is not next to'} the one before"
            )
        end = stop
    if end != size:
        raise ValueError(f"its tensors have {end} bytes, and the file has {size} for them")
    return metadata, {entry: start for start, _, entry in places}


def check_metadata(metadata: Any) -> None:
    """Raises ValueError unless it is an object of texts."""
    texts = [*metadata, *metadata.values()] if isinstance(metadata, dict) else [None]
    for text in texts:
        if not isinstance(text, str) or text.encode(errors="ignore").decode() != text:
            raise ValueError(f"{_METADATA} is no object of texts")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name!r} is there twice")
        found[name] = value
    return found
