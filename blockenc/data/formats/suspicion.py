"""What may be a picture. All formats ask here before anything but encrypted pictures goes into the output.

The rule. Data is judged entry by entry: a row of a table or an array, a member of an archive, a string. What
is not known to be no picture is refused, whatever its name. Known to be none is

* an entry of fewer than SMALLEST values: 8 x 8 are the smallest pictures that anyone trains on. A number that
  neither fits into a byte nor is a float of ordinary size counts as its bytes, for they may be packed pixels;
* numbers that are all the same but a few (one-hot labels of any length), or a numbering without gaps;
* boxes and points: lists of up to 4 numbers, fewer than SMALLEST of them, or boxes with coordinates that are
  no pixel values;
* text: printable, without long runs of base64 and without long lists of numbers;
* a few bytes (fewer than SMALLEST) that do not begin as a picture file does.

Entries of numbers could together be a picture, a row or a pixel each. So they must belong to something: be as
many as the pictures they come with, or stand in the same row as a picture or a text; otherwise all of them
are one entry.
"""

from __future__ import annotations

import glob
import json
import math
import re
import shlex
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from blockenc.data.pixels import RefusedError

SMALLEST = 64  # values: 8 x 8
FEW = 8  # values of an entry that may differ from all others: labels, not outlines
NUMERIC = "biufcmM"  # kinds of dtypes
NUMBERS = (bool, int, float)
DEPTH = 32  # of nested lists and dicts
ORDINARY = (1e-12, 1e12)  # sizes of floats that are measured or computed; bytes taken for floats are seldom
# How picture files begin, beyond what is opened here; also a few containers that may hold any.
MAGIC = re.compile(
    rb"\x89PNG|\xff\xd8\xff|GIF8[79]a|BM....\0\0\0\0|RIFF....WEBP|II[*+]\0|MM\0[*+]|8BPS|\0\0[\x01\x02]\0|....ftyp|"
    rb"\xff\x0a|P[1-7fF]\s+(?:#[^\n]*\n\s*)*-?\d+\s|\0\0\0\x0c[jJ]|%!PS|%PDF|/\* XPM|#define \w+_width|"
    rb"DDS \x7c|\x93NUMPY|PK\x03\x04|\x1f\x8b|qoif|\xff\x4f\xff\x51|gimp xcf|AT&TFORM|FORM....(?:ILBM|PBM )|"
    rb"v/1\x01|\x1aE\xdf\xa3|\x0a[\0-\x05]\x01[\x01-\x10]",
    re.DOTALL,
)
_TEXT_MAGIC = re.compile(
    r"\A\s*(?:P[1-7fF]\s+(?:#[^\n]*\n\s*)*-?\d+\s+\d+\s|%!PS|%PDF|/\*\s*XPM|#define\s+\w+_width\s)|<svg[\s>]|"
    r"data:[^\s,]{0,99};base64,|data:(?:image|video|application)/",
    re.IGNORECASE,
)
# SMALLEST bytes have 88 characters in base64; a digest in hexadecimal is as long. Base64 comes in lines, too.
_RUN = re.compile(r"[A-Za-z0-9+/=_-]{88,}|(?:[A-Za-z0-9+/=_-]{32,}\s+){2,}[A-Za-z0-9+/=_-]+")
_DIGEST = re.compile(r"[0-9a-fA-F]{88,128}")
_ADDRESS = re.compile(r"(?!data:)[a-z][a-z0-9+.-]*://[\x21-\x7e]{1,2048}", re.IGNORECASE)
_PATH = re.compile(r"/?(?:[^/=+\s]{1,64}/){2,}[^/=+\s]{0,64}")
_WORD = re.compile(r"\S{257,}")
_BASE85 = 70  # different characters in a word: more than other long words have
_NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"  # matched in one way only, so that none takes long
_NUMBERS = re.compile(rf"(?<![\d.]){_NUMBER}(?:[\s,;|:\[\](){{}}]+{_NUMBER}){{{SMALLEST - 1},}}")
_UNPRINTABLE = {"Cc", "Cn", "Co", "Cs"}


def refuse(name: object, what: str | None, copy: str, hint: str = "") -> None:
    """Raise RefusedError if there is something. copy: the pattern that lets it through."""
    if what:
        raise RefusedError(
            f"{name}: {what}, which may be a picture{hint}; remove or convert it, or copy it unencrypted "
            f"with --copy {shlex.quote(glob.escape(copy))}"
        )


def numbers(values: np.ndarray) -> str | None:
    """What about one entry of numbers may be a picture, if anything."""
    if values.size and values.dtype.kind not in NUMERIC:
        return f"values of type {values.dtype}"
    if _weight(values) < SMALLEST:
        return None
    if values.dtype.kind in "biuf" and (_all_alike(values) or _is_numbering(values)):
        return None
    if values.ndim == 2 and values.shape[1] <= 4 and values.dtype.kind in "iuf":
        few = len(values) < SMALLEST and bool((np.abs(values.astype(float)) < 1 << 16).all())
        if few or (values.shape[1] == 4 and _are_boxes(values)):
            return None
    return f"{values.size} numbers"


def rows(values: np.ndarray) -> str | None:
    """What about entries of numbers [N, ...] may be a picture: of each by itself."""
    if values.dtype.kind in NUMERIC and math.prod(values.shape[1:]) * values.dtype.itemsize < SMALLEST:
        return None  # short, whatever they hold
    return _first(numbers(np.asarray(row)) for row in values)


def text(value: str) -> str | None:
    """What about a text may be a picture, if anything."""
    if _TEXT_MAGIC.search(value):
        return "a picture as text"
    if len(value) < SMALLEST:
        return None
    if not value.isascii() or not value.isprintable():
        strange = sum(unicodedata.category(c) in _UNPRINTABLE for c in value if c not in "\t\n\r")
        if strange >= 4 and strange * SMALLEST > len(value):
            return "text that cannot be printed"
        if sum("\x80" <= c <= "\xff" for c in value) * 2 > len(value):
            return "bytes as text"
    if any(len(set(word)) > _BASE85 for word in _WORD.findall(value) if word.isascii()):
        return "a long run of characters, as base85 is"
    if not _ADDRESS.fullmatch(value.strip()):
        for run in _RUN.findall(value):
            if not (_DIGEST.fullmatch(run) or (_PATH.fullmatch(run) and len(run) <= 512)):
                return "a long run of letters and digits, as base64 is"
    return _first(_listed(match.group()) for match in _NUMBERS.finditer(value))


def data(value: bytes) -> str | None:
    """What about bytes, such as a file, may be a picture, if anything. JSON is looked through."""
    if MAGIC.match(value):
        return "the beginning of a picture file or an archive"
    try:
        string = value.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None if len(value) < SMALLEST else f"{len(value)} bytes that are no text"
    if string.lstrip()[:1] not in ("{", "["):
        return text(string)
    try:
        return plain(_json(string))
    except (ValueError, RecursionError):
        return text(string) or _first(map(_line, string.splitlines()))


def _line(line: str) -> str | None:
    """Of JSON lines."""
    try:
        return plain(_json(line))
    except (ValueError, RecursionError):
        return text(line)


def _json(string: str) -> Any:
    return json.loads(string, object_pairs_hook=_Pairs)


class _Pairs(list):
    """An object of JSON, in which names may repeat."""


def plain(value: Any, depth: int = DEPTH) -> str | None:
    """What about an entry of plain objects (of JSON, a table) may be a picture, if anything."""
    if value is None or isinstance(value, (bool, float)):
        return None
    if isinstance(value, int):
        return None if value.bit_length() < 8 * SMALLEST else "a long number"
    if isinstance(value, str):
        return text(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return data(bytes(value))
    if not depth:
        return "data nested too deeply"
    if isinstance(value, (Mapping, _Pairs)):
        pairs = list(value.items()) if isinstance(value, Mapping) else value
        own = [item for _, item in pairs if isinstance(item, NUMBERS)]
        return (numbers(np.array(own)) if len(own) >= SMALLEST else None) or _first(
            plain(item, depth - 1) for pair in pairs for item in pair
        )
    if isinstance(value, Sequence):
        if all(isinstance(item, NUMBERS) for item in value) or _is_table(value):
            return numbers(np.array(value))
        texts = len(value) >= SMALLEST and all(isinstance(item, str) for item in value)
        if texts and (what := text(" ".join(value))):
            return what
        leaves = sum(1 for _ in _numbers_in(value, depth))
        if leaves >= SMALLEST and _are_lists(value) and not all(_short(item) for item in value):
            return f"{leaves} numbers"
        return _first(plain(item, depth - 1) for item in value)
    return None if type(value).__module__ in ("datetime", "decimal", "uuid") else f"a {type(value).__name__}"


def _first(findings: Iterable[str | None]) -> str | None:
    return next((what for what in findings if what), None)


def _is_table(value: Sequence[Any]) -> bool:
    """Lists of numbers, all equally long."""
    first = value[0] if value else None
    return isinstance(first, (list, tuple)) and all(
        isinstance(row, (list, tuple))
        and len(row) == len(first)
        and all(isinstance(item, NUMBERS) for item in row)
        for row in value
    )


def _are_lists(value: Sequence[Any]) -> bool:
    return all(isinstance(item, (list, tuple, int, float)) or item is None for item in value)


def _short(value: Any) -> bool:
    """A list of a few numbers, such as a box: no row of pixels."""
    return isinstance(value, (list, tuple)) and sum(1 for _ in _numbers_in(value, DEPTH)) < FEW


def _numbers_in(value: Any, depth: int) -> Iterator[float]:
    if isinstance(value, NUMBERS):
        yield value
    elif isinstance(value, (list, tuple)) and depth:
        for item in value:
            yield from _numbers_in(item, depth - 1)


def _weight(values: np.ndarray) -> int:
    """How many bytes of pixels an entry may hold: one a value, more where values are larger than bytes."""
    kind, size = values.dtype.kind, values.dtype.itemsize
    if kind in "iu":
        magnitudes = (np.abs(values) if kind == "i" else values).astype(np.uint64, copy=False)
        return values.size + sum(int(np.count_nonzero(magnitudes >> (8 * k))) for k in range(1, size))
    if kind == "f":
        with np.errstate(all="ignore"):
            magnitudes = np.abs(values)
            ordinary = ((magnitudes > ORDINARY[0]) & (magnitudes < ORDINARY[1])) | (values == 0)
        ordinary |= np.isnan(values)
        return values.size + int(np.count_nonzero(~ordinary)) * (size - 1)
    return values.size * (1 if kind == "b" else size)


def _all_alike(values: np.ndarray) -> bool:
    """All but a few values are the same."""
    flat = values.ravel()
    common, counts = np.unique(flat[: 4 * SMALLEST], return_counts=True)
    others = flat[flat != common[counts.argmax()]]
    return len(others) <= FEW and _weight(others) < SMALLEST


def _is_numbering(values: np.ndarray) -> bool:
    """Integers without gaps, each once, in any order: indices, or names that are numbers."""
    if values.ndim != 1 or values.dtype.kind == "b" or not np.isfinite(values).all():
        return False
    found = np.unique(values)
    return len(found) == len(values) and bool((np.diff(found) == 1).all())


def _are_boxes(values: np.ndarray) -> bool:
    """Corners in order, or coordinates beyond what pixels are; RGBA pixels have often one alpha."""
    if np.unique(values[:, 3]).size == 1:
        return False
    ordered = (values[:, 2] >= values[:, 0]) & (values[:, 3] >= values[:, 1])
    beyond = bool(np.nanmax(values) > 256)
    return beyond if values.dtype.kind in "iu" else beyond or bool(ordered.all())


def _listed(run: str) -> str | None:
    """What about numbers in a text may be a picture: they are one entry, in lines of one length or not."""
    lines = [[float(number) for number in re.findall(_NUMBER, line)] for line in run.splitlines()]
    if len({len(line) for line in lines}) == 1:
        return numbers(np.array(lines) if len(lines) > 1 else np.array(lines[0]))
    return numbers(np.array([number for line in lines for number in line]))
