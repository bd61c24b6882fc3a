"""What may be a picture. All formats ask here before anything but encrypted pictures goes into the output.

The rule. Data is judged entry by entry: a row of a table or an array, a member of an archive, a string. What
is not known to be no picture is refused, whatever its name. Known to be none is

* an entry of fewer than SMALLEST values: 8 x 8 are the smallest pictures that anyone trains on. A number that
  neither fits into a byte nor is a float of ordinary size counts as its bytes, for they may be packed pixels;
* numbers that are all the same but a few (one-hot labels of any length), or indices: integers of which none
  repeats, ascending or close together;
* boxes and points: lists of up to 4 numbers, fewer than SMALLEST of them, or boxes with coordinates that are
  no pixel values;
* text: printable, in words, without base64 and without long lists of numbers;
* a few bytes (fewer than SMALLEST) that do not begin as a picture file does.

Entries of numbers could together be a picture, a row or a pixel each. So they must belong to something: be as
many as the pictures they come with, or stand in the same row as a picture or a text; otherwise all of them
are one entry. A JSON document, a file of JSON lines and a text are judged as a whole, too (_Whole, text).
More than LARGEST bytes are not looked through, but refused.
"""

from __future__ import annotations

import contextlib
import glob
import itertools
import json
import math
import re
import shlex
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from blockenc.datasets.pixels import RefusedError

SMALLEST = 64  # values: 8 x 8
FEW = 8  # values of an entry that may differ from all others: labels, not outlines
NUMERIC = "biufcmM"  # kinds of dtypes
NUMBERS = (bool, int, float)
DEPTH = 32  # of nested lists and dicts
LARGEST = 16 << 20  # bytes or characters that are looked through: to parse them takes a multiple of memory
PARTS = 1 << 20  # of a JSON document: lists, objects and their names. A fourth of it: numbers in a text
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
PACKED = 88  # characters that SMALLEST bytes have in base64
_RUN = re.compile(rf"[A-Za-z0-9+/=_-]{{{PACKED},}}")
_PACKED_WORD = re.compile(r"(?<!\S)[A-Za-z0-9+/=_-]{16,}(?!\S)")
_DIGEST = re.compile(r"[0-9a-fA-F]{16,128}")
_DIGEST_PART = re.compile(rf"(?<![A-Za-z0-9]){_DIGEST.pattern}(?![A-Za-z0-9])")
_DIGEST_LINE = re.compile(r"^[ \t]*([0-9a-fA-F]{16,})[ \t]*$", re.MULTILINE)
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_ADDRESS = re.compile(r"\b(?:https?|ftp|s3|gs|file|hf)://[\x21-\x7e]{1,2048}", re.IGNORECASE)
_PATH = re.compile(r"/?(?:[^/=+\s]{1,64}/){2,}[^/=+\s]{0,64}")
_FILE_NAME = re.compile(r"[^\n]{1,255}\.[A-Za-z]\w{1,4}")
_WORD = re.compile(r"[\x21-\x7e]{257,}")
_ESCAPE = re.compile(
    r"\\x[0-9a-fA-F]{2}|\\u00[0-9a-fA-F]{2}|\\[0-3][0-7]{2}|&#x?[0-9a-fA-F]+;|%[0-9a-fA-F]{2}|#[0-9a-fA-F]{6}\b"
)
_DUMP = re.compile(
    r"(?:^[ \t]*[0-9a-fA-F]{4,16}:?[ \t]+(?:[0-9a-fA-F]{2,8}[ \t]+){4}[^\n]*\n?){4}", re.MULTILINE
)
# Matched in one way only, so that none takes long; in pieces, so that none takes much memory.
_DECIMAL = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"
_NUMBER = rf"(?:0[xX][0-9a-fA-F]{{1,16}}|0b[01]{{1,64}}|[0-9a-fA-F]{{2}}(?![\w.])|{_DECIMAL})"
_GAP = r"[\s,;|:\[\](){}'\"]"
_CAST = r"\((?:byte|char|u?int8(?:_t)?)\)"
_BETWEEN = rf"[uUlL]{{0,3}}{_GAP}+(?:{_CAST}{_GAP}*|-(?=\s){_GAP}+){{0,4}}"
_ROW = 16  # numbers in a row of text that are more than a line of annotations has
_NUMBERS = re.compile(
    rf"(?<![\w.]){_NUMBER}(?:{_BETWEEN}{_NUMBER}(?![\d.A-KM-TV-Za-km-tv-z_])){{{_ROW - 1},4095}}"
)
_UNPRINTABLE = re.compile(
    "[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ue000-\uf8ff\ufffe\uffff\U000f0000-\U0010ffff]"
)
_LATIN = re.compile("[\x80-\xff]")


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
    if values.dtype.kind == "c" and values.nbytes >= SMALLEST:
        return f"{values.size} complex numbers"
    if values.dtype.kind in NUMERIC and math.prod(values.shape[1:]) * values.dtype.itemsize < SMALLEST:
        return None  # short, whatever they hold
    return _first(numbers(np.asarray(row)) for row in values)


def text(value: str) -> str | None:
    """What about a text may be a picture, if anything."""
    if _TEXT_MAGIC.search(value[:LARGEST]):
        return "a picture as text"
    if len(value) < SMALLEST:
        return None
    if len(value) > LARGEST:
        return _too_long(len(value))
    if not value.isascii() or not value.isprintable():
        strange = len(_UNPRINTABLE.findall(value))
        if strange >= 4 and strange * SMALLEST > len(value):
            return "text that cannot be printed"
        if len(_LATIN.findall(value)) * 2 > len(value):
            return "bytes as text"
    if "://" in value:
        value = _ADDRESS.sub("<address>", value)
    return _escaped(value) or _packed(value) or _unwritten(value) or _listed(value)


def name(value: str) -> str | None:
    """What about a name, of a member or a column, may be a picture, if anything. Separators do not count."""
    value = _DIGEST_PART.sub("", _UUID.sub("", value))
    bare = re.sub(r"[/\\.]", "", value)
    if len(bare) >= PACKED and _is_packed(bare.replace("_", "").replace("-", ""), longest=len(bare)):
        return "a name of letters and digits, as base64 is"
    return _first(map(text, re.split(r"[/\\]", value)))


def _too_long(count: int) -> str:
    return f"{count >> 20} MB, of which more than {LARGEST >> 20} MB are not looked through"


def _escaped(value: str) -> str | None:
    """Bytes as escapes, or as a dump."""
    count = sum(1 for _ in zip(range(SMALLEST), _ESCAPE.finditer(value), strict=False))
    return "bytes in hexadecimal" if count == SMALLEST or _DUMP.search(value) else None


def _unwritten(value: str) -> str | None:
    """Printable bytes that nobody wrote: too much punctuation, or a very long word."""
    if _marks(value) * 10 > len(value) * 3 and sum(mark in value for mark in string.punctuation) >= 12:
        return "text of which much is punctuation, as bytes are"
    for word in _WORD.findall(value):
        if len(set(word)) < 10 or (_PATH.fullmatch(word) and len(word) <= 512):
            continue
        parts = re.split(r"[,;|\t]", word)
        odd = sum(map(_marks, parts))
        if odd * 5 > len(word) or any(len(part) > 256 for part in parts) or len(set(word)) > 70:
            return "a long run of characters without a space"
    return None


def _marks(value: str) -> int:
    """How many characters are punctuation."""
    ascii = value.encode("ascii", "ignore")
    return len(ascii) - len(ascii.translate(None, string.punctuation.encode()))


def _is_packed(run: str, longest: int = 32) -> bool:
    """Whether letters and digits are as mixed as in base64, or too long for the words of a name."""
    if len(set(run)) < 10 or _UUID.fullmatch(run):
        return False
    kinds = run.translate(_KINDS)
    changes = sum(a != b for a, b in itertools.pairwise(kinds))
    return changes * 5 >= len(run) * 2 or max(map(len, re.split("[/_-]", run))) > longest


_KINDS = {
    **dict.fromkeys(map(ord, string.ascii_uppercase), "A"),
    **dict.fromkeys(map(ord, string.ascii_lowercase), "a"),
    **dict.fromkeys(map(ord, string.digits), "0"),
    **dict.fromkeys(map(ord, "+/=_-"), "-"),
}


def _packed(value: str) -> str | None:
    """Base64 or hexadecimal: in one run, or in words or lines."""
    what = "a long run of letters and digits, as base64 is"
    for run in _RUN.findall(value):
        if _is_packed(run) and not _DIGEST.fullmatch(run):
            return what
    words = (word.group() for word in _PACKED_WORD.finditer(value))
    lengths = (len(word) for word in words if not _DIGEST.fullmatch(word) and _is_packed(word))
    if any(count >= PACKED for count in itertools.accumulate(lengths)):
        return what
    digests = [len(line) for line in _DIGEST_LINE.findall(value)]
    return what if sum(digests) > 2 * SMALLEST else None


def data(value: bytes) -> str | None:
    """What about bytes, such as a file, may be a picture, if anything. JSON is looked through."""
    if MAGIC.match(value):
        return "the beginning of a picture file or an archive"
    if len(value) > LARGEST:
        return _too_long(len(value))
    try:
        decoded = value.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None if len(value) < SMALLEST else f"{len(value)} bytes that are no text"
    if decoded.lstrip()[:1] not in ("{", "["):
        return text(decoded)
    if sum(map(decoded.count, "[{:")) > PARTS:
        return f"JSON of more than {PARTS} parts, which is not looked through"
    try:
        return plain(_json(decoded))
    except (ValueError, RecursionError):
        pass
    lines = []
    other = []
    for line in decoded.splitlines():
        try:
            lines.append(_json(line))
        except (ValueError, RecursionError):
            other.append(line)
    return plain(lines) or text("\n".join(other))


def _json(string: str) -> Any:
    return json.loads(string, object_pairs_hook=_Pairs)


class _Pairs(list):
    """An object of JSON, in which names may repeat."""


def plain(value: Any) -> str | None:
    """What about plain objects (a JSON document, an entry of a table) may be a picture, if anything."""
    whole = _Whole()
    return whole.look(value, DEPTH) or whole.verdict()


class _Whole:
    """Collects from everywhere in a document what might be a picture together.

    Ordinary annotations have few loose numbers: they are boxes or points, outlines within a box, or scalars
    of records that have a text, a box or an identifier.
    """

    def __init__(self) -> None:
        self.loose: list[float] = []  # of lists that are longer than boxes
        self.points: dict[int, list[Sequence[float]]] = {1: [], 2: [], 3: [], 4: []}  # by their length
        self.records: dict[tuple[str, ...], list[list[float]]] = {}  # scalars, by their names
        self.texts: dict[tuple[str, ...], set[str]] = {}  # what the records of these names have besides
        self.packed = 0  # characters of base64
        self.bytes = 0  # that are no text

    def look(self, value: Any, depth: int, owned: bool = False) -> str | None:
        """What is suspicious by itself. The rest is collected. owned: by the name of a file."""
        if value is None or isinstance(value, (bool, float)):
            return None
        if isinstance(value, int):
            return None if value.bit_length() < 8 * SMALLEST else "a long number"
        if isinstance(value, str):
            if len(value) < LARGEST and "\n" not in value and _NUMBERS.fullmatch(value):
                self.loose.extend(map(_number, re.findall(_NUMBER, value)))
            return text(value)
        if isinstance(value, (bytes, bytearray, memoryview)):
            value = bytes(value)
            try:
                binary = bool(_UNPRINTABLE.search(value.decode()))
            except UnicodeDecodeError:
                binary = True
            self.bytes += binary * len(value)
            return data(value)
        if not depth:
            return "data nested too deeply"
        if isinstance(value, (Mapping, _Pairs)):
            return self._object(list(value.items()) if isinstance(value, Mapping) else value, depth, owned)
        if isinstance(value, Sequence):
            return self._list(value, depth)
        known = type(value).__module__ in ("datetime", "decimal", "uuid")
        return None if known else f"a {type(value).__name__}"

    def _object(self, pairs: Sequence[tuple[Any, Any]], depth: int, owned: bool) -> str | None:
        pairs = [(key, item[0] if _is_list(item, 1) else item) for key, item in pairs]
        texts = [item for _, item in pairs if isinstance(item, str) and item]
        own = [(key, item) for key, item in pairs if isinstance(item, NUMBERS)]
        packed = [item for item in texts if _is_word(item)]
        if not any(re.search("[A-Za-z]{3}", item) for item in texts if item not in packed):
            self.packed += sum(map(len, packed))
        numbered = [item for key, item in own if not _FILE_NAME.fullmatch(str(key))]
        if len(numbered) >= SMALLEST and (what := numbers(np.array(numbered))):
            return what
        box = next((item for _, item in pairs if _is_list(item, 4)), None)
        if numbered and not owned and box is None:
            names = tuple(str(key) for key, _ in own)
            self.records.setdefault(names, []).append([item for _, item in own])
            self.texts.setdefault(names, set()).update(text for text in texts if not _is_word(text))
        lists = [item for _, item in pairs if _is_list(item) and len(item) > 4]
        if len(lists) == 2 and len(lists[0]) == len(lists[1]) < SMALLEST:  # x and y
            self.points[2].extend(zip(*lists, strict=True))
            pairs = [(key, None if any(item is one for one in lists) else item) for key, item in pairs]
        boxed = {len(item) for _, item in pairs if not _is_list(item) and _is_boxes(item)}
        for key, item in pairs:
            if what := self.look(key, depth - 1):
                return what
            if (box is not None and _is_outline(item, box)) or (_is_list(item) and len(item) in boxed):
                continue  # an outline, or a label of each box
            if what := self.look(item, depth - 1, bool(_FILE_NAME.fullmatch(str(key)))):
                return what
        return None

    def _list(self, value: Sequence[Any], depth: int) -> str | None:
        if _is_list(value) and len(value) < SMALLEST and _is_keypoints(value):
            self.points[3].extend(value[k : k + 3] for k in range(0, len(value), 3))
            return None
        if _is_list(value) or _is_table(value):
            array = np.array(value)
            if what := numbers(array):
                return what
            lists = value if array.ndim == 2 else [value]
            for one in lists if array.size else ():
                if len(one) in self.points:
                    self.points[len(one)].append(one)
                elif not (_all_alike(np.array(one)) or _is_numbering(np.array(one))):
                    self.loose.extend(one)
            return None
        if value and all(isinstance(item, str) for item in value):
            self.packed += sum(len(item) for item in value if _is_word(item))
            return text(" ".join(value)) or _first(self.look(item, depth) for item in value)
        leaves = sum(1 for _ in _numbers_in(value, depth))
        if leaves >= SMALLEST and _are_lists(value) and not all(_short(item) for item in value):
            return f"{leaves} numbers"
        bare = [item for item in value if isinstance(item, NUMBERS)]
        self.loose.extend(bare)
        return _first(self.look(item, depth - 1) for item in value)

    def verdict(self) -> str | None:
        if self.packed > 2 * SMALLEST:
            return f"{self.packed} letters and digits, as base64 is"
        if self.bytes >= SMALLEST:
            return f"{self.bytes} bytes that are no text"
        if len(self.loose) >= SMALLEST and (what := numbers(np.array(self.loose))):
            return f"{what} in lists"
        for width, points in self.points.items():
            if len(points) >= SMALLEST and not _are_points(np.array(points)):
                return f"{len(points)} lists of {width} numbers"
        return _first(self._of_records(names) for names in self.records)

    def _of_records(self, names: tuple[str, ...]) -> str | None:
        values, texts = np.array(self.records[names], float), self.texts[names]
        if len(values) < FEW or numbers(values.ravel()) is None:
            return None
        coordinates = bool(texts) and bool((values > 256).any())
        if len(texts) >= 4 or coordinates or _are_labels(values):
            return None
        return f"{values.size} numbers called {', '.join(names)[:80]}"


def _is_list(value: Any, length: int | None = None) -> bool:
    """A list of numbers."""
    return (
        isinstance(value, Sequence)
        and not isinstance(value, (str, bytes, bytearray, memoryview, _Pairs))
        and (length is None or len(value) == length)
        and all(isinstance(item, NUMBERS) for item in value)
    )


def _is_boxes(value: Any) -> bool:
    """A list of lists of 4 numbers."""
    return isinstance(value, (list, tuple)) and bool(value) and all(_is_list(item, 4) for item in value)


def _is_word(value: str) -> bool:
    """Of base64 or hexadecimal."""
    return bool(_PACKED_WORD.fullmatch(value)) and (bool(_DIGEST.fullmatch(value)) or _is_packed(value))


def _is_outline(value: Any, box: Sequence[float]) -> bool:
    """Points x, y, x, y ... of which the box [x, y, width, height] is the bounding one."""
    parts = [value] if _is_list(value) else value
    if not isinstance(parts, (list, tuple)) or not parts or not all(_is_list(part) for part in parts):
        return False
    if any(len(part) < 6 or len(part) % 2 for part in parts):
        return False
    points = np.concatenate([np.array(part, float).reshape(-1, 2) for part in parts])
    x, y, width, height = box
    bounds = np.array([points.min(0), points.max(0)])
    return bool((np.abs(bounds - [[x, y], [x + width, y + height]]) <= 2).all())


def _is_keypoints(value: Sequence[float]) -> bool:
    """Points x, y, visibility (0 to 2), one after the other."""
    return len(value) >= 9 and len(value) % 3 == 0 and set(value[2::3]) <= {0, 1, 2}


def _are_points(values: np.ndarray) -> bool:
    """Coordinates beyond what pixels are, or boxes."""
    width = values.shape[1]
    if width == 4:
        return _are_boxes(values)
    if width == 3 and len(np.unique(values[:, 2])) > 4:
        return False
    return width > 1 and bool((values > 256).any())


def _are_labels(values: np.ndarray) -> bool:
    """A table of up to 3 columns, of which one is an identifier: integers that ascend."""
    if values.ndim != 2 or not 2 <= values.shape[1] <= 3:
        return False
    whole = np.isfinite(values).all(0) & (values == np.floor(values)).all(0)
    return bool((whole & (values[1:] > values[:-1]).all(0)).any())


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
    return all(
        item is None or (isinstance(item, (list, tuple, int, float)) and not isinstance(item, _Pairs))
        for item in value
    )


def _short(value: Any) -> bool:
    """A list of a few numbers, such as a box: no row of pixels."""
    return isinstance(value, (list, tuple)) and sum(1 for _ in _numbers_in(value, DEPTH)) < FEW


def _numbers_in(value: Any, depth: int) -> Iterator[float]:
    if isinstance(value, NUMBERS):
        yield value
    elif isinstance(value, (list, tuple)) and not isinstance(value, _Pairs) and depth:
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
    """Integers, each once, ascending or close together in any order: indices, or names that are numbers."""
    if values.ndim != 1 or values.dtype.kind == "b" or not np.isfinite(values).all():
        return False
    if values.dtype.kind == "f" and not (values == np.floor(values)).all():
        return False
    found = np.unique(values)
    if len(found) < len(values):
        return False
    return bool((values[1:] > values[:-1]).all()) or float(found[-1]) - float(found[0]) < 4 * len(found)


def _are_boxes(values: np.ndarray) -> bool:
    """Corners in order, or coordinates beyond what pixels are; RGBA pixels have often one alpha."""
    if np.unique(values[:, 3]).size == 1 and not values[0, 3] > 256:
        return False
    ordered = (values[:, 2] >= values[:, 0]) & (values[:, 3] >= values[:, 1])
    beyond = bool((values > 256).any())
    return beyond if values.dtype.kind in "iu" else beyond or bool(ordered.all())


def _listed(value: str) -> str | None:
    """What about the numbers in a text may be a picture: together, but for those of short lines."""
    rows: list[float] = []
    count = 0
    for match in _NUMBERS.finditer(value):
        lines = [[_number(n) for n in re.findall(_NUMBER, line)] for line in match.group().splitlines()]
        lines = [line for line in lines if line]
        count += sum(map(len, lines))
        if count > PARTS // 4:
            return f"more than {PARTS // 4} numbers, which are not looked through"
        # A match begins and ends within a line where other text stands there.
        table = lines[1:-1] if len(lines) >= SMALLEST // 4 else lines
        equal = len({len(line) for line in table}) == 1
        if equal and _is_labelled(np.array(table), value[max(0, match.start() - 256) : match.start()]):
            continue
        rows.extend(number for line in lines for number in line)
        if len(rows) >= SMALLEST and (what := numbers(np.array(rows))):
            return what
        if len(rows) >= SMALLEST:
            rows.clear()
    return None


def _number(word: str) -> float:
    with contextlib.suppress(ValueError):
        return float(word)
    return float(int(word, 16))


def _is_labelled(table: np.ndarray, before: str) -> bool:
    """Lines of labels: with an identifier, two columns under a header, or a class and a relative box."""
    if len(table) < 2:
        return False
    header = re.split(r"[,;\t ]+", before.rstrip().rpartition("\n")[2])
    if table.shape[1] == 2 == len(header) and all(re.search("[A-Za-z]", title) for title in header):
        return True
    if table.shape[1] == 5 and len(table) < 1000:
        classes, boxes = table[:, 0], table[:, 1:]
        if (classes == np.floor(classes)).all() and ((boxes >= 0) & (boxes <= 1)).all():
            return True
    return _are_labels(table)
