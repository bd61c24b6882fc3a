"""Key bytes stay where they belong, and importing costs nothing."""

from __future__ import annotations

import base64
import copy
import io
import logging
import os
import pickle
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
import torch

import blockenc
from blockenc import Cipher, Key, KeySet
from tests import oracle

SECRET = bytes(range(100, 132))
SHAPES = {
    "raw": SECRET,
    "hex": SECRET.hex().encode(),
    "base64": base64.b64encode(SECRET),
    "repr": repr(SECRET).encode(),
}
X = oracle.image((1, 3, 8, 8))


def shows(text: str | bytes) -> list[str]:
    data = text.encode() if isinstance(text, str) else text
    return [name for name, shape in SHAPES.items() if shape in data]


def test_the_detector_detects() -> None:
    assert shows(repr(SECRET)) == ["repr"]
    assert shows(pickle.dumps(SECRET)) == ["raw"]


def test_representations() -> None:
    key = Key(SECRET)
    for holder in (key, KeySet(shuffle=key, np=key, ffx=bytes(32)), Cipher(key), Cipher(key).plan()):
        for text in (repr(holder), str(holder), f"{holder}", f"{[holder]}"):
            assert shows(text) == []


def test_pickles() -> None:
    cipher = Cipher(Key(SECRET))
    cipher.encrypt(X)
    data = pickle.dumps(cipher)
    assert shows(data) == []
    again = pickle.loads(data)
    assert torch.equal(again.encrypt(X), cipher.encrypt(X))
    assert torch.equal(again.decrypt(cipher.encrypt(X)), X)
    for holder in (Key(SECRET), KeySet(shuffle=SECRET, np=SECRET, ffx=SECRET)):
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(holder)
        assert copy.deepcopy(holder) is holder
        assert copy.copy(holder) is holder


def test_state_dicts_and_graphs() -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cipher = Cipher(Key(SECRET))
            self.layer = torch.nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(self.cipher.encrypt(x, dtype=torch.float32))

    model = Model()
    assert set(model.state_dict()) == {"layer.weight", "layer.bias"}
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(model, (X,)), buffer)
    assert shows(buffer.getvalue()) == []


def test_exceptions() -> None:
    """What fails with a key at hand shows the key neither in its message nor in its traceback."""
    key = Key(SECRET)
    calls = (
        lambda: Key(SECRET + b"!"),
        lambda: Cipher(SECRET[:-1]),
        lambda: Cipher(SECRET.hex()),  # type: ignore[arg-type]
        lambda: KeySet(shuffle=SECRET, np=SECRET, ffx=SECRET * 2),
        lambda: blockenc.encrypt(X[..., :7], key),
        lambda: blockenc.encrypt(X, key, steps=key),
        lambda: blockenc.encrypt(key, key),
        lambda: key.save("no/such/folder/key", "password"),
        lambda: pickle.dumps(key),
    )
    for call in calls:
        with pytest.raises((TypeError, ValueError, OSError)) as caught:
            call()
        shown = "".join(traceback.format_exception(caught.value))
        assert shows(shown) == []
        assert SECRET[:-1].hex() not in shown


def test_what_objects_hold() -> None:
    """A cipher keeps no key; of a key set from a password nothing shows the password."""
    cipher = Cipher(Key(SECRET))
    assert not any(isinstance(value, (Key, KeySet, bytes)) for value in vars(cipher).values())
    published = KeySet.from_seed(1, "password of the paper")
    for holder in (published, published.member("ffx"), Cipher(published, ffx="decimal")):
        assert "password" not in f"{holder!r}{holder}"
    assert b"password" not in pickle.dumps(Cipher(published, ffx="decimal"))


def test_key_files(tmp_path: Path) -> None:
    path = tmp_path / "a.key"
    before = os.umask(0)
    try:
        Key(SECRET).save(path, "the password")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    data = path.read_bytes()
    assert shows(data) == []
    assert b"the password" not in data
    assert Key.load(path, "the password") == Key(SECRET)


def test_logs_are_silent(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        blockenc.decrypt(blockenc.encrypt(X, Key(SECRET)), Key(SECRET))
    assert shows(caplog.text) == []


def test_fingerprints() -> None:
    assert Key(SECRET).fingerprint == Key(bytearray(SECRET)).fingerprint == "2b3555d043f249f5"
    assert len({Key(bytes([n] * 32)).fingerprint for n in range(64)}) == 64
    same = KeySet(shuffle=SECRET, np=SECRET, ffx=SECRET)
    assert same.fingerprint == Key(SECRET).fingerprint
    assert same.replace(np=bytes(32)).fingerprint != same.replace(ffx=bytes(32)).fingerprint


def test_generated_and_derived_keys() -> None:
    assert Key.generate() != Key.generate()
    derived = Key.from_password("correct horse", salt=b"salt-for-a-test")
    assert derived == Key.from_password("correct horse", salt="salt-for-a-test")
    assert derived != Key.from_password("correct horse", salt=b"another-salt")
    assert derived.fingerprint == "c6362993add31872"
    assert derived != SECRET


def test_a_key_compiles_once() -> None:
    key = Key(SECRET)
    first = blockenc.encrypt(X, key)
    assert len(key._ciphers) == 1
    assert torch.equal(blockenc.encrypt(X, key), first)
    assert torch.equal(blockenc.encrypt(X, SECRET), first)
    blockenc.encrypt(X, key, block_size=2)
    assert len(key._ciphers) == 2


def test_importing_is_light() -> None:
    heavy = ("numba", "cryptography", "PIL", "typer", "rich", "torch._dynamo", "matplotlib", "sklearn")
    code = f"import torch, sys; import blockenc; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
