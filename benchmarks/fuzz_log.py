"""Damaged step logs: each is refused with a sentence, or read as a prefix of the true records.

python benchmarks/fuzz_log.py --count 1000000 --json benchmarks/results/fuzz_log.json
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
import zlib
from collections import Counter
from pathlib import Path

import harness
import torch

from zopro import StepLog, ZOPrO
from zopro.steplog import read_log


def true_log() -> bytes:
    """A log with a record of each kind."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "steps.zolog"
        params = [torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(2))]
        opt = ZOPrO([{"params": [p]} for p in params], eps=1e-2, restore="inplace")
        for part in range(2):
            with StepLog(path, opt):
                for i in range(4):
                    if i == part:
                        opt.set_targets([torch.ones(3), torch.ones(2)], steps=9)
                    if i == 2:
                        with opt.perturbed(0.5):
                            pass
                        opt.param_groups[1]["lr"] = 1e-3 / (1 + part)
                    opt.step(lambda: sum(p.square().sum() for p in params))
        return path.read_bytes()


def damaged(data: bytes, random_: random.Random, others: list[bytes]) -> tuple[str, bytes]:
    """`data` after one to three injuries, and the kind of the first."""
    out, first = bytearray(data), ""
    for _ in range(random_.choice((1, 1, 2, 3))):
        kind = random_.choice(INJURIES)
        first = first or kind.__name__
        kind(out, random_, others)
    return first, bytes(out)


def bits(out: bytearray, r: random.Random, _: list[bytes]) -> None:
    """One to eight bits are flipped."""
    for _i in range(r.randint(1, 8)):
        if out:
            out[r.randrange(len(out))] ^= 1 << r.randrange(8)


def cut(out: bytearray, r: random.Random, _: list[bytes]) -> None:
    """The end is missing."""
    del out[r.randrange(len(out) + 1) :]


def hole(out: bytearray, r: random.Random, _: list[bytes]) -> None:
    """Bytes in the middle are missing."""
    at = r.randrange(len(out) + 1)
    del out[at : at + r.randint(1, 200)]


def inserted(out: bytearray, r: random.Random, _: list[bytes]) -> None:
    """Bytes that are not its own stand in the middle or at the end."""
    at = r.randrange(len(out) + 1)
    out[at:at] = r.randbytes(r.randint(1, 100))


def doubled(out: bytearray, r: random.Random, others: list[bytes]) -> None:
    """A whole record (or the head) stands once more, anywhere."""
    at = r.randrange(len(out) + 1)
    out[at:at] = r.choice(others)


def removed(out: bytearray, r: random.Random, others: list[bytes]) -> None:
    """A whole record is missing."""
    found = out.find(record := r.choice(others))
    if found >= 0:
        del out[found : found + len(record)]


def lengths(out: bytearray, r: random.Random, _: list[bytes]) -> None:
    """Four bytes are a number at the edge of what a length may be."""
    at = r.randrange(max(1, len(out) - 4))
    value = r.choice((0, 1, 7, 2**16, 2**31 - 1, 2**31, 2**32 - 1, len(out)))
    out[at : at + 4] = value.to_bytes(4, "little")


INJURIES = (bits, cut, hole, inserted, doubled, removed, lengths)


def forged(data: bytes, r: random.Random) -> bytes:
    """The head's text damaged under a checksum that is right: what no accident makes."""
    length = int.from_bytes(data[12:16], "little")
    text = bytearray(data[16 : 16 + length])
    for _ in range(r.randint(1, 3)):
        at = r.randrange(len(text))
        text[at : at + r.randint(0, 3)] = r.choice(
            (b"9", b"-", b"{", b"]", b"null", b'"', b"1e999")
        )
    head = data[:12] + len(text).to_bytes(4, "little") + bytes(text)
    return head + zlib.crc32(head).to_bytes(4, "little") + data[20 + length :]


def fuzz(count: int, seed: int = 0) -> Counter:
    """Outcomes of `count` damaged logs; AssertionError for records that were never written."""
    data, r = true_log(), random.Random(seed)
    truth = read_log(data)
    pieces = [data[a:b] for a, b in zip([0, truth.begin, *truth.ends], [truth.begin, *truth.ends])]
    outcomes: Counter = Counter()
    for i in range(count):
        forge = i % 8 == 7
        kind, broken = ("forged", forged(data, r)) if forge else damaged(data, r, pieces)
        try:
            found = read_log(broken)
        except ValueError as error:
            assert len(str(error)) > 20, error
            outcomes[f"{kind}: refused"] += 1
            continue
        whole = found.records == truth.records[: len(found.records)] and found.head == truth.head
        # A forged head is another log's: its checksum is none of the records'.
        assert whole or (forge and not found.records), (i, kind)
        assert found.cut or broken[: found.size] == broken, (i, kind)
        outcomes[f"{kind}: {'cut' if found.cut else 'whole'}"] += 1
    return outcomes


def main() -> None:
    """Prints the outcomes; with --json records them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    began = time.perf_counter()
    outcomes = dict(sorted(fuzz(given.count, given.seed).items()))
    print(outcomes)
    if given.json:
        result = {"count": given.count, "seed": given.seed, "outcomes": outcomes,
                  "seconds": time.perf_counter() - began}  # fmt: skip
        harness.record(given.json, result)


if __name__ == "__main__":
    main()
