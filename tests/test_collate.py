"""EncryptCollate: every kind of sample, container and worker gives what Cipher.encrypt of the batch gives."""

from __future__ import annotations

import base64
import collections
import dataclasses
import io
import multiprocessing
import pickle
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

import blockenc
from blockenc import Cipher, EncryptCollate
from blockenc.loading.fields import put
from tests import oracle

CIPHER = Cipher(oracle.KEY)
IMAGES = oracle.image((6, 3, 16, 24))
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Pair = collections.namedtuple("Pair", "image label")


def as_pil(x: torch.Tensor) -> Image.Image:
    array = x.permute(1, 2, 0).numpy()
    return Image.fromarray(array if array.shape[2] > 1 else array[:, :, 0])


KINDS = {
    "pil": as_pil,
    "numpy": lambda x: x.permute(1, 2, 0).contiguous().numpy(),
    "tensor": lambda x: x.clone(),
    "channels-last tensor": lambda x: x.permute(1, 2, 0).contiguous().permute(2, 0, 1),
}


@pytest.fixture(params=KINDS)
def samples(request: pytest.FixtureRequest) -> list:
    return [KINDS[request.param](x) for x in IMAGES]


@pytest.mark.parametrize("memory_format", (torch.contiguous_format, torch.channels_last))
@pytest.mark.parametrize(
    "stage", ({}, {"dtype": torch.float32}, {"dtype": "float16", "mean": MEAN, "std": STD})
)
def test_kinds_of_images(samples: list, stage: dict, memory_format: torch.memory_format) -> None:
    got = EncryptCollate(CIPHER, memory_format=memory_format, **stage)(samples)
    assert torch.equal(got, CIPHER.encrypt(IMAGES, **stage))
    assert got.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("mode, channels", [("L", 1), ("LA", 2), ("RGBA", 4)])
def test_other_channels(mode: str, channels: int) -> None:
    images = oracle.image((3, channels, 8, 8))
    cipher = Cipher(oracle.KEY, channels=channels)
    pil = [as_pil(x) for x in images]
    assert pil[0].mode == mode
    assert torch.equal(EncryptCollate(cipher)(pil), cipher.encrypt(images))


@pytest.mark.parametrize("dtype", oracle.FLOATS)
def test_float_images(dtype: torch.dtype) -> None:
    images = oracle.image((3, 3, 8, 8), dtype)
    assert torch.equal(EncryptCollate(CIPHER)(list(images)), CIPHER.encrypt(images))


def test_the_decimal_profile() -> None:
    cipher = Cipher(blockenc.KeySet.from_seed(1, "p"), ffx="decimal")
    assert torch.equal(EncryptCollate(cipher)(list(IMAGES)), cipher.encrypt(IMAGES))
    got = EncryptCollate(cipher, dtype=torch.uint16)(list(IMAGES))
    assert torch.equal(got, cipher.encrypt(IMAGES, dtype=torch.uint16))


def target(n: int) -> dict:
    return {"label": n, "name": f"image {n}", "mask": torch.full((16, 24), n), "more": (1.5 * n, [n, -n])}


def same(a: object, b: object) -> bool:
    """Equal in values and in the types of containers."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b))
    return a == b


@pytest.mark.parametrize(
    "pack, options",
    [
        (lambda x, t: (x, t), {}),
        (lambda x, t: [x, t], {}),
        (lambda x, t: Pair(x, t), {}),
        (lambda x, t: Pair(x, t), {"images": "image"}),
        (lambda x, t: (t, x), {"images": -1}),
        (lambda x, t: {"target": t, "image": x}, {}),
        (lambda x, t: {"target": t, "pixel_values": x}, {}),
        (lambda x, t: {"a": t, "b": x}, {"images": "b"}),
        (lambda x, t: collections.OrderedDict(a=t, b=x), {"images": ["b"]}),
    ],
)
def test_containers(pack, options: dict) -> None:
    """The containers, and everything in them but the images, are what torch's default makes of them."""
    samples = [pack(x, target(n)) for n, x in enumerate(IMAGES)]
    before = pickle.dumps(samples)
    encrypted = [pack(x, target(n)) for n, x in enumerate(CIPHER.encrypt(IMAGES))]
    assert same(EncryptCollate(CIPHER, **options)(samples), default_collate(encrypted))
    assert pickle.dumps(samples) == before


def test_several_image_fields_and_what_is_kept() -> None:
    boxes = [torch.arange(4.0 * n).reshape(n, 4) for n in range(6)]
    samples = [
        {"left": x, "right": as_pil(x.flip(-1)), "boxes": boxes[n], "mask": x[0]}
        for n, x in enumerate(IMAGES)
    ]
    got = EncryptCollate(CIPHER, images=("left", "right"), keep="boxes", plain="mask")(samples)
    assert torch.equal(got["left"], CIPHER.encrypt(IMAGES))
    assert torch.equal(got["right"], CIPHER.encrypt(IMAGES.flip(-1)))
    assert torch.equal(got["mask"], IMAGES[:, 0])
    assert all(a is b for a, b in zip(got["boxes"], boxes, strict=True))


@dataclasses.dataclass
class Record:
    picture: torch.Tensor
    label: int


def pack_record(batch: list) -> Record:
    return Record(default_collate([s.picture for s in batch]), default_collate([s.label for s in batch]))


@pytest.mark.parametrize(
    "pack, options",
    [
        (lambda x, y: (x, y, 1), {}),
        (lambda x, y: ([x, y], 1), {}),
        (lambda x, y: [x, y], {}),
        (lambda x, y: {"image": as_pil(x), "pixel_values": y, "label": 0}, {}),
        (lambda x, y: ({"a": x}, {"deep": [{"b": y}]}), {"images": ("0.a", "1.deep.0.b")}),
        (lambda x, y: (1, {"a": x, "b": y}), {"images": ("1.a", "1.b")}),
        (lambda x, y: (1, {"a": x, "b": y}), {"images": 1}),
        (lambda x, y: (1, Pair(x, y)), {"images": ("1.image", "1.1")}),
        (lambda x, y: {"seg.png": x, "image": y}, {"images": ["seg.png", "image"]}),
    ],
)
def test_every_view_is_encrypted(pack, options: dict) -> None:
    """Two images of a sample, wherever they lie: out comes the default collation of encrypted samples."""
    other = IMAGES.flip(-1)
    batch = [pack(x, y) for x, y in zip(IMAGES, other)]
    encrypted = [pack(x, y) for x, y in zip(CIPHER.encrypt(IMAGES), CIPHER.encrypt(other))]
    if isinstance(batch[0], dict) and "label" in batch[0]:
        encrypted = [{**s, "image": CIPHER.encrypt(x)} for s, x in zip(encrypted, IMAGES)]
    assert same(EncryptCollate(CIPHER, **options)(batch), default_collate(encrypted))


def test_dataclasses() -> None:
    batch = [Record(x, n) for n, x in enumerate(IMAGES)]
    got = EncryptCollate(CIPHER, images="picture", collate=pack_record)(batch)
    assert torch.equal(got.picture, CIPHER.encrypt(IMAGES))
    assert got.label.tolist() == list(range(6))


def encoded(x: torch.Tensor) -> bytes:
    file = io.BytesIO()
    as_pil(x).save(file, "PNG")
    return file.getvalue()


PICTURES = {
    "grey": lambda x: x[0],
    "alpha": lambda x: torch.cat([x, x[:1]]),
    "channels-last tensor": lambda x: x.permute(1, 2, 0),
    "integers": lambda x: x.long(),
    "palette": lambda x: as_pil(x).convert("P"),
    "PNG": encoded,
    "PNG in a dict": lambda x: {"bytes": encoded(x), "path": None},
    "PNG as an array": lambda x: np.frombuffer(encoded(x), "u1"),
    "base64": lambda x: base64.b64encode(encoded(x)).decode(),
    "nested lists": lambda x: x.permute(1, 2, 0).tolist(),
    "video": lambda x: x.expand(2, -1, -1, -1),
}


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("place", ["tuple", "dict", "deep", "named"])
def test_nothing_that_looks_like_an_image_is_left(name: str, place: str) -> None:
    """In every sample of the batch, not the first alone; the error names the field and the arguments."""
    pack, field, options = {
        "tuple": (lambda x, p: (x, p), "1", {}),
        "dict": (lambda x, p: {"image": x, "other": p}, "'other'", {}),
        "deep": (lambda x, p: (x, {"a": [0, p]}), "'1.a.1'", {}),
        "named": (lambda x, p: {"image": x, "other": p}, "'other'", {"images": "image"}),
    }[place]
    batch = [pack(IMAGES[0], 0), pack(IMAGES[1], PICTURES[name](IMAGES[1]))]
    with pytest.raises(ValueError, match=r"looks like an image.*images=.*plain=.*keep=") as caught:
        EncryptCollate(CIPHER, **options)(batch)
    assert f"sample 1, field {field[:-1]}" in str(caught.value)


def test_what_is_named_is_let_through() -> None:
    batch = [{"image": x, "mask": x[0], "deep": {"mask": x[0], "n": 1}, "raw": encoded(x)} for x in IMAGES]
    got = EncryptCollate(CIPHER, plain=["mask", "deep.mask"], keep="raw")(batch)
    assert torch.equal(got["mask"], IMAGES[:, 0])
    assert torch.equal(got["deep"]["mask"], IMAGES[:, 0])
    assert got["raw"] == [encoded(x) for x in IMAGES]
    assert torch.equal(got["image"], CIPHER.encrypt(IMAGES))
    with pytest.raises(ValueError, match="sample 0 has no field 'target'"):
        EncryptCollate(CIPHER, plain="target")(batch)


def test_grey_images_and_float64() -> None:
    grey = Cipher(oracle.KEY, channels=1)
    want = grey.encrypt(IMAGES[:, :1])
    for kind in (lambda x: x[0], lambda x: x[0].numpy(), lambda x: as_pil(x[:1])):
        assert torch.equal(EncryptCollate(grey)([(kind(x), 0) for x in IMAGES])[0], want)
    arrays = [x.permute(1, 2, 0).numpy() / 255.0 for x in IMAGES]
    got = EncryptCollate(CIPHER)(arrays)
    assert torch.equal(got, CIPHER.encrypt(IMAGES, dtype=torch.float64))
    assert torch.equal(
        EncryptCollate(CIPHER, dtype="float32", mean=MEAN, std=STD)(arrays),
        CIPHER.encrypt(IMAGES.double() / 255, dtype=torch.float32, mean=MEAN, std=STD),
    )


@pytest.mark.parametrize("stage", [{}, {"dtype": torch.float32, "mean": MEAN, "std": STD}])
def test_images_of_other_sizes_than_whole_blocks(stage: dict) -> None:
    cipher = Cipher(oracle.KEY, fit="pad")
    odd = IMAGES[:, :, :15, :22]
    got = EncryptCollate(cipher, **stage)([as_pil(x) for x in odd])
    assert got.shape == IMAGES.shape
    assert torch.equal(got, cipher.encrypt(odd, **stage))


def test_the_default_device_changes_nothing() -> None:
    for kind in KINDS.values():
        samples = [(kind(x), n) for n, x in enumerate(IMAGES)]
        with torch.device("meta"):
            got = EncryptCollate(Cipher(oracle.KEY), dtype=torch.float32, mean=MEAN, std=STD)(samples)[0]
        assert torch.equal(got, CIPHER.encrypt(IMAGES, dtype=torch.float32, mean=MEAN, std=STD))


def test_one_call_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    encrypt = Cipher.encrypt
    collate = EncryptCollate(CIPHER)
    monkeypatch.setattr(Cipher, "encrypt", lambda *args, **kw: calls.append(1) or encrypt(*args, **kw))
    collate([(x, 0) for x in IMAGES])
    assert calls == [1]


class Photos(Dataset):
    def __len__(self) -> int:
        return len(IMAGES)

    def __getitem__(self, n: int) -> tuple:
        return as_pil(IMAGES[n]), {"label": n}


class Stream(IterableDataset):
    def __iter__(self):
        info = torch.utils.data.get_worker_info()
        first, step = (info.id, info.num_workers) if info else (0, 1)
        return ((IMAGES[n], {"label": n}) for n in range(first, len(IMAGES), step))


@pytest.mark.parametrize("start", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("dataset", [Photos(), Stream()], ids=["map", "iterable"])
def test_workers(start: str, dataset: Dataset) -> None:
    """Two epochs of persistent workers, pinned if there is a device to pin for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python 3.12 warns of any fork beside threads
        loader = DataLoader(
            dataset,
            batch_size=2,
            num_workers=2,
            persistent_workers=True,
            pin_memory=True,
            timeout=100,
            collate_fn=EncryptCollate(CIPHER, dtype=torch.float32, mean=MEAN, std=STD),
            multiprocessing_context=multiprocessing.get_context(start),
        )
        want = CIPHER.encrypt(IMAGES, dtype=torch.float32, mean=MEAN, std=STD)
        for _ in range(2):
            labels = []
            for images, targets in loader:
                assert torch.equal(images, want[targets["label"]])
                labels += targets["label"].tolist()
            assert sorted(labels) == list(range(len(IMAGES)))


def test_a_pickle_holds_no_key() -> None:
    secret = bytes(range(100, 132))
    data = pickle.dumps(EncryptCollate(Cipher(blockenc.Key(secret))))
    assert secret not in data
    assert secret.hex().encode() not in data
    assert secret.hex() not in repr(EncryptCollate(Cipher(secret)))


BLANK = torch.zeros(3, 8, 8, dtype=torch.uint8)


@pytest.mark.parametrize(
    "batch, options, error, says",
    [
        ([BLANK, BLANK, BLANK[:, :4]], {}, ValueError, r"sample 2 is a tensor \[3, 4, 8\].*sample 0 is"),
        ([(BLANK, 0), (BLANK.float(), 0)], {}, ValueError, r"sample 1, field 0 is .* torch.float32"),
        ([(BLANK, 0), (as_pil(BLANK), 0)], {}, ValueError, "sample 1, field 0 is a PIL image RGB of 8 x 8"),
        ([as_pil(BLANK), Image.new("P", (8, 8))], {}, ValueError, "sample 1 is a PIL image of mode 'P'"),
        ([(BLANK, 0), ("file.png", 0)], {}, TypeError, "sample 1, field 0: expected a PIL image.*got str"),
        ([(BLANK[0], 0)], {}, ValueError, r"sample 0, field 0: expected an image \[C, H, W\]"),
        ([{"x": BLANK}], {}, ValueError, "images: say which field.*'x'"),
        ([{"x": BLANK}, {}], {"images": "x"}, ValueError, "sample 1 has no field 'x'"),
        ([(BLANK, 0)], {"images": 2}, ValueError, "sample 0 has no field 2"),
        ([], {}, ValueError, "at least one sample"),
        (["file.png"], {}, TypeError, "expected samples that are images.*got str"),
        ([BLANK[:, :6]], {}, ValueError, "multiples of the block size 4"),
        ([BLANK[:1]], {}, ValueError, "expected 3 channels"),
        ([np.zeros((3, 8, 8), "u1")], {}, ValueError, r"\[H, W, C\]; this one looks channels-first"),
        ([BLANK.permute(1, 2, 0)], {}, ValueError, r"\[C, H, W\]; this one looks channels-last"),
        ([({"a": 1}, BLANK)], {"keep": 1}, ValueError, "images: say which field is the image"),
        ([(Image.new("I;16", (8, 8)), 0)], {}, ValueError, r"mode 'I;16'; its values have more than 8 bits"),
    ],
)
def test_bad_batches(batch: list, options: dict, error: type, says: str) -> None:
    with pytest.raises(error, match=says):
        EncryptCollate(CIPHER, **options)(batch)


@pytest.mark.parametrize(
    "options, error, says",
    [
        ({"mean": MEAN, "std": STD}, TypeError, "mean, std"),
        ({"dtype": torch.float32, "mean": MEAN}, ValueError, "both or neither"),
        ({"dtype": "complex"}, TypeError, "dtype"),
        ({"images": 1.5}, TypeError, "images: expected positions"),
        ({"images": ()}, ValueError, "images: expected at least one"),
        ({"images": True}, TypeError, "images: expected positions"),
        ({"images": 0, "keep": (0, 1)}, ValueError, "keep: 0"),
        ({"images": 0, "plain": 0}, ValueError, "plain: 0"),
        ({"plain": 1.5}, TypeError, "plain: expected positions"),
        ({"memory_format": torch.preserve_format}, ValueError, "memory_format"),
    ],
)
def test_bad_arguments(options: dict, error: type, says: str) -> None:
    with pytest.raises(error, match=says):
        EncryptCollate(CIPHER, **options)


def test_a_key_is_no_cipher() -> None:
    with pytest.raises(TypeError, match=r"cipher: expected a Cipher, got bytes"):
        EncryptCollate(oracle.KEY)  # type: ignore[arg-type]


def test_arrays_that_are_read_only() -> None:
    arrays = [np.array(as_pil(x)) for x in IMAGES]
    for array in arrays:
        array.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(EncryptCollate(CIPHER)(arrays), CIPHER.encrypt(IMAGES))


MASK = torch.zeros(1, 16, 24, dtype=torch.uint8)
MASK[0, :8] = 2
BESIDE = {
    "a mask": MASK[0],
    "a PIL mask": Image.fromarray(MASK[0].numpy()),
    "a depth map": torch.linspace(0, 1, 16 * 24).reshape(1, 16, 24),
    "three instance masks": MASK.expand(3, 16, 24),
    "five instance masks": MASK.expand(5, 16, 24),
    "three layers of one-hot floats": torch.eye(3)[MASK[0].long()].movedim(-1, 0),
    "an array of points": np.linspace(0, 1, 8 * 468 * 3).reshape(8, 468, 3),
}


@pytest.mark.parametrize("name", BESIDE)
@pytest.mark.parametrize("channels", [1, 3])
def test_labels_that_look_like_images_are_not_encrypted_unasked(channels: int, name: str) -> None:
    """Whatever their number and shape: an error that asks for their name, and then as they were."""
    cipher = Cipher(oracle.KEY, channels=channels)
    image, beside = IMAGES[0][:channels], BESIDE[name]
    for sample in ((image, beside), {"image": image, "label": beside}):
        with pytest.raises(ValueError, match=r"field .* looks like an image and would be left unencrypted"):
            EncryptCollate(cipher)([sample])
        key = 1 if isinstance(sample, tuple) else "label"
        out = EncryptCollate(cipher, keep=key)([sample])
        assert out[key][0] is beside


def test_what_is_no_batch_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^collate: expected"):
        EncryptCollate(CIPHER, collate=lambda samples: samples)([(IMAGES[0], 1), (IMAGES[1], 2)])


def test_a_dataclass_is_not_made_anew() -> None:
    @dataclasses.dataclass
    class Turned:
        picture: torch.Tensor
        turned: bool = dataclasses.field(default=False, init=False)

        def __post_init__(self) -> None:
            self.picture, self.turned = self.picture.flip(-1), True

    sample = Turned(IMAGES[0])
    other = IMAGES[1]
    got = put(sample, ("picture",), other)
    assert got.picture is other
    assert got.turned
    assert torch.equal(sample.picture, IMAGES[0].flip(-1))


def test_masks_are_refused_where_the_scheme_moves_what_images_show() -> None:
    cipher = Cipher(oracle.KEY, steps=["scramble", "np"], block_size=4)
    with pytest.raises(ValueError, match=r"^plain: 'mask' would no longer fit"):
        EncryptCollate(cipher, plain="mask")
    EncryptCollate(cipher, keep="mask")
