"""Key bytes stay where they belong, and importing costs nothing."""

from __future__ import annotations

import base64
import collections
import copy
import gc
import io
import itertools
import json
import logging
import os
import pickle
import secrets
import subprocess
import sys
import traceback
import types
import unicodedata
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import blockenc
from blockenc import Cipher, Key, KeyFileError, KeySet, hidden
from blockenc.keys import keyfile, keyset, native
from blockenc.reference import version1
from blockenc.sealing.seal_file import CHUNK_INFO, WHOLE_INFO
from tests import oracle

SECRET = bytes(range(100, 132))
SHAPES = {
    "raw": SECRET,
    "hex": SECRET.hex().encode(),
    "base64": base64.b64encode(SECRET),
    "repr": repr(SECRET).encode(),
}
PASSWORD = "hunter2-ünd-mehr"
X = oracle.image((1, 3, 8, 8))
SET = KeySet(shuffle=SECRET, np=bytes(range(32)), ffx=bytes(range(32, 64)))


def shows(text: str | bytes) -> list[str]:
    data = text.encode() if isinstance(text, str) else text
    return [name for name, shape in SHAPES.items() if shape in data]


def test_the_detector_detects() -> None:
    assert shows(repr(SECRET)) == ["repr"]
    assert shows(pickle.dumps(SECRET)) == ["raw"]


def test_representations() -> None:
    key = Key(SECRET)
    for holder in (key, KeySet(shuffle=key, np=key, ffx=bytes(32)), Cipher(key), Cipher(key).plan()):
        for text in (repr(holder), str(holder), f"{holder}", f"{[holder]}"):
            assert shows(text) == []


def test_pickles() -> None:
    cipher = Cipher(Key(SECRET))
    cipher.encrypt(X)
    data = pickle.dumps(cipher)
    assert shows(data) == []
    again = pickle.loads(data)
    assert torch.equal(again.encrypt(X), cipher.encrypt(X))
    assert torch.equal(again.decrypt(cipher.encrypt(X)), X)


HOLDERS = (Key(SECRET), SET, KeySet.from_seed(1, PASSWORD).member("ffx"), hidden.hide(SECRET))


@pytest.mark.parametrize("holder", HOLDERS, ids=lambda holder: type(holder).__name__)
def test_what_pickles_by_any_name_is_refused(holder: object) -> None:
    ways: list[Callable[[], object]] = [
        *(lambda protocol=n: pickle.dumps(holder, protocol) for n in range(pickle.HIGHEST_PROTOCOL + 1)),
        *(lambda protocol=n: holder.__reduce_ex__(protocol) for n in range(pickle.HIGHEST_PROTOCOL + 1)),
        lambda: holder.__reduce__(),
        lambda: holder.__getstate__(),  # type: ignore[attr-defined] # Python 3.11 gives every object one
        lambda: torch.save({"key": holder}, io.BytesIO()),
    ]
    for package in ("cloudpickle", "dill", "joblib"):
        try:
            module = __import__(package)
        except ImportError:
            continue
        dump = module.dump if package == "joblib" else lambda value, file, dumps=module.dumps: dumps(value)
        ways += [lambda dump=dump: dump(holder, io.BytesIO())]
        ways += [lambda dump=dump: dump([lambda: holder], io.BytesIO())] if package != "joblib" else []
    for way in ways:
        with pytest.raises(TypeError, match="not pickled"):
            way()
    assert copy.deepcopy([holder])[0] is holder
    assert copy.copy(holder) is holder
    assert not hasattr(holder, "__dict__")
    assert shows(f"{holder!r}{holder}{dir(holder)}") == []
    assert not any(shows(repr(value)) for value in gc.get_referents(holder)) or type(holder) is hidden.Hidden


# --- tracebacks that print local variables ---


def test_hiding() -> None:
    key = Key(SECRET)
    assert hidden.hide(key) is key
    assert repr([hidden.hide(SECRET)]) == "[<hidden>]"
    assert hidden.reveal(hidden.hide(SECRET)) == hidden.reveal(SECRET) == SECRET
    assert hidden.hide(hidden.hide(SECRET)).__class__ is hidden.Hidden
    assert hidden.reveal(hidden.hide(hidden.hide(SECRET))) == SECRET


@pytest.fixture
def quick_scrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyfile, "SCRYPT_N", 2**10)


def uses(folder: Path) -> dict[str, Callable[[], object]]:
    """Whatever takes a key or a password, with what it does and with what goes wrong."""
    key, raw = Key(SECRET), SECRET
    from blockenc.sklearn import BlockEncrypt

    nowhere = str(folder / "no" / "folder" / "k")
    weights = {"a": torch.ones(3)}
    return {
        "Key": lambda: Key(raw),
        "Key of another length": lambda: Key.from_bytes(raw + b"!"),
        "Key of text": lambda: Key.from_bytes(raw.hex()),  # type: ignore[arg-type]
        "Cipher": lambda: Cipher(raw, block_size=2),
        "Cipher, decimal": lambda: Cipher(bytearray(raw), block_size=1, ffx="decimal"),
        "Cipher of a wrong scheme": lambda: Cipher(raw, block_size=100_000),
        "Cipher of no scheme": lambda: Cipher(raw, {}),  # type: ignore[arg-type]
        "Cipher of another length": lambda: Cipher(raw + b"!"),
        "encrypt": lambda: blockenc.encrypt(X, raw, block_size=2),
        "encrypt a wrong shape": lambda: blockenc.encrypt(torch.zeros(2), raw),
        "encrypt with a wrong option": lambda: blockenc.encrypt(X, raw, size=2),
        "decrypt a wrong shape": lambda: blockenc.decrypt(X[..., :7], memoryview(raw)),
        "encrypt with a Key": lambda: blockenc.encrypt(torch.zeros(2), key),
        "KeySet": lambda: KeySet(shuffle=raw, np=raw, ffx=raw[:-1]),
        "KeySet.replace": lambda: SET.replace(np=raw, other=raw),
        "KeySet.from_seed": lambda: Cipher(KeySet.from_seed(1, PASSWORD), ffx="decimal", block_size=2),
        "KeySet.from_seed, wrong": lambda: KeySet.from_seed(-1, PASSWORD),
        "save": lambda: key.save(folder / "key", PASSWORD),
        "save a set": lambda: SET.save(folder / "set", PASSWORD),
        "save again": lambda: key.save(folder / "key", PASSWORD),
        "save a set again": lambda: SET.save(folder / "set", PASSWORD),
        "save to nowhere": lambda: key.save(nowhere, PASSWORD),
        "load": lambda: (Key.load(folder / "key", PASSWORD), KeySet.load(folder / "set", PASSWORD)),
        "load, wrong password": lambda: Key.load(folder / "key", PASSWORD + "!"),
        "load, wrong kind": lambda: Key.load(folder / "set", PASSWORD),
        "load from nowhere": lambda: KeySet.load(nowhere, PASSWORD),
        "load, wrong text": lambda: Key.load(nowhere, PASSWORD + "\udc80"),
        "from_password": lambda: Key.from_password(PASSWORD, "a long salt"),
        "from_password, short salt": lambda: Key.from_password(PASSWORD, "short"),
        "from_password, bytes": lambda: Key.from_password(PASSWORD.encode(), "short"),  # type: ignore
        "compare": lambda: key == SET,
        "save named keys": lambda: KeySet(rotate=raw, all=bytes(32)).save(folder / "named", PASSWORD),
        "load named keys": lambda: KeySet.load(folder / "named", PASSWORD),
        "derive": lambda: key.derive("train"),
        "per image": lambda: Cipher(key, per_image=True).encrypt(X, ids=range(len(X))),
        "keyed channels": lambda: blockenc.nn.KeyedChannels(raw, "a")(X),
        "keyed channels of a wrong name": lambda: blockenc.nn.KeyedChannels(raw, ""),
        "keyed features": lambda: blockenc.protect_features(torch.nn.Conv2d(3, 4, 1), raw, ["a"]),
        "authenticate": lambda: (key.mac_key("info"), SET.mac_key("info")),
        "sklearn, not a cipher": lambda: BlockEncrypt(raw),  # type: ignore[arg-type]
        "seal": lambda: blockenc.seal(weights, raw, folder / "s"),
        "seal again": lambda: blockenc.seal(weights, raw, folder / "s"),
        "seal nothing": lambda: blockenc.seal({}, raw, folder / "t"),
        "verify": lambda: blockenc.verify(weights, key, folder / "s"),
        "verify other weights": lambda: blockenc.verify({"a": torch.zeros(3)}, raw, folder / "s"),
        "verify with another key": lambda: blockenc.verify(weights, SET, folder / "s"),
    }


@pytest.mark.parametrize("derives", sorted({native.derives, False}))
def test_no_frame_holds_a_secret(
    tmp_path: Path, quick_scrypt: None, monkeypatch: pytest.MonkeyPatch, derives: bool
) -> None:
    """No function of the package is left, by return or by an error, with a secret in a local variable;
    whether the extension derives keys or Python."""
    whole = derives == native.derives  # the other way, what does derive is enough
    monkeypatch.setattr(native, "derives", derives)
    subkeys = [
        derive(SECRET, step, 0, 3, 2)
        for derive in (version1.subkey, version1.cipher_key)
        for step in ("shuffle", "np", "ffx")
    ]
    sealing = [Key(SECRET).mac_key(info) for info in (CHUNK_INFO, WHOLE_INFO)]
    secrets = [SECRET, *subkeys, *sealing, *(part for part in SET._contents())]
    shown = {repr(value)[2:-1] for value in secrets} | {value.hex() for value in secrets} | {PASSWORD}
    package = str(Path(blockenc.__file__).parent)
    seen, found, counts = set(), set(), collections.Counter()

    def look(frame: types.FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        if event != "return" or not code.co_filename.startswith(package):
            return
        seen.add(code.co_name)
        counts[code] += 1
        if counts[code] > 20:
            return  # a round of a cipher is like the next one
        if code.co_filename == hidden.__file__:
            return  # which itself holds, for an instant, what it is to hide
        for name, value in frame.f_locals.items():
            if any(text in repr(value) for text in shown):
                found.add(f"{code.co_filename}:{code.co_name}: {name}")

    few = ("Cipher", "encrypt", "derive", "per image", "authenticate")
    for name, use in uses(tmp_path).items():
        if not (whole or name in few):
            continue
        counts.clear()
        sys.setprofile(look)
        try:
            use()
        except Exception:
            pass
        finally:
            sys.setprofile(None)
    assert found == set()
    drawn = {"permutations", "byte_tables"} if derives else {"uniforms", "_byte_tables"}
    assert {"hkdf", *drawn} <= seen
    assert not whole or {"scrypt", "_unseal", "save", "tag"} <= seen


def test_tracebacks_with_local_variables(tmp_path: Path, quick_scrypt: None) -> None:
    """As the standard library and rich print them, below the caller's own frame."""
    from rich.console import Console
    from rich.traceback import Traceback

    failed = [(name, error) for name, use in uses(tmp_path).items() if (error := raised(use))]
    assert len(failed) == 28
    for name, error in failed:
        below = error.__traceback__.tb_next.tb_next  # the frames of raised and of the lambda are the caller's
        stack = traceback.TracebackException(type(error), error, below, capture_locals=True)
        console = Console(file=io.StringIO(), width=200, record=True)
        console.print(Traceback.from_exception(type(error), error, below, show_locals=True))
        for text in ("".join(stack.format()), console.export_text()):
            assert type(error).__name__ in text
            assert shows(text) == [], name
            assert SECRET.hex() not in text, name
            assert PASSWORD not in text, name


def raised(use: Callable[[], object]) -> Exception | None:
    try:
        use()
    except Exception as error:
        return error
    return None


# --- equality ---


def test_equality() -> None:
    key = Key(SECRET)
    alike = [
        Key(SECRET),
        KeySet(shuffle=SECRET, np=key, ffx=bytearray(SECRET)),
        KeySet(shuffle=key, np=key, ffx=key),
    ]
    for one, two in itertools.product(alike, alike):
        assert one == two
        assert hash(one) == hash(two)
    members = {"shuffle": SECRET, "np": bytes(range(32)), "ffx": bytes(range(32, 64))}
    assert KeySet(**members) == SET
    assert hash(KeySet(**members)) == hash(SET)
    for name in members:
        assert SET.replace(**{name: bytes(32)}) != SET
    assert KeySet(shuffle=members["np"], np=members["shuffle"], ffx=members["ffx"]) != SET
    published = KeySet.from_seed(1, "p")
    assert published == KeySet.from_seed(np.uint8(1), "p")
    assert hash(published) == hash(KeySet.from_seed(np.uint8(1), "p"))
    assert len({published, KeySet.from_seed(2, "p"), KeySet.from_seed(1, "q"), SET, *alike}) == 5
    for other in (SECRET, SECRET.hex(), None, 1, key.fingerprint):
        assert all(mine != other for mine in (key, SET))
    assert key.__eq__(SECRET) is NotImplemented


def test_integers_of_any_kind_are_seeds() -> None:
    want = Cipher(KeySet.from_seed(3, "p"), ffx="decimal").encrypt(X)
    for seed in (np.int64(3), np.uint8(3), np.array(3), torch.tensor(3), np.arange(4)[3]):
        assert torch.equal(Cipher(KeySet.from_seed(seed, "p"), ffx="decimal").encrypt(X), want)
    assert Cipher(KeySet.from_seed(np.uint64(2**64 - 1), "p"), ffx="decimal")


def test_state_dicts_and_graphs() -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cipher = Cipher(Key(SECRET))
            self.layer = torch.nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(self.cipher.encrypt(x, dtype=torch.float32))

    model = Model()
    assert set(model.state_dict()) == {"layer.weight", "layer.bias"}
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(model, (X,)), buffer)
    assert shows(buffer.getvalue()) == []


def test_exceptions() -> None:
    """What fails with a key at hand shows the key neither in its message nor in its traceback."""
    key = Key(SECRET)
    calls = (
        lambda: Key(SECRET + b"!"),
        lambda: Cipher(SECRET[:-1]),
        lambda: Cipher(SECRET.hex()),  # type: ignore[arg-type]
        lambda: KeySet(shuffle=SECRET, np=SECRET, ffx=SECRET * 2),
        lambda: blockenc.encrypt(X[..., :7], key),
        lambda: blockenc.encrypt(X, key, steps=key),
        lambda: blockenc.encrypt(key, key),
        lambda: key.save("no/such/folder/key", "password"),
        lambda: pickle.dumps(key),
    )
    for call in calls:
        with pytest.raises((TypeError, ValueError, OSError)) as caught:
            call()
        shown = "".join(traceback.format_exception(caught.value))
        assert shows(shown) == []
        assert SECRET[:-1].hex() not in shown


def test_what_objects_hold() -> None:
    """A cipher keeps no key; of a key set from a password nothing shows the password."""
    cipher = Cipher(Key(SECRET))
    assert not any(isinstance(value, (Key, KeySet, bytes)) for value in vars(cipher).values())
    published = KeySet.from_seed(1, "password of the paper")
    for holder in (published, published.member("ffx"), Cipher(published, ffx="decimal")):
        assert "password" not in f"{holder!r}{holder}"
    assert b"password" not in pickle.dumps(Cipher(published, ffx="decimal"))


def test_key_files(tmp_path: Path) -> None:
    path = tmp_path / "a.key"
    before = os.umask(0)
    try:
        Key(SECRET).save(path, "the password")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    data = path.read_bytes()
    assert shows(data) == []
    assert b"the password" not in data
    assert Key.load(path, "the password") == Key(SECRET)


def test_key_set_files(tmp_path: Path, quick_scrypt: None) -> None:
    path, single = tmp_path / "three.key", tmp_path / "one.key"
    SET.save(path, PASSWORD)
    Key(SECRET).save(single, PASSWORD)
    assert path.stat().st_mode & 0o777 == 0o600
    assert shows(path.read_bytes()) == []
    assert json.loads(path.read_text())["fingerprint"] == SET.fingerprint
    assert KeySet.load(path, PASSWORD) == SET
    assert keyset.load_key(path, PASSWORD) == SET
    assert KeySet.load(single, PASSWORD) == keyset.load_key(single, PASSWORD) == Key(SECRET)
    assert isinstance(KeySet.load(single, PASSWORD), KeySet)
    assert isinstance(keyset.load_key(single, PASSWORD), Key)
    with pytest.raises(KeyFileError, match=r"three.key: holds a key set; read it with KeySet.load$"):
        Key.load(path, PASSWORD)
    with pytest.raises(KeyFileError, match="wrong password"):
        KeySet.load(path, "another")
    with pytest.raises(FileExistsError):
        SET.save(path, PASSWORD)
    SET.replace(np=bytes(32)).save(path, PASSWORD, overwrite=True)
    assert KeySet.load(path, PASSWORD) == SET.replace(np=bytes(32))


def test_a_key_set_is_sealed_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyfile, "scrypt", lambda *arguments, **costs: bytes(32))
    path = tmp_path / "three.key"
    SET.save(path, PASSWORD)
    fields = json.loads(path.read_text())
    sealed = bytearray(base64.b64decode(fields["ciphertext"]))
    for place in (0, 32, 64, 95, len(sealed) - 1):
        damaged = sealed.copy()
        damaged[place] ^= 1
        path.write_text(json.dumps({**fields, "ciphertext": base64.b64encode(damaged).decode()}))
        with pytest.raises(KeyFileError, match="altered"):
            KeySet.load(path, PASSWORD)
    path.write_text(json.dumps({**fields, "fingerprint": Key(SECRET).fingerprint}))
    with pytest.raises(KeyFileError, match="altered"):
        KeySet.load(path, PASSWORD)


def test_passwords_spelled_in_another_way(
    tmp_path: Path, quick_scrypt: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An accented letter is one code point or two, by keyboard and system: both open what either sealed."""
    nfc, nfd = (unicodedata.normalize(form, PASSWORD) for form in ("NFC", "NFD"))
    assert nfc != nfd
    for sealed, given in ((nfc, nfd), (nfd, nfc), (nfd, nfd)):
        SET.save(tmp_path / "k", sealed, overwrite=True)
        assert KeySet.load(tmp_path / "k", given) == SET
    assert Key.from_password(nfc, "sält" + nfd) == Key.from_password(nfd, "sält" + nfc)
    with monkeypatch.context() as patch:
        patch.setattr(keyfile, "composed", lambda text: hidden.reveal(text))
        SET.save(tmp_path / "k", nfd, overwrite=True)
    assert KeySet.load(tmp_path / "k", nfd) == SET  # a file sealed before passwords were normalised


def test_logs_are_silent(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        blockenc.decrypt(blockenc.encrypt(X, Key(SECRET)), Key(SECRET))
    assert shows(caplog.text) == []


def test_fingerprints() -> None:
    assert Key(SECRET).fingerprint == Key(bytearray(SECRET)).fingerprint == "2b3555d043f249f5"
    assert len({Key(bytes([n] * 32)).fingerprint for n in range(64)}) == 64
    same = KeySet(shuffle=SECRET, np=SECRET, ffx=SECRET)
    assert same.fingerprint == Key(SECRET).fingerprint
    assert same.replace(np=bytes(32)).fingerprint != same.replace(ffx=bytes(32)).fingerprint


def test_authentication_keys() -> None:
    """Equal keys have equal ones; a key set's depend on every member, and on its place."""
    key, other = Key(SECRET), Key(bytes(32))
    alike = KeySet(shuffle=key, np=key, ffx=key)
    assert key.mac_key("blockenc/a") == version1.hkdf_sha256(SECRET, b"blockenc/a")
    assert alike.mac_key("blockenc/a") == key.mac_key("blockenc/a")
    assert key.mac_key("blockenc/b") != key.mac_key("blockenc/a")
    choices = [KeySet(shuffle=a, np=b, ffx=c) for a, b, c in itertools.product((key, other), repeat=3)]
    choices.append(KeySet.from_seed(1, "p"))
    assert len({keys.mac_key("blockenc/a") for keys in choices}) == 9


def test_generated_and_derived_keys() -> None:
    assert Key.generate() != Key.generate()
    derived = Key.from_password("correct horse", salt=b"salt-for-a-test")
    assert derived == Key.from_password("correct horse", salt="salt-for-a-test")
    assert derived != Key.from_password("correct horse", salt=b"another-salt")
    assert derived.fingerprint == "c6362993add31872"
    assert derived != SECRET


def test_a_key_compiles_once() -> None:
    secret = secrets.token_bytes(32)  # no other test's: equal keys share what is kept
    key = Key(secret)
    first = blockenc.encrypt(X, key)
    assert len(key.kept) == 1
    assert torch.equal(blockenc.encrypt(X, key), first)
    assert torch.equal(blockenc.encrypt(X, secret), first)
    blockenc.encrypt(X, key, block_size=2)
    assert len(key.kept) == 2
    keys = blockenc.KeySet(shuffle=key, all=Key.generate())
    blockenc.encrypt(X, keys)
    cipher = weakref.ref(next(iter(keys.kept.values())))
    blockenc.encrypt(X, keys)
    assert cipher() is next(iter(keys.kept.values()))
    del keys
    gc.collect()
    assert cipher() is None


def test_a_key_goes_with_its_last_reference() -> None:
    """Also where the ciphers that are kept with it hold it, since secrets belong to a size or an image."""
    key = Key.generate()
    blockenc.encrypt(X, key, steps=[blockenc.steps.Scramble(period="image")])
    blockenc.encrypt(X, key, ids=range(len(X)))
    gone = weakref.ref(key)
    del key
    gc.collect()
    assert gone() is None


def test_partial_key_sets_are_compared_by_name() -> None:
    """They do not encrypt alike: a kind without a member is refused."""
    key = Key.generate()
    some, others = blockenc.KeySet(shuffle=key), blockenc.KeySet(rotate=key)
    assert some != others
    assert some != key
    assert blockenc.KeySet(all=key) == key
    assert blockenc.KeySet(shuffle=key, np=key, ffx=key) == key


def test_errors_of_secrets_do_not_show_them_in_local_variables() -> None:
    def shown(call: Callable[[], object]) -> str:
        try:
            call()
        except (TypeError, ValueError) as error:
            below = error.__traceback__.tb_next.tb_next  # the frames of this test hold the secrets, too
            return "".join(
                traceback.TracebackException(type(error), error, below, capture_locals=True).format()
            )
        raise AssertionError("no error")

    mask = np.arange(48) % 2
    cases = {
        "37.25": lambda: blockenc.ExplicitKey([[3.5, 37.25]]),
        "array([": lambda: Cipher(blockenc.ExplicitKey([mask] * 300), steps=["np"] * 300),
        "7, 7, 7": lambda: Cipher(blockenc.ExplicitKey([[7] * 48]), steps=["shuffle"]),
    }
    for secret, call in cases.items():
        assert secret not in shown(call)


def test_one_plan_gives_the_schemes_of_its_steps_away() -> None:
    """What docs/scheme.md says of version 1: a step depends on its kind, its place, C and M alone."""
    key = bytes(range(32))
    whole = Cipher(key).plan()  # shuffle, np, ffx: out[p] = E(flip(in[source[p]]))
    masked = whole.table_of > 0
    enciphered = whole.tables[whole.table_of[masked][0] - 1].astype(np.uint8)
    assert np.array_equal(whole.source, Cipher(key, steps=["shuffle"]).plan().source)
    assert np.array_equal(whole.flips % 2, Cipher(key, steps=["np"]).plan().flips % 2)
    alone = Cipher(key, steps=["ffx"]).plan()
    assert np.array_equal(masked, alone.table_of > 0)
    assert np.array_equal(enciphered, alone.tables[alone.table_of[masked][0] - 1])
    other = Cipher(key, block_size=2).plan()
    assert not np.array_equal(other.source, whole.source[: len(other.source)])


def test_importing_is_light_and_lists_every_public_name() -> None:
    heavy = ("numba", "cryptography", "PIL", "typer", "rich", "torch._dynamo", "matplotlib", "sklearn")
    code = f"""
import sys, torch, blockenc
print([name for name in blockenc.__all__ if name not in dir(blockenc)])
print([module for module in {heavy!r} if module in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]", "[]"]
