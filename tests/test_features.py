"""Channels of feature maps in keyed orders: the order itself, on layers of models, and moved into weights."""

from __future__ import annotations

import copy
import io
import json
import pickle
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations

import blockenc
from blockenc.keys.channels import channel_order
from blockenc.nn import KeyedChannels, protect_features, unprotect_features
from blockenc.nn.channels import KeyedOutput
from blockenc.nn.stems import BlockConvolution
from blockenc.reference import version2
from tests import make_vectors

SECRET = bytes(range(32))
KEY = blockenc.Key(SECRET)
OTHER = blockenc.Key(bytes(32))
VECTORS = json.loads(make_vectors.PATH_CHANNELS.read_text())


def order_of(name: str, channels: int, key: Any = KEY) -> torch.Tensor:
    return torch.from_numpy(channel_order(key, name, channels))


def randomised(model: nn.Module) -> nn.Module:
    """With statistics and biases that differ from channel to channel; as in evaluation."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            for name, value in (*module._parameters.items(), *module._buffers.items()):
                if value is not None and value.dim() == 1 and value.is_floating_point():
                    value.copy_(torch.rand(value.shape, generator=generator) + 0.5 * ("var" in name))
    return model.eval()


# --- the order ---


@pytest.mark.parametrize("case", VECTORS["orders"], ids=lambda case: f"{case['name']}-{case['channels']}")
def test_the_frozen_vectors(case: dict) -> None:
    key = bytes.fromhex(VECTORS["key"])
    assert channel_order(key, case["name"], case["channels"]).tolist() == case["order"]
    assert version2.channel_order(key, case["name"], case["channels"]) == case["order"]
    layer = KeyedChannels(key, case["name"], case["channels"])
    assert layer(torch.arange(case["channels"])[None])[0].tolist() == case["order"]


def test_the_oracle_writes_the_vectors_and_the_page_shows_one() -> None:
    assert make_vectors.text_channels() == make_vectors.PATH_CHANNELS.read_text()
    page = (Path(__file__).parents[1] / "docs" / "scheme.md").read_text()
    assert ", ".join(map(str, VECTORS["orders"][0]["order"])) in page


def test_orders_differ_by_key_name_and_number() -> None:
    orders = [
        *(channel_order(key, name, 64).tolist() for key in (KEY, OTHER) for name in ("a", "b", "a/b", "A")),
        channel_order(KEY.derive("a"), "a", 64).tolist(),
    ]
    assert all(sorted(order) == list(range(64)) for order in orders)
    assert len(set(map(tuple, orders))) == len(orders)
    # Not the first of 65 channels with one left out: each number has an order of its own.
    assert [c for c in channel_order(KEY, "a", 65).tolist() if c < 64] != orders[0]


def test_of_a_key_set_its_member_is_used() -> None:
    keys = blockenc.KeySet(channels=SECRET, shuffle=bytes(32))
    assert torch.equal(order_of("a", 32, keys), order_of("a", 32))
    assert torch.equal(order_of("a", 32, blockenc.KeySet(all=SECRET)), order_of("a", 32, SECRET))


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ((KEY, "", 4), ValueError, "name: expected a non-empty str"),
        ((KEY, 3, 4), TypeError, "name: expected"),
        ((KEY, "a", 1), ValueError, "channels: expected at least 2, of which there are orders, got 1"),
        ((KEY, "a", 2.0), TypeError, "channels: expected an integer, got float"),
        ((KEY, "a", True), TypeError, "channels: expected an integer, got bool"),
        ((b"short", "a", 4), ValueError, "key: expected 32 bytes, got 5"),
        (("x" * 32, "a", 4), TypeError, "key: expected a Key or 32 bytes, got str"),
        ((blockenc.KeySet(np=SECRET), "a", 4), ValueError, "key: this key set has only np; give KeySet a"),
        ((blockenc.KeySet.from_seed(1, "p").replace(np=SECRET), "a", 4), ValueError, "key: this key set has"),
        ((blockenc.ExplicitKey([[1, 0]]), "a", 4), TypeError, "key: expected .* got an ExplicitKey"),
    ],
)
def test_bad_orders(arguments: tuple, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        KeyedChannels(*arguments)


# --- the module ---


def test_channels_known_at_the_first_call() -> None:
    layer = KeyedChannels(KEY, "a")
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(layer)
    x = torch.rand(2, 16, 3, 3)
    with torch.inference_mode():
        y = layer(x)
    assert torch.equal(y, x[:, order_of("a", 16)])
    assert not any(isinstance(value, blockenc.Key) for value in vars(layer).values())
    layer(x.requires_grad_()).sum().backward()  # no tensor of inference mode was kept
    with pytest.raises(
        ValueError, match=r"x: expected 16 channels along axis 1 at 'a', got 8 in a tensor of"
    ):
        layer(torch.rand(2, 8, 3, 3))
    with pytest.raises(ValueError, match=r"x: expected an axis 1 of channels at 'a', got a tensor of \[16\]"):
        layer(torch.rand(16))
    with pytest.raises(TypeError, match="x: expected a tensor"):
        layer((x,))


@pytest.mark.parametrize("axis, error", [(0, ValueError), (1.0, TypeError), (False, TypeError)])
def test_bad_axes(axis: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="axis: expected"):
        KeyedChannels(KEY, "a", 4, axis=axis)


@pytest.mark.parametrize("axis", [1, -1, 2])
def test_axes_types_and_copies(axis: int) -> None:
    layer = KeyedChannels(SECRET, "a", 6, axis=axis)
    for dtype in (torch.float64, torch.bfloat16, torch.uint8):
        x = (255 * torch.rand(2, 6, 6)).to(dtype)
        want = x.movedim(axis, 0)[order_of("a", 6)].movedim(0, axis)
        for one in (layer, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), layer.half().double()):
            assert torch.equal(one(x), want)


def test_what_is_stored() -> None:
    layer = KeyedChannels(SECRET, "a", 64)
    hooked = protect_features(nn.Sequential(nn.Linear(4, 64)), SECRET, ["0"])
    for module in (layer, hooked):
        assert not any("keyed" in name or "perm" in name for name in module.state_dict())
        buffer = io.BytesIO()
        torch.save(module.state_dict(), buffer)
        for text in (repr(module), str(vars(module)), repr(list(module.modules()))):
            assert str(order_of("a", 64)[:6].tolist())[1:-1] not in text.replace("\n", "") or module is layer
            assert SECRET.hex() not in text
        whole = pickle.dumps(module)
        assert SECRET not in whole
        order = [buffer for buffer in module.buffers() if buffer.dtype == torch.int64]
        assert len(order) == 1
    assert "channels=64" in repr(layer)
    assert str(order_of("a", 64)[:6].tolist())[1:-1] not in repr(layer)
    assert KeyedOutput.of(pickle.loads(pickle.dumps(hooked))[0]) is not None


def test_compiled() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), KeyedChannels(KEY, "a"))
    x = torch.rand(2, 3, 8, 8)
    refused = torch.compile(copy.deepcopy(model), backend="eager", fullgraph=True)
    with pytest.raises(Exception, match=r"does not know its number of channels yet|Observed exception"):
        refused(x)
    lazily = copy.deepcopy(model)
    assert torch.equal(torch.compile(lazily, backend="eager")(x), model(x))
    assert torch.equal(torch.compile(model, backend="eager", fullgraph=True)(x), model(x))
    hooked = protect_features(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), KEY, ["0"])
    assert torch.equal(torch.compile(hooked, backend="aot_eager", fullgraph=True)(x), hooked(x))
    exported = torch.export.export(hooked, (x,))
    assert torch.equal(exported.module()(x), hooked(x))
    assert list(exported.state_dict) == ["0.weight", "0.bias"]


def test_copies_for_devices_run_side_by_side() -> None:
    """As nn.DataParallel makes them: with the hooks of the original, and buffers of their own."""
    model = protect_features(small(), KEY, ["conv", "norm"])
    x = torch.rand(4, 3, 8, 8)
    want, got = model(x), {}

    def replica(n: int) -> nn.Module:
        twins = {module: module._replicate_for_data_parallel() for module in model.modules()}
        for module, twin in twins.items():
            twin._parameters = dict(module._parameters)
            twin._modules = {name: twins[child] for name, child in module._modules.items()}
            for name, buffer in module._buffers.items():
                twin._buffers[name] = None if buffer is None else buffer.clone()
        return twins[model]

    def work(n: int) -> None:
        got[n] = replica(n)(x)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 4
    assert all(torch.equal(y, want) for y in got.values())


# --- on layers of a model ---


class Small(nn.Module):
    """A convolution, a norm and functions; a depthwise convolution; a sum; a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.apart = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.act = nn.PReLU(16)
        self.around = nn.Conv2d(16, 16, 1)
        self.grouped = nn.Conv2d(16, 16, 1, groups=4)
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor, scale: torch.Tensor | None = None) -> torch.Tensor:
        x = functional.relu(self.norm(self.conv(x)))
        x = self.act(self.apart(x))
        x = x + self.around(x)
        x = self.grouped(x)
        x = self.head(x.mean((2, 3)))
        return x if scale is None else x * scale


def small() -> nn.Module:
    torch.manual_seed(0)
    return randomised(Small())


def test_a_layer_passes_its_channels_on_in_order() -> None:
    model = small()
    keyed = protect_features(model, KEY, ["around", "head"])
    x = torch.rand(2, 3, 8, 8)
    seen = {}
    model.around.register_forward_hook(lambda layer, args, output: output[:, order_of("around", 16)])
    model.head.register_forward_hook(lambda layer, args, output: output[:, order_of("head", 10)])
    assert torch.equal(keyed(x), model(x))
    assert not torch.equal(protect_features(small(), OTHER, ["around", "head"])(x), keyed(x))
    assert seen == {}


def test_a_state_dict_loads_with_and_without_a_key() -> None:
    plain = small()
    keyed = protect_features(plain, KEY, ["conv", "norm", "head"])
    assert list(keyed.state_dict()) == list(plain.state_dict())
    assert [type(module) for module in keyed.modules()] == [type(module) for module in plain.modules()]
    x = torch.rand(2, 3, 8, 8)
    again = small()
    with torch.no_grad():
        again.conv.weight.zero_()
    again.load_state_dict(keyed.state_dict())
    assert torch.equal(again(x), plain(x))
    for assign in (False, True):
        keyed.load_state_dict(again.state_dict(), assign=assign)
        assert torch.equal(keyed(x), protect_features(again, KEY, ["conv", "norm", "head"])(x))


def test_it_trains_and_needs_the_key() -> None:
    """Weights that were trained with one key are of no use with another."""
    torch.manual_seed(0)
    x = torch.rand(256, 8)
    label = (x @ torch.randn(8, 4)).argmax(1)
    layers = ["0", "2"]
    plain = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
    model = protect_features(plain, KEY, layers)
    optimiser = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(150):
        optimiser.zero_grad()
        functional.cross_entropy(model(x), label).backward()
        optimiser.step()

    def accuracy(of: nn.Module) -> float:
        return float((of(x).argmax(1) == label).float().mean())

    stolen = copy.deepcopy(plain)
    stolen.load_state_dict(model.state_dict())
    assert accuracy(model) > 0.95
    assert accuracy(protect_features(stolen, KEY, layers)) == accuracy(model)
    assert accuracy(stolen) < 0.7
    assert accuracy(protect_features(stolen, OTHER, layers)) < 0.7
    assert torch.allclose(unprotect_features(model, KEY, fold=True)(x), model(x), atol=1e-4)


def test_a_layer_that_is_used_twice_and_one_with_two_names() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = self.two = nn.Linear(6, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.two(self.one(x))

    model, x = Twice(), torch.rand(3, 6)
    keyed, order = protect_features(model, KEY, ["two"]), order_of("two", 6)
    assert torch.equal(keyed(x), model.one(model.one(x)[:, order])[:, order])
    with pytest.raises(ValueError, match="layers: 'two' and 'one' are one layer"):
        protect_features(model, KEY, ["one", "two"])
    locked = protect_features(model, KEY, ["two"], fold=True, example=x)
    assert torch.allclose(locked(x), model(x), atol=1e-6)
    assert torch.equal(unprotect_features(locked, KEY, fold=True).one.weight, model.one.weight)


def test_tokens_and_blocks_of_ones_own() -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2).eval()
    x = torch.rand(2, 3, 32, 32)
    keyed = protect_features(vit, KEY, ["blocks.0", "norm"], axis=-1, example=x)
    seen = {}
    vit.blocks[0].register_forward_hook(lambda *given: given[2][..., order_of("blocks.0", 192)])
    vit.norm.register_forward_hook(lambda *given: given[2][..., order_of("norm", 192)])
    keyed.blocks[1].register_forward_pre_hook(lambda layer, args: seen.update(shape=args[0].shape))
    assert torch.equal(keyed(x), vit(x))
    assert seen["shape"] == (2, 17, 192)


# --- moved into weights ---


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def mlp() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Linear(12, 16), nn.BatchNorm1d(16), nn.GELU(), nn.LayerNorm(16), nn.Linear(16, 5)
    return randomised(nn.Sequential(nn.Flatten(), *layers))


def transposed() -> nn.Module:
    torch.manual_seed(0)
    up = nn.ConvTranspose2d(3, 16, 2, stride=2), nn.GroupNorm(1, 16), nn.MaxPool2d(2), nn.Conv2d(16, 4, 3)
    return randomised(nn.Sequential(*up))


def vision(name: str, **options: Any) -> nn.Module:
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    return randomised(torchvision.models.get_model(name, weights=None, num_classes=8, **options))


def convnext() -> nn.Module:
    model = vision("convnext_tiny").features[:2]
    for block in model[1]:
        nn.init.ones_(block.layer_scale)
    return model


def segmenter() -> nn.Module:
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    models = torchvision.models
    backbone = models.resnet18(weights=None)
    features = models._utils.IntermediateLayerGetter(backbone, {"layer4": "out"})
    return randomised(
        models.segmentation.FCN(features, models.segmentation.fcn.FCNHead(512, 3), aux_classifier=None)
    )


def vit() -> nn.Module:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2).eval()


IMAGES = (2, 3, 32, 32)
# The model, the shape of its input, layers, their axis where types do not say it, and whether an example is
# needed: for their number of channels, or since axes may or may not be the same.
FOLDED: dict[str, tuple] = {
    "a convolution": (small, IMAGES, ["conv"], None, False),
    "a norm": (small, IMAGES, ["norm"], None, False),
    "depthwise, by a function": (small, IMAGES, ["apart"], None, False),
    "all at once": (small, IMAGES, ["head", "act", "around", "apart", "norm", "conv"], None, False),
    "norms of vectors": (mlp, (4, 12), ["1", "2", "3", "4"], 1, True),
    "transposed": (transposed, (2, 3, 8, 8), ["2", "0", "1"], None, True),
    "ResNet": (
        lambda: vision("resnet18"),
        IMAGES,
        ["conv1", "relu", "layer1.0.bn1", "layer4.1.conv2"],
        1,
        True,
    ),
    "VGG": (lambda: vision("vgg11_bn").features, IMAGES, ["1", "25", "4"], None, False),
    "MobileNet": (lambda: vision("mobilenet_v2").features[:5], IMAGES, ["0", "3.conv.1"], None, False),
    "ConvNeXt": (convnext, IMAGES, ["1.0.block.3"], None, False),
    "FCN": (segmenter, IMAGES, ["backbone.bn1", "backbone.layer3.0.conv1", "classifier.1"], None, False),
    "ViT": (vit, IMAGES, ["blocks.0.mlp.fc1", "blocks.1.mlp.act"], -1, True),
    "ViT, patches": (vit, IMAGES, ["patch_embed.proj"], None, False),
}


@pytest.mark.parametrize("name", FOLDED)
def test_orders_go_into_weights_and_out(name: str) -> None:
    make, shape, layers, axis, compared = FOLDED[name]
    model = make()
    x = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    example = x if compared else None
    locked = protect_features(model, KEY, layers, axis=axis, fold=True, example=example)
    want = output(model(x)).detach()
    assert torch.allclose(output(locked(x)), want, atol=1e-4 * float(want.abs().max()))
    bare = unprotect_features(locked, KEY)
    assert (output(bare(x)) - want).abs().max() > 0.01 * want.abs().max()  # the weights alone are no use
    assert same(unprotect_features(locked, KEY, fold=True, example=example), model)
    assert same(unprotect_features(locked, KEY, layers[:1], fold=False), locked)
    keyed = protect_features(bare, KEY, layers, axis=axis, example=x)
    assert torch.equal(output(keyed(x)), output(locked(x)))


def output(of: Any) -> torch.Tensor:
    return of["out"] if isinstance(of, dict) else of


def test_beside_a_key_in_the_stem() -> None:
    """Images encrypted, and feature maps in a keyed order, the stem's own outputs among them."""
    model = small()
    cipher = blockenc.Cipher(KEY, block_size=4)
    x = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    both = protect_features(blockenc.protect(model, cipher), KEY, ["conv", "norm"], fold=True)
    assert isinstance(both.conv, BlockConvolution)
    encrypted = cipher.encrypt(x, dtype=torch.float32)
    assert torch.allclose(both(encrypted), model(x / 255), atol=1e-4)
    assert not torch.allclose(unprotect_features(both, KEY)(encrypted), model(x / 255), atol=1e-2)
    back = blockenc.unprotect(unprotect_features(both, KEY, fold=True), cipher)
    assert torch.allclose(back(x / 255), model(x / 255), atol=1e-4)
    # A stem that becomes another layer would lose what is on it: that is seen, and refused.
    with pytest.raises(ValueError, match="this key cannot be folded into 'conv'"):
        blockenc.protect(protect_features(model, KEY, ["conv"]), cipher)
    later = blockenc.protect(protect_features(model, KEY, ["norm"], fold=True), cipher)
    assert torch.allclose(later(encrypted), model(x / 255), atol=1e-4)


def test_modules_of_the_model_are_taken_out_too() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), KeyedChannels(KEY, "a"), nn.ReLU(), KeyedChannels(KEY, "b"), nn.Conv2d(8, 2, 3)
    )
    x = torch.rand(2, 3, 8, 8)
    with pytest.raises(ValueError, match="KeyedChannels 'a' does not know its number of channels yet"):
        unprotect_features(model, KEY)
    want = model(x)
    deployed = unprotect_features(model, KEY, fold=True)
    assert [type(layer) for layer in deployed[1::2]] == [nn.Identity, nn.Identity]
    assert torch.allclose(deployed(x), want, atol=1e-5)
    assert torch.equal(deployed[0].weight, model[0].weight[order_of("a", 8)][order_of("b", 8)])
    # One by one, from the first to the last.
    first = unprotect_features(model, KEY, ["a"], fold=True)
    assert torch.allclose(first(x), want, atol=1e-5)
    assert same(unprotect_features(first, KEY, ["b"], fold=True), deployed)
    with pytest.raises(ValueError, match="'1' has an order of its own; take both off at once"):
        unprotect_features(model, KEY, ["b"], fold=True)


def test_layers_within_each_other() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), nn.Conv2d(8, 2, 3))
    x = torch.rand(2, 3, 8, 8)
    for layers in (["0", "0.0"], ["0.1", "0"], ["0", "0.1", "0.0"]):
        options: dict = {"axis": 1, "fold": True, "example": x}
        locked = protect_features(model, KEY, layers, **options)
        assert torch.allclose(locked(x), model(x), atol=1e-5)
        assert not torch.equal(locked[0][0].weight, model[0][0].weight)
        assert same(unprotect_features(locked, KEY, fold=True), model)
    with pytest.raises(ValueError, match="has an order of its own; take both off at once"):
        unprotect_features(
            protect_features(model, KEY, ["0", "0.1"], axis=1, example=x), KEY, ["0"], fold=True
        )


def test_another_key_takes_nothing_out() -> None:
    locked = protect_features(small(), KEY, ["conv", "head"])
    with pytest.raises(
        blockenc.WrongKeyError, match="the order of channels at 'conv' is not that of this key"
    ):
        unprotect_features(locked, OTHER)
    with pytest.raises(
        ValueError, match=r"layers: the model has no keyed order .* called 'norm', but conv, head"
    ):
        unprotect_features(locked, KEY, ["norm"])
    with pytest.raises(ValueError, match="model: has no keyed orders of channels"):
        unprotect_features(small(), KEY)
    only = unprotect_features(locked, KEY, ["conv"])
    assert KeyedOutput.of(only.conv) is None
    assert not hasattr(only.conv, "keyed_channels")
    assert KeyedOutput.of(only.head) is not None


class Several(nn.Module):
    """Layers that make what cannot be put in order, or not in weights."""

    def __init__(self) -> None:
        super().__init__()
        self.lists = nn.ModuleList([nn.Linear(8, 8)])
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.unused = nn.Linear(8, 8)
        self.one = nn.Linear(8, 1)
        self.tied, self.tied_too = nn.Linear(8, 8), nn.Linear(8, 8)
        self.tied_too.weight = self.tied.weight
        self.normed = parametrizations.weight_norm(nn.Linear(8, 8))
        self.hooked = nn.Linear(8, 8)
        self.hooked.register_forward_pre_hook(lambda layer, args: None)
        self.relu = nn.ReLU()
        self.block = Block()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.lists[0](x))
        x = self.attention(x, x, x)[0]
        x = self.hooked(self.normed(self.tied_too(self.tied(x))))
        return self.one(self.block(x))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(8, 8), nn.LayerNorm(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.linear(x))
        return y + x


class Branches(nn.Module):
    """One that torch.fx cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.conv(x))
        return x if x.sum() > 0 else -x


class Beside(nn.Module):
    """One that uses what goes into a norm for a sum, too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return self.norm(x) + x


class Norms(nn.Module):
    """One norm for two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.other, self.norm = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.act = nn.PReLU(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.norm(self.conv(x))) + self.norm(self.other(x))


class Inside(nn.Module):
    """A block whose output is used inside it, too, before it is put in order."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.kept = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.conv(x))
        self.kept = x.mean()
        return x


class Scaled(nn.Conv2d):
    """Computes its weights in its own way."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * torch.arange(self.out_channels)[:, None, None]


def several() -> nn.Module:
    return Several().eval()


def sequence(*layers: nn.Module) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(*layers).eval()


TOKENS = torch.rand(2, 5, 8)
PICTURES = torch.rand(2, 3, 8, 8)
CANNOT = "cannot be moved into weights: "
REFUSED: dict[str, tuple] = {
    "a wrong name": (
        small,
        ["cnov"],
        {},
        "layers: the model has no layer called 'cnov'; near to it are 'conv'",
    ),
    "no name near": (small, ["xyz"], {}, "layers: the model has no layer called 'xyz'$"),
    "no names": (small, [], {}, "layers: expected names of layers inside the model"),
    "the model itself": (small, [""], {}, "layers: expected names of layers inside the model"),
    "a name twice": (small, ["conv", "conv"], {}, "layers: names one twice"),
    "a list of layers": (several, ["lists"], {}, "layers: 'lists' is a ModuleList, which only holds layers"),
    "weights used directly": (several, ["attention.out_proj"], {}, "layers: .* is never called: nn.Multi"),
    "an unknown axis": (
        several,
        ["block"],
        {},
        "axis: the layer 'block', a Block, may have its channels any",
    ),
    "an unknown axis of an activation": (several, ["relu"], {}, "axis: the layer 'relu', a ReLU"),
    "an unknown number": (
        several,
        ["block"],
        {"axis": -1},
        "layers: how many channels 'block' .* give example=",
    ),
    "one channel": (several, ["one"], {}, "channels: expected at least 2, of which there are orders, got 1"),
    "a layer that does not run": (several, ["unused"], {"example": TOKENS}, "'unused' did not run when"),
    "no tensor": (
        several,
        ["attention"],
        {"axis": -1, "example": TOKENS},
        "x: expected a tensor whose channels",
    ),
    "another axis": (several, ["block"], {"axis": 5, "example": TOKENS}, "x: expected an axis 5 of channels"),
    "another number": (
        several,
        ["tied"],
        {"axis": 1, "example": TOKENS},
        "'tied' has 8 channels, and its outp",
    ),
    "an example that does not fit": (
        small,
        ["conv"],
        {"example": TOKENS},
        "example: the model fails on it: ",
    ),
    "a lazy model": (sequence(nn.LazyConv2d(8, 3)), ["0"], {}, "model: 0.weight is lazy; run the model once"),
    "a model without values": (lambda: nn.Linear(2, 2, device="meta"), ["a"], {}, "on the meta device"),
}
FOLDS_REFUSED: dict[str, tuple] = {
    "a sum": (small, ["grouped"], {}, CANNOT + "'grouped' is a Conv2d with groups"),
    "a sum behind a block": (
        several,
        ["block"],
        {"axis": -1, "example": TOKENS},
        CANNOT + "it comes out of 'add'",
    ),
    "residual": (
        lambda: vision("resnet18"),
        ["layer1.0"],
        {"axis": 1, "example": torch.rand(IMAGES)},
        CANNOT + "'layer1.0.relu' .*|" + CANNOT + "it comes out of 'add'",
    ),
    "used beside": (
        lambda: vision("resnet18"),
        ["layer1.0.relu"],
        {"axis": 1, "example": torch.rand(IMAGES)},
        CANNOT + "it comes",
    ),
    "used by a sum": (Beside, ["norm"], {}, CANNOT + "what conv gives is also used elsewhere, as by a sum"),
    "a module used by a sum": (
        lambda: nn.Sequential(Beside(), nn.ReLU(), nn.Conv2d(8, 2, 3)).eval(),
        ["0.norm"],
        {},
        CANNOT + "what _0_conv gives is also used elsewhere, as by a sum",
    ),
    "a norm of two layers": (Norms, ["act"], {}, CANNOT + "'norm' is also used elsewhere in the model"),
    "tied weights": (several, ["tied"], {}, CANNOT + "'tied' shares its weights with another layer"),
    "computed weights": (several, ["normed"], {}, CANNOT + "'normed' computes its weights"),
    "a hook": (several, ["hooked"], {}, CANNOT + "'hooked' has hooks, which may change what it computes"),
    "an image": (
        sequence(nn.BatchNorm2d(3), nn.Conv2d(3, 8, 3)),
        ["0"],
        {},
        CANNOT + "it is of the model's input",
    ),
    "cannot be traced": (
        Branches,
        ["norm"],
        {},
        "model: torch.fx cannot trace it .*name convolutions or linear",
    ),
    "used inside": (
        lambda: nn.Sequential(Inside(), nn.ReLU()).eval(),
        ["0"],
        {"axis": 1, "example": PICTURES},
        CANNOT + "what .* gives is also used inside the layer",
    ),
    "a class of its own": (
        sequence(Scaled(3, 8, 3), nn.BatchNorm2d(8)),
        ["1"],
        {},
        CANNOT + "it comes out of 'mul'",
    ),
    "one that makes the channels itself": (
        sequence(Scaled(3, 8, 3)),
        ["0"],
        {},
        CANNOT + "it comes out of 'mul'",
    ),
    "axes that may differ": (mlp, ["2"], {}, CANNOT + "the layers .* different axes, .* give example="),
    "axes that do differ": (
        sequence(nn.Linear(8, 8), nn.BatchNorm1d(5), nn.Conv1d(5, 5, 1)),
        ["1"],
        {"example": TOKENS},
        CANNOT + "a Linear has 8 channels, not 5",
    ),
    "other axes of one size": (
        sequence(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8)),
        ["1"],
        {"example": torch.rand(2, 8, 8)},
        "the outputs before and after differ by",
    ),
    "groups that a norm looks across": (
        sequence(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8)),
        ["1"],
        {},
        CANNOT + "'1' is a GroupNorm",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    make, layers, options, message = REFUSED[name]
    model = make()
    with pytest.raises(ValueError if name != "no tensor" else Exception, match=message):
        protect_features(model, KEY, layers, **options)


@pytest.mark.parametrize("name", FOLDS_REFUSED)
def test_what_cannot_be_moved_is_refused(name: str) -> None:
    make, layers, options, message = FOLDS_REFUSED[name]
    model = randomised(make())
    with pytest.raises(ValueError, match=message):
        protect_features(model, KEY, layers, fold=True, **options)
    with pytest.raises(ValueError, match=message):
        unprotect_features(
            protect_features(model, KEY, layers, **options), KEY, fold=True, example=options.get("example")
        )


@pytest.mark.parametrize(
    "arguments, options, message",
    [
        (("model", KEY, ["a"]), {}, "model: expected a torch.nn.Module, got str"),
        ((small(), "key", ["conv"]), {}, "key: expected a Key or 32 bytes, got str"),
        ((small(), KEY, "conv"), {}, "layers: expected a list of names, got 'conv'"),
        ((small(), KEY, ["conv"]), {"axis": "1"}, "axis: expected an integer, got str"),
        ((small(), KEY, ["conv"]), {"example": [1]}, "example: expected a tensor, an input of the model"),
    ],
)
def test_wrong_types(arguments: tuple, options: dict, message: str) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        protect_features(*arguments, **options)


def test_a_layer_has_one_order() -> None:
    keyed = protect_features(small(), KEY, ["conv"])
    with pytest.raises(ValueError, match="layers: 'conv' has a keyed order of channels already"):
        protect_features(keyed, KEY, ["conv"])
    assert KeyedOutput.of(protect_features(keyed, KEY, ["norm"]).conv) is not None


def test_what_a_layer_gives_is_checked_at_each_call() -> None:
    """An axis that was named wrongly, where nothing was run."""
    keyed = protect_features(nn.Sequential(nn.Linear(8, 8)), KEY, ["0"], axis=1)
    with pytest.raises(
        ValueError, match=r"expected 8 channels along axis 1 at '0', got 5 in a tensor of \[2, 5, 8\]"
    ):
        keyed(TOKENS)


def test_the_comparison_sees_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    from blockenc.folding import features

    monkeypatch.setattr(features, "move", lambda layer, order: None)
    with pytest.raises(ValueError, match="the outputs before and after differ by"):
        protect_features(small(), KEY, ["norm"], fold=True, example=torch.rand(2, 3, 8, 8))


def test_the_model_given_stays_as_it_is() -> None:
    model = small().train()
    before = copy.deepcopy(model.state_dict())
    protect_features(model, KEY, ["conv", "norm"], fold=True, example=torch.rand(2, 3, 8, 8))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert model.norm.training
    assert not any(KeyedOutput.of(module) for module in model.modules())


def test_attention_s_fast_path_does_not_pass_an_order_by() -> None:
    torch.manual_seed(0)
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    keyed = protect_features(encoder, KEY, ["linear1", "norm1"])
    want = keyed(TOKENS)
    with torch.no_grad():
        assert torch.allclose(keyed(TOKENS), want, atol=1e-5)
        assert not torch.allclose(encoder(TOKENS), want, atol=1e-2)
