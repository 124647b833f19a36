"""Damaged step logs: each is refused with a sentence, or read as a prefix of the true records,
whose replay gives the true weights. Forged ones (under right checksums) are refused or replayed to
their end, with the true weights wherever a true mark follows.

python benchmarks/fuzz_log.py --count 1000000 --json benchmarks/results/fuzz_log.json

With --json the outcomes are added to those of other seeds; --seed gives each part its own.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import harness
import torch
from fuzz_forged import forged_head, forged_records
from fuzz_runs import Subject, subjects

from zopro import replay
from zopro.steplog import Log, layout, read_log

SECONDS = 30  # of CPU time: a replay that takes longer was asked for more than a log may ask


def damaged(data: bytes, random_: random.Random, pieces: list[bytes]) -> tuple[str, bytes]:
    """`data` after one to three injuries, and the kind of the first."""
    out, first = bytearray(data), ""
    for _ in range(random_.choice((1, 1, 2, 3))):
        kind = random_.choice(INJURIES)
        first = first or kind.__name__
        kind(out, random_, pieces)
    return first, bytes(out)


def spot(out: bytearray, r: random.Random, pieces: list[bytes]) -> int:
    """Where an injury is, up to the length of `out`: half of them anywhere, half behind the head,
    which is longer than all the records."""
    return r.randint(r.choice((0, min(len(pieces[0]), len(out)))), len(out))


def bits(out: bytearray, r: random.Random, pieces: list[bytes]) -> None:
    """One to eight bits are flipped."""
    for _i in range(r.randint(1, 8)):
        at = spot(out, r, pieces)
        if at < len(out):
            out[at] ^= 1 << r.randrange(8)


def cut(out: bytearray, r: random.Random, pieces: list[bytes]) -> None:
    """The end is missing."""
    del out[spot(out, r, pieces) :]


def hole(out: bytearray, r: random.Random, pieces: list[bytes]) -> None:
    """Bytes in the middle are missing."""
    at = spot(out, r, pieces)
    del out[at : at + r.randint(1, 200)]


def inserted(out: bytearray, r: random.Random, pieces: list[bytes]) -> None:
    """Bytes that are not its own stand in the middle or at the end."""
    at = spot(out, r, pieces)
    out[at:at] = r.randbytes(r.randint(1, 100))


def doubled(out: bytearray, r: random.Random, pieces: list[bytes]) -> None:
    """A whole record (or the head) stands once more, anywhere."""
    at = spot(out, r, pieces)
    out[at:at] = r.choice(pieces)


def removed(out: bytearray, r: random.Random, pieces: list[bytes]) -> None:
    """A whole record is missing."""
    found = out.find(record := r.choice(pieces))
    if found >= 0:
        del out[found : found + len(record)]


def lengths(out: bytearray, r: random.Random, pieces: list[bytes]) -> None:
    """One to four bytes are a number at the edge of what a length may be."""
    at, size = spot(out, r, pieces), r.choice((1, 1, 2, 4))
    value = r.choice((0, 1, 7, 127, 128, 2**16, 2**31 - 1, 2**31, 2**32 - 1, len(out)))
    out[at : at + size] = (value % 256**size).to_bytes(size, "little")


INJURIES = (bits, cut, hole, inserted, doubled, removed, lengths)


class Replays:
    """Replays of what was read of a run's log; those of its own records once for each length."""

    def __init__(self, subject: Subject) -> None:
        self._subject, self._done = subject, set()

    def of_prefix(self, log: Log) -> None:
        """AssertionError where the first records do not give the run's weights."""
        if len(log.records) not in self._done:
            weights, error = self._replayed(log, log.steps)  # not passes whose step is missing
            assert error is None and self._true(weights, log.steps), (log.steps, error)
            self._done.add(len(log.records))

    def of_forged(self, log: Log) -> str:
        """The outcome; AssertionError for other weights than the run's at a mark of the run."""
        weights, error = self._replayed(log)
        if error is not None:
            assert len(error) > 20, error
            return "replay refused"
        last = log.records[-1] if log.records else None
        if isinstance(last, layout.Mark) and last in self._subject.log.records:
            assert self._true(weights, last.steps), last
        return "replayed"

    def _true(self, weights: list[torch.Tensor], steps: int) -> bool:
        return all(map(torch.equal, weights, self._subject.weights[steps]))

    def _replayed(
        self, log: Log, until: int | None = None
    ) -> tuple[list[torch.Tensor], str | None]:
        """The weights at the log's end, or why not."""
        weights = [w.clone() for w in self._subject.base]
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            replay(replace(log, path=self._subject.log.path), weights, until)
        except ValueError as error:
            return weights, str(error)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        return weights, None


def fuzz(count: int, seed: int = 0) -> Counter:
    """Outcomes of `count` damaged or forged logs; AssertionError for records that were never
    written, other weights than the run's, or a replay that does not end."""
    r, outcomes = random.Random(seed), Counter()
    signal.signal(signal.SIGPROF, _late)
    with tempfile.TemporaryDirectory() as folder:
        runs = [(s, Replays(s)) for s in subjects(Path(folder)).values()]
        for i in range(count):
            outcomes[_outcome(*runs[r.randrange(len(runs))], i % 8, r)] += 1
    return outcomes


def _outcome(run: Subject, replays: Replays, turn: int, r: random.Random) -> str:
    """One log; of 8 turns one forges the head and one the records."""
    truth, own = run.log, len(run.log.records)
    if turn >= 6:
        forge = forged_head if turn == 6 else forged_records
        kind, (own, broken) = forge.__name__.replace("_", " "), forge(run, r)
    else:
        kind, broken = damaged(run.data, r, run.pieces)
    try:
        found = read_log(broken)
    except ValueError as error:
        assert len(str(error)) > 20, error
        return f"{kind}: refused"
    assert turn == 6 or found.head == truth.head, kind
    assert found.records[:own] == truth.records[: len(found.records)][:own], kind
    assert found.cut or broken[: found.size] == broken, kind
    if found.head == truth.head and found.records == truth.records[: len(found.records)]:
        replays.of_prefix(found)
        whole = "whole" if len(found.records) == len(truth.records) else "shorter"
        return f"{kind}: {'cut' if found.cut else whole}"
    # Of a forged head no record is: its checksum is not what theirs go on from.
    assert turn == 7 or (turn == 6 and not found.records), kind
    return f"{kind}: {replays.of_forged(found)}"


def _late(*_) -> None:
    raise AssertionError(f"a replay was not done after {SECONDS} s of CPU time")


def add(path: Path, part: dict) -> None:
    """Records `part` beside those of other seeds."""
    parts = json.loads(path.read_text()).get("parts", []) if path.exists() else []
    harness.record(path, {"parts": [*(p for p in parts if p["seed"] != part["seed"]), part]})


def main() -> None:
    """Prints the outcomes; with --json records them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    began = time.thread_time()
    outcomes = dict(sorted(fuzz(given.count, given.seed).items()))
    print(outcomes)
    if given.json:
        seconds = time.thread_time() - began
        add(given.json, {"seed": given.seed, "count": given.count, "outcomes": outcomes,
                         "CPU seconds": seconds})  # fmt: skip


if __name__ == "__main__":
    main()
