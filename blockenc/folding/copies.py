"""Copies of models, whose weights are changed."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)


def check_values(model: nn.Module) -> None:
    for name, parameter in (*model.named_parameters(), *model.named_buffers()):
        if torch.nn.parameter.is_lazy(parameter):
            raise ValueError(f"model: {name} is lazy; run the model once, so that it takes its shape")
    if any(parameter.device.type == "meta" for parameter in model.parameters()):
        raise ValueError("model: its parameters are on the meta device, without values; load them first")


def copy_of(model: Model) -> Model:
    try:
        return copy.deepcopy(model)
    except RuntimeError as error:
        raise ValueError(
            f"model: cannot be copied ({error}); a weight computed by a hook, as by the old weight_norm and "
            "prune, has to be made a parameter first (torch.nn.utils.remove_weight_norm, prune.remove)"
        ) from None


def replaced(model: Model, layer: nn.Module, by: nn.Module) -> Model:
    """The model with another layer in the place of one, wherever that is named."""
    if model is layer:
        return by  # type: ignore[return-value]
    for module in model.modules():
        for child, value in module._modules.items():
            if value is layer:
                module._modules[child] = by
    return model
