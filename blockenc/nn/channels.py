"""Feature maps whose channels a key puts in order: by a module, and by a hook on a layer."""

from __future__ import annotations

import operator
import sys
from typing import Any

import torch
from torch import nn

from blockenc.hidden import hide
from blockenc.keys import AnyKey
from blockenc.keys.channels import channel_order, channels_secret, check_channels, check_name


class KeyedChannels(nn.Module):
    """Puts the channels of a feature map in an order that a key and a name give.

    A model that is trained with such layers works with the right key, and with another one, or without,
    it does not (arXiv 2109.00224, "spatially invariant permutation"; 2109.01332 and 2206.05422 for
    segmentation, 2202.00265 for detection). `protect_features` puts one behind layers of a model that exists.

    key: a Key, 32 bytes, or a KeySet, of which the member `channels` is used.
    name: any non-empty text. Layers of other names have other orders; docs/scheme.md has the derivation.
    channels: how many there are, at least 2. None: as many as the first input has. Until then the module
        holds the key, so that it cannot be pickled; from then on it holds the order only.
    axis: of the channels: 1 for [N, C, H, W] and [N, C], -1 for tokens [N, T, C].

    Input: a tensor of any type. Output: the same, with y[:, c] = x[:, order[c]] along the axis; with few
    channels there are few orders, of 2 channels half the keys change nothing.

    The order is a buffer, `permutation`, int64 [C], that is in no state_dict: a checkpoint does not give it
    away, and loads into a model with and without this layer. A pickle of the whole module, an exported
    program and an ONNX file hold it. Raises TypeError or ValueError for bad arguments, and in `forward` for
    an input without that axis, or with another number of channels; RuntimeError where a model is compiled
    before the number of channels is known.

    >>> from blockenc import Key
    >>> layer = KeyedChannels(Key(bytes(range(32))), "layer1", channels=4)
    >>> layer(torch.arange(4)[None]), layer.state_dict()
    (tensor([[0, 1, 3, 2]]), OrderedDict())
    """

    permutation: torch.Tensor | None

    def __init__(self, key: AnyKey, name: str, channels: int | None = None, *, axis: int = 1) -> None:
        key = hide(key)
        super().__init__()
        self.name, self.axis = name, axis
        self.register_buffer("permutation", None, persistent=False)
        check_name(name)
        check_axis(axis)
        self._key: Any = channels_secret(key)
        if channels is not None:
            self._draw(check_channels(channels))

    def _draw(self, channels: int, device: torch.device | None = None) -> None:
        order = channel_order(self._key, self.name, channels)
        # A tensor for training, even if the first input comes in a mode of inference.
        with torch.inference_mode(False):
            self.permutation = torch.from_numpy(order).to(device)
        self._key = None

    def _see(self, x: torch.Tensor) -> None:
        """The number of channels is that of x."""
        self._draw(size_along(x, self.axis, self.name), x.device)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.permutation is None:
            if torch.compiler.is_compiling():  # no key is derived from in a graph
                raise RuntimeError(
                    f"KeyedChannels {self.name!r}: does not know its number of channels yet; give channels=, "
                    "or run the model once before it is compiled"
                )
            # Nothing below is compiled, either. (Importing torch._dynamo for nothing would take a second.)
            (torch.compiler.disable(self._see) if "torch._dynamo" in sys.modules else self._see)(x)
        return permuted(x, self.permutation, self.axis, self.name)  # type: ignore[arg-type]

    def extra_repr(self) -> str:
        channels = None if self.permutation is None else len(self.permutation)
        return f"{self.name!r}, channels={channels}, axis={self.axis}"


# The buffer of a layer whose output is permuted by a KeyedOutput.
BUFFER = "keyed_channels"


class KeyedOutput:
    """A forward hook: the output of a layer as KeyedChannels would pass it on, by the layer's buffer BUFFER.

    So the layer keeps its type, its place and the names of its parameters, and the order is moved to devices
    and copied with the layer (for nn.DataParallel, too, whose copies call the hooks of the original).
    """

    def __init__(self, name: str, axis: int) -> None:
        self.name, self.axis = name, axis

    def __call__(self, layer: nn.Module, args: tuple, output: Any) -> torch.Tensor:
        return permuted(output, getattr(layer, BUFFER), self.axis, self.name)

    def __repr__(self) -> str:
        return f"KeyedOutput({self.name!r}, axis={self.axis})"

    @classmethod
    def of(cls, layer: nn.Module) -> KeyedOutput | None:
        """The one that a layer has."""
        return next((hook for hook in layer._forward_hooks.values() if isinstance(hook, cls)), None)

    def put(self, layer: nn.Module, order: torch.Tensor) -> None:
        layer.register_buffer(BUFFER, order, persistent=False)
        layer.register_forward_hook(self)

    def take(self, layer: nn.Module) -> torch.Tensor:
        """Off the layer, of which the order is given back."""
        number = next(n for n, hook in layer._forward_hooks.items() if hook is self)
        del layer._forward_hooks[number]
        return layer._buffers.pop(BUFFER)  # type: ignore[return-value]


def permuted(x: Any, order: torch.Tensor, axis: int, name: str) -> torch.Tensor:
    if (channels := size_along(x, axis, name)) != len(order):
        raise ValueError(
            f"x: expected {len(order)} channels along axis {axis} at {name!r}, got {channels} in a tensor of "
            f"{list(x.shape)}"
        )
    return torch.index_select(x, axis, order)  # type: ignore[no-any-return]


def size_along(x: Any, axis: int, name: str) -> int:
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"x: expected a tensor whose channels can be put in order at {name!r}, got {type(x)}")
    if not -x.dim() <= axis < x.dim():
        raise ValueError(
            f"x: expected an axis {axis} of channels at {name!r}, got a tensor of {list(x.shape)}; axis= "
            "names another"
        )
    return x.shape[axis]


def check_axis(axis: Any) -> None:
    if isinstance(axis, bool) or not hasattr(axis, "__index__"):
        raise TypeError(f"axis: expected an integer, got {type(axis).__name__}")
    if operator.index(axis) == 0:
        raise ValueError("axis: expected that of the channels, got 0, the images of a batch")
