"""Key bytes stay where they belong, and importing costs nothing."""

from __future__ import annotations

import base64
import copy
import io
import logging
import pickle
import subprocess
import sys

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
