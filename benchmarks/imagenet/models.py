"""Torchvision's networks with weights of a file, of torchvision, or none."""

from __future__ import annotations

from pathlib import Path

import torch
import torchvision
from torch import nn


def state_of(arch: str, weights: str) -> dict[str, torch.Tensor]:
    """A state_dict, of a file or by torchvision's name of weights. Raises ValueError that says what to do."""
    if Path(weights).is_file():
        state: dict[str, torch.Tensor] = torch.load(weights, map_location="cpu", weights_only=True)
        return state
    known = torchvision.models.get_model_weights(arch)
    names = [member.name for member in known]
    if weights not in names:
        raise ValueError(
            f"--weights: expected a file, none, or one of {', '.join(names)} for {arch}, got {weights}"
        )
    try:
        found: dict[str, torch.Tensor] = known[weights].get_state_dict(progress=False, check_hash=True)
    except OSError as error:
        raise ValueError(
            f"--weights: {weights} of {arch} could not be downloaded ({error}). Without a network: fetch "
            f"{known[weights].url} elsewhere and give --weights FILE, or take random ones: --weights none"
        ) from None
    return found


def build(arch: str, classes: int, seed: int) -> nn.Module:
    """The network with random weights of a seed."""
    torch.manual_seed(seed)
    model: nn.Module = torchvision.models.get_model(arch, weights=None, num_classes=classes)
    return model


def load_weights(model: nn.Module, arch: str, weights: str) -> list[str]:
    """Put weights into a network; returns the tensors left random, which is a head of other classes at most.

    Raises ValueError if anything else does not fit.
    """
    if weights == "none":
        return []
    state, own = state_of(arch, weights), model.state_dict()
    head = {name for name in own if name.startswith(("fc.", "classifier.", "heads."))}
    other = {name for name in head & state.keys() if state[name].shape != own[name].shape}
    unlike = (own.keys() ^ state.keys()) | {
        n for n in own.keys() & state.keys() if state[n].shape != own[n].shape
    }
    if unlike - other:
        raise ValueError(
            f"--weights: {weights} is not of {arch}: {', '.join(sorted(unlike - other)[:3])} differ"
        )
    model.load_state_dict({n: t for n, t in state.items() if n not in other}, strict=False)
    return sorted(other)
