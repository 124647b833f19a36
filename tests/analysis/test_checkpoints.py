"""Tracks from folders of checkpoints that other trainers left."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from analysis.made import direction, move, network, policy
from safetensors.torch import save_file

from zopro.analysis import SketchWriter, from_checkpoints, measure, read_sketches


def saved(folder, weights, step, name="adapter_model.safetensors"):
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    save_file(weights, str(path / name))
    return path / name


@pytest.fixture
def checkpoints(tmp_path):
    """Of an adapter, and beside it the sketches that a run of the same weights would have."""
    weights, writer = network("base_model.model.model.", "", 0), SketchWriter(tmp_path / "run")
    for step in (5, 10, 100):
        saved(tmp_path / "made", weights, step)
        writer.add("policy", weights, "train", step)
        move(weights, direction(step), 0.1)
    return tmp_path


def test_the_same_as_a_runs_own_sketches(checkpoints):
    found = from_checkpoints(checkpoints / "made")["policy"]
    own = read_sketches(checkpoints / "run")["policy"]
    assert found.steps.tolist() == [5, 10, 100] and found.layers == own.layers
    np.testing.assert_allclose(found.whole, own.whole, atol=1e-3)
    np.testing.assert_allclose(found.by_layer, own.by_layer, atol=1e-3)
    assert found.shapes == own.shapes and found.order.tolist() == [0, 1, 2]


def test_two_networks_and_other_files(checkpoints):
    weights = {n: t.bfloat16() for n, t in network("model.", "", 3).items()}
    weights["model.position_ids"] = torch.arange(4)  # no weights
    for step in (1, 2, 30):
        saved(checkpoints / "other", weights, step, "model.safetensors")
        weights = {n: t * 2 for n, t in weights.items()}
    (checkpoints / "other" / "checkpoint-99").mkdir()  # empty: none
    (checkpoints / "other" / "runs").mkdir()
    tracks = from_checkpoints({"policy": checkpoints / "made", "reward": checkpoints / "other"})
    assert tracks["policy"].order.tolist() == [0, 2, 4]
    assert tracks["reward"].order.tolist() == [1, 3, 5]
    assert {"policy.turn", "reward.turn", "between.positions"} <= {s.name for s in measure(tracks)}
    assert measure(tracks)[2].name == "reward.turn"
    assert measure(tracks)[2].values == pytest.approx(1.0, abs=1e-3)  # it doubles each time


def refused(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_bad_folders(checkpoints, tmp_path):
    made = checkpoints / "made"
    refused(lambda: from_checkpoints(tmp_path / "none"), "is no folder")
    (tmp_path / "empty").mkdir()
    refused(lambda: from_checkpoints(tmp_path / "empty"), "holds no checkpoints")
    path = saved(made, policy(rank=8), 200)
    refused(lambda: from_checkpoints(made), "does not fit .*lora_A.*is \\(4, 96\\).*\\(8, 96\\)")
    path.write_bytes(path.read_bytes()[:500])
    refused(lambda: from_checkpoints(made), "checkpoint-200.*is damaged")
    save_file({"ids": torch.arange(3)}, str(path))
    refused(lambda: from_checkpoints(made), "holds no fp32, bf16 or fp16 tensors")


def test_one_checkpoint_only(tmp_path):
    saved(tmp_path, policy(), 1)
    refused(lambda: measure(from_checkpoints(tmp_path)), "there is one snapshot of the policy")
