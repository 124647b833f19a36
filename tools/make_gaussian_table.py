"""Makes the table of the Gaussian noise law (csrc/include/zopro/noise.h, "gaussian").

2,048 equally likely values: the conditional means of N(0, 1) over 2,048 cells of equal
probability, bent by an odd polynomial so that moments 2, 4 and 6 are 1, 3 and 15, divided by
sqrt(8) and rounded to multiples of 2^-20. The table is antisymmetric; the positive half is
written, as integers, to the C++ include and to its Python mirror. It is part of law 1: the
committed files are the law, this script is how they came about.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from scipy.optimize import fsolve
from scipy.stats import norm

SIZE, UNIT = 2048, 2.0**-20
ROOT = Path(__file__).resolve().parent.parent


def positive_half() -> np.ndarray:
    """The upper SIZE/2 entries in units of 2^-20, int64, ascending."""
    edges = norm.ppf(np.arange(SIZE + 1) / SIZE)
    means = SIZE * -np.diff(norm.pdf(edges))
    means = (means - means[::-1]) / 2

    def bend(p: np.ndarray) -> np.ndarray:
        return p[0] * means + p[1] * means**3 + p[2] * means**5

    def moments(p: np.ndarray) -> list[float]:
        y = bend(p)
        return [np.mean(y**2) - 1, np.mean(y**4) - 3, np.mean(y**6) - 15]

    values = bend(fsolve(moments, [1.0, 0.0, 0.0]))
    return np.rint(values[SIZE // 2 :] / np.sqrt(8) / UNIT).astype(np.int64)


def rows(values: np.ndarray, indent: str) -> str:
    lines = [", ".join(map(str, values[i : i + 10])) + "," for i in range(0, len(values), 10)]
    return "\n".join(indent + line for line in lines)


def main() -> int:
    half = positive_half()
    cpp = "// Made by tools/make_gaussian_table.py: upper half of the table, units of 2^-20.\n"
    (ROOT / "csrc/include/zopro/gaussian_table.inc").write_text(cpp + rows(half, "") + "\n")
    py = '"""Made by tools/make_gaussian_table.py: upper half of the table, units of 2^-20."""\n\n'
    py += "# fmt: off\nUPPER_HALF = (\n" + rows(half, "    ") + "\n)\n"
    (ROOT / "zopro_kernels/gaussian_table.py").write_text(py)
    return 0


if __name__ == "__main__":
    sys.exit(main())
