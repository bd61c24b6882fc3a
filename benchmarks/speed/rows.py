"""What is measured: one row is one batch under one scheme; the budgets are statements about rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

from blockenc import Scheme, schemes
from blockenc.steps import Scramble

STEPS = ("shuffle", "np", "ffx")
FLOATS = ("float32", "float16", "bfloat16")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZES = {"CIFAR": (32, 32), "ImageNet": (224, 224), "4K": (2160, 3840)}
BLOCK_SIZES = (2, 4, 8, 16, 32, 14)
BATCHES = {"CIFAR": (1, 16, 128, 1024), "ImageNet": (1, 16, 128, 1024), "4K": (1, 4)}


# Schemes that need version 2, by block size: the presets, and block scrambling alone.
SCHEMES: dict[str, Callable[[int], Scheme]] = {
    "scramble": lambda m: Scheme(m, [Scramble(period="image")]),
    "ETC": lambda m: schemes.ETC(block_size=m),
    "LE": lambda m: schemes.LE(block_size=m),
    "ELE": lambda m: schemes.ELE(block_size=m),
    "PE": lambda m: schemes.PE(),
    "VIT": lambda m: schemes.VIT(block_size=m),
}


@dataclasses.dataclass(frozen=True)
class Row:
    """A batch of 3-channel images, the scheme, and what comes out. Integers come out normalised as floats."""

    size: str
    batch: int
    block_size: int = 4
    scheme: str = ""  # one of SCHEMES, in the place of `steps` and `ffx`
    per_image: bool = False  # every image has keys of its own, whose plans are at hand
    steps: tuple[str, ...] = STEPS
    ffx: str = "byte"
    source: str = "uint8"
    target: str = "uint8"
    layout: str = "planar"
    threads: int | None = None  # None: as many as the report is told
    allocate: bool = False  # the call makes its output tensor, as a user's does; else it is given one

    @property
    def name(self) -> str:
        parts = [f"{self.size} {self.batch}", f"M = {self.block_size}"]
        parts += [self.scheme] * bool(self.scheme)
        parts += ["keys of images"] * self.per_image
        parts += ["+".join(self.steps)] * (self.steps != STEPS)
        parts += ["decimal"] * (self.ffx != "byte")
        parts += [f"from {self.source}"] * (self.source != "uint8")
        parts += [f"to {'normalised ' * self.normalises}{self.target}"] * (self.target != self.source)
        parts += [self.layout] * (self.layout != "planar")
        parts += [f"{self.threads} thread"] * (self.threads is not None)
        parts += ["allocating"] * self.allocate
        return ", ".join(parts)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (self.batch, 3, *SIZES[self.size])

    @property
    def normalises(self) -> bool:
        return self.source == "uint8" and self.target in FLOATS and self.ffx == "byte"

    @property
    def fits(self) -> bool:
        return all(side % self.block_size == 0 for side in SIZES[self.size])


class Budget(NamedTuple):
    """What one row must show of one contender: `measure` of `mine` (and of `against`) by `limit`.

    measure: "speed" (bytes a second of mine over against, at least), "cost" (its inverse, at most),
        "us" (a call, at most), "GB/s" (at least), "ms" (at most).
    row: None for what is not a batch (the import).
    """

    what: str
    row: Row | None
    mine: str
    against: str | None
    measure: str
    limit: float

    @property
    def text(self) -> str:
        return {"speed": "≥ {}", "cost": "≤ {}", "us": "≤ {} us", "GB/s": "≥ {} GB/s", "ms": "≤ {} ms"}[
            self.measure
        ].format(self.limit)

    def met(self, value: float) -> bool:
        return value >= self.limit if self.measure in ("speed", "GB/s") else value <= self.limit


# Names of contenders (measure.contenders) and of peers (peers.PEERS). "native" is the fastest level.
IMAGENET = {m: Row("ImageNet", 1024, m) for m in BLOCK_SIZES}
FLOAT_ROW = Row("ImageNet", 256, target="float32")
CIFAR_ROW = Row("CIFAR", 128, allocate=True)
HALF_ROWS = [Row("ImageNet", 256, source=dtype, target=dtype) for dtype in ("float16", "bfloat16")]
ONE_THREAD_ROW = Row("ImageNet", 1024, threads=1)
# Rows of schemes that need version 2, with the limits of AVX-512 and AVX2.
VERSION_2 = [
    (Row("ImageNet", 256, 16, "scramble"), 0.8, 0.7),
    (Row("ImageNet", 256, 16, "ETC"), 0.6, 0.4),
    (Row("ImageNet", 256, 8, "ETC"), 0.6, 0.4),
    (Row("ImageNet", 256, 4, "LE"), 0.6, 0.4),
    (Row("ImageNet", 256, 1, "PE"), 0.8, 0.7),
    (Row("ImageNet", 256, 4, "ELE"), 0.4, 0.3),
    (Row("ImageNet", 256, 4, per_image=True), 0.4, 0.3),
]
AVX512_LIMITS = {2: 0.95, 4: 0.95, 8: 0.95, 16: 0.75, 32: 0.7, 14: 0.7}
AVX2_LIMITS = {2: 0.75, 4: 0.75, 8: 0.75, 16: 0.5, 32: 0.5, 14: 0.5}
BUDGETS = [
    *[
        Budget(f"AVX-512 against copy_, M = {m}", IMAGENET[m], "native/avx512_vbmi", "copy_", "speed", limit)
        for m, limit in AVX512_LIMITS.items()
    ],
    *[
        Budget(f"AVX2 against copy_, M = {m}", IMAGENET[m], "native/avx2", "copy_", "speed", limit)
        for m, limit in AVX2_LIMITS.items()
    ],
    *[
        Budget(f"AVX2 against copy_, from {row.source}", row, "native/avx2", "copy_", "speed", 0.4)
        for row in HALF_ROWS
    ],
    *[
        Budget(f"{level} against copy_, {row.name.partition(', ')[2]}", row, name, "copy_", "speed", limit)
        for row, *limits in VERSION_2
        for level, name, limit in zip(("AVX-512", "AVX2"), ("native/avx512_vbmi", "native/avx2"), limits)
    ],
    Budget("cost of 3 steps against the shuffle alone", IMAGENET[4], "native", "one step", "cost", 1.1),
    Budget(
        "cost of 3 steps against the shuffle alone, AVX2",
        IMAGENET[4],
        "native/avx2",
        "one step (AVX2)",
        "cost",
        1.25,
    ),
    Budget(
        "to normalised float32 against torchvision, which does not encrypt",
        FLOAT_ROW,
        "native",
        "torchvision",
        "speed",
        5,
    ),
    Budget(
        "to normalised float32 against torchvision, AVX2", FLOAT_ROW, "native/avx2", "torchvision", "speed", 8
    ),
    Budget("a call on a CIFAR batch, AVX-512", CIFAR_ROW, "native/avx512_vbmi", None, "us", 45),
    Budget("a call on a CIFAR batch, AVX2", CIFAR_ROW, "native/avx2", None, "us", 60),
    Budget("against the published eager chain", IMAGENET[4], "native", "eager chain", "speed", 200),
    Budget(
        "against torch.compile of the fused gather", IMAGENET[4], "native", "compiled gather", "speed", 30
    ),
    Budget("numba, one thread", ONE_THREAD_ROW, "numba", None, "GB/s", 1.5),
    Budget("portable, one thread", ONE_THREAD_ROW, "native/portable", None, "GB/s", 1.5),
    Budget("import blockenc beyond import torch", None, "import", None, "ms", 50),
]


# Without a budget: what the system takes for a large new output, and images that are floats already.
ALSO_MEASURED = [
    Row("ImageNet", 1024, allocate=True),
    Row("ImageNet", 256, 16, "VIT"),
    *[Row("ImageNet", 256, source=dtype, target=dtype) for dtype in FLOATS],
]


def report_rows() -> list[Row]:
    rows = [budget.row for budget in BUDGETS if budget.row is not None]
    return list(dict.fromkeys([*rows, *ALSO_MEASURED]))


def grid() -> list[Row]:
    """Every size and layout, and in each every batch, block size, number of steps and type in turn."""
    rows = []
    for size, batches in BATCHES.items():
        typical = batches[-2]
        for layout in ("planar", "channels_last"):
            rows += [Row(size, batch, layout=layout) for batch in batches]
            rows += [Row(size, typical, m, layout=layout) for m in BLOCK_SIZES]
            rows += [Row(size, typical, steps=STEPS[:n], layout=layout) for n in (1, 2, 3)]
            rows += [Row(size, typical, target=target, layout=layout) for target in FLOATS]
            rows += [Row(size, typical, source=t, target=t, layout=layout) for t in FLOATS]
            rows += [
                Row(size, typical, ffx="decimal", source=source, target="float32", layout=layout)
                for source in ("uint8", "float32")
            ]
    return [row for row in dict.fromkeys(rows) if row.fits]


def scaling_batches() -> list[int]:
    """Of 224x224 images: 1 MB to 600 MB, each about twice the one before."""
    return [7, *(2**k for k in range(4, 13))]
