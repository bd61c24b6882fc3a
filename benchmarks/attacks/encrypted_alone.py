"""What encrypted images alone give away, by their number, the steps and the block size.

    python -m benchmarks.attacks.encrypted_alone --data CIFAR --photos PHOTOS

Runs `blockenc.attacks.ciphertext_only` on the first test images of CIFAR-10; the attacker has photos, reduced
to 32 x 32 pixels. Writes benchmarks/attacks/encrypted_alone.json, which `python -m benchmarks.attacks.page`
shows in docs/attacks.md.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from benchmarks import pages
from benchmarks.attacks import data
from benchmarks.speed.report import about
from blockenc import Cipher, Key, Scheme
from blockenc.attacks.ciphertext_only import ciphertext_only
from blockenc.files import atomic_write

RECORD = Path(__file__).with_suffix(".json")
KEY = Key(bytes(range(32)))  # public, so that a run can be repeated
SIZE = 32
BLOCK_SIZES = (2, 4, 8, 16)
STEPS = ("shuffle", "np", "ffx", "shuffle+np", "shuffle+np+ffx")
IMAGES = (30, 100, 1000)


def measure(x: torch.Tensor, photos: torch.Tensor, block_size: int, steps: str) -> dict[str, Any]:
    """One attack: its scores and what it used."""
    scheme = Scheme(block_size, tuple(steps.split("+")))
    found = ciphertext_only(scheme, Cipher(KEY, scheme).encrypt(x), photos, x)
    return {"block_size": block_size, "steps": steps, "images": len(x), **found.to_dict()}


def table(record: dict[str, Any]) -> str:
    """A row of steps and block size; the share of the values that are recovered, by the number of images."""
    found = {(r["steps"], r["block_size"], r["images"]): r for r in record["runs"]}

    def cells(steps: str, m: int) -> list[str]:
        runs = [found.get((steps, m, n)) for n in IMAGES]
        shares = ["not run" if r is None else f"{r['scores']['share']:.3f}" for r in runs]
        last = runs[-1]
        return [steps, str(m), *shares, "not run" if last is None else f"{last['used']['seconds']:.1f}"]

    head = f"steps | M | {' | '.join(f'{n:,} images' for n in IMAGES)} | seconds, {IMAGES[-1]:,} images"
    rows = [cells(steps, m) for steps in STEPS for m in BLOCK_SIZES]
    machine = f"{record['cpu']}, {record['threads']} thread, beside other work, {record['date'][:10]}"
    said = f"{machine}; the attacker's photos: {record['photos']}."
    return "\n".join([pages.table(head, rows), "", said])


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.attacks.encrypted_alone",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="CIFAR-10")
    parser.add_argument(
        "--photos", type=Path, metavar="DIR", help="the attacker's (default: scikit-learn's two)"
    )
    parser.add_argument("--json", type=Path, default=RECORD, metavar="FILE")
    o = parser.parse_args()
    x, _ = data.load(o.data, SIZE, max(IMAGES))
    photos, note = data.load(o.photos, SIZE, 96)
    record = about("python -m benchmarks.attacks.encrypted_alone", threads=torch.get_num_threads())
    record |= {"photos": f"{note} at {SIZE} x {SIZE} pixels", "runs": []}
    for m in BLOCK_SIZES:
        for steps in STEPS:
            for n in IMAGES:
                run = measure(x[:n], photos, m, steps)
                record["runs"].append(run)
                print(
                    m, steps, n, {name: round(score, 3) for name, score in run["scores"].items()}, flush=True
                )
                atomic_write(o.json, (json.dumps(record, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
