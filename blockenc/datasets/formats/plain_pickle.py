"""Pickles of plain data: read without running them, and written as their readers expect.

A pickle is a program for a stack machine that can call any function there is. Here its instructions are
carried out by this module, which knows those that make dicts, lists, tuples, numbers, texts and bytes; the
few calls that pickles of NumPy arrays, in either Python and NumPy 1 and 2, are made of stand for themselves.
Nothing is imported, and NumPy sees plain type names and as many bytes as the shape says.
"""

from __future__ import annotations

import io
import math
import pickletools
import re
import struct
from typing import Any, BinaryIO

import numpy as np

DEPTH = 32  # of lists, tuples and dicts in one another
REPEATED = 1 << 20  # bytes that a small file may name again; a larger one as many as it has
MAX_OPCODES = 1 << 21  # a file of CIFAR has 300,000 at most; each may take 100 bytes of memory
_DTYPE = re.compile(r"[<>=|]?(b1|i[1248]|u[1248]|f[248])")
_MARK = object()

_RECONSTRUCT, _SCALAR, _FROMBUFFER, _NDARRAY, _NUMPY_DTYPE, _ENCODE = (object() for _ in range(6))
_GLOBALS = {
    **{f"numpy.{core}.multiarray _reconstruct": _RECONSTRUCT for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray scalar": _SCALAR for core in ("core", "_core")},
    **{f"numpy.{core}.numeric _frombuffer": _FROMBUFFER for core in ("core", "_core")},
    "numpy ndarray": _NDARRAY,
    "numpy dtype": _NUMPY_DTYPE,
    "_codecs encode": _ENCODE,
}


class PickleError(ValueError):
    """A pickle is damaged, or holds more than plain data."""


class Python2String(bytes):
    """A str of Python 2: bytes or text, as its reader says."""


class _Dtype:
    """A plain NumPy dtype that is being described."""

    def __init__(self, name: str) -> None:
        if not _DTYPE.fullmatch(name):
            raise PickleError(f"an array of type {name[:20]!r}; plain numbers are expected")
        self.name, self.order = name.lstrip("<>=|"), name[0] if name[0] in "<>=|" else "="

    def value(self) -> np.dtype:
        return np.dtype(self.order + self.name)


class _Array:
    """A NumPy array that is being described."""

    def __init__(self) -> None:
        self.array: np.ndarray | None = None

    def fill(self, shape: Any, dtype: Any, fortran: Any, data: Any) -> _Array:
        if self.array is not None:
            raise PickleError("an array that is filled twice")
        sizes = shape if type(shape) is tuple else (shape,)
        if not isinstance(dtype, _Dtype) or not isinstance(data, (bytes, bytearray)):
            raise PickleError("an array that is not plain numbers")
        if any(type(n) is not int or n < 0 for n in sizes) or len(sizes) > 8:
            raise PickleError("an array without a shape")
        kind = dtype.value()
        if math.prod(sizes) * kind.itemsize != len(data):
            raise PickleError(f"an array of shape {list(sizes)} and {len(data)} bytes, which do not match")
        self.array = np.frombuffer(data, kind).reshape(sizes, order="F" if fortran else "C")
        return self


def load(data: bytes) -> Any:
    """What a pickle holds: None, bool, int, float, str, bytes, tuples, lists, dicts, arrays of numbers.

    Strings of Python 2 are `Python2String`. All that the pickle holds is in the result: what is made and then
    dropped is an error. The result is a tree, DEPTH levels deep at most: a list or dict that is named again,
    in itself or elsewhere, is an error, too, for written out it could be of any size. Raises PickleError.
    """
    try:
        value = _load(data)
        _check_tree(value)
        return value
    except PickleError:
        raise
    except (
        IndexError,
        KeyError,
        TypeError,
        ValueError,
        OverflowError,
        RecursionError,
        struct.error,
    ) as error:
        raise PickleError(f"damaged: {type(error).__name__}") from None
    except MemoryError:
        raise PickleError("not enough memory") from None


def _load(data: bytes) -> Any:
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    encoded = 0  # bytes made of text: the same text may be named again and again
    repeated = 0  # bytes that are named again

    def to_mark() -> list[Any]:
        start = len(stack) - 1
        while stack[start] is not _MARK:
            start -= 1
            if start < 0:
                raise PickleError("damaged: no mark")
        items = stack[start + 1 :]
        del stack[start:]
        return items

    file = io.BytesIO(data)
    argument: Any
    for number, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if number > MAX_OPCODES:
            raise PickleError("more instructions than a data set needs")
        name = opcode.name
        if name in _LITERALS:
            stack.append(_LITERALS[name])
        elif name in _VALUES:
            stack.append(argument)
        elif name in ("BINSTRING", "SHORT_BINSTRING"):
            stack.append(Python2String(argument.encode("latin-1")))
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            repeated += _size_to_repeat(memo[argument])
            if repeated > max(REPEATED, len(data)):
                raise PickleError("what it names again is more than the file has")
            stack.append(memo[argument])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("APPEND", "APPENDS"):
            items = to_mark() if name == "APPENDS" else [stack.pop()]
            _of(list, stack[-1]).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = to_mark() if name == "SETITEMS" else [stack.pop(), stack.pop()][::-1]
            target = _of(dict, stack[-1])
            for key, value in zip(items[::2], items[1::2], strict=True):
                if not isinstance(key, (str, bytes)):
                    raise PickleError("a key that is no text")
                if key in target:
                    raise PickleError(f"the key {key[:80]!r} is there twice")
                target[key] = value
        elif name in ("TUPLE", "LIST"):
            items = to_mark()
            stack.append(tuple(items) if name == "TUPLE" else items)
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            items = [stack.pop() for _ in range(count)]
            stack.append(tuple(items[::-1]))
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            if name == "STACK_GLOBAL":
                argument = f"{_of(str, stack.pop(-2))} {_of(str, stack.pop())}"
            if argument not in _GLOBALS:
                raise PickleError(
                    f"it names {argument[:80].replace(' ', '.')}, which plain data does not need"
                )
            stack.append(_GLOBALS[argument])
        elif name == "REDUCE":
            arguments = _of(tuple, stack.pop())
            made = _called(stack.pop(), arguments)
            encoded += len(made) if isinstance(made, bytes) else 0
            if encoded > len(data):
                raise PickleError("more bytes than the file has")
            stack.append(made)
        elif name == "BUILD":
            state = _of(tuple, stack.pop())
            _build(stack[-1], state)
        elif name == "STOP":
            if file.tell() != len(data) or len(stack) != 1:
                raise PickleError("more than one object")
            return stack[0]
        elif name not in ("PROTO", "FRAME") or argument > len(data):
            raise PickleError(f"the instruction {name}, which plain data does not need")
    raise PickleError("it ends too early")


_LITERALS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_VALUES = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}


def _size_to_repeat(value: Any) -> int:
    """The bytes of what is named again. Raises PickleError for what holds other objects."""
    if isinstance(value, _Array):
        if value.array is None:
            raise PickleError("an array that is named again before it is there")
        return value.array.nbytes
    if type(value) in (list, dict) or (type(value) is tuple and any(map(_is_container, value))):
        raise PickleError("a list, dict or nested tuple that is named again")
    if isinstance(value, tuple):
        return 8 + sum(map(_size_to_repeat, value))
    if isinstance(value, int):
        return 8 + value.bit_length() // 8
    return 8 + len(value) if isinstance(value, (str, bytes, bytearray)) else 8


def _is_container(value: Any) -> bool:
    return type(value) in (list, dict, tuple)


def _check_tree(value: Any) -> None:
    """Raises PickleError for what is nested too deeply, or holds what plain data is only made of."""
    level = [value]
    for _ in range(DEPTH):
        for item in level:
            if type(item) in (_Dtype, object) or (type(item) is _Array and item.array is None):
                raise PickleError("an array or a type that is not finished")
        below = (item for item in level if _is_container(item))
        level = [part for item in below for part in (item.values() if type(item) is dict else item)]
    if level:
        raise PickleError("lists, tuples or dicts nested too deeply")


def _of(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise PickleError(f"damaged: a {type(value).__name__} in the place of a {kind.__name__}")
    return value


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(_of(str, value))


def _called(function: Any, arguments: tuple[Any, ...]) -> Any:
    """What a call stands for."""
    if function is _ENCODE:  # how Python 3 writes bytes for Python 2
        text, encoding = arguments
        if _text(encoding) not in ("latin1", "latin-1"):
            raise PickleError("text in an unexpected encoding")
        return _of(str, text).encode("latin-1")
    if function is _NUMPY_DTYPE:
        name, align, copy = arguments
        if align not in (0, 1) or copy not in (0, 1):
            raise PickleError("a dtype with unexpected arguments")
        return _Dtype(_text(name))
    if function is _RECONSTRUCT:
        kind, shape, code = arguments
        if kind is not _NDARRAY or shape != (0,) or _text(code) != "b":
            raise PickleError("an array that is not made as NumPy makes it")
        return _Array()
    if function is _FROMBUFFER:
        data, dtype, shape, order, *rest = arguments
        if _text(order) not in ("C", "F") or rest not in ([], [None]):
            raise PickleError("an array that is not made as NumPy makes it")
        return _Array().fill(shape, dtype, _text(order) == "F", data)
    if function is _SCALAR:
        dtype, data = arguments
        array = _Array().fill((), dtype, False, data).array
        assert array is not None
        return array.item()
    raise PickleError("a call that plain data does not need")


def _build(target: Any, state: tuple[Any, ...]) -> None:
    """What NumPy does when it sets the state of a new object."""
    if isinstance(target, _Dtype):
        version, order, *rest = state
        if version != 3 or rest != [None, None, None, -1, -1, 0] or _text(order) not in ("<", ">", "=", "|"):
            raise PickleError("a dtype that is more than a plain number")
        target.order = _text(order)
    elif isinstance(target, _Array):
        version, shape, dtype, fortran, data = state
        if version != 1 or fortran not in (0, 1):
            raise PickleError("an array that is not made as NumPy makes it")
        target.fill(shape, dtype, fortran, data)
    else:
        raise PickleError("an object whose state is set, which plain data does not need")


def array_of(value: Any) -> np.ndarray | None:
    """The array that a value of a loaded dict is, if it is one."""
    return value.array if isinstance(value, _Array) else None


def dump(value: Any, file: BinaryIO) -> None:
    """Write a dict of plain values, lists of such, and arrays, as `load` gives them.

    Strings of Python 2 stay what they are, so that `pickle.load(encoding="latin1")`, as torchvision reads
    CIFAR, finds the same keys as in the original.
    """
    python2 = any(isinstance(key, Python2String) for key in value)
    file.write(b"\x80\x02" if python2 else b"\x80\x03")
    _dump(value, file, python2)
    file.write(b".")


def _dump(value: Any, file: BinaryIO, python2: bool) -> None:
    write = file.write
    if value is None or isinstance(value, bool):
        write({None: b"N", True: b"\x88", False: b"\x89"}[value])
    elif isinstance(value, int):
        if -(1 << 31) <= value < 1 << 31:
            write(b"J" + struct.pack("<i", value))
        else:
            data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            write(b"\x8b" + struct.pack("<i", len(data)) + data)
    elif isinstance(value, float):
        write(b"G" + struct.pack(">d", value))
    elif isinstance(value, str):
        data = value.encode("utf-8", "surrogatepass")
        write(b"X" + struct.pack("<I", len(data)) + data)
    elif isinstance(value, (bytes, bytearray)):
        code = b"T" if isinstance(value, Python2String) else b"B"
        write(code + struct.pack("<I", len(value)))
        write(value)
    elif isinstance(value, dict):
        write(b"}(")
        for pair in value.items():
            for part in pair:
                _dump(part, file, python2)
        write(b"u")
    elif isinstance(value, list):
        write(b"](")
        for item in value:
            _dump(item, file, python2)
        write(b"e")
    elif isinstance(value, tuple):
        write(b"(")
        for item in value:
            _dump(item, file, python2)
        write(b"t")
    elif isinstance(value, np.ndarray):
        _dump_array(value, file, python2)
    else:
        _dump_array(value.array, file, python2)


def _dump_array(array: np.ndarray, file: BinaryIO, python2: bool) -> None:
    """As NumPy itself pickles it, under the names that all of its versions know."""
    kind = Python2String if python2 else bytes
    order = array.dtype.byteorder
    order = ("<" if np.little_endian else ">") if order == "=" else order
    file.write(b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n")
    _dump((0,), file, python2)
    _dump(kind(b"b"), file, python2)
    file.write(b"\x87R(")
    for part in (1, array.shape):
        _dump(part, file, python2)
    file.write(b"cnumpy\ndtype\n")
    name = array.dtype.str.lstrip("<>=|")
    for argument in (kind(name.encode()) if python2 else name, False, True):
        _dump(argument, file, python2)
    file.write(b"\x87R")
    _dump((3, kind(order.encode()) if python2 else order, None, None, None, -1, -1, 0), file, python2)
    file.write(b"b")
    _dump(False, file, python2)
    _dump(kind(np.ascontiguousarray(array).tobytes()), file, python2)
    file.write(b"tb")
