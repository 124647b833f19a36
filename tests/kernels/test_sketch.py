"""The sketch: bits of the backends, its law, its algebra, its arguments."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from kernels.bits import assert_same_bits
from kernels.cases import DTYPES

import zopro_kernels as zk
from zopro_kernels import cpu
from zopro_kernels.sketch_law import BLOCK, CHUNK

ROOT = Path(__file__).parents[2]
NATIVE = zk.backends()["cpu"] == "available"
native = pytest.mark.skipif(not NATIVE, reason=f"no C++ module: {zk.backends()['cpu']}")
# (elements, offset, param): single, edges of blocks and chunks, indices past 2^32
PIECES = ((1, 0, 5), (127, 2**33 + 5, 1), (BLOCK, 3, 2), (1023, CHUNK - 100, 3),
          (CHUNK + 9001, 3 * CHUNK - 1, 4), (20_011, 2**40 + 77, 2**32 - 1))  # fmt: skip


def every_case(backend: str) -> list[torch.Tensor]:
    g, out = torch.Generator().manual_seed(0), []
    numels, offsets, params = zip(*PIECES)
    for dtype in DTYPES:
        tensors = [torch.randn(n, generator=g).to(dtype) for n in numels]
        for dim in (128, 8192, 16384):
            out.append(
                zk.sketch(tensors, 2**64 - 3, dim, params=params, offsets=offsets, stream=7,
                          groups=[0, 2, 0, 1, 2, 1], backend=backend)
            )  # fmt: skip
    return out


@pytest.fixture(scope="module")
def expected() -> list[torch.Tensor]:
    return every_case("reference")


@native
def test_cpu_has_the_references_bits(expected):
    for i, (a, b) in enumerate(zip(every_case("cpu"), expected)):
        assert_same_bits(a, b, f"case {i}")


@native
@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set(isa, expected):
    if isa == cpu.instruction_set():
        pytest.skip("the test above ran this one")
    code = (
        "import sys, hashlib; from kernels.test_sketch import every_case, digest; "
        "from zopro_kernels import cpu; assert cpu.instruction_set() == sys.argv[1]; "
        "print(digest(every_case('cpu')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, isa],
        env={**os.environ, "ZOPRO_CPU_ISA": isa, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
    )
    if "not on this processor" in done.stderr:
        pytest.skip(f"this processor has no {isa}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == digest(expected)


def digest(tensors: list[torch.Tensor]) -> str:
    return hashlib.sha256(b"".join(t.numpy().tobytes() for t in tensors)).hexdigest()


@native
def test_thread_count_does_not_matter():
    threads, found = torch.get_num_threads(), []
    x = torch.randn(700_001)
    try:
        for count in (1, 2, 7):
            torch.set_num_threads(count)
            found.append(zk.sketch([x, x[:5], x[:0], x[9:]], 1, 1024, backend="cpu"))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert_same_bits(other, found[0])


def test_the_law():
    """Each element goes to one number with one sign, as sketch.h says in words: integers here."""
    seed, param, stream, dim, first = 2**63 + 9, 6, 3, 1024, 2**34 + 640
    for i in (0, 1, 127, 128, 1000):
        one = torch.zeros(1001)
        one[i] = 1.0
        found = zk.sketch([one], seed, dim, params=[param], offsets=[first], stream=stream)
        (where,) = found.nonzero().flatten().tolist()
        block, inside = (first + i) >> 7, (first + i) & 127
        word = philox(block >> 2, 4, seed, param, stream)[block & 3]
        place = 128 * (((word >> 7) * (dim // 128)) >> 25) + (inside ^ (word & 127))
        bit = philox(block, 3, seed, param, stream)[inside >> 5] >> (inside & 31) & 1
        assert (where, found[where].item()) == (place, -1.0 if bit else 1.0)


def philox(call: int, domain: int, seed: int, param: int, stream: int) -> list[int]:
    c = [call & 0xFFFFFFFF, (call >> 32) | domain << 29, param, stream]
    k = [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        p, q = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(q >> 32) ^ c[1] ^ k[0], q & 0xFFFFFFFF, (p >> 32) ^ c[3] ^ k[1], p & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def test_it_is_linear_and_leaves_the_weights():
    x, y = torch.randn(2, 5000).mul_(16).round_()  # integers: sums are exact
    before = x.clone()
    a, b, c = (zk.sketch([t], 3, 256) for t in (x, y, x - y))
    assert torch.equal(a - b, c) and torch.equal(x, before)


def test_shards_tensors_and_groups_add_up():
    x, y = torch.randn(CHUNK + 5000), torch.randn(3000)
    whole = zk.sketch([x, y], 3, 512)
    parts = [zk.sketch([x[:CHUNK]], 3, 512), zk.sketch([x[CHUNK:]], 3, 512, offsets=[CHUNK]),
             zk.sketch([y], 3, 512, params=[1])]  # fmt: skip
    assert_same_bits(sum(parts[1:], parts[0]), whole)
    groups = zk.sketch([x, y], 3, 512, groups=[1, 0])
    assert_same_bits(groups[0], parts[2])
    assert_same_bits(groups[0] + groups[1], parts[0] + parts[1] + parts[2])
    cut = zk.sketch([x[:777]], 3, 512) + zk.sketch([x[777:]], 3, 512, offsets=[777])
    torch.testing.assert_close(cut, parts[0] + parts[1], rtol=0, atol=1e-4)


def test_strides_do_not_matter():
    w = torch.randn(700, 1300)
    cube = torch.randn(3, 50, 2, 999)
    for x in (w.t(), w[:, 3:], w[::3, ::2], cube.permute(2, 0, 3, 1), w[0, :1].expand(1)):
        whole = zk.sketch([x.contiguous()], 3, 256, offsets=[77])
        assert_same_bits(zk.sketch([x], 3, 256, offsets=[77]), whole, str(x.stride()))
        mixed = zk.sketch([w[0], x, w[1].bfloat16()], 3, 256)
        assert_same_bits(mixed, zk.sketch([w[0], x.contiguous(), w[1].bfloat16()], 3, 256))


def test_folded_it_is_a_sketch_of_fewer_numbers():
    """Not the bits of another dim, but its law: elements that meet keep their signs' product."""
    x = torch.randn(4000, dtype=torch.float64)
    x = (x / x.norm()).float()
    folded = torch.stack([zk.sketch([x], s, 2048).view(8, 256).sum(0) for s in range(400)])
    assert abs(folded.square().sum(1).mean().item() - 1.0) < 4 * (2 / 256 / 400) ** 0.5


def test_values_that_are_not_finite_stay_where_they_are():
    x = torch.ones(300)
    x[7] = float("nan")
    assert zk.sketch([x], 3, 256).isnan().sum() == 1


@pytest.mark.parametrize("backend", ["reference", *(["cpu"] if NATIVE else [])])
def test_nothing_to_sketch_is_zero(backend):
    for tensors in ([], [torch.empty(0)], [torch.empty(3, 0)]):
        assert torch.equal(zk.sketch(tensors, 1, 128, backend=backend), torch.zeros(128).double())


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(dim=100), "dim=100 is not allowed: use a multiple of 128 up to 16384"),
        (dict(dim=65536), "dim=65536 is not allowed"),
        (dict(dim=0), "dim=0 is not allowed"),
        (dict(seed=-1), "seed has -1: it must be from 0"),
        (dict(groups=[0, 1]), "groups has 2 entries where 1 are needed"),
        (dict(params=[2**32]), "params has 4294967296"),
        (dict(offsets=[2**63 - 10]), "reaches past element"),
        (dict(stream=2**32), "stream has 4294967296"),
        (dict(tensors=[torch.ones(3).long()]), "tensors\\[0\\] has dtype torch.int64"),
        (dict(tensors=torch.ones(3)), "tensors is one tensor"),
        (dict(backend="gpu"), "backend='gpu' is not a backend"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        zk.sketch(**{"tensors": [torch.ones(3)], "seed": 1, **arguments})
