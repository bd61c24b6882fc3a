"""Links and other things that are no files: below DST none is followed, below SRC none leads out unasked.

What is not ours is neither overwritten nor deleted, nor does it make a run wait.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

import blockenc
from blockenc import files
from blockenc.datasets import engine, journal, units
from blockenc.datasets.engine import decrypt_files, encrypt_files
from blockenc.datasets.manifest import HELD, ManifestError
from blockenc.datasets.units import LeftOut, Selection
from blockenc.datasets.work import do
from blockenc.errors import BlockencError
from tests.test_datasets import KEY, SCHEME, contents, cut_off, encoded, make_images, noise

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links, FIFOs and modes as POSIX has them")


@pytest.fixture
def src(tmp_path: Path) -> Path:
    """Seven images in class0 and class1."""
    make_images(tmp_path / "src")
    return tmp_path / "src"


@pytest.fixture
def stranger(tmp_path: Path) -> dict[str, bytes]:
    """What lies in tmp_path/stranger, which nobody named: it must stay as it is."""
    folder = tmp_path / "stranger"
    (folder / "class0").mkdir(parents=True)
    for name in ("5.png", "class0/5.png", "letter.txt", ".blockenc.0123.tmp.png", "journal-wal"):
        (folder / name).write_bytes(b"of a stranger")
    return contents(folder)


# --- below DST ---

LINKS: dict[str, tuple[str, str]] = {
    # what is a link in DST, and what it leads to in the stranger's folder
    "work folder": (".blockenc-run", "."),
    "work folder to nothing": (".blockenc-run", "none"),
    "journal": (".blockenc-run/journal", "letter.txt"),
    "journal to nothing": (".blockenc-run/journal", "none"),
    "write-ahead log": (".blockenc-run/journal-wal", "journal-wal"),
    "rollback journal": (".blockenc-run/journal-journal", "letter.txt"),
    "list of damaged files": ("blockenc.skipped.txt", "letter.txt"),
    "output": ("class1/5.png", "5.png"),
    "output to nothing": ("class1/5.png", "none"),
    "folder": ("class0", "class0"),
    "folder to nothing": ("class0", "none"),
    # what only encryption writes, or takes in
    "manifest": ("blockenc.json", "letter.txt"),
    "manifest to nothing": ("blockenc.json", "none"),
    "manifest of a shard": ("blockenc.0of2.json", "letter.txt"),
}


@pytest.mark.parametrize(
    "link, job",
    [(link, "encrypt") for link in LINKS] + [(link, "decrypt") for link in LINKS if "manifest" not in link],
)
def test_a_link_below_dst_is_refused(src: Path, stranger: dict, tmp_path: Path, link: str, job: str) -> None:
    """Before anything is written, with and without force."""
    name, target = LINKS[link]
    if job == "decrypt":
        encrypt_files(src, tmp_path / "enc", KEY, SCHEME)
    dst = tmp_path / "dst"
    (dst / name).parent.mkdir(parents=True)
    (dst / name).symlink_to(tmp_path / "stranger" / target)
    before = sorted(dst.rglob("*"))
    run = (
        functools.partial(encrypt_files, src, dst, KEY, SCHEME)
        if job == "encrypt"
        else functools.partial(decrypt_files, tmp_path / "enc", dst, KEY)
    )
    for force in (False, True):
        with pytest.raises(OSError, match="is a link, and links below DST are not followed") as caught:
            run(force=force)
        assert caught.value.filename == str(dst / name)
    assert sorted(dst.rglob("*")) == before
    assert contents(tmp_path / "stranger") == stranger
    assert not (tmp_path / "stranger/none").exists()


def test_links_into_the_source_do_not_overwrite_it(src: Path, tmp_path: Path) -> None:
    before = contents(src)
    for number, name in enumerate(("class0", "class0/0.png", "")):
        dst = tmp_path / f"dst{number}"
        (dst / name).parent.mkdir(parents=True, exist_ok=True)
        (dst / name).symlink_to(src / name)
        with pytest.raises((OSError, ValueError), match=r"is a link|must be apart"):
            encrypt_files(src, dst, KEY, SCHEME, force=True)
    assert contents(src) == before


def test_a_second_name_of_a_source_file_is_replaced_not_written_to(src: Path, tmp_path: Path) -> None:
    before = contents(src)
    (tmp_path / "dst/class0").mkdir(parents=True)
    os.link(src / "class0/0.png", tmp_path / "dst/class0/0.png")
    encrypt_files(src, tmp_path / "dst", KEY, SCHEME, force=True)
    assert contents(src) == before
    assert (tmp_path / "dst/class0/0.png").read_bytes() != before["class0/0.png"]


def test_one_file_beside_links(src: Path, stranger: dict, tmp_path: Path) -> None:
    """The file to write, its manifest and its work folder."""
    dst = tmp_path / "dst"
    dst.mkdir()
    for name in ("x.png", "x.png.json", ".x.png-run"):
        (dst / name).symlink_to(tmp_path / "stranger/letter.txt")
        with pytest.raises(OSError, match="is a link"):
            encrypt_files(src / "class0/0.png", dst / "x.png", KEY, SCHEME, force=True)
        (dst / name).unlink()
    assert contents(tmp_path / "stranger") == stranger
    assert not list(dst.iterdir())


def test_dst_itself_may_be_a_link(src: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "dst").symlink_to(tmp_path / "real")
    encrypt_files(src, tmp_path / "dst", KEY, SCHEME)
    assert (tmp_path / "dst").is_symlink()
    assert (tmp_path / "real/blockenc.json").is_file()
    decrypt_files(tmp_path / "dst", tmp_path / "dec", KEY)


@pytest.mark.parametrize("swapped", ("class1", ".blockenc-run"))
def test_a_link_that_is_put_there_meanwhile(
    src: Path, stranger: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swapped: str
) -> None:
    """After all checks, before the first unit is done."""
    dst = tmp_path / "dst"

    def swap(job, unit):
        folder = dst / swapped
        if not folder.is_symlink():
            if folder.exists():
                folder.rename(tmp_path / "away")
            folder.symlink_to(tmp_path / "stranger")
        return do(job, unit)

    monkeypatch.setattr(engine, "do", swap)
    with pytest.raises(OSError, match="is a link"):
        encrypt_files(src, dst, KEY, SCHEME, workers=1)
    assert contents(tmp_path / "stranger") == stranger


def test_without_descriptors_links_are_refused_all_the_same(
    src: Path, stranger: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On platforms that cannot open a file relative to a folder."""
    monkeypatch.setattr(files, "_DESCRIPTORS", False)
    encrypt_files(src, tmp_path / "enc", KEY, SCHEME)
    for name in (".blockenc-run", "class0", "class1/5.png", "blockenc.json"):
        dst = tmp_path / name.replace("/", "-")
        (dst / name).parent.mkdir(parents=True)
        (dst / name).symlink_to(tmp_path / "stranger")
        with pytest.raises(OSError, match="is a link"):
            encrypt_files(src, dst, KEY, SCHEME, force=True)
    assert contents(tmp_path / "stranger") == stranger


def test_only_own_files_are_swept(src: Path, tmp_path: Path) -> None:
    """A work folder that holds something else: it stays, and so does the folder."""
    work = tmp_path / "dst/.blockenc-run"
    (work / "folder").mkdir(parents=True)
    (work / ".blockenc.0123.tmp").mkdir()
    for name in ("letter.txt", ".blockenc.txt", ".blockenc.a b.tmp", "x.pictures", "folder/a"):
        (work / name).write_bytes(b"of a stranger")
    before = contents(work)
    (work / ".blockenc.a1b2.tmp.png").write_bytes(b"of a run that was killed")
    encrypt_files(src, tmp_path / "dst", KEY, SCHEME)
    assert contents(work) == before
    assert (work / ".blockenc.0123.tmp").is_dir()


@pytest.mark.parametrize(
    "name", (".blockenc-run/journal", ".blockenc-run/journal-wal", "blockenc.json", "blockenc.skipped.txt")
)
def test_a_fifo_where_a_file_of_ours_is_to_be(src: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "dst" / name).parent.mkdir(parents=True)
    os.mkfifo(tmp_path / "dst" / name)
    with pytest.raises(ManifestError, match="is not a file"):
        encrypt_files(src, tmp_path / "dst", KEY, SCHEME, force=True)
    assert stat.S_ISFIFO((tmp_path / "dst" / name).stat().st_mode)


# --- a journal of someone else ---


def altered_journal(path: Path, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        for statement in statements:
            database.execute(statement)


@pytest.mark.parametrize(
    "statement, says",
    [
        ("UPDATE done SET target = CAST('../' || target AS BLOB)", "altered, or written with another key"),
        ("UPDATE done SET target = CAST('/' || target AS BLOB)", "altered, or written with another key"),
        ("UPDATE done SET spilled = '/etc/passwd', sha256 = ''", "altered, or written with another key"),
        ("UPDATE done SET size = size + 1", "altered, or written with another key"),
        ("UPDATE done SET pictures = replace(hex(zeroblob(100000)), '0', '[')", "altered, or written"),
        ("UPDATE done SET mac = NULL", "altered, or written with another key"),
        ("UPDATE head SET json = replace(hex(zeroblob(100000)), '0', '[')", "its head is damaged"),
        ("UPDATE head SET json = '[1]'", "its head is damaged"),
        ("CREATE TRIGGER t AFTER INSERT ON done BEGIN DELETE FROM done; END", "tables are not those"),
        ("CREATE VIEW v AS SELECT 1", "tables are not those"),
        ("ALTER TABLE done ADD COLUMN more", "tables are not those"),
        ("DROP TABLE head", "tables are not those"),
    ],
)
def test_a_journal_that_is_not_ours(src: Path, tmp_path: Path, statement: str, says: str) -> None:
    cut_off(src, tmp_path / "enc", 2)
    work = tmp_path / "enc/.blockenc-run"
    altered_journal(work / "journal", statement)
    before = contents(tmp_path)
    with pytest.raises(ManifestError, match=f"{says}.*; delete .*blockenc-run to begin anew"):
        encrypt_files(src, tmp_path / "enc", KEY, SCHEME)
    assert {k: v for k, v in contents(tmp_path).items() if "journal" not in k} == {
        k: v for k, v in before.items() if "journal" not in k
    }


def test_a_journal_with_huge_values(src: Path, tmp_path: Path) -> None:
    cut_off(src, tmp_path / "enc", 2)
    path = tmp_path / "enc/.blockenc-run/journal"
    altered_journal(path, "UPDATE done SET pictures = replace(hex(zeroblob(40000000)), '0', '[')")
    with pytest.raises(ManifestError, match="cannot be read"):
        encrypt_files(src, tmp_path / "enc", KEY, SCHEME)


def test_a_row_of_another_run_is_not_believed(src: Path, tmp_path: Path) -> None:
    """Rows are authenticated together with what kind of run they are of."""
    cut_off(src, tmp_path / "one", 2)
    encrypt_files(src, tmp_path / "two", KEY, blockenc.Scheme(channels=1, steps=("np",)))
    cut_off(src, tmp_path / "three", 1, fit="pad")
    paths = [tmp_path / f"{name}/.blockenc-run/journal" for name in ("one", "three")]
    with contextlib.closing(sqlite3.connect(paths[0])) as database:
        rows = database.execute("SELECT * FROM done").fetchall()
    with contextlib.closing(sqlite3.connect(paths[1], isolation_level=None)) as database:
        database.executemany(f"INSERT OR REPLACE INTO done VALUES ({', '.join('?' * 14)})", rows)
    with pytest.raises(ManifestError, match="altered, or written with another key"):
        encrypt_files(src, tmp_path / "three", KEY, SCHEME, fit="pad")


def test_a_list_of_pictures_that_was_altered(tmp_path: Path) -> None:
    import numpy as np

    (tmp_path / "src").mkdir()
    np.save(tmp_path / "src/many.npy", noise(HELD + 5, 8, 8, 3))
    cut_off(tmp_path / "src", tmp_path / "enc", 1)
    (spilled,) = (tmp_path / "enc/.blockenc-run").glob("*.pictures")
    spilled.write_bytes(spilled.read_bytes().replace(b"[8, 8, 3", b"[8, 4, 3", 1))
    with pytest.raises(ManifestError, match=r"pictures was altered"):
        encrypt_files(tmp_path / "src", tmp_path / "enc", KEY, SCHEME)


def test_a_journal_that_is_a_second_name_of_another_file(src: Path, tmp_path: Path) -> None:
    """An empty file of someone else would be written to; a database of someone else opened."""
    (tmp_path / "enc/.blockenc-run").mkdir(parents=True)
    (tmp_path / "empty").touch()
    os.link(tmp_path / "empty", tmp_path / "enc/.blockenc-run/journal")
    with pytest.raises(ManifestError, match="is not a file that blockenc made"):
        encrypt_files(src, tmp_path / "enc", KEY, SCHEME)
    assert (tmp_path / "empty").read_bytes() == b""


# --- below SRC ---


def left_out(src: Path, tmp_path: Path, **options) -> tuple[LeftOut, set[str]]:
    """What a run leaves out, and the images that it writes."""
    summary = encrypt_files(src, tmp_path / "out", KEY, SCHEME, selection=Selection(**options))
    return summary.left_out, {name for name in contents(tmp_path / "out") if name.endswith(".png")}


def test_links_that_stay_in_src_are_followed(src: Path, tmp_path: Path) -> None:
    (src / "again").symlink_to("class0")
    (src / "class0/link.png").symlink_to("../class1/1.png")
    out, written = left_out(src, tmp_path)
    assert not out
    assert {"again/0.png", "again/link.png", "class0/link.png"} < written
    assert len(written) == 7 + 4 + 2


def test_links_that_lead_out_are_counted_named_and_followed_on_demand(src: Path, tmp_path: Path) -> None:
    (tmp_path / "real/dog").mkdir(parents=True)
    (tmp_path / "real/dog/x.png").write_bytes(encoded(noise(8, 8, 3)))
    (src / "dog").symlink_to(tmp_path / "real/dog")
    (src / "y.png").symlink_to(tmp_path / "real/dog/x.png")
    out, written = left_out(src, tmp_path)
    assert out.keys() == {units.LEADING_OUT}
    assert out[units.LEADING_OUT].files == 2
    assert set(out[units.LEADING_OUT].names) == {"dog", "y.png"}
    assert len(written) == 7
    out, written = left_out(src, tmp_path, follow_links=True)
    assert not out
    assert len(written) == 9
    assert {"dog/x.png", "y.png"} < written


def test_loops_and_links_to_nothing(src: Path, tmp_path: Path) -> None:
    (src / "class0/up").symlink_to("..")
    (src / "class0/self").symlink_to("self")
    (src / "class1/other").symlink_to("../class0")
    (src / "none.png").symlink_to("nowhere.png")
    out, written = left_out(src, tmp_path)
    assert set(out[units.LOOPS].names) == {"class0/up", "class1/other/up"}
    assert set(out[units.BROKEN].names) == {"class0/self", "class1/other/self", "none.png"}
    assert len(written) == 7 + 4


def test_folders_that_link_to_each_other_come_to_an_end(tmp_path: Path) -> None:
    """Six of them, each with links to all: with more, there is no end of ways through them."""
    src = tmp_path / "src"
    for n in range(6):
        (src / str(n)).mkdir(parents=True)
        for other in range(6):
            (src / str(n) / f"to{other}").symlink_to(f"../{other}")
    (src / "0/x.png").write_bytes(encoded(noise(4, 4)))
    out = LeftOut()
    found = list(units._files(src, tmp_path / "out", False, out))
    assert len(found) == 1 + 5 + 5 * 4 + 5 * 4 * 3
    assert out[units.NESTED].files > 0


def test_links_into_dst_are_refused(src: Path, tmp_path: Path) -> None:
    """Else outputs would be sources."""
    encrypt_files(src, tmp_path / "out", KEY, SCHEME)
    before = contents(tmp_path / "out")
    (src / "more").symlink_to(tmp_path / "out")
    for follow in (False, True):
        with pytest.raises(ValueError, match="leads into DST"):
            left_out(src, tmp_path, follow_links=follow)
    (src / "more").unlink()
    (src / "above").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="leads into DST"):
        left_out(src, tmp_path, follow_links=True)
    assert contents(tmp_path / "out") == before


def test_fifos_sockets_and_hidden_files_are_counted_and_named(
    src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(src / "pipe.png")
    os.mkfifo(src / "train")  # as a CIFAR batch is called
    monkeypatch.chdir(src)  # names of sockets must be short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("s.png")
        (src / ".hidden.png").write_bytes(b"")
        (src / "class0/.cache").mkdir()
        for n in range(5):
            (src / f"{n}.txt").touch()
        out, written = left_out(src, tmp_path)
    assert len(written) == 7
    assert {kind: left.files for kind, left in out.items()} == {
        units.SPECIAL: 3, units.HIDDEN: 2, units.OTHER: 5,
    }  # fmt: skip
    assert set(out[units.SPECIAL].names) == {"pipe.png", "train", "s.png"}
    assert len(out[units.OTHER].names) == units.SHOWN
    lines = units.described(out)
    assert any(line.startswith("5 other files left out (") and line.endswith(", ...)") for line in lines)
    with pytest.raises(BlockencError, match="neither a file nor a folder"):
        encrypt_files(src / "pipe.png", tmp_path / "one", KEY, SCHEME)


def test_decryption_follows_no_link_out_of_src(src: Path, tmp_path: Path) -> None:
    encrypt_files(src, tmp_path / "enc", KEY, SCHEME)
    (tmp_path / "enc/class0").rename(tmp_path / "elsewhere")
    (tmp_path / "enc/class0").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="leads out of SRC"):
        decrypt_files(tmp_path / "enc", tmp_path / "dec", KEY)
    assert not (tmp_path / "dec").exists()
    decrypt_files(tmp_path / "enc", tmp_path / "dec", KEY, selection=Selection(follow_links=True))
    assert contents(tmp_path / "dec").keys() == contents(src).keys()


# --- modes ---


@contextlib.contextmanager
def umask(mask: int):
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    return {p.relative_to(folder).as_posix(): p.stat().st_mode & 0o777 for p in folder.rglob("*")}


@pytest.mark.parametrize(
    "mask, file, folder", [(0o077, 0o600, 0o700), (0o022, 0o640, 0o750), (0, 0o640, 0o750)]
)
def test_modes_follow_the_umask_and_the_source(
    src: Path, tmp_path: Path, mask: int, file: int, folder: int
) -> None:
    """Encrypting and decrypting; 0o640 and 0o750 are those of the sources."""
    src.chmod(0o750)
    for path in src.rglob("*"):
        path.chmod(0o750 if path.is_dir() else 0o640)
    (src / "class0/0.png").chmod(0o444)
    (src / "class1").chmod(0o555)  # its owner, too, must be able to write to what is made of it
    with umask(mask):
        encrypt_files(src, tmp_path / "enc", KEY, SCHEME)
        decrypt_files(tmp_path / "enc", tmp_path / "dec", KEY)
    (src / "class1").chmod(0o750)
    for made in (tmp_path / "enc", tmp_path / "dec"):
        assert made.stat().st_mode & 0o777 == folder
        got = modes(made)
        assert got.pop("class0/0.png") == 0o444 & ~mask
        assert got.pop("class1") == 0o755 & ~mask
        assert got.pop("blockenc.json", file) == file
        assert {name for name, mode in got.items() if mode != (file if "." in name else folder)} == set()


def test_what_lists_names_is_as_closed_as_the_files(src: Path, tmp_path: Path) -> None:
    """The manifest, also with the items of one before, and the list of damaged files."""

    def mode(path: str) -> int:
        return (tmp_path / path).stat().st_mode & 0o777

    (src / "damaged.png").write_bytes(b"no image")
    with umask(0):
        for path in src.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        src.chmod(0o755)
        for changed, bits, want in [
            ("class1", 0o755, 0o644),
            ("class1", 0o700, 0o600),
            ("class1", 0o744, 0o600),  # others may list it, and see nothing of the files
            ("class0/0.png", 0o640, 0o640),
        ]:
            before = (src / changed).stat().st_mode & 0o777
            (src / changed).chmod(bits)
            name = f"{Path(changed).stem}-{bits:o}"
            encrypt_files(src, tmp_path / name, KEY, SCHEME, skip_damaged=True)
            assert [mode(f"{name}/blockenc.json"), mode(f"{name}/blockenc.skipped.txt")] == [want, want]
            (src / changed).chmod(before)
        encrypt_files(src, tmp_path / "class1-700", KEY, SCHEME, skip_damaged=True)
        assert mode("class1-700/blockenc.json") == 0o600
        (tmp_path / "class1-755/class0/2.png").write_bytes(b"altered")
        (tmp_path / "class1-755/class1").chmod(0o700)
        decrypt_files(tmp_path / "class1-755", tmp_path / "dec", KEY, skip_damaged=True)
        assert mode("dec/blockenc.skipped.txt") == 0o600


def test_modes_of_one_file(src: Path, tmp_path: Path) -> None:
    (src / "class0/0.png").chmod(0o600)
    with umask(0):
        encrypt_files(src / "class0/0.png", tmp_path / "x.png", KEY, SCHEME)
        decrypt_files(tmp_path / "x.png", tmp_path / "y.png", KEY)
    for name in ("x.png", "x.png.json", "y.png"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600


def test_the_work_folder_is_closed_to_others(src: Path, tmp_path: Path) -> None:
    with umask(0):
        cut_off(src, tmp_path / "enc", 1)
    work = tmp_path / "enc/.blockenc-run"
    assert work.stat().st_mode & 0o777 == 0o700
    assert (work / "journal").stat().st_mode & 0o077 == 0


def test_files_are_written_where_fchmod_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows."""
    monkeypatch.delattr(os, "fchmod")
    files.atomic_write(tmp_path / "k", b"secret", mode=0o600, overwrite=False)
    assert (tmp_path / "k").stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        files.atomic_write(tmp_path / "k", b"another", overwrite=False)
    assert (tmp_path / "k").read_bytes() == b"secret"


@pytest.mark.parametrize("name", ("../x", "/x", "", "a/../../x"))
def test_names_that_lead_out_of_a_folder(tmp_path: Path, name: str) -> None:
    place = files.Folder(tmp_path / "below")
    (tmp_path / "below").mkdir()
    calls: list[Callable[[], object]] = [
        lambda: place.status(name),
        lambda: place.open(name, os.O_WRONLY | os.O_CREAT),
        lambda: place.remove(name),
        lambda: place.replace("a", name),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="expected a name below a folder"):
            call()


def test_names_of_temporary_files() -> None:
    assert files.TEMPORARY.fullmatch(files.temporary_name("tmp.png"))
    assert files.TEMPORARY.fullmatch(files.temporary_name("pictures"))
    assert not files.TEMPORARY.fullmatch("blockenc.json")
    assert journal.work_folder(Path("x"), "blockenc").name == ".blockenc-run"
