"""Protected models as safetensors files: what is in them, and that nothing secret is."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

import blockenc
from blockenc import Cipher, Key, SealError, WrongKeyError, schemes
from blockenc.nn import load_protected, save_protected
from blockenc.nn.stems import BlockConvolution
from tests.test_secrets import SECRET, shows

safetensors = pytest.importorskip("safetensors.torch")

CIPHER = Cipher(Key(SECRET), block_size=4)
HOW = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "example": torch.zeros(1, 3, 8, 8, dtype=torch.uint8)}


def locked(seed: int, cipher: Cipher = CIPHER) -> torch.nn.Module:
    torch.manual_seed(seed)
    stem = torch.nn.Conv2d(3, 8, 3, padding=1)
    return blockenc.protect(torch.nn.Sequential(stem, torch.nn.ReLU()), cipher, **HOW)


def test_a_protected_model_comes_back(tmp_path: Path) -> None:
    model, path = locked(1), tmp_path / "m.safetensors"
    assert isinstance(model[0], BlockConvolution)
    save_protected(model, path, CIPHER, metadata={"mean": "0.5 0.5 0.5"})
    x = torch.rand(2, 3, 8, 8)
    again = locked(2)
    assert not torch.equal(again(x), model(x))
    assert load_protected(again, path, CIPHER) is again
    assert torch.equal(again(x), model(x))
    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata() == {
            "format": "pt",
            "mean": "0.5 0.5 0.5",
            "blockenc.scheme": CIPHER.scheme.to_json(),
            "blockenc.fingerprint": CIPHER.fingerprint,
            "blockenc.version": blockenc.__version__,
        }
    assert shows(path.read_bytes()) == []
    assert blockenc.verify(model.state_dict(), SECRET, blockenc.seal(path, SECRET)).intact


def test_tensors_that_share_memory(tmp_path: Path) -> None:
    def tied(seed: int) -> torch.nn.Module:
        torch.manual_seed(seed)
        model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
        model[1].weight = model[0].weight
        return model

    save_protected(tied(1), tmp_path / "m", CIPHER)
    again = load_protected(tied(2), tmp_path / "m", CIPHER)
    assert torch.equal(again[1].weight, tied(1)[0].weight)
    assert again[1].weight is again[0].weight


def test_another_key_scheme_or_file(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_protected(locked(1), path, CIPHER)
    model = locked(2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(WrongKeyError, match=CIPHER.fingerprint):
        load_protected(model, path, Cipher(Key(bytes(32)), block_size=4))
    with pytest.raises(ValueError, match="another scheme"):
        load_protected(model, path, Cipher(Key(SECRET), block_size=2))
    with pytest.raises(RuntimeError, match="Missing key"):
        load_protected(torch.nn.Linear(2, 2), path, CIPHER)
    safetensors.save_file(model.state_dict(), tmp_path / "plain")
    with pytest.raises(ValueError, match="names no scheme and key"):
        load_protected(model, tmp_path / "plain", CIPHER)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(SealError, match="damaged safetensors file"):
        load_protected(model, path, CIPHER)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, model = tmp_path / "m", torch.nn.Linear(2, 2)
    per_image = Cipher(Key(SECRET), per_image=True)
    for call in (
        lambda: save_protected(model.state_dict(), path, CIPHER),
        lambda: load_protected(model.state_dict(), path, CIPHER),
    ):
        with pytest.raises(TypeError, match=r"model: expected a torch\.nn\.Module"):
            call()
    for given, error, says in (
        (Key(SECRET), TypeError, "cipher: expected a Cipher, got Key"),
        (per_image, ValueError, "cipher: has per_image=True"),
    ):
        with pytest.raises(error, match=says):
            save_protected(model, path, given)
        with pytest.raises(error, match=says):
            load_protected(model, path, given)
    with pytest.raises(TypeError, match="metadata: expected texts"):
        save_protected(model, path, CIPHER, metadata={"a": 1})
    with pytest.raises(ValueError, match="metadata: names that begin with blockenc"):
        save_protected(model, path, CIPHER, metadata={"blockenc.scheme": "{}"})
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(blockenc.BlockencError, match=r"pip install 'blockenc\[safetensors\]'"):
        save_protected(model, path, CIPHER)
    assert list(tmp_path.iterdir()) == []


def test_files_are_written_whole_with_the_mode_of_the_umask(tmp_path: Path) -> None:
    path, model = tmp_path / "m.safetensors", torch.nn.Linear(2, 2)
    before = os.umask(0o027)
    try:
        save_protected(model, path, CIPHER)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640
    data = path.read_bytes()
    with pytest.raises(FileExistsError):
        save_protected(model, path, CIPHER)
    partly = torch.nn.Linear(2, 2)
    memory = torch.zeros(12)  # two parameters that overlap, none of which is all of the memory
    partly.weight, partly.bias = (torch.nn.Parameter(part) for part in (memory[:4].view(2, 2), memory[3:5]))
    with pytest.raises(RuntimeError):
        save_protected(partly, path, CIPHER, overwrite=True)
    assert path.read_bytes() == data
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    save_protected(model, path, Cipher(Key(SECRET), schemes.NP()), overwrite=True)
    assert path.read_bytes() != data
