"""The peak memory of one row, in a process of its own: python -m benchmarks.protect.memory ROW

ROW is the number of a row in benchmarks.protect.study.CASES. `python -m benchmarks.protect --memory` runs
this for each, so that no row finds memory that another one left.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys

import torch
from torch import nn

import blockenc
from benchmarks.memory import peak
from benchmarks.protect.study import CASES, KEY, LINEAR, MEAN, STD, Case, Normalised, model_of


def of_row(row: int, batch: int) -> dict[str, int]:
    """What `measure` gives, from a process that is started for it."""
    command = [sys.executable, "-m", "benchmarks.protect.memory", str(row), str(batch)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def measure(case: Case, batch: int) -> dict[str, int]:
    """Bytes: of the model's parameters and buffers; and at the peak beyond what was resident before, of
    `blockenc.protect` (the copy that it returns included), and of the second batch through the plain and the
    protected model."""
    model = model_of(case.model)
    cipher = blockenc.Cipher(KEY, case.scheme)
    x = torch.randint(0, 256, (batch, 3, case.side, case.side), dtype=torch.uint8)
    y = cipher.encrypt(x)
    small = nn.Sequential(
        nn.Conv2d(3, 2, 16, 16), nn.Flatten(2)
    )  # so that what is imported and made once is there
    blockenc.protect(small, blockenc.Cipher(KEY, LINEAR), mean=MEAN, std=STD)
    protect = functools.partial(blockenc.protect, model, cipher, mean=MEAN, std=STD, example=x[:1])
    folded, folding = peak(protect)
    forms = functools.partial(Normalised(model), x), functools.partial(Normalised(folded), y)
    with torch.inference_mode():
        for form in forms:
            form()
        plain, locked = (peak(form)[1] for form in forms)
    held = (*model.parameters(), *model.buffers())
    return {
        "model": sum(tensor.numel() * tensor.element_size() for tensor in held),
        "protect": folding,
        "plain": plain,
        "folded": locked,
    }


if __name__ == "__main__":
    row, batch = map(int, sys.argv[1:])
    print(json.dumps(measure(CASES[row], batch)))
