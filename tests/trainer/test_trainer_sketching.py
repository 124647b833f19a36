"""Sketches that a trainer writes while it runs."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from trainer.tiny_llama import build_model
from trainer.tiny_trainer import arguments, trainer

from zopro.analysis import SketchWriter, read_sketches


def steps(folder):
    return read_sketches(folder)["policy"].steps.tolist()


def test_start_end_and_between(tmp_path):
    model = build_model()
    SketchWriter(tmp_path / "mine").add("policy", dict(model.named_parameters()), "train", 0)
    t = trainer(tmp_path / "run", model, zo_sketch_every=2, max_steps=5)
    t.train()
    assert steps(tmp_path / "run") == [0, 2, 4, 5]
    # The last one is of the weights that training left.
    SketchWriter(tmp_path / "mine").add("policy", dict(model.named_parameters()), "train", 5)
    tracks = [read_sketches(tmp_path / name)["policy"] for name in ("run", "mine")]
    np.testing.assert_array_equal(tracks[0].whole[-1], tracks[1].whole[-1])
    assert tracks[0].whole[-1].any() and tracks[0].layers[0] == "layers.0"


def test_lookahead_is_settled(tmp_path):
    """In the middle of a run the weights are those that a run of as many steps leaves."""
    options = dict(zo_lookahead=True, zo_restore="inplace", zo_sketch_every=2,
                   lr_scheduler_type="constant")  # fmt: skip
    for name, count in (("long", 4), ("short", 2)):
        trainer(tmp_path / name, max_steps=count, **options).train()
    long, short = (read_sketches(tmp_path / name)["policy"] for name in ("long", "short"))
    scale = np.abs(short.whole[1]).max()
    np.testing.assert_allclose(long.whole[1], short.whole[1], atol=2e-3 * scale)


def test_off_by_default_and_refused_below_zero(tmp_path):
    trainer(tmp_path / "run", max_steps=1).train()
    assert not (tmp_path / "run" / "sketches").exists()
    with pytest.raises(ValueError, match="zo_sketch_every=-1"):
        arguments(tmp_path, zo_sketch_every=-1)


def test_weights_that_are_not_finite_do_not_end_the_run(tmp_path, caplog):
    model = build_model()
    with torch.no_grad():
        next(model.parameters())[0, 0] = float("nan")
    with caplog.at_level(logging.WARNING, "zopro.trainer.sketching"):
        trainer(tmp_path / "run", model, zo_sketch_every=1, max_steps=1).train()
    assert "no sketch of step 0: the policy's weights are not finite" in caplog.text
