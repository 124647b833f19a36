"""The compiled Triton kernels, without a GPU: no fused multiply-add, no flush of subnormals."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed")
ROOT = Path(__file__).resolve().parents[2]

# In a process of its own: this one may have loaded the kernels for the interpreter.
SCRIPT = """
from static_report import forbidden
from triton_compile import VARIANTS, compile_variant

for kind, dtype, variant in VARIANTS:
    longer = kind.startswith("sequence") and kind.split()[-2] != "of"  # the same functions
    if (dtype == "bf16" and not longer) or kind.startswith("dot"):
        _, ptx = compile_variant(dtype, variant, 90)
        assert ".visible .entry" in ptx and "mul" in ptx
        assert not forbidden(ptx), (kind, dtype, forbidden(ptx))
        print(kind)
assert forbidden("fma.rn.f32 %f1") and forbidden("mul.ftz.f32 %f1") and not forbidden("mul.f32 a")
"""


def test_ptx_keeps_every_rounding():
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "tools"), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "gaussian" in done.stdout
