"""What is fuzzed. A target takes bytes, hands them to a reader, and returns.

A reader refuses bytes with ValueError, TypeError or an error of this library (blockenc/errors.py); a target
lets these pass. Any other exception is a finding, and so are a crash, and more time or memory than
driver.py allows. Targets also assert what must hold of bytes that are accepted.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from blockenc import Cipher, Key, Scheme
from blockenc.backends import NAMES, backends, native
from blockenc.datasets.manifest import MANIFEST, Manifest
from blockenc.errors import BlockencError
from blockenc.keys import keyfile, load_key
from blockenc.plan import Plan
from blockenc.plan.packing import HEADER_BYTES, read_header
from blockenc.sealing.api import seal, verify
from blockenc.sealing.seal_file import MAGIC, Head, Tagger
from tests.fuzz import data_files

ACCEPTED = (ValueError, TypeError, BlockencError)
KEY = Key(bytes(range(32)))
PASSWORD = "correct horse"
CHEAP = 1 << 8  # n*r*p of scrypt: a file that asks for more is refused or read by other tests
MAX_VALUES = 1 << 16  # of images that are encrypted; larger ones take time, and show no more
WEIGHTS = {"scale": torch.arange(600, dtype=torch.int16), "shift": torch.zeros(3), "none": torch.zeros(0, 2)}


@functools.cache
def folder() -> Path:
    """Where the files of this process lie, for as long as it runs."""
    held = tempfile.TemporaryDirectory(prefix="blockenc-fuzz-")
    folder.held = held  # type: ignore[attr-defined]
    return Path(held.name)


def written(name: str, data: bytes) -> Path:
    path = folder() / name
    path.write_bytes(data)
    return path


def key_file(data: bytes) -> None:
    """A key file; it is opened if that is cheap."""
    path = written("some.key", data)
    kdf = keyfile.read_header(path)["kdf"]
    if kdf["n"] * kdf["r"] * kdf["p"] <= CHEAP:
        load_key(path, PASSWORD)


def named_keys(data: bytes) -> None:
    """What a key file seals, by somebody who knows the password."""
    with cheap_scrypt():
        keyfile.save(keyfile.NAMED_KEYS, data, "0" * 16, folder() / "named.key", PASSWORD, overwrite=True)
    load_key(folder() / "named.key", PASSWORD)


@contextlib.contextmanager
def cheap_scrypt() -> Iterator[None]:
    """Key files that are written here cost less to open."""
    before = keyfile.SCRYPT_N
    keyfile.SCRYPT_N = 4
    try:
        yield
    finally:
        keyfile.SCRYPT_N = before


def manifest(data: bytes) -> None:
    """A manifest: all that it says is read, and it is authenticated."""
    path = written(MANIFEST, data)
    found = Manifest.read(path)
    head = found.head()
    assert Scheme.from_dict({**head["scheme"], "channels": 1}) == found.scheme
    with contextlib.suppress(*ACCEPTED):
        found.authenticate(KEY, lambda warning: None)
    for item in found.items():
        for number, picture in enumerate(item.images):
            item.image_id(number)
            assert picture.check() == picture
        assert Path(os.path.normpath(folder() / item.name)).is_relative_to(folder())


def scheme(data: bytes) -> None:
    """A scheme as JSON: read, written, judged, and used where its images are small."""
    found = Scheme.from_json(data.decode())
    assert Scheme.from_json(found.to_json()) == found
    repr(found)
    side = found.side
    found.warnings(side, side)
    if side * side * found.channels <= MAX_VALUES:
        x = torch.arange(side * side * found.channels).remainder(256).to(torch.uint8)
        x = x.reshape(1, found.channels, side, side)
        cipher = Cipher(KEY, found)
        assert torch.equal(cipher.decrypt(cipher.encrypt(x)), x)


@functools.cache
def cpu_backends() -> list[str]:
    state = backends()
    names = [name for name in NAMES if state[name] == "available" and name not in ("native", "cuda")]
    if state["native"] == "available":
        names += [f"native/{level}" for level, has in native.levels().items() if has]
    return names


def plan(data: bytes) -> None:
    """A packed plan: unpacked, and applied by every backend, all of which refuse it or give the same."""
    packed = np.frombuffer(data, np.uint8)
    try:
        Plan.unpack(packed)
    except ValueError:
        refused = True
    else:
        refused = False
    if packed.size < HEADER_BYTES:
        return
    header = read_header(data[:HEADER_BYTES])
    m = header.block_size
    shape = header.images or 2, header.channels, (header.rows or 2) * m, (header.columns or 3) * m
    if np.prod(shape, dtype=object) > MAX_VALUES:
        return
    values = torch.arange(int(np.prod(shape))).remainder(256).reshape(shape)
    for x in (values.to(torch.uint8), values.to(torch.float32) / 255):
        outcomes = {name: outcome(x, torch.from_numpy(packed.copy()), name) for name in cpu_backends()}
        first = next(iter(outcomes.values()))
        for name, result in outcomes.items():
            if refused:
                assert result is None, f"{name} applied a plan that unpack refuses"
            else:
                assert (result is None) == (first is None), f"{name} refuses what others take, or takes it"
                if result is not None and first is not None:
                    same = torch.equal(result.nan_to_num(), first.nan_to_num())
                    assert same, f"{name} gives other values than {next(iter(outcomes))}"


def outcome(x: torch.Tensor, packed: torch.Tensor, backend: str) -> torch.Tensor | None:
    """What the operator gives; None if it refuses."""
    try:
        return torch.ops.blockenc.apply(x, packed, x.dtype, backend)
    except ACCEPTED:
        return None


def seal_file(data: bytes) -> None:
    """A seal file, as it comes."""
    assert_report(written("some.seal", data))


def seal_head(data: bytes) -> None:
    """The head of a seal by somebody who has the key: framed, with a tag that fits."""
    head = Head.parsed(data)
    tags = sum(head.counts())
    if tags > 1 << 12:
        return
    whole = Tagger(KEY, data).whole()
    body = MAGIC + len(data).to_bytes(8, "little") + data + bytes(32 * tags)
    whole.update(body)
    assert_report(written("some.seal", body + whole.digest()))


def assert_report(path: Path) -> None:
    report = verify(WEIGHTS, KEY, path, report=True)
    assert report.intact == (not report.differences)
    str(report)


def weights(data: bytes) -> None:
    """A safetensors file: sealed, and verified."""
    path = written("some.safetensors", data)
    seal(path, KEY, folder() / "of-weights.seal", overwrite=True, chunk_bytes=1024)
    assert verify(path, KEY, folder() / "of-weights.seal").intact


TARGETS: dict[str, Callable[[bytes], None]] = {
    "key_file": key_file,
    "named_keys": named_keys,
    "manifest": manifest,
    "scheme": scheme,
    "plan": plan,
    "seal_file": seal_file,
    "seal_head": seal_head,
    "weights": weights,
    **data_files.in_folder(folder),
}


def one(name: str, data: bytes) -> bool:
    """Runs a target; whether it took the bytes. Raises what is a finding."""
    try:
        TARGETS[name](data)
    except ACCEPTED:
        return False
    return True


def make_seeds() -> dict[str, list[bytes]]:
    """What the committed corpus began as: of each kind of file a few small, well-formed ones."""
    from safetensors.torch import save

    from blockenc.datasets.manifest import Item, Picture, Pictures
    from blockenc.keys import KeySet
    from blockenc.schemes import PRESETS, named
    from tests.plans import FORMS, draw_plan

    seeds: dict[str, list[bytes]] = {name: [] for name in TARGETS}
    with cheap_scrypt():
        for key in (KEY, KeySet.generate(), KeySet(np=KEY, rotate=KEY)):
            key.save(folder() / "a.key", PASSWORD, overwrite=True)
            seeds["key_file"].append((folder() / "a.key").read_bytes())
    seeds["named_keys"] = [json.dumps({"np": "01" * 32, "all": "02" * 32}).encode()]
    seeds["scheme"] = [named(name).to_json().encode() for name in PRESETS]
    seeds["scheme"].append(Scheme().to_json().encode())
    pictures = [Picture(8, 4, 3, "ab" * 32), Picture(8, 4, 4, "cd" * 32, "RGBA", 6)]
    items = [
        Item("a/b.png", "a/b.jpg", "image", Pictures(pictures[:1])),
        Item("c.npy", "c.npy", "numpy", Pictures(pictures[:1])),
        Item("z.parquet", "z.parquet", "arrow", Pictures(pictures), ("label",)),
    ]
    for of, per_image in ((Scheme(), False), (named("ETC"), True)):
        head = Manifest(of, KEY.fingerprint, "pad", per_image=per_image)
        head.write(folder() / MANIFEST, items, KEY)
        seeds["manifest"].append((folder() / MANIFEST).read_bytes())
    for form in FORMS[:9]:
        for seed in range(40):
            drawn, shape = draw_plan(form, seed)
            if drawn.packed.size < 5000 and np.prod(shape) < 2000:
                seeds["plan"].append(drawn.packed.tobytes())
                break
    seal(WEIGHTS, KEY, folder() / "a.seal", chunk_bytes=1024, overwrite=True)
    seeds["seal_file"] = [(folder() / "a.seal").read_bytes()]
    (folder() / "a.safetensors").write_bytes(save(WEIGHTS, {"format": "pt"}))
    seeds["weights"] = [(folder() / "a.safetensors").read_bytes()]
    seal(folder() / "a.safetensors", KEY, folder() / "b.seal", chunk_bytes=1024, overwrite=True)
    seeds["seal_file"].append((folder() / "b.seal").read_bytes())
    for whole in seeds["seal_file"]:
        start = len(MAGIC) + 8
        length = int.from_bytes(whole[len(MAGIC) : start], "little")
        seeds["seal_head"].append(whole[start : start + length])
    return {**seeds, **data_files.make_seeds()}
