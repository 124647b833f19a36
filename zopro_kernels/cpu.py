"""Backend "cpu": the C++ kernels of csrc/cpu on host tensors."""

from __future__ import annotations

import importlib
from dataclasses import replace
from types import ModuleType

import torch
from torch import Tensor

from .passes import Dots, Pass, on_device, part_of
from .reference_law import LAW

_DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}

_native: ModuleType | None = None
try:
    _native = importlib.import_module("zopro_kernels._cpu")
    _reason = "available"
    if _native.LAW != LAW:
        _reason = f"built for law {_native.LAW}, this package has law {LAW}: install it again"
except ModuleNotFoundError:
    _reason = "not built: the C++ module needs a compiler when zopro is installed"
except ImportError as error:  # built for another machine, say
    _reason = f"the C++ module does not load: {error}"


def status() -> str:
    """Either "available" or, in a few words, why this backend cannot serve here."""
    return _reason


def supports(device: torch.device) -> bool:
    """Whether this backend works on tensors of `device`."""
    return device.type == "cpu"


def instruction_set() -> str:
    """What run-time dispatch chose: "avx512", "avx2" or "baseline"."""
    return _native.instruction_set()


def _addresses(tensors: list[Tensor] | None) -> list[int]:
    return [t.data_ptr() for t in tensors or ()]


def _unsigned(values: list[int] | Tensor, bits: int) -> list[int]:
    """What a tensor here holds lies in memory that the host reads; tolist() does no more."""
    if isinstance(values, Tensor):
        return [value & ((1 << bits) - 1) for value in values.tolist()]
    return values


def _only_live(p: Pass) -> Pass:
    live = [True] if p.live is None else p.live.tolist()
    if all(live):
        return p
    rows = [t for t, alive in enumerate(live) if alive]
    if not rows:
        return replace(p, tensors=[])
    others = {
        name: None if given is None else [given[t] for t in rows]
        for name, given in (("prev", p.prev), ("v", p.v))
    }
    return part_of(p, [p.tensors[t] for t in rows], rows, [0] * len(rows), **others)


def add_noise_(p: Pass) -> None:
    """Performs the pass in place."""
    p = _only_live(on_device(p))
    if not p.tensors:
        return
    seed = p.rounding_seed
    (seed,) = _unsigned(seed.view(1), 64) if isinstance(seed, Tensor) else (seed,)
    # Held here, so that the addresses below are those of living memory.
    floats = [x.contiguous() for x in (p.coeffs, p.decay, p.prev_coeffs, p.v_coeffs)]
    _native.add_noise(
        _addresses(p.tensors), _addresses(p.prev), _addresses(p.v),
        [t.numel() for t in p.tensors], p.offsets, p.params, _unsigned(p.seeds, 64),
        _unsigned(p.streams, 32), *_addresses(floats), _DTYPES[p.tensors[0].dtype],
        p.distribution == "gaussian", p.stochastic, seed, torch.get_num_threads(),
    )  # fmt: skip


def noise_dots(d: Dots) -> Tensor:
    """int64 [T, 2]: v.n in units of 2^-40 and n.n in units of 2^-24."""
    sums = _native.noise_dots(
        _addresses(d.vectors), [v.numel() for v in d.vectors], d.offsets, d.params, d.seed,
        d.stream, d.distribution == "gaussian", torch.get_num_threads(),
    )  # fmt: skip
    return torch.tensor(sums, dtype=torch.int64).view(-1, 2)
