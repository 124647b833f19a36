"""The C++ kernels' portable path compiled for 64-bit ARM gives x86's bits, under an emulator.

x86's own are held to the reference by test_cpu.py. On Debian the two tools that this needs are
g++-aarch64-linux-gnu and qemu-user-static.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [
    Path(__file__).with_name("cpu_digest.cpp"),
    *(ROOT / "csrc/cpu" / f"{name}.cpp" for name in ("add_noise", "noise_dots", "dispatch")),
]


def found(*names: str) -> str:
    for name in names:
        if path := shutil.which(name):
            return path
    pytest.skip(f"no {' or '.join(names)} here")


def digest(compiler: str, emulator: list[str], binary: Path) -> str:
    flags = ["-std=c++17", "-O3", "-ffp-contract=off", "-w", "-static", "-DZOPRO_ISA=baseline"]
    places = [f"-I{ROOT}/csrc/include", f"-I{ROOT}/csrc/cpu"]
    subprocess.run([compiler, *flags, *places, *SOURCES, "-o", binary], check=True)
    done = subprocess.run([*emulator, binary], check=True, capture_output=True, text=True)
    return done.stdout


def test_arm_gives_the_bits_of_x86(tmp_path):
    native, cross = found("g++"), found("aarch64-linux-gnu-g++")
    emulator = found("qemu-aarch64-static", "qemu-aarch64")
    here = digest(native, [], tmp_path / "here")
    assert len(here) == 17
    assert digest(cross, [emulator], tmp_path / "arm") == here
