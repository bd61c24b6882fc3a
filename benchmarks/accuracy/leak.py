"""What the weights of a protected model tell about the key: python -m benchmarks.accuracy.leak RUN ...

The observer has the weights of a BlockEmbedding and knows the scheme and how the model is built, but neither
the key nor an image. RUN is the --out of benchmarks.accuracy.train. A model trained on plain images is
protected first; one that was trained on encrypted images is taken as it is. --archive takes the models with
embedding stems that were trained on encrypted images from what benchmarks.accuracy.grid --bundle writes.

What is read of the values and of the places, and what guessing gives, blockenc.attacks.weights says.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

import blockenc
from benchmarks.accuracy import data, fast
from benchmarks.accuracy.evaluate import load
from benchmarks.accuracy.study import ALL
from benchmarks.accuracy.train import Config, Place, key_set
from blockenc.attacks.weights import read_places, read_values
from blockenc.files import atomic_write


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
    table, weight = (p.detach().float().numpy() for p in (stems[0].table, stems[0].weight))
    how = "protected start" if config.start == "protected" else f"{config.init} start, no key"
    trained = f"encrypted, {how}" if config.steps else "plain, then protected"
    return {
        "run": folder.name,
        "trained": trained,
        "block_size": config.block_size,
        "steps": steps,
        "values": read_values(table, cipher.plan()),
        "places": read_places(weight, cipher.plan(), config.unfold),
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
                "values": read_values(table, cipher.plan()),
                "places": read_places(weight, cipher.plan(), config.block_size),  # one token a pixel
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
