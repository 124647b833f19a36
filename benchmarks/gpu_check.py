"""Everything that needs a GPU, in one run: bits first, then memory checks, then times.

    python benchmarks/gpu_check.py [--build] [--gigabytes 8] [--json FILE]

1. --build: installs this checkout with its CUDA module (pip, CMake, nvcc; ZOPRO_CUDA=ON).
2. The bits of the CUDA and Triton backends against the reference, over the tests' cases and over
   100 million elements; stops at the first difference.
3. compute-sanitizer (memcheck, racecheck, initcheck) on small passes, where it is installed.
4. Times of passes with CUDA events, against the device's own copy (bytes read plus bytes written),
   on buffers far larger than the L2: medians and quartiles.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOOP = """
import torch, zopro_kernels as zk
for backend in ("cuda", "triton"):
    for distribution in ("rademacher", "gaussian"):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            xs = [torch.ones(n, dtype=dtype, device="cuda") for n in (1, 1023, 4096, 100003)]
            vs = [torch.ones(x.numel(), device="cuda") for x in xs]
            for seeds in ([1], [1, 2, 3]):
                zk.add_noise_(xs, seeds, [0.1] * len(seeds), distribution=distribution,
                              offsets=[0, 5, 8, 16], rounding="stochastic", prev=vs, v=vs,
                              prev_coeffs=0.5, v_coeffs=0.5, backend=backend)
        zk.noise_dots(vs, 1, distribution=distribution, backend=backend)
torch.cuda.synchronize()
"""


def build() -> None:
    environment = {**os.environ, "ZOPRO_CUDA": "ON"}
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "-e", str(ROOT)]
    if all(importlib.util.find_spec(m) for m in ("pybind11", "setuptools", "cmake", "ninja")):
        command.insert(4, "--no-build-isolation")  # a machine without a network has its own tools
    subprocess.run(command, check=True, env=environment)


def check_bits() -> None:
    """The tests of tests/kernels that have a GPU form, then 100 million elements."""
    tests = [str(ROOT / "tests/kernels" / name) for name in ("test_cuda.py", "test_triton.py")]
    subprocess.run([sys.executable, "-m", "pytest", "-q", "-x", *tests], check=True, cwd=ROOT)
    import torch

    import zopro_kernels as zk

    for distribution in ("rademacher", "gaussian"):
        for offset in (0, 2**32 - 8, 2**40 + 3):
            size = 100_000_000 // 3
            arguments = {"distribution": distribution, "offset": offset, "device": "cuda"}
            oracle = zk.noise(size, 7, backend="reference", **arguments).view(torch.int32)
            for backend in ("cuda", "triton"):
                ours = zk.noise(size, 7, backend=backend, **arguments).view(torch.int32)
                wrong = (ours != oracle).nonzero()
                if len(wrong):
                    raise SystemExit(f"{backend} {distribution} +{offset}: {int(wrong[0])} differs")
                print(f"bits: {backend:7} {distribution:11} offset {offset}: {size} equal")


def sanitize() -> dict[str, str]:
    checker = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not Path(checker).exists():
        return {"compute-sanitizer": "skipped: it is not installed"}
    found = {}
    for tool in ("memcheck", "racecheck", "initcheck"):
        command = [checker, "--tool", tool, "--error-exitcode", "9", sys.executable, "-c", LOOP]
        environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False
        )
        found[tool] = "clean" if done.returncode == 0 else (done.stdout + done.stderr)[-2000:]
        print(f"{tool}: {found[tool]}")
    return found


def seconds(work, repeats: int = 20) -> dict[str, float]:
    """Median and quartiles of one call, by events, after a warm-up."""
    import torch

    times = []
    for i in range(repeats + 3):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work(i)
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    low, median, high = statistics.quantiles(times[3:], n=4)
    return {"median": median, "low": low, "high": high}


def time_form(form: tuple, backend: str, theta, vectors: list) -> dict[str, float]:
    """One kind of call; a new seed each time, so that nothing can be remembered."""
    import zopro_kernels as zk

    kind, distribution, seeds, rounding = form
    common = {"distribution": distribution, "backend": backend}
    if kind == "dots":
        return seconds(lambda i: zk.noise_dots(vectors[:1], i, **common))
    if kind == "targeted":
        common |= {"prev": vectors[:1], "v": vectors[1:], "prev_coeffs": 1e-3, "v_coeffs": 1e-3}
    coeffs = [1e-3] * seeds
    return seconds(
        lambda i: zk.add_noise_([theta], range(i, i + seeds), coeffs, rounding=rounding, **common)
    )


def time_passes(gigabytes: float) -> list[dict]:
    import torch

    forms = [
        ("pass", "rademacher", 1, "nearest"),
        ("pass", "gaussian", 1, "nearest"),
        ("pass", "rademacher", 1, "stochastic"),
        ("pass", "gaussian", 1, "stochastic"),
        ("pass", "rademacher", 8, "nearest"),
        ("targeted", "rademacher", 1, "nearest"),
        ("dots", "rademacher", 1, "nearest"),
        ("dots", "gaussian", 1, "nearest"),
    ]
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        size = dtype.itemsize
        count = int(gigabytes * 2**30 / 4) // size
        theta = torch.randn(count, device="cuda").to(dtype)
        other = torch.empty_like(theta)
        copied = seconds(lambda _, to=other, source=theta: to.copy_(source))
        rate = 2 * count * size / copied["median"]
        del other
        vectors = [torch.randn(count, device="cuda") for _ in range(2)]
        moved = {"pass": 2 * size, "targeted": 2 * size + 8, "dots": 4}
        for backend in ("cuda", "triton"):
            for form in forms:
                took = time_form(form, backend, theta, vectors)
                share = moved[form[0]] * count / took["median"] / rate
                row = dict(zip(("kind", "distribution", "seeds", "rounding"), form))
                row |= {"dtype": str(dtype), "backend": backend, "elements": count, **took}
                rows.append(row | {"copy_bytes_a_second": rate, "share_of_copy": share})
                print(
                    f"{dtype!s:16}{backend:8}{form[0]:9}{form[1]:11}{form[3]:11}{form[2]} seeds "
                    f"{took['median'] * 1e3:8.3f} ms, {share:.3f} of a copy"
                )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", action="store_true", help="install this checkout first")
    parser.add_argument("--gigabytes", type=float, default=8.0, help="device memory to use")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    asked = parser.parse_args()
    if asked.build:
        build()
    import torch

    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device: run this where there is one")
    import zopro_kernels as zk

    print(zk.backends())
    check_bits()
    found = {
        "cuda": torch.version.cuda,
        "sanitizer": sanitize(),
        "passes": time_passes(asked.gigabytes),
    }
    if asked.json:
        from harness import record

        record(asked.json, found)


if __name__ == "__main__":
    main()
