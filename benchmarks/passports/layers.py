"""Convolutions whose normalisation takes its scale and bias from secret passports.

Restated from Fan, Ng and Chan, "Rethinking Deep Neural Network Ownership Verification" (NeurIPS 2019), scheme
V1, in which the passports are needed at inference, too.
"""

from __future__ import annotations

import copy

import torch
from torch import nn
from torchvision.models.resnet import BasicBlock


class PassportConv(nn.Module):
    """A convolution, and a batch normalisation with gamma and beta out of two passports.

    gamma is the mean over pixels of conv(scale passport), beta that of conv(bias passport), for each channel.

    conv: the convolution, without a bias.
    scale, bias: the passports, floats [n, conv.in_channels, h, w], averaged over n.
    signs: the owner's signature, +1 or -1 for each output channel, which the signs of gamma are trained to
        spell.

    Raises ValueError for a convolution with a bias, and for shapes that do not fit.
    """

    def __init__(self, conv: nn.Conv2d, scale: torch.Tensor, bias: torch.Tensor, signs: torch.Tensor) -> None:
        super().__init__()
        if conv.bias is not None:
            raise ValueError("conv: expected one without a bias, whose place beta takes")
        for name, passport in (("scale", scale), ("bias", bias)):
            if passport.ndim != 4 or passport.shape[1] != conv.in_channels:
                raise ValueError(f"{name}: expected [n, {conv.in_channels}, h, w], got {[*passport.shape]}")
        if signs.shape != (conv.out_channels,):
            raise ValueError(f"signs: expected [{conv.out_channels}], got {[*signs.shape]}")
        self.conv = conv
        self.norm = nn.BatchNorm2d(conv.out_channels, affine=False)
        # The passports are the owner's secret, so a state_dict has none.
        for name, held in (("scale", scale), ("bias", bias), ("signs", signs)):
            self.register_buffer(name, held, persistent=False)
        self.kept: tuple[torch.Tensor, torch.Tensor] | None = None

    def affine(self) -> tuple[torch.Tensor, torch.Tensor]:
        """gamma and beta, [conv.out_channels] each."""
        if self.kept is not None:
            return self.kept
        gamma, beta = (self.conv(self.get_buffer(name)).mean((0, 2, 3)) for name in ("scale", "bias"))
        return gamma, beta

    def keep(self) -> None:
        """Works gamma and beta out for the last time: for inference with fixed weights."""
        with torch.no_grad():
            self.kept = self.affine()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gamma, beta = self.affine()
        normalised: torch.Tensor = self.norm(self.conv(x))
        return normalised * gamma[:, None, None] + beta[:, None, None]

    def sign_loss(self, margin: float = 0.1) -> torch.Tensor:
        """The sum over channels of max(margin - gamma * sign, 0): 0 where gamma spells the signature."""
        gamma, _ = self.affine()
        return torch.relu(margin - gamma * self.get_buffer("signs")).sum()


def with_passports(model: nn.Module, stages: tuple[str, ...], images: torch.Tensor) -> nn.Module:
    """A copy of a ResNet of torchvision, with passports in all convolutions of the blocks of some stages.

    images: normalised, [2, C, H, W]; what the model makes of the first and the second of them, where a
        convolution begins, are its scale and its bias passport.
    """
    result = copy.deepcopy(model)
    places = [
        (block, n)
        for stage in stages
        for block in result.get_submodule(stage).modules()
        if isinstance(block, BasicBlock)
        for n in (1, 2)
    ]
    inputs: dict[nn.Module, torch.Tensor] = {}
    hooks = [
        getattr(block, f"conv{n}").register_forward_pre_hook(
            lambda conv, given: inputs.__setitem__(conv, given[0].clone())
        )
        for block, n in places
    ]
    with torch.no_grad():
        result.eval()(images)
    for hook in hooks:
        hook.remove()
    for block, n in places:
        conv = getattr(block, f"conv{n}")
        signs = 2.0 * torch.randint(0, 2, (conv.out_channels,), generator=torch.manual_seed(n)) - 1
        setattr(block, f"conv{n}", PassportConv(conv, inputs[conv][:1], inputs[conv][1:], signs))
        setattr(block, f"bn{n}", nn.Identity())
    return result


def passports(model: nn.Module) -> list[PassportConv]:
    return [module for module in model.modules() if isinstance(module, PassportConv)]
