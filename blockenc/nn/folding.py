"""A key folded into the weights of a model's first layer, and taken out again."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import nn

from blockenc.cipher import Cipher
from blockenc.nn.embedding import BlockEmbedding
from blockenc.plan import Plan

Model = TypeVar("Model", bound=nn.Module)


def protect(
    model: Model,
    cipher: Cipher,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    stem: str | None = None,
) -> Model:
    """A copy of a model, trained on plain images, that works only on images `cipher` encrypts.

    What it makes of an encrypted image is what `model` makes of the plain one: nothing is retrained or lost,
    and no layer is added. The key goes into the first layer, which has to look at whole blocks:

    - a BlockEmbedding, for any scheme: rows of its table and columns of its weights change places. It
      takes encrypted images as integers (raw uint16 values after a decimal ffx).
    - an nn.Conv2d of stride M whose kernel is M (a patch embedding), or a multiple, padded by whole blocks:
      for schemes without ffx, which no linear map undoes. It takes encrypted images in floats. A bias is
      added if there is none and 255 - v is not the negative of v after normalisation.

    cipher: what encrypts the images; its block size M and channels must be the stem's.
    mean, std: how the images that a convolution sees are normalised, as in `Cipher.encrypt`; default:
        values from 0 to 1. Not for a BlockEmbedding.
    stem: the name of the first layer, as in `model.named_modules()`. Default: the model's only
        BlockEmbedding, else its first nn.Conv2d.

    The copy hides the key no better than its first layer does: a smooth table or a natural image filter,
    permuted, betrays the permutation (docs/accuracy.md measures that). Raises TypeError or ValueError that
    says what does not fit.
    """
    return _fold(model, cipher, mean, std, stem, inverse=False)


def unprotect(
    model: Model,
    cipher: Cipher,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    stem: str | None = None,
) -> Model:
    """The inverse of `protect`: a copy of a model for encrypted images that works on plain ones.

    Exact for a BlockEmbedding; for a convolution up to the rounding of products with ratios of `std`.
    A bias that `protect` added stays.
    """
    return _fold(model, cipher, mean, std, stem, inverse=True)


def _fold(
    model: Model,
    cipher: Cipher,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    stem: str | None,
    *,
    inverse: bool,
) -> Model:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    if not isinstance(cipher, Cipher):
        raise TypeError(f"cipher: expected a blockenc.Cipher, got {type(cipher).__name__}")
    if (mean is None) != (std is None):
        raise ValueError("mean, std: give both or neither")
    plan = cipher.plan()
    result = copy.deepcopy(model)
    first = _find(result, stem)
    if isinstance(first, BlockEmbedding):
        if mean is not None:
            raise ValueError("mean, std: a BlockEmbedding takes integers; leave them out")
        with torch.no_grad():
            _fold_embedding(first, plan, inverse)
    else:
        normalisation = _Normalisation.of(mean, std, plan.channels)
        with torch.no_grad():
            _fold_convolution(first, plan, normalisation, inverse)
    return result


def _find(model: nn.Module, name: str | None) -> BlockEmbedding | nn.Conv2d:
    modules = dict(model.named_modules())
    if name is not None:
        if name not in modules:
            raise ValueError(f"stem: the model has no module called {name!r}")
        found = modules[name]
        if not isinstance(found, (BlockEmbedding, nn.Conv2d)):
            raise TypeError(
                f"stem: expected a BlockEmbedding or nn.Conv2d, {name!r} is {type(found).__name__}"
            )
        return found
    embeddings = [module for module in modules.values() if isinstance(module, BlockEmbedding)]
    if len(embeddings) > 1:
        raise ValueError(f"model: has {len(embeddings)} BlockEmbeddings; name the first layer with stem=")
    if embeddings:
        return embeddings[0]
    for module in modules.values():
        if isinstance(module, nn.Conv2d):
            return module
    raise ValueError("model: has neither a BlockEmbedding nor an nn.Conv2d to fold the key into")


def _check_size(what: str, block_size: int, channels: int, plan: Plan) -> None:
    if (block_size, channels) != (plan.block_size, plan.channels):
        raise ValueError(
            f"cipher: expected blocks of {block_size} x {block_size} x {channels} as in {what}, "
            f"got {plan.block_size} x {plan.block_size} x {plan.channels}"
        )


def _fold_embedding(module: BlockEmbedding, plan: Plan, inverse: bool) -> None:
    _check_size("the BlockEmbedding", module.block_size, module.channels, plan)
    values = plan.out_values if inverse else plan.in_values
    if module.values != values:
        raise ValueError(f"model: expected a BlockEmbedding of {values} values, got {module.values}")
    table, device = module.table, module.table.device
    source = torch.from_numpy(plan.source).long().to(device)
    # Row (p, T_p(v)) of the protected table is row (source[p], v) of the plain one.
    becomes = torch.from_numpy(plan.substitutions()).to(device)
    place = torch.arange(plan.length, device=device)[:, None]
    if inverse:
        new = torch.empty_like(table[:, : plan.in_values])
        new[source] = table[place, becomes]
    else:  # values that no image has after decimal encryption have rows of zeros
        new = table.new_zeros(plan.length, plan.out_values, table.shape[2])
        new[place, becomes] = table[source]
    module.values = new.shape[1]
    module.table = nn.Parameter(new, requires_grad=table.requires_grad)
    if module.weight is not None:
        moved = torch.empty_like(module.weight)
        if inverse:
            moved[:, source] = module.weight
        else:
            moved = module.weight[:, source]
        module.weight.copy_(moved)


class _Normalisation(NamedTuple):
    """float64 [C] each."""

    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def of(cls, mean: Sequence[float] | None, std: Sequence[float] | None, channels: int) -> _Normalisation:
        if mean is None or std is None:
            return cls(np.zeros(channels), np.ones(channels))
        found = cls(np.asarray(mean, np.float64), np.asarray(std, np.float64))
        if found.mean.shape != (channels,) or found.std.shape != (channels,) or not found.std.all():
            raise ValueError(f"mean, std: expected {channels} numbers each, std not 0, got {mean!r}, {std!r}")
        return found


def _fold_convolution(module: nn.Conv2d, plan: Plan, norm: _Normalisation, inverse: bool) -> None:
    M = plan.block_size
    kernel, stride, padding = module.kernel_size, module.stride, module.padding
    if padding == "valid":
        padding = (0, 0)
    whole = all(k % M == 0 for k in kernel) and kernel[0] == kernel[1] and stride == (M, M)
    if (
        not whole
        or isinstance(padding, str)
        or any(p % M for p in padding)
        or module.dilation != (1, 1)
        or module.groups != 1
    ):
        raise ValueError(
            f"model: its first layer has to look at whole blocks of {M} x {M}: a BlockEmbedding, or an "
            f"nn.Conv2d of stride {M} and kernel {M} (or a multiple), not {module}"
        )
    _check_size("the convolution", M, module.in_channels, plan)
    if plan.quantises:
        raise ValueError("cipher: its scheme has an ffx step, which only a BlockEmbedding can absorb")
    # With u a value in [0, 1]: position p of an encrypted block holds u or 1 - u of position source[p], and
    # the model sees (u - mean)/std of either. So its plain input is scale * encrypted input + shift.
    channel, c = np.arange(plan.length) % plan.channels, plan.source % plan.channels
    flipped = plan.flips % 2 == 1
    sign = np.where(flipped, -1.0, 1.0)
    scale = sign * norm.std[channel] / norm.std[c]
    shift = (sign * norm.mean[channel] + flipped - norm.mean[c]) / norm.std[c]
    if shift.any() and any(padding):
        raise ValueError(
            "mean, std: a padded convolution needs a mean of 0.5 and one std for all channels, so that the "
            "padding's 0 stays what it is"
        )
    device = module.weight.device
    weight = module.weight.double()
    by_position = torch.from_numpy(scale).to(device)
    if inverse:
        weight = _moved(_scaled(weight, 1 / by_position, plan), plan, inverse)
        plain = weight
    else:
        plain = weight
        weight = _scaled(_moved(weight, plan, inverse), by_position, plan)
    if shift.any():
        of_source = np.empty_like(shift)
        of_source[plan.source] = shift
        offset = _scaled(plain, torch.from_numpy(of_source).to(device), plan).sum((1, 2, 3))
        if module.bias is None:
            module.bias = nn.Parameter(torch.zeros_like(module.weight[:, 0, 0, 0]))
        module.bias.copy_(module.bias.double() + (-offset if inverse else offset))
    module.weight.copy_(weight)


def _blocks(weight: torch.Tensor, M: int) -> torch.Tensor:
    """A kernel [D, C, a*M, b*M] as [D, a, b, M, M, C]: positions last."""
    d, channels, height, width = weight.shape
    return weight.reshape(d, channels, height // M, M, width // M, M).permute(0, 2, 4, 3, 5, 1)


def _kernel(blocks: torch.Tensor) -> torch.Tensor:
    """The inverse of _blocks."""
    d, a, b, M, _, channels = blocks.shape
    return blocks.permute(0, 5, 1, 3, 2, 4).reshape(d, channels, a * M, b * M)


def _moved(weight: torch.Tensor, plan: Plan, inverse: bool) -> torch.Tensor:
    """A kernel with what it had for position source[p] at position p, or the other way round."""
    blocks = _blocks(weight, plan.block_size)
    positions = blocks.flatten(3)
    source = torch.from_numpy(plan.source).long().to(weight.device)
    if inverse:
        moved = torch.empty_like(positions)
        moved[..., source] = positions
    else:
        moved = positions[..., source]
    return _kernel(moved.view(blocks.shape))


def _scaled(weight: torch.Tensor, factors: torch.Tensor, plan: Plan) -> torch.Tensor:
    """A kernel times one factor a position."""
    blocks = _blocks(weight, plan.block_size)
    return _kernel((blocks.flatten(3) * factors).view(blocks.shape))
