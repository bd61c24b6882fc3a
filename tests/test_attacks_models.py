"""Attacks on models: each finds the key of a weak case, and finds nothing where there is nothing to find."""

from __future__ import annotations

import copy
import importlib.util
import pickle

import numpy as np
import pytest
import torch

from blockenc import Cipher, ExplicitKey, Key, Scheme, nn
from blockenc.attacks import adversarial, key_search, relaxed, seriation, slopes
from blockenc.blocks import to_images, to_vectors
from blockenc.hidden import reveal
from blockenc.steps import Colour, Np, Rotate, Scramble, Shuffle

KEY = Key(bytes(range(32)))
RNG = np.random.default_rng(0)

# --- gradients ----------------------------------------------------------------------------------


def gradients(encrypt, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    x = x.clone().requires_grad_()
    (encrypt(x) * weight).sum().backward()
    assert x.grad is not None
    return x.grad


def restated(x: torch.Tensor, order: np.ndarray, mask: np.ndarray, block_size: int) -> torch.Tensor:
    """shuffle, then np, of every block alike, as torch's own autograd understands it."""
    v = to_vectors(x, block_size)[..., torch.from_numpy(order)]
    v = torch.where(torch.from_numpy(mask), 1 - v, v)
    return to_images(v, block_size, *x.shape[1:])


@pytest.mark.parametrize("steps", [("shuffle", "np"), ("np", "ffx"), ("ffx", "np"), ("shuffle", "np", "ffx")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_those_of_a_differentiable_statement(
    steps: tuple[str, ...], dtype: torch.dtype
) -> None:
    """Through ffx the slope is 1; also where its table and np's negatives have become one table."""
    order, mask = RNG.permutation(48), RNG.random(48) < 0.5
    secrets = {"shuffle": order, "np": mask, "ffx": (RNG.random(48) < 0.5, RNG.permutation(256))}
    cipher = Cipher(ExplicitKey([secrets[s] for s in steps]), steps=steps, gradient="straight-through")
    x, weight = torch.rand(2, 3, 8, 12, dtype=dtype), torch.randn(2, 3, 8, 12, dtype=dtype)
    if "shuffle" not in steps:
        order = np.arange(48)
    expected = gradients(lambda v: restated(v, order, mask, 4), x, weight)
    assert torch.equal(gradients(cipher.encrypt, x, weight), expected)
    std = torch.tensor([0.5, 0.25, 2.0], dtype=dtype)
    norm = {"mean": (0.5, 0.5, 0.5), "std": std.tolist()}
    expected = gradients(lambda v: restated(v, order, mask, 4) / std[:, None, None], x, weight)
    assert torch.equal(gradients(lambda v: cipher.encrypt(v, **norm), x, weight), expected)


def test_gradients_leave_the_values_as_they_are() -> None:
    plain, cipher = Cipher(KEY), Cipher(KEY, gradient="straight-through")
    x = torch.rand(2, 3, 8, 8)
    y = cipher.encrypt(x.clone().requires_grad_())
    assert y.requires_grad
    assert torch.equal(y.detach(), plain.encrypt(x))
    assert not cipher.encrypt(x).requires_grad


SCHEMES = {
    "blocks": Scheme(
        4,
        [
            Scramble(period="image"),
            Rotate(period="image"),
            Np(unit="block", period="image"),
            Colour(unit="block", period="image"),
        ],
    ),
    "pixels": Scheme(1, [Np(period="image"), Colour(unit="pixel", period="image")]),
    "periods": Scheme(2, [Shuffle(period=4), Scramble(period=8), Np(block_size=4)]),
}


@pytest.mark.parametrize("name", SCHEMES)
def test_gradients_of_version_2(name: str) -> None:
    """What moves and negates values is linear: a difference tells its whole gradient exactly."""
    cipher = Cipher(KEY, SCHEMES[name], gradient="straight-through")
    x, weight = torch.zeros(1, 3, 8, 16, dtype=torch.float64), torch.randn(1, 3, 8, 16, dtype=torch.float64)
    units = torch.eye(x.numel(), dtype=torch.float64).reshape(-1, *x.shape[1:])
    differences = ((cipher.encrypt(units) - cipher.encrypt(x)) * weight).sum((1, 2, 3)).reshape(x.shape)
    assert torch.allclose(gradients(cipher.encrypt, x, weight), differences, rtol=0, atol=1e-15)
    back = gradients(cipher.decrypt, x, gradients(cipher.encrypt, x, weight))
    assert torch.allclose(back, weight, rtol=0, atol=1e-15)  # the transpose of what is orthogonal undoes it


def test_gradients_go_through_padding_and_cropping() -> None:
    cipher = Cipher(KEY, fit="pad", steps=["np"], gradient="straight-through")
    x = torch.rand(1, 3, 5, 6)
    grad = gradients(lambda v: cipher.decrypt(cipher.encrypt(v), size=(5, 6)), x, torch.ones(1, 3, 5, 6))
    assert torch.equal(grad, torch.ones_like(x))


def test_gradients_are_asked_for_and_have_limits() -> None:
    x = torch.rand(1, 3, 8, 8)
    cipher = Cipher(KEY, gradient="straight-through")
    with pytest.raises(RuntimeError, match="no derivative"):
        Cipher(KEY).encrypt(x.clone().requires_grad_())
    with pytest.raises(RuntimeError, match="no derivative"):
        cipher.encrypt(x.clone().requires_grad_(), out=torch.empty_like(x))
    with pytest.raises(RuntimeError, match="no derivative"):
        torch.func.grad(lambda v: cipher.encrypt(v).sum())(x)
    with pytest.raises(ValueError, match=r"^x: height and width"):
        cipher.encrypt(torch.rand(1, 3, 7, 8).requires_grad_())
    for wrong in ("exact", True, 1):
        with pytest.raises(ValueError, match=r"^gradient: expected None or 'straight-through', got"):
            Cipher(KEY, gradient=wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^gradient: .*nibbles"):
        Cipher(KEY, steps=[Shuffle(cells="nibble")], gradient="straight-through")
    with pytest.raises(ValueError, match=r"^gradient: .*per_image"):
        Cipher(KEY, per_image=True, gradient="straight-through")


def test_gradients_of_pickled_ciphers() -> None:
    x, weight = torch.rand(1, 3, 8, 16), torch.randn(1, 3, 8, 16)
    cipher = Cipher(KEY, SCHEMES["blocks"], gradient="straight-through")
    expected = gradients(cipher.prepare(8, 16).encrypt, x, weight)
    for other in (pickle.loads(pickle.dumps(cipher)), copy.deepcopy(cipher)):
        assert torch.equal(gradients(other.encrypt, x, weight), expected)


@pytest.mark.parametrize("form", ["op", "aten"])
@pytest.mark.parametrize("name", ["blocks", "version 1"])
def test_gradients_of_layers(name: str, form: str) -> None:
    """nn.Encrypt has those of its cipher, also once it was pickled."""
    norm = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.25, 2.0)}
    x, weight = torch.rand(1, 3, 8, 16), torch.randn(1, 3, 8, 16)
    cipher = Cipher(KEY, SCHEMES.get(name), gradient="straight-through")
    layer = nn.Encrypt(cipher, form=form, size=(8, 16), dtype=torch.float32, **norm)
    back = nn.Encrypt(cipher, form=form, size=(8, 16), decrypt=True)
    for made in (layer, pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        expected = gradients(lambda v: cipher.encrypt(v, **norm), x, weight)
        assert torch.equal(gradients(made, x, weight), expected)
        y = made(x.clone().requires_grad_())
        assert torch.equal(y.detach(), cipher.encrypt(x, **norm))
    assert torch.equal(gradients(back, x, weight), gradients(cipher.decrypt, x, weight))
    assert not layer(x).requires_grad


@pytest.mark.parametrize("form", ["op", "aten"])
def test_gradients_of_layers_are_asked_for_and_have_limits(form: str) -> None:
    x = torch.rand(1, 3, 8, 8)
    layer = nn.Encrypt(Cipher(KEY, gradient="straight-through"), form=form)
    with pytest.raises(RuntimeError, match="no derivative"):
        nn.Encrypt(Cipher(KEY), form=form)(x.clone().requires_grad_())
    with pytest.raises(RuntimeError, match="no derivative"):
        torch.func.grad(lambda v: layer(v).sum())(x)
    with pytest.raises(ValueError, match=r"^x: height and width"):
        layer(torch.rand(1, 3, 7, 8).requires_grad_())
    with pytest.raises(Exception, match="no derivative"):
        torch.compile(layer, backend="eager", fullgraph=True)(x.clone().requires_grad_())


# --- attacks on a model that decrypts, and on one that has learned nothing ------------------------

TEMPLATES = torch.from_numpy(RNG.integers(0, 256, (10, 3, 8, 8), dtype=np.uint8))
LABELS = torch.arange(10).repeat(4)
IMAGES = (TEMPLATES[LABELS].int() + torch.from_numpy(RNG.integers(-40, 41, (40, 3, 8, 8)))).clamp(0, 255)
BATCH = IMAGES.to(torch.uint8), LABELS


def keyed_model(cipher: Cipher):
    """Logits by the distance to encrypted templates: right under the right key, and under no other."""
    centres = cipher.encrypt(TEMPLATES).double().flatten(1) / 255

    def logits(y: torch.Tensor) -> torch.Tensor:
        flat = y.double().flatten(1) / (1 if y.is_floating_point() else 255)
        return -((flat[:, None] - centres) ** 2).mean(2)

    return logits


def untrained(y: torch.Tensor) -> torch.Tensor:
    """A random linear model."""
    weights = torch.randn(10, y[0].numel(), generator=torch.Generator().manual_seed(0))
    return y.float().flatten(1) @ weights.T


@pytest.mark.parametrize("steps", [("shuffle",), ("np",), ("ffx",)])
def test_key_estimation_finds_a_small_key(steps: tuple[str, ...]) -> None:
    scheme = Scheme(2, steps)
    right = key_search.secrets_of(scheme, KEY)
    table = right[0][1] if steps == ("ffx",) else None
    options = {"objective": "loss", "table": table, "truth": KEY}
    found = key_search.estimate_key(keyed_model(Cipher(KEY, scheme)), BATCH, scheme, **options)
    assert found.scores["key share"] == 1
    assert found.scores["accuracy"] == 1
    assert Cipher(found.recovered.key, scheme).encrypt(BATCH[0]).equal(Cipher(KEY, scheme).encrypt(BATCH[0]))
    losses = [point["loss"] for point in found.recovered.curve]
    assert losses == sorted(losses, reverse=True)
    assert found.recovered.curve[-1]["queries"] <= found.used["queries"]
    nothing = key_search.estimate_key(untrained, BATCH, scheme, rounds=2, **options)
    assert nothing.scores["accuracy"] < 0.5
    assert nothing.scores["key share"] < 0.9


def test_key_estimation_as_published() -> None:
    """Accuracy tells little where it is 1 already: the mask is found in part, and ties move it on."""
    scheme = Scheme(2, ["np"])
    model = keyed_model(Cipher(KEY, scheme))
    found = key_search.estimate_key(model, BATCH, scheme, truth=KEY)
    assert found.scores["accuracy"] > 0.9
    ties = key_search.estimate_key(model, BATCH, scheme, truth=KEY, keep_ties=True, rounds=2)
    assert len(ties.recovered.curve) > len(found.recovered.curve)


def test_flips_take_few_queries() -> None:
    scheme = Scheme(2, ["np"])
    options = {"objective": "loss", "flips": True, "truth": KEY}
    found = key_search.estimate_key(keyed_model(Cipher(KEY, scheme)), BATCH, scheme, **options)
    assert found.scores["key share"] == 1
    assert found.used["queries"] <= 1 + 12 * 3


def test_key_estimation_with_a_step_known_and_a_budget() -> None:
    scheme = Scheme(2, ["shuffle", "np"])
    right = key_search.secrets_of(scheme, KEY)
    model = keyed_model(Cipher(KEY, scheme))
    options = {"objective": "loss", "known": {0: right[0]}, "truth": KEY}
    found = key_search.estimate_key(model, BATCH, scheme, restarts=2, **options)
    assert found.scores["key share of step 1"] == 1
    assert "key share of step 0" not in found.scores
    assert key_search.estimate_key(model, BATCH, scheme, most_queries=7, **options).used["queries"] == 7


def test_searches_run_beside_each_other_until_they_are_stopped() -> None:
    scheme = Scheme(2, ["np"])
    model = keyed_model(Cipher(KEY, scheme))
    sizes: list[int] = []

    def asked(y: torch.Tensor) -> torch.Tensor:
        sizes.append(len(y))
        return model(y)

    options = {"objective": "loss", "flips": True, "truth": KEY, "restarts": 3}
    found = key_search.estimate_key(
        asked, BATCH, scheme, test=(BATCH[0][:7], LABELS[:7]), stop=lambda: len(sizes) == 5, **options
    )
    assert sizes == [3 * 40] * 5 + [7]
    assert found.used["queries"] == 15
    ends = found.recovered.ends
    assert len(ends) == 3
    assert min(ends, key=lambda point: point["loss"]) == found.recovered.curve[-1]
    assert found.recovered.curve[-1]["key share"] == found.scores["key share"]
    with pytest.raises(ValueError, match=r"^stop: expected at least one query"):
        key_search.estimate_key(model, BATCH, scheme, stop=lambda: True, **options)


@pytest.mark.parametrize(
    "steps", [("shuffle",), ("np",), ("ffx",), ("shuffle", "np", "ffx"), ("ffx", "shuffle")]
)
def test_many_keys_at_once_encrypt_as_ciphers_do(steps: tuple[str, ...]) -> None:
    """As they do on a GPU, where no plan is compiled for a query."""
    scheme = Scheme(4, steps)
    rng = np.random.default_rng(0)
    search = key_search._Search(untrained, BATCH, scheme, {}, rng.permutation(256), rng)
    keys = [search.start() for _ in range(3)]
    assert search.by_plans
    want = search.encrypted(keys)
    search.by_plans = False
    assert torch.equal(search.encrypted(keys), want)
    assert not torch.equal(want[:40], want[40:80])


def test_random_keys() -> None:
    scheme = Scheme(2, ["shuffle", "np"])
    model = keyed_model(Cipher(KEY, scheme))
    found = key_search.random_keys(model, BATCH, scheme, keys=20)
    assert len(set(found.recovered)) > 1
    assert found.scores["mean accuracy"] < 0.5
    assert key_search.random_keys(untrained, BATCH, scheme, keys=20).scores["mean accuracy"] < 0.3


def test_key_search_says_what_is_wrong() -> None:
    def search(scheme: Scheme, **options: object) -> None:
        key_search.estimate_key(untrained, BATCH, scheme, **options)  # type: ignore[arg-type]

    for scheme, options, message in (
        (Scheme(2, [Scramble(period="image")]), {}, "^scheme: expected shuffle"),
        (Scheme(2, [Np(period=4)]), {}, "^scheme: expected shuffle"),
        (Scheme(2, ["ffx"]), {}, "^table: expected"),
        (Scheme(2, ["np"]), {"objective": "auc"}, "^objective: expected"),
        (Scheme(2, ["np"]), {"known": {0: [0] * 12}}, "^known: expected at least one"),
        (Scheme(2, ["np"]), {"known": {3: 1}}, "^known: expected numbers"),
        (Scheme(2, ["np"]), {"rounds": 0}, "^rounds: expected at least 1"),
        (Scheme(2, ["np"]), {"most_queries": 0}, "^most_queries: expected at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            search(scheme, **options)


def test_adversarial_images_need_the_key() -> None:
    scheme = Scheme(4, ["shuffle", "np"])
    victim = Cipher(KEY, scheme, gradient="straight-through")
    others = [Cipher(Key(bytes([n] * 32)), scheme, gradient="straight-through") for n in range(3)]
    model, x = keyed_model(victim), BATCH[0].float() / 255
    options = {"epsilon": 0.35, "step": 0.05}

    def success(**more: object) -> float:
        found = adversarial.attack(model, victim, x, LABELS, **options, **more)  # type: ignore[arg-type]
        assert (found.recovered - x).abs().max() <= 0.35 + 1e-6
        return found.scores["success"]

    assert success(ciphers=[victim]) == 1
    assert success(ciphers=others[:1]) < 0.2
    assert success(ciphers=others) < 0.2
    assert success(surrogate=keyed_model(Cipher(ExplicitKey([[False] * 48]), steps=["np"]))) == 1
    inverse = adversarial.inverse_attack(model, victim, x, LABELS, cipher=victim, **options)
    assert inverse.scores["success"] == 1
    assert inverse.used["largest change"] <= 0.35 + 1e-6
    wrong = adversarial.inverse_attack(model, victim, x, LABELS, cipher=others[0], **options)
    assert wrong.scores["success"] < 0.2
    never = adversarial.attack(lambda y: untrained(y) * 0, victim, x, 9 - LABELS, ciphers=[victim])
    assert np.isnan(never.scores["success"]) or never.scores["success"] < 0.5
    with pytest.raises(ValueError, match=r"^ciphers\[0\]: expected one made with gradient"):
        adversarial.attack(model, victim, x, LABELS, ciphers=[Cipher(KEY, scheme)])


def test_seriation_finds_the_table() -> None:
    scheme = Scheme(2, ["ffx"])
    mask, table = key_search.secrets_of(scheme, KEY)[0]
    cipher = Cipher(KEY, scheme)
    waves = torch.randn(10, 12, generator=torch.Generator().manual_seed(1))

    def smooth(y: torch.Tensor) -> torch.Tensor:
        means = to_vectors(cipher.decrypt(y), 2).double().mean(1) / 255
        return torch.tanh(3 * means @ waves.T.double())

    positions = np.flatnonzero(mask)[:3].tolist()
    y = cipher.encrypt(BATCH[0][:4])
    found = seriation.seriation(smooth, y, 2, positions, table=table)
    assert found.scores["rank correlation"] > 0.999
    assert found.scores["rank error"] < 1
    assert found.used == {"images": 4, "queries": 3 * 4 * 256}
    nothing = seriation.seriation(untrained, y, 2, positions, table=table)  # is smooth in encrypted values
    assert nothing.scores["rank correlation"] < 0.3
    assert nothing.scores["rank error"] > 60


def filters(cipher: Cipher | None, squash=torch.tanh):
    """A model of smooth filters over the plain block, as images train them; or over the encrypted one."""
    place = torch.arange(4, dtype=torch.float64)
    random = torch.Generator().manual_seed(1)
    waves = torch.rand(40, 2, generator=random, dtype=torch.float64)
    phases = 6 * torch.rand(40, generator=random, dtype=torch.float64)
    angles = waves[:, :1, None] * place[:, None] + waves[:, 1:, None] * place + phases[:, None, None]
    weight = angles.sin().unsqueeze(-1).expand(40, 4, 4, 3).reshape(40, -1)

    def logits(y: torch.Tensor) -> torch.Tensor:
        x = y if cipher is None else cipher.decrypt(y)
        return squash(to_vectors(x, 4).double().mean(1) / 20_000 @ weight.T)

    return logits


@pytest.mark.parametrize("steps", [("shuffle",), ("np",), ("ffx",), ("shuffle", "np", "ffx")])
def test_slopes_show_masks_and_neighbours(steps: tuple[str, ...]) -> None:
    pytest.importorskip("scipy")
    # A key whose table takes plain values far apart to 64 and 191, so that slopes are steep where it is used.
    cipher = Cipher(Key(bytes([3]) * 32), steps=steps)
    y = cipher.encrypt(torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8))
    enciphered = 24 if "ffx" in steps else 0
    found = slopes.read_slopes(filters(cipher), y, 4, enciphered=enciphered, truth=cipher.plan())
    assert found.scores["neighbour"] > 0.9
    assert [found.scores.get(name) for name in ("ffx share", "np share", "np share, all")] == [
        1.0 if "ffx" in steps else None,
        *([1.0, 1.0] if "np" in steps else [None, None]),
    ]
    plan = cipher.plan()
    assert (found.recovered.enciphered == (plan.table_of[0] > 0)).all()
    assert len(set(found.recovered.negated ^ (plan.flips[0] % 2 == 1))) == 1  # or all of them the other way
    asked = 48 * 2 * 3 + (48 * 256 + 24 * 2 * 3 if enciphered else 0)
    assert found.used == {"images": 3, "queries": asked}


def test_slopes_of_a_model_that_learned_nothing() -> None:
    """It is smooth over the encrypted block, in encrypted values."""
    pytest.importorskip("scipy")
    cipher = Cipher(KEY)
    y = cipher.encrypt(torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8))
    found = slopes.read_slopes(filters(None), y, 4, enciphered=24, truth=cipher.plan())
    assert found.scores["ffx share"] < 0.8
    assert found.scores["np share"] < 0.85
    assert found.scores["neighbour"] < 0.6


def test_weak_slopes_are_those_of_positions_that_a_model_leaves_alone() -> None:
    pytest.importorskip("scipy")
    cipher = Cipher(KEY, steps=("ffx",))
    selected = torch.from_numpy(cipher.plan().table_of[0] > 0)
    smooth = filters(None, squash=torch.clone)  # its answers jump nowhere

    def logits(y: torch.Tensor) -> torch.Tensor:
        v = to_vectors(y, 4).double()
        return smooth(to_images(torch.where(selected, 100 + v / 10, v), 4, *y.shape[1:]))

    y = cipher.encrypt(torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8))
    found = slopes.read_slopes(logits, y, 4, enciphered=24, truth=cipher.plan())
    assert found.scores["ffx share"] == 1


def test_slopes_of_a_model_that_always_answers_the_same() -> None:
    pytest.importorskip("scipy")
    cipher = Cipher(KEY)
    y = cipher.encrypt(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    found = slopes.read_slopes(lambda v: torch.ones(len(v), 10), y, 4, enciphered=24, truth=cipher.plan())
    assert found.recovered.enciphered.sum() == 24
    assert all(0 <= score <= 1 for score in found.scores.values())


def test_slopes_say_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("scipy")
    y = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    with pytest.raises(ValueError, match="enciphered: expected 0 to 47 positions of 48, got 48"):
        slopes.read_slopes(untrained, y, 4, enciphered=48)
    with pytest.raises(ValueError, match="block_size: expected blocks of at least 2 values"):
        slopes.read_slopes(untrained, y[:, :1], 1)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"read_slopes: SciPy is not .* 'blockenc\[attacks\]'"):
        slopes.read_slopes(untrained, y, 4)


# --- keys by gradients --------------------------------------------------------------------------


def prototypes(cipher: Cipher, x: torch.Tensor):
    """A model that knows images by how near their encrypted values are."""
    centres = cipher.encrypt(x.float() / 255).flatten(1)
    return lambda y: -10 * ((y.flatten(1)[:, None] - centres) ** 2).mean(2)


@pytest.mark.parametrize("steps", [("shuffle",), ("np",), ("shuffle", "np")])
def test_gradients_find_a_small_key(steps: tuple[str, ...]) -> None:
    pytest.importorskip("scipy")
    scheme = Scheme(2, steps)
    x = torch.randint(0, 256, (30, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))
    y = torch.arange(30)
    cipher = Cipher(KEY, scheme, gradient="straight-through")
    found = relaxed.relaxed_key(prototypes(cipher, x), (x, y), scheme, truth=KEY)
    assert found.scores["key share"] == 1
    assert found.scores["accuracy"] == 1
    assert torch.equal(Cipher(found.recovered, scheme).encrypt(x), cipher.encrypt(x))
    assert found.used == {"images": 30, "gradients": 150}
    nothing = relaxed.relaxed_key(lambda v: v.flatten(1)[:, :30] * 0, (x, y), scheme, truth=KEY)
    assert nothing.scores["key share"] < 0.9


def test_gradients_find_what_ffx_leaves_in_the_clear() -> None:
    pytest.importorskip("scipy")
    scheme = Scheme(2, ("np", "ffx"))
    x = torch.randint(0, 256, (30, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))
    cipher = Cipher(KEY, scheme, gradient="straight-through")
    right, ffx = key_search.secrets_of(scheme, KEY)
    arguments = (prototypes(cipher, x), (x, torch.arange(30)), scheme)
    found = relaxed.relaxed_key(*arguments, known={1: ffx}, truth=KEY)
    mask = reveal(found.recovered.secret(0, 2))
    assert (mask == right)[~ffx[0]].all()
    assert found.scores["key share"] == found.scores["key share of step 0"] == (mask == right).mean()


def test_gradients_stop_and_say_what_is_wrong() -> None:
    pytest.importorskip("scipy")
    x, y = torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.arange(2)
    cipher = Cipher(KEY, Scheme(2, ["np"]), gradient="straight-through")
    model = prototypes(cipher, x)
    asked: list[int] = []
    stopped = relaxed.relaxed_key(
        model, (x, y), Scheme(2, ["np"]), stop=lambda: bool(asked.append(1) or len(asked) > 3)
    )
    assert stopped.used["gradients"] == 3
    matrix = relaxed.sinkhorn(torch.randn(6, 6), 0.5)
    assert torch.allclose(matrix.sum(0), torch.ones(6), atol=1e-4)
    assert torch.allclose(matrix.sum(1), torch.ones(6), atol=1e-2)
    for given, wrong in (
        ({"scheme": Scheme(2, ["ffx"])}, "known: expected the secret of step 0, ffx"),
        ({"known": {0: np.zeros(12, bool)}}, "known: expected at least one step to search"),
        ({"known": {3: 0}}, "known: expected numbers of steps, 0 to 0"),
        ({"scheme": Scheme(4, [Shuffle(2), Np(4)])}, "scheme: expected steps of bytes with one block size"),
        ({"scheme": Scheme(4, [Scramble(period="image")])}, "scheme: expected shuffle, np and ffx"),
        ({"steps": 0}, "steps: expected at least 1, got 0"),
        ({"labelled": (x, y[:1])}, "labelled: expected a label an image, got 2 and 1"),
    ):
        arguments = {"labelled": (x, y), "scheme": Scheme(2, ["np"]), **given}
        with pytest.raises(ValueError, match=wrong):
            relaxed.relaxed_key(model, **arguments)


def test_values_beyond_one_are_looked_up_as_one() -> None:
    """Rows of a matrix that is not normalised to the end may add up to more than 1."""
    pytest.importorskip("scipy")
    scheme = Scheme(2, ("shuffle", "ffx"))
    white = torch.full((4, 3, 4, 4), 255, dtype=torch.uint8)
    known = {1: key_search.secrets_of(scheme, KEY)[1]}
    found = relaxed.relaxed_key(
        lambda y: y.flatten(1)[:, :4], (white, torch.arange(4)), scheme, known=known, heats=(0.01, 0.01)
    )
    assert found.used["gradients"] == 150
