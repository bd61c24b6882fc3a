"""What the weights of a protected model tell about the key: python -m benchmarks.accuracy.leak RUN ...

The observer has the weights of a BlockEmbedding and knows the scheme and how the model is built, but neither
the key nor an image. RUN is the --out of benchmarks.accuracy.train. A model trained on plain images is
protected first; one that was trained on encrypted images is taken as it is. --archive takes the models with
embedding stems that were trained on encrypted images from what benchmarks.accuracy.grid --bundle writes.

values: for every position, the rows of its table are put in order along their main direction, and each row's
    rank taken for the plain value it stands for, up to reversal, which negative/positive makes anyway: the
    share of rows within 8 of 255 of the truth, and the mean correlation of ranks.
places: where the stem has several tokens a block, every position is taken to come from the part of the plain
    block whose token its weights go to: the share taken rightly. And each position's most similar other
    position by weights: how often it is the same pixel or one beside it in the plain block.
What guessing gives stands beside it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

import blockenc
from benchmarks.accuracy import data, fast
from benchmarks.accuracy.evaluate import load
from benchmarks.accuracy.study import ALL
from benchmarks.accuracy.train import Config, Place, key_set
from blockenc.files import atomic_write
from blockenc.plan import Plan

NEAR = 8  # of 255: an image restored that well is seen


def values(table: np.ndarray, plan: Plan) -> dict[str, float]:
    """What the table [L, values, rank] tells of the value each row stands for."""
    becomes = plan.substitutions()
    near, correlations = [], []
    for p in range(plan.length):
        rows = table[p, becomes[p]].astype(np.float64)  # row n stands for value n; not used
        main = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
        ranks = (main[0][:, 0] * main[1][0]).argsort().argsort()
        truth = np.arange(len(rows))
        near.append(max((abs(r - truth) <= NEAR).mean() for r in (ranks, ranks[::-1])))
        correlations.append(abs(np.corrcoef(ranks, truth)[0, 1]))
    guess = np.mean([abs(i - truth) <= NEAR for i in truth])
    return {
        "rows_within_8": float(np.mean(near)),
        "rows_within_8_guessing": float(guess),
        "rank_correlation": float(np.mean(correlations)),
    }


def places(features: np.ndarray, plan: Plan, unfold: int) -> dict[str, float]:
    """What the weights [D, L, rank] of encrypted positions tell of their places in the plain block."""
    M, C, length = plan.block_size, plan.channels, plan.length
    row, column = plan.source[0] // C // M, plan.source[0] // C % M
    found: dict[str, float] = {}
    if unfold > 1:
        energy = (features.reshape(-1, unfold * unfold, length, features.shape[-1]) ** 2).sum((0, 3))
        part = M // unfold
        truth = (row // part) * unfold + column // part
        found["part_of_the_block"] = float((energy.argmax(0) == truth).mean())
        found["part_of_the_block_guessing"] = 1 / unfold**2
    vectors = features.transpose(1, 0, 2).reshape(length, -1)
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)
    similarity = abs(vectors @ vectors.T)
    np.fill_diagonal(similarity, -1)
    beside = np.maximum(abs(row[:, None] - row), abs(column[:, None] - column)) <= 1
    np.fill_diagonal(beside, False)
    found["neighbour"] = float(beside[np.arange(length), similarity.argmax(1)].mean())
    found["neighbour_guessing"] = float(beside.sum() / (length * (length - 1)))
    return found


def leak(folder: Path, data_folder: Path | None) -> dict[str, Any]:
    """The measures for a run with an embedding stem."""
    record = json.loads((folder / "result.json").read_text())["config"]
    found = data.load(record["dataset"], data_folder, image_size=record["image_size"])
    config, model = load(folder, found, Place(torch.device("cpu")))
    steps = config.steps or ALL
    met = Config(**{**vars(config), "steps": steps})
    cipher = met.cipher(key_set(0))
    assert cipher is not None
    if not config.steps:
        model = blockenc.protect(model, cipher)
    stems = [module for module in model.modules() if isinstance(module, blockenc.nn.BlockEmbedding)]
    if not stems or stems[0].weight is None:
        raise ValueError(f"{folder}: not a model with a factored embedding stem")
    plan = cipher.plan()
    table, weight = (p.detach().float().numpy() for p in (stems[0].table, stems[0].weight))
    how = "protected start" if config.start == "protected" else f"{config.init} start, no key"
    trained = f"encrypted, {how}" if config.steps else "plain, then protected"
    return {
        "run": folder.name,
        "trained": trained,
        "block_size": config.block_size,
        "steps": steps,
        "values": values(table, plan),
        "places": places(weight, plan, config.unfold),
    }


def leaks_of_archive(path: Path) -> list[dict[str, Any]]:
    """The measures for the models of the fast recipe in an archive of weights."""
    found = []
    for name, saved in torch.load(path, map_location="cpu", weights_only=True).items():
        config, weights = fast.Config(**saved["record"]["config"]), saved["weights"]
        cipher = config.cipher()
        if config.stem != "embedding" or cipher is None:
            continue
        table, weight = (weights[f"stem.0.{part}"].float().numpy() for part in ("table", "weight"))
        found.append(
            {
                "run": name,
                "values": values(table, cipher.plan()),
                "places": places(weight, cipher.plan(), config.block_size),  # one token a pixel
            }
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy.leak",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("runs", type=Path, nargs="*", metavar="RUN")
    parser.add_argument("--archive", type=Path, action="append", default=[], help="weights-N.pt")
    parser.add_argument("--data", type=Path, metavar="DIR", help="where the data set is")
    parser.add_argument("--json", type=Path, help="write the results here, too")
    o = parser.parse_args()
    if not o.runs and not o.archive:
        parser.error("expected RUN or --archive")
    measures = [leak(folder, o.data) for folder in o.runs]
    result = {"leak": measures + [found for path in o.archive for found in leaks_of_archive(path)]}
    print(json.dumps(result, indent=1))
    if o.json:
        o.json.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(o.json, (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
