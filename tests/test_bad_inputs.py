"""Every user's mistake gets its own exception, whose message names the argument and what is wrong with it."""

from __future__ import annotations

import base64
import errno
import json
import os
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import blockenc
from blockenc import BackendError, Cipher, Key, KeyFileError, KeySet, Scheme
from blockenc.backends import choose
from blockenc.keys import keyfile
from tests import oracle

KEY = oracle.KEY
CIPHER = Cipher(KEY)
X = oracle.image((2, 3, 8, 8))
F = oracle.image((2, 3, 8, 8), torch.float32)
DECIMAL = Cipher(KEY, ffx="decimal")
BUFFER = torch.zeros(9, 64, dtype=torch.uint8)


def with_value(value: float) -> torch.Tensor:
    x = F.clone()
    x[1, 2, 3, 4] = value
    return x


def pil(mode: str) -> Image.Image:
    return Image.new(mode, (8, 8))


Case = tuple[str, Callable[[], object], type[Exception], str]
CASES: list[Case] = [
    # images: dtype, rank, size, kind
    ("int64", lambda: CIPHER.encrypt(X.long()), TypeError, r"^x: expected torch.uint8 or.*got torch.int64"),
    (
        "float64 to bytes",
        lambda: Cipher(KEY, steps=["np"]).encrypt(F.double(), dtype="u1"),
        TypeError,
        "^dtype",
    ),
    ("bool", lambda: CIPHER.encrypt(X > 5), TypeError, r"^x: expected.*got torch.bool"),
    ("complex", lambda: CIPHER.encrypt(F.to(torch.complex64)), TypeError, r"^x: .*got torch.complex64"),
    ("uint16", lambda: CIPHER.encrypt(X.to(torch.uint16)), TypeError, r"^x: expected torch.uint8"),
    ("decimal uint8", lambda: DECIMAL.decrypt(X), TypeError, r"^x: expected torch.uint16.*got torch.uint8"),
    ("2-D", lambda: CIPHER.encrypt(X[0, 0]), ValueError, r"^x: expected \[N, C, H, W\].*\(8, 8\)"),
    ("5-D", lambda: CIPHER.encrypt(X[None]), ValueError, r"^x: expected \[N, C, H, W\].*\(1, 2, 3, 8, 8\)"),
    ("height", lambda: CIPHER.encrypt(X[:, :, :7]), ValueError, r"^x: height and width.*size 4, got 7 x 8"),
    ("width", lambda: CIPHER.encrypt(X[..., :6]), ValueError, r"^x: height and width.*got 8 x 6"),
    ("channels", lambda: CIPHER.encrypt(X[:, :1]), ValueError, r"^x: expected 3 channels.*got 1.*first"),
    (
        "NumPy CHW",
        lambda: CIPHER.encrypt(X[0].numpy()),
        ValueError,
        r"^x: expected 3 channels.*channels-last",
    ),
    ("NumPy 2-D", lambda: CIPHER.encrypt(np.zeros((8, 8), "u1")), ValueError, r"^x: expected \[H, W, C\]"),
    ("NumPy object", lambda: CIPHER.encrypt(np.zeros((8, 8, 3), object)), TypeError, r"^x: .*dtype object"),
    ("NumPy text", lambda: CIPHER.encrypt(np.zeros((8, 8, 3), "U1")), TypeError, r"^x: .*got dtype <U1"),
    ("list", lambda: CIPHER.encrypt([[1]]), TypeError, r"^x: expected a torch tensor.*got list"),
    ("str", lambda: CIPHER.encrypt("photo.png"), TypeError, r"^x: expected a torch tensor.*got str"),
    ("None", lambda: blockenc.encrypt(None, KEY), TypeError, r"^x: expected.*got NoneType"),
    ("PIL P", lambda: CIPHER.encrypt(pil("P")), ValueError, r"^x: expected a PIL image of mode.*got 'P'"),
    ("PIL 1", lambda: CIPHER.encrypt(pil("1")), ValueError, r"^x: .*got '1'; convert"),
    ("PIL I;16", lambda: CIPHER.encrypt(pil("I;16")), ValueError, r"^x: .*got 'I;16'"),
    ("PIL F", lambda: blockenc.encrypt(pil("F"), KEY), ValueError, r"^x: .*got 'F'"),
    ("PIL decimal", lambda: DECIMAL.encrypt(pil("RGB")), TypeError, r"^dtype: a PIL image holds uint8"),
    ("NaN", lambda: CIPHER.encrypt(with_value(float("nan"))), ValueError, r"^x: .*\[0, 1\], got.*nan"),
    ("infinity", lambda: CIPHER.encrypt(with_value(float("inf"))), ValueError, r"^x: .*got inf at \[1, "),
    ("-infinity", lambda: CIPHER.encrypt(with_value(-float("inf"))), ValueError, r"^x: .*got -inf at \[1, "),
    ("0..255 floats", lambda: CIPHER.encrypt(X.float()), ValueError, r"^x: floating images.*scale, clamp"),
    ("negative", lambda: CIPHER.decrypt(with_value(-0.5)), ValueError, r"^x: .*got -0.5 at \[1, "),
    ("requires grad", lambda: CIPHER.encrypt(F.clone().requires_grad_()), RuntimeError, r"^x: requires grad"),
    # dtype, mean, std
    (
        "dtype int64",
        lambda: CIPHER.encrypt(X, dtype=torch.int64),
        TypeError,
        r"^dtype: expected.*torch.int64",
    ),
    ("dtype text", lambda: CIPHER.encrypt(X, dtype="flaot32"), TypeError, r"^dtype: .*'flaot32'"),
    ("dtype unused", lambda: Cipher(KEY, steps=["np"]).encrypt(F, dtype=torch.uint8), TypeError, r"^dtype: "),
    (
        "NumPy bfloat16",
        lambda: CIPHER.encrypt(np.zeros((8, 8, 3), "u1"), dtype="bfloat16"),
        TypeError,
        r"^dtype: NumPy has no bfloat16",
    ),
    ("mean alone", lambda: CIPHER.encrypt(X, dtype="float32", mean=[0] * 3), ValueError, r"^mean, std: give"),
    (
        "mean count",
        lambda: CIPHER.encrypt(F, mean=[0.5], std=[1] * 3),
        ValueError,
        r"^mean: expected 3 numbers.*got 1",
    ),
    ("mean number", lambda: CIPHER.encrypt(F, mean=0.5, std=1), TypeError, r"^mean: expected 3 numbers.*0.5"),
    ("std 0", lambda: CIPHER.encrypt(F, mean=[0] * 3, std=[1, 0, 1]), ValueError, r"^std: expected finite"),
    (
        "mean NaN",
        lambda: CIPHER.encrypt(F, mean=[float("nan")] * 3, std=[1] * 3),
        ValueError,
        r"^mean: expected finite",
    ),
    ("mean uint8", lambda: CIPHER.encrypt(X, mean=[0] * 3, std=[1] * 3), TypeError, r"^mean, std: .*float"),
    # out
    ("out shape", lambda: CIPHER.encrypt(X, out=X[:1].clone()), ValueError, r"^out: expected shape \(2, 3"),
    ("out dtype", lambda: CIPHER.encrypt(X, out=X.long()), TypeError, r"^out: expected.*got torch.int64"),
    ("out is x", lambda: CIPHER.encrypt(X, out=X), ValueError, r"^out: must not share memory with x"),
    (
        "out of itself",
        lambda: CIPHER.encrypt(X, out=torch.zeros(1, 1, 1, 1, dtype=torch.uint8).expand(2, 3, 8, 8)),
        ValueError,
        r"^out: its elements share memory",
    ),
    ("out device", lambda: CIPHER.encrypt(X, out=X.to("meta")), ValueError, r"^out: .*on cpu, got.*on meta"),
    (
        "out NumPy",
        lambda: CIPHER.encrypt(X[0].permute(1, 2, 0).numpy(), out=X.clone()),
        TypeError,
        r"^out: goes with torch tensors only, x is ndarray",
    ),
    (
        "out and dtype",
        lambda: CIPHER.encrypt(X, out=X.clone(), dtype="float32"),
        TypeError,
        r"^dtype: expected that of out",
    ),
    (
        "device mix",
        lambda: torch.ops.blockenc.apply(X, torch.zeros(9, dtype=torch.uint8, device="meta"), X.dtype),
        ValueError,
        r"^plan: expected on the device of x, cpu, got meta",
    ),
    # keys
    ("key length 31", lambda: Key.from_bytes(bytes(31)), ValueError, r"^key: expected 32 bytes, got 31"),
    ("key length 33", lambda: blockenc.encrypt(X, bytes(33)), ValueError, r"^key: expected 32 bytes, got 33"),
    ("key empty", lambda: Cipher(b""), ValueError, r"^key: expected 32 bytes, got 0"),
    ("key str", lambda: Key.from_bytes("a" * 32), TypeError, r"^key: expected 32 bytes, got str"),
    ("key None", lambda: blockenc.encrypt(X, None), TypeError, r"^key: expected a Key or 32 bytes, got None"),
    ("member", lambda: KeySet(shuffle=KEY, np=KEY, ffx=b"1"), ValueError, r"^ffx: expected 32 bytes, got 1"),
    ("replace", lambda: KeySet.from_seed(1, "p").replace(fpe=KEY), TypeError, r"^replace: .*got fpe"),
    ("seed", lambda: KeySet.from_seed("1", "p"), TypeError, r"^seed: expected an integer, got str"),
    ("seed float", lambda: KeySet.from_seed(1.0, "p"), TypeError, r"^seed: expected an integer, got float"),
    ("seed True", lambda: KeySet.from_seed(True, "p"), TypeError, r"^seed: expected an integer, got bool"),
    ("seed NumPy bool", lambda: KeySet.from_seed(np.bool_(1), "p"), TypeError, r"^seed: .*got bool"),
    ("seed -1", lambda: KeySet.from_seed(np.int64(-1), "p"), ValueError, r"^seed: .*from 0 to 1844.*got -1$"),
    ("seed 2^64", lambda: KeySet.from_seed(2**64, "p"), ValueError, r"^seed: .*got 18446744073709551616$"),
    (
        "seed huge",
        lambda: KeySet.from_seed(10**5000, "p"),
        ValueError,
        r"^seed: .*got a number of 16610 bits",
    ),
    ("published password", lambda: KeySet.from_seed(1, b"p"), TypeError, r"^password: .*got bytes"),
    ("published text", lambda: KeySet.from_seed(1, "\udc80"), ValueError, r"^password: .*UTF-8"),
    ("published saved", lambda: KeySet.from_seed(1, "p").save("k", "p"), ValueError, r"^save: .*from_seed"),
    ("published byte", lambda: Cipher(KeySet.from_seed(1, "p")), ValueError, r'^ffx: .*"decimal".*\'byte\''),
    ("salt", lambda: Key.from_password("p", salt=b"short"), ValueError, r"^salt: expected at least 8 bytes"),
    ("password", lambda: Key.from_password("", salt=b"12345678"), ValueError, r"^text: expected a non-empty"),
    # scheme
    ("block size 0", lambda: Scheme(block_size=0), ValueError, r"^block_size: .*at least 1, got 0"),
    ("block size -1", lambda: Scheme(block_size=-1), ValueError, r"^block_size: .*got -1"),
    ("block size 1.5", lambda: Scheme(block_size=1.5), TypeError, r"^block_size: .*got 1.5 \(float\)"),
    ("block size True", lambda: Scheme(block_size=True), TypeError, r"^block_size: .*got True"),
    ("block size huge", lambda: Scheme(block_size=4096), ValueError, r"^block_size: a block of 4096"),
    ("channels", lambda: Scheme(channels=0), ValueError, r"^channels: .*got 0"),
    ("steps str", lambda: Scheme(steps="shuffle"), TypeError, r"^steps: expected a sequence.*'shuffle'"),
    ("steps empty", lambda: Scheme(steps=()), ValueError, r"^steps: expected at least one"),
    ("step unknown", lambda: Scheme(steps=["xor"]), ValueError, r"^steps: expected names.*got 'xor'"),
    ("after decimal", lambda: Scheme(steps=["ffx", "np"], ffx="decimal"), ValueError, r"^steps: 'np' cannot"),
    ("ffx unknown", lambda: Scheme(ffx="ff3"), ValueError, r"^ffx: expected one of byte, decimal, got 'ff3'"),
    ("version", lambda: Scheme.from_dict({"version": 3}), ValueError, r"^version: .*versions 1 and 2, got 3"),
    ("JSON", lambda: Scheme.from_json("{"), ValueError, r"^scheme: not JSON"),
    (
        "JSON field",
        lambda: Scheme.from_json('{"rounds": 3}'),
        ValueError,
        r"^scheme: expected fields.*rounds",
    ),
    (
        "keyword",
        lambda: blockenc.encrypt(X, KEY, blocksize=4),
        TypeError,
        r"unexpected keyword argument 'blocksize'",
    ),
    ("both", lambda: Cipher(KEY, Scheme(), block_size=4), TypeError, r"^scheme: give a Scheme or its fields"),
    (
        "scheme dict",
        lambda: Cipher(KEY, {"block_size": 4}),
        TypeError,
        r"^scheme: expected a Scheme, got dict",
    ),
    # backends
    ("backend", lambda: blockenc.encrypt(X, KEY, backend="gpu"), ValueError, r"^backend: .*got 'gpu'"),
    (
        "backend device",
        lambda: Cipher(KEY, backend="cuda").encrypt(X),
        BackendError,
        r"^backend: the cuda backend cannot be used",
    ),
    # more of out, mean, std
    (
        "out overlaps",
        lambda: CIPHER.encrypt(BUFFER[:6].view(2, 3, 8, 8), out=BUFFER[3:9].view(2, 3, 8, 8)),
        ValueError,
        r"^out: must not share memory with x",
    ),
    (
        "out windows",
        lambda: CIPHER.encrypt(X, out=BUFFER.as_strided((2, 3, 8, 8), (128, 32, 4, 1))),
        ValueError,
        r"^out: its elements share memory with each other \(strides \(128, 32, 4, 1\)\)",
    ),
    ("out an array", lambda: CIPHER.encrypt(X, out=X.numpy()), TypeError, r"^out: expected a.*got ndarray"),
    (
        "out grad",
        lambda: CIPHER.encrypt(X, out=torch.zeros_like(F).requires_grad_()),
        RuntimeError,
        r"^out: ",
    ),
    ("mean text", lambda: CIPHER.encrypt(F, mean=list("abc"), std=[1] * 3), TypeError, r"^mean: .*'a', 'b'"),
    (
        "mean huge",
        lambda: CIPHER.encrypt(F, mean=[1e39] * 3, std=[1] * 3),
        ValueError,
        r"^mean: .*float32.*1e",
    ),
    ("std tiny", lambda: CIPHER.encrypt(F, mean=[0] * 3, std=[1e-50] * 3), ValueError, r"^std: .*not 0, got"),
    ("std alone", lambda: CIPHER.encrypt(F, std=[1] * 3), ValueError, r"^mean, std: give both or neither"),
    # more keys, schemes and images
    ("key int", lambda: Key.from_bytes(32), TypeError, r"^key: expected 32 bytes, got int"),
    ("member None", lambda: KeySet(shuffle=KEY, np=None, ffx=KEY), TypeError, r"^np: .*got NoneType"),
    ("text bytes", lambda: Key.from_password(b"p", salt=b"12345678"), TypeError, r"^text: .*got bytes"),
    ("text surrogate", lambda: Key.from_password("\udc80", salt=b"12345678"), ValueError, r"^text: .*UTF-8"),
    ("salt int", lambda: Key.from_password("p", salt=8), TypeError, r"^salt: expected bytes or str, got int"),
    ("steps number", lambda: Scheme(steps=[1]), ValueError, r"^steps: expected names.*got 1"),
    ("version bool", lambda: Scheme.from_dict({"version": True}), ValueError, r"^version: .*got True"),
    ("JSON list", lambda: Scheme.from_json("[]"), ValueError, r"^scheme: expected fields.*got \[\]"),
    ("JSON deep", lambda: Scheme.from_json("[" * 100_000), ValueError, r"^scheme: not JSON"),
    ("JSON None", lambda: Scheme.from_json(None), ValueError, r"^scheme: not JSON.*NoneType"),
    ("scheme in call", lambda: blockenc.encrypt(X, Key(KEY), scheme={}), TypeError, r"^scheme: .*got dict"),
    (
        "decrypt mean",
        lambda: blockenc.decrypt(X, KEY, mean=[0] * 3),
        TypeError,
        r"unexpected keyword argument 'mean'",
    ),
    ("height zero block", lambda: CIPHER.encrypt(X[:0, :, :7]), ValueError, r"^x: .*got 7 x 8"),
    ("PIL channels", lambda: CIPHER.encrypt(pil("L")), ValueError, r"^x: expected 3 channels.*got 1"),
    ("NumPy uint16", lambda: CIPHER.encrypt(np.zeros((8, 8, 3), "u2")), TypeError, r"^x: .*got torch.uint16"),
    (
        "float from decimal plan",
        lambda: Cipher(KEY, steps=["np"]).encrypt(F, dtype=torch.uint16),
        TypeError,
        r"^dtype: expected one of.*got torch.uint16",
    ),
    (
        "native on meta",
        lambda: choose("meta", "native"),
        BackendError,
        r"^backend: the native backend cannot be used: it works on cpu, the images are on meta",
    ),
]


@pytest.mark.parametrize("call, exception, message", [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_bad_input(call: Callable[[], object], exception: type[Exception], message: str) -> None:
    with pytest.raises(exception, match=message) as caught:
        call()
    assert type(caught.value) is exception
    shown = "".join(traceback.format_exception(caught.value))
    for secret in (KEY.hex(), repr(KEY), base64.b64encode(KEY).decode()):
        assert secret not in shown


def test_backend_by_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLOCKENC_BACKEND", "gpu")
    with pytest.raises(ValueError, match="got 'gpu'"):
        CIPHER.encrypt(X)
    monkeypatch.setenv("BLOCKENC_BACKEND", "cuda")
    with pytest.raises(BackendError, match=r"^BLOCKENC_BACKEND: the cuda backend"):
        CIPHER.encrypt(X)
    monkeypatch.setenv("BLOCKENC_BACKEND", "aten")
    assert torch.equal(CIPHER.decrypt(CIPHER.encrypt(X)), X)


def test_empty_batches_are_no_error(backend: str) -> None:
    cipher = Cipher(KEY, backend=backend)
    for shape in ((0, 3, 8, 8), (2, 3, 0, 8), (2, 3, 8, 0)):
        for dtype in (torch.uint8, torch.float32):
            assert cipher.encrypt(torch.zeros(shape, dtype=dtype)).shape == shape
    assert cipher.encrypt(np.zeros((0, 8, 8, 3), "u1")).shape == (0, 8, 8, 3)


# --- key files ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("key") / "a.key"
    Key(KEY).save(path, "password")
    return path


def test_key_file_round_trip(key_file: Path) -> None:
    assert Key.load(key_file, "password") == Key(KEY)
    assert key_file.stat().st_mode & 0o777 == 0o600
    text = key_file.read_text()
    assert KEY.hex() not in text
    assert Key(KEY).fingerprint in text
    assert os.listdir(key_file.parent) == ["a.key"]


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda f: f.update(ciphertext=f["ciphertext"].swapcase()),
            "wrong password, or the key file was alt",
        ),
        (lambda f: f.update(fingerprint="0" * 16), "wrong password, or the key file was altered"),
        (lambda f: f["kdf"].update(salt=keyfile._encode(bytes(16))), "wrong password, or the key"),
        (lambda f: f["cipher"].update(nonce=keyfile._encode(bytes(12))), "wrong password, or the key"),
        *(
            (lambda f, cost=cost: f["kdf"].update(cost), "scrypt's parameters are out of range")
            for cost in (
                {"n": 2**40},
                {"n": 2**20},  # 1 GiB
                {"p": 64},
                {"p": 2**40},
                {"n": 2, "r": 1, "p": 2**22},
                {"n": 2, "r": 2**22},
                {"n": 2**17, "r": 1},  # RFC 7914: n is below 2^(16 r)
                {"n": 2**16, "r": 1},
                {"n": 0},
                {"n": 1},
                {"n": 3},
                {"n": -(2**17)},
                {"r": 0},
                {"p": -1},
                {"n": 10**4000},
            )
        ),
        *(
            (lambda f, value=value, name=name: f["kdf"].update({name: value}), "a field is missing or malf")
            for name in ("n", "p")
            for value in (True, 1.0, float("inf"), float("nan"), "8", [8], None)
        ),
        *(
            (change, "damaged key file .a field is missing or malformed")
            for change in (
                lambda f: f["kdf"].update(name="md5"),
                lambda f: f["kdf"].update(salt=""),
                lambda f: f["kdf"].update(salt="!!"),
                lambda f: f["kdf"].update(salt=3),
                lambda f: f["kdf"].update(more=1),
                lambda f: f["kdf"].pop("p"),
                lambda f: f["cipher"].update(name=["AES-256-GCM"]),
                lambda f: f["cipher"].update(nonce="AAAAAAAAAAA="),
                lambda f: f.update(cipher=[]),
                lambda f: f.update(kdf=3),
                lambda f: f.update(fingerprint="\x1b[2J"),
                lambda f: f.update(fingerprint=None),
                lambda f: f.update(more=1),
                lambda f: f.update(version=True),
                lambda f: f.update(version=1.0),
                lambda f: f.pop("ciphertext"),
                lambda f: f.update(ciphertext="***"),
                lambda f: f.update(ciphertext="AAAA"),
                lambda f: f.update(format="blockenc-key-set"),  # which would hold three keys
            )
        ),
        (lambda f: f.update(format=["blockenc-key"]), "not a blockenc key file"),
        (lambda f: f.pop("format"), "not a blockenc key file"),
        (lambda f: f.update(version=2), "key file version 2"),
        (lambda f: f.update(format="other"), "not a blockenc key file"),
    ],
)
def test_altered_key_files(key_file: Path, tmp_path: Path, change: Callable, message: str) -> None:
    fields = json.loads(key_file.read_text())
    change(fields)
    altered = tmp_path / "altered.key"
    altered.write_text(json.dumps(fields))
    for load in (Key.load, KeySet.load) if "wrong password" not in message else (Key.load,):
        with pytest.raises(KeyFileError, match=message) as caught:
            load(altered, "password")
        assert "altered.key" in str(caught.value)
        assert len(str(caught.value)) < 100 + len(str(altered))


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\x89PNG\r\n", b"{}", b"x" * 100_000, b"\xff\xfe", b"[" * 60_000]
)
def test_foreign_key_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "foreign"
    path.write_bytes(content)
    with pytest.raises(KeyFileError, match="not a blockenc key file"):
        Key.load(path, "password")


def test_cheaper_and_dearer_parameters_are_read(key_file: Path, tmp_path: Path) -> None:
    """Those that OWASP lists beside ours, and twice our cost, are within the bounds."""
    for n, r, p in ((2**16, 8, 2), (2**14, 8, 5), (2**13, 8, 10), (2**18, 8, 1)):
        assert keyfile._affordable(n, r, p)
    fields = json.loads(key_file.read_text())
    fields["kdf"].update(n=2**10)
    path = tmp_path / "cheap.key"
    path.write_text(json.dumps(fields))
    with pytest.raises(KeyFileError, match="wrong password, or the key file was altered"):
        Key.load(path, "password")  # derived, and found out as altered


def test_truncated_key_file(key_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "short.key"
    path.write_bytes(key_file.read_bytes()[:-20])
    with pytest.raises(KeyFileError, match="not a blockenc key file, or a damaged one"):
        Key.load(path, "password")


def test_wrong_password_and_places(key_file: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="wrong password"):
        Key.load(key_file, "Password")
    with pytest.raises(ValueError, match=r"^password: expected a non-empty str"):
        Key.load(key_file, "")
    with pytest.raises(ValueError, match=r"^password: .*UTF-8") as caught:
        Key.load(key_file, "hunter2\udc80")
    assert "hunter2" not in str(caught.value)
    assert caught.value.__context__ is None  # a UnicodeEncodeError would hold the password
    with pytest.raises(ValueError, match=r"^password: expected a non-empty str"):
        Key(KEY).save(tmp_path / "k", "")
    with pytest.raises(TypeError, match=r"^password: expected a str, got bytes"):
        Key(KEY).save(tmp_path / "k", b"password")  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError):
        Key.load(tmp_path / "none.key", "password")
    with pytest.raises(IsADirectoryError):
        Key.load(tmp_path, "password")
    with pytest.raises(FileNotFoundError):
        Key(KEY).save(tmp_path / "no" / "folder" / "k", "password")
    with pytest.raises(FileExistsError, match="not overwritten"):
        Key(KEY).save(key_file, "password")
    assert os.listdir(tmp_path) == []


def test_disk_full_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        Key(KEY).save(tmp_path / "k", "password")
    assert caught.value.errno == errno.ENOSPC
    assert os.listdir(tmp_path) == []


def test_the_longest_file_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyfile, "scrypt", lambda *arguments, **costs: bytes(32))
    path = tmp_path / ("n" * 255)
    Key(KEY).save(path, "password")
    Key(bytes(32)).save(path, "password", overwrite=True)
    assert Key.load(path, "password") == Key(bytes(32))
    assert os.listdir(tmp_path) == [path.name]


def test_an_interleaved_out_is_no_error() -> None:
    """Slices and permutations whose elements are apart are accepted, however they lie."""
    room = torch.zeros(8, 6, 3, 4, dtype=torch.uint8)
    out = room[:, :, :, ::2].permute(3, 2, 0, 1)[:, :, :, ::2]
    x = oracle.image((2, 3, 8, 3))
    cipher = Cipher(KEY, block_size=1)
    assert torch.equal(cipher.encrypt(x, out=out), cipher.encrypt(x))
