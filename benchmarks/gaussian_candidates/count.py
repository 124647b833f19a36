"""Instructions an element on sm_90 of each way to make Gaussians, and how far its tail is right.

Each candidate is the same bf16 in-place pass but for its noise, so that the counts compare; they
are those of tools/sass.py: the loop's body over the eight elements that a turn handles (the copy
of the table into shared memory, once a block, is left out). The statistics come from a float64
model of each construction, fed with independent uniform bits from NumPy, not from a GPU.

    python benchmarks/gaussian_candidates/count.py [--json FILE]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from scipy.special import ndtr, ndtri

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "benchmarks"), str(ROOT)]

from harness import record  # noqa: E402
from sass import functions, instructions_per_element  # noqa: E402
from static_report import find_nvcc, nvcc_release, output, resources, tool  # noqa: E402

from zopro_kernels.gaussian_table import UPPER_HALF  # noqa: E402

SAMPLES = 1 << 24
TAILS = (3.0, 4.0, 5.0)


def table_hadamard(rng: np.random.Generator) -> np.ndarray:
    upper = np.array(UPPER_HALF) * 2.0**-20
    t = np.concatenate([-upper[::-1], upper])[rng.integers(0, 2048, (SAMPLES // 8, 8))]
    h = np.array([[1.0]])
    for _ in range(3):
        h = np.block([[h, h], [h, -h]])
    return (t @ h).ravel()


def inverse_interpolated(rng: np.random.Generator) -> np.ndarray:
    """31 bits of p in (0, 1/2], chords between the ends of 16 segments a binade."""
    k = rng.integers(0, 2**31, SAMPLES) * 2 + 1
    exponent = np.floor(np.log2(k))
    width = 2.0 ** (exponent - 4)
    low = np.floor(k / width) * width
    at_low, at_high = (ndtri(x * 2.0**-33) for x in (low, low + width))
    x = at_low + (at_high - at_low) * (k - low) / width
    return x * rng.choice([-1.0, 1.0], SAMPLES)


def box_muller(rng: np.random.Generator) -> np.ndarray:
    u = (rng.integers(0, 2**24, SAMPLES // 2) + 1) * 2.0**-24
    angle = rng.integers(0, 2**32, SAMPLES // 2) * (2 * np.pi / 2**32)
    radius = np.sqrt(-2 * np.log(u))
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])


def two_tables(rng: np.random.Generator) -> np.ndarray:
    """Both of 256 quantiles of N(0, 1/2), scaled to that variance."""
    quantiles = ndtri((np.arange(256) + 0.5) / 256)
    quantiles *= np.sqrt(0.5) / quantiles.std()
    return quantiles[rng.integers(0, 256, (SAMPLES, 2))].sum(1)


CANDIDATES = {
    "table_hadamard": (table_hadamard, 10.21, "the law; all sums exact"),
    "inverse_interpolated": (inverse_interpolated, 6.3, "one word a value"),
    "box_muller": (box_muller, 5.8, "one word a value; no table; polynomials of fp32 accuracy"),
    "two_tables": (two_tables, 4.1, "half a word a value; the tail is missing"),
}


def statistics(values: np.ndarray) -> dict[str, object]:
    z = np.sort(values)
    grid = (np.arange(len(z)) + 0.5) / len(z)
    return {
        "kolmogorov_smirnov": float(np.abs(ndtr(z) - grid).max()),
        "variance": float(values.var()),
        "fourth_moment": float((values**4).mean()),
        "tail_over_normal": {
            str(x): round(float((np.abs(values) > x).mean() / (2 * ndtr(-x))), 3) for x in TAILS
        },
    }


def machine_code(name: str, folder: Path) -> dict[str, object]:
    cubin = folder / f"{name}.cubin"
    output(
        find_nvcc(), "-std=c++17", "-O3", "-arch=sm_90", "--fmad=false", "-w", "-cubin",
        "-o", str(cubin), str(HERE / f"{name}.cu"),
    )  # fmt: skip
    ((function, blocks),) = functions(output(tool("nvdisasm"), "-c", str(cubin))).items()
    count = instructions_per_element(blocks, 2, 8, walks=True)
    return {"per_element": round(count, 2), **resources(cubin)[function]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="file to write the rows to")
    asked = parser.parse_args()
    rows = []
    for name, (model, reach, note) in CANDIDATES.items():
        with tempfile.TemporaryDirectory() as folder:
            code = machine_code(name, Path(folder))
        found = statistics(model(np.random.default_rng(1)))
        rows.append({"candidate": name, **code, "reach": reach, **found, "note": note})
        print(
            f"{name:22}{code['per_element']:7.2f} an element{code['registers']:4} registers, "
            f"reach {reach:4}, KS {found['kolmogorov_smirnov']:.1e}, "
            f"tails {found['tail_over_normal']}"
        )
    if asked.json:
        found = {"arch": "sm_90", "nvcc": nvcc_release(), "samples": SAMPLES, "candidates": rows}
        record(asked.json, found)


if __name__ == "__main__":
    main()
