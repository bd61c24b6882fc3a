"""No public name leaves a key or a password anywhere: every one is called here, or takes none.

tests/leaks.py says where is looked. A new public name without a case fails.
"""

from __future__ import annotations

import base64
import hashlib
import importlib
import inspect
import io
import logging
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import blockenc
from blockenc import Cipher, ExplicitKey, Key, KeySet, Scheme, nn
from blockenc.attacks import adversarial, judge, key_search
from blockenc.cli import app as cli
from blockenc.datasets.engine import decrypt_files, decrypt_unlisted, encrypt_files, in_threads
from blockenc.keys import as_key, keyfile, load_key
from tests.leaks import Detector, Watch
from tests.leaks_models import Model, WithCipher

SECRET = hashlib.sha256(b"a key of tests/test_leaks.py").digest()
PASSWORD = "Tr0ub4dor-ünd-drei-Pferde"
ORDER = np.random.default_rng(5).permutation(48)
DETECTOR = Detector(key=SECRET, password=PASSWORD.encode(), order=bytes(ORDER.tolist()))
X = torch.arange(2 * 3 * 8 * 8).remainder(256).to(torch.uint8).reshape(2, 3, 8, 8)
FLOATS = X.float() / 255
MODULES = (
    *("", ".attacks", ".attacks.adversarial", ".attacks.key_search", ".attacks.seriation", ".cli.app"),
    *(".datasets.engine", ".keys", ".loading.collate", ".loading.ids", ".loading.transform", ".nn"),
    *(".schemes", ".sealing.api", ".sklearn", ".steps"),
)
HOLDERS = (Key, KeySet, ExplicitKey, Cipher)  # of which every method is a name of its own
# Parameters and results by which a name has to do with secrets.
SECRETS = {
    "key",
    "keys",
    "secret",
    "secrets",
    "password",
    "password_file",
    "cipher",
    "ciphers",
    "victim",
    "job",
}
SECRETS |= {"submit", "truth", "members"}


def names_of(module: str) -> Iterator[tuple[str, Any]]:
    """The public names of a module of blockenc: its __all__, its commands, or what is defined in it."""
    found = importlib.import_module(f"blockenc{module}")
    if module == ".cli.app":
        for command in cli.app.registered_commands:
            assert command.callback
            yield f"blockenc {command.callback.__name__}", command.callback
        return
    own = (
        name
        for name, value in vars(found).items()
        if not name.startswith("_") and callable(value) and getattr(value, "__module__", "") == found.__name__
    )
    for name in getattr(found, "__all__", None) or own:
        yield name, getattr(found, name)


def public_names() -> dict[str, Any]:
    names = {name: value for module in MODULES for name, value in names_of(module)}
    for holder in HOLDERS:
        methods = (name for name in dir(holder) if not name.startswith("_"))
        names |= {f"{holder.__name__}.{name}": inspect.getattr_static(holder, name) for name in methods}
    return names


class Scene:
    """What cases have at hand."""

    def __init__(self, folder: Path, given: Path) -> None:
        self.raw, self.password, self.folder, self.given = SECRET, PASSWORD, folder, given
        self.key = Key(SECRET)
        self.set = KeySet(shuffle=SECRET, all=self.key)
        self.explicit = ExplicitKey([ORDER])
        self.cipher = Cipher(self.key)
        self.moves = Cipher(self.key, steps=["shuffle", "np"])
        self.smooth = Cipher(self.key, gradient="straight-through")
        self.per_image = Cipher(self.key, per_image=True)
        self.weights = {"a": torch.ones(40)}

    @property
    def stem(self) -> torch.nn.Sequential:
        return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 4, 4), torch.nn.Conv2d(4, 4, 1)).eval()

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        return x.float().flatten(1)[:, :2]

    def command(self, *arguments: object) -> Any:
        """What a command prints, and how it ends."""
        done = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.output

    @property
    def opened(self) -> list[object]:
        """The options that open the key file."""
        return ["--key", self.given / "key", "--password-file", self.given / "password"]


def traced(s: Scene) -> Any:
    """As torch.jit has it, and saves it."""
    made, file = torch.jit.trace(Model(s.cipher), X), io.BytesIO()
    torch.jit.save(made, file)
    return [str(made.graph), file.getvalue()]


def compiled(s: Scene) -> Any:
    """Compiled by inductor, whose caches are in the folder that is looked through."""
    import torch._inductor.config

    # Without the programs in C++ by which it finds out what the processor can do.
    with torch._inductor.config.patch("cpp.simdlen", 1):
        return torch.compile(nn.Encrypt(s.cipher), fullgraph=True)(X)


def stopped(s: Scene) -> Any:
    """A run that ends within, and leaves its journal."""

    def cut_off(job: Any, units: Any, workers: Any) -> Iterator[Any]:
        yield next(in_threads(job, units, 1))
        raise OSError("cut off")

    return encrypt_files(s.given / "photos", s.folder / "stopped", s.key, Scheme(channels=1), engine=cut_off)


CASES: dict[str, tuple[Callable[[Scene], Any], ...]] = {
    # keys
    "Key": (lambda s: s.key, lambda s: Key(s.raw + b"!"), lambda s: Key(s.raw.hex())),  # type: ignore[arg-type]
    "Key.from_bytes": (lambda s: Key.from_bytes(s.raw), lambda s: Key.from_bytes(s.raw[1:])),
    "Key.from_password": (
        lambda s: Key.from_password(s.password, "a long salt"),
        lambda s: Key.from_password(s.password, "short"),
        lambda s: Key.from_password(s.password.encode(), "a long salt"),  # type: ignore[arg-type]
    ),
    "Key.generate": (lambda s: Key.generate(),),
    "Key.derive": (lambda s: s.key.derive("train"), lambda s: s.key.derive(s.key)),  # type: ignore[arg-type]
    "Key.save": (
        lambda s: s.key.save(s.folder / "key", s.password),
        lambda s: s.key.save(s.folder / "key", s.password),
        lambda s: s.key.save(s.folder / "no" / "key", s.password),
        lambda s: s.key.save(s.folder / "key", s.password.encode(), overwrite=True),  # type: ignore[arg-type]
    ),
    "Key.load": (
        lambda s: Key.load(s.given / "key", s.password),
        lambda s: Key.load(s.given / "key", s.password + "!"),
        lambda s: Key.load(s.given / "none", s.password),
        lambda s: Key.load(s.given / "set", s.password),
    ),
    "Key.fingerprint": (lambda s: s.key.fingerprint,),
    "Key.kept": (lambda s: s.key.kept,),
    "Key.derives": (lambda s: s.key.derives,),
    "Key.mac_key": (lambda s: s.key.mac_key("blockenc/a"), lambda s: s.key.mac_key(1)),  # type: ignore[arg-type]
    "Key.keystreams": (lambda s: s.key.keystreams(["blockenc/a"]),),
    "Key.cipher_keys": (lambda s: s.key.cipher_keys(["blockenc/a"], "byte"),),
    "KeySet": (
        lambda s: s.set,
        lambda s: KeySet(shuffle=s.raw, np=s.raw + b"!"),
        lambda s: KeySet(unknown=s.raw),
    ),
    "KeySet.from_seed": (
        lambda s: KeySet.from_seed(1, s.password),
        lambda s: KeySet.from_seed(-1, s.password),
        lambda s: Cipher(KeySet.from_seed(1, s.password), ffx="decimal", block_size=2),
    ),
    "KeySet.generate": (lambda s: KeySet.generate(),),
    "KeySet.replace": (lambda s: s.set.replace(np=s.raw), lambda s: s.set.replace(np=s.raw[1:], other=s.raw)),
    "KeySet.member": (lambda s: s.set.member("np"), lambda s: s.set.member(s.key)),  # type: ignore[arg-type]
    "KeySet.save": (
        lambda s: s.set.save(s.folder / "set", s.password),
        lambda s: s.set.save(s.folder / "set", s.password),
        lambda s: KeySet.from_seed(1, s.password).save(s.folder / "seed", s.password),
    ),
    "KeySet.load": (
        lambda s: KeySet.load(s.given / "set", s.password),
        lambda s: KeySet.load(s.given / "set", s.password[1:]),
    ),
    "KeySet.fingerprint": (lambda s: s.set.fingerprint,),
    "KeySet.kept": (lambda s: s.set.kept,),
    "KeySet.derives": (lambda s: s.set.derives,),
    "KeySet.kinds": (lambda s: s.set.kinds,),
    "KeySet.mac_key": (lambda s: s.set.mac_key("blockenc/a"),),
    "ExplicitKey": (
        lambda s: s.explicit,
        lambda s: ExplicitKey([ORDER + 0.5]),
        lambda s: Cipher(ExplicitKey([ORDER]), steps=["np"]),
        lambda s: Cipher(s.explicit, steps=["shuffle"]),
    ),
    "ExplicitKey.secret": (lambda s: s.explicit.secret(0, 1) is None,),
    "ExplicitKey.fingerprint": (lambda s: s.explicit.fingerprint,),
    "ExplicitKey.kept": (lambda s: s.explicit.kept,),
    "ExplicitKey.derives": (lambda s: s.explicit.derives,),
    "ExplicitKey.mac_key": (lambda s: s.explicit.mac_key("blockenc/a"),),
    "AnyKey": (),  # a name for types
    "as_key": (lambda s: as_key(s.raw), lambda s: as_key(s.raw[1:]), lambda s: as_key(s.password)),  # type: ignore[arg-type]
    "load_key": (
        lambda s: load_key(s.given / "key", s.password),
        lambda s: load_key(s.given / "set", s.password + "x"),
        lambda s: load_key(s.given / "damaged" / "b.png", s.password),
    ),
    # ciphers
    "Cipher": (
        lambda s: [s.cipher, s.set, s.per_image, vars(s.cipher)],
        lambda s: Cipher(s.raw[1:]),
        lambda s: Cipher(s.raw, {}),  # type: ignore[arg-type]
        lambda s: Cipher(s.raw, block_size=100_000),
        lambda s: torch.export.export(WithCipher(s.cipher), (X,)),
        lambda s: WithCipher(s.cipher),
        lambda s: Cipher(s.key, blockenc.schemes.ETC(block_size=4)).prepare(8, 8),
    ),
    "Cipher.encrypt": (
        lambda s: s.cipher.encrypt(X),
        lambda s: s.cipher.encrypt(X[..., :7]),
        lambda s: s.cipher.encrypt(2 * FLOATS),
        lambda s: s.per_image.encrypt(X, ids=[1, 2]),
        lambda s: s.per_image.encrypt(X, ids=[1]),
    ),
    "Cipher.decrypt": (lambda s: s.cipher.decrypt(X), lambda s: s.cipher.decrypt(X, size=(99, 99))),
    "Cipher.plan": (lambda s: s.cipher.plan(), lambda s: s.per_image.plan()),
    "Cipher.plans": (lambda s: s.cipher.plans(8, 8), lambda s: s.per_image.plans(8, 8)),
    "Cipher.prepare": (lambda s: s.cipher.prepare(8, 8), lambda s: s.per_image.prepare(8, 8)),
    "Cipher.result_dtype": (lambda s: s.cipher.result_dtype(torch.uint8, None),),
    "Cipher.takes_any_size": (lambda s: s.cipher.takes_any_size,),
    "encrypt": (
        lambda s: blockenc.encrypt(X, s.raw),
        lambda s: blockenc.encrypt(X, s.key, ids=range(2)),
        lambda s: blockenc.encrypt(s.key, s.key),
        lambda s: blockenc.encrypt(X[..., :7], s.raw),
        lambda s: blockenc.encrypt(X, s.raw, steps=s.key),  # type: ignore[arg-type]
    ),
    "decrypt": (lambda s: blockenc.decrypt(X, s.raw), lambda s: blockenc.decrypt(X[..., :7], s.raw)),
    # models
    "Encrypt": (
        lambda s: Model(s.cipher),
        lambda s: torch.export.export(Model(s.cipher), (X,)),
        lambda s: torch.fx.symbolic_trace(Model(s.cipher)),
        lambda s: traced(s),
        lambda s: torch.jit.script(Model(s.cipher)),
        lambda s: compiled(s),
        lambda s: Model(s.per_image),
        lambda s: nn.Encrypt(s.raw),  # type: ignore[arg-type]
    ),
    "KeyedChannels": (
        lambda s: nn.KeyedChannels(s.raw, "a"),
        lambda s: nn.KeyedChannels(s.raw, "a")(FLOATS),
        lambda s: torch.nn.Sequential(nn.KeyedChannels(s.raw, "a")),
        lambda s: nn.KeyedChannels(s.raw, ""),
        lambda s: nn.KeyedChannels(s.raw[1:], "a"),
    ),
    "protect": (
        lambda s: blockenc.protect(s.stem, s.moves),
        lambda s: blockenc.protect(s.stem, s.cipher),
        lambda s: blockenc.protect(s.stem, s.raw),  # type: ignore[arg-type]
    ),
    "unprotect": (
        lambda s: blockenc.unprotect(blockenc.protect(s.stem, s.moves), s.moves),
        lambda s: blockenc.unprotect(s.stem, s.raw),  # type: ignore[arg-type]
    ),
    "protect_features": (
        lambda s: blockenc.protect_features(s.stem, s.raw, ["0"]),
        lambda s: blockenc.protect_features(s.stem, s.raw, ["none"]),
        lambda s: blockenc.protect_features(s.stem, s.raw[1:], ["0"]),
    ),
    "unprotect_features": (
        lambda s: blockenc.unprotect_features(blockenc.protect_features(s.stem, s.raw, ["0"]), s.raw),
        lambda s: blockenc.unprotect_features(s.stem, s.raw),
    ),
    "save_protected": (
        lambda s: nn.save_protected(
            blockenc.protect(s.stem, s.moves), s.folder / "model.safetensors", s.moves
        ),
        lambda s: nn.save_protected(s.stem, s.folder / "no" / "model", s.raw),  # type: ignore[arg-type]
    ),
    "load_protected": (
        lambda s: nn.load_protected(s.stem, s.folder / "model.safetensors", s.moves),
        lambda s: nn.load_protected(s.stem, s.folder / "model.safetensors", s.cipher),
        lambda s: nn.load_protected(s.stem, s.folder / "none", s.raw),  # type: ignore[arg-type]
    ),
    # loading
    "EncryptCollate": (
        lambda s: blockenc.EncryptCollate(s.cipher),
        lambda s: blockenc.EncryptCollate(s.cipher)([(X[0], 1), (X[1], 2)]),
        lambda s: blockenc.EncryptCollate(s.per_image),
        lambda s: blockenc.EncryptCollate(s.cipher)([s.key]),
        lambda s: blockenc.EncryptCollate(s.raw),  # type: ignore[arg-type]
    ),
    "check_output": (),  # of EncryptCollate, which calls it
    "given_ids": (),
    "EncryptTransform": (
        lambda s: blockenc.EncryptTransform(s.cipher),
        lambda s: blockenc.EncryptTransform(s.cipher)(X),
        lambda s: blockenc.EncryptTransform(s.per_image),
        lambda s: blockenc.EncryptTransform(s.raw),  # type: ignore[arg-type]
    ),
    "BlockEncrypt": (
        lambda s: importlib.import_module("blockenc.sklearn").BlockEncrypt(s.cipher, shape=(8, 8, 3)),
        lambda s: importlib.import_module("blockenc.sklearn").BlockEncrypt(s.raw),
    ),
    # seals
    "seal": (
        lambda s: blockenc.seal(s.weights, s.raw, s.folder / "seal"),
        lambda s: blockenc.seal(s.weights, s.raw, s.folder / "seal"),
        lambda s: blockenc.seal({}, s.raw, s.folder / "other"),
        lambda s: blockenc.seal(s.weights, s.raw[1:], s.folder / "other"),
    ),
    "verify": (
        lambda s: blockenc.verify(s.weights, s.raw, s.folder / "seal", report=True),
        lambda s: blockenc.verify(s.weights, s.set, s.folder / "seal"),
        lambda s: blockenc.verify(s.weights, s.raw, s.folder / "none"),
    ),
    # attacks
    "judge": (
        lambda s: judge(Scheme(), X.repeat(2, 1, 2, 2), attacks=blockenc.attacks.ATTACKS[3:5], key=s.key),
        lambda s: judge(Scheme(), X, key=s.raw),  # type: ignore[arg-type]
    ),
    "attack": (
        lambda s: adversarial.attack(s.logits, s.cipher, FLOATS, torch.tensor([0, 1]), ciphers=[s.smooth]),
        lambda s: adversarial.attack(s.logits, s.raw, FLOATS, torch.tensor([0, 1])),  # type: ignore[arg-type]
    ),
    "inverse_attack": (
        lambda s: adversarial.inverse_attack(
            s.logits, s.cipher, FLOATS, torch.tensor([0, 1]), cipher=s.moves
        ),
    ),
    "estimate_key": (
        lambda s: key_search.estimate_key(
            s.logits, (X, torch.tensor([0, 1])), Scheme(steps=["np"]), most_queries=5, truth=s.key
        ),
    ),
    "Estimate": (lambda s: key_search.Estimate(s.explicit, []),),
    "random_keys": (lambda s: key_search.random_keys(s.logits, (X, torch.tensor([0, 1])), Scheme(), keys=2),),
    "secrets_of": (lambda s: key_search.secrets_of(Scheme(), s.key) is None,),
    # data sets
    "encrypt_files": (
        lambda s: encrypt_files(s.given / "photos", s.folder / "enc", s.key, Scheme(channels=1)),
        lambda s: encrypt_files(
            s.given / "photos", s.folder / "each", s.key, Scheme(channels=1), per_image=True
        ),
        lambda s: stopped(s),
        lambda s: encrypt_files(s.given / "photos", s.folder / "other", s.raw, Scheme(channels=1)),  # type: ignore[arg-type]
    ),
    "decrypt_files": (
        lambda s: decrypt_files(s.folder / "enc", s.folder / "dec", s.key),
        lambda s: decrypt_files(s.folder / "enc", s.folder / "wrong", s.set),
        lambda s: decrypt_files(s.folder / "none", s.folder / "wrong", s.raw),  # type: ignore[arg-type]
    ),
    "decrypt_unlisted": (
        lambda s: decrypt_unlisted(s.folder / "enc" / "a.png", s.folder / "alone", s.key, Scheme(channels=1)),
        lambda s: decrypt_unlisted(s.given / "damaged", s.folder / "alone", s.key, Scheme(channels=1)),
    ),
    "in_threads": (
        lambda s: encrypt_files(
            s.given / "photos", s.folder / "in", s.key, Scheme(channels=1), engine=in_threads, workers=2
        ),
    ),
    "hand_out": (),  # of in_threads, which calls it
    # commands
    "blockenc keygen": (
        lambda s: s.command("keygen", "new", "--password-file", s.given / "password"),
        lambda s: s.command("keygen", "new", "--password-file", s.given / "password"),
        lambda s: s.command("keygen", "set", "--set", "--password-file", s.given / "password"),
    ),
    "blockenc encrypt": (
        lambda s: s.command("encrypt", s.given / "photos", "by-command", *s.opened),
        lambda s: s.command("encrypt", s.given / "damaged", "stopped-command", *s.opened),
        lambda s: s.command("encrypt", s.given / "photos", "x", "--key", s.given / "key"),
    ),
    "blockenc decrypt": (
        lambda s: s.command("decrypt", "by-command", "decrypted", *s.opened),
        lambda s: s.command("decrypt", s.given / "photos", "x", *s.opened),
    ),
    "blockenc seal": (
        lambda s: s.command("seal", "model.safetensors", *s.opened),
        lambda s: s.command("seal", s.given / "password", *s.opened),
    ),
    "blockenc verify": (
        lambda s: s.command("verify", "model.safetensors", *s.opened),
        lambda s: s.command("verify", "model.safetensors", "--seal", "none", *s.opened),
    ),
    "blockenc inspect": (lambda s: s.command("inspect", s.given / "key"), lambda s: s.command("inspect")),
}


# --- the scan ---


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What calls are given, and a user wrote: key files with their password, pictures, damaged ones."""
    folder = tmp_path_factory.mktemp("given")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keyfile, "SCRYPT_N", 1 << 10)
        Key(SECRET).save(folder / "key", PASSWORD)
        KeySet(all=SECRET).save(folder / "set", PASSWORD)
    (folder / "password").write_text(f"{PASSWORD}\n")
    for name in ("photos/a.png", "photos/c.png", "damaged/a.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(X[0].permute(1, 2, 0).numpy()).save(folder / name)
    (folder / "damaged" / "b.png").write_bytes((folder / "photos" / "a.png").read_bytes()[:-40])
    return folder


@pytest.fixture
def watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watch:
    """A Watch of the folder that all is written to: the current one, the temporary one, the caches'."""
    for variable, name in (
        ("TMPDIR", "temporary"),
        ("TORCHINDUCTOR_CACHE_DIR", "inductor"),
        ("TRITON_CACHE_DIR", "triton"),
    ):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / name))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(keyfile, "SCRYPT_N", 1 << 10)
    monkeypatch.chdir(tmp_path)
    return Watch(DETECTOR, tmp_path)


def test_no_public_name_leaks(watch: Watch, given: Path) -> None:
    scene = Scene(watch.folder, given)
    for name, calls in CASES.items():
        for n, call in enumerate(calls):
            watch.run(lambda call=call: call(scene))
            assert watch.found == set(), f"{name}, call {n}"
    # What is to be looked through was there.
    written = {path.relative_to(watch.folder).as_posix() for path in watch.folder.rglob("*")}
    assert {"key", "seal", "model.safetensors", "enc/blockenc.json", "by-command/blockenc.json"} <= written
    assert any(name.startswith("inductor/") and name.endswith(".py") for name in written)
    assert any(name.startswith("stopped/") and name.endswith("/journal") for name in written)
    assert any("journal" in name for name in watch.removed)


def test_every_public_name_has_a_case() -> None:
    """Or takes no secret, by the names of its parameters."""
    names = public_names()
    assert set(CASES) - set(names) == set()
    for name in set(names) - set(CASES):
        if isinstance(names[name], type) and issubclass(names[name], BaseException):
            continue
        if callable(names[name]):
            taken = set(inspect.signature(names[name]).parameters)
            assert not taken & SECRETS, f"{name} takes {taken & SECRETS}, and has no case in CASES"
        else:
            assert not isinstance(names[name], HOLDERS), name


# --- what is leaked on purpose is found ---

HALF = SECRET[9:25]
SHAPES: dict[str, bytes | str] = {
    "raw": SECRET,
    "hexadecimal": SECRET.hex(),
    "capitals": SECRET.hex().upper(),
    "base64": b"{" + base64.b64encode(SECRET) + b"}",
    "base64 behind a byte": base64.b64encode(b"1" + SECRET),
    "base64 behind two bytes": base64.b64encode(b"12" + SECRET),
    "base64 for URLs": base64.urlsafe_b64encode(SECRET),
    "repr": repr(SECRET),
    "list": str(list(SECRET)),
    "lines": "\n".join(map(str, SECRET)),
    "array": str(np.frombuffer(SECRET, np.uint8)),
    "a half": HALF,
    "a half, hexadecimal": HALF.hex(),
    "a half in base64": base64.b64encode(HALF),
    "a half as a list": str(list(HALF)),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_are_found(shape: str) -> None:
    assert DETECTOR(SHAPES[shape]) == ["key"]


def test_what_is_no_secret_is_not_found() -> None:
    other = hashlib.sha256(b"another").digest()
    for data in (other, other.hex(), base64.b64encode(other), str(list(other)), str(list(range(256)))):
        assert DETECTOR(data) == []
    assert DETECTOR(PASSWORD) == DETECTOR(PASSWORD[:16]) == ["password"]
    assert DETECTOR(str(ORDER)) == ["order"]


def logs() -> None:
    quiet = logging.getLogger("blockenc.of-a-test")
    quiet.propagate = False
    quiet.debug("%s", SECRET.hex())


def raises(value: object = "") -> None:
    local = value
    raise ValueError(f"of {type(local).__name__}")


def carries() -> None:
    error = ValueError("nothing to see")
    error.value = SECRET  # type: ignore[attr-defined]
    raise error


def chains() -> None:
    try:
        raise KeyError(SECRET)
    except KeyError:
        raise ValueError("nothing to see") from None


def removes() -> None:
    path = Path(tempfile.gettempdir()) / "short"
    path.write_bytes(b"{" + SECRET)
    path.unlink()


class Shows:
    """Holds a secret under an ordinary repr."""

    def __init__(self) -> None:
        self.value = SECRET


class Holds(torch.nn.Module):
    """Has a secret as a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.tensor(list(SECRET), dtype=torch.uint8), persistent=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.table


def cached() -> None:
    folder = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]) / "ab"
    folder.mkdir()
    (folder / "graph.py").write_text(f"# {SECRET.hex()}")


class Named(torch.nn.Module):
    """Has a secret in its code."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.einsum(SECRET.hex(), x)


PLANTED: list[tuple[str, Callable[[], Any]]] = [
    ("key in a repr", lambda: SimpleNamespace(value=SECRET)),
    ("key in a pickle", Shows),
    ("key in a log", logs),
    ("key in a warning", lambda: warnings.warn(SECRET.hex(), stacklevel=1)),
    ("key in what is printed", lambda: print(list(SECRET))),
    ("password in what is printed", lambda: print(PASSWORD, file=sys.stderr)),
    ("key in an exception", lambda: raises(SECRET)),
    ("key in an exception", chains),
    ("key in the pickle of an exception", carries),
    ("key in a state_dict", Holds),
    ("key in an exported graph", lambda: torch.export.export(Holds(), (torch.zeros(32, dtype=torch.uint8),))),
    ("key in a graph", lambda: torch.fx.symbolic_trace(Named())),
    ("key in a file", cached),
    ("key in the name of a file", lambda: Path(SECRET.hex()).touch()),
    ("key in a file that was removed", removes),
    ("password in a file", lambda: Path("manifest").write_text(PASSWORD)),
    ("order in a repr", lambda: SimpleNamespace(order=ORDER)),
]


@pytest.mark.parametrize("leak, call", PLANTED)
def test_leaks_are_found(leak: str, call: Callable[[], Any], watch: Watch) -> None:
    watch.run(call)
    assert leak in watch.found


# --- the command line's own process, and those that it starts ---


def processes(program: subprocess.Popen[bytes]) -> Iterator[tuple[int, bytes]]:
    """Arguments and environment of a process and of those that it starts, as long as it runs."""
    while program.poll() is None:
        children = [text.read_text().split() for text in Path(f"/proc/{program.pid}/task").glob("*/children")]
        for number in (program.pid, *(int(child) for group in children for child in group)):
            try:
                arguments, environment = (
                    Path(f"/proc/{number}/{what}").read_bytes() for what in ("cmdline", "environ")
                )
            except OSError:
                continue  # it has ended
            # A child that has yet to begin its program shows what its parent does.
            if number == program.pid or b"time.sleep" in arguments:
                yield number, arguments + environment
        time.sleep(0.02)


CHILD = """
import subprocess, sys
from blockenc.cli import app
from blockenc.datasets import engine
run = engine.encrypt_files
def and_a_child(*arguments, **options):
    subprocess.run([sys.executable, "-S", "-c", "import time; time.sleep(0.5)"])
    return run(*arguments, **options)
engine.encrypt_files = and_a_child
app.main()
"""


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="this system has no /proc")
@pytest.mark.parametrize("way", ["file", "variable", "leak"])
def test_processes(way: str, watch: Watch, given: Path) -> None:
    """A password out of a file is in no argument or environment; one out of the variable goes to no child."""
    arguments = ["encrypt", str(given / "photos"), "out", "--key", str(given / "key")]
    environment = {**os.environ, "PYTHONPATH": str(Path(blockenc.__file__).parents[1])}
    if way == "file":
        arguments += ["--password-file", str(given / "password")]
    else:
        environment[cli.PASSWORD_VARIABLE] = PASSWORD
    code = CHILD
    if way == "leak":
        code = code.replace('"-c"', f'"-X", "{SECRET.hex()}", "-c"')
        code = code.replace("subprocess.run([", f"subprocess.run(env={{'a': {PASSWORD!r}}}, args=[")
    script = given / f"{way}.py"
    script.write_text(code)
    program = subprocess.Popen(
        [sys.executable, str(script), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    own: set[str] = set()
    others: list[str] = []
    children = 0
    for number, shown in processes(program):
        if number == program.pid:
            own.update(DETECTOR(shown))
        else:
            children += 1
            others += DETECTOR(shown)
    printed, _ = program.communicate()
    assert program.returncode == 0, printed
    assert DETECTOR(printed) == []
    assert children > 0
    watch.look_at_files()
    assert watch.found == set()
    assert own == (set() if way == "file" else {"password"})  # which the user put there
    assert set(others) == ({"key", "password"} if way == "leak" else set())
