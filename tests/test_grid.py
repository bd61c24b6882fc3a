"""The grid of the fast recipe: folded models and fine-tuning are what they say; processes share the work."""

from __future__ import annotations

import dataclasses
import io
import json
import sys
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

import blockenc
from benchmarks.accuracy import data, fast, fast_evaluate, fast_folded, fast_tune, grid
from benchmarks.accuracy.fast import Config, Run
from benchmarks.accuracy.fast_tune import Tuning
from benchmarks.accuracy.study import ALL
from tests import cifar

CPU = torch.device("cpu")
TINY = Config(width=8, epochs=1, batch=50, small=0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where: Path = tmp_path_factory.mktemp("data")
    cifar.write(where)
    return where


@pytest.fixture(scope="module")
def plain(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    found = data.load("cifar10", folder)
    return fast.train(TINY, tmp_path_factory.mktemp("run"), found, precision="float32", say=lambda _: None)


@pytest.mark.parametrize("block_size", [2, 4, 8])
@pytest.mark.parametrize("steps", [ALL, "shuffle,np"])
def test_a_folded_whitening_stem_is_exact_at_the_edges_too(block_size: int, steps: str, plain: Run) -> None:
    config = dataclasses.replace(plain.config, steps=steps, block_size=block_size)
    folded = fast_folded.protected(plain.model, config, 3).eval()
    whole = plain.found.test.x[:4].permute(0, 3, 1, 2)  # type: ignore[union-attr]
    for x in (
        whole[..., :block_size],
        whole[:, :, :block_size, :block_size],
        whole,
    ):  # few blocks: edges only
        want = plain.model.eval().stem(plain.config.prepare(x, None))
        seen = folded.stem(config.prepare(x, config.cipher()))
        torch.testing.assert_close(seen, want, rtol=1e-4, atol=1e-4)
    assert (folded.stem(config.prepare(x, None)) - want).abs().max() > 0.5, "plain images are not for it"
    assert [name for name, p in folded.stem.named_parameters() if p.requires_grad] == ["bias"]


def test_a_folded_model_is_evaluated_beside_the_plain_one(plain: Run, tmp_path: Path) -> None:
    found = fast_folded.evaluate_folded(plain, ALL, 4, tmp_path, keys=10, images=30)
    assert found["exact"]["other_predictions"] == 0
    assert found["exact"]["folded_accuracy"] == found["exact"]["plain_accuracy"]
    assert found["exact"]["largest_difference"] < 1e-4
    right = plain.right(plain.found.test, None, 6)  # type: ignore[arg-type]
    assert list(found["right_key"].values()) == [n / 60 for n in right]
    assert len(found["wrong_keys"]["accuracies"]) == 10
    assert found["stem_weights"]["folded"] == 24 * 16 * 3 * (8 * 8 + 8 * 4 + 4 * 8 + 4 * 4)


@pytest.mark.parametrize("start", fast_tune.STARTS)
def test_a_fine_tuning_starts_where_it_says(start: str, plain: Run, tmp_path: Path) -> None:
    before = {name: t.clone() for name, t in plain.model.state_dict().items()}
    tuning = Tuning(start, images=80, epochs=1, lr=1e-9)
    found = fast_tune.tune(tuning, plain, tmp_path, keys=10, images=30, say=lambda _: None)
    assert (found["config"]["batch"], found["config"]["steps"]) == (20, ALL)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state["step"] == 4, "80 images by 20"
    weight = state["model"]["body.0.0.weight"]
    assert torch.allclose(weight, before["body.0.0.weight"], atol=1e-5) is (start != "scratch")
    assert (state["model"].keys() == before.keys()) is (start != "folded")
    assert all(torch.equal(t, before[name]) for name, t in plain.model.state_dict().items())


def test_all_rows_fine_tunings_and_folded_models_are_in_the_grid() -> None:
    names = [job.name for job in grid.jobs()]
    assert len(set(names)) == len(names)
    assert names[:2] == ["conv-plain-seed0", "conv-m4-all-seed0"]
    assert set(grid.rows()) < set(names)
    family = [name for name in grid.rows() if name.startswith("family-")]
    assert [name for name in names if "family-" in name] == names[-len(family) - len(grid.FOLDED) :]
    assert set(grid.KEPT) < set(names)
    assert {job.needs for job in grid.jobs()} - {""} < set(names)
    for m in (2, 4, 8):
        assert f"folded-m{m}-of-conv-plain-seed2" in names
    assert sum(name.startswith("tune-") for name in names) == 12 * 5


def row(name: str, **changed: Any) -> grid.Job:
    return grid.Job(name, dataclasses.replace(TINY, **changed))


def test_processes_share_the_work_and_failures_stop_nobody(
    folder: Path, plain: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = grid.KEPT[:2]
    todo = [
        row("too-large", batch=1000),  # fails: there are fewer images
        grid.Job("folded", grid.Fold(4), first),
        grid.Job("tuned", Tuning("folded", 80, 1, 0.1), first),
        row(first),
        row(second, steps=ALL),
        row("killed", epochs=4.0, batch=10),
    ]
    options = grid.Options(folder, tmp_path / "runs", tmp_path / "results", 10, 30, "cpu", "float32")
    said: list[str] = []
    ended: list[int] = []

    def kill_once() -> bool:
        """No reason to stop; but the process of one job is ended from outside."""
        for worker in whole.workers:
            at_work = (tmp_path / "runs" / "killed" / "lock").exists()
            if worker.job and worker.job.name == "killed" and at_work and not ended:
                ended.append(worker.process.pid)
                worker.process.kill()
        return False

    whole = grid.Grid(options, todo, 2, kill_once, said.append, tmp_path / "bundle")
    assert not whole.run()
    assert ended
    done = Counter(word.split(":")[0] for word in said if ": done" in word)
    assert done == dict.fromkeys((first, second, "folded", "tuned", "killed"), 1)
    assert whole.failed == {"too-large"}
    failures = {path.name: path.read_text() for path in (tmp_path / "results" / "failed").iterdir()}
    assert sorted(failures) == ["killed.1.txt", "too-large.1.txt", "too-large.2.txt"]
    assert "--batch: expected at most the 200 training images" in failures["too-large.1.txt"]
    assert "with code -9" in failures["killed.1.txt"]
    assert json.loads((tmp_path / "results" / f"{first}.json").read_text())["sessions"] == 1

    with tarfile.open(fileobj=io.BytesIO((tmp_path / "bundle" / "results.tar.gz").read_bytes())) as archive:
        assert {f"{name}.json" for name in done} < set(archive.getnames())
    assert [path.name for path in (tmp_path / "bundle").glob("*.pt")] == ["weights-1.pt"]
    monkeypatch.setattr(grid, "SMALL", 500)
    grid.write_bundle(tmp_path / "half", options)
    runs = grid.restored(tmp_path / "half" / "weights-1.pt", plain.found, CPU)
    assert list(runs) == [first, second]
    again = fast_folded.logits(runs[first], None)
    want = fast_folded.logits(plain, None)
    assert 0 < (again - want).abs().max() < 0.01 * want.abs().max(), "16 bits, and else the same"
    assert grid.restore(tmp_path / "half" / "weights-1.pt", plain.found, CPU, tmp_path / "again") == [
        first,
        second,
    ]
    loaded = fast_evaluate.load(tmp_path / "again" / first, plain.found, CPU)
    assert torch.equal(fast_folded.logits(loaded, None), again)


def test_a_stopped_grid_goes_on(folder: Path, tmp_path: Path) -> None:
    todo = [row("short"), row("long", epochs=100.0), grid.Job("folded", grid.Fold(2), "short")]
    options = grid.Options(folder, tmp_path / "runs", tmp_path / "results", 10, 30, "cpu", "float32")
    said: list[str] = []

    def enough() -> bool:
        return (tmp_path / "results" / "short.json").exists()

    assert not grid.Grid(options, todo, 2, enough, said.append).run()
    for path in (tmp_path / "results").glob("*.json"):
        json.loads(path.read_text())
    assert not (tmp_path / "results" / "long.json").exists()
    state = torch.load(tmp_path / "runs" / "long" / "checkpoint.pt", weights_only=True)
    assert 0 < state["step"] < 400
    assert grid.Grid(options, todo[::2], 1, lambda: False, said.append).run()
    assert json.loads((tmp_path / "results" / "folded.json").read_text())["of"] == "short"


def test_a_grid_whose_jobs_all_fail_gives_up(tmp_path: Path) -> None:
    said: list[str] = []
    options = grid.Options(tmp_path / "nothing", tmp_path / "runs", tmp_path / "results", device="cpu")
    whole = grid.Grid(options, [row(str(n)) for n in range(20)], 1, lambda: False, said.append)
    assert not whole.run()
    assert said[-1] == "nothing but failures: giving up"
    assert "no cifar-10-batches-py" in " ".join(
        path.read_text() for path in (tmp_path / "results" / "failed").iterdir()
    )


def test_the_script_lists_its_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    (tmp_path / "conv-plain-seed0.json").write_text("{}")
    monkeypatch.setattr(
        sys, "argv", ["x", "--list", "--results", str(tmp_path), "--only", "conv-plain-seed0"]
    )
    grid.main()
    listed = capsys.readouterr().out.splitlines()
    assert listed[0] == "done conv-plain-seed0"
    assert any("folded-m8-of-conv-plain-seed0" in line for line in listed)
    monkeypatch.setattr(sys, "argv", ["x", "--help"])
    with pytest.raises(SystemExit, match="0"):
        grid.main()
    assert blockenc.__version__
