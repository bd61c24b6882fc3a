"""BlockEmbedding, and keys folded into first layers."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import blockenc
from blockenc.nn import BlockEmbedding

KEYS = blockenc.KeySet(shuffle=bytes([1] * 32), np=bytes([2] * 32), ffx=bytes([3] * 32))
ALL = ("shuffle", "np", "ffx")
SCHEMES = [
    blockenc.Scheme(block_size=2, steps=("shuffle",)),
    blockenc.Scheme(block_size=4, steps=("np",)),
    blockenc.Scheme(block_size=4, steps=("ffx",)),
    blockenc.Scheme(block_size=2, steps=ALL),
    blockenc.Scheme(block_size=4, steps=ALL),
    blockenc.Scheme(block_size=3, steps=("ffx", "np", "shuffle", "ffx"), channels=1),
    blockenc.Scheme(block_size=4, steps=ALL, ffx="decimal"),
    blockenc.Scheme(block_size=2, steps=("ffx", "shuffle"), ffx="decimal", channels=4),
]
LINEAR = [scheme for scheme in SCHEMES if "ffx" not in scheme.steps] + [
    blockenc.Scheme(block_size=4, steps=("shuffle", "np")),
    blockenc.Scheme(block_size=2, steps=("np", "shuffle", "np")),
]


def images(scheme: blockenc.Scheme, n: int = 3) -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, scheme.channels, 12, 24), dtype=torch.uint8, generator=g)


def integers(cipher: blockenc.Cipher, x: torch.Tensor) -> torch.Tensor:
    decimal = cipher.plan().out_values == 1000
    return cipher.encrypt(x, dtype=torch.uint16 if decimal else torch.uint8)


def embedding(scheme: blockenc.Scheme, **options: Any) -> nn.Sequential:
    """A model in float64 whose table is no ramp any more."""
    torch.manual_seed(1)
    first = BlockEmbedding(scheme.block_size, 8, channels=scheme.channels, **options)
    nn.init.normal_(first.table)
    return nn.Sequential(first, nn.Tanh(), nn.Conv2d(8, 4, 3)).double()


FORMS = [{"rank": 1}, {"rank": 3}, {"rank": None}, {"rank": 2, "bias": False}]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_token_is_the_sum_of_the_rows_its_values_select(form: dict[str, Any]) -> None:
    scheme = blockenc.Scheme(block_size=3, channels=2)
    first = embedding(scheme, **form)[0]
    x = images(scheme, 1)
    tokens = first(x)
    M = 3
    for i in range(4):
        for j in (0, 3, 7):
            want = torch.zeros(8).double() if first.bias is None else first.bias.clone()
            for p in range(scheme.length):
                r, s, c = p // (M * 2), p // 2 % M, p % 2
                row = first.table[p, int(x[0, c, i * M + r, j * M + s])]
                want = want + (row if first.weight is None else first.weight[:, p] @ row)
            torch.testing.assert_close(tokens[0, :, i, j], want)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_gradients(form: dict[str, Any]) -> None:
    first = embedding(blockenc.Scheme(block_size=2, channels=1), **form)[0]
    x = torch.randint(0, 256, (2, 1, 4, 6), dtype=torch.uint8)
    names = [name for name, _ in first.named_parameters()]

    def run(*values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(first, dict(zip(names, values)), (x,))

    tiny = [p.detach().clone().requires_grad_() for p in first.parameters()]
    assert torch.autograd.gradcheck(run, tiny, fast_mode=True)


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_a_protected_model_sees_what_the_plain_one_saw(scheme: blockenc.Scheme, form: dict[str, Any]) -> None:
    cipher, model, x = blockenc.Cipher(KEYS, scheme), embedding(scheme, **form), images(scheme)
    before = copy.deepcopy(model.state_dict())
    protected = blockenc.protect(model, cipher)
    encrypted = integers(cipher, x)
    torch.testing.assert_close(protected(encrypted), model(x), rtol=1e-12, atol=1e-12)
    # Not by accident: neither plain images nor another key do.
    other = blockenc.Cipher(bytes(32), scheme)
    scale = model(x).std()
    assert (protected(x) - model(x)).std() > 0.1 * scale
    assert (protected(integers(other, x)) - model(x)).std() > 0.1 * scale
    # The model is left alone, and comes back from the protected one exactly.
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    back = blockenc.unprotect(protected, cipher)
    assert back.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in back.state_dict().items())
    assert back[0].values == 256


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("norm", ["none", "half", "imagenet"])
@pytest.mark.parametrize("scheme", LINEAR, ids=str)
def test_a_linear_stem_absorbs_what_is_linear(
    scheme: blockenc.Scheme, norm: str, bias: bool, kernel: int
) -> None:
    M, C = scheme.block_size, scheme.channels
    mean, std = {
        "none": (None, None),
        "half": ([0.5] * C, [0.25] * C),
        "imagenet": ([0.485, 0.456, 0.406][:C], [0.229, 0.224, 0.225][:C]),
    }[norm]
    torch.manual_seed(2)
    stem = nn.Conv2d(C, 8, kernel * M, M, M * (kernel // 2), bias=bias)
    model = nn.Sequential(stem, nn.Tanh(), nn.Conv2d(8, 4, 3)).double()
    cipher, x = blockenc.Cipher(KEYS, scheme), images(scheme)
    options = {} if mean is None else {"mean": mean, "std": std}
    protected = blockenc.protect(model, cipher, **options)

    def normalised(v: torch.Tensor) -> torch.Tensor:
        m, s = (torch.tensor(t, dtype=torch.float64) for t in (mean or [0.0] * C, std or [1.0] * C))
        return (v.double() / 255 - m.view(-1, 1, 1)) / s.view(-1, 1, 1)

    want = model(normalised(x))
    torch.testing.assert_close(protected(normalised(cipher.encrypt(x))), want, rtol=1e-9, atol=1e-9)
    assert (protected(normalised(x)) - want).std() > 0.1 * want.std()
    # The library's own output stage, in the types that models train in.
    fused = protected.float()(cipher.encrypt(x, dtype=torch.float32, **options))
    torch.testing.assert_close(fused.double(), want, rtol=1e-4, atol=1e-4)
    back = blockenc.unprotect(protected.double(), cipher, **options)
    torch.testing.assert_close(back(normalised(x)), want, rtol=1e-4, atol=1e-4)
    if norm == "half":
        assert back.state_dict().keys() == model.state_dict().keys()
        float_model = copy.deepcopy(model).float()
        twice = blockenc.unprotect(blockenc.protect(float_model, cipher, **options), cipher, **options)
        assert all(torch.equal(a, b) for a, b in zip(twice.parameters(), float_model.parameters()))


def test_encrypted_training_from_a_protected_start_is_plain_training() -> None:
    """Step by step the same losses, by SGD with momentum and decay and by AdamW; then the same model."""
    scheme = blockenc.Scheme(block_size=4)
    cipher, x = blockenc.Cipher(KEYS, scheme), images(scheme, 64)
    y = torch.arange(64) % 4
    for make in (
        lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, weight_decay=1e-3, nesterov=True),
        lambda p: torch.optim.AdamW(p, 1e-3),
    ):
        plain = embedding(scheme, rank=3)
        protected = blockenc.protect(plain, cipher)
        curves = []
        for model, seen in ((plain, x), (protected, cipher.encrypt(x))):
            optimizer, curve = make(model.parameters()), []
            for step in range(30):
                some = slice(step % 4 * 16, step % 4 * 16 + 16)
                loss = nn.functional.cross_entropy(model(seen[some]).mean((2, 3)), y[some])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                curve.append(float(loss.detach()))
            curves.append(curve)
        assert curves[0][-1] < 0.9 * curves[0][0], "nothing was learned"
        assert curves[1] == pytest.approx(curves[0], rel=1e-7)
        for a, b in zip(blockenc.protect(plain, cipher).parameters(), protected.parameters()):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_autocast_sums_gradients_in_float32() -> None:
    """4095 is no bfloat16."""
    first = BlockEmbedding(1, 1, rank=1, channels=1, bias=False)
    nn.init.ones_(first.weight)
    with torch.autocast("cpu", torch.bfloat16):
        y = first(torch.zeros(1, 1, 63, 65, dtype=torch.uint8))
    assert y.dtype == torch.bfloat16
    y.sum(dtype=torch.float32).backward()
    assert first.table.grad is not None
    assert first.table.grad[0, 0, 0] == 63 * 65
    assert first.table.grad.count_nonzero() == 1


def test_the_ramp_is_what_a_normalised_pixel_is() -> None:
    """With one column of ramp, the stem is a linear one: as nn.Conv2d on normalised images."""
    first = BlockEmbedding(2, 5, rank=1)
    conv = nn.Conv2d(3, 5, 2, 2)
    conv.weight.data.copy_(first.weight.view(5, 2, 2, 3).permute(0, 3, 1, 2))
    conv.bias.data.copy_(first.bias)
    x = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    z = (x.float() - 127.5) / math.sqrt((256**2 - 1) / 12)
    torch.testing.assert_close(first(x), conv(z))
    full = BlockEmbedding(2, 5, rank=None)
    steps = full.table.diff(dim=1)
    torch.testing.assert_close(steps, steps[:, :1].expand_as(steps), rtol=1e-3, atol=1e-5)


def test_compile_and_copies() -> None:
    first = BlockEmbedding(2, 4)
    x = torch.randint(0, 256, (1, 3, 4, 4), dtype=torch.uint8)
    compiled = torch.compile(first, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), first(x))
    first(x).square().sum().backward()
    assert first.table.grad is not None
    want, first.table.grad = first.table.grad, None
    compiled(x).square().sum().backward()
    torch.testing.assert_close(first.table.grad, want)
    torch.testing.assert_close(copy.deepcopy(first)(x), first(x))
    other = BlockEmbedding(2, 4)
    other.load_state_dict(first.state_dict())
    assert torch.equal(other(x), first(x))
    assert "block_size=2" in repr(first)


def test_the_stem_may_be_named_and_be_the_model() -> None:
    scheme = blockenc.Scheme(block_size=2)
    cipher, x = blockenc.Cipher(KEYS, scheme), images(scheme)
    first = BlockEmbedding(2, 4)
    torch.testing.assert_close(blockenc.protect(first, cipher)(cipher.encrypt(x)), first(x))
    two = nn.ModuleDict({"a": first, "b": BlockEmbedding(2, 4)})
    protected = blockenc.protect(two, cipher, stem="b")
    assert torch.equal(protected["a"].table, two["a"].table)
    assert not torch.equal(protected["b"].table, two["b"].table)


CIPHER = blockenc.Cipher(KEYS, block_size=4)
LINEAR_CIPHER = blockenc.Cipher(KEYS, block_size=4, steps=("shuffle", "np"))
PATCHES = nn.Conv2d(3, 8, 4, 4)

HALF = {"mean": [0.5] * 3, "std": [0.5] * 3}


def stem(**options: Any) -> nn.Conv2d:
    torch.manual_seed(3)
    return nn.Conv2d(3, 8, 4, 4, **options)


class Parts(nn.Module):
    """Named modules and a function of them and the images."""

    def __init__(self, call: Callable[..., Any], **modules: nn.Module) -> None:
        super().__init__()
        self.call = call
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: torch.Tensor) -> Any:
        return self.call(self, x)


def normalised_batch(affine: bool = True) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(3, affine=affine)
    norm.running_mean.copy_(torch.tensor([0.1, -0.4, 0.7]))
    norm.running_var.copy_(torch.tensor([0.5, 1.0, 2.0]))
    if affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return norm


class Standardised(nn.Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        w = (self.weight - self.weight.mean((1, 2, 3), keepdim=True)) / self.weight.std(
            (1, 2, 3), keepdim=True
        )
        return nn.functional.conv2d(x, w, self.bias, self.stride)


HANDLED: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "weight_norm": (lambda: nn.Sequential(parametrizations.weight_norm(stem()), nn.ReLU()), {}),
    "spectral_norm": (lambda: nn.Sequential(parametrizations.spectral_norm(stem()), nn.ReLU()), {}),
    "orthogonal": (lambda: nn.Sequential(parametrizations.orthogonal(stem()), nn.ReLU()), {}),
    "parametrised bias": (
        lambda: nn.Sequential(
            parametrize.register_parametrization(stem(), "bias", nn.Softplus(), unsafe=True)
        ),
        {},
    ),
    "weight-standardised": (lambda: nn.Sequential(Standardised(3, 8, 4, 4)), {}),
    "batch normalisation before it": (lambda: nn.Sequential(normalised_batch(), stem()), {}),
    "two of them": (lambda: nn.Sequential(normalised_batch(), normalised_batch(False), stem()), {}),
    "rescaled inside": (lambda: Parts(lambda m, x: m.a(2 * x - 1), a=stem()), {}),
    "circular padding": (lambda: nn.Conv2d(3, 8, 12, 4, 4, padding_mode="circular"), {}),
    "stem named": (
        lambda: Parts(lambda m, x: m.last(m.first(x).narrow(1, 0, 3)), last=stem(), first=stem()),
        {"stem": "first"},
    ),
    "dropout": (lambda: nn.Sequential(stem(), nn.Dropout(0.5), nn.BatchNorm2d(8)), {}),
    "random numbers": (lambda: Parts(lambda m, x: (y := m.a(x)) * torch.rand_like(y), a=stem()), {}),
    "one size only": (
        lambda: nn.Sequential(stem(), nn.Flatten(), nn.Linear(8 * 56 * 56, 2)),
        {},
    ),
    "a size it tells": (lambda: sized(44), {}),
    "an example": (
        lambda: nn.Sequential(stem(), nn.Flatten(), nn.Linear(8 * 11 * 11, 2)),
        {"example": torch.randint(0, 256, (1, 3, 44, 44), dtype=torch.uint8)},
    ),
    "outputs of many kinds": (lambda: Parts(lambda m, x: {"a": [m.a(x), 3], "b": None}, a=stem()), {}),
    "half": (lambda: nn.Sequential(stem(), nn.Tanh()).half(), {}),
    "bfloat16": (lambda: nn.Sequential(stem(), nn.Tanh()).bfloat16(), {}),
}


def sized(side: int) -> nn.Module:
    model = nn.Sequential(stem(), nn.Flatten(), nn.Linear(8 * (side // 4) ** 2, 2))
    model[0].img_size = (side, side)
    return model


def tensors(value: Any) -> list[torch.Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)]


@pytest.mark.parametrize("name", HANDLED)
def test_stems_that_are_not_plain_first_layers(name: str) -> None:
    """The copy does the same; the model is as it was, in weights, statistics, modes and random numbers."""
    make, options = HANDLED[name]
    model = make()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    protected = blockenc.protect(model, LINEAR_CIPHER, **HALF, **options)
    back = blockenc.unprotect(protected, LINEAR_CIPHER, **HALF, **options)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(module.training for each in (model, protected) for module in each.modules())
    assert not any(module._forward_hooks for each in (model, protected) for module in each.modules())
    side = {"one size only": 224, "a size it tells": 44, "an example": 44}.get(name, 24)
    x = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8)
    dtype = next(model.parameters()).dtype
    inputs = [LINEAR_CIPHER.encrypt(x, dtype=torch.float32, **HALF), (x / 255 - 0.5) / 0.5]
    want, *results = (
        tensors((torch.manual_seed(0), each.eval()(z.to(dtype)))[1])
        for each, z in ((model, inputs[1]), (protected, inputs[0]), (back, inputs[1]))
    )
    for result in results:
        for a, b in zip(result, want, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=(1e-5 if dtype == torch.float32 else 0.1) * 10)


def old_weight_norm(model: nn.Module) -> nn.Module:
    with pytest.warns(FutureWarning):
        return torch.nn.utils.weight_norm(model)


def tied() -> nn.Module:
    model = Parts(
        lambda m, x: m.decoder(m.encoder(x)),
        encoder=stem(bias=False),
        decoder=nn.ConvTranspose2d(8, 3, 4, 4, bias=False),
    )
    model.decoder.weight = model.encoder.weight
    return model


def zero_head(model: nn.Module) -> nn.Module:
    nn.init.zeros_(model.head.weight)
    nn.init.zeros_(model.head.bias)
    return model


def two_stems() -> nn.Module:
    return Parts(lambda m, x: m.head(m.a(x) + m.b(x)), a=stem(), b=stem(), head=nn.Conv2d(8, 2, 1))


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "instance normalisation": (lambda: nn.Sequential(nn.InstanceNorm2d(3), stem()), "differ by"),
    "layer normalisation": (lambda: nn.Sequential(nn.GroupNorm(1, 3), stem()), "differ by"),
    "not affine before it": (lambda: nn.Sequential(nn.Tanh(), stem()), "differ by"),
    "channels turned round": (lambda: Parts(lambda m, x: m.a(x.flip(1) * 2), a=stem()), "differ by"),
    "resized": (
        lambda: Parts(lambda m, x: m.a(nn.functional.interpolate(x, (16, 16))), a=stem()),
        "differ by",
    ),
    "shifted": (lambda: Parts(lambda m, x: m.a(x.roll(1, -1)), a=stem()), "differ by"),
    "two stems": (two_stems, "differ by"),
    "two stems and a head of zeros": (lambda: zero_head(two_stems()), "differ by"),
    "image used again": (lambda: Parts(lambda m, x: (m.a(x), x.mean((1, 2, 3))), a=stem()), "differ by"),
    "not the first": (
        lambda: Parts(lambda m, x: m.last(m.first(x).narrow(1, 0, 3)), last=stem(), first=stem()),
        "stem= names it",
    ),
    "not used": (lambda: Parts(lambda m, x: m.b(x), a=stem(), b=stem()), "'a' did not run"),
    "reflect": (lambda: nn.Conv2d(3, 8, 12, 4, 4, padding_mode="reflect"), "pads by 'reflect'"),
    "replicate": (lambda: nn.Conv2d(3, 8, 12, 4, 4, padding_mode="replicate"), "pads by 'replicate'"),
    "tied": (tied, "is also that of 'decoder'"),
    "old weight_norm": (lambda: nn.Sequential(old_weight_norm(stem())), "remove_weight_norm"),
    "pruned": (lambda: nn.Sequential(prune.l1_unstructured(stem(), "weight", 0.5)), "prune.remove"),
    "old spectral_norm": (lambda: nn.Sequential(torch.nn.utils.spectral_norm(stem())), "no plain parameter"),
    "lazy": (lambda: nn.Sequential(nn.LazyConv2d(8, 4, 4)), "is lazy"),
    "lazy further on": (lambda: nn.Sequential(stem(), nn.LazyBatchNorm2d()), "is lazy"),
    "without values": (lambda: nn.Sequential(stem(device="meta")), "meta device"),
    "no usual size": (
        lambda: nn.Sequential(stem(), nn.Flatten(), nn.Linear(8 * 11 * 11, 2)),
        "example: give images that the model runs on",
    ),
    "more than images": (
        lambda: Parts(lambda m, x: m.a(x.images), a=stem()),
        "example: give images that the model runs on",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_folded_is_refused(name: str) -> None:
    make, says = REFUSED[name]
    for fold in (blockenc.protect, blockenc.unprotect):
        with pytest.raises(ValueError, match=re.escape(says)):
            fold(make(), LINEAR_CIPHER, **HALF)


def test_a_parametrised_model_keeps_its_parametrisation() -> None:
    """The copy shares a class with its original, which must not lose the parametrisation with it."""
    model = nn.Sequential(parametrizations.weight_norm(stem()))
    protected = blockenc.protect(model, LINEAR_CIPHER, **HALF)
    assert parametrize.is_parametrized(model[0], "weight")
    assert not parametrize.is_parametrized(protected[0])
    assert set(protected.state_dict()) == {"0.weight", "0.bias"}
    model(torch.zeros(1, 3, 8, 8)).sum().backward()
    assert model[0].parametrizations.weight.original1.grad is not None


def test_statistics_of_a_model_that_counts_are_as_they_were() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = stem()
            self.register_buffer("calls", torch.zeros(1))
            self.register_buffer("last", torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            self.last = x.mean()
            return self.first(x)

    model = Counting()
    protected = blockenc.protect(model, LINEAR_CIPHER, **HALF)
    assert [float(b) for each in (model, protected) for b in each.buffers()] == [0.0] * 4


def test_protecting_under_another_default_device() -> None:
    embedding_, convolution = BlockEmbedding(4, 4), nn.Sequential(stem())
    with torch.device("meta"):
        protected = blockenc.protect(embedding_, CIPHER), blockenc.protect(convolution, LINEAR_CIPHER, **HALF)
        assert BlockEmbedding(4, 4).table.device.type == "meta"
    x = images(CIPHER.scheme)
    torch.testing.assert_close(protected[0](CIPHER.encrypt(x)), embedding_(x))


BAD: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: BlockEmbedding(0, 4), ValueError, "block_size"),
    (lambda: BlockEmbedding(2, 4.5), TypeError, "dim"),  # type: ignore[arg-type]
    (lambda: BlockEmbedding(2, 4, rank=0), ValueError, "rank"),
    (lambda: BlockEmbedding(2, 4, init="zeros"), ValueError, "init: expected one of ramp, random"),
    (lambda: BlockEmbedding(2, 4, values=100), ValueError, "values: expected 256 or 1000"),
    (lambda: BlockEmbedding(2, 4)(torch.zeros(1, 1, 4, 4).byte()), ValueError, "x: expected [N, 3, H, W]"),
    (
        lambda: BlockEmbedding(2, 4)(torch.zeros(1, 3, 4, 5).byte()),
        ValueError,
        "multiples of the block size 2",
    ),
    (
        lambda: BlockEmbedding(2, 4)(torch.zeros(1, 3, 4, 4)),
        TypeError,
        "x: expected the integers of an image",
    ),
    (
        lambda: BlockEmbedding(2, 4)(torch.full((1, 3, 4, 4), 256)),
        ValueError,
        "x: expected values from 0 to 255",
    ),
    (lambda: blockenc.protect(3, CIPHER), TypeError, "model: expected a torch.nn.Module"),  # type: ignore[type-var]
    (lambda: blockenc.protect(PATCHES, KEYS), TypeError, "cipher: expected a Cipher"),  # type: ignore[arg-type]
    (lambda: blockenc.protect(nn.ReLU(), CIPHER), ValueError, "model: has no layer that a key can be folded"),
    (
        lambda: blockenc.unprotect(nn.Conv2d(3, 8, 3), LINEAR_CIPHER),
        ValueError,
        "does not come from `protect` with such a scheme",
    ),
    (
        lambda: blockenc.protect(blockenc.protect(nn.Conv2d(3, 8, 3), CIPHER), CIPHER),
        ValueError,
        "is protected already",
    ),
    (
        lambda: blockenc.protect(
            PATCHES, blockenc.Cipher(blockenc.Key(bytes(32)), LINEAR_CIPHER.scheme, per_image=True)
        ),
        ValueError,
        "no two images have the same key",
    ),
    (
        lambda: blockenc.protect(nn.Conv2d(1, 8, 4, 4), LINEAR_CIPHER),
        ValueError,
        "cipher: expected images of 1 channels",
    ),
    (
        lambda: blockenc.protect(BlockEmbedding(2, 4), CIPHER),
        ValueError,
        "2 x 2 x 3 as in the BlockEmbedding",
    ),
    (
        lambda: blockenc.unprotect(BlockEmbedding(4, 4, values=1000), CIPHER),
        ValueError,
        "of 256 values, got 1000",
    ),
    (
        lambda: blockenc.protect(BlockEmbedding(4, 4, values=1000), CIPHER),
        ValueError,
        "of 256 values, got 1000",
    ),
    (
        lambda: blockenc.protect(BlockEmbedding(4, 4), CIPHER, mean=[0.5] * 3, std=[1] * 3),
        ValueError,
        "integers",
    ),
    (lambda: blockenc.protect(PATCHES, LINEAR_CIPHER, mean=[0.5] * 3), ValueError, "give both or neither"),
    (lambda: blockenc.protect(PATCHES, LINEAR_CIPHER, mean=[0.5], std=[1]), ValueError, "3 numbers each"),
    (lambda: blockenc.protect(PATCHES, LINEAR_CIPHER, mean=[0.5] * 3, std=[0] * 3), ValueError, "std not 0"),
    (
        lambda: blockenc.protect(PATCHES, LINEAR_CIPHER, example=torch.zeros(1, 3, 8, 8)),
        TypeError,
        "example: expected a uint8 tensor [N, C, H, W]",
    ),
    (
        lambda: blockenc.protect(PATCHES, LINEAR_CIPHER, example=torch.zeros(1, 3, 8, 9).byte()),
        ValueError,
        "multiples of 4",
    ),
    (
        lambda: blockenc.protect(
            nn.Sequential(PATCHES, nn.Flatten(), nn.Linear(1, 1)),
            LINEAR_CIPHER,
            example=torch.zeros(1, 3, 8, 8).byte(),
        ),
        ValueError,
        "example: the model fails on these images",
    ),
    (lambda: blockenc.protect(PATCHES, LINEAR_CIPHER, stem="x"), ValueError, "no module called 'x'"),
    (lambda: blockenc.protect(nn.Sequential(nn.ReLU()), LINEAR_CIPHER, stem="0"), TypeError, "'0' is ReLU"),
    (
        lambda: blockenc.protect(nn.ModuleList([BlockEmbedding(4, 4), BlockEmbedding(4, 4)]), CIPHER),
        ValueError,
        "has 2 BlockEmbeddings",
    ),
]


@pytest.mark.parametrize("call, error, message", BAD, ids=[message for _, _, message in BAD])
def test_bad_input(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        call()
