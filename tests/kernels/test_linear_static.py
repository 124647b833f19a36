"""Linear layers by sequence compile for a GPU that is not there: nothing spills, nothing is fused
but the product."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed")
ROOT = Path(__file__).resolve().parents[2]

# In a process of its own: this one may have loaded the kernels for the interpreter.
SCRIPT = """
import sys
from pathlib import Path

import linear_report
import static_report as s

some = ("linear of signs", "linear of all, wide", "linear of all, odd, one tile")
linear_report.VARIANTS = [v for v in linear_report.VARIANTS if v[0] in some]
for row in linear_report.rows(Path(sys.argv[1]), s.ARCH, s.resources, s.output, s.tool):
    print(row["kernel"], s.judge({"backend": "triton", **row}))
assert linear_report.fused("fma.rn.f32 %f1", 1) == []
assert linear_report.fused("fma.rn.f32 %f1", 0) == ["1 fma for 0"]
assert linear_report.fused("mul.ftz.f32 %f1", 0) == ["mul.ftz.f32"]
"""


def test_nothing_spills_or_is_fused(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "tools"), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, tmp_path], env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 6 and all(line.endswith(" []") for line in lines), done.stdout
