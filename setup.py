"""Builds the C++ extension blockenc._native; everything else is in pyproject.toml.

The extension is optional: where no C++17 compiler is at hand the package installs without it and uses
its Numba backend, which `blockenc.backends()` reports.
"""

from pathlib import Path

from pybind11.setup_helpers import Pybind11Extension, build_ext
from setuptools import setup

SOURCES = sorted(str(path) for path in Path("csrc").glob("*.cpp"))
HEADERS = sorted(str(path) for path in Path("csrc").glob("*.h"))

setup(
    ext_modules=[
        Pybind11Extension(
            "blockenc._native",
            SOURCES,
            depends=HEADERS,
            cxx_std=17,
            # No contraction into fused multiply-adds: results must be the same on every machine.
            extra_compile_args=["-O3", "-Wall", "-Wextra", "-ffp-contract=off", "-pthread"],
            extra_link_args=["-pthread"],
            optional=True,
        )
    ],
    cmdclass={"build_ext": build_ext},
)
