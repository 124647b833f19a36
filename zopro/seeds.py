"""Seeds of steps and roundings: a hash of base seed and counter, on the host or the device."""

from __future__ import annotations

from functools import lru_cache

from torch import Tensor

MASK = (1 << 64) - 1

# First word of the hash: what a seed is for. Two purposes never share a seed.
DIRECTION, ROUNDING, CALIBRATION = 0, 1, 2

_STEP, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def _mix(x: int) -> int:
    """The output function of splitmix64 (Steele, Lea, Flood, OOPSLA 2014): a bijection."""
    x = (x + _STEP) & MASK
    x = ((x ^ (x >> 30)) * _FIRST) & MASK
    x = ((x ^ (x >> 27)) * _SECOND) & MASK
    return x ^ (x >> 31)


def as_int64(value: int) -> int:
    """The int64 of a uint64's bits."""
    return value - 2**64 if value >= 2**63 else value


def _mix_tensor(x: Tensor) -> Tensor:
    """`_mix` of the uint64s whose bits the int64 `x` holds: sums and products wrap."""

    def folded(x: Tensor, by: int) -> Tensor:
        return x ^ ((x >> by) & (MASK >> by))  # the shift drags the sign in, the mask drops it

    x = folded(x + as_int64(_STEP), 30) * as_int64(_FIRST)
    return folded(folded(x, 27) * as_int64(_SECOND), 31)


@lru_cache(maxsize=64)
def _base(seed: int, purpose: int) -> int:
    return _mix(_mix(seed) ^ purpose)


def derive_seed(seed: int, purpose: int, counter: int | Tensor) -> int | Tensor:
    """A 64-bit seed from (base seed, purpose, counter); no global generator is involved.

    For one base seed and purpose, different counters below 2^64 give different seeds. From an
    int64 tensor of counters: int64 of its shape, on its device, a seed by its bits.
    """
    base = _base(seed, purpose)
    if isinstance(counter, Tensor):
        return _mix_tensor(counter ^ as_int64(base))
    return _mix(base ^ counter)
