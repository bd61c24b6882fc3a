"""Models of the field with random weights: plain, with a folded key, and behind a layer that decrypts."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import nn

import blockenc
from blockenc import schemes
from blockenc.nn.stems import PlacedPatches

KEY = blockenc.Key(bytes(range(32)))
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LINEAR = blockenc.Scheme(block_size=4, steps=("shuffle", "np"))
ALL = blockenc.Scheme(block_size=4)


class Case(NamedTuple):
    """A model, the side of its images, and a scheme, with its name in the table."""

    model: str
    side: int
    name: str
    scheme: blockenc.Scheme


MODELS = {
    "ResNet-18": ("torchvision", "resnet18"),
    "ResNet-50": ("torchvision", "resnet50"),
    "VGG-11": ("torchvision", "vgg11_bn"),
    "MobileNetV3-S": ("torchvision", "mobilenet_v3_small"),
    "EfficientNet-B0": ("torchvision", "efficientnet_b0"),
    "DenseNet-121": ("torchvision", "densenet121"),
    "ConvNeXt-T": ("torchvision", "convnext_tiny"),
    "Swin-T": ("torchvision", "swin_t"),
    "ResNet-26-D": ("timm", "resnet26d"),
    "NF-ResNet-26": ("timm", "nf_resnet26"),
    "ViT-Ti/16": ("timm", "vit_tiny_patch16_224"),
    "ViT-S/16": ("timm", "vit_small_patch16_224"),
    "DeiT-Ti/16, distilled": ("timm", "deit_tiny_distilled_patch16_224"),
    "BEiT-B/16": ("timm", "beit_base_patch16_224"),
}
LARGE_STEM = "ResNet-18, 3x3 stem"
TRANSFORMERS = ("ViT-Ti/16", "ViT-S/16")

CASES = (
    *(
        Case(LARGE_STEM, 32, f"{name}, M = {m}", blockenc.Scheme(block_size=m, steps=kinds))
        for name, kinds in (("shuffle, np", LINEAR.steps), ("all three", ALL.steps))
        for m in (2, 4, 8)
    ),
    *(Case(model, 224, "shuffle, np, M = 4", LINEAR) for model in ("ResNet-18", "ResNet-50", *TRANSFORMERS)),
    *(Case(model, 224, "all three, M = 4", ALL) for model in MODELS),
    *(Case(model, 224, "VIT, b = 16", schemes.VIT()) for model in TRANSFORMERS),
    *(Case(model, 224, "ETC, b = 16", schemes.ETC()) for model in TRANSFORMERS),
)


def model_of(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == LARGE_STEM:
        import torchvision

        model = torchvision.models.resnet18(num_classes=10)
        model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
        return model.eval()  # type: ignore[no-any-return]
    library, function = MODELS[name]
    if library == "timm":
        import timm

        return timm.create_model(function).eval()  # type: ignore[no-any-return]
    import torchvision

    return getattr(torchvision.models, function)().eval()  # type: ignore[no-any-return]


class Normalised(nn.Module):
    """uint8 images, normalised, through a model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", 255 * torch.tensor(MEAN)[:, None, None])
        self.register_buffer("std", 255 * torch.tensor(STD)[:, None, None])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model((x - self.mean) / self.std)  # type: ignore[no-any-return]


def measure(case: Case, batch: int, repeats: int) -> dict[str, Any]:
    """One row: differences, the first layer's size and work, and the latency of each form."""
    model = model_of(case.model)
    cipher = blockenc.Cipher(KEY, case.scheme)
    size = (case.side, case.side)
    x = torch.randint(0, 256, (batch, 3, *size), dtype=torch.uint8, generator=torch.manual_seed(1))
    y = cipher.encrypt(x)
    folded = blockenc.protect(model, cipher, mean=MEAN, std=STD, example=x[:1])
    decrypting = nn.Sequential(
        blockenc.nn.Encrypt(cipher, decrypt=True, size=None if cipher.takes_any_size else size),
        Normalised(model),
    )
    forms = {
        "plain": functools.partial(Normalised(model), x),
        "folded": functools.partial(Normalised(folded), y),
        "decrypting": functools.partial(decrypting, y),
    }
    with torch.inference_mode():
        plain, changed = (forms[name]() for name in ("plain", "folded"))
        seconds = _latencies(forms, repeats)
        layers = [_first_layer(form, x[:1]) for form in (model, folded)]
    difference = float((changed - plain).abs().max() / plain.abs().max())
    return {
        **case._asdict(),
        "scheme": case.scheme.to_json(),
        "largest difference": difference,
        "seconds": seconds,
        "first layer": dict(zip(("plain", "folded"), layers)),
    }


def _latencies(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Medians, of calls that take turns."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if turn:  # the first one warms up
                found[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in found.items()}


def _first_layer(model: nn.Module, x: torch.Tensor) -> dict[str, Any]:
    """Of the first layer that has a weight: its type, multiply-adds for an image, and the bytes of what it
    holds."""
    layer = next(_with_weights(model))
    places: list[int] = []  # of each convolution: of the first one that is computed
    convolve = nn.functional.conv2d

    def counted(*args: Any, **kwargs: Any) -> torch.Tensor:
        result = convolve(*args, **kwargs)
        places.append(result.shape[-1] * result.shape[-2])
        return result

    try:
        nn.functional.conv2d = counted
        Normalised(model)(x)
    finally:
        nn.functional.conv2d = convolve
    weight: Any = layer.weight
    used = 1 if isinstance(layer, PlacedPatches) else places[0]  # how often; it has a matrix for each place
    held = (*layer.parameters(), *layer.buffers())
    return {
        "type": type(layer).__name__,
        "multiply-adds": used * weight.numel(),
        "bytes": sum(tensor.numel() * tensor.element_size() for tensor in held),
    }


def _with_weights(model: nn.Module) -> Iterator[nn.Module]:
    return (module for module in model.modules() if isinstance(getattr(module, "weight", None), nn.Parameter))
