"""Fuzzes a target: `python -m tests.fuzz --minutes N TARGET`; without TARGET each, for its share of the time.

With `--atheris` Google's atheris (`pip install atheris`) draws the inputs, with the same changes and guided
by the coverage of blockenc; without it tests/fuzz/driver.py does. Inputs that fail go to the folder of
--findings, and the exit status is 1. `--write-corpus` writes the seeds that the corpus began as.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import sys
import time
from pathlib import Path

NAMES = ("key_file", "named_keys", "manifest", "scheme", "plan", "seal_file", "seal_head", "weights")
NAMES += ("image_file", "tar_file", "numpy_file", "table_file", "idx_file", "cifar_file", "metadata_file")
NAMES += ("pickled",)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=(*NAMES, "all"), nargs="?", default="all")
    parser.add_argument("--minutes", type=float, default=1.0, help="of processor time")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**32)
    parser.add_argument("--findings", type=Path, default=Path("build/fuzz"))
    parser.add_argument("--atheris", action="store_true")
    parser.add_argument("--write-corpus", action="store_true")
    options = parser.parse_args()
    options.findings.mkdir(parents=True, exist_ok=True)
    if options.atheris:
        return with_atheris(options)
    from tests.fuzz import driver, targets

    if options.write_corpus:
        for name, seeds in targets.make_seeds().items():
            (driver.CORPUS / name).mkdir(parents=True, exist_ok=True)
            for number, data in enumerate(seeds):
                (driver.CORPUS / name / f"seed-{number}").write_bytes(data)
        return 0
    names = NAMES if options.target == "all" else (options.target,)
    failed = False
    for name in names:
        try:
            driver.replay(name)
            latest = options.findings / f"{name}.latest"
            seconds = 60 * options.minutes / len(names)
            count = driver.fuzz(name, seconds, options.seed, latest=latest)
            print(f"{name}: {count}, seed {options.seed}", flush=True)
        except driver.FindingError as finding:
            path = options.findings / f"{name}-{hashlib.sha256(finding.data).hexdigest()[:16]}"
            path.write_bytes(finding.data)
            print(f"{finding}\n  written to {path}", flush=True)
            failed = True
    return int(failed)


def with_atheris(options: argparse.Namespace) -> int:
    import atheris

    with atheris.instrument_imports(include=["blockenc"]):
        from tests.fuzz import driver
    from tests.fuzz.mutation import mutate

    name = options.target
    held = driver.corpus(name)

    def change(data: bytes, most: int, seed: int) -> bytes:
        return mutate(bytes(data), held, random.Random(seed))[:most]

    folder = options.findings / f"{name}-corpus"
    folder.mkdir(exist_ok=True)
    arguments = [
        sys.argv[0],
        f"-max_total_time={int(60 * options.minutes)}",
        f"-artifact_prefix={options.findings}/{name}-",
        f"-seed={options.seed}",
        "-max_len=65536",
        "-rss_limit_mb=4096",
        str(folder),
        str(driver.CORPUS / name),
    ]
    atheris.Setup(arguments, lambda data: driver.attempt(name, bytes(data)) and None, custom_mutator=change)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
