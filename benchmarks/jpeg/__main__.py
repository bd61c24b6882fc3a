"""Bits a pixel, and what decryption gives back, of encrypted JPEG files: python -m benchmarks.jpeg --data DIR

DIR: a folder tree of photos. The results go to benchmarks/jpeg/results.json, from which
`python -m benchmarks.jpeg.page` writes docs/jpeg.md. The keys are those of one fixed seed: another key gives
other files, and means that differ in the third digit.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import PIL
from PIL import features

import blockenc
from benchmarks.jpeg import study
from benchmarks.jpeg.page import RESULTS
from benchmarks.speed.report import about
from blockenc.files import atomic_write

KEY = blockenc.Key(bytes(range(32)))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.jpeg",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--json", type=Path, default=RESULTS, help="default: benchmarks/jpeg/results.json")
    options = parser.parse_args()
    images = study.photos(options.data)
    results = about("python -m benchmarks.jpeg --data DIR", 1)
    results["versions"] |= {
        "pillow": PIL.__version__,
        "libjpeg-turbo": features.version_feature("libjpeg_turbo"),
    }
    results["photos"] = len(images)
    results["megapixels"] = sum(image.shape[0] * image.shape[1] for image in images) / 1e6
    results["rows"] = []
    for case in study.CASES:
        print(*case, file=sys.stderr, flush=True)
        results["rows"] += study.measure(case, images, KEY)
    atomic_write(options.json, (json.dumps(results, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
