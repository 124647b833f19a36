"""The step log's format: a head, then records that only ever grow at the end. docs/replay.md.

All numbers are little-endian. A record's CRC-32 goes on from that of the record before it, the
first's from the head's: a record that is missing, doubled, moved or of another log shows.

    head    magic 8s, version u16, 0 u16, length u32, JSON, crc u32
    record  kind u8, flags u8, length (LEB128), payload, crc u32

Payloads are coding.py's.
"""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import asdict, dataclass
from typing import Any

from .. import checks
from ..digests import joined

MAGIC, VERSION = b"\x89ZOLOG\r\n", 2
DTYPES = ("float32", "bfloat16", "float16")
STEP, OPTIONS, TARGETS, MOVES, MARK, RESUME = range(1, 7)
MOST_GROUPS = MOST_DIRECTIONS = MOST_ESTIMATES = 2**16  # what a replay has to do is bounded
HOME, PLUS, MINUS, FREE, CALIBRATION = range(5)  # where a pass leads

PREFIX, CRC = struct.Struct("<8sHHI"), struct.Struct("<I")


def check_digest(text: str) -> None:
    """ValueError for what is no SHA-256 in hexadecimal."""
    if len(text) != 64 or not set(text) <= set("0123456789abcdef"):
        raise ValueError(f"digest={text[:70]!r} is no SHA-256")


@dataclass(frozen=True)
class Parameter:
    """A trainable parameter: `index` in the noise law, `digest` of its starting bits."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    index: int
    group: int
    digest: str

    def __post_init__(self) -> None:
        checks.choice("dtype", self.dtype, DTYPES)
        check_digest(self.digest)


@dataclass(frozen=True)
class Frozen:
    """A tensor of the model that the run left as it was, with the SHA-256 of its bits; None: bits
    that could not be read."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    digest: str | None

    def __post_init__(self) -> None:
        if self.digest is not None:
            check_digest(self.digest)


@dataclass(frozen=True)
class Options:
    """What of the optimizer holds for all steps of one process."""

    distribution: str
    num_directions: int
    estimator: str
    rounding: str
    restore: str  # the policy in force

    def __post_init__(self) -> None:
        checks.choice("distribution", self.distribution, checks.DISTRIBUTIONS)
        checks.choice("estimator", self.estimator, checks.ESTIMATORS)
        checks.choice("rounding", self.rounding, checks.ROUNDINGS)
        checks.choice("restore", self.restore, checks.RESTORES[1:])
        checks.integer("num_directions", self.num_directions, 1, MOST_DIRECTIONS)


@dataclass(frozen=True)
class Head:
    """What a log says of the run's start: `steps` and `passes` are the optimizer's counters then,
    `digest` the SHA-256 over the parameters' digests; `frozen` is None where nothing was said of
    the rest of the model."""

    law: int
    seed: int
    steps: int
    passes: int
    groups: int
    options: Options
    parameters: tuple[Parameter, ...]
    digest: str
    frozen: tuple[Frozen, ...] | None = None

    def __post_init__(self) -> None:
        check_digest(self.digest)
        checks.integer("groups", self.groups, 1, MOST_GROUPS)
        if not self.parameters or any(p.group >= self.groups for p in self.parameters):
            raise ValueError("there is no parameter, or one of a group that is not")
        for what in ("name", "index"):
            if len({getattr(p, what) for p in self.parameters}) != len(self.parameters):
                raise ValueError(f"two parameters have the same {what}")
        if joined(p.digest for p in self.parameters) != self.digest:
            raise ValueError("its digest is not that of its parameters' digests")


@dataclass(frozen=True, slots=True)
class Step:
    """A step: its number, the counter of passes after it, one lr (of all groups, where they are
    the same) or one a group, the targets' weight d, K slopes (change of the loss per eps z).
    apart: each estimate returned to theta. next_d: with lookahead, the d of the next step's
    direction, to which the update led."""

    step: int
    passes: int
    estimates: int
    lr: tuple[float, ...]
    d: float
    slopes: tuple[float, ...]
    skipped: bool = False
    apart: bool = False
    next_d: float | None = None

    def __post_init__(self) -> None:
        checks.integer("estimates", self.estimates, 1, MOST_ESTIMATES + 1)


@dataclass(frozen=True)
class Groups:
    """eps, weight_decay and maximize of each group, from the next step on."""

    eps: tuple[float, ...]
    weight_decay: tuple[float, ...]
    maximize: tuple[bool, ...]


@dataclass(frozen=True)
class Aim:
    """Targets from the next step on: a safetensors file beside the log, its SHA-256, ||prev|| of
    each parameter; file None: none. schedule, steps, half_life, start: for the reader alone."""

    file: str | None
    digest: str | None  # of the file's bytes
    norms: tuple[float, ...]
    schedule: str | None
    steps: int | None
    half_life: float
    start: int


@dataclass(frozen=True, slots=True)
class Move:
    """A pass in place: HOME, to theta +- eps z (PLUS, MINUS) of the next step's direction `stream`,
    or to theta + scale z of that (FREE) or of a direction that eps="auto" tries (CALIBRATION), a
    scale a group."""

    where: int
    stream: int = 0
    scale: tuple[float, ...] = ()


@dataclass(frozen=True)
class Moves:
    """Passes in place out of the ordinary since the last record; d: the targets' weight."""

    d: float
    moves: tuple[Move, ...]


@dataclass(frozen=True)
class Mark:
    """SHA-256 of the weights at theta after `steps` steps and `passes` passes."""

    steps: int
    passes: int
    digest: str


@dataclass(frozen=True)
class Resume:
    """Another process goes on: the mark that it found, its options, its seed."""

    steps: int
    passes: int
    digest: str
    seed: int
    options: Options

    def __post_init__(self) -> None:
        check_digest(self.digest)


Record = Step | Groups | Aim | Moves | Mark | Resume


def json_bytes(value: Any) -> bytes:
    """`value` as compact JSON; ValueError for NaN and infinity."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


def encode_head(head: Head) -> bytes:
    """The bytes of a head."""
    text = json_bytes(asdict(head))
    data = PREFIX.pack(MAGIC, VERSION, 0, len(text)) + text
    return data + CRC.pack(zlib.crc32(data))


def last_crc(data: bytes) -> int:
    """The CRC-32 that a head's or record's bytes end with."""
    return CRC.unpack(data[-4:])[0]
