"""What a user would pick instead of blockenc, each made as fast as it goes without leaving its form.

A peer is a `Peer` in PEERS: a function that makes the call to be timed. Those that are `exact` return, bit
for bit, what blockenc returns; `measure.py` checks it each time before it measures.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

import blockenc
from benchmarks.speed.rows import MEAN, SCHEMES, STD, Row
from blockenc.backends import native
from blockenc.keys import as_key
from blockenc.plan import Plan
from blockenc.steps import Colour, Ffx, Np, Period, Rotate, Scramble, Shuffle, Step

KEY = bytes(range(32))  # speed does not depend on the key
Call = Callable[[], torch.Tensor]
Change = Callable[[np.ndarray], np.ndarray]


class Case(NamedTuple):
    """A row made real: the images, and where those who can write into a given tensor write."""

    row: Row
    x: torch.Tensor
    out: torch.Tensor

    def cipher(self, backend: str | None = None, **fields: object) -> blockenc.Cipher:
        if self.row.scheme:
            return blockenc.Cipher(KEY, SCHEMES[self.row.scheme](self.row.block_size), backend=backend)
        scheme = {"block_size": self.row.block_size, "steps": self.row.steps, "ffx": self.row.ffx}
        scheme["per_image"] = self.row.per_image
        return blockenc.Cipher(KEY, backend=backend, **{**scheme, **fields})  # type: ignore[arg-type]

    def encrypt(self, cipher: blockenc.Cipher) -> Call:
        """The call of blockenc that the row is about."""
        if self.row.per_image:
            passes = cipher._passes(self.x, False, None, None, range(len(self.x)))
            return lambda: passes.apply(self.x, self.out.dtype, cipher.backend, self.out)
        output = {"mean": MEAN, "std": STD} if self.row.normalises else {}
        if self.row.allocate:
            dtype = getattr(torch, self.row.target)
            return lambda: cipher.encrypt(self.x, dtype=dtype, **output)
        return lambda: cipher.encrypt(self.x, out=self.out, **output)


def to_blocks(x: torch.Tensor, m: int) -> torch.Tensor:
    """[N, C, H, W] to block vectors [N, H/M, W/M, M*M*C]."""
    n, c, h, w = x.shape
    v = x.permute(0, 2, 3, 1).reshape(n, h // m, m, w // m, m, c).permute(0, 1, 3, 2, 4, 5)
    return v.reshape(n, h // m, w // m, m * m * c)


def from_blocks(v: torch.Tensor, m: int) -> torch.Tensor:
    n, rows, columns, length = v.shape
    y = v.reshape(n, rows, columns, m, m, length // m // m).permute(0, 5, 1, 3, 2, 4)
    return y.reshape(n, -1, rows * m, columns * m)


def copy_(case: Case) -> Call:
    copy = torch.empty_like(case.x)
    return lambda: copy.copy_(case.x)


def clone(case: Case) -> Call:
    return lambda: case.x.clone()


def convert(case: Case) -> Call:
    return lambda: case.out.copy_(case.x)


def one_step(case: Case, backend: str | None = None) -> Call:
    return case.encrypt(case.cipher(backend, steps=case.row.steps[:1]))


def chain(case: Case) -> Callable[[torch.Tensor], torch.Tensor]:
    """The published transforms: each cuts the images into blocks, indexes these, puts them together."""
    row, m = case.row, case.row.block_size
    plans = {step: case.cipher(steps=(step,)).plan() for step in row.steps}
    permutation = torch.from_numpy(plans["shuffle"].source[0]).long() if "shuffle" in plans else None
    # Positions, not masks of bools, whose number torch.compile does not know.
    chosen = {"np": np.flatnonzero(plans["np"].flips[0]) if "np" in plans else None}
    chosen["ffx"] = np.flatnonzero(plans["ffx"].table_of[0]) if "ffx" in plans else None
    masks = {name: torch.from_numpy(p) for name, p in chosen.items() if p is not None}
    table = torch.from_numpy(plans["ffx"].tables[0].astype("int64")) if "ffx" in plans else None
    scale = 255.0 if table is None or row.ffx == "byte" else float(table.max())
    target = getattr(torch, row.target)
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))

    def step(name: str, v: torch.Tensor) -> torch.Tensor:
        mask = masks.get(name)
        if name == "shuffle":
            return v[..., permutation]
        if name == "np":  # in place: the rows begin with shuffle, which made a new tensor
            v[..., mask] = (1 if v.is_floating_point() else 255) - v[..., mask]
            return v
        v = (v.float() * 255).long() if v.is_floating_point() else v.long()
        v[..., mask] = table[v[..., mask]]
        return v.float() / scale if target.is_floating_point else v.to(target)

    def run(x: torch.Tensor) -> torch.Tensor:
        # As published, floats become integers in ffx, by truncation; blockenc takes the nearest bytes first.
        bytes_first = x.is_floating_point() and row.ffx == "byte" and "ffx" in row.steps
        y = (x.float() * 255).round().to(torch.uint8) if bytes_first else x
        for name in row.steps:
            y = from_blocks(step(name, to_blocks(y, m)), m)
        if row.normalises:
            y = ((y if y.is_floating_point() else y / 255) - mean) / std
        return y.to(target)

    return run


def eager_chain(case: Case) -> Call:
    return functools.partial(chain(case), case.x)


def compiled_chain(case: Case) -> Call:
    return functools.partial(torch.compile(chain(case), dynamic=False), case.x)


def fused(plan: Plan, dtype: torch.dtype = torch.uint8) -> tuple[torch.Tensor, torch.Tensor]:
    """The gather, int64 [L], and what becomes of every byte at every position, `dtype` [L, 256]."""
    rows = []
    for p in range(plan.length):
        k = np.arange(256)
        k = 255 - k if plan.flips[0, p] % 2 else k
        k = plan.tables[plan.table_of[0, p] - 1][k] if plan.table_of[0, p] else k
        rows.append(plan.output[p % plan.channels][k] if dtype.is_floating_point else k)
    return torch.from_numpy(plan.source[0].astype("int64")), torch.from_numpy(np.stack(rows)).to(dtype)


def fused_of(case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    plan = case.cipher().plan()
    if case.row.normalises:
        plan = plan.with_output(MEAN, STD)
    return fused(plan, getattr(torch, case.row.target))


def compiled_gather(case: Case) -> Call:
    """All steps as one gather and one look-up over the pixels of an image as they lie in memory."""
    source, rows = fused_of(case)
    _, c, h, w = case.x.shape
    last = case.row.layout == "channels_last"

    def flat(image: torch.Tensor) -> torch.Tensor:
        return (image.permute(0, 2, 3, 1) if last else image).reshape(len(image), -1)

    pixels = torch.arange(c * h * w)
    image = pixels.reshape(1, h, w, c).permute(0, 3, 1, 2) if last else pixels.reshape(1, c, h, w)
    blocks = to_blocks(image, case.row.block_size)
    index = flat(from_blocks(blocks[..., source], case.row.block_size))[0]
    positions = torch.arange(len(source)).expand_as(blocks)
    offset = flat(from_blocks(positions, case.row.block_size))[0] * 256
    table = rows.ravel()

    @functools.partial(torch.compile, dynamic=False)
    def gather(x: torch.Tensor) -> torch.Tensor:
        return torch.take(table, flat(x).index_select(1, index) + offset)

    def run() -> torch.Tensor:
        y = gather(case.x)
        return y.reshape(-1, h, w, c).permute(0, 3, 1, 2) if last else y.reshape(case.x.shape)

    return run


def numpy_take(case: Case) -> Call:
    source, rows = (t.numpy() for t in fused_of(case))
    table, offset = rows.ravel(), np.arange(len(source), dtype=np.int32) * 256
    m, x = case.row.block_size, case.x.numpy()
    n, c, h, w = x.shape

    def run() -> torch.Tensor:
        v = x.transpose(0, 2, 3, 1).reshape(n, h // m, m, w // m, m, c).transpose(0, 1, 3, 2, 4, 5)
        v = np.take(v.reshape(-1, len(source)), source, axis=1)
        y = np.take(table, v + offset).reshape(n, h // m, w // m, m, m, c)
        return torch.from_numpy(y.transpose(0, 5, 1, 3, 2, 4).reshape(x.shape))

    return run


def numpy_steps(case: Case, change_of: Callable[..., Change]) -> Call:
    """A scheme of version 2, or with keys of images, step after step on whole batches.

    The secrets are arrays whose first axis has one entry, or one for each image. `change_of` makes of a
    step, its secret and its period what is done to blocks [N, periods, G, l].
    """
    cipher, (n, _, h, w) = case.cipher(), case.x.shape
    images = [str(number).encode() for number in range(n)] if case.row.per_image else [None]
    steps, key = cipher.scheme.bound_steps, as_key(KEY)
    periods, infos = cipher.scheme.periods(h, w), cipher.scheme.infos(h, w, images)
    secrets = [step.draw(key.member(step.kind), *given) for step, *given in zip(steps, infos, periods)]
    changes = [change_of(*given) for given in zip(steps, secrets, periods)]

    def run() -> torch.Tensor:
        y = case.x.numpy()
        for period, change in zip(periods, changes):
            b, c, rows, columns = period
            down, across = h // (rows * b), w // (columns * b)  # periods of an image
            shape = n, c, down, rows, b, across, columns, b
            v = y.reshape(shape).transpose(0, 2, 5, 3, 6, 4, 7, 1)
            v = change(v.reshape(n, down * across, rows * columns, period.length))
            v = v.reshape(n, down, across, rows, columns, b, b, c).transpose(0, 7, 1, 3, 5, 2, 4, 6)
            y = v.reshape(n, c, h, w)
        return torch.from_numpy(y)

    return run


def block_by_block(step: Step, secret: Any, period: Period) -> Change:
    """What a step does to blocks [N, periods, G, l], as the published programs write it: a loop over the
    blocks of a period, and over the images where each has keys of its own, with an index in its middle.
    """
    if isinstance(step, Scramble):
        return numpy_step(step, secret, period)
    one = period._replace(rows=1, columns=1)
    arrays = secret if isinstance(step, Ffx) else (secret,)
    keys = len(arrays[0])

    def of(key: int, block: int) -> Change:
        part = [a[key : key + 1, block : block + 1] for a in arrays[:1]] + [
            a[key : key + 1] for a in arrays[1:]
        ]
        return numpy_step(step, part if isinstance(step, Ffx) else part[0], one)

    changes = [[of(key, block) for block in range(period.blocks)] for key in range(keys)]

    def run(v: np.ndarray) -> np.ndarray:
        y = np.empty_like(v)
        for key, images in enumerate(
            [slice(None)] if keys == 1 else [slice(n, n + 1) for n in range(len(v))]
        ):
            for block in range(period.blocks):
                place = images, slice(None), slice(block, block + 1)
                y[place] = changes[key][block](v[place])
        return y

    return run


def numpy_step(step: Step, secret: Any, period: Period) -> Change:
    """What a step does to blocks [N, periods, G, l]."""
    b, c = period.block_size, period.channels

    def masked(mask: np.ndarray, bits: int) -> np.ndarray:
        return (mask * np.uint8(bits)).reshape(len(mask), 1, period.blocks, -1)

    if isinstance(step, Scramble):
        return lambda v: np.take(v, secret[0], axis=2)
    if isinstance(step, Np) and step.cells == "nibble":
        low, high = np.split(secret, 2, axis=-1)
        bits = masked(low, 15) | masked(high, 240)
        return lambda v: v ^ bits
    if isinstance(step, Np):
        bits = masked(secret, 255)
        return lambda v: v ^ bits
    if isinstance(step, Ffx):
        masks, tables = secret[0][:, None], secret[1].astype(np.uint8)
        which = np.arange(len(tables))[:, None, None, None]
        return lambda v: np.where(masks, tables[which, v], v)
    if isinstance(step, Colour):
        orders = np.array(list(itertools.permutations(range(c))))[secret[0]]  # [G, C], of whole blocks
        source = (np.arange(b * b)[:, None] * c + orders[:, None]).reshape(1, 1, period.blocks, -1)
        return lambda v: np.take_along_axis(v, source, axis=3)
    if isinstance(step, Rotate):
        place = np.arange(period.length).reshape(b, b, c)
        turned = [np.rot90(place, d % 4)[:, :: 1 if d < 4 else -1].ravel() for d in range(8)]
        source = np.array(turned)[secret[0]][None, None]
        return lambda v: np.take_along_axis(v, source, axis=3)
    assert isinstance(step, Shuffle)
    if len(secret) * period.blocks == 1:  # one permutation for all blocks, which take is quicker with
        move = functools.partial(np.take, indices=secret.ravel(), axis=3)
    else:
        move = functools.partial(np.take_along_axis, indices=secret[:, None], axis=3)
    if step.cells == "byte":
        return move

    def move_nibbles(v: np.ndarray) -> np.ndarray:
        low, high = np.split(move(np.concatenate([v & 15, v >> 4], axis=3)), 2, axis=3)
        return low | high << 4

    return move_nibbles


def numpy(case: Case) -> Call:
    version_2 = case.row.scheme or case.row.per_image
    return numpy_steps(case, numpy_step) if version_2 else numpy_take(case)


def loops(case: Case) -> Call:
    return numpy_steps(case, block_by_block)


def whole_image_index(case: Case) -> Call:
    """A permutation of all values of an image, and an exclusive or.

    What becomes of zeros is the mask, and what becomes of the bits of the values' numbers is the permutation.
    """
    cipher, shape = case.cipher(), case.x.shape[1:]
    mask = cipher.encrypt(torch.zeros(shape, dtype=torch.uint8))
    number, index = torch.arange(mask.numel()).reshape(shape), torch.zeros(mask.numel(), dtype=torch.int64)
    for bit in range(mask.numel().bit_length()):
        moved = cipher.encrypt((number >> bit & 1).to(torch.uint8) * 255) ^ mask
        index |= (moved.flatten() > 0).long() << bit
    return lambda: case.x.flatten(1)[:, index].bitwise_xor_(mask.flatten()).view(case.x.shape)


def opencv(case: Case) -> Call:
    """remap and LUT, image by image.

    cv2.remap moves whole pixels, so it cannot mix the channels of a colour image. It can those of the
    same memory taken as one grey picture of C*H x W (channels_last: H x W*C), with a map to the nearest
    pixel. cv2.LUT has one table a channel, so the masks are an XOR before it and a masked copy after it.
    """
    import cv2

    plan = case.cipher().plan()
    m, last = case.row.block_size, case.row.layout == "channels_last"
    _, c, h, w = case.x.shape
    size = (h, w * c) if last else (c * h, w)

    def picture(values: torch.Tensor) -> np.ndarray:
        image = from_blocks(values, m)[0]
        return (image.permute(1, 2, 0) if last else image).reshape(size).contiguous().numpy()

    def everywhere(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array.astype("int64")).expand(1, h // m, w // m, -1)

    pixels = torch.arange(c * h * w)
    image = pixels.reshape(1, h, w, c).permute(0, 3, 1, 2) if last else pixels.reshape(1, c, h, w)
    index = picture(to_blocks(image, m)[..., torch.from_numpy(plan.source[0]).long()])
    where = np.stack([index % size[1], index // size[1]], axis=-1).astype(np.int16)
    flips = picture(everywhere(plan.flips[0] % 2 * 255)).astype(np.uint8)
    mask = picture(everywhere(plan.table_of[0])).astype(np.uint8)
    table = plan.tables[0].astype(np.uint8) if len(plan.tables) else None
    out = torch.empty_like(case.x)
    pairs = [
        tuple((t.permute(1, 2, 0) if last else t).reshape(size).numpy() for t in pair)
        for pair in zip(case.x, out)
    ]

    def run() -> torch.Tensor:
        cv2.setNumThreads(torch.get_num_threads())
        for image, result in pairs:
            cv2.remap(image, where, None, cv2.INTER_NEAREST, dst=result)
            cv2.bitwise_xor(result, flips, dst=result)
            if table is not None:
                cv2.copyTo(cv2.LUT(result, table), mask, result)
        return out

    return run


def torchvision(case: Case) -> Call:
    from torchvision.transforms import v2

    dtype = getattr(torch, case.row.target)
    transform = v2.Compose([v2.ToDtype(dtype, scale=True), v2.Normalize(MEAN, STD)])
    return lambda: transform(case.x)


def installed(package: str) -> str:
    return "" if importlib.util.find_spec(package) else f"{package} is not installed"


def always(row: Row) -> str:
    return ""


def from_bytes(row: Row) -> str:
    return "" if row.source == "uint8" else "takes uint8 only: its tables have 256 entries"


class Peer(NamedTuple):
    make: Callable[[Case], Call]
    what: str
    available: Callable[[Row], str] = always  # why it cannot do a row; "" if it can
    exact: bool = True  # gives what blockenc gives
    slow: bool = True  # is measured on a part of a large batch
    version_2: bool = False  # also for rows of schemes that need it, or with keys of images

    def missing(self, row: Row) -> str:
        """Why it cannot do a row; "" if it can."""
        if (row.scheme or row.per_image) and not self.version_2:
            return "treats all blocks alike"
        return self.available(row)


PEERS = {
    "copy_": Peer(copy_, "Tensor.copy_ of the input: the floor", exact=False, slow=False, version_2=True),
    "whole-image index": Peer(
        whole_image_index,
        "PyTorch's index with a permutation of all values of an image, and exclusive or",
        lambda row: (
            ""
            if row.scheme in ("scramble", "ETC", "PE", "VIT")
            else "the scheme is not moves and negatives of bytes, alike in all images"
        ),
        version_2=True,
    ),
    "clone": Peer(
        clone,
        "Tensor.clone: a copy into new memory",
        lambda row: "" if row.allocate else "the row's output is given",
        exact=False,
        slow=False,
    ),
    "convert": Peer(
        convert,
        "Tensor.copy_ of the input into the output's type",
        lambda row: "" if row.source != row.target else "nothing to convert",
        exact=False,
        slow=False,
    ),
    "one step": Peer(
        one_step,
        "blockenc with the first step alone",
        lambda row: "" if len(row.steps) > 1 else "the row has one step",
        exact=False,
        slow=False,
    ),
    "one step (AVX2)": Peer(
        functools.partial(one_step, backend="native/avx2"),
        "the same on AVX2",
        lambda row: (
            "the row has one step"
            if len(row.steps) < 2
            else "this processor or build has no AVX2" * (not native.levels().get("avx2"))
        ),
        exact=False,
        slow=False,
    ),
    "torchvision": Peer(
        torchvision,
        "v2.ToDtype and v2.Normalize: no encryption",
        lambda row: installed("torchvision") if row.normalises else "is for uint8 to normalised floats",
        exact=False,
        slow=False,
    ),
    "OpenCV": Peer(
        opencv,
        "remap, XOR, LUT and masked copy of each image as a grey picture",
        lambda row: (
            installed("cv2")
            if row.source == row.target == "uint8" and row.ffx == "byte"
            else "LUT gives uint8 for uint8"
        ),
    ),
    "NumPy": Peer(
        numpy,
        "reshape, transpose, take, and a look-up by take; for schemes of version 2 step by step",
        lambda row: from_bytes(row) or "NumPy has no bfloat16" * (row.target == "bfloat16"),
        version_2=True,
    ),
    "loops": Peer(
        loops,
        "the published programs of the family: NumPy, step by step, in a loop over the blocks of a period",
        lambda row: "" if row.scheme or row.per_image else "is for schemes of version 2 and keys of images",
        version_2=True,
    ),
    "eager chain": Peer(eager_chain, "the published composition in PyTorch, step by step"),
    "compiled chain": Peer(compiled_chain, "torch.compile of the same"),
    "compiled gather": Peer(
        compiled_gather, "torch.compile of one index_select and one table look-up", from_bytes
    ),
}
