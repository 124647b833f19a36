"""The GPU kernels of the sketch, compiled for a GPU that is not there: nothing spilt, no rounding
lost."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# In a process of its own: this one may have loaded the kernels for the interpreter.
SCRIPT = """
import triton, triton.language as tl
from static_report import forbidden
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from zopro_kernels import triton_sketch

pointers = {"table": "*i64", "integers": "*i64", "sums": "*fp32", "out": "*fp64"}
for name, constants in (("sketch_chunks", {"DTYPE": tl.bfloat16}), ("add_sketches", {})):
    function = getattr(triton_sketch, name)
    signature = {a: "constexpr" if a in constants else pointers.get(a, "i32")
                 for a in function.arg_names}
    options = {"num_warps": 1, "enable_fp_fusion": False}
    compiled = triton.compile(ASTSource(function, signature, constants),
                              target=GPUTarget("cuda", 90, 32), options=options)
    ptx = compiled.asm["ptx"]
    assert ".visible .entry" in ptx and not forbidden(ptx), name
    print(name)
"""


def test_triton_keeps_every_rounding():
    pytest.importorskip("triton", reason="triton is not installed")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "tools"), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["sketch_chunks", "add_sketches"]


def test_cuda_spills_nothing(tmp_path):
    if (nvcc := shutil.which("nvcc")) is None:
        pytest.skip("no nvcc on the PATH")
    done = subprocess.run(
        [
            nvcc, "-std=c++17", "--fmad=false", "-arch=sm_90", "-Xptxas", "-v", "-cubin",
            f"-I{ROOT / 'csrc/include'}", str(ROOT / "csrc/cuda/sketch.cu"),
            "-o", str(tmp_path / "sketch.cubin"),
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    text = done.stdout + done.stderr
    frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+)", text)
    assert len(frames) == 4 and all(f == ("0", "0", "0") for f in frames), text
    # Shared memory allows seven blocks of 128 threads on a multiprocessor: so must the registers.
    assert max(map(int, re.findall(r"Used (\d+) registers", text))) <= 72, text
