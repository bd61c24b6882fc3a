"""Builds the extensions blockenc._native (C++) and blockenc._cuda; everything else is in pyproject.toml.

Both are optional: without a C++17 compiler blockenc uses its Numba backend, without nvcc CUDA tensors go
through plain torch operations; `blockenc.backends()` reports it. Environment variables:

    BLOCKENC_CUDA         auto (the default: build with CUDA if nvcc is found), 0 (never), 1 (or fail)
    TORCH_CUDA_ARCH_LIST  as for torch extensions, for instance "8.0;9.0+PTX"; default: all that nvcc knows
    CUDA_HOME             where CUDA is, if nvcc is not on the PATH
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension, build_ext
from setuptools import setup

SOURCES = [
    *sorted(str(path) for folder in ("cpu", "keys") for path in Path("csrc", folder).rglob("*.cpp")),
    "csrc/python/native.cpp",
]
HEADERS = sorted(str(path) for path in Path("csrc").rglob("*.*h"))
# No contraction into fused multiply-adds: results must be the same on every machine.
OPTIONS = ["-O3", "-Wall", "-Wextra", "-ffp-contract=off", "-fno-trapping-math", "-pthread"]
OLDEST_ARCHITECTURE = 75


def find_nvcc() -> str | None:
    """nvcc, of CUDA_HOME, else on the PATH; None if there is none or it is not wanted."""
    wanted = os.environ.get("BLOCKENC_CUDA", "auto")
    if wanted not in ("auto", "0", "1"):
        raise SystemExit(f"BLOCKENC_CUDA: expected auto, 0 or 1, got {wanted!r}")
    if wanted == "0":
        return None
    home = os.environ.get("CUDA_HOME")
    found = shutil.which("nvcc", path=f"{home}/bin" if home else None)
    if found is None and wanted == "1":
        raise SystemExit("BLOCKENC_CUDA=1: nvcc was not found; set CUDA_HOME, or put nvcc on the PATH")
    return found


def toolkit_of(nvcc: str) -> Path:
    """The folder of the toolkit, by nvcc's own account: what is on the PATH may be a link or a script."""
    plan = subprocess.run([nvcc, "--dryrun", "-x", "cu", os.devnull], capture_output=True, text=True).stderr
    top = re.search(r"^#\$ TOP=(.*)$", plan, re.MULTILINE)
    return Path(top[1].strip() if top else os.path.realpath(nvcc + "/../..")).resolve()


def architectures(nvcc: str) -> list[str]:
    """nvcc's options for TORCH_CUDA_ARCH_LIST, else for every major architecture it knows, and PTX."""
    named = os.environ.get("TORCH_CUDA_ARCH_LIST", "").replace(";", " ").split()
    if not named:
        listed = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True, check=True).stdout
        known = sorted(int(number) for number in re.findall(r"compute_(\d+)$", listed, re.MULTILINE))
        # Binaries of x.0 run on x.y too; 8.6 and 8.9 have their own numbers of registers and threads.
        chosen = [n for n in known if n >= OLDEST_ARCHITECTURE and (n % 10 == 0 or n in (75, 86, 89))]
        named = [f"{n // 10}.{n % 10}" for n in chosen]
        named[-1] += "+PTX"
    options = []
    for name in named:
        number, _, ptx = name.partition("+")
        if not re.fullmatch(r"\d+\.\d[af]?", number) or ptx not in ("", "PTX"):
            raise SystemExit(f"TORCH_CUDA_ARCH_LIST: expected numbers such as 8.0 or 9.0+PTX, got {name!r}")
        digits = number.replace(".", "")
        options.append(f"-gencode=arch=compute_{digits},code=sm_{digits}")
        if ptx:
            options.append(f"-gencode=arch=compute_{digits},code=compute_{digits}")
    return options


class Build(build_ext):
    """Adds to blockenc._cuda what nvcc makes of csrc/cuda/launch.cu."""

    def build_extension(self, extension) -> None:
        if extension.name == "blockenc._cuda":
            try:
                self.compile_kernels(extension)
            except subprocess.CalledProcessError as error:
                if os.environ.get("BLOCKENC_CUDA") == "1":
                    raise SystemExit(f"BLOCKENC_CUDA=1: nvcc failed: {error}") from error
                self.warn(f"building without CUDA: nvcc failed: {error}")
                return
        super().build_extension(extension)

    def compile_kernels(self, extension) -> None:
        target = Path(self.build_temp) / "launch.o"
        target.parent.mkdir(parents=True, exist_ok=True)
        options = ["-std=c++17", "-O3", "--fmad=false", "--threads=2", "-cudart=static"]
        options += ["-Werror=all-warnings", "-Xcompiler=-fPIC,-fvisibility=hidden,-Wall,-Wextra"]
        print(
            f"blockenc: nvcc is at {nvcc}, so the CUDA kernels are built, which takes minutes; "
            "BLOCKENC_CUDA=0 leaves them out, TORCH_CUDA_ARCH_LIST names fewer architectures",
            file=sys.stderr,
            flush=True,
        )
        command = [nvcc, *options, *architectures(nvcc), "-c", "csrc/cuda/launch.cu", "-o", str(target)]
        print(" ".join(command), flush=True)
        subprocess.run(command, check=True)
        extension.extra_objects = [str(target)]


extensions = [
    Pybind11Extension(
        "blockenc._native",
        SOURCES,
        depends=HEADERS,
        cxx_std=17,
        extra_compile_args=OPTIONS,
        libraries=["dl"],
        extra_link_args=["-pthread"],
        optional=True,
    )
]
nvcc = find_nvcc()
if nvcc is not None:
    toolkit = toolkit_of(nvcc)
    extensions.append(
        Pybind11Extension(
            "blockenc._cuda",
            ["csrc/python/cuda.cpp"],
            depends=[*HEADERS, "csrc/cuda/launch.cu"],
            cxx_std=17,
            extra_compile_args=OPTIONS,
            library_dirs=[str(toolkit / "lib64"), str(toolkit / "lib")],
            libraries=["cudart_static", "dl", "rt"],
            extra_link_args=["-pthread"],
            optional=os.environ.get("BLOCKENC_CUDA") != "1",
        )
    )

ParallelCompile().install()  # one source file a processor
setup(ext_modules=extensions, cmdclass={"build_ext": Build})
