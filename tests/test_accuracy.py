"""The accuracy benchmark's scripts, on scikit-learn's digits: the right key works, wrong ones do not."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import blockenc
from benchmarks.accuracy import data, evaluate, leak, models, overhead, report, study
from benchmarks.accuracy import train as train_script
from benchmarks.accuracy.train import Config, Place, build, key_set, train

ROOT = Path(__file__).parents[1]


# Models this small gain nothing from a second thread, and lose much where cores are shared.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


pytestmark = pytest.mark.usefixtures("one_thread")


def run_module(name: str, *args: object) -> str:
    command = [sys.executable, "-m", f"benchmarks.accuracy.{name}", *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study at its smallest, run by its command."""
    folder = tmp_path_factory.mktemp("study")
    options = ["--setting", "tiny", "--results", folder / "results", "--runs", folder / "runs", "--quiet"]
    said = run_module("study", *options, "--keys", 10, "--images", 397)
    assert said.split() == list(study.rows("tiny"))
    assert run_module("study", *options) == "", "rows that are done were run again"
    return folder


def test_the_right_key_works_and_wrong_ones_do_not(tiny: Path) -> None:
    for name, config in study.rows("tiny").items():
        found = json.loads((tiny / "results" / f"{name}.json").read_text())
        scores = found["evaluation"]
        assert found["config"] == vars(config)
        if not config.steps:
            assert scores["plain"] > 0.9, name
            assert scores["on_encrypted_images"]["mean"] < 0.5, name
            assert ("protected" in scores) == (config.stem != "conv")
            if config.stem == "conv":
                continue
            assert scores["protected"]["right_key"] == pytest.approx(scores["plain"], abs=0.006), name
            scores = scores["protected"]
        assert scores["right_key"] > (0.6 if config.init == "random" else 0.8), name
        assert scores["wrong_keys"]["number"] == 10
        # Blocks of 2 x 2 grey pixels have few keys: 4! * 6 without ffx, and some are nearly right.
        if config.block_size > 2:
            assert scores["wrong_keys"]["max"] < scores["right_key"] - 0.2, name
        assert scores["wrong_keys"]["mean"] < 0.5, name
        assert scores["plain_images"] < scores["right_key"] - 0.2, name
        assert set(scores["one_wrong_member"]) == set((config.steps or scores["steps"]).split(","))


def test_encrypted_training_from_a_protected_start_is_plain_training(tiny: Path) -> None:
    for m in (2, 4):
        both = [
            json.loads((tiny / f"results/embedding-m{m}-{kind}-seed0.json").read_text())
            for kind in ("plain", "all-protected")
        ]
        first, second = ([epoch["loss"] for epoch in found["epochs"]] for found in both)
        assert first[-1] < 0.7 * first[0]
        assert second == pytest.approx(first, rel=0.02)
        assert second[0] == pytest.approx(first[0], rel=1e-4)


def test_a_resumed_run_is_the_whole_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    batches = data.Part.batches

    def recorded(self: data.Part, size: int, seed: int | None, *rest: int) -> Any:
        seeds.extend([] if seed is None else [seed])
        return batches(self, size, seed, *rest)

    monkeypatch.setattr(data.Part, "batches", recorded)
    config = Config(dataset="digits", stem="embedding", steps="shuffle,np,ffx", epochs=3, width=8)
    whole = train(config, tmp_path / "whole", quiet=True)
    for stop in (1, 2, None):
        parts = train(config, tmp_path / "parts", quiet=True, stop_after=stop)
    assert seeds[:3] == seeds[3:]
    assert len(set(seeds)) == 3, "every epoch draws the same"
    for a, b in zip(whole["epochs"], parts["epochs"], strict=True):
        assert (a["losses"], a["loss"], a["accuracy"]) == (b["losses"], b["loss"], b["accuracy"])
    a, b = (torch.load(tmp_path / name / "checkpoint.pt")["model"] for name in ("whole", "parts"))
    assert all(torch.equal(a[name], b[name]) for name in a)
    other = Config(dataset="digits", seed=1)
    with pytest.raises(ValueError, match="another configuration"):
        train(other, tmp_path / "parts", quiet=True)


def test_processes_share_the_batches(tmp_path: Path) -> None:
    """Two processes under torchrun train; together their batches are one process's."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    options = ["--dataset", "digits", "--epochs", "2", "--width", "8", "--out", str(tmp_path), "--quiet"]
    command = [*launch, "-m", "benchmarks.accuracy.train", *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "result.json").read_text())
    assert record["environment"]["processes"] == 2
    assert record["epochs"][1]["loss"] < record["epochs"][0]["loss"]
    assert len(torch.load(tmp_path / "checkpoint.pt")["optimizer"]["state"]) > 0

    part = data.load("digits", None).train
    whole = list(part.batches(20, 3))
    shares = [list(part.batches(10, 3, rank, 2)) for rank in (0, 1)]
    for (x, y), (x0, y0), (x1, y1) in zip(whole, *shares, strict=True):
        assert torch.equal(x, torch.stack([x0, x1], 1).flatten(0, 1))
        assert torch.equal(y, torch.stack([y0, y1], 1).flatten())


def test_augmented_images_are_crops_and_flips_of_the_padded_ones() -> None:
    x = torch.randint(0, 256, (64, 6, 5, 3), dtype=torch.uint8)
    part = data.Part(x, torch.arange(64), pad=2, flip=True)
    padded = np.pad(x.numpy(), ((0, 0), (2, 2), (2, 2), (0, 0)), mode="edge")
    seen = set()
    for images, labels in part.batches(16, 0):
        assert images.is_contiguous(memory_format=torch.channels_last)
        for image, n in zip(images.permute(0, 2, 3, 1).numpy(), labels.tolist()):
            for flip in (False, True):
                source = padded[n][:, ::-1] if flip else padded[n]
                for i in range(5):
                    for j in range(5):
                        if np.array_equal(source[i : i + 6, j : j + 5], image):
                            seen.add((n, flip, i, j))
    assert len({n for n, *_ in seen}) == 64, "an image is no crop, or was left out"
    assert {flip for _, flip, _, _ in seen} == {False, True}
    assert len({(i, j) for *_, i, j in seen}) > 15
    again = [y for _, y in part.batches(16, 1)]
    assert not torch.equal(torch.cat(again), torch.cat([y for _, y in part.batches(16, 2)]))


@pytest.mark.parametrize("stem", models.STEMS)
@pytest.mark.parametrize("name", models.MODELS)
@pytest.mark.parametrize("image_size", [32, 96])
def test_models(name: str, stem: str, image_size: int) -> None:
    options: dict[str, Any] = {"block_size": 4, "classes": 7, "image_size": image_size, "width": 48}
    if name in ("vit", "convmixer"):
        options["depth"] = 1
        if stem.endswith("conv"):
            with pytest.raises(ValueError, match="its stem is block, embedding or lookup-block"):
                models.make(name, stem, **options)
            return
    torch.manual_seed(0)
    model = models.make(name, stem, **options).eval()
    config = Config(stem=stem, steps="shuffle,np" if stem == "block" else "shuffle,np,ffx")
    x = torch.randint(0, 256, (2, 3, image_size, image_size), dtype=torch.uint8)
    y = model(config.prepare(x, None))
    assert y.shape == (2, 7)
    cipher = config.cipher()
    assert cipher is not None
    folded = evaluate.protected(model, config, cipher)
    if stem not in ("block", "embedding"):
        assert folded is None
        return
    assert folded is not None
    torch.testing.assert_close(folded(config.prepare(x, cipher)), y, rtol=1e-3, atol=1e-4)


def test_a_lookup_starts_as_nothing_and_can_undo_ffx() -> None:
    config = Config(stem="lookup-conv", steps="ffx")
    cipher = config.cipher()
    assert cipher is not None
    x = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    lookup = models.Lookup(rank=1)
    y = lookup(x).view(2, 3, 2, 32, 32)
    torch.testing.assert_close(y[:, :, 0], (x - 127.5) / (256**2 / 12 - 1 / 12) ** 0.5)
    assert not y[:, :, 1].any()

    encrypted = config.prepare(x, cipher)
    changed = encrypted != x
    assert encrypted.dtype == torch.uint8
    assert 0.4 < changed.float().mean() < 0.6
    with torch.no_grad():
        lookup.table[encrypted[changed].long(), 0] = y[:, :, 0][changed]
    undone = lookup(encrypted).view(2, 3, 2, 32, 32)
    torch.testing.assert_close(torch.where(changed, undone[:, :, 1], undone[:, :, 0]), y[:, :, 0])


@pytest.mark.parametrize("unfold", [1, 2, 4])
def test_unfolded_stems_start_as_convolutions_of_parts(unfold: int) -> None:
    torch.manual_seed(0)
    model = models.make("resnet-small", "block", block_size=4, classes=10, width=8, unfold=unfold)
    x = torch.randn(1, 3, 16, 16)
    if unfold == 1:
        assert model.stem(x).shape == (1, 8, 4, 4)
        return
    part = 4 // unfold
    patch = model.stem[0].weight.view(8, unfold, unfold, 3, 4, 4)[:, 0, 0, :, :part, :part]
    want = torch.nn.functional.conv2d(x, patch, stride=part)
    bias = model.stem[1](model.stem[0].bias.view(1, -1, 1, 1).expand(1, -1, 4, 4))
    torch.testing.assert_close(model.stem(x), want + bias)
    with pytest.raises(ValueError, match="unfold: expected a divisor"):
        models.make("resnet-small", "block", block_size=4, classes=10, unfold=3)


def write_cifar(folder: Path, files: list[str], label: bytes) -> None:
    folder.mkdir(parents=True)
    for n, name in enumerate(files):
        images = np.full((20, 3072), n, np.uint8)
        images[:, :1024] += 100  # red
        (folder / name).write_bytes(pickle.dumps({b"data": images, label: [n % 10] * 20}))


def test_data_sets(tmp_path: Path) -> None:
    write_cifar(
        tmp_path / "cifar-10-batches-py", [f"data_batch_{n}" for n in range(1, 6)] + ["test_batch"], b"labels"
    )
    write_cifar(tmp_path / "cifar-100-python", ["train", "test"], b"fine_labels")
    ten = data.load("cifar10", tmp_path)
    assert (len(ten.train), len(ten.test), ten.classes) == (100, 20, 10)
    assert ten.train.x[99, 3, 4].tolist() == [104, 4, 4]
    assert ten.test.y.tolist() == [5] * 20
    hundred = data.load("cifar100", tmp_path / "cifar-100-python")
    assert (len(hundred.train), len(hundred.test), hundred.classes) == (20, 20, 100)
    with pytest.raises(FileNotFoundError, match="no cifar-10-batches-py"):
        data.load("cifar10", tmp_path / "cifar-100-python")
    with pytest.raises(ValueError, match="--data: cifar10 needs a folder"):
        data.load("cifar10", None)
    for part in ("train", "val"):
        for label in ("a", "b"):
            (tmp_path / part / label).mkdir(parents=True)
            for n in range(4):
                Image.new("RGB", (50 + n, 40), (n, 0, 200)).save(tmp_path / part / label / f"{n}.png")
    config = Config(
        dataset="folder", image_size=32, batch=4, epochs=1, width=8, stem="block", steps="shuffle,np"
    )
    record = train(config, tmp_path / "run", tmp_path, quiet=True)
    assert record["environment"]["train_images"] == 8
    assert 0 <= record["epochs"][0]["accuracy"] <= 1
    photos = data.load("folder", tmp_path, image_size=32).test
    assert len(photos) == 8
    assert [y.tolist() for _, y in photos.some(4).batches(4, None)] == [[0, 0, 1, 1]]


def test_key_sets_and_configurations_differ() -> None:
    prints = {key_set(n).fingerprint for n in range(101)}
    assert len(prints) == 101
    for setting in ("cpu", "gpu", "tiny"):
        configs = list(study.rows(setting).values())
        assert len({str(c) for c in configs}) == len(configs)
    digits = data.load("digits", None)
    config = Config(dataset="digits", stem="embedding", profile="decimal", steps="ffx")
    assert build(config, digits).stem.values == 1000
    x, _ = next(digits.test.batches(2, None))
    assert config.prepare(x, config.cipher()).dtype == torch.uint16
    assert Place.here("cpu").world == 1
    assert isinstance(config.cipher(), blockenc.Cipher)


def test_the_report_of_the_tiny_study(tiny: Path, tmp_path: Path) -> None:
    measured = tiny / "results" / "measured"
    runs = tiny / "runs" / "tiny"
    run_module(
        "overhead", "--only", "conv", "--rounds", 2, "--batch", 16, "--json", measured / "overhead.json"
    )
    said = run_module(
        "leak",
        *(runs / name for name in ("embedding-m4-plain-seed0", "embedding-m4-all-random-seed0")),
        "--json",
        measured / "leak.json",
    )
    protected, from_random = json.loads(said)["leak"]
    assert protected["values"]["rows_within_8"] > 0.9, "a smooth table betrays the values"
    assert from_random["values"]["rows_within_8"] < 0.3
    page = tmp_path / "page.md"
    run_module("report", "--setting", "tiny", "--results", tiny / "results", "--page", page)
    text = page.read_text()
    assert "not measured yet" in text, "the tiny study has no rows of single steps"
    found = json.loads((tiny / "results/conv-m4-all-seed0.json").read_text())["evaluation"]
    wrong = found["wrong_keys"]
    assert f"| conv | 4 | all three |  | {100 * found['right_key']:.2f} |" in text
    assert f"{100 * wrong['mean']:.1f} ± {100 * wrong['sd']:.1f}" in text
    for plot in report.PLOTS:
        assert Image.open(tmp_path / f"page-{plot}.png").size[0] > 500
    report.report(tiny / "results", page, "tiny")
    assert page.read_text() == text


def test_the_page_shows_the_results() -> None:
    """docs/accuracy.md is what the checked-in JSONs say."""
    text = report.PAGE.read_text()
    assert report.fill(text, report.Study(study.HERE / "results")) == text
    for picture in re.findall(r"\]\((accuracy-[a-z-]+\.png)\)", text):
        assert report.PAGE.with_name(picture).exists()


def test_the_code_of_the_page_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", report.PAGE.read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "docs/accuracy.md", "exec"), {})


def test_the_scripts_explain_themselves(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for script in (evaluate, leak, overhead, report, study, train_script):
        monkeypatch.setattr(sys, "argv", ["x", "--help"])
        with pytest.raises(SystemExit, match="0"):
            script.main()
        assert "python -m benchmarks.accuracy" in capsys.readouterr().out
    listed = run_module("study", "--list").splitlines()
    assert len(listed) == len(study.rows())


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    config = Config(dataset="digits", epochs=1, width=8)
    train(config, tmp_path, quiet=True, tensorboard=True)
    assert list((tmp_path / "tensorboard").iterdir())
