"""Keys in patch embeddings that are no nn.Conv2d: nn.Linear of patches as vectors, nn.Conv3d of frames."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from blockenc.folding.convolutions import add_bias, parameter, with_values, without_values
from blockenc.folding.geometry import Axis
from blockenc.folding.registry import Folding, fold, patch_size, refuse_places, unfold
from blockenc.folding.values import as_picture
from blockenc.nn.stems import LookUp

LAYOUTS = ("chw", "hwc")


class LookUpLinear(nn.Linear):
    """An nn.Linear of features that are looked up: what `protect` makes of a linear patch embedding."""

    look_up: LookUp
    plain: list[nn.Module]

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(self.look_up(input))


class LookUpConv3d(nn.Conv3d):
    """An nn.Conv3d of features that are looked up: what `protect` makes of a patch embedding of frames."""

    look_up: LookUp
    plain: list[nn.Module]

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(self.look_up(input))


@patch_size.register(nn.Linear)
def _(stem: nn.Linear, channels: int) -> int | None:
    side = math.isqrt(stem.in_features // channels)
    return side if side * side * channels == stem.in_features else None


@fold.register(nn.Linear)
def _(stem: nn.Linear, folding: Folding) -> nn.Module:
    side = _side(stem, folding)
    weight, offset = folding.values.fold(
        _as_kernel(stem.weight.double(), side, folding.layout), folding.plan.block_size
    )
    if folding.values.rows is None:
        add_bias(stem, offset)
        stem.weight.copy_(_as_matrix(weight, folding))
        return stem
    assert folding.values.kind is not None
    repeats = side // folding.plan.block_size
    kind = as_picture(folding.values.kind[0], folding.plan.block_size).repeat(1, repeats, repeats)
    channel = torch.arange(folding.plan.channels)[:, None, None].expand_as(kind)
    if folding.layout == "hwc":
        kind, channel = kind.permute(1, 2, 0), channel.permute(1, 2, 0)
    new = LookUpLinear(1, 1, device="meta")
    new.in_features, new.out_features = folding.values.features * stem.in_features, stem.out_features
    return _with_look_up(new, stem, _as_matrix(weight, folding), folding, kind.flatten(), channel.flatten())


@unfold.register(nn.Linear)
def _(stem: nn.Linear, folding: Folding) -> nn.Module:
    side = _side(stem, folding)
    if folding.values.rows is not None:
        raise ValueError(f"model: its first layer, {stem}, does not come from `protect` with such a scheme")
    kernel = _as_kernel(stem.weight.double(), side, folding.layout)
    weight, offset = folding.values.unfold(kernel, folding.plan.block_size)
    add_bias(stem, -offset)
    stem.weight.copy_(_as_matrix(weight, folding))
    return stem


@patch_size.register(LookUpLinear)
def _(stem: LookUpLinear, channels: int) -> int | None:
    return patch_size(stem.plain[0], channels)


@unfold.register(LookUpLinear)
def _(stem: LookUpLinear, folding: Folding) -> nn.Module:
    side = _side(stem.plain[0], folding)  # type: ignore[arg-type]
    _check_look_up(stem, folding)
    features = folding.values.features
    by_value = stem.weight.double().unflatten(1, (-1, features)).movedim(2, 1).flatten(0, 1)
    kernel = _as_kernel(by_value, side, folding.layout).unflatten(0, (-1, features))
    kernel = kernel.transpose(1, 2).flatten(1, 2)  # [D, C * features, side, side]
    weight, _ = folding.values.unfold(kernel, folding.plan.block_size)
    return with_values(stem.plain[0], _kernel_as_matrix(weight, folding.layout), stem.bias, stem.weight)


@patch_size.register(nn.Conv3d)
def _(stem: nn.Conv3d, channels: int) -> int | None:
    return stem.kernel_size[1] if _is_patches(stem, stem.kernel_size[1]) else None


@fold.register(nn.Conv3d)
def _(stem: nn.Conv3d, folding: Folding) -> nn.Module:
    _check_frames(stem, folding)
    weight, offset = folding.values.fold(_by_frame(stem.weight), folding.plan.block_size)
    time = stem.kernel_size[0]
    weight = weight.unflatten(0, (-1, time)).transpose(1, 2)
    if folding.values.rows is None:
        add_bias(stem, offset.view(-1, time).sum(1))
        stem.weight.copy_(weight)
        return stem
    assert folding.values.kind is not None
    kind = as_picture(folding.values.kind[0], folding.plan.block_size)
    channel = torch.arange(folding.plan.channels)
    new = LookUpConv3d(1, 1, 1, device="meta")
    new.kernel_size, new.stride = stem.kernel_size, stem.stride
    new.in_channels, new.out_channels = weight.shape[1], weight.shape[0]
    return _with_look_up(new, stem, weight, folding, kind, channel)


@unfold.register(nn.Conv3d)
def _(stem: nn.Conv3d, folding: Folding) -> nn.Module:
    _check_frames(stem, folding)
    if folding.values.rows is not None:
        raise ValueError(f"model: its first layer, {stem}, does not come from `protect` with such a scheme")
    weight, offset = folding.values.unfold(_by_frame(stem.weight), folding.plan.block_size)
    time = stem.kernel_size[0]
    add_bias(stem, -offset.view(-1, time).sum(1))
    stem.weight.copy_(weight.unflatten(0, (-1, time)).transpose(1, 2))
    return stem


@unfold.register(LookUpConv3d)
def _(stem: LookUpConv3d, folding: Folding) -> nn.Module:
    _check_frames(stem.plain[0], folding)
    _check_look_up(stem, folding)
    weight, _ = folding.values.unfold(_by_frame(stem.weight), folding.plan.block_size)
    weight = weight.unflatten(0, (-1, stem.kernel_size[0])).transpose(1, 2)
    return with_values(stem.plain[0], weight, stem.bias, stem.weight)


@fold.register(LookUpLinear)
@fold.register(LookUpConv3d)
def _(stem: nn.Module, folding: Folding) -> nn.Module:
    raise ValueError("model: is protected already; unprotect it first")


def _with_look_up(
    new: Any, stem: Any, weight: torch.Tensor, folding: Folding, kind: torch.Tensor, channel: torch.Tensor
) -> nn.Module:
    """A layer of features in the place of `stem`. channel: of each number that has a mean and a std."""
    rows = torch.from_numpy(folding.values.rows).to(stem.weight)
    mean, std = (numbers[channel.numpy()].tolist() for numbers in folding.norm)
    new.weight, new.bias = parameter(weight, stem.weight), stem.bias
    new.look_up = LookUp(rows, kind.contiguous().to(rows.device), folding.plan.out_scale, mean, std)
    new.plain = [without_values(stem)]
    return new  # type: ignore[no-any-return]


def _check_look_up(stem: Any, folding: Folding) -> None:
    if folding.values.rows is None or stem.look_up.rows.shape[2] != folding.values.features:
        raise ValueError("cipher: its scheme has other steps than that which the model was protected with")


def _side(stem: nn.Linear, folding: Folding) -> int:
    """Of the patches that a linear layer is given as vectors."""
    refuse_places(folding, "an nn.Linear")
    plan = folding.plan
    side = patch_size(stem, plan.channels)
    if side is None or side % plan.block_size:
        raise ValueError(
            f"model: its first layer, {stem}, is no embedding of square patches of {plan.channels} channels, "
            f"whose side is a multiple of {plan.block_size}"
        )
    return side


def _as_kernel(matrix: torch.Tensor, side: int, layout: str) -> torch.Tensor:
    """[D, L] with patches as vectors, as the kernel [D, C, side, side]."""
    if layout == "chw":
        return matrix.reshape(len(matrix), -1, side, side)
    return matrix.reshape(len(matrix), side, side, -1).permute(0, 3, 1, 2)


def _kernel_as_matrix(kernel: torch.Tensor, layout: str) -> torch.Tensor:
    matrix: torch.Tensor = (kernel if layout == "chw" else kernel.permute(0, 2, 3, 1)).flatten(1)
    return matrix


def _as_matrix(kernel: torch.Tensor, folding: Folding) -> torch.Tensor:
    """A kernel [D, C * features, side, side] as a matrix of vectors, whose features lie together."""
    by_value = kernel.unflatten(1, (-1, folding.values.features))
    order = (0, 1, 3, 4, 2) if folding.layout == "chw" else (0, 3, 4, 1, 2)
    matrix: torch.Tensor = by_value.permute(order).flatten(1)
    return matrix


def _is_patches(stem: nn.Conv3d, block_size: int) -> bool:
    axes = (Axis(block_size, k, s, (0, 0)) for k, s in zip(stem.kernel_size[1:], stem.stride[1:]))
    whole = all(axis.kernel % block_size == 0 and axis.kernel == axis.stride for axis in axes)
    no_padding = stem.padding in ("valid", (0, 0, 0))
    square = stem.kernel_size[1] == stem.kernel_size[2]
    return whole and no_padding and square and stem.groups == 1 and stem.dilation == (1, 1, 1)


def _check_frames(stem: Any, folding: Folding) -> None:
    refuse_places(folding, "an nn.Conv3d")
    plan = folding.plan
    if not _is_patches(stem, plan.block_size):
        raise ValueError(
            f"model: its first layer has to look at whole patches (kernel = stride, a multiple of "
            f"{plan.block_size}, no padding), not {stem}"
        )


def _by_frame(weight: torch.Tensor) -> torch.Tensor:
    """The kernel [D, C, T, height, width] as kernels of single frames, [D * T, C, height, width]."""
    return weight.double().transpose(1, 2).flatten(0, 1)
