"""What attackers make of a network without its passports or its key.

They have the weights, and labelled plain images, more or fewer. Against passports they try random ones, or
forge some: gradient descent, on the passports or on what is derived of them, with the weights as they are
(after Chen, Tian, Chen and Zhou, "Effective Ambiguity Attack Against Passport-based DNN Intellectual Property
Protection Schemes through Fully Connected Layer Substitution", CVPR 2023, who descend through a block that
they put before the passports). Against a key in the images they try random keys, search one
(`blockenc.attacks.key_search`), or learn any linear map of blocks in its place, which is the same descent.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.nn import functional

from benchmarks.accuracy.data import Data, Part
from benchmarks.accuracy.fast import Augmented, Run
from benchmarks.accuracy.train import key_set
from benchmarks.attacks_models.target import Network
from benchmarks.passports.layers import WHOLE, PassportConv, in_float32, issue, passports
from blockenc import Cipher
from blockenc.attacks.key_search import estimate_key

STATISTICS = 20  # batches of which normalisations have their statistics after descent


@dataclasses.dataclass(frozen=True)
class Budget:
    """How much attackers may use.

    images: labelled training images; every attack is made with each of these numbers.
    tries: random passports or keys, each seen by `tried` test images.
    steps, batch: of gradient descent, with crops and flips of the images as in training.
    queries, query_images: a search for a key ends after so many queries, or so many images in all of them.
    """

    images: tuple[int, ...] = (100, 500, 5000)
    tries: int = 100
    tried: int = 1000
    steps: int = 500
    batch: int = 250
    queries: int = 1000
    query_images: int = 1_000_000


Attack = Callable[[Run, Part, Budget], dict[str, float]]


def taken(run: Run) -> Run:
    """A run as an attacker has it: with a copy of its network, whose weights do not change."""
    found = copy.copy(run)
    found.model = copy.deepcopy(run.model).eval().requires_grad_(False)
    for layer in passports(found.model):
        layer.parts = WHOLE
    return found


def norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]


def accuracy(run: Run, cipher: Cipher | None, test: Part) -> float:
    return run.right(test, cipher)[0] / len(test)


def whole_test(run: Run) -> Part:
    assert isinstance(run.found.test, Part)
    return run.found.test


def prepared(run: Run, x: torch.Tensor) -> torch.Tensor:
    """uint8 [N, H, W, C] as the network takes plain images."""
    return run.config.prepare(x.permute(0, 3, 1, 2).to(run.device), None)


def noise(layer: PassportConv, draw: torch.Generator) -> None:
    """Passports of numbers from -1 to 1, the random ones of the authors' code."""
    for name in ("scale", "bias"):
        passport = layer.get_buffer(name)
        setattr(layer, name, (2 * torch.rand(passport.shape, generator=draw) - 1).to(passport))


def random_noise(run: Run, part: Part, n: int) -> Cipher | None:
    draw = torch.Generator().manual_seed(n)
    for layer in passports(run.model):
        noise(layer, draw)
    return None


def random_images(run: Run, part: Part, n: int) -> Cipher | None:
    """Passports that the network makes of two of the attacker's images."""
    draw = torch.Generator().manual_seed(n)
    issue(run.model, prepared(run, part.x[torch.randperm(len(part), generator=draw)[:2]]))
    return None


def random_key(run: Run, part: Part, n: int) -> Cipher | None:
    return run.config.cipher(key_set(n), run.found.channels)


# The attacker's n-th try, n from 1 on, with some images at hand; what is returned encrypts what is tested.
Try = Callable[[Run, Part, int], Cipher | None]
PASSPORTS: dict[str, Try] = {"noise": random_noise, "other images": random_images}
KEYS: dict[str, Try] = {"keys": random_key}


def tries(run: Run, kind: Try, part: Part, budget: Budget) -> list[float]:
    """The accuracies with random passports or keys."""
    model, test = taken(run), whole_test(run).some(budget.tried)
    return [accuracy(model, kind(model, part, n), test) for n in range(1, budget.tries + 1)]


def descend(run: Run, learned: Iterable[torch.Tensor], part: Part, budget: Budget, lr: float) -> None:
    """Change some numbers so that plain images are classified as they are labelled: Adam, cosine schedule.

    Normalisations use the statistics of the batch, and in the end those of some batches: the network's own
    are wrong behind a wrong passport or map, and descent does not get away from there. They are no weights.
    """
    stream = Augmented(part, dataclasses.replace(run.config, batch=min(budget.batch, len(part))), run.device)
    for norm in norms(run.model):
        norm.train()
        norm.momentum = 0.0
    optimizer = torch.optim.Adam(list(learned), lr, eps=1e-12)  # a pixel of a passport counts for little
    for step in range(budget.steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 + math.cos(math.pi * step / budget.steps)) / 2
        x, y = stream.batch(step)
        with run.autocast():
            z = run.model(run.config.prepare(x, None)).float()
        optimizer.zero_grad()
        functional.cross_entropy(z, y).backward()
        optimizer.step()
    for norm in norms(run.model):
        norm.reset_running_stats()
        norm.momentum = None  # the mean of all batches
    with torch.no_grad(), run.autocast():
        for step in range(budget.steps, budget.steps + STATISTICS):
            run.model(run.config.prepare(stream.batch(step)[0], None))
    run.model.eval()


def scored(run: Run) -> dict[str, float]:
    """What forged passports are worth: accuracy, and how much of the owner's signature they spell."""
    layers = passports(run.model)
    with torch.no_grad():
        signs = sum(layer.sign_share() * layer.conv.out_channels for layer in layers)
    channels = sum(layer.conv.out_channels for layer in layers)
    return {"accuracy": accuracy(run, None, whole_test(run)), "signature": signs / channels}


def forge_passports(run: Run, part: Part, budget: Budget) -> dict[str, float]:
    """Gradient descent on the passports themselves, from those that the network makes of two images."""
    model = taken(run)
    issue(model.model, prepared(model, part.x[:2]))
    learned = []
    for layer in passports(model.model):
        for name in ("scale", "bias"):
            learned.append(layer.get_buffer(name).requires_grad_())
    descend(model, learned, part, budget, lr=0.03)
    return scored(model)


def forge_affine(run: Run, part: Part, budget: Budget) -> dict[str, float]:
    """Gradient descent on scales and biases, from 1 and 0, and then passports that give them."""
    model = taken(run)
    issue(model.model, prepared(model, part.x[:2]))
    layers = passports(model.model)
    for layer in layers:
        one = torch.ones(layer.conv.out_channels, device=run.device)
        layer.kept = one.requires_grad_(), torch.zeros_like(one).requires_grad_()
    descend(model, [numbers for layer in layers for numbers in layer.affine()], part, budget, lr=0.03)
    for layer in layers:
        gamma, beta = (numbers.detach() for numbers in layer.affine())
        layer.scale = passport_of(layer.conv, gamma, layer.get_buffer("scale"))
        layer.bias = passport_of(layer.conv, beta, layer.get_buffer("bias"))
        layer.kept = None
    return scored(model)


def passport_of(conv: nn.Conv2d, wanted: torch.Tensor, near: torch.Tensor) -> torch.Tensor:
    """The passport nearest to another one, [1, C, h, w], of which a convolution derives these numbers.

    wanted: [conv.out_channels]. What is derived is a linear map of the passport, of as many rows.
    """

    def derived(passport: torch.Tensor) -> torch.Tensor:
        return conv(passport).mean((0, 2, 3))  # type: ignore[no-any-return]

    with in_float32(near.device):
        rows = torch.func.jacrev(derived)(near).flatten(1).double()
        missing = (wanted - derived(near)).double()
    change = rows.T @ (torch.linalg.pinv(rows @ rows.T, hermitian=True) @ missing)
    return (near.double() + change.view(near.shape)).to(near)


class BlockMap(nn.Module):
    """Any linear map of the values of a block, alike for all blocks; the identity at first.

    Images in and out: [N, C, H, W], H and W multiples of block_size.
    """

    def __init__(self, block_size: int, channels: int) -> None:
        super().__init__()
        length = channels * block_size**2
        self.conv = nn.Conv2d(channels, length, block_size, stride=block_size)
        with torch.no_grad():
            self.conv.weight.copy_(torch.eye(length).view(self.conv.weight.shape))
            self.conv.bias.zero_()  # type: ignore[union-attr]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # The stem behind it is in float32 for its whitening, which small errors of its input would spoil.
        with torch.autocast(x.device.type, enabled=False):
            return functional.pixel_shuffle(self.conv(x), self.conv.stride[0])


def learn_map(run: Run, part: Part, budget: Budget) -> dict[str, float]:
    """Gradient descent on a linear map of blocks in the place of encryption: every shuffle and np is one."""
    model = taken(run)
    encryption = BlockMap(run.config.block_size, run.found.channels).to(run.device)
    model.model = nn.Sequential(encryption, model.model)
    descend(model, encryption.parameters(), part, budget, lr=0.01)
    return {"accuracy": accuracy(model, None, whole_test(run))}


def search_key(run: Run, part: Part, budget: Budget) -> dict[str, float]:
    """Swaps of a random key's entries, and flips of masks, that lower the loss."""
    assert run.cipher is not None
    model = taken(run)
    with run.autocast():
        found = estimate_key(
            Network(model),
            (part.x.permute(0, 3, 1, 2).contiguous().to(run.device), part.y.to(run.device)),
            run.cipher.scheme,
            objective="loss",
            flips=True,
            most_queries=max(1, min(budget.queries, budget.query_images // len(part))),
            truth=key_set(0),
        )
    cipher = Cipher(found.recovered.key, run.cipher.scheme)
    return {
        "accuracy": accuracy(model, cipher, whole_test(run)),
        "key share": found.scores["key share"],
        "queries": found.used["queries"],
    }


FORGERIES: dict[str, Attack] = {"passports": forge_passports, "scale and bias": forge_affine}
SEARCHES: dict[str, Attack] = {"key search": search_key, "linear map": learn_map}


def attacks(run: Run) -> tuple[dict[str, Try], dict[str, Attack]]:
    """The random tries and the attacks that a network is met with: none, if it has no lock."""
    if passports(run.model):
        return PASSPORTS, FORGERIES
    return (KEYS, SEARCHES) if run.cipher is not None else ({}, {})


def images_of(found: Data, number: int) -> Part:
    """The attacker's: the last training images, none of which the owner's passports are of."""
    assert isinstance(found.train, Part)
    return Part(found.train.x[2:][-number:], found.train.y[2:][-number:])
