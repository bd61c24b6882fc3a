"""What tests/native_checks/check.cpp is fed: plans, images and, from the oracle, what has to come out."""

from __future__ import annotations

import dataclasses
import functools
import random
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

import blockenc
from blockenc.backends import aten
from blockenc.backends.native import TYPES
from blockenc.plan import DECIMAL_VALUES, Plan
from blockenc.plan.compilation import Compiler, compile_plan
from blockenc.plan.packing import HEADER_BYTES
from blockenc.reference import version2
from tests import oracle, plans, schemes

BLOCK_SIZES = (1, 2, 3, 4, 5, 7, 8, 14, 16, 32, 64)
MEAN, STD = (0.485, 0.456, 0.406, 0.5), (0.229, 0.224, 0.225, 0.25)
ORDERS = (
    ("shuffle", "np", "ffx"),
    ("np",),
    ("ffx",),
    ("shuffle",),
    ("ffx", "np", "shuffle", "ffx"),
    ("ffx", "shuffle", "np", "ffx", "shuffle", "ffx"),  # seven substitution tables
)
DECIMAL_ORDERS = (("shuffle", "np", "ffx"), ("ffx", "shuffle"), ("np", "ffx"))
GUARD = 64  # bytes on either side of an output; a multiple of 16, so that its alignment is the memory's

Shape = tuple[int, int, int, int]


def strides(layout: str, shape: Shape) -> tuple[int, ...]:
    """Strides of N, C, H, W in elements. Only inputs may be flipped or expanded."""
    _, c, h, w = shape
    row = w + 5
    return {
        "planar": (c * h * w, h * w, w, 1),
        "padded": (c * h * row + 3, h * row + 1, row, 1),
        "interleaved": (h * w * c, 1, w * c, c),
        "padded interleaved": (h * (w * c + 7), 1, w * c + 7, c),
        "of four channels": (h * w * (c + 1), 1, w * (c + 1), c + 1),
        "every other": (2 * c * h * w, 2 * h * w, 2 * w, 2),
        "transposed": (c * h * w, h * w, 1, h),
        "rows of channels": (c * h * w, w, c * w, 1),
        "flipped": (-c * h * w, h * w, -w, 1),
        "mirrored": (c * h * w, -h * w, w, -1),
        "expanded": (0, 0, w, 1),
    }[layout]


LAYOUTS = ("planar", "interleaved", "padded", "padded interleaved", "of four channels", "every other")
LAYOUTS += ("transposed", "rows of channels")
INPUT_LAYOUTS = (*LAYOUTS, "flipped", "mirrored", "expanded")


def memory(x: torch.Tensor, stride: Sequence[int], guard: int = 0) -> tuple[np.ndarray, np.ndarray, int]:
    """x in memory of its own: the bytes, which of them are x's, and the offset of its first element.

    Spans the elements and `guard` bytes on either side; behind, 3 items more, so that the memory is aligned
    in other ways where it ends at a hole than elsewhere. Bytes that are not x's are random.
    """
    reach = [(size - 1) * s for size, s in zip(x.shape, stride)] if x.numel() else [0]
    low, high = sum(min(r, 0) for r in reach), sum(max(r, 0) for r in reach)
    item = x.element_size()
    span = (high - low + 1) * item if x.numel() else 0
    noise = np.random.default_rng(span)
    behind = guard + 3 * item if guard else 0
    data = noise.integers(0, 256, guard + span + behind, dtype=np.uint8)
    mine = np.zeros(data.shape, bool)
    base = guard - low * item
    values = x.reshape(-1).view(torch.uint8).numpy().reshape(*x.shape, item)
    byte_strides = (*(s * item for s in stride), 1)
    for array, content in ((data, values), (mine, True)):
        window = array[base:]
        if x.numel():
            placed = np.lib.stride_tricks.as_strided(window, values.shape, byte_strides)
            placed[...] = content
    return data, mine, base


@dataclasses.dataclass
class Case:
    name: str
    x: torch.Tensor
    want: torch.Tensor
    plan: Plan
    layout: str
    out_layout: str
    guard: int = GUARD
    refused: bool = False
    packed: np.ndarray | None = None  # in the place of the plan's own
    image: bool = False  # three numbers for a shape, where the batch is one

    def encoded(self) -> bytes:
        shape = tuple(self.x.shape)
        stride, out_stride = strides(self.layout, shape), strides(self.out_layout, shape)
        data, _, base = memory(self.x, stride)
        after, mine, out_base = memory(self.want, out_stride, self.guard)
        before = np.where(mine, ~after, after)
        leading = 1 if self.image else 0
        packed = self.plan.packed if self.packed is None else self.packed
        types = TYPES[self.x.dtype], TYPES[self.want.dtype]
        numbers = (self.refused, *types, base, out_base)
        lists = [values[leading:] for values in (shape, stride, out_stride)]
        parts = [_bytes(f"{self.name}, {self.layout} to {self.out_layout}, {shape}".encode())]
        parts += [_numbers(numbers), *(_numbers((4 - leading, *values)) for values in lists)]
        parts += map(_bytes, (packed, data, before if not self.refused else after, after))
        return b"".join(parts)


def _numbers(values: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(values)}q", *values)


def _bytes(data: bytes | np.ndarray) -> bytes:
    content = data if isinstance(data, bytes) else data.tobytes()
    return _numbers((len(content),)) + content


@functools.cache
def _plan(scheme: blockenc.Scheme, decrypt: bool) -> Plan:
    return compile_plan(scheme, oracle.KEY, decrypt=decrypt)


def make(
    shape: Shape,
    layout: str,
    out_layout: str,
    *,
    block_size: int,
    steps: tuple[str, ...] = ORDERS[0],
    ffx: str = "byte",
    decrypt: bool = False,
    dtype: torch.dtype = torch.uint8,
    result: torch.dtype = torch.uint8,
    normalised: bool = False,
    **fields,
) -> Case:
    """A random image batch in these layouts, and what the oracle makes of it."""
    channels = shape[1]
    scheme = blockenc.Scheme(block_size=block_size, steps=steps, channels=channels, ffx=ffx)
    secrets = oracle.secrets(steps, block_size, channels, ffx)
    x = oracle.image(shape, dtype, seed=block_size)
    if dtype == torch.uint16:
        x = (x.int() * 259 % 65536).to(torch.uint16)  # also values that no encryption gives
    if dtype.is_floating_point and x.numel() > 8 and ffx == "decimal":
        special = [float("nan"), float("inf"), -float("inf"), -0.0, 2.0, -3.0, 1e-45, 1.0]
        x.view(-1)[-8:] = torch.tensor(special).to(dtype)
    if layout == "expanded":
        x = x[:1, :1].expand(shape)
    mean, std = (MEAN[:channels], STD[:channels]) if normalised else (None, None)
    want = oracle.expected(
        x, secrets, block_size, decrypt=decrypt, ffx=ffx, dtype=result, mean=mean, std=std
    ).contiguous()
    plan = _plan(scheme, decrypt)
    if normalised:
        plan = plan.with_output(mean, std)
    types = f"{dtype} to {result}{' normalised' * normalised}".replace("torch.", "")
    name = f"{ffx} {'decrypt' if decrypt else 'encrypt'} {'+'.join(steps)}, {types}, M={block_size}"
    return Case(name, x, want, plan, layout, out_layout, **fields)


def _shape(draw: random.Random, block_size: int, channels: int, most: int) -> Shape:
    """A batch of about `most` values; half of the widths are whole vectors, the others as they come."""
    most //= channels * block_size * block_size
    columns = draw.choice((1, 2, 3, 5, 7, 64 // block_size, 192 // block_size, 48 // block_size))
    columns = max(1, min(columns, most))
    n = draw.choice((1, 2, 3))
    rows = max(1, min(draw.choice((1, 2, 5)), most // columns // n))
    return n, channels, rows * block_size, columns * block_size


def small(most: int = 6000) -> Iterator[Case]:
    """Every block size, number of channels, layout, pair of value types; the rest is drawn, always alike."""
    draw = random.Random(0)
    for block_size in BLOCK_SIZES:
        for channels in (1, 2, 3, 4):
            orders = ORDERS[: 6 if channels == 3 else 4]  # the schedules of the last take long
            for n, layout in enumerate(INPUT_LAYOUTS):
                alike = layout in LAYOUTS and n % 4 < 3
                yield make(
                    _shape(draw, block_size, channels, most),
                    layout,
                    layout if alike else draw.choice(LAYOUTS),
                    block_size=block_size,
                    steps=orders[(n + channels) % len(orders)],
                    decrypt=draw.random() < 0.3,
                    guard=GUARD + draw.choice((0, 0, 1, 7)),
                )
    yield from _value_types(draw, most)
    yield from _version_2(draw)
    yield from _drawn(draw)
    # Lanes with unused items, in chunks of several rows of blocks; a row's tiles in one set of groups or two.
    yield make((2, 3, 70, 224), "planar", "planar", block_size=14)
    yield make((1, 3, 84, 252), "planar", "padded", block_size=14)
    yield make((2, 1, 63, 342), "padded", "planar", block_size=9)
    for block_size in (1, 4):  # an image alone; no image
        yield make((1, 3, 8, 16), "planar", "planar", block_size=block_size, image=True)
        yield make((1, 3, 8, 16), "interleaved", "interleaved", block_size=block_size, image=True)
        yield make((0, 3, 8, 16), "planar", "planar", block_size=block_size)
    yield from _refused()


def _value_types(draw: random.Random, most: int) -> Iterator[Case]:
    types = (torch.uint8, *oracle.FLOATS)
    rounds = []
    for ffx, integers in (("byte", torch.uint8), ("decimal", torch.uint16)):
        for dtype in types:
            for result in (integers, *oracle.FLOATS):
                rounds.append({"ffx": ffx, "dtype": dtype, "result": result})
        for dtype in (integers, *oracle.FLOATS):
            for result in types:
                rounds.append({"ffx": ffx, "dtype": dtype, "result": result, "decrypt": True})
    for n, fields in enumerate(rounds * 4):
        block_size, channels = BLOCK_SIZES[n % len(BLOCK_SIZES)], (3, 1, 3, 4, 3, 2, 3)[n % 7]
        orders = DECIMAL_ORDERS if fields["ffx"] == "decimal" else ORDERS
        steps = draw.choice(orders[: 6 if channels == 3 else 4])
        to_integers = not fields["result"].is_floating_point and fields["dtype"].is_floating_point
        if to_integers and "ffx" not in steps:
            steps = ORDERS[0]
        layout = INPUT_LAYOUTS[n % len(INPUT_LAYOUTS)] if n % 3 == 2 else LAYOUTS[n % 4]
        yield make(
            _shape(draw, block_size, channels, most),
            layout,
            layout if layout in LAYOUTS and n % 5 else draw.choice(LAYOUTS),
            block_size=block_size,
            steps=steps,
            normalised=fields["result"].is_floating_point and not fields.get("decrypt") and n % 2 == 0,
            guard=GUARD + 4 * draw.choice((0, 0, 1)),
            **fields,
        )


def make_version_2(
    case: schemes.Case, layout: str, out_layout: str, *, decrypt: bool, **fields
) -> Case | None:
    """A scheme of version 2 in these layouts; None where it takes several passes."""
    scheme = blockenc.Scheme.from_dict(case.scheme)
    dtype = getattr(torch, case.dtype)
    x = oracle.image(case.shape, dtype, seed=len(case.scheme["steps"]))
    size, ids = case.shape[2:], case.ids
    if ids is None:
        passes = Compiler(scheme, oracle.KEY).plans(*size)[decrypt]
    else:
        names = [version2.id_bytes(image) for image in ids]
        different = list(dict.fromkeys(names))
        key_of_image = np.array([different.index(name) for name in names], np.int32)
        of_keys = Compiler(scheme, oracle.KEY, different).plans(*size)[decrypt]
        passes = [dataclasses.replace(plan, key_of_image=key_of_image) for plan in of_keys]
    if len(passes) != 1:
        return None
    result = torch.uint16 if case.decimal and not dtype.is_floating_point and not decrypt else dtype
    if decrypt and case.decimal and not dtype.is_floating_point:
        x = (x.int() * 259 % 1000).to(torch.uint16)
    want = oracle.expected_of_scheme(x, case.scheme, ids, decrypt=decrypt, dtype=result).contiguous()
    kinds = "+".join(step["kind"] for step in case.scheme["steps"])
    name = f"version 2 {'decrypt' if decrypt else 'encrypt'} {kinds}, {dtype}, {'keys of images' * bool(ids)}"
    return Case(name, x, want, passes[0], layout, out_layout, **fields)


def _version_2(draw: random.Random) -> Iterator[Case]:
    """The schemes that everybody knows, in every layout and with every value type in turn."""
    for n, case in enumerate(schemes.NOTABLE.values()):
        if case.decimal and case.ids is not None:
            continue
        for m, dtype in enumerate(schemes.DTYPES):
            for decrypt in (False, True):
                layout = INPUT_LAYOUTS[(5 * n + 2 * m + decrypt) % 10]  # not "expanded": images differ
                made = make_version_2(
                    dataclasses.replace(case, dtype=dtype),
                    layout,
                    draw.choice(LAYOUTS),
                    decrypt=decrypt,
                    guard=GUARD + 4 * draw.choice((0, 0, 1)),
                )
                if made is not None:
                    yield made


def make_drawn(
    form: str, seed: int, layout: str, out_layout: str, *, result: torch.dtype, **sizes: int
) -> Case:
    """A plan built by hand, and what the aten backend makes of it, which is not given its packed form."""
    plan, shape = plans.draw_plan(form, seed, **sizes)
    integer_in = torch.uint16 if plan.in_values == DECIMAL_VALUES else torch.uint8
    if not result.is_floating_point and plan.out_values == DECIMAL_VALUES:
        result = torch.uint16
    takes_floats = result.is_floating_point or plan.quantises
    dtypes = (integer_in, *oracle.FLOATS) if takes_floats else (integer_in,)
    dtype = dtypes[seed % len(dtypes)]
    x = plans.images_for(plan, shape, dtype)
    want = aten.transform(x, plan, result).contiguous()
    return Case(f"drawn {form} {seed}, {dtype} to {result}", x, want, plan, layout, out_layout)


def _drawn(draw: random.Random) -> Iterator[Case]:
    for form in plans.FORMS:
        for seed in range(4 if "large" in form else 12):  # these take long
            layout, out_layout = INPUT_LAYOUTS[seed % 10], draw.choice(LAYOUTS)
            result = (torch.uint8, *oracle.FLOATS)[seed // 2 % 4]
            yield make_drawn(form, seed, layout, out_layout, result=result)


def _refused() -> Iterator[Case]:
    """Plans whose numbers lie outside: nothing may be read or written through them."""
    good = make((2, 3, 8, 16), "planar", "planar", block_size=4)
    plan = good.plan
    faults = {
        "source too large": {"source": np.where(plan.source == 7, np.int32(48), plan.source)},
        "source negative": {"source": plan.source - (plan.source == 0)},
        "table that is not there": {"table_of": plan.table_of * 2},
        "table value too large": {"tables": plan.tables + 1},
    }
    for name, fields in faults.items():
        bad = dataclasses.replace(plan, **fields)
        yield dataclasses.replace(good, name=name, plan=bad, refused=True)
    general = make_version_2(
        dataclasses.replace(schemes.NOTABLE["ETC"], ids=None), "planar", "planar", decrypt=False
    )
    assert general is not None
    moves, variant = general.plan.moves, general.plan.variant
    for name, fields in {
        "block too large": {"moves": np.where(moves == 1, moves.size, moves)},
        "block negative": {"moves": moves - (moves == 0)},
        "variant too large": {"variant": variant + (variant == variant.max())},
        "variant negative": {"variant": variant - (variant == 0)},
        "key too large": {"key_of_image": np.array([0, 1], np.int32)},
        "key negative": {"key_of_image": np.array([-1, 0], np.int32)},
        "keys for other images": {"key_of_image": np.zeros(3, np.int32)},
        "another grid": {"grid": general.plan.grid[::-1]},
    }.items():
        bad = dataclasses.replace(general.plan, **fields)
        yield dataclasses.replace(general, name=name, plan=bad, refused=True)

    def written(packed: np.ndarray, offset: int, form: str, value: float) -> np.ndarray:
        changed = packed.copy()
        data = np.frombuffer(struct.pack(form, value), np.uint8)
        changed[offset : offset + data.size] = data
        return changed

    floats = make((2, 3, 8, 16), "planar", "planar", block_size=4, dtype=torch.float32)
    for scale in (255.5, float("inf"), -1.0, float("nan")):  # what indexes the tables of quantised floats
        packed = written(plan.packed, HEADER_BYTES, "<f", scale)
        yield dataclasses.replace(floats, name="scale out of range", packed=packed, refused=True)
    fields = (
        "block size",
        "channels",
        "flags",
        "tables",
        "variants",
        "keys",
        "rows",
        "columns",
        "images",
        "0",
    )
    other = {"channels": 4, "flags": 64}  # the plan has 3 channels, and 3 are flags that it may have
    for n, field in enumerate(fields):
        for value in (-1, other.get(field, 3), 1 << 16, 2**31 - 1):
            packed = written(plan.packed, 24 + 4 * n, "<i", value)
            yield dataclasses.replace(good, name=f"{field} of no plan", packed=packed, refused=True)
    for offset, form, value in ((0, "<q", 1), (8, "<i", 1), (12, "<i", 64), (16, "<q", 1 << 40)):
        packed = written(plan.packed, offset, form, value)
        yield dataclasses.replace(good, name=f"header of no plan at {offset}", packed=packed, refused=True)
    yield dataclasses.replace(good, name="plan too short", packed=plan.packed[:-64], refused=True)
    yield dataclasses.replace(good, name="hardly a plan", packed=plan.packed[:64], refused=True)
    odd = compile_plan(blockenc.Scheme(block_size=5), oracle.KEY)
    yield dataclasses.replace(good, name="not whole blocks", plan=odd, refused=True)


def large() -> Iterator[Case]:
    """Enough for four threads (1.5 MiB and more), the last three also for stores past the caches (3 MiB).

    Mostly odd numbers of images and rows of blocks, so that shares end inside of images.
    """
    yield make((11, 3, 224, 224), "planar", "planar", block_size=4)
    yield make((5, 3, 308, 322), "interleaved", "interleaved", block_size=14, result=torch.bfloat16)
    yield make((7, 4, 192, 320), "padded", "padded", block_size=16, guard=GUARD + 3)
    yield make((5, 3, 259, 273), "every other", "planar", block_size=7, result=torch.float16)
    yield make((1, 3, 1024, 800), "interleaved", "padded interleaved", block_size=2)
    yield make((3, 1, 513, 735), "planar", "planar", block_size=3, ffx="decimal", result=torch.uint16)
    yield make((5, 2, 320, 320), "planar", "planar", block_size=5, dtype=torch.float32, result=torch.float16)
    for seed, form in enumerate(plans.FORMS[1:7]):  # block rows in which threads share images, keys, moves
        layout = LAYOUTS[seed % 4]
        yield make_drawn(form, seed, layout, layout, result=torch.float32, images=5, rows=91, columns=67)
    for form, seed, images, rows, columns in (
        ("tiles", 0, 5, 11, 23),  # M = 32
        ("tiles", 40, 7, 47, 61),  # M = 8
        ("pixels", 80, 7, 311, 515),  # M = 1
        ("pixels", 40, 5, 101, 453),  # M = 2
    ):
        for layout in LAYOUTS[:4]:
            sizes = {"images": images, "rows": rows, "columns": columns}
            yield make_drawn(form, seed, layout, layout, result=torch.uint8, **sizes)
    for form, seed, images in (
        ("large grid", 0, 45),  # M = 4
        ("large grid", 5, 4),  # M = 16
        ("nibbles and large grid", 7, 59),  # M = 4
    ):
        sizes = {"images": images, "rows": 37, "columns": 31}
        yield make_drawn(form, seed, "planar", "planar", result=torch.uint8, **sizes)
    yield make((21, 3, 224, 224), "planar", "planar", block_size=14)
    yield make((57, 3, 224, 224), "planar", "planar", block_size=4)
    yield make((15, 3, 224, 224), "planar", "planar", block_size=8, result=torch.float32, normalised=True)


def write(path: Path, cases: Sequence[Case]) -> Path:
    with path.open("wb") as file:
        file.write(_numbers((len(cases),)))
        for case in cases:
            file.write(case.encoded())
    return path
