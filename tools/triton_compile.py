"""Compiles the Triton kernels as the backend launches them, for a GPU that need not be there."""

from __future__ import annotations

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from zopro_kernels import triton_backend, triton_dots, triton_kernels, triton_sequence

_TYPES = {"fp32": tl.float32, "bf16": tl.bfloat16, "fp16": tl.float16}
_POINTERS = {"table": "*i64", "scales": "*i64", "integers": "*i64", "floats": "*fp32",
             "normals": "*fp32", "sums": "*i64", "count": "i32", "seeds": "i32",
             "records": "*i64", "number": "i32"}  # fmt: skip

_TARGETED = {"HAS_PREV": True, "HAS_V": True}

# (name in the report, dtype, what differs from the usual pass)
VARIANTS = [
    ("signs", "bf16", {}),
    ("signs", "fp32", {}),
    ("signs", "fp16", {}),
    ("signs stochastic", "bf16", {"STOCHASTIC": True}),
    ("targeted signs", "bf16", _TARGETED),
    ("targeted signs", "fp32", _TARGETED),
    ("targeted signs kept bf16", "bf16", {**_TARGETED, "FORM": tl.bfloat16}),
    ("targeted signs kept int8", "bf16", {**_TARGETED, "FORM": tl.int8}),
    ("many signs", "bf16", {"SINGLE": False}),
    ("gaussian", "bf16", {"kernel": "add_gaussians"}),
    ("gaussian", "fp32", {"kernel": "add_gaussians"}),
    ("gaussian stochastic", "bf16", {"kernel": "add_gaussians", "STOCHASTIC": True}),
    ("sequence of signs", "bf16", {"kernel": "add_signs_sequence"}),
    ("sequence of signs stochastic", "bf16", {"kernel": "add_signs_sequence", "STOCHASTIC": True}),
    ("sequence of targeted signs", "bf16", {"kernel": "add_signs_sequence", **_TARGETED}),
    ("sequence of gaussian", "bf16", {"kernel": "add_gaussians_sequence"}),
    ("dot signs", "fp32", {"kernel": "dot_signs"}),
    ("dot gaussian", "fp32", {"kernel": "dot_gaussians"}),
    ("dot signs", "int8", {"kernel": "dot_signs", "FORM": tl.int8}),
    ("dot gaussian", "int8", {"kernel": "dot_gaussians", "FORM": tl.int8}),
]


def compile_variant(dtype: str, variant: dict, arch: int) -> tuple[bytes, str]:
    """Machine code and PTX of one kernel."""
    variant = dict(variant)
    name = variant.pop("kernel", "add_signs")
    homes = (triton_kernels, triton_sequence, triton_dots)
    function = next(getattr(m, name) for m in homes if hasattr(m, name))
    constants = {
        "TILES": triton_backend.TILES, "GROUPS": triton_backend.GROUPS, "DTYPE": _TYPES.get(dtype),
        "SINGLE": True, "STOCHASTIC": False, "HAS_PREV": False, "HAS_V": False,
        "FORM": tl.float32, **variant,
    }  # fmt: skip
    arguments = function.arg_names
    signature = {a: _POINTERS.get(a, "constexpr") for a in arguments}
    source = ASTSource(function, signature, {a: constants[a] for a in arguments if a in constants})
    options = {"num_warps": triton_backend.NUM_WARPS, "enable_fp_fusion": False}
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    return compiled.asm["cubin"], compiled.asm["ptx"]
