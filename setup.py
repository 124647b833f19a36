"""Builds the native modules with CMake. Without a compiler the package installs all the same."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pybind11
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
FAILED = (
    "zopro: ZOPRO_CUDA=ON, but the build failed (see above): install nvcc and a C++ compiler, "
    "or use ZOPRO_CUDA=AUTO, which does without CUDA"
)


class CMakeBuild(build_ext):
    """`pip install .` builds _cpu always and _cuda where nvcc is (ZOPRO_CUDA=AUTO|ON|OFF)."""

    def run(self) -> None:
        cuda = os.environ.get("ZOPRO_CUDA", "AUTO").upper()
        if cuda not in ("AUTO", "ON", "OFF"):
            raise SystemExit(f"ZOPRO_CUDA={cuda!r} is not known: use AUTO, ON or OFF")
        for stale in self._modules().glob("_c*.so"):  # of an earlier build in this tree
            stale.unlink()
        try:
            self._configure(cuda)
            self._build("_cpu")
        except (subprocess.CalledProcessError, FileNotFoundError):
            if cuda == "ON":
                raise SystemExit(FAILED) from None
            warnings.warn(
                "zopro installs without native kernels, because the C++ build failed (see above; "
                "is there a compiler?): the slower PyTorch reference will serve.",
                stacklevel=1,
            )
            return
        if cuda != "OFF" and self._has_target("_cuda"):
            try:
                self._build("_cuda")
            except subprocess.CalledProcessError:
                if cuda == "ON":
                    raise SystemExit(FAILED) from None
                warnings.warn("zopro installs without its CUDA module: nvcc failed", stacklevel=1)

    def _directory(self) -> Path:
        return Path(self.build_temp).resolve() / "cmake"

    def _modules(self) -> Path:
        into = ROOT if self.inplace or self.editable_mode else Path(self.build_lib).resolve()
        return into / "zopro_kernels"

    def _configure(self, cuda: str) -> None:
        # A stale cache would keep the paths of another build environment's tools.
        shutil.rmtree(self._directory(), ignore_errors=True)
        subprocess.run(
            [
                "cmake", "-S", str(ROOT), "-B", str(self._directory()), "-G", "Ninja",
                f"-DPython_EXECUTABLE={sys.executable}",
                f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
                f"-DZOPRO_CUDA={cuda}",
            ],
            check=True,
        )  # fmt: skip

    def _has_target(self, name: str) -> bool:
        command = ["cmake", "--build", str(self._directory()), "--target", "help"]
        listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return f"{name}: " in listing

    def _build(self, name: str) -> None:
        subprocess.run(["cmake", "--build", str(self._directory()), "--target", name], check=True)
        (built,) = self._directory().glob(f"{name}.*")
        shutil.copy2(built, self._modules() / built.name)


# One name stands for both modules, so that setuptools makes a platform wheel.
setup(ext_modules=[Extension("zopro_kernels._cpu", [])], cmdclass={"build_ext": CMakeBuild})
