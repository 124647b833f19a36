"""Passes and reductions that every device backend is compared with the reference on."""

import torch
from torch import Tensor

from zopro_kernels import passes
from zopro_kernels.passes import joined
from zopro_kernels.stored import quantise

SIZES = (1, 3, 1023, 4096, 100003)
OFFSETS = (5, 2**33 + 1, 8, 0, 2**40 + 16)  # odd, past 2^32, and multiples of 8
PARAMS = (0, 7, 2**32 - 1, 3, 9)
SEEDS = (2**64 - 1, 1, 2**63 + 5)
STREAMS = (0, 2**32 - 1, 3)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def Pass(
    tensors, params, offsets, distribution, seeds, streams, coeffs, decay, prev=None,
    prev_coeffs=None, v=None, v_coeffs=None, stochastic=False, rounding_seed=0,
) -> passes.Pass:  # fmt: skip
    """A pass of numbers and of tensors [T] and [T, K], every tensor live."""
    zero, device = torch.zeros_like(decay), tensors[0].device
    columns = [decay, zero if prev_coeffs is None else prev_coeffs,
               zero if v_coeffs is None else v_coeffs, zero + 1.0]  # fmt: skip
    floats = torch.cat([torch.stack(columns, dim=1), coeffs], dim=1).to(device)
    return passes.Pass(
        tensors, params, offsets, distribution, joined([[rounding_seed], seeds, streams], device),
        floats, prev, v, stochastic,
    )  # fmt: skip


def Dots(vectors, params, offsets, distribution, seed, stream) -> passes.Dots:
    integers = joined([[0, seed, stream]], vectors[0].device)
    return passes.Dots(vectors, params, offsets, distribution, integers)


def weights(dtype: torch.dtype, device: str, sizes: tuple[int, ...] = SIZES) -> list[Tensor]:
    """One tensor a size, magnitudes from fp16's subnormals to its overflow, infinities too."""
    generator = torch.Generator().manual_seed(0)
    out = []
    for size in sizes:
        exponent = torch.empty(size).uniform_(-9, 5, generator=generator)
        x = torch.randn(size, generator=generator) * 10**exponent
        x[size // 2 :: 997] = float("inf")
        out.append(x.to(dtype).to(device))
    return out


KEPT = {  # forms of prev and v: name -> (fp32 tensor, offset) to what is kept
    "fp32": lambda x, offset: x,
    "bf16": lambda x, offset: x.to(torch.bfloat16),
    "int8": quantise,
}


def make_pass(
    dtype: torch.dtype,
    device: str,
    distribution: str,
    seeds: int = 1,
    *,
    stochastic: bool = False,
    prev: bool = False,
    v: bool = False,
    form: str = "fp32",
    sizes: tuple[int, ...] = SIZES,
) -> passes.Pass:
    """A pass over `sizes` at OFFSETS (of fewer tensors their last); the same arguments give the
    same pass on any device."""
    generator = torch.Generator().manual_seed(1)

    def companion() -> list[Tensor]:
        return [
            KEPT[form](torch.randn(size, generator=generator), offset).to(device)
            for size, offset in zip(sizes, offsets)
        ]

    count = len(sizes)
    offsets = list(OFFSETS[-count:])
    return Pass(
        tensors=weights(dtype, device, sizes),
        params=list(PARAMS[-count:]),
        offsets=offsets,
        distribution=distribution,
        seeds=list(SEEDS[:seeds]),
        streams=list(STREAMS[:seeds]),
        coeffs=torch.randn(count, seeds, generator=generator),
        decay=torch.tensor([1.0, 0.99, 1.0, 0.5, 0.999])[-count:],
        prev=companion() if prev else None,
        prev_coeffs=torch.linspace(-1, 1, count) if prev else None,
        v=companion() if v else None,
        v_coeffs=torch.linspace(2, 1, count) if v else None,
        stochastic=stochastic,
        rounding_seed=2**63 + 11,
    )


# Which of prev and v take part in a sequence, and their form.
TARGETS = [("", "fp32"), ("prev", "fp32"), ("v", "bf16"), ("prev v", "int8"), ("prev v", "fp32")]
SEEDS_OF_RECORDS = (1, 0, 2, 1)


def options_of(targets: str, form: str, stochastic: bool) -> dict:
    """Options of `make_sequence`; targets, form: of TARGETS."""
    return {"stochastic": stochastic, "prev": "prev" in targets, "v": "v" in targets.split(),
            "form": form}  # fmt: skip


def make_sequence(dtype: torch.dtype, device: str, distribution: str, **options):
    """Records over the tensors of `make_pass` (its options): seeds, coefficients and rounding
    seeds of their own; the second leaves the last tensor alone, the last one all tensors."""
    first = make_pass(dtype, device, distribution, **options)
    generator, records = torch.Generator().manual_seed(4), []
    for r, seeds in enumerate(SEEDS_OF_RECORDS):
        floats = torch.rand(len(first.tensors), 4 + seeds, generator=generator) - 0.5
        floats[:, 0] = 1.0 - 0.01 * r  # decay
        floats[:, 3] = float(r < 3)
        floats[-1, 3] *= r != 1
        numbers = [[2**63 + 11 + r], [SEEDS[k] - r for k in range(seeds)], list(STREAMS[:seeds])]
        records.append((joined(numbers, torch.device(device)), floats.to(device)))
    return passes.PassSequence(
        first.tensors, first.params, first.offsets, distribution, records, first.prev, first.v,
        first.stochastic,
    )  # fmt: skip


def make_dots(device: str, distribution: str, form: str = "fp32") -> passes.Dots:
    generator = torch.Generator().manual_seed(2)
    vectors = [
        KEPT[form](torch.randn(size, generator=generator), offset).to(device)
        for size, offset in zip(SIZES, OFFSETS)
    ]
    return Dots(vectors, list(PARAMS), list(OFFSETS), distribution, SEEDS[0], STREAMS[1])


def misaligned(dtype: torch.dtype, device: str) -> list[Tensor]:
    """Views whose first element lies 1, 2 and 8 elements past a 16-byte boundary."""
    starts = (1, 2, 8)
    storages = weights(dtype, device, (9100,) * len(starts))
    return [storage[start : start + 9000] for start, storage in zip(starts, storages)]
