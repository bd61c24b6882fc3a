"""Keyed orders of channels put on layers of a model, taken off, and moved into its weights."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.utils.hooks import RemovableHandle

from blockenc.errors import WrongKeyError
from blockenc.folding.compare import Run, difference, run, tolerance
from blockenc.folding.copies import Model, check_values, copy_of, replaced
from blockenc.folding.producers import Trace, check_weights, move, refusal, rows
from blockenc.hidden import hide
from blockenc.keys import AnyKey
from blockenc.keys.channels import channel_order, channels_secret
from blockenc.nn.channels import BUFFER, KeyedChannels, KeyedOutput, check_axis, size_along


def protect_features(
    model: Model,
    key: AnyKey,
    layers: Sequence[str],
    *,
    axis: int | None = None,
    fold: bool = False,
    example: torch.Tensor | None = None,
) -> Model:
    """A copy of a model in which the outputs of some layers have their channels in a keyed order.

    Of classifiers, segmenters and detectors alike: the order is the same at every place of an image, so that
    nothing else changes. Trained from there, the model works with the right key and with no other one (arXiv
    2109.00224, 2206.05422, 2202.00265). Its state_dict has the same names as that of `model` and holds no
    order, so that each loads the other's; docs/protect.md has what to do with whose weights.

    key: a Key, 32 bytes, or a KeySet, of which the member `channels` is used. The order of a layer is what
        `nn.KeyedChannels` of that key and the layer's name gives.
    layers: names, as in `model.named_modules()`. A layer that is used twice has both outputs in that order.
    axis: of the channels in the outputs: 1 for [N, C, H, W], -1 for tokens [N, T, C]. Default: what the type
        of a layer says; of blocks that are a type of their own it has to be given.
    fold: False leaves all weights as they are: a model to be trained. True is for a model that is trained:
        the opposite order goes into the weights that make those channels, so that the copy computes what
        `model` does, and its weights without the key do not. They have to come from a convolution or a linear
        layer, with nothing but batch normalisations and activations between; sums are refused.
    example: an input of the model. Needed where the type of a layer does not say how many channels it has.
        Where it is given, the copy is run on it, to see that all these layers run; and with `fold`, that the
        outputs are the same.

    Raises TypeError or ValueError that says what does not fit; at the first call, too, for a layer whose
    output is no tensor with so many channels along that axis.

    >>> from blockenc import Key
    >>> model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 10))
    >>> key, x = Key.generate(), torch.rand(2, 3, 8, 8)
    >>> locked = protect_features(model, key, ["0"], fold=True)  # "1" would do as well
    >>> torch.allclose(locked(x), model(x), atol=1e-5)
    True
    >>> _ = model.load_state_dict(locked.state_dict())  # the weights, without the key
    >>> torch.allclose(locked(x), model(x), atol=1e-5)
    False
    """
    key = hide(key)
    _check(model, key, example)
    result = copy_of(model)
    found = _named(result, layers)
    if axis is not None:
        check_axis(axis)
    known = {name: _outputs(layer, name, axis) for name, layer in found.items()}
    before = None if example is None else _run(model, example)
    measured = {} if example is None else _measure(result, example, found, known)
    sites = []
    for name, layer in found.items():
        channels, of_axis = measured.get(name, known[name])
        if channels is None:
            raise ValueError(
                f"layers: how many channels {name!r} ({type(layer).__name__}) has is seen only when the "
                "model runs; give example=, an input of the model"
            )
        order = torch.from_numpy(channel_order(key, name, channels)).to(_device(layer, result))
        sites.append(_Site(layer, KeyedOutput(name, of_axis), name, of_axis, order))
    # The last in the graph first: what goes into its weights is not to pass the order of one before it.
    trace = _trace(result, sites) if fold else None
    for site in reversed(_in_order(result, sites, trace)):
        if fold:
            _move(result, trace, site, torch.argsort(site.order), example is not None)
        site.put()
    if fold and before is not None and example is not None:
        _compare(before, _run(result, example))
    return result


def unprotect_features(
    model: Model,
    key: AnyKey,
    layers: Sequence[str] | None = None,
    *,
    fold: bool = False,
    example: torch.Tensor | None = None,
) -> Model:
    """The inverse of `protect_features`: a copy of a model without keyed orders of channels.

    key: the key that they are of; another one is a WrongKeyError.
    layers: the names that they were given; default: all. `nn.KeyedChannels` that are modules of the model are
        found by their names, too, and become nn.Identity.
    fold: False leaves all weights as they are. True moves the orders into the weights that make those
        channels: the copy computes what `model` does, with no work beside and without the key, for
        deployment where weights are safe. What cannot be moved is refused, as in `protect_features`.
    example: an input of the model, on which both are compared where orders are moved.

    With the `fold` that `protect_features` was given, every weight is again what it was, bit for bit. Raises
    TypeError or ValueError that says what does not fit.

    >>> from blockenc import Key
    >>> model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 10))
    >>> key, x = Key.generate(), torch.rand(2, 3, 8, 8)
    >>> trained = protect_features(model, key, ["0"])  # and trained from here
    >>> deployed = unprotect_features(trained, key, fold=True)
    >>> torch.allclose(deployed(x), trained(x), atol=1e-5), deployed
    (True, Sequential(
      (0): Conv2d(3, 16, kernel_size=(3, 3), stride=(1, 1))
      ...
    """
    key = hide(key)
    _check(model, key, example)
    result = copy_of(model)
    chosen = _chosen(_sites(result), layers)
    for site in chosen:
        if not torch.equal(
            site.order.cpu(), torch.from_numpy(channel_order(key, site.name, len(site.order)))
        ):
            raise WrongKeyError(f"key: the order of channels at {site.name!r} is not that of this key")
    trace = _trace(result, chosen) if fold else None
    for site in _in_order(result, chosen, trace):
        if fold:
            _move(result, trace, site, site.order, example is not None)
        result = site.take(result)
    if fold and example is not None:
        _compare(_run(model, example), _run(result, example))
    return result


class _Site(NamedTuple):
    """A layer whose output is to be in a keyed order, or is; a KeyedChannels, whose input is.

    keyed: the KeyedOutput on the layer; None for a KeyedChannels, which is the layer.
    """

    layer: nn.Module
    keyed: KeyedOutput | None
    name: str
    axis: int
    order: torch.Tensor

    def put(self) -> None:
        assert self.keyed is not None
        self.keyed.put(self.layer, self.order)

    def take(self, model: Model) -> Model:
        if self.keyed is not None:
            self.keyed.take(self.layer)
            return model
        return replaced(model, self.layer, nn.Identity())


def _sites(model: nn.Module) -> list[_Site]:
    """Those that a model has."""
    found = []
    for module in model.modules():
        if isinstance(module, KeyedChannels):
            if module.permutation is None:
                raise ValueError(
                    f"model: KeyedChannels {module.name!r} does not know its number of channels yet; run the "
                    "model once"
                )
            found.append(_Site(module, None, module.name, module.axis, module.permutation))
        elif (hook := KeyedOutput.of(module)) is not None:
            found.append(_Site(module, hook, hook.name, hook.axis, getattr(module, BUFFER)))
    return found


def _chosen(sites: list[_Site], layers: Sequence[str] | None) -> list[_Site]:
    names = [site.name for site in sites]
    if not sites:
        raise ValueError("model: has no keyed orders of channels")
    if layers is None:
        return sites
    for name in _checked_names(layers):
        if name not in names:
            raise ValueError(
                f"layers: the model has no keyed order of channels called {name!r}, but {', '.join(names)}"
            )
    return [site for site in sites if site.name in layers]


def _check(model: nn.Module, key: AnyKey, example: torch.Tensor | None) -> None:
    key = hide(key)
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    if example is not None and not isinstance(example, torch.Tensor):
        raise TypeError(f"example: expected a tensor, an input of the model, got {type(example).__name__}")
    channels_secret(key)
    check_values(model)


def _checked_names(layers: Sequence[str]) -> list[str]:
    if isinstance(layers, str) or not isinstance(layers, Sequence):
        raise TypeError(f"layers: expected a list of names, got {layers!r}")
    names = list(layers)
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"layers: expected names of layers inside the model, got {names!r}")
    if len(set(names)) < len(names):
        raise ValueError(f"layers: names one twice: {names!r}")
    return names


def _named(model: nn.Module, layers: Sequence[str]) -> dict[str, nn.Module]:
    """The layers of these names."""
    modules = dict(model.named_modules(remove_duplicate=False))
    found: dict[str, nn.Module] = {}
    for name in _checked_names(layers):
        if name not in modules:
            close = difflib.get_close_matches(name, modules, n=3)
            raise ValueError(
                f"layers: the model has no layer called {name!r}"
                + (f"; near to it are {', '.join(map(repr, close))}" if close else "")
            )
        layer = modules[name]
        twin = next((other for other, module in found.items() if module is layer), None)
        if twin is not None:
            raise ValueError(f"layers: {name!r} and {twin!r} are one layer")
        if isinstance(layer, KeyedChannels) or KeyedOutput.of(layer) is not None:
            raise ValueError(f"layers: {name!r} has a keyed order of channels already")
        if isinstance(layer, (nn.ModuleList, nn.ModuleDict)) and "forward" not in type(layer).__dict__:
            raise ValueError(
                f"layers: {name!r} is a {type(layer).__name__}, which only holds layers; name those"
            )
        if isinstance(layer, NonDynamicallyQuantizableLinear):
            raise ValueError(
                f"layers: {name!r} is never called: nn.MultiheadAttention uses its weights itself; name a "
                "layer behind it"
            )
        found[name] = layer
    return found


def _outputs(layer: nn.Module, name: str, axis: int | None) -> tuple[int | None, int]:
    """The number of channels of a layer's outputs, None where its type does not say it, and their axis."""
    channels, usual = _type_says(layer)
    if axis is None and usual is None:
        raise ValueError(
            f"axis: the layer {name!r}, a {type(layer).__name__}, may have its channels anywhere; expected "
            "their axis: 1 for outputs [N, C, H, W], -1 for tokens [N, T, C]"
        )
    return channels, usual if axis is None else axis  # type: ignore[return-value]


def _type_says(layer: nn.Module) -> tuple[int | None, int | None]:
    if isinstance(layer, nn.modules.conv._ConvNd):  # those with groups, too
        return layer.out_channels, 1
    if isinstance(layer, nn.GroupNorm):
        return layer.num_channels, 1
    if isinstance(layer, nn.Sequential) and type(layer).forward is nn.Sequential.forward:
        for child in reversed(layer):
            channels, axis = _type_says(child)
            found = rows(child)
            if channels is not None or found is None:  # else one that passes on what it is given
                return channels, axis
        return None, None
    found = rows(layer)
    return (None, None) if found is None else (found.channels, found.axis)


def _measure(
    model: nn.Module,
    example: torch.Tensor,
    layers: dict[str, nn.Module],
    outputs: dict[str, tuple[int | None, int]],
) -> dict[str, tuple[int | None, int]]:
    """How many channels the layers have when the model runs."""
    found: dict[str, tuple[int | None, int]] = {}

    def watch(name: str, layer: nn.Module) -> RemovableHandle:
        def finished(_: nn.Module, args: tuple, output: Any) -> None:
            channels, axis = outputs[name]
            size = size_along(output, axis, name)
            if channels is not None and size != channels:
                raise ValueError(f"{name!r} has {channels} channels, and its output {size} along axis {axis}")
            found[name] = size, axis

        return layer.register_forward_hook(finished)

    hooks = [watch(name, layer) for name, layer in layers.items()]
    try:
        _run(model, example)
    finally:
        for hook in hooks:
            hook.remove()
    for name in layers:
        if name not in found:
            raise ValueError(f"layers: {name!r} did not run when the model did, in evaluation, on example=")
    return found


def _run(model: nn.Module, example: torch.Tensor) -> Run:
    try:
        return run(model, example, "")
    except Exception as error:
        raise ValueError(f"example: the model fails on it: {error}") from error


def _compare(before: Run, after: Run) -> None:
    error, _ = difference(before, after)
    if not error <= tolerance(before):
        raise ValueError(
            "layers: their orders of channels cannot be moved into weights: the outputs before and after "
            f"differ by {error:.1%} of the largest value, on example="
        )


def _trace(model: nn.Module, sites: Iterable[_Site]) -> Trace | None:
    """Only where one is needed: not every model can be traced."""
    return None if all(_makes(site) for site in sites) else Trace(model)


def _makes(site: _Site) -> bool:
    """Whether the layer itself makes the channels, whatever becomes of them."""
    found = None if site.keyed is None else rows(site.layer)
    return found is not None and found.makes


def _in_order(model: nn.Module, sites: Sequence[_Site], trace: Trace | None) -> list[_Site]:
    """As they come when the model runs; of those that finish together, what is inside comes first."""
    depth = {module: name.count(".") for name, module in model.named_modules()}

    def place(site: _Site) -> tuple[int, int]:
        return (trace.place(site.layer) if trace else 0, -depth[site.layer])

    return sorted(sites, key=place)


def _move(model: nn.Module, trace: Trace | None, site: _Site, order: torch.Tensor, sure: bool) -> None:
    """An order into the weights that make the channels of a site."""
    if _makes(site):
        carriers = [site.layer]
    else:
        assert trace is not None
        others = [other.layer for other in _sites(model) if other.layer is not site.layer]
        carriers = trace.carriers(site.layer, site.name, site.axis, sure, others)
    for layer in carriers:
        check_weights(model, layer, site.name)
        found = rows(layer)
        if found is not None and found.channels not in (None, len(order)):
            raise refusal(
                site.name, f"a {type(layer).__name__} has {found.channels} channels, not {len(order)}"
            )
    for layer in carriers:
        move(layer, order)


def _device(layer: nn.Module, model: nn.Module) -> torch.device:
    values = (*layer.parameters(), *layer.buffers(), *model.parameters())
    return values[0].device if values else torch.device("cpu")
