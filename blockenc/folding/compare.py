"""Running a model that stays as it is, buffers and random numbers included; whether two of them make the same
of an image."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils import _pytree

# By how much of an output's largest value two runs may differ from rounding alone.
TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.25}
# Of each output, so many values are kept, evenly spaced: enough to tell a wrong one, and cheap.
SAMPLES = 4096


class Run(NamedTuple):
    """What a model did with an image.

    seen: the first layer's input; None if it had none.
    outputs: samples of the outputs of every module that finished from the first layer on, and of the model.
    dtype: of the computation.
    """

    seen: torch.Tensor | None
    outputs: list[tuple[str, torch.Tensor]]
    dtype: torch.dtype


class Order(NamedTuple):
    """Where tokens move: place g after `prefix` tokens holds what place moves[g] (int64 [G]) held."""

    moves: torch.Tensor
    prefix: int

    def apply(self, value: torch.Tensor) -> torch.Tensor:
        """An output for each token, [N, T, ...] or [N, D, rows, columns], in the new order; others as
        they are."""
        count, moves = len(self.moves), self.moves.to(value.device)
        if value.dim() == 4 and value.shape[2] * value.shape[3] == count:
            return value.flatten(2)[:, :, moves].view(value.shape)
        for before in (self.prefix, 0):
            if value.dim() > 2 and value.shape[1] == before + count:
                return torch.cat([value[:, :before], value[:, before:][:, moves]], 1)
        return value


def run(
    model: nn.Module, x: torch.Tensor, first: str, order: Order | None = None, unordered: bool = False
) -> Run:
    """Run a model as in evaluation. first: the name of its first layer, "" for the model itself.

    unordered: tokens may be in another order inside the model; so all outputs but its own are sorted.
    order: of the tokens, in which the model's own outputs are put.
    """
    layer = model.get_submodule(first)
    seen: list[torch.Tensor] = []
    outputs: list[tuple[str, torch.Tensor]] = []

    def watch(name: str, module: nn.Module) -> Any:
        def finished(_: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
            if module is layer and not seen:
                seen.append((*args, *kwargs.values())[0].detach().clone())
            if seen and not (unordered and not name):
                outputs.extend(_sampled(f"of {name!r}" if name else "", output, unordered))

        return module.register_forward_hook(finished, with_kwargs=True)

    inside = {module for module in layer.modules() if module is not layer}  # how it computes its weights
    hooks = [watch(name, module) for name, module in model.named_modules() if module not in inside]
    try:
        with _untouched(model, x.device), torch.no_grad():
            result = model(x)
            if unordered:
                result = _pytree.tree_map(
                    lambda leaf: order.apply(leaf) if order and isinstance(leaf, torch.Tensor) else leaf,
                    result,
                )
                outputs.extend(_sampled("", result, False))
    finally:
        for hook in hooks:
            hook.remove()
    parameter = next(layer.parameters())
    return Run(seen[0] if seen else None, outputs, parameter.dtype)


def difference(one: Run, other: Run) -> tuple[float, str]:
    """The largest difference of two runs, relative to the largest value of that output, and whose it is."""
    worst, where = 0.0, ""
    if [name for name, _ in one.outputs] != [name for name, _ in other.outputs]:
        return float("inf"), ""
    largest = max((float(a.abs().max()) for _, a in one.outputs), default=0.0)
    for (name, a), (_, b) in zip(one.outputs, other.outputs):
        if a.shape != b.shape:
            return float("inf"), name
        # What is next to nothing beside everything else, such as a mean of 0, may be rounding alone.
        scale = max(float(a.abs().max()), 1e-3 * largest)
        error = float((a - b).abs().max()) / scale if scale else float(b.abs().max() > 0)
        if not error <= worst:  # NaN, too
            worst, where = error, name
            if worst != worst:
                return float("inf"), name
    return worst, where


def tolerance(of: Run) -> float:
    return TOLERANCES.get(of.dtype, TOLERANCES[torch.float32])


def _sampled(name: str, output: Any, unordered: bool) -> Iterator[tuple[str, torch.Tensor]]:
    for value in _pytree.tree_leaves(output):
        if isinstance(value, torch.Tensor) and value.is_floating_point() and value.numel():
            flat = value.detach().flatten()
            flat = flat.sort().values if unordered else flat
            # Cloned, since a layer that works in place may write on it.
            yield name, flat[:: -(-flat.numel() // SAMPLES)].double().cpu().clone()


@contextlib.contextmanager
def _untouched(model: nn.Module, device: torch.device) -> Iterator[None]:
    """The model in evaluation, random numbers from a fixed seed; then all as it was, buffers included."""
    modes = [(module, module.training) for module in model.modules()]
    kept = [
        (module, name, buffer, buffer._version, buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    devices = [device] if device.type == "cuda" else []
    try:
        with (
            torch.random.fork_rng(devices),
            torch.autocast(device.type, enabled=False),
            torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=False),
        ):
            torch.default_generator.manual_seed(0)
            if devices:
                torch.cuda.manual_seed(0)
            model.eval()
            yield
    finally:
        for module, training in modes:
            module.training = training
        with torch.no_grad():
            for module, name, buffer, version, value in kept:
                if buffer._version != version:
                    buffer.copy_(value)
                module._buffers[name] = buffer
