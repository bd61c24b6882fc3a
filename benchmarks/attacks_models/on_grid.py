"""All attacks on the networks of benchmarks.accuracy.grid, by several processes, the most telling first."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import signal
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.accuracy import data, fast
from benchmarks.accuracy.fast_study import SINGLE
from benchmarks.accuracy.study import claimed
from benchmarks.attacks_models import fooling, keys, reading, stealing
from benchmarks.attacks_models.target import Sizes, Target, archives
from blockenc.files import atomic_write

PLAIN = "conv-plain-seed0"
ALL = "conv-m4-all-seed0"
SINGLES = {step: f"conv-m4-{step}-seed0" for step in SINGLE}
PROTECTED = "embedding-m4-all-protected-seed0"
EMBEDDING = "embedding-m4-all-seed0"
WITHOUT_KEY = [f"embedding-m4-all-{how}-seed0" for how in ("recovered", "distilled0.5", "curriculum0.5")]
STOLEN = (ALL, PROTECTED, *SINGLES.values())
RATES = (0.5, 1.5)  # of fine-tuning; the second one where time is left
SEARCHES = {"published": keys.published, "loss-more": keys.by_loss_of_more, "loss": keys.by_loss}
GRACE = 30.0  # seconds for the processes to stop


@dataclasses.dataclass(frozen=True)
class Job:
    """An attack on a network. needs: jobs whose results it starts from, and other networks it is given."""

    model: str
    attack: str
    run: Callable[[Target], dict[str, Any]]
    needs: tuple[str, ...] = ()
    models: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.model}.{self.attack}"


@dataclasses.dataclass(frozen=True)
class Options:
    """What all processes are told.

    end: when they stop, by time.monotonic. test_images: only so many, or 0. bf16: networks compute in
    bfloat16.
    """

    data: Path
    runs: Path
    results: Path
    sizes: Sizes
    device: str
    end: float
    test_images: int = 0
    bf16: bool = False


def jobs() -> list[Job]:
    """All there is to do, the most telling first; long searches early, so that they end in time."""

    def search(model: str, name: str) -> Job:
        return Job(model, f"search-{name}", SEARCHES[name])

    def one_step(kind: str) -> Job:
        return Job(ALL, f"search-{kind}-alone", partial(keys.one_step, kind=kind))

    def steal(model: str, rate: float) -> list[Job]:
        return [
            Job(model, f"tune-{_slug(goal)}-lr{rate:g}", partial(stealing.tuned, goal=goal, rate=rate))
            for goal in stealing.GOALS
        ]

    def scratch(model: str, goal: str) -> Job:
        return Job(model, f"scratch-{_slug(goal)}", partial(stealing.scratch, goal=goal))

    def fool(model: str) -> Job:
        return Job(model, "pgd", partial(fooling.by_keys, plain=PLAIN), models=(PLAIN,))

    def fool_by_estimate(model: str, search: str) -> Job:
        attack = partial(fooling.by_estimate, search=f"search-{search}")
        return Job(model, f"pgd-{search}", attack, (f"{model}.search-{search}",))

    sizes = [f"conv-m{m}-{step}-seed0" for m in (8, 16, 2) for step in ("np", "shuffle", "ffx")]
    return [
        search(SINGLES["np"], "published"),
        *(search(SINGLES[step], "loss-more") for step in ("np", "ffx")),
        *steal(ALL, RATES[0]),
        scratch(PLAIN, stealing.GOALS[0]),
        Job(PROTECTED, "seriation", reading.table),
        *(fool(SINGLES[step]) for step in SINGLE),
        *(one_step(kind) for kind in ("np", "ffx")),
        fool(ALL),
        *(Job(model, "random-keys", keys.random) for model in (ALL, PROTECTED, *SINGLES.values())),
        fool_by_estimate(SINGLES["np"], "published"),
        *(fool_by_estimate(SINGLES[step], "loss-more") for step in ("np", "ffx")),
        scratch(ALL, stealing.GOALS[1]),
        search(SINGLES["shuffle"], "published"),
        *(Job(model, "seriation", reading.table) for model in (EMBEDDING, *WITHOUT_KEY, ALL, SINGLES["ffx"])),
        *(Job(model, "slopes", reading.masks) for model in (*STOLEN, EMBEDDING, *WITHOUT_KEY)),
        *(Job(model, "relaxed", keys.relaxed) for model in (SINGLES["shuffle"], SINGLES["np"], ALL)),
        *(fool(model) for model in sizes[:4]),
        *(job for model in STOLEN[1:] for job in steal(model, RATES[0])),
        fool_by_estimate(SINGLES["shuffle"], "published"),
        search(SINGLES["ffx"], "published"),
        fool_by_estimate(SINGLES["ffx"], "published"),
        search(SINGLES["shuffle"], "loss-more"),
        fool_by_estimate(SINGLES["shuffle"], "loss-more"),
        one_step("shuffle"),
        search(ALL, "loss-more"),
        *(scratch(model, stealing.GOALS[1]) for model in SINGLES.values()),
        *(fool(model) for model in sizes[4:]),
        *(Job(model, "pgd-eot", fooling.eot) for model in (*SINGLES.values(), ALL)),
        search(ALL, "published"),
        *(fool_by_estimate(ALL, name) for name in ("published", "loss-more")),
        *(search(SINGLES[step], "loss") for step in ("np", "ffx", "shuffle")),
        Job(EMBEDDING, "random-keys", keys.random),
        *(Job(model, "pgd-eot", fooling.eot) for model in sizes),
        *(job for model in STOLEN for job in steal(model, RATES[1])),
    ]


def _slug(goal: str) -> str:
    return goal.replace(" ", "-")


class Worker:
    """Does jobs that nobody else does, until none is left or time is up."""

    def __init__(self, options: Options, stopping: Callable[[], bool], say: Callable[[str], None]) -> None:
        self.options, self.say = options, say
        self.stop = lambda: stopping() or time.monotonic() > options.end
        self.device = torch.device(options.device)
        self.targets: dict[str, Target] = {}
        found = data.load("cifar10", options.data)
        assert isinstance(found.train, data.Part)
        assert isinstance(found.test, data.Part)
        # As many training images as any attack has, and the initial networks were whitened by.
        found.train = found.train.some(max(*options.sizes.tune_images, fast.WHITENED_IMAGES))
        found.test = found.test.some(options.test_images or len(found.test))
        self.found = found

    def work(self, todo: list[Job]) -> None:
        """All jobs whose networks there are. Raises what an attack raised, which is on disk then."""
        while not self.stop():
            states = set()
            for job in todo:
                states.add(state := self._do(job))
                if state == "done now":
                    break
            if states.isdisjoint({"done now", "held"}):
                return
            if "done now" not in states:
                time.sleep(0.2)

    def _do(self, job: Job) -> str:
        """Do a job, if its time has come and nobody else does it; says what became of it."""
        results = self.options.results
        if _result(results, job.name).exists() or _failure(results, job.name).exists():
            return "over"
        if not has_networks(job, self.options.runs):
            return "no network"
        if not all(_result(results, name).exists() for name in job.needs):
            return "waits"
        with claimed(results / "locks", results, job.name) as folder:
            if folder is None:
                return "held"
            try:
                return self._measured(job)
            except fast.Stopped:
                return "stopped"
            except Exception:
                atomic_write(_failure(results, job.name), traceback.format_exc().encode())
                self.say(f"{job.name}: failed")
                raise

    def _measured(self, job: Job) -> str:
        target = self.targets.setdefault(job.model, self._target(job.model))
        began = time.monotonic()
        result = job.run(target)
        whole = {
            "name": job.name,
            "model": job.model,
            "attack": job.attack,
            "result": result,
            "ended_early": self.stop(),
            "seconds": round(time.monotonic() - began, 1),
            "sizes": dataclasses.asdict(target.sizes),
            "config": dataclasses.asdict(target.network.config),
            "precision": "bfloat16" if self.options.bf16 else "float32",
            "environment": fast.environment(self.found, self.device),
        }
        # A search that the end of the time cut short is told, and made anew by the next call.
        suffix = ".partial" if whole["ended_early"] else ""
        path = _result(self.options.results, job.name + suffix)
        atomic_write(path, (json.dumps(whole) + "\n").encode())
        self.say(f"{job.name}{suffix}: {whole['seconds']} s")
        return "done now"

    def _target(self, model: str) -> Target:
        o = self.options
        return Target(model, o.runs, o.results, self.found, o.sizes, self.device, self.stop, o.bf16)


def has_networks(job: Job, runs: Path) -> bool:
    """Whether the networks of a job are trained, or in an archive."""
    return all(
        (runs / name / "result.json").exists() or name in archives(runs) for name in (job.model, *job.models)
    )


def _result(results: Path, name: str) -> Path:
    return results / f"{name}.json"


def _failure(results: Path, name: str) -> Path:
    return results / "failed" / f"{name}.txt"


def _process(options: Options, stopping: Any, todo: list[Job], began: float) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent says when to stop
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def say(said: str) -> None:
        print(f"{time.monotonic() - began:4.0f} s {said}", flush=True)

    Worker(options, lambda: stopping.is_set() or not parent.is_alive(), say).work(todo)


def run(options: Options, todo: list[Job], processes: int, stop: Callable[[], bool]) -> bool:
    """Do jobs by so many processes; says whether all that have their networks are done.

    An attack that failed leaves its traceback in results/failed, and its process, which a GPU may be unusable
    to, is replaced. The next call tries it again.
    """
    began = time.monotonic()
    (options.results / "failed").mkdir(parents=True, exist_ok=True)
    for job in todo:
        _failure(options.results, job.name).unlink(missing_ok=True)
    context = multiprocessing.get_context("spawn")
    stopping = context.Event()

    def started() -> Any:
        process = context.Process(target=_process, args=(options, stopping, todo, began), daemon=True)
        process.start()
        return process

    working = [started() for _ in range(processes)]
    failures = 0
    while working and time.monotonic() < options.end + GRACE:
        if stop():
            stopping.set()
        for process in list(working):
            process.join(0.05)
            if process.exitcode is None:
                continue
            working.remove(process)
            failures += process.exitcode != 0
            if (
                process.exitcode
                and failures <= 2 * processes
                and time.monotonic() < options.end
                and not stop()
            ):
                working.append(started())
    for process in working:
        process.terminate()
        process.join(5)
    return not failures and all(
        _result(options.results, job.name).exists() for job in todo if has_networks(job, options.runs)
    )
