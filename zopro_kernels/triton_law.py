"""The noise law as Triton device functions, each the mirror of one in csrc/include/zopro/noise.h.

Unsigned arithmetic throughout: words, keys and parameters are uint32, block indices uint64.
Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11 (Philox4x32-10).
"""

from __future__ import annotations

import triton
import triton.language as tl

RADEMACHER = tl.constexpr(0)  # the law's domains
GAUSSIAN = tl.constexpr(1)
ROUNDING = tl.constexpr(2)

# Compiled casts are PTX cvt.rn: they round as nearest16 does, NaN included. The interpreter's do
# not promise that, so there 16-bit tensors travel as integers and the bits are made by hand.
INTERPRETED = bool(triton.knobs.runtime.interpret)
NATIVE = tl.constexpr(not INTERPRETED)


# Of the 64-bit product in Triton's own terms ptxas makes an addition of zero more: 2.5 instructions
# a Gaussian.
_WIDE = tl.constexpr("{ .reg .b64 p; mul.wide.u32 p, $2, $3; mov.b64 {$1, $0}, p; }")


@triton.jit
def _mul_wide(a, factor: tl.constexpr):
    """High and low words of the 64-bit product: one machine instruction, where umulhi takes two."""
    if NATIVE:
        f = tl.full((), factor, tl.uint32)
        return tl.inline_asm_elementwise(
            _WIDE, "=r,=r,r,r", [a, f], (tl.uint32, tl.uint32), True, 1
        )
    product = a.to(tl.uint64) * factor
    return (product >> 32).to(tl.uint32), product.to(tl.uint32)


@triton.jit
def philox4x32_10(c0, c1, c2, c3, k0, k1):
    """Ten rounds on uint32 tensors of one shape; returns a tuple of four."""
    for _ in tl.static_range(10):
        h0, l0 = _mul_wide(c0, 0xD2511F53)
        h1, l1 = _mul_wide(c2, 0xCD9E8D57)
        c0, c1, c2, c3 = h1 ^ c1 ^ k0, l1, h0 ^ c3 ^ k1, l0
        k0 += 0x9E3779B9
        k1 += 0xBB67AE85
    return c0, c1, c2, c3


@triton.jit
def random_words(block, DOMAIN: tl.constexpr, seed, param, stream):
    """The four uint32 words of each call `block` (uint64 [n]); seed uint64, others uint32."""
    high = (block >> 32).to(tl.uint32) | (DOMAIN << 29)
    zero = high ^ high
    return philox4x32_10(
        block.to(tl.uint32), high, zero + param, zero + stream,
        seed.to(tl.uint32), (seed >> 32).to(tl.uint32),
    )  # fmt: skip


@triton.jit
def signed(coeff, word, ROW: tl.constexpr):
    """coeff * sign for one tile row: fp32 [n, 8] from a scalar and the row's words (uint32 [n]).

    The sign is bit 8 * (ROW & 3) + sub of word ROW >> 2 of the call; -c is c with its sign bit
    turned, so nothing is rounded.
    """
    sub = tl.arange(0, 8)[None, :].to(tl.uint32)
    turn = (word[:, None] << (31 - 8 * (ROW & 3) - sub)) & 0x80000000
    return (turn ^ coeff.to(tl.uint32, bitcast=True)).to(tl.float32, bitcast=True)


@triton.jit
def eight(x0, x1, x2, x3, x4, x5, x6, x7):
    """Eight [n] tensors as the columns of [n, 8]."""
    even = tl.join(tl.join(x0, x4), tl.join(x2, x6))
    odd = tl.join(tl.join(x1, x5), tl.join(x3, x7))
    return tl.reshape(tl.join(even, odd), (x0.shape[0], 8))


@triton.jit
def _look_up(table, word):
    low = tl.load(table + ((word >> 2) & 2047).to(tl.int32))
    return low, tl.load(table + ((word >> 18) & 2047).to(tl.int32))


@triton.jit
def gaussian8(words, table):
    """The eight values of each call: fp32 [n, 8]. Every sum of the Hadamard transform is exact."""
    w0, w1, w2, w3 = words
    a0, a1 = _look_up(table, w0)
    a2, a3 = _look_up(table, w1)
    a4, a5 = _look_up(table, w2)
    a6, a7 = _look_up(table, w3)
    b0, b1, b2, b3 = a0 + a1, a0 - a1, a2 + a3, a2 - a3
    b4, b5, b6, b7 = a4 + a5, a4 - a5, a6 + a7, a6 - a7
    c0, c2, c1, c3 = b0 + b2, b0 - b2, b1 + b3, b1 - b3
    c4, c6, c5, c7 = b4 + b6, b4 - b6, b5 + b7, b5 - b7
    return eight(
        c0 + c4, c1 + c5, c2 + c6, c3 + c7, c0 - c4, c1 - c5, c2 - c6, c3 - c7
    )  # fmt: skip


@triton.jit
def rounding_bits(block, seed, param):
    """The 16 random bits of elements 8 * block .. 8 * block + 7: uint32 [n, 8]."""
    w0, w1, w2, w3 = random_words(block, ROUNDING, seed, param, 0)
    return eight(
        w0 & 0xFFFF, w0 >> 16, w1 & 0xFFFF, w1 >> 16, w2 & 0xFFFF, w2 >> 16, w3 & 0xFFFF, w3 >> 16
    )


@triton.jit
def widen(x, DTYPE: tl.constexpr):
    """What `stored` says of DTYPE (16 bits, or the type itself) to fp32; exact."""
    if NATIVE or DTYPE == tl.float32 or DTYPE == tl.int8:
        return x.to(tl.float32)
    elif DTYPE == tl.bfloat16:
        return (x.to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    else:
        sign, mag = (x & 0x8000).to(tl.uint32) << 16, (x & 0x7FFF).to(tl.uint32)
        beyond = 0x7F800000 | ((mag & 0x3FF) << 13)
        small = (mag.to(tl.float32) * 5.9604644775390625e-08).to(tl.uint32, bitcast=True)  # 2^-24
        bits = tl.where(mag >= 0x0400, (mag << 13) + (112 << 23), small)
        return (sign | tl.where(mag >= 0x7C00, beyond, bits)).to(tl.float32, bitcast=True)


@triton.jit
def nearest16(u, DTYPE: tl.constexpr):
    """fp32 bits (uint32) to the 16 bits of DTYPE, ties to even; every NaN becomes 0x7FFF."""
    mag = u & 0x7FFFFFFF
    if DTYPE == tl.bfloat16:
        rounded = (u + 0x7FFF + ((u >> 16) & 1)) >> 16
    else:
        k = 126 - tl.minimum(tl.maximum(mag >> 23, 100), 112)  # bits dropped below 2^-14
        m = (mag & 0x7FFFFF) | 0x800000
        small = tl.where(mag < (101 << 23), 0, (m + ((1 << (k - 1)) - 1) + ((m >> k) & 1)) >> k)
        normal = ((mag + 0xFFF + ((mag >> 13) & 1)) >> 13) - (112 << 10)
        rounded = tl.where(mag >= (113 << 23), normal, small)
        rounded = tl.where(mag >= (143 << 23), 0x7C00, rounded) | ((u >> 16) & 0x8000)
    return tl.where(mag > 0x7F800000, 0x7FFF, rounded)


@triton.jit
def stochastic16(u, r, DTYPE: tl.constexpr):
    """fp32 bits to the 16 bits of DTYPE: up with probability (dropped part), by 16 bits r each."""
    mag = u & 0x7FFFFFFF
    if NATIVE and DTYPE == tl.bfloat16:
        # Infinities stay where no bits are added; so does the only NaN that the hardware's sums and
        # products give, 0x7FFFFFFF (PTX ISA, floating-point NaN payloads): no test an element.
        return (u + tl.where(mag < 0x7F800000, r, 0)) >> 16
    if DTYPE == tl.bfloat16:
        up = (u + r) >> 16
        beyond = mag >= 0x7F800000
    else:
        exponent = mag >> 23
        k = 126 - tl.minimum(tl.maximum(exponent, 95), 112)
        m = (mag & 0x7FFFFF) | 0x800000
        drawn = tl.where(k >= 16, r << (tl.maximum(k, 16) - 16), r >> (16 - tl.minimum(k, 16)))
        small = tl.where(exponent < 95, 0, (m + drawn) >> k)  # under 2^-31: never up
        normal = ((mag + (r >> 3)) >> 13) - (112 << 10)
        up = tl.where(mag >= (113 << 23), normal, small) | ((u >> 16) & 0x8000)
        beyond = mag >= (143 << 23)
    return tl.where(beyond, nearest16(u, DTYPE), up)


@triton.jit
def narrow(acc, r, DTYPE: tl.constexpr, STOCHASTIC: tl.constexpr):
    """fp32 to what is stored; r is read if STOCHASTIC: the 16 random bits (uint32)."""
    if DTYPE == tl.float32:
        return acc
    elif STOCHASTIC:
        bits = stochastic16(acc.to(tl.uint32, bitcast=True), r, DTYPE).to(tl.uint16)
        return bits.to(DTYPE, bitcast=True) if NATIVE else bits
    elif NATIVE:
        return acc.to(DTYPE)
    else:
        return nearest16(acc.to(tl.uint32, bitcast=True), DTYPE).to(tl.uint16)
