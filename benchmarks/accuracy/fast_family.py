"""The published schemes in the fast recipe, beside what was published of them: rows, and their table.

Each of blockenc's presets is tried with the network whose first layer knows nothing of blocks, with a linear
map of each block before it, and with a ConvMixer and a ViT whose patches are the blocks. Blocks have 4 x 4
pixels, as in the published code of LE, ELE and EtC for CIFAR (those of ETC and VIT have 16 x 16 in images of
224 x 224). Images are augmented and then encrypted. They are never reduced, as the keys of most presets
belong to one size, so that a network has one plain row for all presets.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import pages
from benchmarks.accuracy.fast import RECIPES, WHOLE_SIZE, Config

PREFIX = "family-"
NETWORKS: dict[str, dict[str, Any]] = {
    "conv": WHOLE_SIZE,
    "block": {"stem": "block", **WHOLE_SIZE},
    "convmixer": RECIPES["convmixer"],
    "vit": RECIPES["vit"],
}
# Networks and presets, the most telling first. A network's plain row comes before its others.
MAIN = (
    ("conv", ("", "LE", "PE", "ETC", "ELE")),
    ("vit", ("", "VIT")),
    ("convmixer", ("", "LE")),
)
FURTHER = (
    ("vit", ("LE", "ETC")),
    ("convmixer", ("ETC", "VIT")),
    ("conv", ("VIT",)),
    ("block", ("", "LE")),
    ("vit", ("PE", "ELE")),
    ("convmixer", ("PE", "ELE")),
    ("block", ("ETC", "VIT")),
)


# Networks in papers on CIFAR-10: of Madono and others (AAAI-20 workshop, arXiv 2001.07761), without and with
# adaptation networks, and of Sirichotedumrong and others (ICIP 2019, arXiv 1905.01827).
SHAKE = "Shake-PyramidNet-110, 305 epochs (arXiv 2001.07761)"
FOR_LE = "the same behind an adaptation network for LE (arXiv 2001.07761)"
FOR_ELE = "the same behind an adaptation network for ELE (arXiv 2001.07761)"
BEFORE = "ResNet-18, augmented before encryption (arXiv 1905.01827)"
AFTER = "ResNet-18, augmented after encryption (arXiv 1905.01827)"
# Accuracy without encryption and with it, %.
PUBLISHED: dict[str, dict[str, tuple[float, float]]] = {
    "LE": {SHAKE: (96.70, 94.94), FOR_LE: (95.64, 94.49), BEFORE: (92.98, 85.84), AFTER: (92.98, 56.41)},
    "PE": {BEFORE: (92.98, 92.94), AFTER: (92.98, 85.15)},
    "ETC": {SHAKE: (96.70, 85.94), FOR_ELE: (85.32, 89.09), AFTER: (92.98, 69.03)},
    "ELE": {SHAKE: (96.70, 67.10), FOR_ELE: (85.32, 83.06)},
    "VIT": {},
}


def rows() -> dict[str, Config]:
    """Names and configurations, the most telling rows first."""
    found: dict[str, Config] = {}

    def add(network: str, preset: str, seed: int, block_size: int = 4) -> None:
        said = f"{preset or 'plain'}-m{block_size}"
        config = Config(block_size=block_size, preset=preset, seed=seed, **NETWORKS[network])
        found[f"{PREFIX}{network}-{said}-seed{seed}"] = config

    for networks, seed in ((MAIN, 0), (FURTHER, 0), (MAIN, 1)):
        for network, presets in networks:
            for preset in presets:
                add(network, preset, seed)
    add("conv", "ETC", 0, block_size=8)
    return found


Results = list[dict[str, Any]]


def accuracy(results: Results) -> float:
    """In one view, %; the mean of the seeds."""
    scores = [found["evaluation"] for found in results]
    return 100 * statistics.fmean(s.get("right_key", s.get("plain"))["one_view"] for s in scores)


def weakest_member(results: Results) -> str:
    """The member of the key that is missed least, and the accuracy where it alone is wrong, %."""
    means = {
        kind: 100
        * statistics.fmean(found["evaluation"]["one_wrong_member"][kind]["mean"] for found in results)
        for kind in results[0]["evaluation"]["one_wrong_member"]
    }
    kind = max(means, key=means.__getitem__)
    return f"{means[kind]:.1f} ({kind})"


def _ours(network: str, config: Config, results: Results, plain: Results) -> Iterator[str]:
    """The cells of a row behind the preset's name."""
    scheme = config.scheme()
    assert scheme is not None
    yield str(scheme.block_size)
    yield network
    yield str(len(results))
    yield f"{accuracy(plain):.2f}" if plain else "not run"
    if not results:
        yield from ("not run", *[""] * 4)
        return
    yield f"{accuracy(results):.2f}"
    yield f"{accuracy(plain) - accuracy(results):.2f}" if plain else ""
    wrong = [100 * one for found in results for one in found["evaluation"]["wrong_keys"]["accuracies"]]
    yield f"{statistics.fmean(wrong):.1f} ({min(wrong):.1f} to {max(wrong):.1f})"
    yield weakest_member(results)
    yield f"{100 * statistics.fmean(found['evaluation']['plain_images'] for found in results):.1f}"


def table(folder: Path) -> str:
    """The rows by preset in Markdown, behind what was published; of several seeds the mean."""
    groups: dict[str, Results] = {}
    configs: dict[str, Config] = {}
    for name, config in rows().items():
        group = name.rsplit("-seed", 1)[0]
        configs[group] = config
        path = folder / f"{name}.json"
        groups.setdefault(group, []).extend([json.loads(path.read_text())] if path.exists() else [])

    def lines() -> Iterator[list[str]]:
        for preset, published in PUBLISHED.items():
            for network, (plain, encrypted) in published.items():
                figures = [f"{figure:.2f}" for figure in (plain, encrypted, plain - encrypted)]
                yield [preset, "", network, "", *figures, "", "", ""]
            for group, config in configs.items():
                if config.preset == preset:
                    network = group.removeprefix(PREFIX).split("-")[0]
                    of_plain = groups[f"{PREFIX}{network}-plain-m4"]
                    yield [preset, *_ours(network, config, groups[group], of_plain)]

    head = (
        "scheme | M | network | seeds | plain, % | right key, % | below plain, points | "
        "wrong keys, %: mean (range) | one wrong member, % (the one that is missed least) | plain images, %"
    )
    return pages.table(head, lines())
