"""Seals: every bit that changes is found and located, no file does harm, nothing grows with the weights."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import json
import math
import os
import random
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import blockenc
from blockenc import Key, KeySet, SealError, WrongKeyError, seal, verify
from blockenc.reference.version1 import hkdf_sha256
from blockenc.sealing import api, seal_file, weights
from blockenc.sealing.report import Difference, Report

SECRET = bytes(range(32))
KEY = Key(SECRET)
SMALL = 1024  # the smallest chunk


def written(path: Path, tensors: dict[str, tuple[str, list[int], bytes]], metadata: Any = None) -> Path:
    """A safetensors file, of names with types, shapes and bytes, in this order."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    at = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    return raw(path, json.dumps(header).encode(), b"".join(data for _, _, data in tensors.values()))


def raw(path: Path, header: bytes, data: bytes = b"") -> Path:
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    return path


def noise(count: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(count)


def model() -> dict[str, tuple[str, list[int], bytes]]:
    """Tensors of several chunks, of one, of a part of one, and of none."""
    return {
        "first.weight": ("F32", [40, 32], noise(40 * 32 * 4, 1)),
        "first.bias": ("BF16", [512], noise(1024, 2)),
        "empty": ("F32", [0, 7], b""),
        "second.weight": ("F32", [40, 32], noise(40 * 32 * 4, 3)),
        "scale": ("I64", [], noise(8, 4)),
    }


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    path = written(tmp_path / "model.safetensors", model(), {"format": "pt"})
    seal(path, KEY, chunk_bytes=SMALL)
    return path


def differences(path: Any, *arguments: Any) -> list[Difference]:
    """What is found; and verify raises exactly if there is something."""
    found = verify(path, KEY, *arguments, report=True)
    if found.intact:
        assert verify(path, KEY, *arguments) == found
    else:
        with pytest.raises(SealError) as caught:
            verify(path, KEY, *arguments)
        assert caught.value.report == found
        assert str(found.differences[0]) in str(caught.value)
    return list(found.differences)


# --- what differs ---


def test_what_was_not_changed_is_intact(sealed: Path) -> None:
    found = verify(sealed, KEY)
    assert found.intact
    assert (found.tensors, found.chunks, found.bytes) == (5, 5 + 1 + 0 + 5 + 1, 2 * 5120 + 1024 + 8)
    assert found.fingerprint == KEY.fingerprint
    assert str(found) == f"intact: 5 tensors, 11272 bytes, key {KEY.fingerprint}"


def test_a_thousand_bits_are_located(sealed: Path) -> None:
    """Each to its tensor and its chunk, and to nothing else."""
    data = bytearray(sealed.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    places = []  # of each byte: the name and the chunk
    for name, (_, _, content) in model().items():
        places += [(name, n // SMALL) for n in range(len(content))]
    assert len(places) == len(data) - start
    draw = random.Random(0)
    for bit in draw.sample(range(8 * len(places)), 1000):
        byte = bit // 8
        data[start + byte] ^= 1 << bit % 8
        sealed.write_bytes(data)
        (found,) = verify(sealed, KEY, report=True).differences
        name, chunk = places[byte]
        assert (found.kind, found.tensor, found.chunks) == ("changed", name, (chunk, chunk + 1))
        at = byte - places.index((name, 0))
        assert found.bytes[0] <= at < found.bytes[1]
        data[start + byte] ^= 1 << bit % 8


def test_every_bit_of_a_header_is_guarded(tmp_path: Path) -> None:
    """The length before it, names, types, places, metadata, spaces."""
    path = written(
        tmp_path / "m.safetensors", {"a": ("U8", [2], b"ab"), "b": ("F16", [1], b"cd")}, {"x": "y"}
    )
    seal(path, KEY)
    data = bytearray(path.read_bytes())
    for bit in range(8 * (len(data) - 4)):
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        with pytest.raises(SealError):
            verify(path, KEY)
        data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)
    assert verify(path, KEY).intact


def test_every_byte_of_a_seal_is_guarded(tmp_path: Path) -> None:
    path = written(tmp_path / "m.safetensors", {"a": ("U8", [3], b"abc")}, {"x": "y"})
    at = seal(path, KEY)
    data = bytearray(at.read_bytes())
    for bit in range(0, 8 * len(data), 3):  # two or three bits of each byte
        data[bit // 8] ^= 1 << bit % 8
        at.write_bytes(data)
        with pytest.raises((SealError, WrongKeyError)):
            verify(path, KEY, report=True)
        data[bit // 8] ^= 1 << bit % 8
    for cut in (0, 5, 20, len(data) - 33, len(data) - 1):
        at.write_bytes(data[:cut])
        with pytest.raises(SealError):
            verify(path, KEY, report=True)
    at.write_bytes(data + b"\0")
    with pytest.raises(SealError, match="damaged seal"):
        verify(path, KEY, report=True)


def changed(path: Path, change: Callable[[dict], Any], metadata: Any = None) -> None:
    tensors = model()
    tensors = change(tensors) or tensors
    written(path, tensors, {"format": "pt"} if metadata is None else metadata)


def test_chunks_that_follow_each_other_are_one_difference(sealed: Path) -> None:
    dtype, shape, data = model()["first.weight"]
    changed(sealed, lambda m: m.update({"first.weight": (dtype, shape, noise(3000) + data[3000:])}))
    (found,) = differences(sealed)
    assert found == Difference("changed", "first.weight", (0, 3), (0, 3072), (0, 768))
    assert str(found) == "changed 'first.weight' chunks 0 to 2 (bytes 0 to 3071, elements 0 to 767)"
    ends = bytes([data[0] ^ 1]) + data[1:-1] + bytes([data[-1] ^ 1])
    changed(sealed, lambda m: m.update({"first.weight": (dtype, shape, ends)}))
    assert [d.chunks for d in differences(sealed)] == [(0, 1), (4, 5)]


def test_chunks_in_other_places(sealed: Path) -> None:
    dtype, shape, data = model()["first.weight"]
    parts = [data[n : n + SMALL] for n in range(0, len(data), SMALL)]
    moved = b"".join(parts[n] for n in (2, 3, 0, 1, 4))
    changed(sealed, lambda m: m.update({"first.weight": (dtype, shape, moved)}))
    first, second = differences(sealed)
    assert (first.kind, first.chunks, second.kind, second.chunks) == ("moved", (0, 2), "moved", (2, 4))
    assert first.detail == "sealed as chunks 2 to 3 of 'first.weight'"
    assert second.detail == "sealed as chunks 0 to 1 of 'first.weight'"


def test_tensors_that_changed_places(sealed: Path) -> None:
    def exchange(m: dict) -> None:
        m["first.weight"], m["second.weight"] = m["second.weight"], m["first.weight"]

    changed(sealed, exchange)
    assert [(d.kind, d.tensor, d.detail) for d in differences(sealed)] == [
        ("moved", "first.weight", "sealed as chunks 0 to 4 of 'second.weight'"),
        ("moved", "second.weight", "sealed as chunks 0 to 4 of 'first.weight'"),
    ]


def test_a_tensor_that_was_copied_over_another(sealed: Path) -> None:
    changed(sealed, lambda m: m.update({"first.weight": m["second.weight"]}))
    (found,) = differences(sealed)
    assert (found.kind, found.tensor) == ("moved", "first.weight")
    assert found.detail == "sealed as chunks 0 to 4 of 'second.weight'"


def test_added_removed_and_renamed(sealed: Path) -> None:
    changed(sealed, lambda m: m.update(more=("U8", [2], b"hi")))
    assert differences(sealed) == [Difference("added", "more", detail="U8 [2]")]
    changed(sealed, lambda m: m.pop("first.bias") and None)
    assert differences(sealed) == [Difference("removed", "first.bias", detail="BF16 [512]")]
    changed(sealed, lambda m: m.pop("empty") and None)
    assert differences(sealed) == [Difference("removed", "empty", detail="F32 [0, 7]")]
    changed(sealed, lambda m: {{"first.bias": "other"}.get(name, name): m[name] for name in m})
    kinds = {d.kind: d for d in differences(sealed)}
    assert set(kinds) == {"removed", "added", "moved"}
    assert (kinds["moved"].tensor, kinds["moved"].detail) == ("other", "sealed as chunk 0 of 'first.bias'")


def test_another_form_of_the_same_bytes(sealed: Path) -> None:
    _, _, data = model()["first.weight"]
    changed(sealed, lambda m: m.update({"first.weight": ("F32", [32, 40], data)}))
    assert differences(sealed) == [
        Difference("form", "first.weight", detail="was F32 [40, 32], is F32 [32, 40]")
    ]
    changed(sealed, lambda m: m.update({"first.weight": ("I32", [40, 32], data)}))
    assert [d.kind for d in differences(sealed)] == ["form"]


def test_another_size(sealed: Path) -> None:
    _, _, data = model()["first.weight"]
    changed(sealed, lambda m: m.update({"first.weight": ("F32", [42, 32], data + noise(256))}))
    assert [(d.kind, d.chunks) for d in differences(sealed)] == [("form", None), ("changed", (5, 6))]
    changed(sealed, lambda m: m.update({"first.weight": ("F32", [39, 32], data[: 39 * 32 * 4])}))
    assert [(d.kind, d.chunks) for d in differences(sealed)] == [("form", None), ("changed", (4, 5))]
    changed(sealed, lambda m: m.update({"first.weight": ("F32", [0, 32], b"")}))
    assert [d.kind for d in differences(sealed)] == ["form"]


def test_the_order(sealed: Path) -> None:
    changed(sealed, lambda m: dict(sorted(m.items())))
    (found,) = differences(sealed)
    assert (found.kind, found.tensor) == ("order", "empty")


@pytest.mark.parametrize(
    "metadata, says",
    [
        ({"format": "tf"}, ["'format' was 'pt', is 'tf'"]),
        ({}, ["'format' was 'pt', is not there"]),
        ({"format": "pt", "x": "1"}, ["'x' was not there, is '1'"]),
    ],
)
def test_metadata(sealed: Path, metadata: dict, says: list[str]) -> None:
    changed(sealed, lambda m: None, metadata)
    assert [(d.kind, d.detail) for d in differences(sealed)] == [("metadata", text) for text in says]


def test_a_header_that_is_spelled_in_another_way(sealed: Path) -> None:
    data = sealed.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    for text in (json.dumps(header, indent=1), json.dumps(dict(reversed(header.items())))):
        raw(sealed, text.encode(), data[8 + length :])
        assert [d.kind for d in differences(sealed)] == ["header"]


def test_all_at_once(sealed: Path) -> None:
    """More changes than are looked for in other places are changes all the same."""
    changed(sealed, lambda m: {name: (d, s, noise(len(b), 9)) for name, (d, s, b) in m.items()})
    assert {(d.kind, d.tensor) for d in differences(sealed)} == {
        ("changed", name) for name in model() if name != "empty"
    }


def test_the_search_for_what_was_moved_is_bounded(sealed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exchange(m: dict) -> None:
        m["first.weight"], m["second.weight"] = m["second.weight"], m["first.weight"]

    changed(sealed, exchange)
    monkeypatch.setattr(api, "MOST_COMPARISONS", 3)
    assert {(d.kind, d.tensor) for d in differences(sealed)} == {
        ("changed", "first.weight"), ("changed", "second.weight"),
    }  # fmt: skip
    monkeypatch.undo()
    monkeypatch.setattr(api, "MOST_LOOKED_FOR", 2)
    found = differences(sealed)
    assert [(d.kind, d.chunks) for d in found if d.tensor == "first.weight"] == [
        ("moved", (0, 2)), ("changed", (2, 5)),
    ]  # fmt: skip


# --- keys ---


def test_a_wrong_key_is_told_apart_from_tampering(sealed: Path) -> None:
    with pytest.raises(WrongKeyError, match=KEY.fingerprint):
        verify(sealed, Key(bytes(32)), report=True)
    with pytest.raises(WrongKeyError):
        verify(sealed, KeySet(shuffle=SECRET, all=bytes(32)))


def test_keys_of_every_kind(sealed: Path) -> None:
    for key in (KEY, SECRET, KeySet(all=KEY), KeySet(shuffle=KEY, np=KEY, ffx=KEY)):
        assert verify(sealed, key).intact
    keys = KeySet(shuffle=SECRET, all=bytes(32))
    seal(sealed, keys, overwrite=True)
    assert verify(sealed, keys).intact
    for key in (blockenc.ExplicitKey([np.arange(48)]), KeySet.from_seed(1, "password")):
        for call in (seal, verify):
            with pytest.raises(ValueError, match="key: seals need a Key"):
                call(sealed, key)
    with pytest.raises(ValueError, match="key: expected 32 bytes"):
        seal(sealed, b"short")


def test_a_seal_with_the_fingerprint_of_another_key(sealed: Path) -> None:
    """What it says of its key is authenticated, too."""
    other = Key(bytes(32))
    at = Path(f"{sealed}.seal")
    at.write_bytes(at.read_bytes().replace(KEY.fingerprint.encode(), other.fingerprint.encode()))
    with pytest.raises(SealError, match="the seal itself was altered"):
        verify(sealed, other)


def test_tags_of_one_seal_fit_no_other(sealed: Path) -> None:
    """Not one of the same weights under the same key, so that parts of older weights are found out."""
    at = Path(f"{sealed}.seal")
    first = at.read_bytes()
    seal(sealed, KEY, chunk_bytes=SMALL, overwrite=True)
    second = at.read_bytes()
    assert len(first) == len(second)
    tags = [{data[n : n + 32] for n in range(len(data) - 13 * 32, len(data), 32)} for data in (first, second)]
    assert len(tags[0]) == 13  # equal chunks have different tags
    assert not tags[0] & tags[1]
    at.write_bytes(second[: -13 * 32] + first[-13 * 32 :])
    with pytest.raises(SealError, match="the seal itself was altered"):
        verify(sealed, KEY)


def test_a_seal_that_is_exchanged_while_it_is_used(sealed: Path) -> None:
    """After it was authenticated: tags that were moved fit nowhere."""
    with seal_file.SealFile(Path(f"{sealed}.seal")) as file:
        tagger = file.authenticated(KEY)
        at = Path(f"{sealed}.seal")
        data = at.read_bytes()
        tags = data[-13 * 32 : -32]
        with open(at, "r+b") as other:
            other.write(data[: -13 * 32] + tags[32:] + tags[:32] + data[-32:])
        with weights.SafetensorsFile(sealed) as found:
            report = api._compared(found, file, tagger)
    assert sum(d.chunks[1] - d.chunks[0] for d in report.differences) == 12


def test_a_seal_is_what_its_page_says(sealed: Path) -> None:
    """Read and made again with nothing of the package but the reference's HKDF."""
    data = Path(f"{sealed}.seal").read_bytes()
    magic, rest = data[:14], data[14:]
    assert magic == b"blockenc-seal\n"
    length = int.from_bytes(rest[:8], "little")
    head, tags = rest[8 : 8 + length], rest[8 + length :]
    fields = json.loads(head)
    assert fields["chunk_bytes"] == SMALL
    whole, chunk_key = (hkdf_sha256(SECRET, b"blockenc/seal/" + name) for name in (b"whole", b"chunk"))
    assert tags[-32:] == hmac.digest(whole, data[:-32], "sha256")
    want = b""
    for n, (_, _, content) in enumerate(model().values()):
        for m in range(math.ceil(len(content) / SMALL)):
            place = n.to_bytes(8, "little") + m.to_bytes(8, "little")
            digest = hashlib.sha256(content[m * SMALL : (m + 1) * SMALL]).digest()
            want += hmac.digest(chunk_key, hashlib.sha256(head).digest() + place + digest, "sha256")
    assert tags[:-32] == want
    of_header = sealed.read_bytes()
    assert fields["header"] == hashlib.sha256(of_header[8 : len(of_header) - 11272]).hexdigest()
    assert fields["entries"] == [[name, dtype, shape] for name, (dtype, shape, _) in model().items()]
    assert (fields["metadata"], fields["source"], fields["version"]) == ({"format": "pt"}, "file", 1)


# --- state_dicts ---

DTYPES = [getattr(torch, name) for name in weights._TORCH_NAMES if hasattr(torch, name)]


def tensor(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    """Of random bytes."""
    size = torch.empty(0, dtype=dtype).element_size()
    if dtype == torch.bool:
        return torch.from_numpy(np.frombuffer(noise(math.prod(shape)), np.uint8) % 2 == 1).view(shape)
    data = np.frombuffer(noise(math.prod(shape) * size), np.uint8).copy()
    return torch.from_numpy(data).view(dtype).view(shape)


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_layouts_of_every_type(tmp_path: Path, dtype: torch.dtype) -> None:
    """Seals know values: not strides, memory that is shared, or where a tensor begins in it."""
    x = tensor(dtype, 6, 50, 70)
    plain = {"a": x, "b": x[0].t().contiguous(), "c": x[1:2].expand(3, 50, 70).contiguous()}
    at = seal(plain, KEY, tmp_path / "s", chunk_bytes=SMALL)
    strided = {
        "a": x.permute(2, 0, 1).contiguous().permute(1, 2, 0),
        "b": x[0].t(),
        "c": x[1:2].expand(3, 50, 70),
    }
    assert not any(value.is_contiguous() for value in strided.values())
    assert verify(strided, KEY, at).intact
    strided["b"] = strided["b"].clone()
    bits = strided["b"].view(weights._SAME_BITS[x.element_size()])
    bits[69, 49] = 1 - bits[69, 49]
    found = [(d.kind, d.tensor, d.chunks) for d in differences(strided, at)]
    last = math.ceil(50 * 70 * x.element_size() / SMALL)
    assert found == [("changed", "b", (last - 1, last))]


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_values_that_wait_to_be_conjugated_or_negated(tmp_path: Path, dtype: torch.dtype) -> None:
    x = torch.randn(30, 40, dtype=dtype)
    at = seal({"a": x.conj().resolve_conj(), "b": -x.imag}, KEY, tmp_path / "s")
    lazy = {"a": x.conj(), "b": x.conj().imag}
    assert lazy["a"].is_conj()
    assert lazy["b"].is_neg()
    assert verify(lazy, KEY, at).intact


def test_nothing_and_single_values(tmp_path: Path) -> None:
    state = {"none": torch.empty(0, 3), "one": torch.tensor(2.5), "t": torch.empty(3, 0).t()}
    at = seal(state, KEY, tmp_path / "s")
    assert verify(state, KEY, at).intact
    assert [d.kind for d in differences({**state, "none": torch.empty(0, 4)}, at)] == ["form"]
    assert [d.kind for d in differences({**state, "one": torch.tensor(2.25)}, at)] == ["changed"]
    with pytest.raises(ValueError, match="at least one tensor"):
        seal({}, KEY, tmp_path / "none")
    assert not (tmp_path / "none").exists()
    assert {d.kind for d in differences({}, at)} == {"removed"}


def test_modules(tmp_path: Path) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    net.add_module("again", net[0])  # shared
    at = seal(net.state_dict(), KEY, tmp_path / "s")
    assert verify(net.state_dict(), KEY, at).intact
    assert verify(dict(net.named_parameters(remove_duplicate=False)), KEY, at, report=True).intact is False
    with torch.no_grad():
        net[0].weight[1, 2] += 1
    assert [d.tensor for d in differences(net.state_dict(), at)] == ["0.weight", "again.weight"]
    with pytest.raises(TypeError, match="give its state_dict"):
        seal(net, KEY)
    with pytest.raises(TypeError, match="path: expected the path of the seal"):
        verify(net.state_dict(), KEY)


class Sub(torch.Tensor):
    pass


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "make, says",
    [
        (lambda: torch.empty(2, device="meta"), '"meta"'),
        (lambda: torch.eye(3).to_sparse(), "a sparse_coo one"),
        (lambda: torch.eye(3).to_sparse_csr(), "a sparse_csr one"),
        (lambda: torch.ones(2).as_subclass(Sub), "its subclass Sub"),
        (lambda: np.ones(2), "expected a tensor, got ndarray"),
        (lambda: None, "expected a tensor, got NoneType"),
        (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "a nested one"),
        (lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.quint8), "is quantised"),
        (lambda: torch.empty(2, dtype=torch.bits8), "expected a type out of"),
    ],
)
def test_what_holds_no_values_is_refused_by_name(tmp_path: Path, make: Any, says: str) -> None:
    with pytest.raises(TypeError, match=r"weights\['layer.x'\]: .*") as caught:
        seal({"ok": torch.ones(1), "layer.x": make()}, KEY, tmp_path / "s")
    assert says in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_names_that_are_no_names(tmp_path: Path) -> None:
    for name, says in ((3, "names that are str"), ("a\ud800", "a name that is no text")):
        with pytest.raises((TypeError, ValueError), match=says):
            seal({name: torch.ones(1)}, KEY, tmp_path / "s")


def test_files_and_state_dicts_verify_each_other(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    known = [dtype for dtype in DTYPES if dtype in safetensors._SIZE]
    assert len(known) >= 12
    state = {str(dtype): tensor(dtype, 3, 500) for dtype in known}
    path = tmp_path / "m.safetensors"
    safetensors.save_file(state, path, {"format": "pt"})
    of_file = seal(path, KEY, chunk_bytes=SMALL)
    of_state = seal(state, KEY, tmp_path / "state.seal", chunk_bytes=SMALL)
    for what, at, unchecked in (
        (path, of_file, False), (state, of_state, False), (state, of_file, True), (path, of_state, True),
    ):  # fmt: skip
        report = verify(what, KEY, at)
        assert bool(report.unchecked) == unchecked
        assert ("not compared" in str(report)) == unchecked
    state["torch.int64"][2, 3] ^= 1
    assert [(d.tensor, d.chunks) for d in differences(state, of_file)] == [("torch.int64", (7, 8))]
    loaded = safetensors.load_file(path)
    assert verify(loaded, KEY, of_file).intact


# --- files that do harm ---

GOOD = {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}


def header_of(**tensors: Any) -> bytes:
    return json.dumps(tensors).encode()


HOSTILE = {
    "empty": (b"", "not a safetensors file"),
    "short": (b"1234567", "not a safetensors file"),
    "longer than the file": ((2**63).to_bytes(8, "little") + b"{}", "cut off"),
    "no header": (bytes(8), "not JSON"),
    "no JSON": (b"{'a': 1}", "not JSON"),
    "no UTF-8": (b'{"\xff": 1}', "not UTF-8"),
    "deep": (b'{"a":' * 100_000, "nested too deeply"),
    "a list": (b"[]", "no JSON object"),
    "a long number": (b'{"a": ' + b"9" * 5000 + b"}", "damaged"),
    "twice": (b'{"a": %s, "a": %s}' % ((json.dumps(GOOD).encode(),) * 2), "'a' is there twice"),
    "a field twice": (b'{"a": {"dtype": "U8", "dtype": "U8"}}', "'dtype' is there twice"),
    "no object": (header_of(a=1), "other fields"),
    "a field more": (header_of(a={**GOOD, "x": 1}), "other fields"),
    "an unknown type": (header_of(a={**GOOD, "dtype": "Q9"}), "unknown type 'Q9'"),
    "a type that is none": (header_of(a={**GOOD, "dtype": ["U8"]}), "unknown type"),
    "a negative side": (header_of(a={**GOOD, "shape": [-1, -2]}), "shape that no tensor has"),
    "a huge side": (header_of(a={**GOOD, "shape": [2**70]}), "shape that no tensor has"),
    "many sides": (header_of(a={**GOOD, "shape": [1] * 1000}), "shape that no tensor has"),
    "a float side": (header_of(a={**GOOD, "shape": [2.0]}), "shape that no tensor has"),
    "a true side": (header_of(a={**GOOD, "shape": [True, 2]}), "shape that no tensor has"),
    "no shape": (header_of(a={**GOOD, "shape": 2}), "malformed shape"),
    "a huge tensor": (header_of(a={**GOOD, "shape": [2**62, 2**62]}), "data_offsets"),
    "half a byte": (header_of(a={**GOOD, "dtype": "F4", "shape": [3]}), "last byte"),
    "offsets the wrong way": (header_of(a={**GOOD, "data_offsets": [2, 0]}), "data_offsets"),
    "negative offsets": (header_of(a={**GOOD, "data_offsets": [-2, 0]}), "data_offsets"),
    "three offsets": (header_of(a={**GOOD, "data_offsets": [0, 1, 2]}), "data_offsets"),
    "a gap before": (header_of(a={**GOOD, "data_offsets": [1, 3]}), "not next to"),
    "overlap": (header_of(a=GOOD, b=GOOD), "overlaps"),
    "a gap": (header_of(a=GOOD, b={**GOOD, "data_offsets": [3, 5]}), "not next to"),
    "metadata": (header_of(__metadata__={"x": 1}, a=GOOD), "no object of texts"),
    "metadata as a list": (header_of(__metadata__=["x"], a=GOOD), "no object of texts"),
    "half a character": (b'{"__metadata__": {"x": "\\ud800"}}', "no object of texts"),
    "a name of half a character": (b'{"\\ud800": %s}' % json.dumps(GOOD).encode(), "no text"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_weights(tmp_path: Path, name: str) -> None:
    header, says = HOSTILE[name]
    path = tmp_path / "m.safetensors"
    if name in ("empty", "short", "longer than the file", "no header"):
        path.write_bytes(header)
    else:
        raw(path, header, b"ab")
    with pytest.raises(SealError, match=says):
        seal(path, KEY)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("data", [b"", b"a", b"abc"])
def test_weights_cut_off_or_with_more_behind(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(SealError, match=f"2 bytes, and the file has {len(data)}"):
        seal(raw(tmp_path / "m", header_of(a=GOOD), data), KEY)


def test_a_long_header_with_a_name_twice_is_refused_soon(tmp_path: Path) -> None:
    names = ",".join(f'"{n}":{{}}' for n in (*range(300_000), 299_999)).encode()
    start = time.process_time()
    with pytest.raises(SealError, match="'299999' is there twice"):
        seal(raw(tmp_path / "m", b"{" + names + b"}"), KEY)
    assert time.process_time() - start < 30  # comparing each with each takes hours


def test_a_huge_header_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes((weights.MAX_HEADER + 1).to_bytes(8, "little"))
    os.truncate(path, 1 << 34)  # of holes
    tracemalloc.start()
    try:
        with pytest.raises(SealError, match="its header has"):
            seal(path, KEY)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_what_is_no_file(tmp_path: Path, sealed: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(SealError, match="is not a regular file"):
            seal(path, KEY, tmp_path / "s")
        with pytest.raises(SealError, match="is not a regular file"):
            verify(sealed, KEY, path)
    with pytest.raises(FileNotFoundError):
        seal(tmp_path / "none", KEY)
    with pytest.raises(FileNotFoundError):
        verify(sealed, KEY, tmp_path / "none")
    for wrong in (3, b"m.safetensors", [sealed]):
        with pytest.raises(TypeError, match="weights: expected a state_dict or the path"):
            seal(wrong, KEY)


def seal_with(path: Path, change: Callable[[dict], Any]) -> Path:
    """A seal whose head was changed, with a right tag under the key: not even its owner can do harm."""
    at = Path(f"{path}.seal")
    data = at.read_bytes()
    length = int.from_bytes(data[14:22], "little")
    fields = json.loads(data[22 : 22 + length])
    head = change(fields)
    if not isinstance(head, bytes):
        head = json.dumps(fields, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
    body = data[:14] + len(head).to_bytes(8, "little") + head + data[22 + length : -32]
    at.write_bytes(body + hmac.digest(KEY.mac_key(seal_file.WHOLE_INFO), body, "sha256"))
    return at


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda h: h.update(version=2), "version 2; this release reads version 1"),
        (lambda h: h.update(version="9" * 1000), "version 99999999999999999999;"),
        (lambda h: h.update(version=True), "canonical"),
        (lambda h: h.update(format="x"), "that of no seal"),
        (lambda h: h.update(more=1), "missing, or unknown"),
        (lambda h: h.pop("nonce"), "missing, or unknown"),
        (lambda h: h.update(nonce="x"), "malformed"),
        (lambda h: h.update(nonce=3), "malformed"),
        (lambda h: h.update(fingerprint=None), "malformed"),
        (lambda h: h.update(chunk_bytes=0), "malformed"),
        (lambda h: h.update(chunk_bytes=2**60), "malformed"),
        (lambda h: h.update(chunk_bytes=2048), "bytes, where its head asks for"),
        (lambda h: h.update(source="other"), "malformed"),
        (lambda h: h.update(source="state_dict"), "malformed"),
        (lambda h: h.update(header=None), "malformed"),
        (lambda h: h.update(metadata=["format"]), "malformed"),
        (lambda h: h.update(metadata=None), "malformed"),
        (lambda h: h.update(entries=None), "malformed"),
        (lambda h: h["entries"].append(h["entries"][2]), "malformed"),
        (lambda h: h["entries"].append([1, 2]), "malformed"),
        (lambda h: h["entries"][0].__setitem__(2, [2**62, 2**62]), "bytes, where its head asks for"),
        (lambda h: h["entries"][0].__setitem__(2, [-1]), "malformed"),
        (lambda h: h["entries"].pop(), "bytes, where its head asks for"),
        (lambda h: json.dumps(h).encode(), "canonical"),
        (lambda h: b"[" * 100_000, "not JSON"),
        (lambda h: b"\xff", "not JSON"),
        (lambda h: b"[]", "that of no seal"),
    ],
)
def test_hostile_seals(sealed: Path, change: Callable[[dict], Any], says: str) -> None:
    seal_with(sealed, change)
    with pytest.raises(SealError, match=says):
        verify(sealed, KEY, report=True)


def test_a_seal_whose_head_is_said_to_be_huge(sealed: Path) -> None:
    at = Path(f"{sealed}.seal")
    for length in (2**64 - 1, seal_file.MAX_HEAD + 1):
        at.write_bytes(seal_file.MAGIC + length.to_bytes(8, "little"))
        os.truncate(at, 1 << 34)
        with pytest.raises(SealError, match="its head is cut off, or longer than"):
            verify(sealed, KEY)


# --- writing ---


def test_a_seal_is_written_whole_and_overwritten_only_on_demand(
    sealed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = Path(f"{sealed}.seal")
    before = at.read_bytes()
    with pytest.raises(FileExistsError, match="not overwritten"):
        seal(sealed, KEY)

    def fails(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(seal_file.Tagger, "tag", fails)
        with pytest.raises(OSError, match="No space"):
            seal(sealed, KEY, overwrite=True)
    assert at.read_bytes() == before
    assert {path.name for path in sealed.parent.iterdir()} == {sealed.name, at.name}
    assert seal(sealed, KEY, overwrite=True) == at
    assert at.read_bytes() != before


@pytest.mark.parametrize("chunk", [0, 1000, 1025, 1 << 27, -16])
def test_chunks_of_impossible_sizes(sealed: Path, chunk: int) -> None:
    with pytest.raises(ValueError, match="chunk_bytes: expected a multiple of 16"):
        seal(sealed, KEY, chunk_bytes=chunk, overwrite=True)
    for wrong in (1024.0, "1024", True):
        with pytest.raises(TypeError, match="chunk_bytes: expected an int"):
            seal(sealed, KEY, chunk_bytes=wrong, overwrite=True)


def test_memory_does_not_grow_with_the_weights(tmp_path: Path) -> None:
    """Of files of holes, which take no place on the disk. benchmarks/sealing measures it for the process."""

    def peak(call: Callable[[], object]) -> int:
        tracemalloc.start()
        try:
            call()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peaks = []
    for size in (1 << 20, 1 << 25):
        entry = {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}
        path = raw(tmp_path / f"{size}.safetensors", header_of(a=entry))
        os.truncate(path, path.stat().st_size + size)
        peaks.append((peak(lambda path=path: seal(path, KEY)), peak(lambda path=path: verify(path, KEY))))
    for small, large in zip(*peaks):
        assert large < 1 << 20
        assert large < small + (1 << 17)


# --- reports ---


def test_a_report_is_neither_true_nor_false(sealed: Path) -> None:
    found = verify(sealed, KEY, report=True)
    with pytest.raises(TypeError, match="ask for its intact"):
        bool(found)
    assert dataclasses.is_dataclass(found)


def test_an_error_shows_ten_differences_and_its_report_all(sealed: Path) -> None:
    changed(sealed, lambda m: m.update({f"more{n}": ("U8", [1], b"x") for n in range(30)}))
    with pytest.raises(SealError) as caught:
        verify(sealed, KEY)
    assert len(caught.value.report.differences) == 30
    assert str(caught.value).count("added") == 10
    assert "and 20 more" in str(caught.value)
    again = json.loads(json.dumps(caught.value.report.to_dict()))
    assert again["differences"][29]["tensor"] == "more29"
    assert again["intact"] is False


def test_names_are_shown_without_their_control_sequences(sealed: Path) -> None:
    changed(sealed, lambda m: m.update({"\x1b[31mred": ("U8", [1], b"x")}), {"format": "\x1b]0;title"})
    text = str(verify(sealed, KEY, report=True))
    assert "red" in text
    assert "title" in text
    assert text.replace("\n", "").isprintable()


def test_a_report_of_other_things() -> None:
    report = Report((), ("the order",), 1, 2, 3, "f")
    assert report.to_dict() == {
        "intact": True, "differences": (), "unchecked": ("the order",), "tensors": 1, "chunks": 2,
        "bytes": 3, "fingerprint": "f",
    }  # fmt: skip
