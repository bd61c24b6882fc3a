"""What reads files of others, on the committed corpus and on changed bytes (tests/fuzz).

`python -m tests.fuzz` runs for longer.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from blockenc import Scheme
from blockenc.datasets.engine import encrypt_files
from blockenc.datasets.pixels import ImageFileError
from blockenc.errors import KeyFileError
from blockenc.keys import keyfile, load_key
from tests.fuzz import data_files, driver, mutation, targets
from tests.fuzz.__main__ import NAMES

INPUTS = 300
INPUTS_OF_DATA = 60  # of data sets, which take longer: each is written, too


@pytest.mark.parametrize("name", targets.TARGETS)
def test_no_bytes_break_a_reader(name: str) -> None:
    assert driver.replay(name).inputs > 0
    # As many whatever the machine, so that what is tried does not depend on its speed.
    inputs = INPUTS_OF_DATA if name in data_files.TARGETS else INPUTS
    assert driver.fuzz(name, 60, seed=int.from_bytes(name.encode(), "big"), inputs=inputs).inputs == inputs


def test_every_seed_is_accepted() -> None:
    """Else what is changed would be refused at once, and little of a reader run."""
    for name in targets.TARGETS:
        seeds = sorted((driver.CORPUS / name).glob("seed-*"))
        assert seeds
        assert all(targets.one(name, seed.read_bytes()) for seed in seeds), name


@pytest.mark.parametrize("sealed", [b"[" * 1500, b"[65536]"], ids=["nested", "list"])
def test_sealed_names_that_are_none(sealed: bytes, tmp_path: Path) -> None:
    """Found by fuzzing: they were a RecursionError and an IndexError."""
    path = tmp_path / "some.key"
    keyfile.save(keyfile.NAMED_KEYS, sealed, "0" * 16, path, "password", overwrite=False)
    with pytest.raises(KeyFileError, match="it seals no keys by name"):
        load_key(path, "password")


@pytest.mark.parametrize(
    "name, suffix, says",
    [
        ("name-that-is-no-text", "arrow", "not a table, or a damaged one .'utf-8' codec"),
        ("short-column", "parquet", r"a damaged table \(row group 0 has 0 of 2 rows\)"),
    ],
)
def test_damaged_tables(name: str, suffix: str, says: str, tmp_path: Path) -> None:
    """Found by fuzzing: one was a UnicodeDecodeError; of the other, rows were dropped without a word."""
    path = tmp_path / "src" / f"a.{suffix}"
    path.parent.mkdir()
    path.write_bytes((driver.CORPUS / "table_file" / name).read_bytes())
    with pytest.raises(ImageFileError, match=rf"a\.{suffix}: {says}"):
        encrypt_files(path.parent, tmp_path / "enc", targets.KEY, Scheme(channels=1))


def test_the_program_has_every_target() -> None:
    assert list(targets.TARGETS) == list(NAMES)


def test_the_corpus_is_small() -> None:
    assert sum(path.stat().st_size for path in driver.CORPUS.rglob("*") if path.is_file()) < 100_000


FAULTS = {
    "an exception": ("KeyError", lambda data: {}[data]),
    "time": ("took", lambda data: [n for n in range(2**22)]),
    "memory": ("MiB", lambda data: bytearray(b"1") * (64 << 20)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_found(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    report, target = FAULTS[fault]
    monkeypatch.setitem(targets.TARGETS, "plan", target)
    if fault == "time":
        monkeypatch.setattr(driver, "MOST_SECONDS", 0.01)
    if fault == "memory":
        if not driver.TELLS_PEAK:
            pytest.skip("this system does not tell how much memory a call takes")
        monkeypatch.setattr(driver, "MOST_BYTES", 32 << 20)
    with pytest.raises(driver.FindingError, match=report) as found:
        driver.attempt("plan", b"abc")
    assert found.value.data == b"abc"


def test_changes_are_bounded_and_repeatable() -> None:
    corpus = driver.corpus("manifest")
    made = [mutation.mutate(corpus[0], corpus, random.Random(seed)) for seed in range(200)]
    assert made == [mutation.mutate(corpus[0], corpus, random.Random(seed)) for seed in range(200)]
    assert len(set(made)) > 150
    assert max(map(len, made)) <= mutation.MOST
