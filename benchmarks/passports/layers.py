"""Convolutions whose normalisation takes its scale and bias from secret passports.

Restated from Fan, Ng and Chan, "Rethinking Deep Neural Network Ownership Verification" (NeurIPS 2019), scheme
V1, in which the passports are needed at inference, too.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence

import torch
from torch import nn
from torch.nn import functional
from torchvision.models.resnet import BasicBlock

from benchmarks.accuracy.fast_models import FastNet, Norm

WHOLE = 1.0, 1.0  # the parts of the gradients of gamma and beta that reach weights and passports


class PassportConv(nn.Module):
    """A convolution, and a batch normalisation with gamma and beta out of two passports.

    gamma is the mean over pixels of conv(scale passport), beta that of conv(bias passport), for each channel.

    conv: the convolution, without a bias.
    scale, bias: the passports, floats [n, conv.in_channels, h, w], averaged over n.
    signs: the owner's signature, +1 or -1 for each output channel, which the signs of gamma are trained to
        spell.
    between: what lies between the convolution and the normalisation, as a pooling; passports do not go
        through it.
    momentum: of the normalisation's running statistics.
    rates: how fast gamma and beta learn, as parameters of their own would at these multiples of the learning
        rate. None: as the gradient has it. A step of descent on the convolution's weights moves gamma by the
        squared length of the passport's mean patch (`reach`) times the rate, which can be hundreds.

    Raises ValueError for a convolution with a bias, and for shapes that do not fit.
    """

    def __init__(
        self,
        conv: nn.Conv2d,
        scale: torch.Tensor,
        bias: torch.Tensor,
        signs: torch.Tensor,
        *,
        between: nn.Module | None = None,
        momentum: float = 0.1,
        rates: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        if conv.bias is not None:
            raise ValueError("conv: expected one without a bias, whose place beta takes")
        for name, passport in (("scale", scale), ("bias", bias)):
            if passport.ndim != 4 or passport.shape[1] != conv.in_channels:
                raise ValueError(f"{name}: expected [n, {conv.in_channels}, h, w], got {[*passport.shape]}")
        if signs.shape != (conv.out_channels,):
            raise ValueError(f"signs: expected [{conv.out_channels}], got {[*signs.shape]}")
        self.conv = conv
        self.between = between or nn.Identity()
        self.norm = nn.BatchNorm2d(conv.out_channels, momentum=momentum, affine=False)
        # The passports are the owner's secret, so a state_dict has none.
        for name, held in (("scale", scale), ("bias", bias), ("signs", signs)):
            self.register_buffer(name, held, persistent=False)
        self.parts = WHOLE
        if rates is not None:
            self.parts = rates[0] / reach(conv, scale), rates[1] / reach(conv, bias)
        self.kept: tuple[torch.Tensor, torch.Tensor] | None = None

    def affine(self) -> tuple[torch.Tensor, torch.Tensor]:
        """gamma and beta, float32 [conv.out_channels] each."""
        if self.kept is not None:
            return self.kept
        with in_float32(self.conv.weight.device):
            gamma, beta = (self.conv(self.get_buffer(name)).mean((0, 2, 3)) for name in ("scale", "bias"))
        if self.parts != WHOLE:
            gamma, beta = (part * n + (1 - part) * n.detach() for part, n in zip(self.parts, (gamma, beta)))
        return gamma, beta

    def sign_share(self) -> float:
        """The part of the channels whose scale has the sign that the signature has, 0 to 1."""
        gamma, _ = self.affine()
        return float((gamma.sign() == self.get_buffer("signs")).float().mean())

    def keep(self) -> None:
        """Works gamma and beta out for the last time: for inference with fixed weights."""
        with torch.no_grad():
            self.kept = self.affine()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normalised: torch.Tensor = self.norm(self.between(self.conv(x)))
        gamma, beta = (numbers.to(normalised.dtype) for numbers in self.affine())
        return normalised * gamma[:, None, None] + beta[:, None, None]

    def sign_loss(self, margin: float = 0.1) -> torch.Tensor:
        """The sum over channels of max(margin - gamma * sign, 0): 0 where gamma spells the signature."""
        gamma, _ = self.affine()
        return torch.relu(margin - gamma * self.get_buffer("signs")).sum()


@contextlib.contextmanager
def in_float32(device: torch.device) -> Iterator[None]:
    """Convolutions in full float32: sums over all channels of a passport would lose signs to rounding."""
    exact = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
    with torch.autocast(device.type, enabled=False), exact:
        yield


def reach(conv: nn.Conv2d, passport: torch.Tensor) -> float:
    """The squared length of the mean patch that a convolution sees of a passport."""
    patches = functional.unfold(passport, conv.kernel_size, conv.dilation, conv.padding, conv.stride)  # type: ignore[arg-type]
    return float(patches.mean((0, 2)).square().sum())


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
    inputs = inputs_of(result, [getattr(block, f"conv{n}") for block, n in places], images)
    for (block, n), reached in zip(places, inputs):
        conv = getattr(block, f"conv{n}")
        setattr(block, f"conv{n}", PassportConv(conv, reached[:1], reached[1:], signature(conv, n)))
        setattr(block, f"bn{n}", nn.Identity())
    return result


def with_passports_in_groups(
    model: FastNet, groups: tuple[int, ...], images: torch.Tensor, rates: tuple[float, float] | None = None
) -> FastNet:
    """A copy of a network of the fast recipe, with passports in both convolutions of some of its groups.

    groups: 0 to 2. images: as for `with_passports`. rates: as for `PassportConv`.
    """
    result = copy.deepcopy(model)
    places = [(result.body[n], at) for n in groups for at, layer in enumerate(result.body[n])  # type: ignore[arg-type,var-annotated]
              if isinstance(layer, nn.Conv2d)]  # fmt: skip
    inputs = inputs_of(result, [group[at] for group, at in places], images)
    for n, ((group, at), reached) in enumerate(zip(places, inputs)):
        norm = next(place for place in range(at, len(group)) if isinstance(group[place], Norm))
        group[at] = PassportConv(
            group[at],
            reached[:1],
            reached[1:],
            signature(group[at], n),
            between=nn.Sequential(*group[at + 1 : norm]),
            momentum=group[norm].momentum,
            rates=rates,
        )
        for place in range(at + 1, norm + 1):
            group[place] = nn.Identity()
    return result


def signature(conv: nn.Conv2d, seed: int) -> torch.Tensor:
    """+1 or -1 for each output channel."""
    return 2.0 * torch.randint(0, 2, (conv.out_channels,), generator=torch.Generator().manual_seed(seed)) - 1


@torch.no_grad()
def inputs_of(model: nn.Module, layers: Sequence[nn.Module], images: torch.Tensor) -> list[torch.Tensor]:
    """What reaches some layers of images, as in evaluation."""
    inputs: dict[nn.Module, torch.Tensor] = {}
    hooks = [
        layer.register_forward_pre_hook(lambda layer, given: inputs.__setitem__(layer, given[0].clone()))
        for layer in layers
    ]
    model.eval()(images)
    for hook in hooks:
        hook.remove()
    return [inputs[layer] for layer in layers]


@torch.no_grad()
def issue(model: nn.Module, images: torch.Tensor) -> None:
    """Give a model the passports that it makes of two images, [2, C, H, W], each layer behind the last one's.

    Nothing is used of the passports that it had, so that whoever has the weights alone can do it.
    """

    def take(layer: PassportConv, given: tuple[torch.Tensor]) -> None:
        layer.scale, layer.bias = given[0][:1].clone(), given[0][1:].clone()

    hooks = [layer.register_forward_pre_hook(take) for layer in passports(model)]  # type: ignore[arg-type]
    model.eval()(images)
    for hook in hooks:
        hook.remove()


def passports(model: nn.Module) -> list[PassportConv]:
    return [module for module in model.modules() if isinstance(module, PassportConv)]
