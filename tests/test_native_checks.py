"""The native kernels without Python, against the oracle: plain, ASan and UBSan, TSan, NEON emulated,
AVX-512 simulated."""

from __future__ import annotations

import hmac
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import blockenc
from blockenc.backends import native
from blockenc.feistel.ff1 import byte_tables
from blockenc.keys import native as native_keys
from blockenc.keys.keystream import PythonKeystreams, split
from blockenc.plan import Plan
from tests import native_checks, shared
from tests.fuzz import driver
from tests.native_checks import BUILDS, cases


def program(name: str) -> list[str]:
    """The command that starts a build."""
    folder = shared.once(f"native-{name}", lambda folder: native_checks.compile_program(BUILDS[name], folder))
    return [*native_checks.launcher(BUILDS[name]), str(folder / "check")]


@pytest.fixture(scope="module")
def every_case() -> Path:
    def write(folder: Path) -> None:
        cases.write(folder / "every", [*cases.small(), *cases.large()])

    return shared.once("native-cases", write) / "every"


@pytest.fixture(scope="module")
def one_case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    case = cases.make((2, 3, 8, 16), "planar", "planar", block_size=4)
    return cases.write(tmp_path_factory.mktemp("cases") / "one", [case])


@pytest.mark.parametrize("name", BUILDS)
def test_every_byte(every_case: Path, name: str) -> None:
    """Every level, value type, layout; many callers, forks; nothing read or written outside."""
    status, text = native_checks.run(program(name), every_case, BUILDS[name].parts)
    assert status == 0, text[-6000:]
    levels = re.findall("level: (.*)", text)
    if BUILDS[name].levels is not None:
        assert levels == list(BUILDS[name].levels)
    elif blockenc.backends()["native"] == "available":
        assert levels == [level for level, has in native.levels().items() if has]
    if name == "plain" and "avx2" in levels:  # where threads are counted
        assert int(re.findall(r"threads started for calls: (\d+)", text)[0]) >= 1
    assert "failures: 0" in text


FAULTS = [
    ("plain", "overread-hole", "it ended in alone: byte encrypt"),
    ("plain", "underread-hole", "it ended in alone: byte encrypt"),
    ("plain", "overwrite", "1 bytes differ, first guard byte 63"),
    ("plain", "value", "1 bytes differ, first output byte 64"),
    ("asan", "overread", "heap-buffer-overflow"),
    ("asan", "overflow", "signed integer overflow"),
    ("tsan", "race", "data race"),
    ("neon", "overread-hole", "it ended in alone: byte encrypt"),
    ("neon", "value", "1 bytes differ, first output byte 64"),
    ("avx512-simde", "overread-hole", "it ended in alone: byte encrypt"),
    ("avx512-simde", "value", "1 bytes differ, first output byte 64"),
]


@pytest.mark.parametrize(
    "name, fault, report", FAULTS, ids=lambda value: value.split(":")[0].replace(" ", "-")
)
def test_planted_faults_are_found(one_case: Path, name: str, fault: str, report: str) -> None:
    part = "together" if fault == "race" else "alone"
    assert native_checks.run(program(name), one_case, (part,))[0] == 0
    status, text = native_checks.run(program(name), one_case, (f"plant={fault}", part))
    assert status != 0
    assert report in text


def fuzz_plans(name: str, folder: Path, changed: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs tests/native_checks/fuzz.cpp with the kernels of a build. changed: one of them in another form."""
    made = Path(program(name)[-1]).parent
    native_checks.compile_program(BUILDS[name], folder, "fuzz", made=made, changed=changed)
    # As many whatever the machine. `python -m tests.native_checks` runs for longer.
    options = ["-runs=2500", "-seed=1", f"-artifact_prefix={folder}/", str(driver.CORPUS / "plan")]
    command = [*native_checks.launcher(BUILDS[name]), str(folder / "fuzz"), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("name", ["asan"])
def test_no_plan_breaks_a_kernel(tmp_path: Path, name: str) -> None:
    """Plans of any bytes are refused by every level, or all make the same of them within their memory."""
    done = fuzz_plans(name, tmp_path)
    assert done.returncode == 0, done.stderr[-6000:]
    assert "inputs: 2500" in done.stdout


@pytest.mark.parametrize("name", ["asan"])
def test_a_missing_check_of_plans_is_found(tmp_path: Path, name: str) -> None:
    source = native_checks.CSRC / "cpu" / "plan_cache.cpp"
    check = "  check_indices(plan.variant, plan.keys * plan.blocks(), plan.variants);\n"
    changed = tmp_path / source.name
    changed.write_text(source.read_text().replace(check, ""))
    assert changed.read_text() != source.read_text()
    done = fuzz_plans(name, tmp_path, changed)
    assert done.returncode != 0
    assert "AddressSanitizer" in done.stderr
    found = np.frombuffer((tmp_path / "crash").read_bytes(), np.uint8)
    with pytest.raises(ValueError, match="an index in it is out of range"):
        Plan.unpack(found)


def keys_program() -> list[str]:
    """The command that starts tests/native_checks/keys.cpp, with the libcrypto that Python has."""
    import _hashlib

    linked = subprocess.run(["ldd", _hashlib.__file__], capture_output=True, text=True).stdout
    libcrypto = re.search(r"libcrypto\S* => (\S+)", linked)
    if libcrypto is None:
        native_checks.missing("a libcrypto that this Python is linked with")
    build = BUILDS["asan"]
    folder = shared.once("native-keys", lambda folder: native_checks.compile_program(build, folder, "keys"))
    return [*native_checks.launcher(BUILDS["asan"]), str(folder / "keys"), libcrypto[1]]


@pytest.mark.parametrize("count, threads", [(1, 1), (23, 3)])
def test_asan_of_keys(count: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys of images, under ASan and UBSan, against Python's own derivation."""
    monkeypatch.setattr(native_keys, "derives", False)
    subkeys = np.random.default_rng(count).bytes(32 * count)
    streams = PythonKeystreams(subkeys)
    expected = [b"".join(expand(subkeys[:32], str(k)) for k in range(count))]
    for length in 2 * (0, 1, 47, 1500):
        bounds = np.array([*range(1, length), 2**32][:length], np.int64)
        expected += [streams.uniforms(bounds).tobytes(), streams.permutations(2, length).tobytes()]
    expected.append(byte_tables(split(subkeys)).tobytes())
    command = [*keys_program(), str(count), str(threads)]
    done = subprocess.run(command, input=subkeys, capture_output=True, timeout=300)
    assert (done.returncode, done.stderr.decode()) == (0, "")
    assert done.stdout == b"".join(expected)


def expand(extracted: bytes, info: str) -> bytes:
    """HKDF's second step (RFC 5869), 32 bytes."""
    return hmac.digest(extracted, info.encode() + b"\1", "sha256")


def test_asan_of_keys_sees_a_fault() -> None:
    command = [*keys_program(), "2", "1", "plant=overwrite"]
    done = subprocess.run(command, input=bytes(64), capture_output=True, timeout=300)
    assert done.returncode != 0
    assert b"heap-buffer-overflow" in done.stderr


@pytest.mark.skipif(not shutil.which("objdump"), reason="needs objdump")
@pytest.mark.skipif(blockenc.backends()["native"] != "available", reason="the extension is not built")
def test_what_levels_share_needs_no_level() -> None:
    """A function that several files define ends up in the extension once, out of any of them: none may have
    been compiled for more than the portable level, or it would run where a processor has no AVX."""
    code = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", native._native.__file__],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    wide = {
        name
        for name, body in re.findall(r"^[0-9a-f]+ <([^>]+)>:\n((?:.+\n)*)", code, re.MULTILINE)
        if re.search(r"\tv\w+ .*%[xyz]mm", body)
    }
    own = {name for name in wide if "_GLOBAL__N_1" in name or "make_avx" in name}  # of one file
    assert own or not {"avx2", "avx512_vbmi"} & set(native.levels())
    assert not wide - own
