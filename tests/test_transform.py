"""EncryptTransform and nn.Encrypt: right type out, no secret in a checkpoint, one answer of every form."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import blockenc
from blockenc import Cipher
from blockenc.nn import Encrypt
from tests import oracle

CIPHER = Cipher(oracle.KEY)
X = oracle.image((3, 3, 16, 24))
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
STAGE = {"dtype": torch.float32, "mean": MEAN, "std": STD}


@pytest.fixture
def tv():
    return pytest.importorskip("torchvision.tv_tensors")


@pytest.fixture
def v2():
    return pytest.importorskip("torchvision.transforms.v2")


# --- EncryptTransform ---


def test_types(tv) -> None:
    transform = blockenc.EncryptTransform(CIPHER)
    for kind in (tv.Image, tv.Video):
        got = transform(kind(X))
        assert type(got) is kind
        assert torch.equal(got.as_subclass(torch.Tensor), CIPHER.encrypt(X))
    assert type(transform(X)) is torch.Tensor
    assert torch.equal(transform(X[0]), CIPHER.encrypt(X[0]))
    pil = Image.fromarray(X[0].permute(1, 2, 0).contiguous().numpy())
    got = transform(pil)
    assert isinstance(got, Image.Image)
    assert got.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(got), CIPHER.encrypt(X[0]).permute(1, 2, 0).numpy())
    clip = tv.Video(X.expand(2, 3, 3, 16, 24))
    assert torch.equal(transform(clip)[1].as_subclass(torch.Tensor), CIPHER.encrypt(X))


def test_the_output_stage(tv) -> None:
    transform = blockenc.EncryptTransform(CIPHER, **STAGE)
    want = CIPHER.encrypt(X, **STAGE)
    assert torch.equal(transform(tv.Image(X)).as_subclass(torch.Tensor), want)
    got = transform(Image.fromarray(X[0].permute(1, 2, 0).contiguous().numpy()))
    assert type(got) is tv.Image
    assert torch.equal(got.as_subclass(torch.Tensor), want[0])


def test_the_rest_passes_through(tv) -> None:
    mask = tv.Mask(torch.ones(16, 24, dtype=torch.uint8))
    boxes = tv.BoundingBoxes(torch.tensor([[1, 2, 3, 4]]), format="XYXY", canvas_size=(16, 24))
    plain = torch.arange(12.0).reshape(3, 2, 2)
    sample = {"image": tv.Image(X[0]), "target": (mask, [boxes, 7, "name"]), "plain": plain}
    got = blockenc.EncryptTransform(CIPHER)(sample)
    assert torch.equal(got["image"].as_subclass(torch.Tensor), CIPHER.encrypt(X[0]))
    assert got["target"][0] is mask
    assert got["target"][1][0] is boxes
    assert got["target"][1][1:] == [7, "name"]
    assert got["plain"] is plain


def test_in_compose(v2) -> None:
    """The same numbers as torchvision's own: of ToTensor exactly; of ToDtype, which multiplies by a
    rounded 1/255 where ToTensor divides, up to that rounding."""
    v1 = pytest.importorskip("torchvision.transforms")
    pil = Image.fromarray(X[0].permute(1, 2, 0).contiguous().numpy())
    fused = v2.Compose([v2.Resize((8, 8)), blockenc.EncryptTransform(CIPHER, **STAGE)])
    chain = v2.Compose(
        [
            v2.Resize((8, 8)),
            v2.ToImage(),
            blockenc.EncryptTransform(CIPHER),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    image, label = fused(pil, 3)
    assert label == 3
    image = image.as_subclass(torch.Tensor)
    torch.testing.assert_close(image, chain(pil).as_subclass(torch.Tensor), rtol=0, atol=1e-6)
    encrypted = blockenc.EncryptTransform(CIPHER)(v1.Resize((8, 8))(pil))
    assert torch.equal(image, v1.Normalize(MEAN, STD)(v1.ToTensor()(encrypted)))
    assert CIPHER.fingerprint in repr(fused)


@pytest.mark.parametrize("make", ("EncryptTransform", "nn"))
def test_bad_arguments(make: str, tv) -> None:
    cls = Encrypt if make == "nn" else blockenc.EncryptTransform
    for options, error in (({"mean": MEAN, "std": STD}, TypeError), ({"dtype": "complex"}, TypeError)):
        with pytest.raises(error):
            cls(CIPHER, **options)
    with pytest.raises(TypeError, match="cipher: expected"):
        cls(oracle.KEY)
    with pytest.raises(ValueError, match="multiples of the block size"):
        blockenc.EncryptTransform(CIPHER)(X[..., :7])


def test_torchvision_is_named_where_it_is_missing() -> None:
    code = "import sys; sys.modules['torchvision'] = None; import blockenc; blockenc.EncryptTransform"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "EncryptTransform needs torchvision" in done.stderr


def test_importing_blockenc_imports_neither() -> None:
    code = (
        "import torch, sys; a = set(sys.modules); import blockenc; "
        "new = set(sys.modules) - a; "
        "print([m for m in ('torchvision', 'PIL', 'blockenc.data', 'blockenc.nn') if m in new])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- nn.Encrypt ---

CIPHERS = {
    "byte": CIPHER,
    "no ffx": Cipher(oracle.KEY, steps=("np", "shuffle"), block_size=2),
    "decimal": Cipher(blockenc.KeySet.from_seed(1, "p"), ffx="decimal"),
}


@pytest.mark.parametrize("form", ("op", "aten"))
@pytest.mark.parametrize("name", CIPHERS)
@pytest.mark.parametrize("stage", ({}, STAGE))
def test_layer(form: str, name: str, stage: dict) -> None:
    layer = Encrypt(CIPHERS[name], form=form, **stage)
    for x in (X, X[0], X / 255):
        assert torch.equal(layer(x), CIPHERS[name].encrypt(x, **stage))
    with pytest.raises(TypeError, match="x: expected"):
        layer(X.to(torch.int64))
    if not stage and name != "decimal":
        assert torch.equal(Encrypt(CIPHERS[name], form=form, decrypt=True)(layer(X)), X)


def test_a_model_without_secrets() -> None:
    """Nothing of the plan in a state_dict; a checkpoint of the plain model loads into the protected one."""
    head = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 24, 2))
    model = torch.nn.Sequential(Encrypt(CIPHER, **STAGE), head)
    assert [name for name in model.state_dict() if name.startswith("0.")] == []
    plan = CIPHER.plan().with_output(MEAN, STD)
    assert torch.equal(model[0].plan, torch.from_numpy(plan.packed))
    for form in ("op", "aten"):
        file = io.BytesIO()
        torch.save(torch.nn.Sequential(Encrypt(CIPHER, form=form), head).state_dict(), file)
        for part in (plan.source, plan.table_of, plan.tables, plan.flips):
            assert part.tobytes() not in file.getvalue()
    assert model.half()[0].plan.dtype == torch.uint8
    assert "Encrypt(fingerprint=" in repr(model)


@pytest.mark.parametrize("form", ("op", "aten"))
def test_compile_and_export(form: str, tmp_path: Path) -> None:
    layer = Encrypt(CIPHER, form=form, **STAGE)
    want = CIPHER.encrypt(X, **STAGE)
    assert torch.equal(torch.compile(layer, fullgraph=True, backend="aot_eager")(X), want)
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(layer, (X,), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "layer.pt2")
    again = torch.export.load(tmp_path / "layer.pt2").module()
    assert torch.equal(again(X), want)
    assert torch.equal(again(X[:2]), want[:2])
    assert not program.state_dict


@pytest.mark.parametrize("name", CIPHERS)
@pytest.mark.parametrize("stage", ({}, STAGE))
def test_onnx(name: str, stage: dict, tmp_path: Path) -> None:
    """The exported file gives onnxruntime the library's bytes, for any number of images of any size."""
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    batch, height, width = torch.export.Dim("batch"), torch.export.Dim("h"), torch.export.Dim("w")
    m = CIPHERS[name].scheme.block_size
    path = tmp_path / "layer.onnx"
    torch.onnx.export(
        Encrypt(CIPHERS[name], form="aten", **stage).eval(),
        (X,),
        path,
        dynamo=True,
        dynamic_shapes=({0: batch, 2: m * height, 3: m * width},),
        verbose=False,
    )
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for shape in ((3, 3, 16, 24), (5, 3, 32, 8)):
        x = oracle.image(shape, seed=5)
        (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        want = CIPHERS[name].encrypt(x, **stage).numpy()
        assert got.dtype == want.dtype
        assert got.tobytes() == want.tobytes()
