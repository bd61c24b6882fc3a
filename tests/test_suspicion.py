"""What is copied beside encrypted pictures: those in disguise are refused, ordinary annotations are not."""

from __future__ import annotations

import base64
import json
import time
import tracemalloc
import uuid
from collections.abc import Callable

import numpy as np
import pytest

from blockenc.datasets.formats import suspicion

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (32, 32), np.uint8)
ROWS = GREY.tolist()
RAW = GREY.tobytes()
BASE64 = base64.b64encode(RAW).decode()


def js(value: object) -> bytes:
    return json.dumps(value).encode()


def lines(values: list) -> bytes:
    return b"\n".join(map(js, values))


def low(first: int, last: int) -> bytes:
    return RNG.integers(first, last + 1, 1024, np.uint8).tobytes()


PICTURES: dict[str, object] = {
    # a picture in the parts of a document
    "JSON lines of rows": lines([{"row": row} for row in ROWS]),
    "JSON lines of numbered rows": lines([{"y": y, "row": row} for y, row in enumerate(ROWS)]),
    "JSON lines of lists": lines(ROWS),
    "JSON lines of pixels": lines([{"v": v} for v in GREY.ravel().tolist()]),
    "JSON lines and a comment": b'{"a": 1}\n# comment\n' + lines([{"row": row} for row in ROWS]),
    "rows by number": js({"pixels": {str(y): row for y, row in enumerate(ROWS)}}),
    "rows by name": js({f"row{y}": row for y, row in enumerate(ROWS)}),
    "rows below each other": js([{"n": "x"}, *ROWS]),
    "pixels as objects": js([{"r": v, "g": 1, "b": 2} for v in GREY.ravel().tolist()]),
    "pixels with coordinates": js(
        [{"x": n % 32, "y": n // 32, "v": int(v)} for n, v in enumerate(GREY.flat)]
    ),
    "pixels with a text": js([{"file": "img0.png", "v": v} for v in GREY.ravel().tolist()]),
    "pixels by place": js({str(n): {"v": int(v)} for n, v in enumerate(GREY.flat)}),
    "pixels as lists": js([{"p": [v]} for v in GREY.ravel().tolist()]),
    "pixels as triples": js({f"p{n}": row[:3] for n, row in enumerate(ROWS * 3)}),
    "rows of pairs": lines([{"row": GREY[y].reshape(-1, 2).tolist()} for y in range(32)]),
    "rows of floats": lines([{"row": (GREY[y] / 255).tolist()} for y in range(32)]),
    "rows as text in records": lines([{"row": base64.b64encode(row).decode()} for row in GREY]),
    "rows in hexadecimal": js([bytes(row).hex() for row in GREY]),
    "a few lines of base64": [BASE64[k : k + 60] for k in range(0, len(BASE64), 60)],
    "a few short binaries": [bytes(row) for row in GREY],
    "binaries by name": {str(y): bytes(row) for y, row in enumerate(GREY)},
    # bytes as text
    "C array": b"unsigned char x[] = {" + ", ".join(f"0x{v:02x}" for v in RAW).encode() + b"};",
    "C array in lines": "\n".join(", ".join(f"0x{v:02x}" for v in row[:12]) for row in GREY).encode(),
    "hexadecimal, spaced": RAW.hex(" ").encode(),
    "hexadecimal in lines": "\n".join(bytes(row).hex() for row in GREY).encode(),
    "hexadecimal dump": "\n".join(
        f"{16 * k:08x}: {RAW[16 * k :][:16].hex(' ', 2)}  ........" for k in range(64)
    ).encode(),
    "bytes as Python writes them": str(RAW),
    "dark bytes as Python writes them": str((GREY >> 5).tobytes()),
    "octal escapes": "".join(f"\\{v:03o}" for v in RAW),
    "escapes of URLs": "".join(f"%{v:02X}" for v in RAW),
    "escapes of HTML": "".join(f"&#{v};" for v in RAW),
    "low contrast": low(40, 91),
    "low contrast, letters": low(97, 122),
    "low contrast, capitals": low(65, 90),
    "low contrast, punctuation": low(32, 64),
    "low contrast, printable": low(33, 126),
    "base64 in words": " ".join(BASE64[k : k + 40] for k in range(0, len(BASE64), 40)),
    "rows with a text each": "\n".join(f"row {y}: {' '.join(map(str, row))}" for y, row in enumerate(ROWS)),
    "YAML": "pixels:\n" + "\n".join(f"- {v}" for v in RAW),
    "YAML, nested": "\n".join(f"- - {row[0]}\n" + "\n".join(f"  - {v}" for v in row[1:]) for row in ROWS),
    "quoted numbers": ",".join(f'"{v}"' for v in RAW),
    "unsigned numbers": ", ".join(f"{v}u" for v in RAW),
    "numbers with casts": ", ".join(f"(byte)0x{v:02x}" for v in RAW),
    "binary numbers": ", ".join(f"0b{v:08b}" for v in RAW),
    "colours": " ".join("#" + bytes(row[k : k + 3]).hex() for row in ROWS for k in range(0, 30, 3)),
    "JSON lines of numbers as text": lines([{"row": " ".join(map(str, row))} for row in ROWS]),
    "JSON lines of numbered base64": lines(
        [{"y": str(y), "row": base64.b64encode(row).decode()} for y, row in enumerate(GREY)]
    ),
    "base64 in quotes": f"thumb = '{BASE64[:100]}';",
    "table of pixels": "r,g,b\n" + "\n".join(",".join(map(str, row[:3])) for row in ROWS * 3),
    "one number a line with a header": "value\n" + "\n".join(map(str, GREY.ravel().tolist())),
}


def polygon(x: float, y: float, width: float, height: float, count: int = 40) -> list[float]:
    angles = np.arange(count) * 2 * np.pi / count
    points = np.stack([x + width * (1 + np.cos(angles)) / 2, y + height * (1 + np.sin(angles)) / 2], 1)
    return np.round(points.ravel(), 2).tolist()  # type: ignore[no-any-return]


def boxes(count: int) -> list[list[float]]:
    return np.round(RNG.uniform(1, 300, (count, 4)), 2).tolist()  # type: ignore[no-any-return]


CLASSES = [{"id": n, "name": f"class {n}", "supercategory": "thing"} for n in range(80)]
IMAGES = [
    {"id": 7 * n, "file_name": f"{n:012d}.jpg", "height": 480, "width": 640, "coco_url": f"http://x.org/{n}"}
    for n in range(100)
]
COCO = {
    "info": {"year": 2017, "version": "1.0"},
    "images": IMAGES,
    "annotations": [
        {"id": 1000 - n, "image_id": n % 70, "category_id": n * 7 % 80, "bbox": box, "area": box[2] * box[3]}
        | {"iscrowd": 0, "segmentation": [polygon(*box)]}
        for n, box in enumerate(boxes(200))
    ],
    "categories": CLASSES,
}
KEYPOINTS = [int(v) for n in range(17) for v in (10 * n + 200, 20 * n + 90, n % 3)]
INATURALIST = [
    f"{n:05d}_Animalia_Chordata_Aves_Passeriformes_Passerellidae_Melospiza_species{n}" for n in range(100)
]
VIA = {
    f"img{n}.jpg{1000 * n}": {
        "filename": f"img{n}.jpg",
        "size": 1000 * n,
        "regions": [
            {
                "shape_attributes": {
                    "name": "polygon",
                    "all_points_x": RNG.integers(0, 2000, 20).tolist(),
                    "all_points_y": RNG.integers(0, 2000, 20).tolist(),
                },
                "region_attributes": {"type": "cat"},
            },
            {
                "shape_attributes": {"name": "rect", "x": 3 * n, "y": 5 * n, "width": 300, "height": 200 + n},
                "region_attributes": {"type": "dog"},
            },
        ],
    }
    for n in range(60)
}
LABELME = {
    "version": "5.0",
    "flags": {},
    "shapes": [
        {
            "label": "cat",
            "points": np.round(RNG.uniform(0, 900, (30, 2)), 2).tolist(),
            "group_id": None,
            "shape_type": "polygon",
        }
        for _ in range(20)
    ],
    "imagePath": "a.jpg",
    "imageData": None,
    "imageHeight": 900,
    "imageWidth": 900,
}
ORDINARY: dict[str, object] = {
    "COCO": js(COCO),
    "COCO without outlines": js(
        {
            **COCO,
            "annotations": [{k: v for k, v in a.items() if k != "segmentation"} for a in COCO["annotations"]],
        }  # type: ignore[attr-defined]
    ),
    "COCO keypoints": js([{"id": n, "bbox": [5, 5, 300, 200], "keypoints": KEYPOINTS} for n in range(50)]),
    "COCO results": js(
        [{"image_id": n % 9, "category_id": n % 7, "bbox": b, "score": 0.5} for n, b in enumerate(boxes(90))]
    ),
    "COCO captions": js(
        [{"image_id": n % 50, "id": 900 - n, "caption": f"cat {n} on a mat"} for n in range(200)]
    ),
    "iNaturalist": js(
        {"annotations": [{"id": n, "image_id": n, "category_id": n * 7 % 900} for n in range(300)]}
    ),
    "VIA": js(VIA),
    "labelme": js(LABELME),
    "labels by file name": js({f"img{n}.jpg": n * 7 % 10 for n in range(300)}),
    "records by file name": js({f"img{n}.jpg": {"x": n * 7 % 10, "y": n * 3 % 10} for n in range(300)}),
    "classes by number": js({str(n): [f"n{n:08d}", f"class {n}"] for n in range(1000)}),
    "numbers of classes": js({f"class {n}": n for n in range(1000)}),
    "JSON lines of captions": lines(
        [{"file_name": f"{n}.png", "text": f"cat {n}", "w": n * 7} for n in range(300)]
    ),
    "JSON lines of boxes": lines(
        [{"file_name": f"{n}.png", "objects": {"bbox": boxes(3), "categories": [0, 1, 1]}} for n in range(90)]
    ),
    "identifiers in records": lines([{"id": BASE64[n : n + 33], "caption": f"cat {n}"} for n in range(100)]),
    "long class names": js({"names": INATURALIST}),
    "long class names in lines": "\n".join(INATURALIST),
    "names that are numbers with gaps": [f"{3 * n + 2:04d}" for n in range(100)],
    "numbers with gaps": [3 * n + 2 for n in range(100)],
    "split indices": RNG.permutation(100)[:80].tolist(),
    "UUIDs": js(
        {"train": [str(uuid.UUID(int=int(n) << 64 | 5 * int(n))) for n in RNG.integers(1 << 62, size=100)]}
    ),
    "Markdown rule": "Title\n" + "=" * 90 + "\nsome text\n",
    "Markdown table": "|a|b|\n|" + "-" * 90 + "|\n|" + "-" * 300 + "|",
    "caption with an address": f"see https://x.org/{'a' * 40}/{'b-c_' * 30}?q=1&i={BASE64[:100]} for more",
    "checksums": "\n".join(f"{RNG.bytes(32).hex()}  {RNG.bytes(16).hex()}_image.jpg" for _ in range(50)),
    "table of labels": "\n".join(f"{5 * k},{k * 7 % 31}" for k in range(100)),
    "table of labels with a header": "x,y\n" + "\n".join(f"{k * 3 % 7},{k * 7 % 31}" for k in range(100)),
    "table of file names": "\n".join(f"img_{k}.jpg,{k * 7 % 31},{k * 3 % 11}" for k in range(100)),
    "YOLO labels": "\n".join(
        f"{n % 7} " + " ".join(f"{v / 300:.4f}" for v in b) for n, b in enumerate(boxes(30))
    ),
    "KITTI labels": "\n".join("Car 0.00 0 -1.57 " + " ".join(f"{v:.2f}" for v in b + b) for b in boxes(30)),
    "subtitles": "\n\n".join(f"{n}\n00:00:{n:02d}.000 --> 00:00:{n:02d}.900\nA cat." for n in range(60)),
    "source code": "def f(x: int) -> list[int]:\n    return [(x + k) * 3 // 2 for k in range(x) if k % 2]\n"
    * 40,
    "HTML": "<html><body><p class='a'>A &amp; B &lt; C</p><a href='https://x.org/a?b=c'>x</a></body></html>\n"
    * 20,
    "labels of boxes": {"bbox": boxes(70), "category": [k * 7 % 80 for k in range(70)]},
    "boxes that end at one line": [[1.5 * k, 2.0, 300.0 + k, 400.0] for k in range(70)],
    "long path": "/data/" + "abcdef_0123/" * 35 + "a.jpg",
    "settings": js(
        {"a": {"x": 1, "y": 2.5, "mean": [0.485, 0.456, 0.406], "std": [0.2, 0.2, 0.2]}, "b": {"x": 3}}
    ),
}


@pytest.mark.parametrize("what", PICTURES)
def test_pictures_in_disguise(what: str) -> None:
    assert suspicion.plain(PICTURES[what])


@pytest.mark.parametrize("what", ORDINARY)
def test_ordinary_annotations(what: str) -> None:
    assert suspicion.plain(ORDINARY[what]) is None


@pytest.mark.parametrize("value", (BASE64, BASE64[:120], RAW.hex(), "a/b/" + BASE64.replace("=", "")))
def test_pictures_as_names(value: str) -> None:
    assert suspicion.name(value)


@pytest.mark.parametrize(
    "value",
    (
        "train/" + INATURALIST[7] + "/" + "ab" * 16 + ".jpg",
        f"x/{uuid.UUID(int=1 << 99 | 12345)}/{uuid.UUID(int=3 << 99 | 54321)}/{'0123456789abcdef' * 4}.png",
        "n01440764/n01440764_10026.JPEG",
        "x" * 100,
    ),
)
def test_ordinary_names(value: str) -> None:
    assert suspicion.name(value) is None


def test_complex_numbers() -> None:
    assert suspicion.rows(GREY.view("c16"))
    assert suspicion.rows(np.zeros(3, "c8")) is None


def test_odd_documents_are_judged() -> None:
    """Random documents, of which the parts do not fit together, end in a finding or in none."""
    leaves = [
        0,
        -1,
        1.5,
        255,
        300,
        1 << 70,
        float("nan"),
        float("inf"),
        True,
        None,
        "",
        "cat",
        "a.jpg",
        b"\xff",
        10**150,
    ]

    def made(depth: int) -> object:
        kind = RNG.integers(0, 4 if depth else 1)
        count = int(RNG.choice([0, 1, 2, 3, 4, 6, 9, 70]))
        if kind == 0:
            return leaves[RNG.integers(len(leaves))]
        if kind == 1:
            return [leaves[RNG.integers(9)]] * count
        parts = [made(depth - 1) for _ in range(min(count, 9))]
        return parts * 12 if kind == 2 else {f"k{n % 7}": part for n, part in enumerate(parts)}

    found = [suspicion.plain(made(3)) for _ in range(300)]
    assert None in found
    assert len(set(found)) > 5


MEGABYTE = 1 << 20
HEAVY: dict[str, Callable[[int], bytes]] = {
    "lists": lambda n: b"[" + b"[]," * (n // 3) + b"[]]",
    "objects": lambda n: b"[" + b"{}," * (n // 3) + b"{}]",
    "nested": lambda n: b"[" * n,
    "numbers": lambda n: b"1 " * (n // 2),
    "ascending numbers": lambda n: b"\n".join(b"%d" % k for k in range(n // 9)),
    "accents": lambda n: "é a ".encode() * (n // 5),
    "one word": lambda n: b"=" * n,
    "words": lambda n: b"hello big world\n" * (n // 16),
    "table": lambda n: b"".join(
        b"img_%d.jpg,%d,a cat on the mat\n" % (k, k * 7 % 31) for k in range(n // 36)
    ),
    "escapes": lambda n: b"\\x1 " * (n // 4),
    "digits and points": lambda n: b"1.2.3.4." * (n // 8),
    "digits": lambda n: b"1" * n,
    "gaps": lambda n: (b"1" + b" " * 1000) * (n // 1001),
    "tables": lambda n: (b"a b\n" + b"1 2\n" * 40) * (n // 164),
    "a long header": lambda n: b"a " * (n // 2) + b"\n" + b"1 2\n" * 40,
    "lines of JSON": lambda n: b'{"a": "cat"}\n' * (n // 13),
}


@pytest.mark.parametrize("what", HEAVY)
def test_memory_and_time_are_bounded(what: str) -> None:
    """Memory of at most 70 times of what is looked through; a quadratic search would take minutes."""
    value = HEAVY[what](MEGABYTE // 4)
    tracemalloc.start()
    began = time.process_time()
    suspicion.data(value)
    took = time.process_time() - began
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 70 * len(value)
    assert took < 10  # much less without tracing


def test_what_is_not_looked_through() -> None:
    assert "not looked through" in (suspicion.data(b"a cat " * (3 * MEGABYTE)) or "")
    assert "not looked through" in (suspicion.text("a cat " * (3 * MEGABYTE)) or "")
    assert "not looked through" in (suspicion.data(b"[" + b"{}," * MEGABYTE * 2 + b"{}]") or "")
