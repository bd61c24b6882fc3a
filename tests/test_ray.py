"""The Ray engine: the same bytes as threads give, the key nowhere, a worker's death makes no difference."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import blockenc
from blockenc.datasets import work
from blockenc.datasets.engine import decrypt_files, encrypt_files
from blockenc.datasets.manifest import HELD
from blockenc.errors import BlockencError
from tests import oracle
from tests.test_datasets import contents, encoded, make_cifar, make_images, make_npy, make_tar, noise

if os.environ.get("CI"):  # what CI should have but lacks is a failure, not a skip
    import ray
else:
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'blockenc[ray]'")

KEY = blockenc.Key(oracle.KEY)
SCHEME = blockenc.Scheme(channels=1)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory):
    """A local Ray of two workers."""
    logs = Path("/tmp") / f"ray-{os.getpid()}"  # Ray's socket names must be short
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=str(logs))
    yield logs
    ray.shutdown()


def make_all(src: Path) -> None:
    for name, make in {"i": make_images, "c": make_cifar, "t": make_tar, "n": make_npy}.items():
        make(src / name)
    np.save(src / "many.npy", noise(HELD + 9, 8, 8, 3))  # more images than a worker hands back by themselves


def test_the_same_output_and_no_key_in_the_logs(cluster: Path, tmp_path: Path) -> None:
    from blockenc.datasets.on_ray import in_ray

    make_all(tmp_path / "src")
    encrypt_files(tmp_path / "src", tmp_path / "want", KEY, SCHEME)
    encrypt_files(tmp_path / "src", tmp_path / "enc", KEY, SCHEME, engine=in_ray(), verify="all")
    assert contents(tmp_path / "enc") == contents(tmp_path / "want")
    decrypt_files(tmp_path / "enc", tmp_path / "dec", KEY, engine=in_ray())
    decrypt_files(tmp_path / "want", tmp_path / "plain", KEY)
    assert contents(tmp_path / "dec") == contents(tmp_path / "plain")
    logs = b"".join(path.read_bytes() for path in cluster.rglob("*") if path.is_file())
    assert logs
    for shape in (oracle.KEY, oracle.KEY.hex().encode(), repr(oracle.KEY).encode()):
        assert shape not in logs


def test_a_worker_is_killed(cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of two workers dies by SIGKILL in the middle of a unit; the output is the same."""
    from blockenc.datasets.on_ray import in_ray

    src = tmp_path / "src"
    src.mkdir()
    for n in range(24):
        (src / f"{n:02d}.png").write_bytes(encoded(noise(64, 64, 3)))
    encrypt_files(src, tmp_path / "want", KEY, SCHEME)
    pids = tmp_path / "pids"
    pids.mkdir()
    do = work.do

    def slow(job, unit):
        (pids / str(os.getpid())).touch()
        time.sleep(0.2)
        return do(job, unit)

    monkeypatch.setattr("blockenc.datasets.on_ray.do", slow)
    killed = []

    def kill() -> None:
        while len(found := list(pids.iterdir())) < 2:
            time.sleep(0.01)
        time.sleep(0.3)
        os.kill(int(found[0].name), signal.SIGKILL)
        killed.append(found[0].name)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    encrypt_files(src, tmp_path / "enc", KEY, SCHEME, engine=in_ray())
    killer.join(10)
    assert killed
    assert len(list(pids.iterdir())) >= 3  # another worker took over
    assert contents(tmp_path / "enc") == contents(tmp_path / "want")


def test_errors_of_the_work_are_raised_as_they_are(cluster: Path, tmp_path: Path) -> None:
    from blockenc.datasets.on_ray import in_ray
    from blockenc.datasets.pixels import ImageFileError

    (tmp_path / "src").mkdir()
    (tmp_path / "src/a.tar").write_bytes(b"nonsense")
    with pytest.raises(ImageFileError, match=r"a\.tar: not a tar file"):
        encrypt_files(tmp_path / "src", tmp_path / "enc", KEY, SCHEME, engine=in_ray())
    assert not (tmp_path / "enc").exists()


def test_a_scheme_that_needs_the_key_for_each_size_is_refused(cluster: Path, tmp_path: Path) -> None:
    """A worker could not derive the secrets; it has no key."""
    from blockenc.datasets.on_ray import in_ray

    make_images(tmp_path / "src")
    scheme = blockenc.Scheme(steps=[blockenc.steps.Scramble(period="image")], channels=1)
    with pytest.raises(BlockencError, match=r"^--engine ray: workers have no key"):
        encrypt_files(tmp_path / "src", tmp_path / "enc", KEY, scheme, engine=in_ray())
    assert not contents(tmp_path / "enc")
