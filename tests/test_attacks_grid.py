"""Attacks on the networks of the grid: each on tiny networks, by the program itself, in seconds."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.accuracy import data, fast, fast_models
from benchmarks.accuracy.fast_study import rows
from benchmarks.accuracy.train import key_set
from benchmarks.attacks_models import keys, on_grid, page, stealing
from benchmarks.attacks_models.target import Sizes, Target
from blockenc import Cipher
from blockenc.attacks import key_search
from tests import cifar

CPU = torch.device("cpu")
NP, PROTECTED = on_grid.SINGLES["np"], on_grid.PROTECTED
NETWORKS = (on_grid.PLAIN, on_grid.ALL, NP, PROTECTED)
SIZES = Sizes(
    rounds=1,
    batch=6,
    large=8,
    starts=2,
    loss_starts=2,
    relaxed_images=20,
    relaxed_steps=3,
    random_keys=4,
    test=20,
    pgd_images=4,
    pgd_steps=2,
    eot_keys=2,
    eot_steps=1,
    tune_steps=10,
    tune_batch=40,
    tune_images=(40, 100, 5000),
    positions=1,
    ordered_images=1,
    slope_images=2,
)
SLOW = ("shuffle-alone", "search-published", "search-loss-more")  # of all three steps: thousands of queries


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data and runs, as the grid leaves them."""
    folder: Path = tmp_path_factory.mktemp("grid")
    cifar.write(folder)
    found = data.load("cifar10", folder)
    for name in NETWORKS:
        config = dataclasses.replace(rows()[name], width=8, epochs=5.0, batch=50, small=0.0)
        fast.train(config, folder / "runs" / name, found, precision="float32", say=lambda _: None)
    return folder


def options(where: Path, results: Path, seconds: float = 600) -> on_grid.Options:
    (results / "failed").mkdir(parents=True, exist_ok=True)
    return on_grid.Options(where, where / "runs", results, SIZES, "cpu", time.monotonic() + seconds)


@pytest.fixture(scope="module")
def results(where: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All jobs but the slow ones of all three steps."""
    folder: Path = tmp_path_factory.mktemp("results")
    todo = [job for job in on_grid.jobs() if job.model != on_grid.ALL or not job.attack.endswith(SLOW)]
    on_grid.Worker(options(where, folder), lambda: False, print).work(todo)
    return folder


@pytest.fixture
def target(where: Path) -> Target:
    found = data.load("cifar10", where)
    return Target(NP, where / "runs", where / "results", found, SIZES, CPU, lambda: False)


def test_every_attack_that_has_its_network_is_done(results: Path) -> None:
    names = {path.stem for path in results.glob("*.json")}
    there = [job for job in on_grid.jobs() if {job.model, *job.models} <= set(NETWORKS)]
    slow = {job.name for job in there if job.model == on_grid.ALL and job.attack.endswith(SLOW)}
    waiting = {job.name for job in there if slow & set(job.needs)}
    assert len(waiting) == 2
    assert names == {job.name for job in there} - slow - waiting
    assert len({job.name for job in on_grid.jobs()}) == len(on_grid.jobs())
    assert {name for job in on_grid.jobs() for name in (job.model, *job.models)} <= set(rows())


def test_the_tables_show_the_records(results: Path) -> None:
    records = page.load(results)
    tables = {name: table(records) for name, table in page.TABLES.items()}
    for name, lines in {
        "stolen": 15,
        "searches": 5,
        "fake keys": 3,
        "fooled": 2,
        "read": 3,
        "relaxed": 2,
    }.items():
        assert len(tables[name].splitlines()) - 2 == lines, name
    record = json.loads((results / f"{NP}.pgd.json").read_text())
    success = record["result"]["right key"]["scores"]["success"]
    assert f"| np, M = 4, 5 epochs | {page.percent(success)} of 4 |" in tables["fooled"]
    assert "embedding stem, started protected, 5 epochs | one position | 1.000 | 0.0 |" in tables["ordered"]
    assert all(table({}) for table in page.TABLES.values())


def test_searches_are_drawn(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    drawn: list[Any] = []
    monkeypatch.setattr(pyplot, "close", drawn.append)
    records = page.load(results)
    page.draw(records, tmp_path / "searches.png")
    monkeypatch.undo()
    pyplot.close(drawn[0])
    searches = [record for record in records.values() if record["attack"].startswith("search-")]
    lines = drawn[0].axes[0].lines
    ends = [record["result"]["curve"][-1]["key share"] for record in searches]
    assert [line.get_ydata()[-1] for line in lines] == [100 * share for share in ends]
    assert (tmp_path / "searches.png").stat().st_size > 1000


def test_a_thief_learns_the_goal_and_starts_where_it_says(target: Target) -> None:
    before = {name: t.clone() for name, t in target.network.model.state_dict().items()}
    found = stealing.tuned(target, "new key", 1.5)["accuracies"]
    assert list(found) == ["0 images", "40 images", "100 images"]  # there are fewer than 5,000
    assert found["0 images"]["right key"] == target.network.run.right(
        target.found.test, Cipher(target.key, target.scheme)  # type: ignore[arg-type]
    )[0] / 60  # fmt: skip
    assert found["100 images"] != found["0 images"]
    assert all(torch.equal(t, before[name]) for name, t in target.network.model.state_dict().items())
    longer = dataclasses.replace(SIZES, tune_steps=40, tune_images=(200,))
    target.sizes = longer
    learned = stealing.tuned(target, "plain images", 1.5)["accuracies"]["200 images"]
    assert learned["plain images"] > max(0.3, found["0 images"]["plain images"])
    scratch = stealing.scratch(target, "new key")["accuracies"]["200 images"]
    assert scratch["new key"] > 0.3


def test_a_thief_trains_under_the_key_of_the_thief(target: Target) -> None:
    """Also where the recipe encrypts as it trains, and where it whitens."""
    seen: list[torch.Tensor] = []

    class Watched(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x.detach().clone())
            return torch.zeros(len(x), 10) + self.weight

        def __init__(self) -> None:
            super().__init__()
            self.stem = torch.nn.Conv2d(3, 24, 2)
            self.weight = torch.nn.Parameter(torch.zeros(10))

    config = target.network.config
    for goal, cipher in (("new key", Cipher(key_set(1), target.scheme)), ("plain images", None)):
        run = stealing._run(target, config, goal, 1.0, 40, Watched())
        want = config.prepare(run.stream.batch(0)[0], cipher)
        run.train_step()
        assert torch.equal(seen[-1], want)
    whole = target.found.train.some(40)  # type: ignore[union-attr]
    whitened = config.prepare(whole.x.permute(0, 3, 1, 2), Cipher(key_set(1), target.scheme))
    stem = stealing._run(target, config, "new key", 1.0, 40, None).model.stem
    torch.testing.assert_close(stem.weight, fast_models.whitening(whitened))


def test_a_recorded_key_is_the_one_that_was_found(target: Target, results: Path) -> None:
    told = json.loads((results / f"{NP}.search-loss.json").read_text())["result"]
    (mask,) = key_search.secrets_of(target.scheme, keys.key_of(told))
    (right,) = key_search.secrets_of(target.scheme, target.key)
    assert math.isclose((mask == right).mean(), told["scores"]["key share"])
    assert len(told["ends"]) == SIZES.loss_starts


def test_time_that_is_up_leaves_no_result_but_what_a_search_came_to(where: Path, tmp_path: Path) -> None:
    todo = [job for job in on_grid.jobs() if job.model == NP]
    worker = on_grid.Worker(options(where, tmp_path, -1), lambda: False, print)
    worker.work(todo)
    assert not list(tmp_path.glob("*.json"))
    asked: list[int] = []

    def few() -> bool:
        asked.append(1)
        return len(asked) > 20

    worker.options = options(where, tmp_path)
    worker.stop = few
    worker.work(todo)
    (path,) = tmp_path.glob("*.json")
    assert path.name == f"{NP}.search-published.partial.json"
    assert list(page.load(tmp_path)) == [f"{NP}.search-published"]
    assert "cut short" in page.searches(page.load(tmp_path))


def test_networks_come_from_archives_too(where: Path, target: Target, tmp_path: Path) -> None:
    run = target.network.run
    record = {key: run.record[key] for key in ("config", "flops", "precision")}
    torch.save({NP: {"record": record, "weights": run.model.state_dict()}}, tmp_path / "weights-1.pt")
    there = [job.name for job in on_grid.jobs() if on_grid.has_networks(job, tmp_path)]
    assert f"{NP}.search-loss" in there
    assert f"{NP}.pgd" not in there, "a plain network is needed, too"
    assert all(name.startswith(NP) for name in there)
    other = Target(NP, tmp_path, tmp_path, target.found, SIZES, CPU, lambda: False)
    x = target.test[0]
    assert torch.equal(other.network(x), target.network(x))


def failing(target: Target) -> dict[str, Any]:
    raise RuntimeError("out of memory")


def test_processes_share_the_jobs_and_a_failure_stops_no_other(where: Path, tmp_path: Path) -> None:
    todo = [on_grid.Job(NP, "fails", failing)]
    todo += [job for job in on_grid.jobs() if job.name in (f"{NP}.random-keys", f"{NP}.pgd")]
    assert not on_grid.run(options(where, tmp_path), todo, 2, lambda: False)
    assert sorted(path.name for path in tmp_path.glob("*.json")) == [
        f"{NP}.pgd.json",
        f"{NP}.random-keys.json",
    ]
    assert "out of memory" in (tmp_path / "failed" / f"{NP}.fails.txt").read_text()
