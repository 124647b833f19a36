"""Records under right checksums that no run wrote: what they ask a replay to do is bounded."""

import dataclasses
import math

import pytest
from optimizer.helpers import copies
from steplog.runs import Run

from zopro import replay
from zopro.steplog import layout, read_log
from zopro.steplog.coding import Coder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return Run(tmp_path_factory.mktemp("run"), steps=6, restore="inplace").train()


def forged(run, change, kind):
    """The run's log, read, after `change` of its last record of a `kind`."""
    log, data = read_log(run.path), run.path.read_bytes()
    at = max(i for i, r in enumerate(log.records) if isinstance(r, kind))
    new = data[: [log.begin, *log.ends][at]]
    coder = Coder(log.head, layout.last_crc(new), log.records[:at])
    for record in (change(log.records[at]), *log.records[at + 1 :]):
        new += coder.encode(record)
        coder.take(record, layout.last_crc(new))
    return read_log(new), log.records[:at]


def first_move(**fields):
    """A change of the first pass of Moves."""

    def change(record):
        move = dataclasses.replace(record.moves[0], **fields)
        return dataclasses.replace(record, moves=(move, *record.moves[1:]))

    return change


@pytest.mark.parametrize("kind,change,words", [
    (layout.Step, {"slopes": (math.nan,)}, "not finite"),
    (layout.Step, {"slopes": (math.inf,)}, "not finite"),
    (layout.Step, {"lr": (math.inf, 0.1)}, "not finite"),
    (layout.Step, {"d": math.nan}, "not finite"),
    (layout.Moves, {"d": math.inf}, "not finite"),
    (layout.Moves, first_move(where=layout.FREE, stream=1, scale=(1.0, 1.0)), "direction"),
    (layout.Moves, first_move(where=layout.CALIBRATION, stream=4, scale=(1.0, 1.0)), "direction"),
    (layout.Moves, first_move(where=layout.PLUS, stream=-1), "direction"),
    (layout.Moves, first_move(where=5), "direction"),
    (layout.Moves, first_move(where=layout.FREE, scale=(math.nan, 1.0)), "not finite"),
    (layout.Groups, {"eps": (math.nan, 1.0)}, "not finite"),
    (layout.Groups, {"weight_decay": (0.0, -math.inf)}, "not finite"),
    (layout.Step, {"passes": 0}, "out of order"),
    (layout.Step, {"passes": 2**64 + 3}, "out of order"),
])  # fmt: skip
def test_numbers_that_no_run_writes_are_cut(run, kind, change, words):
    if isinstance(change, dict):
        fields = change

        def change(record):
            return dataclasses.replace(record, **fields)

    log, kept = forged(run, change, kind)
    assert words in log.cut and log.records == kept
    replay(log, copies(run.base))


@pytest.mark.parametrize("estimates", [0, 4, 2**16, 2**16 + 1, 2**32 - 1])
def test_a_step_has_no_more_estimates_than_passes(run, estimates):
    def change(record):
        object.__setattr__(record, "estimates", estimates)  # past the writer's own check
        return record

    log, kept = forged(run, change, layout.Step)
    assert "estimates" in log.cut and log.records == kept
    replay(log, copies(run.base))


def test_a_skipped_step_may_have_measured_anything(run):
    def change(record):
        return dataclasses.replace(record, skipped=True, slopes=(math.nan,))

    assert forged(run, change, layout.Step)[0].cut is None


def test_the_writer_refuses_what_the_reader_would():
    with pytest.raises(ValueError, match="estimates=65537 is out of range"):
        layout.Step(0, 2**20, 2**16 + 1, (0.1,), 0.0, (1.0,))


def test_a_head_has_its_parameters_digest(run):
    head = dataclasses.asdict(read_log(run.path).head) | {"digest": "0" * 64}
    with pytest.raises(ValueError, match="digest is not that of its parameters"):
        layout.Head(**head | {"parameters": read_log(run.path).head.parameters})
