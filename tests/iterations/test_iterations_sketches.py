"""Sketches of policy and reward model that a run leaves by itself."""

from __future__ import annotations

import numpy as np
import pytest
from iterations.tiny_run import run
from safetensors.torch import load_file

import zopro_kernels as zk
from zopro.analysis import measure, read_sketches, scores, trajectory
from zopro.analysis.names import canonical, parameter_index
from zopro.iterations.models import policy_weights, reward_weights


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return run(tmp_path_factory.mktemp("run") / "run", blend=0.25)


def test_each_phase_from_its_start_to_its_end(out):
    tracks = read_sketches(out.folder)
    for name, phases in (("policy", ["0.policy", "1.policy"]),
                         ("reward", ["reward", "0.refine", "1.refine"])):  # fmt: skip
        track = tracks[name]
        assert list(dict.fromkeys(track.phases)) == phases
        for phase in phases:
            steps = [s for s, p in zip(track.steps.tolist(), track.phases) if p == phase]
            assert steps == list(range(len(steps))) and len(steps) > 1
    everything = np.sort(np.concatenate([tracks["policy"].order, tracks["reward"].order]))
    assert everything.tolist() == list(range(len(everything)))


def test_the_last_ones_are_of_the_models_that_the_run_left(out):
    """Blending comes after training, and is a part of what the reward model moved."""
    tracks = read_sketches(out.folder)
    first = dict(_start(out.folder))
    for name, weights in (("policy", policy_weights(out.policy)),
                          ("reward", reward_weights(out.reward))):  # fmt: skip
        moved = {canonical(n): p.detach().float() for n, p in weights.items()}
        moved = {n: p - first[name][n] for n, p in moved.items()}
        exact = zk.sketch(list(moved.values()), 0, params=[parameter_index(n) for n in moved])
        atol = 1e-3 * exact.abs().max().item()
        np.testing.assert_allclose(tracks[name].whole[-1], exact.numpy(), atol=atol)


def _start(folder):
    for name in ("policy", "reward"):
        tensors = load_file(folder / "phases" / "start" / f"{name}.safetensors")
        yield name, {canonical(n): t.float() for n, t in tensors.items()}


def test_every_measure_has_data(out):
    tracks = read_sketches(out.folder)
    names = {s.name for s in measure(tracks)}
    assert {"policy.turn", "policy.iteration", "policy.reward", "reward.previous",
            "between.updates", "between.pearson", "between.positions"} <= names  # fmt: skip
    assert len(measure(tracks, "layers.0")) == len(names) and len(scores(tracks)) == 2
    assert set(trajectory(tracks)) == {"policy", "reward"}


def test_what_is_refused_and_none_if_asked(tmp_path):
    with pytest.raises(ValueError, match="sketch_every=-1"):
        run(tmp_path / "run", sketch_every=-1)
    with pytest.raises(ValueError, match="'zo_sketch_every', which the driver sets"):
        run(tmp_path / "run", zeroth={"zo_sketch_every": 3})
    run(tmp_path / "run", sketch_every=0, iterations=1)
    assert not (tmp_path / "run" / "sketches").exists()
