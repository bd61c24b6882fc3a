"""Keys in the stems of real architectures: convolutions, patch embeddings, position embeddings.

tests/test_protect.py has what is common to all of them: what is compared, and what is refused.
"""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import blockenc
from blockenc import schemes, steps
from blockenc.folding import fold, patch_size, unfold
from blockenc.folding.values import Values
from blockenc.nn.stems import BlockConvolution, PlacedPatches

timm = pytest.importorskip("timm")
torchvision = pytest.importorskip("torchvision")
transformers = pytest.importorskip("transformers")

KEY = blockenc.Key(bytes(range(32)))
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGENET = {"mean": MEAN, "std": STD}


def cipher_of(scheme: blockenc.Scheme, key: Any = KEY) -> blockenc.Cipher:
    return blockenc.Cipher(key, scheme)


LINEAR = blockenc.Scheme(block_size=4, steps=("shuffle", "np"))
ALL = blockenc.Scheme(block_size=4)
# Schemes that treat all blocks alike.
UNIFORM = {
    "shuffle and np": LINEAR,
    "all three, M = 2": blockenc.Scheme(block_size=2),
    "all three, M = 8": blockenc.Scheme(block_size=8),
    "decimal ffx": blockenc.Scheme(block_size=4, ffx="decimal"),
    "LE": schemes.LE(),
    "nibbles, then ffx": blockenc.Scheme(block_size=4, steps=(steps.Shuffle(cells="nibble"), "np", "ffx")),
    "turned sub-blocks": blockenc.Scheme(
        block_size=4, steps=(steps.Rotate(period=8), steps.Colour(period=8), steps.Scramble(period=8))
    ),
}
# Schemes that move blocks of 8, or give them keys of their own.
VIT = schemes.VIT(block_size=8)
VIT_FFX = blockenc.Scheme(steps=(steps.Scramble(period="image"), "shuffle", "np", "ffx"), block_size=8)
ETC = schemes.ETC(block_size=8)
OWN_FFX = blockenc.Scheme(steps=(steps.Shuffle(period="image"), steps.Ffx(period="image")), block_size=8)
MOVING = {"ViT": VIT, "ViT and ffx": VIT_FFX, "EtC": ETC, "a key for each block, and ffx": OWN_FFX}


def randomised(model: nn.Module) -> nn.Module:
    """In float64 and evaluation, with statistics, positions and heads that are not those of a start."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    for name, parameter in model.named_parameters():
        if "pos" in name or "head" in name or "class" in name:
            nn.init.normal_(parameter)
    return model.double().eval()


def inputs(cipher: blockenc.Cipher, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Images, plain and encrypted, normalised in float64."""
    mean, std = (torch.tensor(numbers, dtype=torch.float64)[:, None, None] for numbers in (MEAN, STD))
    return (x.double() / 255 - mean) / std, cipher.encrypt(x, dtype=torch.float64, mean=MEAN, std=STD)


def logits(output: Any) -> torch.Tensor:
    if isinstance(output, torch.Tensor):
        return output
    return output.logits if hasattr(output, "logits") else output.pooler_output


def images(side: int) -> torch.Tensor:
    return torch.randint(
        0, 256, (2, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


def check(model: nn.Module, scheme: blockenc.Scheme, side: int) -> nn.Module:
    """The protected model does on encrypted images what `model` does on plain ones, and nothing else, and
    comes back."""
    randomised(model)
    cipher, x = cipher_of(scheme), images(side)
    plain, encrypted = inputs(cipher, x)
    protected = blockenc.protect(model, cipher, example=x[:1], **IMAGENET)
    back = blockenc.unprotect(protected, cipher, example=x[:1], **IMAGENET)
    with torch.no_grad():
        want = logits(model(plain))
        scale = float(want.abs().max())
        close = {"rtol": 0, "atol": 1e-12 * scale}
        torch.testing.assert_close(logits(protected(encrypted)), want, **close)
        torch.testing.assert_close(logits(back(plain)), want, **close)
        other = cipher_of(scheme, blockenc.Key(bytes(32)))
        for wrong in (plain, inputs(other, x)[1]):
            assert (logits(protected(wrong)) - want).abs().max() > 1e-6 * scale
    computed = {name for name in model.state_dict() if name.endswith("gain")}  # of a weight that no longer is
    assert back.state_dict().keys() >= model.state_dict().keys() - computed
    return protected


CONVOLUTIONS: dict[str, Callable[[], nn.Module]] = {
    "3x3/1": lambda: nn.Conv2d(3, 8, 3, 1, 1),
    "3x3/2": lambda: nn.Conv2d(3, 8, 3, 2, 1, bias=False),
    "5x5/1, no padding": lambda: nn.Conv2d(3, 8, 5),
    "5x5/1, more padding": lambda: nn.Conv2d(3, 8, 5, 1, 4),
    "7x7/2": lambda: nn.Conv2d(3, 8, 7, 2, 3),
    "11x11/4": lambda: nn.Conv2d(3, 8, 11, 4, 2),
    "3x3/3": lambda: nn.Conv2d(3, 8, 3, 3),
    "4x4/4": lambda: nn.Conv2d(3, 8, 4, 4),
    "16x16/16": lambda: nn.Conv2d(3, 8, 16, 16),
    "groups and dilation": lambda: nn.Conv2d(3, 9, 3, 2, 2, dilation=2, groups=3),
    "same": lambda: nn.Conv2d(3, 8, (4, 2), padding="same"),
    "circular": lambda: nn.Conv2d(3, 8, 5, 2, 2, padding_mode="circular"),
    "standardised weights": lambda: timm.layers.StdConv2d(3, 8, 7, stride=2, padding=3),
    "standardised patches": lambda: timm.layers.ScaledStdConv2d(3, 8, 8, stride=8, padding=0),
    "TensorFlow's padding": lambda: timm.layers.Conv2dSame(3, 8, 3, stride=2, bias=False),
}


@pytest.mark.parametrize("scheme", UNIFORM)
@pytest.mark.parametrize("conv", CONVOLUTIONS)
def test_any_convolution(conv: str, scheme: str) -> None:
    first: Any = CONVOLUTIONS[conv]()
    check(nn.Sequential(first, nn.Tanh(), nn.Conv2d(first.out_channels, 4, 3)), UNIFORM[scheme], 48)


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
PATCHES = {**SMALL, "image_size": 64, "patch_size": 8}
TIMM_VIT = {"img_size": 64, "patch_size": 8, "embed_dim": 36, "depth": 2, "num_classes": 10, "num_heads": 3}


def hugging_face(name: str, config: str, **options: Any) -> nn.Module:
    return getattr(transformers, name)(getattr(transformers, config)(**options))  # type: ignore[no-any-return]


def beit(**options: Any) -> nn.Module:
    return hugging_face("BeitForImageClassification", "BeitConfig", **PATCHES, **options)


def torchvision_resnet() -> nn.Module:
    block = torchvision.models.resnet.BasicBlock
    return torchvision.models.ResNet(block, [1, 1, 1, 1], num_classes=10)  # type: ignore[no-any-return]


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "torchvision ResNet": torchvision_resnet,
    "torchvision VGG": lambda: (
        torchvision.models.VGG(
            torchvision.models.vgg.make_layers([8, "M", 16, "M"], batch_norm=True), num_classes=10
        ).features
    ),
    "torchvision DenseNet": lambda: torchvision.models.DenseNet(8, (2, 2), 16, num_classes=10),
    "torchvision Swin": lambda: torchvision.models.SwinTransformer([4, 4], 24, [1, 1], [2, 2], [4, 4]),
    "timm ResNet-D": lambda: timm.models.resnet.ResNet(
        timm.models.resnet.BasicBlock,
        (1, 1, 1, 1),
        stem_width=8,
        stem_type="deep",
        num_classes=10,
    ),
    "timm ConvNeXt": lambda: timm.models.convnext.ConvNeXt(depths=(1,) * 4, dims=(8,) * 4),
    "timm EfficientNet": lambda: timm.models.efficientnet._gen_efficientnet(
        "tf_efficientnet_b0", channel_multiplier=0.25, depth_multiplier=0.25, bn_eps=1e-3, pad_type="same"
    ),
    "timm ConvMixer": lambda: timm.models.convmixer.ConvMixer(32, 2, 5, 8, num_classes=10),
    "Hugging Face ResNet": lambda: hugging_face(
        "ResNetForImageClassification", "ResNetConfig", embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]
    ),
    "BEiT with relative positions": lambda: beit(use_relative_position_bias=True),
}

VISION_TRANSFORMERS: dict[str, Callable[[], nn.Module]] = {
    "torchvision ViT": lambda: torchvision.models.VisionTransformer(64, 8, 2, 2, 32, 48, num_classes=10),
    "timm ViT": lambda: timm.models.vision_transformer.VisionTransformer(**TIMM_VIT),
    "timm DeiT, two prefix tokens": lambda: timm.create_model("deit_tiny_distilled_patch16_224", **TIMM_VIT),
    "BEiT": lambda: beit(use_absolute_position_embeddings=True),
    "Hugging Face ViT": lambda: hugging_face("ViTForImageClassification", "ViTConfig", **PATCHES),
    "Hugging Face DeiT": lambda: hugging_face(
        "DeiTForImageClassificationWithTeacher", "DeiTConfig", **PATCHES
    ),
    "CLIP": lambda: hugging_face("CLIPVisionModel", "CLIPVisionConfig", **PATCHES),
}


@pytest.mark.parametrize("network", {**NETWORKS, **VISION_TRANSFORMERS})
def test_networks(network: str) -> None:
    check({**NETWORKS, **VISION_TRANSFORMERS}[network](), ALL, 64)


@pytest.mark.parametrize("scheme", MOVING)
@pytest.mark.parametrize("network", VISION_TRANSFORMERS)
def test_blocks_that_move_or_have_keys_of_their_own(network: str, scheme: str) -> None:
    protected = check(VISION_TRANSFORMERS[network](), MOVING[scheme], 64)
    placed = [module for module in protected.modules() if isinstance(module, PlacedPatches)]
    assert len(placed) == (scheme not in ("ViT", "ViT and ffx"))


def test_tokens_come_out_in_the_order_of_encrypted_patches() -> None:
    model = randomised(hugging_face("ViTModel", "ViTConfig", **PATCHES))
    cipher, x = cipher_of(VIT), images(64)
    plain, encrypted = inputs(cipher, x)
    protected = blockenc.protect(model, cipher, example=x, **IMAGENET)
    want, got = model(plain).last_hidden_state, protected(encrypted).last_hidden_state
    moves = torch.from_numpy(cipher.plans(64, 64)[0].moves[0]).long()
    torch.testing.assert_close(got[:, 0], want[:, 0])
    torch.testing.assert_close(got[:, 1:], want[:, 1:][:, moves])


NEEDS_NEIGHBOURS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "convolution": (torchvision_resnet, "looks across patches: it needs neighbours"),
    "convolution of tokens": (NETWORKS["timm ConvMixer"], "The scheme moves blocks"),
    "relative positions": (NETWORKS["BEiT with relative positions"], "The scheme moves blocks"),
    "windows": (
        lambda: torchvision.models.SwinTransformer([8, 8], 24, [1, 1], [2, 2], [4, 4]),
        "The scheme moves blocks",
    ),
    "mixer": (
        lambda: timm.models.mlp_mixer.MlpMixer(10, 64, patch_size=8, num_blocks=2, embed_dim=36),
        "The scheme moves blocks",
    ),
    "patches of another size": (
        lambda: timm.models.convnext.ConvNeXt(depths=(1,) * 4, dims=(8,) * 4),
        "blocks of 8 x 8 across the model's patches of 4 x 4",
    ),
}


@pytest.mark.parametrize("name", NEEDS_NEIGHBOURS)
def test_moving_blocks_are_refused_where_neighbours_are_needed(name: str) -> None:
    make, says = NEEDS_NEIGHBOURS[name]
    with pytest.raises(ValueError, match=re.escape(says)):
        blockenc.protect(randomised(make()), cipher_of(VIT), example=images(64), **IMAGENET)


def test_moving_blocks_need_a_model_that_runs_on_whole_patches() -> None:
    parts = nn.ModuleDict({"embed": nn.Conv2d(3, 8, 8, 8), "other": nn.Linear(2, 2)})
    with pytest.raises(ValueError, match="ModuleDict has no forward, and the scheme moves blocks"):
        blockenc.protect(parts, cipher_of(VIT), **IMAGENET)
    model = nn.Sequential(nn.Conv2d(3, 8, 16, 16), nn.AdaptiveAvgPool2d(1))
    with pytest.raises(ValueError, match="multiples of the patches' side 16, got 40 x 40"):
        blockenc.protect(model, cipher_of(VIT), example=images(40), **IMAGENET)
    # No place matters to this model, so that it needs no position embedding.
    check(nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.Tanh(), nn.AdaptiveAvgPool2d(1)), VIT, 48)


def test_a_position_embedding_may_have_to_be_named() -> None:
    model = randomised(VISION_TRANSFORMERS["timm ViT"]())
    model.register_buffer("pos_other", torch.randn(1, 64, 36).double())
    cipher, x = cipher_of(VIT), images(64)
    with pytest.raises(ValueError, match="positions: pos_embed, pos_other may be the position embedding"):
        blockenc.protect(model, cipher, example=x, **IMAGENET)
    with pytest.raises(ValueError, match="positions: the model has no parameter or buffer called 'x'"):
        blockenc.protect(model, cipher, example=x, positions="x", **IMAGENET)
    with pytest.raises(ValueError, match=re.escape("T being 64 and up to 8 prefix tokens, got [1, 1, 36]")):
        blockenc.protect(model, cipher, example=x, positions="cls_token", **IMAGENET)
    with pytest.raises(ValueError, match="The scheme moves blocks"):
        blockenc.protect(model, cipher, example=x, positions="pos_other", **IMAGENET)
    plain, encrypted = inputs(cipher, x)
    protected = blockenc.protect(model, cipher, example=x, positions="pos_embed", **IMAGENET)
    torch.testing.assert_close(protected(encrypted), model(plain))


class LinearPatches(nn.Module):
    def __init__(self, order: str) -> None:
        super().__init__()
        self.order, self.embed, self.head = order, nn.Linear(192, 12), nn.Linear(12, 4)
        self.pos_embed = nn.Parameter(torch.randn(1, 36, 12))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, c, h, w = x.shape
        order = (0, 2, 4, 3, 5, 1) if self.order == "hwc" else (0, 2, 4, 1, 3, 5)
        patches = x.view(n, c, h // 8, 8, w // 8, 8).permute(order).reshape(n, -1, 192)
        return self.head(torch.tanh(self.embed(patches) + self.pos_embed).square().mean(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("order", ["chw", "hwc"])
@pytest.mark.parametrize("scheme", [LINEAR, ALL, schemes.LE(), VIT, VIT_FFX], ids=str)
def test_linear_patch_embeddings(scheme: blockenc.Scheme, order: str) -> None:
    check(LinearPatches(order), scheme, 48)


class Frames(nn.Module):
    """kind: "image" repeats an image; "CT" and "TC" take videos [N, C, T, H, W] and [N, T, C, H, W]."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.embed, self.head = kind, nn.Conv3d(3, 6, (2, 8, 8), (2, 8, 8)), nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x[:, :, None].repeat(1, 1, 2, 1, 1) if self.kind == "image" else x
        x = x.transpose(1, 2) if self.kind == "TC" else x
        return self.head(torch.tanh(self.embed(x)).mean((2, 3, 4)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ["image", "CT", "TC"])
@pytest.mark.parametrize("scheme", [LINEAR, ALL, schemes.LE()], ids=str)
def test_patch_embeddings_of_frames(scheme: blockenc.Scheme, kind: str) -> None:
    if kind == "image":
        check(Frames(kind), scheme, 48)
        return
    model, cipher = Frames(kind).double(), cipher_of(scheme)
    frames = torch.randint(0, 256, (2, 4, 3, 16, 24), dtype=torch.uint8)
    plain, encrypted = (z.view(frames.shape) for z in inputs(cipher, frames.flatten(0, 1)))
    as_taken = (lambda z: z.transpose(1, 2)) if kind == "CT" else (lambda z: z)
    protected = blockenc.protect(model, cipher, example=as_taken(frames), **IMAGENET)
    back = blockenc.unprotect(protected, cipher, example=as_taken(frames), **IMAGENET)
    want = model(as_taken(plain))
    torch.testing.assert_close(protected(as_taken(encrypted)), want)
    torch.testing.assert_close(back(as_taken(plain)), want)
    assert (protected(as_taken(plain)) - want).abs().max() > 1e-3


def small_cnn() -> nn.Module:
    torch.manual_seed(4)
    return nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.ReLU(), nn.Conv2d(8, 4, 3, 2), nn.Flatten(2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_look_ups_in_the_dtypes_of_models(dtype: torch.dtype) -> None:
    cipher, x = cipher_of(ALL), images(32)
    model = small_cnn().to(dtype)
    protected = blockenc.protect(model, cipher, **IMAGENET)
    plain, encrypted = inputs(cipher, x)
    want = model(plain.to(dtype))
    atol = {torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}[dtype]
    torch.testing.assert_close(protected(encrypted.to(dtype)), want, rtol=0, atol=atol)
    # A look-up takes encrypted integers as well, which need no normalisation.
    torch.testing.assert_close(protected(cipher.encrypt(x)), want, rtol=0, atol=atol)


def test_a_state_dict_carries_the_key_to_a_model_of_the_same_form() -> None:
    cipher, x = cipher_of(ALL), images(32)
    model = small_cnn()
    protected = blockenc.protect(model, cipher, **IMAGENET)
    other = blockenc.protect(small_cnn(), cipher_of(ALL, blockenc.Key(bytes(32))), **IMAGENET)
    other.load_state_dict(protected.state_dict())
    _, encrypted = inputs(cipher, x)
    assert torch.equal(other(encrypted.float()), protected(encrypted.float()))


def test_compiled_and_at_other_sizes() -> None:
    cipher, model = cipher_of(ALL), small_cnn()
    protected = blockenc.protect(model, cipher, **IMAGENET)
    compiled = torch.compile(protected, fullgraph=True, backend="aot_eager")
    for run, size in ((compiled, (3, 3, 8, 12)), (protected, (1, 3, 40, 8))):
        x = torch.randint(0, 256, size, dtype=torch.uint8)
        plain, encrypted = (z.float() for z in inputs(cipher, x))
        torch.testing.assert_close(run(encrypted), model(plain), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="height and width to be multiples of 4, got 8 x 10"):
        protected(torch.zeros(1, 3, 8, 10))


def test_trained_on_after_protection_it_works_on_plain_images_again() -> None:
    cipher, x = cipher_of(LINEAR), images(32)
    protected = blockenc.protect(small_cnn().double(), cipher, **IMAGENET)
    optimizer = torch.optim.SGD(protected.parameters(), 0.1)
    plain, encrypted = inputs(cipher, x)
    protected(encrypted).square().mean().backward()
    optimizer.step()
    back = blockenc.unprotect(protected, cipher, **IMAGENET)
    assert isinstance(back[0], BlockConvolution)  # no 3 x 3 kernel any more
    torch.testing.assert_close(back(plain), protected(encrypted))


def test_another_key_or_scheme_does_not_unprotect() -> None:
    model = small_cnn()
    protected = blockenc.protect(model, cipher_of(ALL), **IMAGENET)
    for cipher, says in (
        (cipher_of(ALL, blockenc.Key(bytes(32))), "differ by"),
        (cipher_of(LINEAR), "other steps than"),
        (cipher_of(schemes.LE()), "other steps than"),
        (cipher_of(blockenc.Scheme(block_size=2)), "expected blocks of 4 x 4"),
    ):
        with pytest.raises(ValueError, match=says):
            blockenc.unprotect(protected, cipher, **IMAGENET)
    placed = blockenc.protect(randomised(VISION_TRANSFORMERS["timm ViT"]()), cipher_of(ETC), **IMAGENET)
    with pytest.raises(ValueError, match="is not that which the model was protected with"):
        blockenc.unprotect(placed, cipher_of(VIT), **IMAGENET)
    with pytest.raises(ValueError, match="differ by"):
        blockenc.unprotect(placed, cipher_of(ETC, blockenc.Key(bytes(32))), **IMAGENET)
    with pytest.raises(ValueError, match="folded in for images of 64 x 64 pixels, got 32 x 32"):
        placed.patch_embed.proj(torch.zeros(1, 3, 32, 32))


def test_the_comparison_sees_a_fault_in_folding(monkeypatch: pytest.MonkeyPatch) -> None:
    of = Values.of

    def faulty(*args: Any) -> Values:
        values = of(*args)
        source = values.source.copy()
        source[0, [0, 1]] = source[0, [1, 0]]
        return values._replace(source=source)

    monkeypatch.setattr(Values, "of", faulty)
    for scheme in (LINEAR, ALL):
        with pytest.raises(ValueError, match=r"the outputs .*before and after differ by"):
            blockenc.protect(small_cnn(), cipher_of(scheme), **IMAGENET)


def test_several_passes_and_patches_that_do_not_fit() -> None:
    twice = blockenc.Scheme(block_size=4, steps=("ffx", steps.Shuffle(cells="nibble")))
    with pytest.raises(ValueError, match="takes several passes over an image"):
        blockenc.protect(small_cnn(), cipher_of(twice), **IMAGENET)
    for model, scheme, says in (
        (LinearPatches("chw"), ETC, "keys of their own, which an nn.Linear cannot absorb"),
        (timm.layers.Conv2dSame(3, 8, 3, stride=2), blockenc.Scheme(block_size=3), "pads by itself, and"),
        (timm.layers.StdConv2dSame(3, 8, 3, stride=2, padding="same"), LINEAR, "both computes its weights"),
        (nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect"), LINEAR, "pads by 'reflect'"),
        (nn.Linear(10, 2), LINEAR, "example: give images"),
    ):
        with pytest.raises(ValueError, match=re.escape(says)):
            blockenc.protect(model, cipher_of(scheme), example=None if scheme != ETC else images(48))


class Space(nn.Module):
    """A stem that is not known: squares of 4 x 4 pixels to channels, then a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(48, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(nn.functional.pixel_unshuffle(x, 4).movedim(1, 3)).movedim(3, 1)  # type: ignore[no-any-return]


def test_a_stem_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The example of docs/protect.md, by handlers; without, it is refused."""
    model, cipher = nn.Sequential(Space(), nn.Tanh()).double(), cipher_of(LINEAR)
    with pytest.raises(TypeError, match="'0' is Space"):
        blockenc.protect(model, cipher, stem="0", **IMAGENET)

    @fold.register
    def _(stem: Space, folding: Any) -> nn.Module:
        kernel, offset = folding.values.fold(stem.linear.weight.double().view(-1, 3, 4, 4), 4)
        stem.linear.weight.copy_(kernel.flatten(1))
        stem.linear.bias.add_(offset)
        return stem

    @unfold.register
    def _(stem: Space, folding: Any) -> nn.Module:
        kernel, offset = folding.values.unfold(stem.linear.weight.double().view(-1, 3, 4, 4), 4)
        stem.linear.weight.copy_(kernel.flatten(1))
        stem.linear.bias.sub_(offset)
        return stem

    patch_size.register(Space, lambda stem, channels: 4)
    original = copy.deepcopy(model.state_dict())
    protected = check(model, LINEAR, 32)
    assert not torch.equal(protected[0].linear.weight, original["0.linear.weight"])


def test_protect_may_be_the_first_to_be_imported() -> None:
    subprocess.run([sys.executable, "-c", "import blockenc.folding.stems"], check=True)
