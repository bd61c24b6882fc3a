"""The fields of a sample: where its images are, in whatever containers they lie.

A user names a field by its key or position: "image", 0, -1; one that lies deeper by the way to it,
joined by dots: "target.mask", "0.1". Inside the library a field is a path, a tuple of keys and positions.
"""

from __future__ import annotations

import copy
import dataclasses
import sys
import types
from collections.abc import Iterator, Mapping, MutableMapping, MutableSequence, Sequence
from typing import Any

import numpy as np
import torch

from blockenc.images import describe, encryptable, has_few_values, is_bytes, looks_like_image

Field = int | str
Path = tuple[Any, ...]
# Sequences that hold no fields.
NO_CONTAINERS = (str, bytes, bytearray, memoryview, range)
NUMBERS = (int, float, bool, type(None))


def given_fields(given: Field | Sequence[Field], name: str) -> tuple[Field, ...]:
    """An argument that names fields, one or several, as a tuple. Raises TypeError naming the argument."""
    fields = tuple(given) if isinstance(given, (tuple, list, set, frozenset)) else (given,)
    for field in fields:
        if isinstance(field, bool) or not isinstance(field, (int, str)):
            raise TypeError(f"{name}: expected positions or names of fields, got {field!r}")
    return fields


def is_array(value: Any) -> bool:
    """Whether value is of a kind that may be named as an image: an array of any library, or a PIL image."""
    return isinstance(value, (torch.Tensor, np.ndarray)) or any(
        hasattr(value, name) for name in ("getbands", "__dlpack__")
    )


def children(value: Any) -> list[tuple[Any, Any]] | None:
    """What a container holds, with keys or positions; None for what is none."""
    if type(value) in (str, bytes, *NUMBERS):  # most of what there is; the rest of this takes longer
        return None
    if isinstance(value, tuple):
        return list(zip(value._fields, value)) if hasattr(value, "_fields") else list(enumerate(value))
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, Sequence) and not isinstance(value, NO_CONTAINERS):
        return list(enumerate(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    if isinstance(value, types.SimpleNamespace):
        return list(vars(value).items())
    return None


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Everything in value that is no container, with its path. Lists of numbers are not taken apart."""
    inside = children(value)
    if inside is None or (type(value) is list and all(type(item) in NUMBERS for item in value)):
        yield path, value
        return
    for key, item in inside:
        yield from leaves(item, (*path, key))


def find(sample: Any, name: str) -> Path | None:
    """The path of the field of this name; None where there is none."""
    if name == "":
        return ()
    inside = children(sample) or []
    positions = not isinstance(sample, Mapping) and isinstance(sample, Sequence)
    for number, (key, item) in enumerate(inside):
        labels = {str(key), *((str(number), str(number - len(inside))) if positions else ())}
        for label in labels:
            if name == label:
                return (key,)
            if name.startswith(label + ".") and (rest := find(item, name[len(label) + 1 :])):
                return (key, *rest)
    return None


def at(sample: Any, path: Path) -> Any:
    """The value at a path. Raises KeyError, IndexError, TypeError or AttributeError where there is none."""
    for key in path:
        indexed = isinstance(sample, (tuple, Mapping, Sequence)) and not hasattr(sample, "_fields")
        sample = sample[key] if indexed else getattr(sample, key)
    return sample


def put(sample: Any, path: Path, value: Any) -> Any:
    """A copy of a sample, or of a collated batch, with another value at a path."""
    if not path:
        return value
    key, rest = path[0], path[1:]
    new = put(at(sample, (key,)), rest, value) if rest else value
    if hasattr(sample, "_fields"):
        return sample._replace(**{key: new})
    if isinstance(sample, tuple):
        return (*sample[:key], new, *sample[key + 1 :])
    if isinstance(sample, (MutableMapping, MutableSequence)):
        result: Any = copy.copy(sample)
        result[key] = new
        return result
    if isinstance(sample, Mapping):
        return {**sample, key: new}
    if isinstance(sample, types.SimpleNamespace):
        return types.SimpleNamespace(**{**vars(sample), key: new})
    result = copy.copy(sample)  # not dataclasses.replace, which would make it anew from its fields
    object.__setattr__(result, key, new)
    return result


def label(path: Path) -> str:
    """The name of a field in an error."""
    return repr(path[0] if len(path) == 1 else ".".join(map(str, path)))


# What an image is called in a dict or named tuple, the likeliest first.
USUAL_NAMES = ("image", "img", "pixel_values", "png", "jpg")


def image_paths(sample: Any, channels: int, except_: Sequence[Path] = ()) -> list[Path]:
    """The fields that are images to encrypt, where the user named none.

    Masks, depth maps and the like look as images do. So of several fields that a cipher of so many channels
    takes, those are images that leave no doubt: torchvision's Image and Video, colour PIL images, what has
    a usual name, the first field of a tuple or list, a list of equal arrays (views of one picture), and what
    has colours and more values than a mask, of which three may lie in layers: bytes, and floats in a tuple or
    list beside a first image of the same shape.
    """
    found = [
        (path, value)
        for path, value in leaves(sample)
        if not within(path, except_) and encryptable(value, channels) and looks_like_image(value, channels)
    ]
    if len(found) == 1:
        return [found[0][0]]
    paths = {path for path, _ in found}
    return [path for path, value in found if _is_surely_image(sample, path, value, paths, channels)]


def _is_surely_image(sample: Any, path: Path, value: Any, paths: set[Path], channels: int) -> bool:
    tv = sys.modules.get("torchvision.tv_tensors")
    if tv is not None and isinstance(value, (tv.Image, tv.Video)):
        return True
    if hasattr(value, "getbands") and len(value.getbands()) > 1:
        return True
    if any(part in USUAL_NAMES for part in path):
        return True
    colours = channels > 1 and not has_few_values(value)
    if colours and is_bytes(value):
        return True
    if isinstance(sample, Sequence) and path[:1] == (children(sample) or [(None, None)])[0][:1]:
        return True  # the first field, or in it
    siblings = at(sample, path[:-1])
    if type(siblings) not in (list, tuple):
        return False
    like = [n for n, item in enumerate(siblings) if describe(item) == describe(value)]
    if len(like) == len(siblings) and isinstance(siblings, list):
        return True
    first = (*path[:-1], like[0])
    return colours and first != path and first in paths


def refuse_images(sample: Any, channels: int, except_: Sequence[Path], place: str, ways: str) -> None:
    """Raise ValueError for a field that looks like an image: it would be left unencrypted.

    ways: what can be done about it, in words that name the arguments.
    """
    for path, value in _pictures(sample, channels, ()):
        if not within(path, except_):
            where = f"{place}, field {label(path)}" if path else place
            raise ValueError(
                f"{where}: {describe(value)} looks like an image and would be left unencrypted; {ways}"
            )


def _pictures(value: Any, channels: int, path: Path) -> Iterator[tuple[Path, Any]]:
    if looks_like_image(value, channels):
        yield path, value
        return
    inside = children(value)
    if inside is None:
        if any(looks_like_image(item, channels) for item in _attributes(value)):
            yield path, value
        return
    for key, item in inside:
        if type(item) not in NUMBERS:
            yield from _pictures(item, channels, (*path, key))


def _attributes(value: Any) -> list[Any]:
    """What an object of another class than the containers above holds itself."""
    if isinstance(value, (torch.Tensor, np.ndarray, type)) or not hasattr(value, "__dict__"):
        return []
    return list(vars(value).values())


def within(path: Path, fields: Sequence[Path]) -> bool:
    """Whether a path is one of the fields, or lies in one."""
    return any(path[: len(field)] == field for field in fields)
