"""Passports and keys: accuracies, with forged ones too: python -m benchmarks.passports.study --data DIR

Trains the network of the fast recipe (benchmarks.accuracy.fast) plain, with passports in its last group and
in all groups, and on encrypted images, folds a key into the plain one, and attacks all but the plain one.
Each form's JSON goes to --results, of which `python -m benchmarks.passports.page` makes tables; what has one
is left out. After --minutes, or on SIGINT or SIGTERM, it stops with a checkpoint, and the same command goes
on there. Several may run at once: each takes forms that no other has.

    for n in 1 2 3 4; do OMP_NUM_THREADS=1 python -m benchmarks.passports.study --data DIR & done; wait
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.accuracy import data, fast_folded
from benchmarks.accuracy.evaluate import summary
from benchmarks.accuracy.fast import Config, Run, Stopped, build, environment, stop_on_signals, train
from benchmarks.accuracy.fast_evaluate import Scores
from benchmarks.accuracy.study import LINEAR, claimed
from benchmarks.passports.forging import Attack, Budget, attacks, images_of, scored, tries, whole_test
from benchmarks.passports.layers import passports, with_passports_in_groups
from benchmarks.passports.page import RESULTS
from blockenc.files import atomic_write

SIGN_LOSS = 0.1  # its weight, that of the authors' code


@dataclass(frozen=True)
class Form:
    """A network to train. groups: those that have passports; then: what the plain one becomes afterwards."""

    config: Config
    groups: tuple[int, ...] = ()
    then: str = ""


def forms(**changed: Any) -> dict[str, Form]:
    """By name, what takes longest first. changed: other numbers in all configurations, for a trial."""
    config = Config(**changed)
    return {
        "passports-all": Form(config, (0, 1, 2)),
        "key-images": Form(dataclasses.replace(config, block_size=4, steps=LINEAR)),
        "plain": Form(config, then="key-folded"),
        "passports-last": Form(config, (2,)),
    }


class Training(Run):
    """A run whose loss has the sign losses of passports."""

    def loss(self, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        found = super().loss(z, y)
        for layer in passports(self.model):
            found = found + SIGN_LOSS * layer.sign_loss()
        return found


def network(form: Form, found: data.Data) -> torch.nn.Module:
    """The initial network: passports are what the one without makes of the first two training images.

    Scales and biases learn at the rates of weights and of biases.
    """
    model = build(form.config, found)
    if not form.groups:
        return model
    images = form.config.prepare(found.train.x[:2].permute(0, 3, 1, 2), None)  # type: ignore[union-attr]
    return with_passports_in_groups(model, form.groups, images, (1.0, form.config.bias_lr))  # type: ignore[arg-type]


def folded(plain: Run) -> Run:
    """A plain run with the key of the encrypted form folded into its network."""
    config = dataclasses.replace(plain.config, block_size=4, steps=LINEAR)
    model = fast_folded.protected(plain.model, config, plain.found.channels)
    return Run(config, plain.found, plain.device, plain.bf16, model)


def measure(
    run: Run, folder: Path, budget: Budget, stop: Callable[[], bool] = lambda: False
) -> dict[str, Any]:
    """What a network is worth as it is meant to be used, and to attackers; `folder` keeps what was measured.

    Raises Stopped once `stop` says so.
    """
    scores = Scores(folder / "scores.json", stop)
    test = whole_test(run)
    right = scores.of("right", lambda: [n / len(test) for n in run.right(test, run.cipher, 6)])
    found: dict[str, Any] = {"accuracy": dict(zip(("one_view", "mirrored", "six_views"), right))}
    kinds, forgeries = attacks(run)
    found["random"] = {}
    for name, kind in kinds.items():
        part = images_of(run.found, max(budget.images))
        tried = scores.of(f"random {name}", partial(tries, run, kind, part, budget))
        found["random"][name] = {**summary(tried), "accuracies": tried}
    found["forged"] = []
    for name, attack in forgeries.items():
        for count in budget.images:
            part = images_of(run.found, count)
            score = scores.of(f"{name}, {count} images", partial(timed, attack, run, part, budget))
            found["forged"].append({"attack": name, "images": count, **score})
    if passports(run.model):
        found["signature"] = scored(run)["signature"]
    return found


def timed(attack: Attack, run: Run, part: data.Part, budget: Budget) -> dict[str, float]:
    began = time.monotonic()
    return {**attack(run, part, budget), "seconds": time.monotonic() - began}


def run_form(
    trained: str,
    form: Form,
    runs: Path,
    results: Path,
    found: data.Data,
    budget: Budget,
    *,
    stop: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = print,
    **training: Any,
) -> None:
    """Train a network and measure what it is worth, if no other process does. Raises Stopped."""
    last = form.then or trained
    with claimed(runs, results, last) as folder:
        if folder is None:
            return
        model = network(form, found)
        run = train(form.config, runs / trained, found, model=model, kind=Training, stop=stop,
                    say=lambda said: say(f"{trained}: {said}"), **training)  # fmt: skip

        def write(name: str, run: Run) -> None:
            whole = {
                "name": name,
                "command": f"python -m benchmarks.passports.study --data DIR --only {trained}",
                **{key: run.record[key] for key in ("config", "parameters", "precision", "seconds")},
                "budget": dataclasses.asdict(budget),
                **measure(run, runs / name, budget, stop),
                "environment": environment(found, run.device),
            }
            atomic_write(results / f"{name}.json", (json.dumps(whole, indent=1) + "\n").encode())
            say(f"{name}: done, {100 * whole['accuracy']['one_view']:.2f} %")

        write(trained, run)
        if form.then:
            write(form.then, folded(run))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.passports.study",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="CIFAR-10")
    parser.add_argument("--device", type=torch.device, help="default: cuda if there is one, else cpu")
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/passports"), metavar="DIR", help="checkpoints"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    parser.add_argument("--only", default="", help="only forms with this in their name")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so many")
    trial = parser.add_argument_group("for a trial")
    trial.add_argument("--width", type=int, default=Config.width)
    trial.add_argument("--epochs", type=float, default=Config.epochs)
    trial.add_argument("--train-images", type=int, metavar="N", help="only the first N")
    budget = parser.add_argument_group("what attackers may use", Budget.__doc__)
    for field in dataclasses.fields(Budget):
        several = {"nargs": "+"} if isinstance(field.default, tuple) else {}
        budget.add_argument(
            f"--{field.name.replace('_', '-')}", type=int, default=field.default, metavar="N", **several
        )
    o = parser.parse_args()
    end, signalled = time.monotonic() + 60 * o.minutes, stop_on_signals()
    found = data.load("cifar10", o.data)
    found.train = found.train.some(o.train_images or len(found.train))
    o.results.mkdir(parents=True, exist_ok=True)
    given = {field.name: getattr(o, field.name) for field in dataclasses.fields(Budget)}
    try:
        for name, form in forms(width=o.width, epochs=o.epochs).items():
            if o.only in name:
                run_form(
                    name,
                    form,
                    o.runs,
                    o.results,
                    found,
                    Budget(**{**given, "images": tuple(o.images)}),
                    device=o.device,
                    precision=o.precision,
                    stop=lambda: signalled() or time.monotonic() > end,
                    say=lambda line: print(time.strftime("%H:%M:%S"), line, flush=True),
                )
    except Stopped:
        print("stopped; the same command goes on", flush=True)


if __name__ == "__main__":
    main()
