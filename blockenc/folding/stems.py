"""A key folded into the weights of a model's first layer, and taken out again."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize

from blockenc.backends import aten
from blockenc.blocks import to_vectors
from blockenc.cipher import Cipher, as_cipher
from blockenc.folding import patches
from blockenc.folding.compare import Order, Run, difference, run, tolerance
from blockenc.folding.copies import Model, check_values, copy_of, replaced
from blockenc.folding.positions import find, move, prefix
from blockenc.folding.registry import Folding, fold, is_stem, patch_size, unfold
from blockenc.folding.values import Normalisation, Values
from blockenc.hidden import hide
from blockenc.nn.embedding import BlockEmbedding
from blockenc.plan import DECIMAL_VALUES, Plan
from blockenc.plan.algebra import lifted, refined


def protect(
    model: Model,
    cipher: Cipher,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    stem: str | None = None,
    positions: str | None = None,
    example: torch.Tensor | None = None,
) -> Model:
    """A copy of a model, trained on plain images, that works only on images `cipher` encrypts.

    What it makes of an encrypted image is what `model` makes of the plain one: nothing is retrained or lost.
    The key goes into the first layer (docs/protect.md has what each becomes, and what it costs):

    - an nn.Conv2d of any kernel, stride, padding (zeros, circular), dilation and groups. Where its kernel is
      made of whole blocks (a patch embedding) and the scheme has no ffx and no nibbles, it stays an
      nn.Conv2d, and gets a bias if it needs one; else it becomes a BlockConvolution.
    - an nn.Linear or nn.Conv3d that is a patch embedding, of images or of frames.
    - a BlockEmbedding, for any scheme without nibbles: rows of its table and columns of its weights change
      places. It takes encrypted images as integers (raw uint16 values after a decimal ffx); all others take
      them in floats.
    - a layer of a type for which `blockenc.folding.fold` has a handler.

    Schemes that treat all blocks alike go into all of them. One that moves blocks needs a patch embedding and
    an absolute position embedding, whose rows move with them (class and other prefix tokens stay); outputs
    for each token come out in the order of the encrypted patches. Where blocks have keys of their own, an
    nn.Conv2d that is a patch embedding becomes one kernel for each place, for images of one size. What comes
    before the first layer may scale and shift each channel (a batch normalisation, a rescaling). Weights that
    are computed (weight_norm, standardisation) become plain parameters in the copy.

    Both models are run as in evaluation, their modes and buffers and torch's random numbers left as they
    were: `model` on plain images and the copy on the same ones encrypted. Unless every output from the first
    layer on is the same, up to the rounding of floats (and the order of tokens that move), there is an error
    instead of a model. So what cannot be folded (a second layer that sees the images, weights shared with
    another layer, neighbourhoods of blocks that move) is never wrong in silence.

    cipher: what encrypts the images; not one with per_image=True.
    mean, std: how the images that the model is given are normalised, as in `Cipher.encrypt`; default: values
        from 0 to 1. Not for a BlockEmbedding.
    stem: the name of the first layer, as in `model.named_modules()`. Default: the model's only
        BlockEmbedding, else its first convolution, else its first nn.Linear.
    positions: the name of the position embedding, [1, T, D] or [T, D], as in `model.named_parameters()`;
        default: the only one of that shape with "pos" in its name. Used where blocks move.
    example: images to compare on, uint8 [N, C, H, W] (videos [N, C, T, H, W] or [N, T, C, H, W], as the model
        takes them). Default: two random ones, of a size that the model says it is for, or else the first of
        some usual sizes that it runs on. Where the key depends on the size of images, the example's size is
        the one that the copy is for. A model that takes more than images cannot be run: protect the part of
        it that sees them.

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
    cipher = hide(cipher)
    cipher = as_cipher(cipher)
    return _fold(model, cipher, mean, std, stem, positions, example, inverse=False)


def unprotect(
    model: Model,
    cipher: Cipher,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    stem: str | None = None,
    positions: str | None = None,
    example: torch.Tensor | None = None,
) -> Model:
    """The inverse of `protect`: a copy of a model for encrypted images that works on plain ones.

    Compared as there. Layers are of the type that they had before, with their values up to the rounding of
    products with ratios of `std` (exactly, for a BlockEmbedding and look-ups). A bias that `protect` added
    stays. A BlockConvolution that was trained on is no convolution of the old kernel any more, and stays one,
    for plain images.

    >>> import blockenc
    >>> embedding = blockenc.nn.BlockEmbedding(4, 8)
    >>> model = nn.Sequential(embedding, nn.Flatten(), nn.Linear(8 * 8 * 8, 10)).eval()
    >>> cipher = blockenc.Cipher(blockenc.Key.generate(), block_size=4)
    >>> again, x = unprotect(protect(model, cipher), cipher), torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    >>> torch.equal(again(x), model(x))
    True
    """
    cipher = hide(cipher)
    cipher = as_cipher(cipher)
    return _fold(model, cipher, mean, std, stem, positions, example, inverse=True)


def _fold(
    model: Model,
    cipher: Cipher,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    stem: str | None,
    positions: str | None,
    example: torch.Tensor | None,
    *,
    inverse: bool,
) -> Model:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    if cipher.per_image:
        raise ValueError(
            "cipher: has per_image=True, so that no two images have the same key, and weights hold one; "
            "decrypt where images are loaded, or protect with keys for all images"
        )
    if (mean is None) != (std is None):
        raise ValueError("mean, std: give both or neither")
    check_values(model)
    result = copy_of(model)
    handler = unfold if inverse else fold
    name = _find(result, stem, handler)
    first: Any = result.get_submodule(name)
    _unparametrise(first)
    _check_weights(result, first, name)
    if not inverse:
        _check_channels(first, cipher)
    norm = None
    if not isinstance(first, BlockEmbedding):
        norm = Normalisation.of(mean, std, cipher.scheme.channels)
    elif mean is not None:
        raise ValueError("mean, std: a BlockEmbedding takes integers; leave them out")

    # Of a container without a forward, such as a ModuleDict, the layer alone can be run.
    alone = type(model).forward is nn.Module.forward
    original, run_as = (model.get_submodule(name), "") if alone else (model, name)
    job = _Job(cipher, norm, positions, inverse)
    trial = _try(original, run_as, first, job, example)
    if alone and trial.order is not None and original is not model:
        raise ValueError(
            f"model: {type(model).__name__} has no forward, and the scheme moves blocks: whether a position "
            "embedding absorbs that can be seen in a model that runs only"
        )
    with torch.no_grad():
        changed = handler(first, _folding(first, job, trial))
        changed.train(first.training)
        result = replaced(result, first, changed)
        if trial.order is not None and trial.positions is not None:
            move(result, trial.positions, trial.order.moves, inverse=inverse)
    copied = changed if alone else result
    order = trial.order if inverse else None
    after = run(copied, trial.inputs[not inverse], run_as, order, trial.order is not None)
    error, where = difference(trial.before, after)
    if not error <= tolerance(trial.before):
        moves = trial.order is not None
        raise ValueError(
            f"model: this key cannot be folded into {name!r} ({type(first).__name__}): the outputs "
            f"{where + ' ' * bool(where)}before and after differ by {error:.1%} of the largest value; that "
            "layer (stem= names it) has to be all that sees the images, and to use its weights as they are"
            + (NEIGHBOURS if moves else "")
        )
    return result


NEIGHBOURS = (
    ". The scheme moves blocks, which only a model that knows places by an absolute position embedding "
    "(positions= names it) can absorb; convolutions of tokens, windows, relative and rotary positions need "
    "neighbours, and an output for each pixel stays scrambled"
)


class _Job(NamedTuple):
    """What is asked for. norm: None for stems that take integers."""

    cipher: Cipher
    norm: Normalisation | None
    positions: str | None
    inverse: bool


class _Trial(NamedTuple):
    """A run of the model as it was.

    plan, places: what its images are encrypted with, as handlers take it. order: where tokens move.
    positions: the name of the position embedding. inputs: images, plain and encrypted, as the model takes
    them.
    """

    plan: Plan
    places: np.ndarray | None
    order: Order | None
    positions: str | None
    inputs: tuple[torch.Tensor, torch.Tensor]
    before: Run


def _check_channels(first: nn.Module, cipher: Cipher) -> None:
    """Before the model is run on images that it does not take."""
    channels = getattr(first, "in_channels", None)
    if isinstance(channels, int) and channels != cipher.scheme.channels:
        raise ValueError(
            f"cipher: expected images of {channels} channels as in the model's first layer, {first}, "
            f"got {cipher.scheme.channels}"
        )


def _try(model: nn.Module, name: str, first: nn.Module, job: _Job, example: torch.Tensor | None) -> _Trial:
    """Runs the model on images: those given, or random ones of a size that it takes."""
    failures = []
    candidates = _examples(model, first, job.cipher) if example is None else [_checked(example, job.cipher)]
    for images in candidates:
        height, width = images.shape[-2:]
        passes = job.cipher.plans(height, width)
        if len(passes) > 1:
            raise ValueError(
                "cipher: its scheme takes several passes over an image, which no single layer can absorb: "
                "ffx before nibbles, or blocks of sizes that do not divide each other"
            )
        patch = patch_size(first, passes[0].channels)
        if not passes[0].is_uniform and patch and (height % patch or width % patch):
            if example is not None:
                raise ValueError(
                    f"example: expected height and width to be multiples of the patches' side {patch}, got "
                    f"{height} x {width}"
                )
            failures.append(f"{height} x {width}: no multiples of {patch}")
            continue
        plan, places, order = for_patches(passes[0], first, height, width)
        inputs = _inputs(images, first, passes[0], job.norm)
        positions = None
        if order is not None:
            positions = find(model, len(order.moves), job.positions)
            if positions is not None:
                order = order._replace(prefix=prefix(model, positions, len(order.moves)))
        try:
            before = run(model, inputs[job.inverse], name, None if job.inverse else order, order is not None)
        except Exception as error:
            if example is not None:
                raise ValueError(f"example: the model fails on these images: {error}") from error
            reason = (str(error) or type(error).__name__).splitlines()[0]
            failures.append(f"{height} x {width}: {reason}")
            continue
        if not before.outputs:
            raise ValueError(
                f"stem: {name!r} did not run when the model did; name the layer that sees the images first"
            )
        if all(output.isfinite().all() for _, output in before.outputs):
            return _Trial(plan, places, order, positions, inputs, before)
        failures.append(f"{height} x {width}: not finite")
    raise ValueError(
        "example: give images that the model runs on, uint8 [N, C, H, W], so that its outputs can be "
        f"compared; it did not run on random ones ({'; '.join(failures)})"
    )


def for_patches(
    plan: Plan, first: nn.Module, height: int, width: int
) -> tuple[Plan, np.ndarray | None, Order | None]:
    """A plan as handlers take it; the variant of each place, where there are several; where patches move."""
    patch = patch_size(first, plan.channels)
    if plan.is_uniform:
        embedding = isinstance(first, BlockEmbedding) and first.block_size % plan.block_size == 0
        return lifted(plan, first.block_size, None) if embedding else plan, None, None  # type: ignore
    if patch is None:
        raise ValueError(
            f"cipher: its scheme moves blocks, or has a key for each, and the model's first layer, {first}, "
            "looks across patches: it needs neighbours; only a patch embedding (kernel = stride, no padding) "
            "can absorb such a scheme"
        )
    plan = _at_patch_size(plan, patch, height // patch, width // patch)
    assert plan.moves is not None
    assert plan.variant is not None
    moves, variant = plan.moves[0], plan.variant[0]
    order = None
    if (moves != np.arange(len(moves))).any():
        order = Order(torch.from_numpy(moves.astype(np.int64)), 0)
    rows, columns = height // patch, width // patch
    places = variant.astype(np.int64).reshape(rows, columns) if plan.variants > 1 else None
    return dataclasses.replace(plan, grid=None, moves=None, variant=None), places, order


def _at_patch_size(plan: Plan, patch: int, rows: int, columns: int) -> Plan:
    """A plan of blocks with a grid, as one of patches."""
    mismatch = ValueError(
        f"cipher: its scheme moves values in blocks of {plan.block_size} x {plan.block_size} across the "
        f"model's patches of {patch} x {patch}, which no model can absorb; give it blocks of {patch}"
    )
    if plan.block_size == patch:
        return plan
    if plan.block_size % patch == 0:
        try:
            return refined(plan, patch, rows, columns)
        except ValueError:
            raise mismatch from None
    assert plan.moves is not None
    if patch % plan.block_size or not _stays(plan.moves[0], patch // plan.block_size, columns):
        raise mismatch
    return lifted(plan, patch, (rows, columns))


def _stays(moves: np.ndarray, across: int, columns: int) -> bool:
    """Whether blocks stay in the patch of across x across blocks in which they are."""

    def patch_of(block: np.ndarray) -> np.ndarray:
        row, column = np.divmod(block, across * columns)
        return row // across * columns + column // across  # type: ignore[no-any-return]

    return bool((patch_of(moves) == patch_of(np.arange(len(moves)))).all())


def _folding(first: nn.Module, job: _Job, trial: _Trial) -> Folding:
    if job.norm is None:
        norm, layout = Normalisation.of(None, None, trial.plan.channels), "chw"
    else:
        x, channels = trial.inputs[job.inverse], trial.plan.channels
        seen, layout = seen_as(first, x, trial.before.seen, channels)
        norm = _through(job.norm, *seen)
    values = Values.of(trial.plan, norm)
    return Folding(trial.plan, norm, values, trial.before.seen, layout, trial.places)


def seen_as(
    first: nn.Module, x: torch.Tensor, seen: torch.Tensor | None, channels: int
) -> tuple[tuple[torch.Tensor, torch.Tensor], str]:
    """What the stem saw of the images that the model was given: both as [C, values]; and the order of the
    values of vectors."""
    given = _by_channel(x.double().cpu(), channels)
    ours = given, given
    if seen is None:
        return ours, "chw"
    seen = seen.double().cpu()
    patch = patch_size(first, channels)
    if isinstance(first, nn.Linear) and patch is not None and x.dim() == 4:
        if seen.numel() != x.numel():
            return ours, "chw"
        vectors = to_vectors(x.double().cpu(), patch)  # hwc
        as_hwc = vectors.reshape(-1, channels).T
        found = {
            "hwc": seen.reshape(-1, channels).T,
            "chw": seen.reshape(-1, channels, patch * patch).transpose(0, 1).flatten(1),
        }
        plain = {
            "hwc": as_hwc,
            "chw": vectors.reshape(-1, patch * patch, channels).permute(2, 0, 1).flatten(1),
        }
        layout = min(found, key=lambda name: _residual(plain[name], found[name]))
        return (plain[layout], found[layout]), layout
    values = _by_channel(seen, channels) if seen.dim() in (4, 5) else given
    return (given, values), "chw"


def _by_channel(x: torch.Tensor, channels: int) -> torch.Tensor:
    """[C, values] of images [N, C, H, W], or of videos [N, C, T, H, W] or [N, T, C, H, W], frame by frame."""
    frames = x if x.dim() == 4 else _frames(x, channels)
    return frames.transpose(0, 1).flatten(1)


def _frames(x: torch.Tensor, channels: int) -> torch.Tensor:
    """Videos as images [N * T, C, H, W]."""
    return (x.transpose(1, 2) if x.shape[1] == channels else x).flatten(0, 1)


def _fit(z: torch.Tensor, s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Gain and offset of each channel by which z becomes s, in the sense of least squares."""
    z_mean, s_mean = z.mean(1, keepdim=True), s.mean(1, keepdim=True)
    gain = ((z - z_mean) * (s - s_mean)).sum(1) / (z - z_mean).square().sum(1)
    return gain, s_mean[:, 0] - gain * z_mean[:, 0]


def _residual(z: torch.Tensor, s: torch.Tensor) -> float:
    gain, offset = _fit(z, s)
    return float((z * gain[:, None] + offset[:, None] - s).square().mean())


def _through(norm: Normalisation, given: torch.Tensor, seen: torch.Tensor) -> Normalisation:
    """How the images that reach the stem are normalised: by `norm`, and by what comes before it."""
    if seen.shape != given.shape or torch.equal(seen, given):
        return norm  # where it sees something else altogether, the comparison will tell
    gain, offset = (numbers.numpy() for numbers in _fit(given, seen))
    if not gain.all():
        return norm
    return Normalisation(norm.mean - norm.std * offset / gain, norm.std / gain)


def _checked(example: torch.Tensor, cipher: Cipher) -> torch.Tensor:
    if not isinstance(example, torch.Tensor) or example.dtype != torch.uint8 or example.dim() not in (4, 5):
        got = (
            f"{list(example.shape)} of {example.dtype}"
            if isinstance(example, torch.Tensor)
            else type(example)
        )
        raise TypeError(
            "example: expected a uint8 tensor [N, C, H, W] of plain images (or of videos, [N, C, T, H, W] or "
            f"[N, T, C, H, W]), got {got}"
        )
    side, channels = cipher.scheme.side, cipher.scheme.channels
    height, width = example.shape[-2:]
    if (
        channels not in example.shape[1 : example.dim() - 2]
        or height % side
        or width % side
        or not example.numel()
    ):
        raise ValueError(
            f"example: expected {channels} channels, and height and width multiples of {side}, "
            f"got {list(example.shape)}"
        )
    return example.cpu()


USUAL_SIDES = (32, 64, 224, 96, 128, 256, 384, 512)


def _examples(model: nn.Module, first: Any, cipher: Cipher) -> Iterator[torch.Tensor]:
    """Two random images of each size that the model may be for.

    Their channels differ in brightness and contrast, so that a layer that measures images, such as
    nn.InstanceNorm2d, does not see the same in both.
    """
    named = [getattr(module, name, None) for module in model.modules() for name in ("image_size", "img_size")]
    side, channels = cipher.scheme.side, cipher.scheme.channels
    kernel = patch_size(first, channels) or getattr(first, "kernel_size", (1,))[-1]
    sizes: dict[tuple[int, int], None] = {}
    for size in (*named, *USUAL_SIDES):
        pair = (size, size) if isinstance(size, int) else size
        if isinstance(pair, (tuple, list)) and len(pair) == 2 and all(isinstance(side, int) for side in pair):
            height, width = (-(-max(kernel, pixels) // side) * side for pixels in pair)
            sizes[height, width] = None
    generator = np.random.default_rng(0)
    for height, width in sizes:
        dark, bright = generator.integers((0, 128), (64, 256), (2, channels, 2)).transpose(2, 0, 1)
        noise = generator.random((height, width, 2, channels))
        images = (dark + noise * (bright - dark)).transpose(2, 3, 0, 1)
        yield torch.from_numpy(np.ascontiguousarray(images, np.uint8))


def _inputs(
    images: torch.Tensor, first: nn.Module, plan: Plan, norm: Normalisation | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The images, plain and encrypted, as the model takes them."""
    decimal = plan.out_values == DECIMAL_VALUES
    like = next(first.parameters())
    frames = images if images.dim() == 4 else _frames(images, plan.channels)
    encrypted = aten.transform(frames, plan, torch.uint16 if decimal else torch.uint8)
    if norm is None:
        return images.to(like.device), encrypted.to(like.device)
    both = []
    for x, scale in ((frames, plan.in_scale), (encrypted, plan.out_scale)):
        z = norm.apply(x, scale).to(like.device, like.dtype)
        if images.dim() == 5:
            z = z.unflatten(0, (len(images), -1))
            z = z.transpose(1, 2) if images.shape[1] == plan.channels else z
        both.append(z)
    return both[0], both[1]


def _find(model: nn.Module, name: str | None, handler: Any) -> str:
    """The name of the first layer."""
    modules = dict(model.named_modules())
    if name is not None:
        if name not in modules:
            raise ValueError(f"stem: the model has no module called {name!r}")
        if not is_stem(modules[name], handler):
            raise TypeError(
                "stem: expected a layer that a key can be folded into (BlockEmbedding, nn.Conv2d, nn.Conv3d, "
                f"nn.Linear, or one with a handler), {name!r} is {type(modules[name]).__name__}"
            )
        return name
    tables = [name for name, module in modules.items() if isinstance(module, BlockEmbedding)]
    if len(tables) > 1:
        raise ValueError(f"model: has {len(tables)} BlockEmbeddings; name the first layer with stem=")
    stems = [name for name, module in modules.items() if is_stem(module, handler)]
    # Linear layers are everywhere: one is a stem only where nothing else is.
    others = [name for name in stems if not isinstance(modules[name], nn.Linear) or _looks_up(modules[name])]
    found = tables or others or stems
    if not found:
        raise ValueError(
            "model: has no layer that a key can be folded into: no BlockEmbedding, convolution or nn.Linear"
        )
    return str(found[0])


def _looks_up(module: nn.Module) -> bool:
    return isinstance(module, patches.LookUpLinear)


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
