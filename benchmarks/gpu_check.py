"""Are the GPU kernels right? Bits against the reference, then memory checks by the sanitizer.

    python benchmarks/gpu_check.py bits|sanitizer [--build]

Records: benchmarks/results/gpu_{bits,sanitizer}.json.
--build installs this checkout with its CUDA module first (pip, CMake, nvcc; ZOPRO_CUDA=ON).
bits: the CUDA and Triton backends against the reference over 200 million elements, then over the
    tests' cases; stops at the first difference.
sanitizer: compute-sanitizer (memcheck, racecheck, initcheck) on small passes of both.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LOOP = """
import torch, zopro_kernels as zk
for backend in ("cuda", "triton"):
    for distribution in ("rademacher", "gaussian"):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            xs = [torch.ones(n, dtype=dtype, device="cuda") for n in (1, 1023, 4096, 100003)]
            vs = [torch.ones(x.numel(), device="cuda") for x in xs]
            targets = {"prev": vs, "v": vs, "prev_coeffs": 0.5, "v_coeffs": 0.5}
            for seeds in ([1], [1, 2, 3]):
                for more in ({"rounding": "nearest"}, {"rounding": "stochastic", **targets}):
                    zk.add_noise_(xs, seeds, [0.1] * len(seeds), distribution=distribution,
                                  offsets=[0, 5, 8, 16], backend=backend, **more)
        zk.noise_dots(vs, 1, distribution=distribution, backend=backend)
torch.cuda.synchronize()
"""


def build() -> None:
    environment = {**os.environ, "ZOPRO_CUDA": "ON"}
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "-e", str(ROOT)]
    if all(importlib.util.find_spec(m) for m in ("pybind11", "setuptools", "cmake", "ninja")):
        command.insert(4, "--no-build-isolation")  # a machine without a network has its own tools
    subprocess.run(command, check=True, env=environment)


def check_bits(device: str, backends: tuple[str, ...], size: int) -> list[dict[str, Any]]:
    """Compares `size` elements of noise at several offsets; SystemExit at the first difference."""
    import torch

    import zopro_kernels as zk

    rows = []
    for distribution in ("rademacher", "gaussian"):
        for offset in (0, 2**32 - 8, 2**40 + 3):
            arguments = {"distribution": distribution, "offset": offset, "device": device}
            oracle = zk.noise(size, 7, backend="reference", **arguments).view(torch.int32)
            for backend in backends:
                ours = zk.noise(size, 7, backend=backend, **arguments).view(torch.int32)
                wrong = (ours != oracle).nonzero()
                if len(wrong):
                    raise SystemExit(f"{backend} {distribution} +{offset}: {int(wrong[0])} differs")
                print(f"bits: {backend:7} {distribution:11} offset {offset}: {size} equal")
                rows.append({"backend": backend, "distribution": distribution, "offset": offset,
                             "elements": size})  # fmt: skip
    return rows


def run_tests() -> int:
    """pytest's exit code over the tests of tests/kernels that have a GPU form."""
    tests = [str(ROOT / "tests/kernels" / name) for name in ("test_cuda.py", "test_triton.py")]
    command = [sys.executable, "-m", "pytest", "-q", "-x", *tests]
    return subprocess.run(command, check=False, cwd=ROOT).returncode


def sanitize() -> dict[str, str]:
    """Tool -> "clean", or the end of what it said; one entry where the program is not installed."""
    checker = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not Path(checker).exists():
        return {"compute-sanitizer": "not installed"}
    found = {}
    for tool in ("memcheck", "racecheck", "initcheck"):
        command = [checker, "--tool", tool, "--error-exitcode", "9", sys.executable, "-c", LOOP]
        environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False
        )
        found[tool] = "clean" if done.returncode == 0 else (done.stdout + done.stderr)[-2000:]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("bits", "sanitizer"))
    parser.add_argument("--build", action="store_true", help="install this checkout first")
    asked = parser.parse_args()
    if asked.build:
        build()
    import torch
    from harness import RESULTS, record

    import zopro_kernels as zk

    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device: run this where there is one")
    print(zk.backends())
    if asked.part == "bits":
        rows = check_bits("cuda", ("cuda", "triton"), 100_000_000 // 3)
        record(RESULTS / "gpu_bits.json", {"bits": rows})
        return run_tests()
    found = sanitize()
    print("\n".join(f"{tool}: {said}" for tool, said in found.items()))
    record(RESULTS / "gpu_sanitizer.json", {"sanitizer": found})
    return int(set(found.values()) != {"clean"})


if __name__ == "__main__":
    sys.exit(main())
