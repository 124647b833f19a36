"""The C++ kernels against the reference, bit by bit, for every instruction set and thread count."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from kernels.bits import assert_same_bits
from kernels.cases import DTYPES, KEPT
from kernels.teams import team_of

import zopro_kernels as zk

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(
    zk.backends()["cpu"] != "available",
    reason=f"the C++ module is not there: {zk.backends()['cpu']}",
)


@pytest.mark.parametrize("distribution", ["rademacher", "gaussian"])
def test_four_million_elements(distribution):
    kw = dict(distribution=distribution, param=7, stream=1, offset=2**32 - 1234)
    drawn = [zk.noise(4_000_000, 3, backend=b, **kw) for b in ("cpu", "reference")]
    assert_same_bits(*drawn, distribution)


def run_every_case(backend: str) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    out = []
    cases = itertools.product(
        ("rademacher", "gaussian"), (torch.float32, torch.bfloat16, torch.float16),
        ("nearest", "stochastic"), (0, 1, 3),
        ((0, None), (5, "fp32"), (5, "bf16"), (5, "int8"), (2**33 + 4093, None)),
        (1, 1023, 20_011),
    )  # fmt: skip
    for distribution, dtype, rounding, k, (offset, form), numel in cases:
        x = (torch.randn(numel, generator=g) * 10 ** (-8 * torch.rand(numel, generator=g))).to(
            dtype
        )
        x[: min(numel, 6)] = torch.tensor([float("nan"), float("inf"), -65519, 7e4, 1e-7, -0.0])[
            : min(numel, 6)
        ]
        more = {}
        if form is not None:
            prev, v = (KEPT[form](x, offset) for x in torch.randn(2, numel, generator=g))
            more = dict(prev=[prev], prev_coeffs=0.3, v=[v], v_coeffs=-0.2)
            norms = torch.ones(1, dtype=torch.float64)
            out.append(zk.noise_dots([v], k, offsets=[offset], distribution=distribution,
                                     norms=norms, backend=backend))  # fmt: skip
        zk.add_noise_(
            [x], [2**63 + j for j in range(k)], [0.01 * (j + 1) for j in range(k)], decay=0.9,
            streams=list(range(k)), offsets=[offset], distribution=distribution,
            rounding=rounding, rounding_seed=9, backend=backend, **more,
        )  # fmt: skip
        out.append(x)
    return out


@pytest.fixture(scope="module")
def expected() -> list[torch.Tensor]:
    return run_every_case("reference")


def test_every_case(expected):
    for i, (a, b) in enumerate(zip(run_every_case("cpu"), expected)):
        assert_same_bits(a, b, f"case {i}")


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set(isa, expected, tmp_path):
    """The dispatch is decided once a process, so each set runs in its own."""
    code = (
        "import sys, torch; from kernels.test_cpu import run_every_case; "
        "from zopro_kernels import cpu; assert cpu.instruction_set() == sys.argv[1]; "
        "torch.save(run_every_case('cpu'), sys.argv[2])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, isa, str(tmp_path / "out.pt")],
        env={**os.environ, "ZOPRO_CPU_ISA": isa, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
    )
    if "not on this processor" in done.stderr:
        pytest.skip(f"this processor has no {isa}")
    assert done.returncode == 0, done.stderr
    for i, (a, b) in enumerate(zip(torch.load(tmp_path / "out.pt"), expected)):
        assert_same_bits(a, b, f"{isa}, case {i}")


def test_past_two_to_the_31_elements():
    numel = 2**31 + 4099
    if psutil.virtual_memory().available < 3 * 2 * numel:
        pytest.skip("needs 13 GB of free memory")
    x = torch.zeros(numel, dtype=torch.bfloat16)
    zk.add_noise_([x], [5], [1.0], distribution="gaussian", backend="cpu")
    for start in (0, 2**31 - 10, numel - 5000):
        n = zk.noise(5000, 5, offset=start, distribution="gaussian", dtype=x.dtype)
        assert_same_bits(x[start : start + 5000], n[: numel - start], f"from {start}")


@pytest.mark.parametrize("form", [None, "fp32", "bf16", "int8"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("distribution", ["rademacher", "gaussian"])
def test_thread_count_does_not_matter(distribution, dtype, form):
    """Stores to nearest and stochastic, plain and targeted, and both sums, by 1, 2 and 7."""
    numels, kw = (70_001, 5, 0, 40_000), {}
    if form is not None:
        prev = [KEPT[form](torch.linspace(-2, 2, n), 0) for n in numels]
        kw = dict(prev=prev, prev_coeffs=0.3, v=prev, v_coeffs=-0.2)
    for rounding in ("nearest", "stochastic"):
        results = []
        for count in (1, 2, 7):
            found = [torch.ones(n, dtype=dtype) for n in numels]

            def run(found=found, rounding=rounding):
                zk.add_noise_(found, [1, 2], [0.1, -0.2], distribution=distribution, decay=0.9,
                              rounding=rounding, backend="cpu", **kw)  # fmt: skip
                vectors = prev if form else [t.float() / 300 for t in found]
                norms = torch.ones(len(numels), dtype=torch.float64)
                found.append(zk.noise_dots(vectors, 1, distribution=distribution, norms=norms,
                                           backend="cpu"))  # fmt: skip

            assert team_of(run, count) == count
            results.append(found)
        for other in results[1:]:
            for t, (a, b) in enumerate(zip(other, results[0])):
                assert_same_bits(a, b, f"{rounding}, tensor {t}")


def test_no_wide_instruction_leaks_into_shared_functions(tmp_path):
    """kernels.h: what an AVX file emits, no other file may emit too, or the linker may keep it."""
    flags = ["-std=c++17", "-O3", "-fopenmp", "-march=x86-64-v4", "-DZOPRO_ISA=avx512", "-w"]
    for name in ("add_noise", "noise_dots", "sketch"):
        source, target = ROOT / f"csrc/cpu/{name}.cpp", tmp_path / f"{name}.o"
        try:
            subprocess.run(
                ["g++", *flags, f"-I{ROOT}/csrc/include", "-c", source, "-o", target], check=True
            )
        except (FileNotFoundError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no g++ for x86-64 here: {error}")
        symbols = subprocess.run(
            ["nm", "-C", "--defined-only", target], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        assert any("zopro::cpu::avx512::" in s for s in symbols)
        shared = [s for s in symbols if " W " in s and "zopro::cpu::avx512::" not in s]
        assert not shared, shared
