"""EncryptTransform and nn.Encrypt: right type out, no secret in a checkpoint, one answer of every form."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch._dynamo.testing
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


PIL_IMAGE = Image.fromarray(X[0].permute(1, 2, 0).contiguous().numpy())
ARRAY = np.asarray(PIL_IMAGE)
PNG = b"\x89PNG" + bytes(99)


class Holder:
    """An object of no kind that is known to hold fields."""

    def __init__(self, image) -> None:
        self.image = image


def plain(image) -> np.ndarray:
    """[H, W, C] of any kind of image."""
    return image.permute(1, 2, 0).numpy() if isinstance(image, torch.Tensor) else np.asarray(image)


@pytest.mark.parametrize(
    "sample, views",
    [
        (ARRAY, [()]),
        ([X[0], X[1]], [(0,), (1,)]),
        ((X[0], X[1], 7), [(0,), (1,)]),
        ({"image": PIL_IMAGE, "pixel_values": X[1]}, [("image",), ("pixel_values",)]),
        ((PIL_IMAGE, ARRAY), [(0,), (1,)]),
        ({"a": {"b": [ARRAY, X[0]]}, "c": (PIL_IMAGE,)}, [("a", "b", 0), ("a", "b", 1), ("c", 0)]),
    ],
    ids=["array", "two views", "tuple", "dict", "PIL and array", "deep"],
)
def test_every_image_of_a_sample_is_encrypted(sample, views: list[tuple], tv) -> None:
    got = blockenc.EncryptTransform(CIPHER)(sample)
    assert type(got) is type(sample)
    for path in views:
        before, after = sample, got
        for key in path:
            before, after = before[key], after[key]
        assert type(before) is type(after) or isinstance(before, Image.Image)
        np.testing.assert_array_equal(plain(after), CIPHER.encrypt(plain(before)))


@pytest.mark.parametrize(
    "other",
    [
        X[0, 0],
        X[0].long(),
        X[0].permute(1, 2, 0),
        PIL_IMAGE.convert("L"),
        PNG,
        X.flatten(0, 1)[:5],
        Holder(X[0]),
    ],
    ids=["mask", "integers", "channels-last", "L", "encoded", "grey stack", "object"],
)
def test_what_looks_like_an_image_is_named_or_refused(other, tv) -> None:
    sample = {"image": tv.Image(X[0]), "target": [0, other]}
    with pytest.raises(ValueError, match=r"field 'target.1'.*looks like an image.*images=.*keep="):
        blockenc.EncryptTransform(CIPHER)(sample)
    with pytest.raises(ValueError, match=r"field 'target.1'.*looks like an image"):
        blockenc.EncryptTransform(CIPHER, images="image")(sample)
    for keep in ("target", "target.1", "target.-1"):
        got = blockenc.EncryptTransform(CIPHER, keep=keep)(sample)
        assert got["target"][1] is other
        assert torch.equal(got["image"].as_subclass(torch.Tensor), CIPHER.encrypt(X[0]))


def test_fields_by_name(tv) -> None:
    sample = (X[0], {"crop": X[1], "label": 3})
    got = blockenc.EncryptTransform(CIPHER, images="1.crop", keep=0)(*sample)
    assert got[0] is sample[0]
    assert torch.equal(got[1]["crop"], CIPHER.encrypt(X[1]))
    for options, error, says in (
        ({"images": "1.label"}, TypeError, "field '1.label': expected.*got int"),
        ({"images": "mask"}, ValueError, "has no field 'mask'"),
        ({"keep": "1.mask"}, ValueError, "has no field '1.mask'"),
    ):
        with pytest.raises(error, match=says):
            blockenc.EncryptTransform(CIPHER, **options)(sample)
    with pytest.raises(ValueError, match="keep: 0"):
        blockenc.EncryptTransform(CIPHER, images=0, keep=0)
    with pytest.raises(ValueError, match="images: expected at least one"):
        blockenc.EncryptTransform(CIPHER, images=())
    with pytest.raises(TypeError, match="images: expected positions"):
        blockenc.EncryptTransform(CIPHER, images=1.5)


def test_a_sample_without_an_image_is_refused(tv) -> None:
    for sample in ("photo.png", {"label": 3}, PNG, (tv.Mask(X[0, 0]), 3)):
        with pytest.raises(ValueError, match="expected an image to encrypt"):
            blockenc.EncryptTransform(CIPHER)(sample)


def test_other_sizes_and_the_default_device(tv) -> None:
    cipher = Cipher(oracle.KEY, fit="pad")
    odd = X[..., :15, :21]
    got = blockenc.EncryptTransform(cipher)(tv.Video(odd[None]))
    assert torch.equal(got[0].as_subclass(torch.Tensor), cipher.encrypt(odd))
    grey = Cipher(oracle.KEY, channels=1)
    assert torch.equal(blockenc.EncryptTransform(grey)(X[0, 0]), grey.encrypt(X[0, :1])[0])
    arrays = X.permute(0, 2, 3, 1).numpy()[None]
    np.testing.assert_array_equal(blockenc.EncryptTransform(CIPHER)(arrays)[0], CIPHER.encrypt(arrays[0]))
    with torch.device("meta"):
        transform = blockenc.EncryptTransform(CIPHER, **STAGE)
        got = [transform(x) for x in (PIL_IMAGE, X[0], ARRAY)]
    want = CIPHER.encrypt(X[0], **STAGE)
    for image in got:
        np.testing.assert_array_equal(plain(image), want.permute(1, 2, 0).numpy())


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
        blockenc.EncryptTransform(Cipher(oracle.KEY, fit="error"))(X[..., :7])


@pytest.mark.parametrize("kind", ["tensor", "array", "PIL", "PIL to floats", "video"])
def test_sizes_that_resizing_leaves_are_padded_with_a_warning(tv, kind: str) -> None:
    pixels = oracle.image((3, 10, 15))
    image = {
        "tensor": pixels,
        "array": pixels.permute(1, 2, 0).numpy(),
        "video": tv.Video(pixels[None, None]),
    }.get(kind, Image.fromarray(pixels.permute(1, 2, 0).numpy()))
    options = {"dtype": torch.float32} if kind == "PIL to floats" else {}
    with pytest.warns(UserWarning, match="10 x 15 pixels .* padded to 12 x 16") as warned:
        got = blockenc.EncryptTransform(CIPHER, **options)(image)
    assert len(warned) == 1
    want = blockenc.EncryptTransform(Cipher(oracle.KEY, fit="pad"), **options)(image)
    assert np.array_equal(np.asarray(got), np.asarray(want))
    if kind == "tensor":
        assert torch.equal(CIPHER.decrypt(got, size=(10, 15)), pixels)


def test_what_has_its_place_on_an_image_forbids_to_pad_it(tv) -> None:
    image, mask = tv.Image(oracle.image((3, 10, 15))), tv.Mask(torch.zeros(10, 15, dtype=torch.uint8))
    with pytest.raises(ValueError, match="multiples of the block size"):
        blockenc.EncryptTransform(CIPHER)(image, mask)


def test_torchvision_is_named_where_it_is_missing() -> None:
    code = "import sys; sys.modules['torchvision'] = None; import blockenc; blockenc.EncryptTransform"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "EncryptTransform needs torchvision" in done.stderr


def test_importing_blockenc_imports_neither() -> None:
    code = (
        "import torch, sys; a = set(sys.modules); import blockenc; "
        "new = set(sys.modules) - a; "
        "print([m for m in ('torchvision', 'PIL', 'blockenc.datasets', 'blockenc.nn') if m in new])"
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
    for x, says in (
        (X[0, 0], "got shape"),
        (X[:, :2], "expected 3 channels"),
        (X[..., :7], "multiples of the"),
    ):
        with pytest.raises(ValueError, match=f"^x: .*{says}"):
            layer(x)
    with pytest.raises(RuntimeError, match=r"^x: requires grad"):
        layer((X / 255).requires_grad_())
    if not stage:
        encrypted = layer(X)
        back = Encrypt(
            CIPHERS[name], form=form, decrypt=True, dtype=torch.uint8 if name == "decimal" else None
        )
        assert torch.equal(back(encrypted), X)


def test_a_decrypting_layer_checks_its_own_direction() -> None:
    Encrypt(CIPHERS["decimal"], dtype=torch.uint16)
    with pytest.raises(TypeError, match=r"dtype: expected.*torch.uint16"):
        Encrypt(CIPHERS["decimal"], dtype=torch.uint16, decrypt=True)
    with pytest.raises(TypeError, match="dtype: expected"):
        Encrypt(CIPHERS["decimal"], dtype=torch.uint8)


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


def averaged(model: torch.nn.Module) -> torch.nn.Module:
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9), use_buffers=True
    )
    for _ in range(5):
        average.update_parameters(model)
    return average.module


def pickled(model: torch.nn.Module, **options) -> torch.nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False, **options)


def written_on(model: torch.nn.Module) -> torch.nn.Module:
    model[0].plan.zero_()
    for buffer in model[0].buffers():
        buffer.zero_()
    return model


def from_meta(model: torch.nn.Module) -> torch.nn.Module:
    with torch.device("meta"):
        again = torch.nn.Sequential(Encrypt(CIPHER, form=model[0].form))
    return again.to_empty(device="cpu")


# What is done to models, and must not change what the layer does.
FATES = {
    "average": averaged,
    "half": lambda model: model.half(),
    "double": lambda model: model.to(torch.float64),
    "emptied": lambda model: model.to_empty(device="cpu"),
    "made on meta": from_meta,
    "moved to meta": lambda model: model.to("meta"),
    "copied": copy.deepcopy,
    "pickled": lambda model: pickle.loads(pickle.dumps(model)),
    "saved whole": pickled,
    "loaded on meta": lambda model: pickled(model, map_location="meta"),
    "written on": written_on,
    "replica": lambda model: torch.nn.Sequential(model[0]._replicate_for_data_parallel()),
    "shared": lambda model: model.share_memory(),
    "inference": lambda model: torch.inference_mode()(lambda: torch.nn.Sequential(Encrypt(CIPHER)))(),
    "loaded": lambda model: (model.load_state_dict(model.state_dict(), strict=True), model)[1],
}


@pytest.mark.parametrize("form", ("op", "aten"))
@pytest.mark.parametrize("fate", FATES)
def test_what_is_done_to_a_models_state_does_not_touch_the_plan(fate: str, form: str) -> None:
    model = FATES[fate](torch.nn.Sequential(Encrypt(CIPHER, form=form)))
    assert torch.equal(model(X), CIPHER.encrypt(X))
    assert torch.equal(model[0].plan, torch.from_numpy(CIPHER.plan().packed))
    assert not model.state_dict()


def test_a_damaged_pickle_is_refused() -> None:
    layer = Encrypt(CIPHER)
    data = pickle.dumps(layer)
    plan = CIPHER.plan().packed.tobytes()
    damaged = data.replace(plan, plan[:-1] + bytes([plan[-1] ^ 1]))
    assert damaged != data
    with pytest.raises(ValueError, match="plan: its bytes are not those"):
        pickle.loads(damaged)


def test_from_pretrained(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")

    class Served(transformers.PreTrainedModel):
        config_class = transformers.PretrainedConfig

        def __init__(self, config) -> None:
            super().__init__(config)
            self.encrypt = Encrypt(CIPHER)
            self.head = torch.nn.Linear(3, 2)
            self.post_init()

    Served(transformers.PretrainedConfig()).save_pretrained(tmp_path)
    again = Served.from_pretrained(tmp_path)
    assert torch.equal(again.encrypt(X), CIPHER.encrypt(X))


def test_a_graph_serves_layers_of_other_keys() -> None:
    """Twelve ciphers meet one compiled function: the plan is its input, so that one graph is enough."""
    counter = torch._dynamo.testing.CompileCounter()
    function = torch.compile(lambda layer, x: layer(x), fullgraph=True, backend=counter)
    for n in range(12):
        cipher = Cipher(bytes([n]) * 32)
        assert torch.equal(function(Encrypt(cipher), X), cipher.encrypt(X))
    assert counter.frame_count == 1


def test_a_trace_away_from_the_modules_device() -> None:
    """As in a replica on another GPU: the plan becomes a constant of the graph, of the right layer."""
    function = torch.compile(lambda layer, x: layer(x), fullgraph=True, backend="eager")
    ciphers = [Cipher(bytes([n]) * 32) for n in range(2)]
    layers = [Encrypt(cipher) for cipher in ciphers]
    for layer, cipher in zip(layers, ciphers):
        layer._packed = tuple(packed.to("meta") for packed in layer._packed)
        assert torch.equal(layer(X), cipher.encrypt(X))
        assert torch.equal(function(layer, X), cipher.encrypt(X))
    for strict in (True, False):
        program = torch.export.export(layers[1], (X,), strict=strict)
        assert torch.equal(program.module()(X), ciphers[1].encrypt(X))


@pytest.mark.parametrize("form", ("op", "aten"))
def test_a_layer_pads(form: str) -> None:
    cipher = Cipher(oracle.KEY, fit="pad")
    odd = X[..., :15, :21]
    layer = Encrypt(cipher, form=form)
    assert torch.equal(layer(odd), cipher.encrypt(odd))
    assert torch.equal(torch.compile(layer, fullgraph=True, backend="eager")(odd), cipher.encrypt(odd))
    with pytest.raises(ValueError, match="multiples of the block size"):
        Encrypt(cipher, form=form, decrypt=True)(odd)


@pytest.mark.parametrize("steps", [("shuffle", "np"), ("shuffle", "np", "ffx")])
def test_both_forms_compile_for_floats(steps: tuple[str, ...]) -> None:
    floats = X.float() / 255
    cipher = Cipher(oracle.KEY, steps=steps)
    for form in ("op", "aten"):
        layer = Encrypt(cipher, form=form)
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(floats), cipher.encrypt(floats))
        program = torch.export.export(layer, (floats,))
        assert torch.equal(program.module()(floats), cipher.encrypt(floats))


def test_a_layer_has_no_float64() -> None:
    with pytest.raises(TypeError, match=r"^dtype: expected float32"):
        Encrypt(CIPHER, dtype=torch.float64)
