"""Writes the law's raw bits to standard output, for a public battery of randomness tests.

    python benchmarks/raw_stream.py --bytes 1e12 | dieharder -a -g 200

The bits are the signs n < 0 in element order: all the words of Philox that the law draws for one
tensor after the other, 2^27 elements each, first over parameters, then streams, then seeds, as an
optimizer's steps would. `--battery FILE` runs dieharder itself and keeps its verdicts as JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from harness import record

import zopro_kernels as zk

CHUNK = 1 << 22
TENSOR = 1 << 27
# Every test of dieharder but those its manual calls broken or suspect (5, 6, 7, 14). "201:3" is
# test 201 in 3 dimensions: without a number that test gets 0 and fails every generator.
TESTS = [
    "100", "101", "102", "0", "8", "9", "15", "16", "2", "3", "10", "11", "12", "13", "1", "4",
    "17", "204", "205", "206", "207", "208", "209", "200", "201:2", "201:3", "201:4", "201:5",
    "202:2", "202:3", "202:4", "202:5", "203:1", "203:2", "203:4", "203:8",
]  # fmt: skip


def chunks() -> Iterator[bytes]:
    inner = list(itertools.product(range(4), range(4), range(0, TENSOR, CHUNK)))
    for seed in itertools.count(1):
        for stream, param, offset in inner:
            n = zk.noise(CHUNK, seed, param=param, stream=stream, offset=offset)
            yield np.packbits(n.numpy() < 0, bitorder="little").tobytes()


def pipe(limit: float) -> None:
    written = 0
    try:
        for data in chunks():
            sys.stdout.buffer.write(data)
            written += len(data)
            if written >= limit:
                return
    except BrokenPipeError:
        sys.stderr.close()  # the battery has seen enough


def dieharder(test: str, *options: str) -> Iterator[dict[str, Any]]:
    """Runs one of dieharder's tests on the start of the stream; a verdict for each of its parts."""
    number, _, ntup = test.partition(":")
    options = (*options, "-n", ntup) if ntup else options
    feed = subprocess.Popen([sys.executable, __file__], stdout=subprocess.PIPE)
    out = subprocess.run(
        ["dieharder", "-d", number, "-g", "200", *options],
        stdin=feed.stdout, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    feed.kill()
    for row in (line.split("|") for line in out.splitlines() if line.count("|") == 5):
        name, ntup, tsamples, psamples, p, verdict = map(str.strip, row)
        if name != "test_name":
            yield dict(asked=test, test=name, ntup=int(ntup), tsamples=int(tsamples),
                       psamples=int(psamples), p=float(p), verdict=verdict)  # fmt: skip


def battery(path: Path, tests: list[str]) -> None:
    """Verdicts of `tests` to `path`; those that are there already are kept.

    Among a hundred p-values a right stream has one below 0.01, which dieharder calls weak: such a
    test is run again in its mode that adds samples until the verdict is clear (-Y 1).
    """
    version = subprocess.run(["dieharder", "-h"], capture_output=True, text=True).stdout
    number = next((w for w in version.split() if w[:2] == "3."), "unknown")
    known = json.loads(path.read_text()) if path.exists() else {"verdicts": [], "resolved": []}
    verdicts, resolved = known["verdicts"], known["resolved"]
    for test in tests:
        if any(v["asked"] == test for v in verdicts):
            continue
        verdicts += (found := list(dieharder(test)))
        if any(v["verdict"] != "PASSED" for v in found):
            resolved += (again := list(dieharder(test, "-Y", "1")))
            print(*again, sep="\n", flush=True)
        print(*found, sep="\n", flush=True)
        record(path, {"battery": f"dieharder {number}", "law": zk.LAW,
                      "verdicts": verdicts, "resolved": resolved})  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bytes", type=float, default=float("inf"))
    parser.add_argument("--battery", type=Path, help="run dieharder, write its verdicts here")
    parser.add_argument("--tests", nargs="*", default=TESTS)
    args = parser.parse_args()
    battery(args.battery, args.tests) if args.battery else pipe(args.bytes)


if __name__ == "__main__":
    main()
