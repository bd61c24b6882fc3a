"""Kill the data-set command at random instants and resume it: python -m benchmarks.data.kill

Encrypts a folder of files again and again, each run cut off by SIGKILL after a random time, the last one
allowed to finish, and compares the output, byte by byte, with that of a run that nobody disturbed. Then the
same for decryption. Exits with status 1 if anything differs.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from blockenc.datasets import journal

PROGRAM = """
import sys
from pathlib import Path
import blockenc
from blockenc.datasets.engine import decrypt_files, encrypt_files
key = blockenc.Key(bytes(range(32)))
print("ready", flush=True)
job, src, dst = sys.argv[1:]
if job == "encrypt":
    encrypt_files(Path(src), Path(dst), key, blockenc.Scheme(channels=1), fit="pad", workers=2)
else:
    decrypt_files(Path(src), Path(dst), key, workers=2)
"""


class Kills(NamedTuple):
    at_work: int  # kills that found the run neither finished nor yet begun
    after_end: int  # ... that came too late; the next run then begins anew


def run(job: str, src: Path, dst: Path, kill_after: float | None = None) -> None:
    """One run in a process of its own; raises CalledProcessError if it fails."""
    command = [sys.executable, "-c", PROGRAM, job, str(src), str(dst)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()  # the imports are done
        if kill_after is not None:
            time.sleep(kill_after)
            process.send_signal(signal.SIGKILL)
        if process.wait() not in (0, -signal.SIGKILL if kill_after is not None else 0):
            raise subprocess.CalledProcessError(process.returncode, command)


def kill_and_resume(
    job: str, src: Path, dst: Path, want: Path, *, kills: int, longest: float, seed: int = 0
) -> Kills:
    """Repeat a run, killed after up to `longest` seconds, `kills` times; then let it finish.

    Raises RuntimeError if a kill leaves an output that is not whole: not, to the byte, the one in `want`.
    """
    rng = random.Random(seed)
    at_work = after_end = 0
    for _ in range(kills):
        run(job, src, dst, kill_after=rng.uniform(0, longest))
        for name, data in contents(dst).items():
            if not name.startswith(".") and data != (want / name).read_bytes():
                raise RuntimeError(f"{name}: half-written")
        if dst.is_dir() and not journal.unfinished(dst):
            after_end += 1
            shutil.rmtree(dst)
        elif dst.is_dir():
            at_work += 1
    run(job, src, dst)
    return Kills(at_work, after_end)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below, hidden ones included."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def make_photos(folder: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    folder.mkdir()
    for n in range(count):
        pixels = rng.integers(0, 256, (200, 300, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{n:04d}.jpg", quality=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder to encrypt (default: generated photos)")
    parser.add_argument("--photos", type=int, default=200, help="how many to generate")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        src = options.data or folder / "src"
        if options.data is None:
            make_photos(src, options.photos)
        for job, source in (("encrypt", src), ("decrypt", folder / "encrypt-want")):
            want, got = folder / f"{job}-want", folder / f"{job}-got"
            start = time.perf_counter()
            run(job, source, want)
            # Kills are spread so that a run is cut off several times on its way.
            longest = max(0.05, (time.perf_counter() - start) / 4)
            kills = kill_and_resume(
                job, source, got, want, kills=options.kills, longest=longest, seed=options.seed
            )
            files = contents(want)
            same = contents(got) == files
            size = sum(map(len, files.values())) / 1e6
            print(
                f"{job}: {options.kills} kills ({kills.at_work} at work, {kills.after_end} after the end), "
                f"{len(files)} files, {size:.1f} MB: {'identical' if same else 'DIFFERENT'}",
                flush=True,
            )
            if not same:
                sys.exit(1)


if __name__ == "__main__":
    main()
