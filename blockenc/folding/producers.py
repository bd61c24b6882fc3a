"""The weights that an order of channels can be moved into: those of the layer that makes the channels, and of
what lies between it and where the order is applied.

A convolution or a linear layer whose rows are in another order gives its outputs in that order. A batch
normalisation or an activation treats each channel for itself, so that the order passes through it. Anything
else (a sum, a concatenation) does not say which rows make a channel, and is refused.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import fx, nn
from torch.nn import functional
from torch.nn.modules import batchnorm, conv, dropout, instancenorm

from blockenc.folding.copies import copy_of
from blockenc.nn.channels import BUFFER, KeyedChannels, KeyedOutput
from blockenc.nn.stems import BlockConvolution

ACTIVATIONS = (
    *(nn.CELU, nn.ELU, nn.GELU, nn.Hardshrink, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.LeakyReLU),
    *(nn.LogSigmoid, nn.Mish, nn.PReLU, nn.ReLU, nn.ReLU6, nn.SELU, nn.SiLU, nn.Sigmoid, nn.Softplus),
    *(nn.Softshrink, nn.Softsign, nn.Tanh, nn.Tanhshrink, nn.Threshold),
)
ELEMENTWISE = (*ACTIVATIONS, dropout._DropoutNd, nn.Identity)
# By the number of axes of a batch; nn.BatchNorm1d takes two or three.
NORMS = {
    3: (nn.InstanceNorm1d,),
    4: (nn.BatchNorm2d, nn.InstanceNorm2d),
    5: (nn.BatchNorm3d, nn.InstanceNorm3d),
}
SPATIAL = {
    3: (nn.MaxPool1d, nn.AvgPool1d, nn.AdaptiveAvgPool1d, nn.AdaptiveMaxPool1d),
    4: (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.ZeroPad2d),
    5: (nn.MaxPool3d, nn.AvgPool3d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool3d),
}
FUNCTIONS = {
    *(torch.relu, torch.relu_, torch.sigmoid, torch.tanh, functional.relu, functional.relu6, functional.gelu),
    *(functional.silu, functional.leaky_relu, functional.elu, functional.selu, functional.mish),
    *(functional.hardswish, functional.hardsigmoid, functional.hardtanh, functional.softplus),
    *(functional.sigmoid, functional.tanh, functional.dropout),
}
METHODS = {"relu", "relu_", "sigmoid", "sigmoid_", "tanh", "tanh_", "contiguous", "clone"}


class Rows(NamedTuple):
    """How the channels of a layer's output lie in it, and in its weights.

    channels: how many; None if any number.
    axis: theirs, and dims: the number of axes of a batch; None if any.
    makes: whether the layer makes the channels; else it passes those of its input on, each for itself.
    """

    channels: int | None
    axis: int | None
    dims: int | None
    makes: bool


def rows(layer: nn.Module) -> Rows | None:
    """None where that is not known."""
    if not _computes_as_known(layer):
        return None
    if isinstance(layer, conv._ConvNd):
        dims = len(layer.kernel_size) + 2
        if layer.groups == 1:
            return Rows(layer.out_channels, 1, dims, True)
        of_each = layer.groups == layer.in_channels == layer.out_channels
        return Rows(layer.out_channels, 1, dims, False) if of_each else None
    if isinstance(layer, nn.Linear):
        return Rows(layer.out_features, -1, None, True)
    if isinstance(layer, BlockConvolution):
        outputs = layer.geometry.rows.outputs * layer.geometry.columns.outputs
        return Rows(len(layer.weight) // outputs, 1, 4, True)
    if isinstance(layer, batchnorm._NormBase):
        of_norm = next((n for n, kinds in NORMS.items() if isinstance(layer, kinds)), None)
        return Rows(layer.num_features, 1, of_norm, False)
    if isinstance(layer, nn.GroupNorm) and layer.num_groups in (1, layer.num_channels):
        return Rows(layer.num_channels, 1, None, False)
    if isinstance(layer, nn.LayerNorm) and len(layer.normalized_shape) == 1:
        return Rows(layer.normalized_shape[0], -1, None, False)
    if isinstance(layer, nn.PReLU) and layer.num_parameters > 1:
        return Rows(layer.num_parameters, 1, None, False)
    for dims, kinds in SPATIAL.items():
        if isinstance(layer, kinds):
            return Rows(None, 1, dims, False)
    return Rows(None, None, None, False) if isinstance(layer, ELEMENTWISE) else None


# What a layer may have for each channel.
VALUES = ("weight", "bias", "running_mean", "running_var")
KNOWN = (
    *(conv._ConvNd, nn.Linear, BlockConvolution, batchnorm._BatchNorm, instancenorm._InstanceNorm),
    *(nn.GroupNorm, nn.LayerNorm, *ELEMENTWISE, *(kind for kinds in SPATIAL.values() for kind in kinds)),
)


def _computes_as_known(layer: nn.Module) -> bool:
    """Whether a layer is of a known type, or of one derived from it that computes in the same way."""
    own = type(layer)
    if own is BlockConvolution:
        return True
    if not isinstance(layer, KNOWN) or isinstance(layer, BlockConvolution):
        return False
    base = next(kind for kind in own.__mro__ if kind.__module__.startswith("torch.nn.modules."))
    alike = all(
        getattr(own, name, None) is getattr(base, name, None) for name in ("forward", "_conv_forward")
    )
    return alike and set(layer._parameters) | set(layer._buffers) <= {
        *(*VALUES, "num_batches_tracked", BUFFER),
    }


def move(layer: nn.Module, order: torch.Tensor) -> None:
    """Puts the channels of a layer in an order: channel c of its output is what channel order[c] was."""
    axis = 0
    if isinstance(layer, BlockConvolution):
        outputs = len(layer.weight) // len(order)
        order = (order[:, None] * outputs + torch.arange(outputs, device=order.device)).flatten()
    elif isinstance(layer, conv._ConvTransposeNd) and layer.groups == 1:
        axis = 1  # of the weight [inputs, outputs, ...]
    for name in VALUES:
        value: Any = getattr(layer, name, None)
        # A PReLU may have one weight for all channels.
        if isinstance(value, torch.Tensor) and value.numel() > 1:
            where = axis if name == "weight" else 0
            with torch.no_grad():
                value.copy_(value.index_select(where, order.to(value.device)))


class Trace:
    """What a model computes, as torch.fx sees it: which nodes the modules' outputs are.

    In evaluation; KeyedOutputs are left out of account. Raises ValueError where it cannot be traced.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        bare = copy_of(model).eval()  # since what runs may change itself
        for module in bare.modules():
            if (hook := KeyedOutput.of(module)) is not None:
                hook.take(module)
        defaults = {
            name: parameter.default
            for name, parameter in inspect.signature(model.forward).parameters.items()
            if parameter.default is not inspect.Parameter.empty
        }
        tracer = _Tracer()
        try:
            graph = tracer.trace(bare, defaults)
        except Exception as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise ValueError(
                f"model: torch.fx cannot trace it ({reason}), so that it is not known which layers make the "
                "channels; name convolutions or linear layers themselves in layers="
            ) from error
        ours = dict(zip(bare.modules(), model.modules()))
        self.outputs = {ours[module]: nodes for module, nodes in tracer.outputs.items()}
        self.inside = {node: {ours[module] for module in within} for node, within in tracer.inside.items()}
        self.number = {node: n for n, node in enumerate(graph.nodes)}

    def place(self, layer: nn.Module) -> int:
        """When a layer finishes first; of those that end with the same node, what is inside comes first."""
        nodes = self.outputs.get(layer)
        return self.number[nodes[0]] if nodes else -1

    def carriers(
        self, layer: nn.Module, name: str, axis: int, sure: bool, others: Sequence[nn.Module]
    ) -> list[nn.Module]:
        """The modules that have to be moved so that the output of a layer is in another order (of a
        KeyedChannels: so that its input is).

        axis: of the channels. sure: whether what the model makes is compared afterwards, so that axes that
            may be the same are taken for it. others: layers with orders of their own, which nothing passes.
        """
        if layer not in self.outputs:
            raise refusal(name, "it does not run when the model does, or gives no tensor")
        stops = {node for other in others for node in self.outputs.get(other, ())}
        passed: dict[fx.Node, nn.Module | None] = {}
        for end in self.outputs[layer]:
            if isinstance(layer, KeyedChannels):
                node = _first_input(end, name)
                self._only_use(node, end, name)
            else:
                node = end
                if any(layer in self.inside[user] for user in end.users):
                    raise refusal(name, f"what {end.name} gives is also used inside the layer")
            found: list[Rows] = []
            while True:
                if node in stops and not (node is end and self._comes_last(layer, node, others)):
                    raise refusal(
                        name, f"{str(node.target)!r} has an order of its own; take both off at once"
                    )
                module = passed[node] = self._module(node, name)
                if module is not None:
                    found.append(_rows_of(module, name, self._called(module)))
                    if found[-1].makes:
                        break
                before = _first_input(node, name)
                self._only_use(before, node, name)
                node = before
            _check_axes(found, axis, sure, name)
        carriers = [m for m in dict.fromkeys(passed.values()) if m is not None and holds_values(m)]
        for module in carriers:
            if any(node not in passed for node in self.outputs[module]):
                raise refusal(name, f"{self._called(module)} is also used elsewhere in the model")
        return carriers

    def _comes_last(self, layer: nn.Module, node: fx.Node, others: Sequence[nn.Module]) -> bool:
        """Whether no layer inside of this one has an order of its own on the same node."""
        inside = set(layer.modules()) - {layer}
        return not any(other in inside and node in self.outputs.get(other, ()) for other in others)

    def _module(self, node: fx.Node, name: str) -> nn.Module | None:
        """The layer that a node is; None of a function of each value for itself."""
        if node.op == "call_module":
            return self.model.get_submodule(str(node.target))
        passes = (node.op == "call_function" and node.target in FUNCTIONS) or (
            node.op == "call_method" and node.target in METHODS
        )
        if not passes or len(node.all_input_nodes) != 1:
            what = getattr(node.target, "__name__", str(node.target))
            is_input = node.op == "placeholder"
            raise refusal(name, "it is of the model's input" if is_input else f"it comes out of {what!r}")
        return None

    def _only_use(self, node: fx.Node, by: fx.Node, name: str) -> None:
        if list(node.users) != [by]:
            raise refusal(
                name, f"what {node.name} gives is also used elsewhere, as by a sum around the layer"
            )

    def _called(self, module: nn.Module) -> str:
        return repr(next(name for name, found in self.model.named_modules() if found is module))


def _first_input(node: fx.Node, name: str) -> fx.Node:
    if not node.args or not isinstance(node.args[0], fx.Node):
        raise refusal(name, f"what {node.name} is given is not known")
    return node.args[0]


def refusal(name: str, reason: str) -> ValueError:
    return ValueError(
        f"layers: the order of channels at {name!r} cannot be moved into weights: {reason}. It has to come "
        "from a convolution or a linear layer (no groups), with nothing but batch normalisations and "
        "activations between, and no other use of what they give"
    )


def _rows_of(layer: nn.Module, name: str, called: str) -> Rows:
    if isinstance(layer, KeyedChannels):
        raise refusal(name, f"{called} has an order of its own; take both off at once")
    found = rows(layer)
    if found is None:
        groups = " with groups" if getattr(layer, "groups", 1) != 1 else ""
        raise refusal(name, f"{called} is a {type(layer).__name__}{groups}")
    return found


def _check_axes(found: Sequence[Rows], axis: int, sure: bool, name: str) -> None:
    """That all of them have their channels along one axis."""
    dims = {item.dims for item in found if item.dims is not None}
    axes = {axis, *(item.axis for item in found if item.axis is not None)}
    along = {one % max(dims) for one in axes} if dims else axes
    if len(dims) > 1 or (len(along) > 1 and (dims or not sure)):
        raise refusal(
            name,
            f"the layers that make them have them along different axes, {sorted(axes)}"
            + (
                ", which may or may not be the same one; give example=, to compare outputs"
                if not dims
                else ""
            ),
        )


def holds_values(layer: nn.Module) -> bool:
    return any(value is not None for value in (*layer._parameters.values(), *layer._buffers.values()))


def check_weights(model: nn.Module, layer: nn.Module, name: str) -> None:
    """Raises ValueError unless a layer's values are its own, and plain."""
    called = repr(next(found for found, module in model.named_modules() if module is layer))
    hooks = [hook for hook in layer._forward_hooks.values() if not isinstance(hook, KeyedOutput)]
    if hooks or layer._forward_pre_hooks:
        raise refusal(name, f"{called} has hooks, which may change what it computes")
    kept = {**layer._parameters, **layer._buffers}
    if any(name not in kept and getattr(layer, name, None) is not None for name in VALUES):
        raise refusal(name, f"{called} computes its weights (weight_norm, spectral_norm)")
    for value in [value for value in kept.values() if value is not None]:
        if type(value.data) is not torch.Tensor or type(value) not in (nn.Parameter, torch.Tensor):
            raise refusal(name, f"{called} has a {type(value).__name__} in the place of a plain parameter")
        for other in model.modules():
            if other is not layer and any(
                value is shared for shared in (*other._parameters.values(), *other._buffers.values())
            ):
                raise refusal(name, f"{called} shares its weights with another layer")


class _Tracer(fx.Tracer):
    def __init__(self) -> None:
        super().__init__()
        self.outputs: dict[nn.Module, list[fx.Node]] = {}
        self.inside: dict[fx.Node, tuple[nn.Module, ...]] = {}
        self._open: list[nn.Module] = []

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        ours = type(module).__module__.startswith("blockenc.")
        return ours or super().is_leaf_module(module, name)

    def call_module(self, module: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        with self._in(module):
            output = super().call_module(module, forward, args, kwargs)
        if isinstance(output, fx.Proxy):
            self.outputs.setdefault(module, []).append(output.node)
        return output

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        self.inside[node] = tuple(self._open)
        return node

    @contextlib.contextmanager
    def _in(self, module: nn.Module) -> Iterator[None]:
        self._open.append(module)
        try:
            yield
        finally:
            self._open.pop()
