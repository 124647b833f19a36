"""Every pair of available backends over 10^8 elements: 0 mismatches, or exit code 1.

TRITON_INTERPRET=1 python benchmarks/bit_equality.py --elements 100000000
"""

from __future__ import annotations

import argparse
import sys
import time

import torch
from harness import RESULTS, record

import zopro_kernels as zk

CHUNK = 1 << 22
START = 2**32 - 12_345  # odd, and past 2^32 on the way


def draw(backend: str, distribution: str, offset: int, count: int, device: str) -> torch.Tensor:
    """bf16 weights after a pass with stochastic rounding: noise and rounding bits in one."""
    x = torch.linspace(-2, 2, count).to(device)
    zk.add_noise_([x], [7], [0.3], offsets=[offset], distribution=distribution, backend=backend)
    y = x.bfloat16()
    zk.add_noise_([y], [8], [0.01], offsets=[offset], distribution=distribution,
                  rounding="stochastic", backend=backend)  # fmt: skip
    return torch.cat([x.view(torch.int32), y.view(torch.int16).int()]).cpu()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--elements", type=int, default=100_000_000)
    parser.add_argument("--out", default=RESULTS / "bit_equality.json")
    args = parser.parse_args()
    backends = [name for name, state in zk.backends().items() if state == "available"]
    device = {b: "cuda" if b in ("cuda", "triton") and torch.cuda.is_available() else "cpu"
              for b in backends}  # fmt: skip
    mismatches = {f"{b} against reference": 0 for b in backends[1:]}
    seconds = dict.fromkeys(backends, 0.0)
    for distribution in ("rademacher", "gaussian"):
        for done in range(0, args.elements, CHUNK):
            count, results = min(CHUNK, args.elements - done), {}
            for b in backends:
                start = time.perf_counter()
                results[b] = draw(b, distribution, START + done, count, device[b])
                seconds[b] += time.perf_counter() - start
            for b in backends[1:]:  # equal to the reference: equal to each other
                differ = int((results[b] != results[backends[0]]).sum())
                mismatches[f"{b} against reference"] += differ
    result = {
        "elements": args.elements, "distributions": ["rademacher", "gaussian"],
        "passes": ["fp32 nearest", "bf16 stochastic"], "backends": backends,
        "mismatches": mismatches, "seconds": seconds,
    }  # fmt: skip
    record(args.out, result)
    print(result)
    return int(any(mismatches.values()) or len(backends) < 2)


if __name__ == "__main__":
    sys.exit(main())
