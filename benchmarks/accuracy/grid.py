"""Everything about the fast recipe, by several processes: python -m benchmarks.accuracy.grid --data DIR [...]

The rows of fast_study, its plain models with a key folded into them, and fine-tuning to encrypted images: the
most telling first, and published schemes at the end (`--only family-`). Each job is done by one of --jobs
processes, which share the GPU (a run alone leaves most of a large one idle). A JSON of each goes to
--results; what has one is left out. After --minutes, or on SIGINT or SIGTERM, all stop with checkpoints, and
the same command goes on there.

A job that fails leaves its traceback in RESULTS/failed, is tried once more at the end, and stops no other.
--bundle DIR gets, while it runs and in the end, results.tar.gz, and weights-N.pt: the main models, with
large weights in float16. --restore FILE makes runs of these again, for attacks and other tests.

    OMP_NUM_THREADS=1 python -m benchmarks.accuracy.grid --data DIR --jobs 8 --minutes 6 --bundle out
    python -m benchmarks.accuracy.grid --list
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gc
import io
import json
import multiprocessing
import multiprocessing.connection
import signal
import tarfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.accuracy import data
from benchmarks.accuracy.fast import Config, Run, Stopped, environment, stop_on_signals
from benchmarks.accuracy.fast_evaluate import load
from benchmarks.accuracy.fast_family import PREFIX
from benchmarks.accuracy.fast_folded import evaluate_folded
from benchmarks.accuracy.fast_study import rows, run_row, teacher_of
from benchmarks.accuracy.fast_tune import Tuning, tune, tunings
from benchmarks.accuracy.study import ALL, claimed
from blockenc.files import atomic_write

ATTEMPTS = 2
GRACE = 45.0  # seconds for the processes to stop
BUNDLE_SECONDS = 45.0
MAIN = 6  # rows that come before all others
TWICE = 16  # rows until the main ones have a second seed
LONG = "conv-plain-epochs60-seed0"
PLAIN_VIT = "family-vit-plain-m4-seed0"
FOLDED = ("VIT", "ETC", "PE", "VIT_ETC")  # presets that are linear maps of patches: the others have nibbles
# What attacks need afterwards.
KEPT = (
    "embedding-m4-all-protected-seed0",
    "embedding-m4-all-seed0",
    "embedding-m4-all-recovered-seed0",
    "embedding-m4-all-distilled0.5-seed0",
    "embedding-m4-all-curriculum0.5-seed0",
    "embedding-m4-all-epochs60-seed0",
    "conv-plain-seed0",
    "conv-m4-all-seed0",
    "conv-m2-all-seed0",
    "conv-m4-shuffle-seed0",
    "conv-m4-np-seed0",
    "conv-m4-ffx-seed0",
    "embedding-m4-plain-seed0",
    LONG,
    "conv-m4-all-epochs60-seed0",
)
ARCHIVE = 3  # models in an archive
SMALL = 100_000  # numbers; larger tensors, those of convolutions behind the stem, are kept in float16


@dataclass(frozen=True)
class Fold:
    """A plain row's model with a key folded into it, of a preset or of all three steps."""

    block_size: int
    preset: str = ""


@dataclass(frozen=True)
class Job:
    """needs: the row whose model it starts from."""

    name: str
    what: Config | Fold | Tuning
    needs: str = ""


@dataclass(frozen=True)
class Options:
    """What all processes are told."""

    data: Path
    runs: Path
    results: Path
    keys: int = 100
    images: int = 1000
    device: str = ""
    precision: str = "auto"
    train_images: int = 0
    test_images: int = 0
    overrides: tuple[tuple[str, Any], ...] = ()  # of rows and tunings, for a trial


def jobs() -> list[Job]:
    """All there is to do, the most telling first."""
    named = [Job(name, config, teacher_of(config)) for name, config in rows().items()]
    long = [job for job in named if "-epochs" in job.name]
    family = [job for job in named if job.name.startswith(PREFIX)]
    rest = [job for job in named if job not in [*long, *family]]

    def folds(row: str) -> list[Job]:
        return [Job(f"folded-m{m}-of-{row}", Fold(m), row) for m in (2, 4, 8)]

    def tuned(second_rates: bool) -> list[Job]:
        return [Job(t.name, t, "conv-plain-seed0") for t in tunings(second_rates)]

    embedding = [job for job in rest if job.name.startswith("embedding-m4") and "seed0" in job.name]
    found = [*rest[:MAIN], *long, *folds("conv-plain-seed0"), *embedding, *rest[MAIN:TWICE], *tuned(False)]
    found += [job for job in rest[TWICE:] if job not in embedding]
    for row in ("conv-plain-seed1", "conv-plain-seed2", LONG):
        found += folds(row)
    family += [Job(f"folded-{preset}-m4-of-{PLAIN_VIT}", Fold(4, preset), PLAIN_VIT) for preset in FOLDED]
    return [*found, *tuned(True), *family]


def run_job(job: Job, options: Options, found: data.Data, device: torch.device, **more: Any) -> bool:
    """Do a job, if no other command does it; says whether it did. Raises Stopped."""
    stop, say = more["stop"], more["say"]
    scores = {"keys": options.keys, "images": options.images, "stop": stop}
    training = {"device": device, "precision": options.precision}
    if isinstance(job.what, Config):
        return run_row(
            job.name, job.what, options.runs, options.results, found, say=say, **scores, **training
        )
    with claimed(options.runs, options.results, job.name) as folder:
        if folder is None:
            return False
        plain = load(options.runs / job.needs, found, device)
        if isinstance(job.what, Fold):
            result = {"config": plain.record["config"]}
            steps = "" if job.what.preset else ALL
            result |= evaluate_folded(plain, steps, job.what.block_size, folder, job.what.preset, **scores)
            said = f"{100 * result['exact']['folded_accuracy']:.2f} %, "
            said += f"{result['exact']['other_predictions']} predictions differ"
        else:
            result = tune(job.what, plain, folder, say=lambda _: None, **scores, **training)
            said = f"{100 * result['evaluation']['right_key']['one_view']:.2f} %"
        whole = {"name": job.name, "of": job.needs, **result, "environment": environment(found, device)}
        atomic_write(options.results / f"{job.name}.json", (json.dumps(whole, indent=1) + "\n").encode())
        say(f"{job.name}: done, {said}")
    return True


def load_data(options: Options) -> data.Data:
    found = data.load("cifar10", options.data)
    assert isinstance(found.train, data.Part)
    assert isinstance(found.test, data.Part)
    found.train = found.train.some(options.train_images or len(found.train))
    found.test = found.test.some(options.test_images or len(found.test))
    return found


def prepared(job: Job, overrides: tuple[tuple[str, Any], ...]) -> Job:
    """A job with other numbers in its configuration, as trials have them."""
    if not overrides or isinstance(job.what, Fold):
        return job
    fields = {f.name for f in dataclasses.fields(job.what)}
    changed = {name: value for name, value in overrides if name in fields}
    return Job(job.name, dataclasses.replace(job.what, **changed), job.needs)


def work(connection: Any, stopping: Any, options: Options) -> None:
    """A process: takes jobs until it is given None, or one fails, which may leave a GPU unusable to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent says when to stop
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None
    alive = parent.is_alive
    found: data.Data | None = None
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    while True:
        try:
            job: Job | None = connection.recv()
        except EOFError:
            return
        if job is None:
            return
        try:
            found = found or load_data(options)
            done = run_job(
                prepared(job, options.overrides),
                options,
                found,
                device,
                stop=lambda: stopping.is_set() or not alive(),
                say=lambda said: connection.send(("said", said)) if "done" in said else None,
            )
            connection.send(("done" if done else "held", job.name))
        except Stopped:
            connection.send(("stopped", job.name))
        except Exception:
            connection.send(("failed", traceback.format_exc()))
            return
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


@dataclass
class Worker:
    process: Any
    connection: Any
    job: Job | None = None
    began: float = 0.0


@dataclass
class Grid:
    """Gives jobs to processes, one each at a time."""

    options: Options
    todo: list[Job]
    processes: int
    stop: Callable[[], bool]
    say: Callable[[str], None]
    bundle: Path | None = None
    attempts: dict[str, int] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    done: int = 0

    def __post_init__(self) -> None:
        self.context = multiprocessing.get_context("spawn")
        self.stopping = self.context.Event()
        self.workers: list[Worker] = []
        (self.options.results / "failed").mkdir(parents=True, exist_ok=True)
        self.todo = [job for job in self.todo if not self._result(job.name).exists()]

    def _result(self, name: str) -> Path:
        return self.options.results / f"{name}.json"

    def _start(self) -> None:
        ours, theirs = self.context.Pipe()
        process = self.context.Process(target=work, args=(theirs, self.stopping, self.options), daemon=True)
        process.start()
        theirs.close()  # so that its death is seen as the end of what it sends
        self.workers.append(Worker(process, ours))

    def _ready(self, job: Job) -> bool:
        return not job.needs or self._result(job.needs).exists()

    def _next(self) -> Job | None:
        for job in self.todo:
            if self._ready(job):
                self.todo.remove(job)
                return job
        return None

    def _failed(self, job: Job, said: str) -> None:
        tries = self.attempts[job.name] = self.attempts.get(job.name, 0) + 1
        self.say(f"{job.name}: failed, {said.strip().splitlines()[-1]}")
        atomic_write(self.options.results / "failed" / f"{job.name}.{tries}.txt", said.encode())
        if tries < ATTEMPTS:
            self.todo.append(job)
        else:
            self.failed.add(job.name)
        if not self.done and sum(self.attempts.values()) >= 2 * self.processes:
            self.say("nothing but failures: giving up")
            self.stopping.set()

    def _heard(self, worker: Worker) -> None:
        """What a process has to say; one that failed or died is left, and replaced when there is a job."""
        job = worker.job
        try:
            kind, said = worker.connection.recv()
        except (EOFError, OSError):
            worker.process.join(10)
            kind, said = "failed", f"the process ended by itself, with code {worker.process.exitcode}"
        if kind == "said":
            self.say(f"{said} ({time.monotonic() - worker.began:.0f} s)")
            return
        worker.job = None
        if kind == "failed":
            self.workers.remove(worker)
            worker.connection.close()
            assert job is not None
            self._failed(job, said)
        elif kind == "stopped" and job is not None:
            self.todo.insert(0, job)
        elif kind == "done":
            self.done += 1

    def run(self) -> bool:
        """Do all jobs; says whether nothing is left to do."""
        told, written = 0.0, time.monotonic()
        try:
            while True:
                if self.stop() and not self.stopping.is_set():
                    self.stopping.set()
                    told = time.monotonic()
                    self.say("stopping")
                if not self.stopping.is_set():
                    self._assign()
                busy = [worker for worker in self.workers if worker.job is not None]
                if not busy or (told and time.monotonic() - told > GRACE):
                    break
                by_connection = {worker.connection: worker for worker in busy}
                for connection in multiprocessing.connection.wait(list(by_connection), 0.2):
                    self._heard(by_connection[connection])
                if time.monotonic() - written > BUNDLE_SECONDS:
                    self._write_bundle()
                    written = time.monotonic()
        finally:
            self._end()
            self._write_bundle()
        return not self.todo and not self.failed

    def _write_bundle(self) -> None:
        if self.bundle is not None:
            try:
                write_bundle(self.bundle, self.options)
            except Exception as error:  # what is in the way of it must not stop the jobs
                self.say(f"--bundle: {type(error).__name__}: {error}")

    def _assign(self) -> None:
        idle = [worker for worker in self.workers if worker.job is None]
        ready = sum(map(self._ready, self.todo))
        for _ in range(min(self.processes - len(self.workers), ready - len(idle))):
            self._start()
        for worker in self.workers:
            if worker.job is None:
                worker.job, worker.began = self._next(), time.monotonic()
                if worker.job is not None:
                    with contextlib.suppress(OSError):  # it died: the next look at it tells
                        worker.connection.send(worker.job)

    def _end(self) -> None:
        for worker in self.workers:
            if worker.job is None:
                with contextlib.suppress(OSError):
                    worker.connection.send(None)
            else:
                worker.process.terminate()
        for worker in self.workers:
            worker.process.join(5)
            if worker.process.is_alive():
                worker.process.kill()


def write_bundle(folder: Path, options: Options) -> None:
    """results.tar.gz and weights-N.pt, of what is done so far."""
    folder.mkdir(parents=True, exist_ok=True)
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for path in sorted(options.results.rglob("*")):
            if path.is_file():
                archive.add(path, str(path.relative_to(options.results)))
    atomic_write(folder / "results.tar.gz", file.getvalue())
    for n in range(0, len(KEPT), ARCHIVE):
        names = [name for name in KEPT[n : n + ARCHIVE] if (options.results / f"{name}.json").exists()]
        path = folder / f"weights-{n // ARCHIVE + 1}.pt"
        if not names or (path.exists() and list(torch.load(path, weights_only=True)) == names):
            continue
        models = {}
        for name in names:
            state = torch.load(options.runs / name / "checkpoint.pt", map_location="cpu", weights_only=True)
            weights = {key: reduced(t) for key, t in state["model"].items()}
            record = {key: state["record"][key] for key in ("config", "flops", "precision")}
            models[name] = {"record": record, "weights": weights}
        file = io.BytesIO()
        torch.save(models, file)
        atomic_write(path, file.getvalue())


def reduced(t: torch.Tensor) -> torch.Tensor:
    large = t.is_floating_point() and t.numel() > SMALL
    return t.half().contiguous() if large else t.clone()


def restored(path: Path, found: data.Data, device: torch.device) -> dict[str, Run]:
    """The runs in an archive of weights, done and ready to be evaluated, by the names of their rows."""
    runs = {}
    for name, saved in torch.load(path, map_location="cpu", weights_only=True).items():
        run = Run(Config(**saved["record"]["config"]), found, device, bf16=False)
        run.model.load_state_dict(saved["weights"])
        run.step = run.total
        runs[name] = run
    return runs


def restore(path: Path, found: data.Data, device: torch.device, folder: Path) -> list[str]:
    """Write the runs in an archive of weights among the runs in `folder`; their names."""
    runs = restored(path, found, device)
    for name, run in runs.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        run.save(folder / name / "checkpoint.pt")
        atomic_write(folder / name / "result.json", (json.dumps(run.record, indent=1) + "\n").encode())
    return list(runs)


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy.grid",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    found.add_argument("--data", type=Path, metavar="DIR", help="CIFAR-10")
    found.add_argument("--jobs", type=int, default=1, metavar="K", help="processes (default 1)")
    found.add_argument("--minutes", type=float, default=float("inf"), help="stop after so many")
    found.add_argument("--runs", type=Path, default=Path("runs/grid"), metavar="DIR", help="checkpoints")
    found.add_argument("--results", type=Path, default=Path("runs/grid-results"), metavar="DIR", help="JSONs")
    found.add_argument("--bundle", type=Path, metavar="DIR", help="put JSONs and weights here, in few files")
    found.add_argument(
        "--restore", action="append", type=Path, metavar="FILE", help="only make --runs of weights-N.pt"
    )
    found.add_argument(
        "--only",
        action="append",
        metavar="PART",
        help="only jobs with this in their name; those named first first",
    )
    found.add_argument("--keys", type=int, default=100, help="wrong key sets of an evaluation (default 100)")
    found.add_argument("--images", type=int, default=1000, help="test images for each (default 1000)")
    found.add_argument("--device", default="", help="default: cuda if there is one, else cpu")
    found.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto")
    found.add_argument("--train-images", type=int, default=0, help="only so many, for a trial")
    found.add_argument("--test-images", type=int, default=0, help="only so many, for a trial")
    found.add_argument(
        "--set", action="append", default=[], metavar="NAME=NUMBER", help="of all configurations, for a trial"
    )
    found.add_argument("--list", action="store_true")
    return found


def main() -> None:
    began = time.monotonic()
    o = parser().parse_args()
    every = jobs()
    chosen = list({job.name: job for part in o.only or [""] for job in every if part in job.name}.values())
    if o.list:
        for job in chosen:
            print("done" if (o.results / f"{job.name}.json").exists() else "    ", job.name)
        return
    if o.data is None:
        raise SystemExit("--data: expected the folder of CIFAR-10")
    overrides = tuple((name, json.loads(value)) for name, _, value in (s.partition("=") for s in o.set))
    options = Options(o.data, o.runs, o.results, o.keys, o.images, o.device, o.precision,
                      o.train_images, o.test_images, overrides)  # fmt: skip
    if o.restore:
        found, device = load_data(options), torch.device(o.device or "cpu")
        print("\n".join(name for path in o.restore for name in restore(path, found, device, o.runs)))
        return
    o.results.mkdir(parents=True, exist_ok=True)
    signalled = stop_on_signals()
    log = (o.results / "grid.log").open("a", buffering=1)

    def say(said: str) -> None:
        line = f"{time.strftime('%H:%M:%S')} {time.monotonic() - began:4.0f} s {said}"
        print(line, flush=True)
        print(line, file=log)

    def over() -> bool:
        return signalled() or time.monotonic() - began > 60 * o.minutes

    grid = Grid(options, chosen, o.jobs, over, say, o.bundle)
    complete = grid.run()
    left = ", ".join(sorted(grid.failed)) or "none"
    say("all jobs are done" if complete else f"{len(grid.todo)} jobs are left; failed twice: {left}")


if __name__ == "__main__":
    main()
