"""Keys in convolutions of images: patch embeddings, and the first layers of convolutional networks."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from blockenc.folding.geometry import Geometry
from blockenc.folding.registry import Folding, fold, patch_size, refuse_places, unfold
from blockenc.folding.values import as_picture
from blockenc.nn.stems import BlockConvolution, LookUp, PlacedPatches


@patch_size.register(nn.Conv2d)
def _(stem: nn.Conv2d, channels: int) -> int | None:
    rows, columns = stem.kernel_size
    return rows if rows == columns and Geometry.of(stem, rows).is_patches else None


@fold.register(nn.Conv2d)
def fold_convolution(
    stem: nn.Conv2d, folding: Folding, padding: tuple[tuple[int, int], ...] | None = None
) -> nn.Module:
    """A convolution for encrypted images: `stem` itself where its kernel is made of whole blocks and no
    look-up is needed, else a BlockConvolution (PlacedPatches, where blocks have keys of their own).

    padding: pixels before and after, of rows and of columns, where they are not those that `stem` says.
    """
    if padding is None:
        stem, padding = as_computed(stem, folding.seen)
    geometry = _geometry(stem, folding, padding)
    values = folding.values
    if folding.places is not None:
        if not geometry.is_patches:
            refuse_places(folding, f"{stem}")
        return _placed(stem, folding)
    pads_zeros = geometry.pads and not geometry.circular
    shifts = values.shift is not None and values.shift.any()
    pads_apart = padding is not None and padding != Geometry.of(stem, geometry.block_size).padding
    if pads_apart and any(geometry.block_size % stride for stride in stem.stride):
        raise ValueError(
            f"model: its first layer, {stem}, pads by itself, and differently for images of different "
            f"sizes; that needs a stride which divides the block size {geometry.block_size}"
        )
    if geometry.is_whole and values.rows is None and not (pads_zeros and shifts) and not pads_apart:
        weight, offset = values.fold(stem.weight.double(), geometry.block_size)
        add_bias(stem, offset)
        stem.weight.copy_(weight)
        return stem
    weight, _ = values.fold(geometry.widened(stem.weight.double()), geometry.block_size)
    zero, look_up = None, None
    if values.rows is not None:
        look_up = look_up_of(folding, stem.weight)
    elif shifts:
        zero = as_picture(values.zero(), geometry.block_size).to(stem.weight)
    outputs = geometry.rows.outputs * geometry.columns.outputs
    bias = None if stem.bias is None else stem.bias.repeat_interleave(outputs)
    return BlockConvolution(
        parameter(weight, stem.weight),
        None if bias is None or stem.bias is None else parameter(bias, stem.bias),
        geometry=geometry,
        plain=without_values(stem),
        zero=zero,
        look_up=look_up,
    )


@unfold.register(nn.Conv2d)
def _(stem: nn.Conv2d, folding: Folding) -> nn.Module:
    geometry = _geometry(stem, folding, None)
    if folding.places is not None or folding.values.rows is not None or not geometry.is_whole:
        raise ValueError(
            f"model: its first layer, {stem}, does not come from `protect` with such a scheme, which "
            "would have made another layer of it"
        )
    weight, offset = folding.values.unfold(stem.weight.double(), geometry.block_size)
    add_bias(stem, -offset)
    stem.weight.copy_(weight)
    return stem


@fold.register(BlockConvolution)
@fold.register(PlacedPatches)
def _(stem: nn.Module, folding: Folding) -> nn.Module:
    raise ValueError("model: is protected already; unprotect it first")


@patch_size.register(BlockConvolution)
def _(stem: BlockConvolution, channels: int) -> int | None:
    return patch_size(stem.plain, channels)


@unfold.register(BlockConvolution)
def _(stem: BlockConvolution, folding: Folding) -> nn.Module:
    geometry = stem.geometry
    if geometry.block_size != folding.plan.block_size:
        raise ValueError(
            f"cipher: expected blocks of {geometry.block_size} x {geometry.block_size} as in the protected "
            f"model, got {folding.plan.block_size} x {folding.plan.block_size}"
        )
    if (stem.look_up is None) != (folding.values.rows is None):
        raise ValueError("cipher: its scheme has other steps than that which the model was protected with")
    if stem.look_up is not None and stem.look_up.rows.shape[2] != folding.values.features:
        raise ValueError("cipher: its scheme has other steps than that which the model was protected with")
    big, _ = folding.values.unfold(stem.weight.double(), geometry.block_size)
    outputs = geometry.rows.outputs * geometry.columns.outputs
    weight = geometry.narrowed(big)
    bias = None if stem.bias is None else stem.bias.view(-1, outputs)
    if weight is None or not (bias is None or torch.equal(bias, bias[:, :1].expand_as(bias))):
        # Trained on since then: it is no longer the convolution that it was.
        return BlockConvolution(parameter(big, stem.weight), stem.bias, geometry=geometry, plain=stem.plain)
    return with_values(stem.plain, weight, None if bias is None else bias[:, 0], stem.weight)


def _placed(stem: nn.Conv2d, folding: Folding) -> nn.Module:
    assert folding.places is not None
    values, patch = folding.values, stem.kernel_size[0]
    kernels, offsets = zip(*(values.fold(stem.weight.double(), patch, v) for v in range(len(values.source))))
    of_place = torch.from_numpy(folding.places.flatten()).to(stem.weight.device)
    # [V, D, L * features], in the order of blocks.to_vectors, to a matrix for each place.
    flat = torch.stack([kernel.permute(0, 2, 3, 1).flatten(1) for kernel in kernels])
    weight = flat[of_place].transpose(1, 2)
    offset = torch.stack(offsets)[of_place]
    bias = None
    if stem.bias is not None:
        bias = parameter(offset + stem.bias.double(), stem.bias)
    elif offset.any():
        bias = parameter(offset, stem.weight)
    return PlacedPatches(
        parameter(weight, stem.weight),
        bias,
        patch=patch,
        grid=(folding.places.shape[0], folding.places.shape[1]),
        plain=without_values(stem),
        look_up=look_up_of(folding, stem.weight) if values.rows is not None else None,
    )


@patch_size.register(PlacedPatches)
def _(stem: PlacedPatches, channels: int) -> int | None:
    return stem.patch


@unfold.register(PlacedPatches)
def _(stem: PlacedPatches, folding: Folding) -> nn.Module:
    if folding.places is None or folding.places.shape != stem.grid or folding.plan.block_size != stem.patch:
        raise ValueError("cipher: is not that which the model was protected with")
    if (stem.look_up is None) != (folding.values.rows is None):
        raise ValueError("cipher: its scheme has other steps than that which the model was protected with")
    # Every place has the same plain kernel: the first one's will do, and the comparison sees all of them.
    v = int(folding.places[0, 0])
    matrix = stem.weight[0].double().T
    kernel = matrix.unflatten(1, (stem.patch, stem.patch, -1)).permute(0, 3, 1, 2)
    weight, offset = folding.values.unfold(kernel, stem.patch, v)
    bias: Any = None if stem.bias is None else stem.bias[0].double() - offset
    return with_values(stem.plain, weight, bias, stem.weight)


class _Recorder(TorchFunctionMode):
    """Keeps the arguments of convolutions that are computed meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[inspect.BoundArguments] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.conv2d:
            self.calls.append(CONV2D.bind(*args, **(kwargs or {})))
            self.calls[-1].apply_defaults()
        return func(*args, **(kwargs or {}))


# As torch.conv2d has its arguments: it has no signature of its own.
CONV2D = inspect.signature(lambda input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1: None)


def as_computed(
    stem: nn.Conv2d, seen: torch.Tensor | None
) -> tuple[nn.Conv2d, tuple[tuple[int, int], ...] | None]:
    """The convolution that a layer computes, where its class computes weights or pads by itself (weight
    standardisation, the padding of TensorFlow): with these weights, and the pixels that it pads by.

    seen: images that it can be run on. What is computed otherwise is left as it is, for the comparison to
        tell.
    """
    own = type(stem)
    if seen is None or (own.forward, own._conv_forward) == (nn.Conv2d.forward, nn.Conv2d._conv_forward):
        return stem, None
    with _Recorder() as recorder:
        training = stem.training
        stem.eval()
        stem(seen.to(stem.weight))
        stem.train(training)
    if len(recorder.calls) != 1 or stem.padding_mode != "zeros":
        return stem, None
    call = recorder.calls[0].arguments
    plain = nn.Conv2d(
        stem.in_channels,
        stem.out_channels,
        stem.kernel_size,  # type: ignore[arg-type]
        call["stride"],
        call["padding"],
        call["dilation"],
        call["groups"],
        bias=call["bias"] is not None,
        device="meta",
    )
    by_conv = Geometry.of(plain, 1).padding
    around = [_found_in(call["input"], seen.to(stem.weight), dim) for dim in (2, 3)]
    if any(pixels is None for pixels in around) or call["weight"].shape != stem.weight.shape:
        return stem, None
    padding = tuple(
        (before + more[0], after + more[1]) for (before, after), more in zip(by_conv, around) if more
    )
    if torch.equal(call["weight"], stem.weight):
        return stem, padding
    if padding != by_conv:
        raise ValueError(
            f"model: its first layer, {stem}, both computes its weights and pads by itself; make it an "
            "nn.Conv2d"
        )
    plain.weight = parameter(call["weight"], stem.weight)
    plain.bias = None if call["bias"] is None else parameter(call["bias"], stem.weight)
    return plain, padding


def _found_in(padded: torch.Tensor, x: torch.Tensor, dim: int) -> tuple[int, int] | None:
    """How many pixels are before and after an image in what it was padded to."""
    more = padded.shape[dim] - x.shape[dim]
    other = 5 - dim
    rest = padded.shape[other] - x.shape[other]
    for before in range(more + 1):
        for beside in range(rest + 1):
            part = padded.narrow(dim, before, x.shape[dim]).narrow(other, beside, x.shape[other])
            if torch.equal(part, x):
                return before, more - before
    return None


def look_up_of(folding: Folding, like: torch.Tensor) -> LookUp:
    """The LookUp of images, in the dtype and on the device of a weight."""
    values, plan = folding.values, folding.plan
    assert values.rows is not None
    assert values.kind is not None
    if folding.places is None:
        kind = as_picture(values.kind[0], plan.block_size)
    else:
        rows, columns = folding.places.shape
        of_place = values.kind[folding.places]  # [rows, columns, M*M*C]
        blocks = of_place.reshape(rows, columns, plan.block_size, plan.block_size, plan.channels)
        picture = blocks.transpose(4, 0, 2, 1, 3).reshape(
            plan.channels, rows * plan.block_size, columns * plan.block_size
        )
        kind = torch.from_numpy(np.ascontiguousarray(picture))
    rows_ = torch.from_numpy(values.rows).to(like)
    mean, std = folding.norm.mean.tolist(), folding.norm.std.tolist()
    return LookUp(rows_, kind.to(like.device), plan.out_scale, mean, std)


def parameter(value: torch.Tensor, like: torch.Tensor) -> nn.Parameter:
    """A new parameter in the dtype, and trained or not, as another one."""
    return nn.Parameter(value.detach().to(like.dtype).contiguous(), requires_grad=like.requires_grad)


def add_bias(module: Any, offset: torch.Tensor) -> None:
    """Adds to the bias of a layer, and makes one where there is none."""
    if not offset.any():
        return
    if module.bias is None:
        module.bias = nn.Parameter(module.weight.new_zeros(len(offset)))
    module.bias.copy_(module.bias.double() + offset)


def without_values(module: nn.Module) -> nn.Module:
    return copy.deepcopy(module).to("meta")


def with_values(
    plain: nn.Module, weight: torch.Tensor, bias: torch.Tensor | None, like: torch.Tensor
) -> nn.Module:
    """A layer like `plain`, which has no values, with these."""
    made: Any = copy.deepcopy(plain)
    made.weight = parameter(weight, like)
    made.bias = None if bias is None else parameter(bias, like)
    return made  # type: ignore[no-any-return]


def _geometry(stem: nn.Conv2d, folding: Folding, padding: tuple[tuple[int, int], ...] | None) -> Geometry:
    geometry = Geometry.of(stem, folding.plan.block_size, padding)
    if geometry.pads and stem.padding_mode not in ("zeros", "circular"):
        raise ValueError(
            f"model: its first layer pads by {stem.padding_mode!r}, which repeats pixels that encryption "
            "has moved; only zeros, and the other side of the image (circular), can be absorbed"
        )
    return geometry
