"""The kernel of linear layers by sequence on sm_90: its part of static_report.py.

It stores no copies, so sass.py's paths do not fit: counted is the loop that makes a tile and
multiplies with it (where one tile holds all columns, all before the loop over tokens), a thread's
instructions over its numbers of the tile, the product and the loads of x included.
"""

from __future__ import annotations

import re
from pathlib import Path

import sass
import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from zopro_kernels import triton_linear
from zopro_kernels.linear_triton import shape_of

_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_TRITON = {"fp32": tl.float32, "bf16": tl.bfloat16, "fp16": tl.float16}
_MEMORY = {tl.float32: "*fp32", tl.bfloat16: "*bf16", tl.int8: "*i8"}
TOKENS = 256

_TARGETED = {"HAS_PREV": True, "HAS_V": True}
_ALL = {"SIGNS": False, "STOCHASTIC": True, "FORM": tl.int8, **_TARGETED}
# (name in the report, x's dtype, the weight's, [outs, ins], what differs)
VARIANTS = [
    ("linear of signs", "bf16", "bf16", (16, 576), {}),
    ("linear of signs", "fp16", "fp16", (16, 576), {}),
    ("linear of gaussian", "bf16", "bf16", (16, 576), {"SIGNS": False}),
    ("linear of signs, one tile", "bf16", "bf16", (576, 16), {}),
    ("linear of gaussian, one tile", "bf16", "bf16", (576, 64), {"SIGNS": False}),
    ("linear of signs, wide", "bf16", "bf16", (576, 576), {}),
    ("linear of signs, weight fp32", "bf16", "fp32", (64, 2048), {}),
    ("linear of all", "bf16", "bf16", (16, 2048), _ALL),
    ("linear of all, one tile", "bf16", "bf16", (2048, 64), _ALL),
    ("linear of all, wide", "bf16", "bf16", (576, 2048), _ALL),
    ("linear of all, odd", "bf16", "bf16", (576, 100), _ALL),
    ("linear of all, odd, one tile", "bf16", "bf16", (576, 12), _ALL),
    ("linear of signs", "fp32", "fp32", (16, 576), {}),
    ("linear of signs, one tile", "fp32", "fp32", (576, 16), {}),
    ("linear of gaussian, one tile", "fp32", "fp32", (576, 64), {"SIGNS": False}),
    ("linear of all, wide", "fp32", "fp32", (64, 2048), {**_ALL, "STOCHASTIC": False}),
    ("linear of all, odd", "fp32", "fp32", (576, 100), {**_ALL, "STOCHASTIC": False}),
]  # fmt: skip


def compile_variant(x: str, weight: str, size: tuple[int, int], variant: dict, arch: int):
    """The compiled kernel, as the backend launches it, and how it is cut."""
    targeted = bool(variant.get("HAS_PREV"))
    cut = shape_of(TOKENS, *size, 0, x == "fp32", targeted)
    constants = {
        "SIGNS": True, "XTYPE": _TRITON[x], "DTYPE": _TRITON[weight], "STOCHASTIC": False,
        "HAS_PREV": False, "HAS_V": False, "FORM": tl.float32, "BT": cut.BT, "BO": cut.BO,
        "BK": cut.BK, "ONE": cut.ONE, "WHOLE": cut.WHOLE, **variant,
    }  # fmt: skip
    kept = _MEMORY[constants["FORM"]]
    numbers = dict.fromkeys(("prev_scales", "v_scales", "floats", "normals"), "*fp32")
    pointers = {"x": f"*{x}", "y": f"*{x}", "weight": f"*{weight}", "prev": kept, "v": kept,
                "integers": "*i64", "offset": "i64", **numbers}  # fmt: skip
    function = triton_linear.perturbed_linear
    names = function.arg_names
    signature = {a: "constexpr" if a in constants else pointers.get(a, "i32") for a in names}
    even = [a for a in pointers if a != "offset"]
    even += [a for a, n in zip(("outs", "ins"), size) if n % 16 == 0]
    aligned = {(names.index(a),): [["tt.divisibility", 16]] for a in even}
    source = ASTSource(function, signature, constants, aligned)
    options = {"num_warps": cut.num_warps, "num_stages": cut.num_stages, "enable_fp_fusion": False}
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options), cut


def counted(blocks: list[sass.Block], one: bool) -> int:
    """Instructions of the loop that draws and multiplies, or, for one tile, before the loops."""
    loops = [sass._loop(blocks, edge) for edge in sass._back_edges(blocks)]
    if one:
        inside = set().union(*loops)
        return sum(len(b.code) for i, b in enumerate(blocks) if i not in inside)
    drawing = [body for body in loops if any(blocks[i].draws for i in body)]
    return sum(len(blocks[i].code) for i in min(drawing, key=len))


def fused(ptx: str, products: int) -> list[str]:
    """Floating-point fusions and flushes that are none of the product's, of which there are so
    many where fp32 has no tensor cores."""
    found = re.findall(r"\b(?:fma|mad)\.[a-z.]*f\d\w*", ptx)
    flushed = re.findall(r"\b[a-z][a-z0-9.]*\.ftz[a-z0-9.]*", ptx)
    return flushed + ([] if len(found) == products else [f"{len(found)} fma for {products}"])


def rows(folder: Path, arch: int, resources, output, tool) -> list[dict]:
    """A row for each variant, as static_report's are, with `shared`, its bytes."""
    made = []
    for kind, x, weight, size, variant in VARIANTS:
        compiled, cut = compile_variant(x, weight, size, variant, arch)
        path = folder / "linear.cubin"
        path.write_bytes(compiled.asm["cubin"])
        (blocks,) = sass.functions(output(tool("nvdisasm"), "-c", str(path))).values()
        (used,) = resources(path).values()
        threads = 32 * cut.num_warps
        numbers = cut.BO * cut.BK / threads
        products = cut.BT * cut.BO * cut.BK // threads if x == "fp32" else 0
        if x != "fp32" and "mma" not in compiled.asm["ptx"]:
            raise SystemExit(f"{kind} {x} does not multiply by tensor cores")
        made.append(
            {
                "kernel": kind + ", fp32" * (x == "fp32"), "dtype": x,
                "per_element": counted(blocks, cut.ONE) / numbers,
                **used, "pipes": {}, "further_seed": None, "shared": compiled.metadata.shared,
                "code": sum(len(b.code) for b in blocks),
                "forbidden": fused(compiled.asm["ptx"], products),
            }
        )  # fmt: skip
    return made
