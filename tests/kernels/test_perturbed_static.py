"""The kernels of perturbed copies compile for a GPU that is not there, with every rounding kept."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed")
ROOT = Path(__file__).resolve().parents[2]

# In a process of its own: this one may have loaded the kernels for the interpreter.
SCRIPT = """
import triton, triton.language as tl
from static_report import forbidden
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from zopro_kernels import triton_backend, triton_perturbed

for name, dtype, memory, constants in (
    ("perturbed_signs", tl.bfloat16, "*bf16", {"HAS_PREV": True, "STOCHASTIC": True}),
    ("perturbed_gaussians", tl.float32, "*fp32", {"HAS_PREV": False, "STOCHASTIC": False}),
):
    function = getattr(triton_perturbed, name)
    constants |= {"DTYPE": dtype, "FORM": tl.float32, "HAS_V": False,
                  "GROUPS": triton_backend.GROUPS}
    pointers = {"out": memory, "integers": "*i64", "offset": "i64", **dict.fromkeys(
        ("floats", "normals", "prev", "v", "prev_scales", "v_scales"), "*fp32")}
    arguments = function.arg_names
    signature = {a: "constexpr" if a in constants else pointers.get(a, "i32") for a in arguments}
    used = {a: x for a, x in constants.items() if a in arguments}
    source = ASTSource(function, signature, used)
    options = {"num_warps": triton_backend.NUM_WARPS, "enable_fp_fusion": False}
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    ptx = compiled.asm["ptx"]
    assert ".visible .entry" in ptx and "mul" in ptx and not forbidden(ptx), name
    print(name)
"""


def test_copies_compile_for_sm_90():
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "tools"), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "perturbed_gaussians" in done.stdout
