"""A key folded into the weights of a model's first layer, and taken out again."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize

from blockenc.backends import aten
from blockenc.cipher import Cipher
from blockenc.folding.compare import Run, difference, run, tolerance
from blockenc.nn.embedding import BlockEmbedding
from blockenc.plan import DECIMAL_VALUES, Plan

Model = TypeVar("Model", bound=nn.Module)


def protect(
    model: Model,
    cipher: Cipher,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    stem: str | None = None,
    example: torch.Tensor | None = None,
) -> Model:
    """A copy of a model, trained on plain images, that works only on images `cipher` encrypts.

    What it makes of an encrypted image is what `model` makes of the plain one: nothing is retrained or lost,
    and no layer is added. The key goes into the first layer, which has to look at whole blocks:

    - a BlockEmbedding, for any scheme: rows of its table and columns of its weights change places. It
      takes encrypted images as integers (raw uint16 values after a decimal ffx).
    - an nn.Conv2d of stride M whose kernel is M (a patch embedding), or a multiple, padded by whole blocks:
      for schemes without ffx, which no linear map undoes. It takes encrypted images in floats. A bias is
      added if there is none and 255 - v is not the negative of v after normalisation. What comes before it
      may scale and shift each channel (a batch normalisation, a rescaling). Its weight, if parametrised
      (weight_norm, spectral_norm), becomes a plain parameter in the copy.

    Both models are run as in evaluation, their modes and buffers and torch's random numbers left as they
    were: `model` on plain images and the copy on the same ones encrypted. Unless every output from the first
    layer on is the same, up to the rounding of floats, there is an error instead of a model. So what cannot
    be folded (a second layer that sees the images, weights shared with another layer or standardised when
    used) is never wrong in silence.

    cipher: what encrypts the images; its block size M and channels must be the stem's.
    mean, std: how the images that a convolution sees are normalised, as in `Cipher.encrypt`; default:
        values from 0 to 1. Not for a BlockEmbedding.
    stem: the name of the first layer, as in `model.named_modules()`. Default: the model's only
        BlockEmbedding, else its first nn.Conv2d.
    example: images to compare on, uint8 [N, C, H, W]. Default: two random ones, of a size that the model
        says it is for, or else the first of some usual sizes that it runs on. A model that takes more than
        images cannot be run: protect the part of it that sees them.

    The copy hides the key no better than its first layer does: a smooth table or a natural image filter,
    permuted, betrays the permutation (docs/accuracy.md measures that). Raises TypeError or ValueError that
    says what does not fit.

    >>> from blockenc import Key
    >>> patches = nn.Conv2d(3, 8, kernel_size=4, stride=4)  # a patch embedding, of any model
    >>> model = nn.Sequential(patches, nn.Flatten(), nn.Linear(8 * 8 * 8, 10)).eval()
    >>> cipher = Cipher(Key.generate(), block_size=4, steps=["shuffle", "np"])
    >>> locked, x = protect(model, cipher), torch.rand(2, 3, 32, 32)
    >>> torch.allclose(locked(cipher.encrypt(x)), model(x), atol=1e-4)
    True
    """
    return _fold(model, cipher, mean, std, stem, example, inverse=False)


def unprotect(
    model: Model,
    cipher: Cipher,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    stem: str | None = None,
    example: torch.Tensor | None = None,
) -> Model:
    """The inverse of `protect`: a copy of a model for encrypted images that works on plain ones.

    Compared as there. Exact for a BlockEmbedding; for a convolution up to the rounding of products with
    ratios of `std`. A bias that `protect` added stays.

    >>> import blockenc
    >>> embedding = blockenc.nn.BlockEmbedding(4, 8)
    >>> model = nn.Sequential(embedding, nn.Flatten(), nn.Linear(8 * 8 * 8, 10)).eval()
    >>> cipher = blockenc.Cipher(blockenc.Key.generate(), block_size=4)
    >>> again, x = unprotect(protect(model, cipher), cipher), torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    >>> torch.equal(again(x), model(x))
    True
    """
    return _fold(model, cipher, mean, std, stem, example, inverse=True)


def _fold(
    model: Model,
    cipher: Cipher,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    stem: str | None,
    example: torch.Tensor | None,
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
    _check_parameters(model)
    result = _copied(model)
    name = _find(result, stem)
    first: Any = result.get_submodule(name)
    _unparametrise(first)
    _check_weights(result, first, name)
    if isinstance(first, BlockEmbedding):
        if mean is not None:
            raise ValueError("mean, std: a BlockEmbedding takes integers; leave them out")
        _check_embedding(first, plan, inverse)
        norm = None
    else:
        _check_convolution(first, plan)
        norm = _Normalisation.of(mean, std, plan.channels)

    # Of a container without a forward, such as a ModuleDict, the layer alone can be run.
    alone = type(model).forward is nn.Module.forward
    original, copied = (model.get_submodule(name), first) if alone else (model, result)
    inputs, before = _try(original, "" if alone else name, first, plan, norm, example, inverse)
    with torch.no_grad():
        if norm is None:
            _fold_embedding(first, plan, inverse)
        else:
            _fold_convolution(first, plan, _seen(norm, inputs[inverse], before), inverse)
    after = run(copied, inputs[not inverse], "" if alone else name)
    error, where = difference(before, after)
    if not error <= tolerance(before):
        raise ValueError(
            f"model: this key cannot be folded into {name!r} ({type(first).__name__}): the outputs "
            f"{where + ' ' * bool(where)}before and after differ by {error:.1%} of the largest value; that "
            "layer (stem= names it) has to be all that sees the images, and to use its weights as they are"
        )
    return result


def _check_parameters(model: nn.Module) -> None:
    for name, parameter in (*model.named_parameters(), *model.named_buffers()):
        if torch.nn.parameter.is_lazy(parameter):
            raise ValueError(f"model: {name} is lazy; run the model once, so that it takes its shape")
    if any(parameter.device.type == "meta" for parameter in model.parameters()):
        raise ValueError("model: its parameters are on the meta device, without values; load them first")


def _copied(model: Model) -> Model:
    try:
        return copy.deepcopy(model)
    except RuntimeError as error:
        raise ValueError(
            f"model: cannot be copied ({error}); a weight computed by a hook, as by the old weight_norm and "
            "prune, has to be made a parameter first (torch.nn.utils.remove_weight_norm, prune.remove)"
        ) from None


def _unparametrise(first: nn.Module) -> None:
    """Weights that are computed (weight_norm, spectral_norm) become what they are in evaluation."""
    if not parametrize.is_parametrized(first):
        return
    training = first.training
    first.eval()
    with torch.no_grad():
        weights = {name: getattr(first, name).clone() for name in first.parametrizations}  # type: ignore
    first.train(training)
    # Not parametrize.remove_parametrizations: the class, which a copy shares with its original, would lose
    # the properties that compute the weights.
    first.__class__ = type(first).__bases__[0]
    del first.parametrizations
    for name, weight in weights.items():
        first.register_parameter(name, nn.Parameter(weight))


def _check_weights(model: nn.Module, first: nn.Module, name: str) -> None:
    weights = {n: getattr(first, n, None) for n in ("weight", "table", "bias")}
    for own, weight in weights.items():
        if weight is None:
            continue
        if type(weight) is not nn.Parameter or type(weight.data) is not torch.Tensor:
            kind = type(weight.data if type(weight) is nn.Parameter else weight).__name__
            raise ValueError(
                f"model: the {own} of its first layer, {name!r}, is no plain parameter but a {kind}: "
                "computed by a hook, quantised or distributed; make it a parameter first"
            )
        for other, module in model.named_modules():
            if module is not first and any(weight is p for p in module._parameters.values()):
                raise ValueError(
                    f"model: the {own} of its first layer, {name!r}, is also that of {other!r}; a key cannot "
                    "be folded into one of the two"
                )


def _try(
    model: nn.Module,
    name: str,
    first: BlockEmbedding | nn.Conv2d,
    plan: Plan,
    norm: _Normalisation | None,
    example: torch.Tensor | None,
    inverse: bool,
) -> tuple[tuple[torch.Tensor, torch.Tensor], Run]:
    """Images, plain and encrypted, that the model runs on, and what it made of its kind of them."""
    failures = []
    for images in _examples(model, first, plan) if example is None else [_checked(example, plan)]:
        inputs = _inputs(images, first, plan, norm)
        try:
            before = run(model, inputs[inverse], name)
        except Exception as error:
            if example is not None:
                raise ValueError(f"example: the model fails on these images: {error}") from error
            reason = (str(error) or type(error).__name__).splitlines()[0]
            failures.append(f"{images.shape[2]} x {images.shape[3]}: {reason}")
            continue
        if not before.outputs:
            raise ValueError(
                f"stem: {name!r} did not run when the model did; name the layer that sees the images first"
            )
        if all(output.isfinite().all() for _, output in before.outputs):
            return inputs, before
        failures.append(f"{images.shape[2]} x {images.shape[3]}: not finite")
    raise ValueError(
        "example: give images that the model runs on, uint8 [N, C, H, W], so that its outputs can be "
        f"compared; it did not run on random ones ({'; '.join(failures)})"
    )


def _checked(example: torch.Tensor, plan: Plan) -> torch.Tensor:
    if not isinstance(example, torch.Tensor) or example.dtype != torch.uint8 or example.dim() != 4:
        got = (
            f"{list(example.shape)} of {example.dtype}"
            if isinstance(example, torch.Tensor)
            else type(example)
        )
        raise TypeError(f"example: expected a uint8 tensor [N, C, H, W] of plain images, got {got}")
    M = plan.block_size
    if (
        example.shape[1] != plan.channels
        or example.shape[2] % M
        or example.shape[3] % M
        or not example.numel()
    ):
        raise ValueError(
            f"example: expected {plan.channels} channels, and height and width multiples of {M}, "
            f"got {list(example.shape)}"
        )
    return example.cpu()


USUAL_SIDES = (32, 64, 224, 96, 128, 256, 384, 512)


def _examples(model: nn.Module, first: BlockEmbedding | nn.Conv2d, plan: Plan) -> Iterator[torch.Tensor]:
    """Two random images of each size that the model may be for.

    Their channels differ in brightness and contrast, so that a layer that measures images, such as
    nn.InstanceNorm2d, does not see the same in both.
    """
    named = [getattr(module, name, None) for module in model.modules() for name in ("image_size", "img_size")]
    kernel = first.kernel_size[0] if isinstance(first, nn.Conv2d) else first.block_size
    sizes: dict[tuple[int, int], None] = {}
    for size in (*named, *USUAL_SIDES):
        pair = (size, size) if isinstance(size, int) else size
        if isinstance(pair, (tuple, list)) and len(pair) == 2 and all(isinstance(side, int) for side in pair):
            height, width = (max(kernel, -(-side // plan.block_size) * plan.block_size) for side in pair)
            sizes[height, width] = None
    generator = np.random.default_rng(0)
    for height, width in sizes:
        dark, bright = generator.integers((0, 128), (64, 256), (2, plan.channels, 2)).transpose(2, 0, 1)
        noise = generator.random((height, width, 2, plan.channels))
        images = (dark + noise * (bright - dark)).transpose(2, 3, 0, 1)
        yield torch.from_numpy(np.ascontiguousarray(images, np.uint8))


def _inputs(
    images: torch.Tensor, first: BlockEmbedding | nn.Conv2d, plan: Plan, norm: _Normalisation | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The images, plain and encrypted, as the model takes them."""
    if norm is None:
        table: Any = first.table
        integers = torch.uint16 if plan.out_values == DECIMAL_VALUES else torch.uint8
        return images.to(table.device), aten.transform(images, plan, integers).to(table.device)
    weight: Any = first.weight
    mean, std = (torch.from_numpy(values)[:, None, None] for values in norm)
    plain, encrypted = (
        ((x.double() / 255 - mean) / std).to(weight.device, weight.dtype)
        for x in (images, aten.transform(images, plan, torch.uint8))
    )
    return plain, encrypted


def _seen(norm: _Normalisation, x: torch.Tensor, before: Run) -> _Normalisation:
    """How the images that reach the convolution are normalised: by `norm`, and by what comes before it."""
    seen = before.seen
    if seen is None or seen.shape != x.shape or torch.equal(seen, x):
        return norm  # where it sees something else altogether, the comparison will tell
    dims = (0, 2, 3)
    z, s = x.double(), seen.to(x.device).double()
    z_mean, s_mean = z.mean(dims, keepdim=True), s.mean(dims, keepdim=True)
    a = ((z - z_mean) * (s - s_mean)).sum(dims) / (z - z_mean).square().sum(dims)
    b = s_mean.flatten() - a * z_mean.flatten()
    gain, offset = a.cpu().numpy(), b.cpu().numpy()
    if not gain.all():
        return norm
    return _Normalisation(norm.mean - norm.std * offset / gain, norm.std / gain)


def _find(model: nn.Module, name: str | None) -> str:
    """The name of the first layer."""
    modules = dict(model.named_modules())
    if name is not None:
        if name not in modules:
            raise ValueError(f"stem: the model has no module called {name!r}")
        if not isinstance(modules[name], (BlockEmbedding, nn.Conv2d)):
            raise TypeError(
                f"stem: expected a BlockEmbedding or nn.Conv2d, {name!r} is {type(modules[name]).__name__}"
            )
        return name
    embeddings = [name for name, module in modules.items() if isinstance(module, BlockEmbedding)]
    if len(embeddings) > 1:
        raise ValueError(f"model: has {len(embeddings)} BlockEmbeddings; name the first layer with stem=")
    found = embeddings or [name for name, module in modules.items() if isinstance(module, nn.Conv2d)]
    if not found:
        raise ValueError("model: has neither a BlockEmbedding nor an nn.Conv2d to fold the key into")
    return str(found[0])


def _check_size(what: str, block_size: int, channels: int, plan: Plan) -> None:
    if (block_size, channels) != (plan.block_size, plan.channels):
        raise ValueError(
            f"cipher: expected blocks of {block_size} x {block_size} x {channels} as in {what}, "
            f"got {plan.block_size} x {plan.block_size} x {plan.channels}"
        )


def _check_embedding(module: BlockEmbedding, plan: Plan, inverse: bool) -> None:
    if plan.nibbles:
        raise ValueError("cipher: its scheme moves or negates nibbles, which no stem can absorb")
    _check_size("the BlockEmbedding", module.block_size, module.channels, plan)
    values = plan.out_values if inverse else plan.in_values
    if module.values != values:
        raise ValueError(f"model: expected a BlockEmbedding of {values} values, got {module.values}")


def _fold_embedding(module: BlockEmbedding, plan: Plan, inverse: bool) -> None:
    table, device = module.table, module.table.device
    source = torch.from_numpy(plan.source[0]).long().to(device)
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


def _padding(module: nn.Conv2d) -> tuple[int, ...] | str:
    return (0, 0) if module.padding == "valid" else module.padding


def _check_convolution(module: nn.Conv2d, plan: Plan) -> None:
    M = plan.block_size
    kernel, stride, padding = module.kernel_size, module.stride, _padding(module)
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
    if any(padding) and module.padding_mode not in ("zeros", "circular"):
        raise ValueError(
            f"model: its first layer pads by {module.padding_mode!r}, which repeats pixels that encryption "
            "has moved; only zeros, and whole blocks (circular), can be absorbed"
        )
    _check_size("the convolution", M, module.in_channels, plan)
    if plan.nibbles:
        raise ValueError("cipher: its scheme moves or negates nibbles, which no stem can absorb")
    if plan.quantises:
        raise ValueError("cipher: its scheme has an ffx step, which only a BlockEmbedding can absorb")


def _fold_convolution(module: nn.Conv2d, plan: Plan, norm: _Normalisation, inverse: bool) -> None:
    # With u a value in [0, 1]: position p of an encrypted block holds u or 1 - u of position source[p], and
    # the model sees (u - mean)/std of either. So its plain input is scale * encrypted input + shift.
    channel, c = np.arange(plan.length) % plan.channels, plan.source[0] % plan.channels
    flipped = plan.flips[0] % 2 == 1
    sign = np.where(flipped, -1.0, 1.0)
    scale = sign * norm.std[channel] / norm.std[c]
    shift = (sign * norm.mean[channel] + flipped - norm.mean[c]) / norm.std[c]
    zeros = any(_padding(module)) and module.padding_mode == "zeros"
    if zeros and shift.any():
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
        of_source[plan.source[0]] = shift
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
    source = torch.from_numpy(plan.source[0]).long().to(weight.device)
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
