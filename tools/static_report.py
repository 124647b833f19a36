"""Registers, spills and instructions an element of every kernel on sm_90, from the machine code.

No GPU is needed: nvcc and Triton compile for sm_90, the disassembler that ships in the triton
package (or is on the PATH) lists the result, sass.py counts. Its docstring says what is counted:
one path, that of work that lies inside one tensor, with one seed and 16-byte accesses.

Fails (exit 1) where a kernel passes its budget of instructions or spills registers,
or where a floating-point instruction is fused (fma) or flushes subnormals (.ftz): both would break
the law's bits.

    python tools/static_report.py [--json benchmarks/results/static_sm90.json]
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from sass import count, functions

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from harness import record  # noqa: E402

ARCH = 90
# Instructions an element; those of kernels without a budget are reported.
BUDGETS = {
    "signs": 7,
    "gaussian": 24,
    "targeted signs": 14,
    "targeted signs kept bf16": 15,
    "targeted signs kept int8": 20,
    "signs stochastic": 25,
    "gaussian stochastic": 35,
    "targeted signs stochastic": 31,
    "many signs stochastic": 31,
    # Load, one record of one seed, store.
    "sequence of signs": 10,
    "sequence of targeted signs": 16,
    "sequence of signs stochastic": 27,
    "sequence of gaussian": 30,
    "sequence of gaussian stochastic": 42,
    # With the product and the loads of x (linear_report.py).
    "linear of signs": 34,
    "linear of gaussian": 43,
    "linear of signs, wide": 23,
    "linear of all, wide": 52,
    "linear of signs, one tile": 57,
    "linear of signs, fp32": 140,
}
SHARED = 113 << 10  # bytes of shared memory: two programs a processor
ELEMENTS = 128  # a thread's share of a chunk, in every kernel
BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1}


def tool(name: str) -> str:
    """The path of nvdisasm or cuobjdump."""
    if spec := importlib.util.find_spec("triton"):
        shipped = Path(spec.origin).parent / "backends/nvidia/bin" / name
        if shipped.exists():
            return str(shipped)
    if found := shutil.which(name):
        return found
    raise SystemExit(f"{name} is neither in the triton package nor on the PATH: pip install triton")


def output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def find_nvcc() -> str | None:
    found = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    return found if Path(found).exists() else None


def resources(cubin: Path) -> dict[str, dict[str, int]]:
    """Mangled name -> registers, and bytes of stack (where registers spill to)."""
    found = {}
    usage = output(tool("cuobjdump"), "-res-usage", str(cubin))
    for name, line in re.findall(r"Function (\S+):\s*\n\s*(REG.*)", usage):
        numbers = dict(re.findall(r"(\w+):(\d+)", line))
        found[name] = {"registers": int(numbers["REG"]), "spilled": int(numbers["STACK"])}
    return found


def forbidden(ptx: str) -> list[str]:
    """Instructions of floating point that fuse or flush."""
    return sorted(
        set(re.findall(r"\b(?:fma|mad)\.[a-z.]*f\d\w*|\b[a-z][a-z0-9.]*\.ftz[a-z0-9.]*", ptx))
    )


def measure(cubin: Path, ptx: str, dtype_of, walks: bool) -> list[dict]:
    """A row for each kernel of `cubin` that stores 16 bytes; dtype_of(name) -> (kind, dtype)."""
    rows, used = [], resources(cubin)
    for name, blocks in functions(output(tool("nvdisasm"), "-c", str(cubin))).items():
        kind, dtype = dtype_of(name)
        code = [line for block in blocks for line in block.code]
        found = count(blocks, BYTES[dtype], ELEMENTS, walks)
        fused = sorted({line.split()[0] for line in code if re.search(r"\bFFMA\b|\.FTZ\b", line)})
        rows.append(
            {
                "kernel": kind, "dtype": dtype, "per_element": found.per_element, **used[name],
                "pipes": found.pipes, "further_seed": found.further_seed,
                "code": len(code), "forbidden": forbidden(ptx) + fused,
            }
        )  # fmt: skip
    return rows


def describe_cuda(name: str) -> tuple[str, str]:
    """Reads Form<element, gaussian, stochastic, kind, form of prev and v> from the mangled name;
    a SequenceForm has no kind."""
    kept = {"f": "", "a": "kept int8"}  # else bf16: a name, or a reference to one
    if "noise_dots" in name:
        gaussian, form = re.search(r"ILb(\d)E(\w)", name).groups()
        dtype = {"f": "fp32", "a": "int8"}.get(form, "bf16")
        return "dot " + ("gaussian" if gaussian == "1" else "signs"), dtype
    found = re.search(r"Form(?:I(f)|I\w*?(4bf16|4fp16)E)Lb(\d)ELb(\d)E(.*)", name)
    wide, narrow, gaussian, stochastic, rest = found.groups()
    sequence = "SequenceForm" in name
    kind, form = (None, rest[0]) if sequence else re.match(r".*?KindE(\d)E(\w)", rest).groups()
    words = [
        "sequence of" if sequence else ("", "targeted", "many")[int(kind)],
        "gaussian" if gaussian == "1" else "signs",
        kept.get(form, "kept bf16"),
        "stochastic" if stochastic == "1" else "",
    ]
    return " ".join(filter(None, words)), "fp32" if wide else narrow[1:]


def cuda_rows(folder: Path) -> list[dict]:
    if (nvcc := find_nvcc()) is None:
        print("SKIPPED: the CUDA kernels (nvcc is not on the PATH)", file=sys.stderr)
        return []
    rows = []
    for name in ("add_noise", "sequence", "noise_dots"):
        output(
            nvcc, "-std=c++17", "-O3", f"-arch=sm_{ARCH}", "--fmad=false", "-w", "-cubin",
            f"-I{ROOT / 'csrc/include'}", "--keep", "--keep-dir", str(folder),
            "-o", str(folder / f"{name}.cubin"), str(ROOT / f"csrc/cuda/{name}.cu"),
        )  # fmt: skip
        ptx = (folder / f"{name}.ptx").read_text()
        rows += measure(folder / f"{name}.cubin", ptx, describe_cuda, walks=True)
    return [{"backend": "cuda", **row} for row in rows]


def triton_rows(folder: Path) -> list[dict]:
    if importlib.util.find_spec("triton") is None:
        print("SKIPPED: the Triton kernels (triton is not installed)", file=sys.stderr)
        return []
    os.environ.pop("TRITON_INTERPRET", None)
    sys.path.insert(0, str(ROOT))
    import linear_report
    import triton
    from triton_compile import VARIANTS, compile_variant

    rows = []
    for kind, dtype, variant in VARIANTS:
        cubin, ptx = compile_variant(dtype, variant, ARCH)
        path = folder / "triton.cubin"
        path.write_bytes(cubin)
        rows += measure(path, ptx, lambda _, k=kind, d=dtype: (k, d), walks=False)
    rows += linear_report.rows(folder, ARCH, resources, output, tool)
    return [{"backend": f"triton {triton.__version__}", **row} for row in rows]


def judge(row: dict) -> list[str]:
    """What is wrong with a kernel; empty if nothing."""
    name = f"{row['backend']} {row['kernel']} {row['dtype']}"
    wrong = [f"{name} has {op}" for op in row["forbidden"]]
    budget = BUDGETS.get(row["kernel"])
    if budget is not None and row["per_element"] > budget:
        wrong.append(f"{name}: {row['per_element']:.3f} instructions, the budget is {budget}")
    if row.get("shared", 0) > SHARED:
        wrong.append(f"{name}: {row['shared']} bytes of shared memory, {SHARED} are allowed")
    if row["spilled"]:
        wrong.append(f"{name}: {row['spilled']} bytes of registers spilled, 0 are allowed")
    return wrong


def show(rows: list[dict]) -> None:
    print(f"{'backend':14}{'kernel':40}{'dtype':7}{'instr/el':>9}{'budget':>8}{'a seed':>8}"
          f"{'regs':>6}{'spilled':>9}{'code':>7}")  # fmt: skip
    for r in sorted(rows, key=lambda r: (r["backend"], r["kernel"], r["dtype"])):
        budget = BUDGETS.get(r["kernel"], "")
        seed = "" if r["further_seed"] is None else f"{sum(r['further_seed'].values()):.2f}"
        print(f"{r['backend']:14}{r['kernel']:40}{r['dtype']:7}{r['per_element']:9.2f}"
              f"{budget:>8}{seed:>8}{r['registers']:6}{r['spilled']:9}{r['code']:7}")  # fmt: skip


def nvcc_release() -> str:
    nvcc = find_nvcc()
    found = re.search(r"release [\d.]+", output(nvcc, "--version")) if nvcc else None
    return found[0] if found else "none"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="file to write the rows to")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = triton_rows(Path(folder)) + cuda_rows(Path(folder))
    show(rows)
    if asked.json:
        limits = {"budgets": BUDGETS}
        record(
            asked.json, {"arch": f"sm_{ARCH}", "nvcc": nvcc_release(), **limits, "kernels": rows}
        )
    wrong = [line for row in rows for line in judge(row)]
    if not rows:
        wrong = ["nothing was checked: there is neither nvcc nor triton"]
    checked = " and ".join(sorted({row["backend"].split()[0] for row in rows}))
    print(
        "\n".join(["", *wrong])
        if wrong
        else f"\n{checked}: all within their budgets; no fma, no ftz"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
