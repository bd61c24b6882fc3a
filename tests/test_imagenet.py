"""The ImageNet program on a small ImageFolder: two processes, interrupted and resumed, and its refusals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("torchvision")

from benchmarks.accuracy.train import Place, key_set
from benchmarks.imagenet import __main__ as program
from benchmarks.imagenet import models, settings
from benchmarks.imagenet.images import Images
from benchmarks.imagenet.settings import PLAIN, Config
from benchmarks.imagenet.training import Run

ROOT = Path(__file__).parents[1]
SMALL = ["--arch", "resnet18", "--weights", "none", "--sizes", 32, 48, "--epochs", 1, 1, "--batches", 8, 4,
         "--workers", 0, "--device", "cpu", "--wrong-keys", 1, "--progress-seconds", 0]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 training images and 8 of the test in two classes, the one brighter than the other."""
    where = tmp_path_factory.mktemp("images")
    draw = np.random.default_rng(0)
    for part, number in (("train", 24), ("val", 4)):
        for label in range(2):
            (where / part / f"class{label}").mkdir(parents=True)
            for n in range(number):
                pixels = draw.integers(100 * label, 100 * label + 100, (60, 70, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(where / part / f"class{label}" / f"{n}.png")
    return where


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("key")
    key_set(0).save(where / "key", "a password of a test")
    (where / "password").write_text("a password of a test\n")
    return where


def command(folder: Path, key: Path, run: Path, *more: object, world: int = 2) -> list[str]:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", world] if world > 1 else []
    program = ["-m", "benchmarks.imagenet", "--data", folder, "--out", run, *SMALL, *more]
    secret = ["--key-file", key / "key", "--password-file", key / "password"]
    return [str(part) for part in (sys.executable, *launch, *program, *secret)]


def start(arguments: list[str]) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment
    )


def finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


def checkpoint(run: Path, row: str = "shuffle+np") -> dict[str, Any]:
    state: dict[str, Any] = torch.load(run / row / "checkpoint.pt", weights_only=True)
    return state


def test_an_interrupted_run_ends_with_the_same_weights(folder: Path, key: Path, tmp_path: Path) -> None:
    whole = start(command(folder, key, tmp_path / "whole", "--steps", "shuffle,np"))
    broken = command(folder, key, tmp_path / "broken", "--steps", "shuffle,np")
    process = start(broken)
    assert process.stdout
    for line in process.stdout:
        if "epoch 2, 48 pixels, step 3 of 12" in line:
            process.send_signal(signal.SIGTERM)
            break
    said = process.communicate(timeout=300)[1]
    assert (tmp_path / "broken" / "shuffle+np" / "checkpoint.pt").exists(), said
    state = checkpoint(tmp_path / "broken")
    assert state["epoch"] == 1
    assert 3 <= state["step"] < 12, "not stopped in the midst of an epoch"
    finish(start(broken))
    finish(whole)
    a, b = checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "broken")
    for name, tensor in a["model"].items():
        assert torch.equal(tensor, b["model"][name]), name
    for n, values in a["optimizer"]["state"].items():
        assert torch.equal(values["momentum_buffer"], b["optimizer"]["state"][n]["momentum_buffer"])
    # Sums are made in another order, by fewer or more processes.
    for whole_epoch, broken_epoch in zip(a["record"]["epochs"], b["record"]["epochs"]):
        assert whole_epoch["loss"] == pytest.approx(broken_epoch["loss"], rel=1e-9)
        assert whole_epoch["accuracy"] == broken_epoch["accuracy"]
    assert a["record"]["evaluation"] == b["record"]["evaluation"]
    assert b["record"]["processes"] == [2, 2]
    found = json.loads((tmp_path / "broken" / "shuffle+np" / "result.json").read_text())
    assert found == b["record"]
    assert len(found["evaluation"]["wrong_keys"]) == 1
    assert not list(tmp_path.rglob("*.new"))
    # Nothing of the key is written but its fingerprint.
    for file in (tmp_path / "broken").rglob("*"):
        if file.is_file():
            written = file.read_bytes()
            assert key_set(0).fingerprint.encode() in written
            for step in ("shuffle", "np"):
                assert key_set(0).member(step)._secret not in written  # type: ignore[union-attr]


def test_rows_in_turn(
    folder: Path,
    key: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    arguments = command(folder, key, tmp_path, "--steps", "plain", "np", "--epochs", 1, 0, world=1)[2:]
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setattr(program, "stop_on_signals", lambda: lambda: False)
    program.main()
    said = capsys.readouterr().out
    assert "plain: " in said
    assert "np: " in said
    record = checkpoint(tmp_path, "plain")["record"]
    assert set(record["evaluation"]) == {"size", "images", "plain"}
    assert record["key"] is None
    program.main()
    assert capsys.readouterr().out == "", "rows that are done were run again"
    small = Config(PLAIN, 4, "resnet18", "none", (32, 48), (1, 0), (8, 4), lr=0.2)
    place = Place(torch.device("cpu"))
    with pytest.raises(ValueError, match=r"--out: .* is of another config"):
        Run(small, Images(folder), None, place, tmp_path / "plain")
    with pytest.raises(ValueError, match=r"--out: .* is of another key"):
        Run(replace(small, steps="np", lr=0.4), Images(folder), key_set(1), place, tmp_path / "np")


def test_images_are_a_function_of_the_seed_the_epoch_and_the_image(folder: Path) -> None:
    one = Images(folder)
    whole = list(one.batches(8, 32, 0, 3))
    rest = list(one.batches(8, 32, 0, 3, start=4))
    assert len(whole) == 6
    assert [torch.equal(a[0], b[0]) for a, b in zip(whole[4:], rest)] == [True, True]
    halves = [list(Images(folder, rank, 2).batches(8, 32, 0, 3)) for rank in range(2)]
    for n, (x, y) in enumerate(whole):
        for rank in range(2):
            assert torch.equal(halves[rank][n][0], x[rank::2])
            assert torch.equal(halves[rank][n][1], y[rank::2])
    assert not torch.equal(whole[0][0], next(iter(one.batches(8, 32, 0, 4)))[0])
    assert not torch.equal(whole[0][0], next(iter(one.batches(8, 32, 1, 3)))[0])
    assert whole[0][0].dtype == torch.uint8
    assert sum(len(y) for _, y in one.tests(32)) == 8
    assert [int(n) for _, y in one.tests(32, 2) for n in y] == [0, 1]


def test_encryption_comes_before_normalisation() -> None:
    x = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    cipher = Config(steps="shuffle,np,ffx").cipher(key_set(0))
    assert cipher is not None
    expected = (cipher.encrypt(x).double() / 255 - settings.MEAN) / settings.STD
    torch.testing.assert_close(settings.prepare(x, cipher).double(), expected, rtol=0, atol=1e-6)
    assert Config().cipher(key_set(0)) is None


def test_the_schedule() -> None:
    c = Config()
    assert [c.phase(n) for n in (0, 5, 6, 11, 12, 14, 15)] == [0, 0, 1, 1, 2, 2, 2]
    rates = [c.lr_at(n) for n in (0, 0.5, 1, 6, 12, 15)]
    assert rates == pytest.approx([0, 0.2, 0.4, 0.04, 0.004, 0.0004])


def test_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained, fresh = models.build("resnet18", 5, 1), models.build("resnet18", 2, 2)
    torch.save(trained.state_dict(), tmp_path / "weights.pt")
    assert models.load_weights(fresh, "resnet18", str(tmp_path / "weights.pt")) == ["fc.bias", "fc.weight"]
    assert torch.equal(fresh.state_dict()["conv1.weight"], trained.state_dict()["conv1.weight"])
    with pytest.raises(ValueError, match=r"--weights: .* is not of resnet34"):
        models.load_weights(models.build("resnet34", 5, 1), "resnet34", str(tmp_path / "weights.pt"))
    with pytest.raises(ValueError, match="--weights: expected a file, none, or one of IMAGENET1K_V1"):
        models.load_weights(fresh, "resnet18", "best")

    def no_network(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", no_network)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", no_network)
    with pytest.raises(ValueError, match=r"fetch https://.*pth elsewhere and give --weights FILE"):
        models.load_weights(fresh, "resnet18", "IMAGENET1K_V1")


def test_what_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--key-file: the row np is trained on encrypted images"):
        Config(steps="np").cipher(None)
    with pytest.raises(ValueError, match="--sizes: expected multiples of the block size 4, got 130"):
        Config(sizes=(130, 224, 288))
    with pytest.raises(ValueError, match="--sizes, --epochs, --batches: expected one number for each phase"):
        Config(sizes=(128, 224))
    with pytest.raises(FileNotFoundError, match="--data: expected the folders train and val"):
        Images(tmp_path)
    with pytest.raises(ValueError, match="--batches: expected at most the 48 images"):
        Images(folder).steps(49)
    with pytest.raises(ValueError, match="--batches: expected multiples of 2 processes, got 3"):
        Images(folder, 0, 2).steps(3)
