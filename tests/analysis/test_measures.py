"""Measures on sketches against the same on the exact weights, and on ways whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from analysis.made import LAYERS, direction, move, policy, reward, write_run
from scipy.spatial import procrustes
from scipy.stats import pearsonr

from zopro.analysis import (
    SketchWriter,
    measure,
    read_sketches,
    scores,
    trajectory,
    trajectory_methods,
)
from zopro.analysis.ways import distance_correlation


def flat(weights: dict[str, torch.Tensor], layer: str | None) -> np.ndarray:
    inside = [t for n, t in weights.items()
              if not n.startswith("score") and (layer is None or f".{layer}." in n)]  # fmt: skip
    return torch.cat([t.flatten() for t in inside]).double().numpy()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder, keep = tmp_path_factory.mktemp("run"), {}
    write_run(folder, 3, keep)
    return read_sketches(folder), keep


def exact_updates(keep, network: str, layer: str | None) -> tuple[list[str], np.ndarray]:
    phases = [phase for phase, _ in keep[network]]
    steps = np.diff([flat(w, layer) for _, w in keep[network]], axis=0)
    kept = [k for k, s in enumerate(steps) if s.any()]
    return [phases[k + 1] for k in kept], steps[kept]


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def exact(keep, layer: str | None) -> dict[str, list[float]]:
    """Every series of `measure`, from the weights themselves."""
    out: dict[str, list[float]] = {}
    whole: dict[str, dict[int, np.ndarray]] = {}
    for name in ("policy", "reward"):
        phases, updates = exact_updates(keep, name, layer)
        number = [int(p[0]) if p[0].isdigit() else -1 for p in phases]
        whole[name] = {n: sum(u for u, m in zip(updates, number) if m == n) for n in set(number)}
        turns = [cosine(a, b) for a, b in zip(updates[1:], updates)]
        out[f"{name}.turn"], out[f"{name}.previous"] = turns, [c**2 for c in turns]
        mine, pairs = whole[name], list(zip(updates, number))
        out[f"{name}.iteration"] = [cosine(u, mine[n - 1]) ** 2 for u, n in pairs if n - 1 in mine]
        if name == "policy":
            policy_updates = pairs
    out["policy.reward"] = [cosine(u, whole["reward"][n - 1]) ** 2 for u, n in policy_updates]
    both = sorted(set(whole["policy"]) & set(whole["reward"]))
    pairs = [(whole["policy"][n], whole["reward"][n]) for n in both]
    out["between.updates"] = [cosine(*pair) for pair in pairs]
    out["between.pearson"] = [pearsonr(*pair).statistic for pair in pairs]
    return out


@pytest.mark.parametrize("layer", [None, *(f"layers.{i}" for i in range(LAYERS))])
def test_sketched_and_exact_agree_within_the_stated_error(run, layer):
    tracks, keep = run
    expected = exact(keep, layer)
    found = {s.name: s for s in measure(tracks, layer)}
    assert set(expected) <= set(found)
    off = []
    for name, values in expected.items():
        series = found[name]
        assert len(series.values) == len(values) == len(series.steps) == len(series.phases), name
        off += list((series.values - values) / series.error)
    off = np.array(off)
    assert np.abs(off).max() < 4 and 0.4 < np.sqrt(np.mean(off**2)) < 1.4


def test_what_the_run_was_made_of(run):
    """Half of each update's length lies along one direction, so cosines are near 0.2."""
    found = {s.name: s for s in measure(run[0])}
    for name in ("policy.turn", "reward.turn"):
        # The first of the reward model's updates is another's.
        assert found[name].values[1:] == pytest.approx(0.2, abs=0.06)
    assert (found["policy.turn"].values > found["policy.turn"].high).all()
    assert found["policy.turn"].degrees == pytest.approx(78.5, abs=4)
    assert found["between.updates"].values == pytest.approx(1 / 3, abs=0.06)
    # The reward model had moved elsewhere before iteration 0.
    assert found["policy.reward"].values[:2] == pytest.approx(0, abs=5 * 1e-3)


def test_ways_of_exact_weights(run):
    tracks, keep = run
    found = {s.name: s for s in scores(tracks)}
    order = {n: tracks[n].order for n in ("policy", "reward")}
    moments = [m for m in range(20) if m >= order["policy"][0]]
    x, y = (
        np.array([flat(keep[n][max(np.nonzero(order[n] <= m)[0])][1], None) for m in moments])
        for n in ("policy", "reward")
    )
    moments = [m for m in moments if m <= max(order["policy"].max(), order["reward"].max())]
    x, y = x[: len(moments)], y[: len(moments)]
    assert found["procrustes"].points == len(moments)
    # In the space of all points, where no distance changes: SciPy's takes the SVD of [d, d].
    basis, _ = np.linalg.qr(np.concatenate([x, y]).T)
    disparity = procrustes(x @ basis, y @ basis)[2]
    assert found["procrustes"].value == pytest.approx(disparity, abs=0.03)
    exactly = distance_correlation(x, y)
    assert found["distance_correlation"].value == pytest.approx(exactly, abs=0.02)
    for score in found.values():
        assert score.low <= score.chance <= score.high


def test_distance_correlation_of_known_pairs():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 1))
    assert distance_correlation(x, 3 * x + 1) == pytest.approx(1.0)
    assert distance_correlation(x, x**2) > 0.4  # Pearson's is 0
    assert distance_correlation(x, rng.normal(size=(200, 1))) < 0.25
    assert distance_correlation(x, np.zeros((200, 1))) == 0.0
    # Two points a sample, by hand: distances are all alike.
    assert distance_correlation(np.array([[0.0], [1]]), np.array([[0.0], [5]])) == 1.0


def test_random_updates_lie_where_chance_says(tmp_path):
    writer = SketchWriter(tmp_path, dim=1024, layer_dim=128)
    p, r = policy(), reward()
    for step in range(40):
        for name, weights, phase in (("policy", p, "0.policy"), ("reward", r, "0.refine")):
            move(weights, direction(2 * step + (name == "reward")), 0.1)
            writer.add(name, weights, phase, step)
    tracks = read_sketches(tmp_path)
    for layer in (None, "layers.0"):
        series = [s for s in measure(tracks, layer) if s.name.endswith((".turn", ".previous"))]
        values = np.concatenate([(s.values >= s.low) & (s.values <= s.high) for s in series])
        assert 0.87 < values.mean() <= 1.0
        shares = np.concatenate([s.values for s in series if s.name.endswith(".previous")])
        assert shares.mean() == pytest.approx(series[1].chance, rel=0.5)


def test_one_network_and_a_layer_of_the_other(run, tmp_path):
    write_run(tmp_path, 1)
    tracks = read_sketches(tmp_path)
    assert {s.name.split(".")[0] for s in measure(tracks, "head")} <= {"reward"}
    alone = type(tracks)("run", {"policy": tracks["policy"]}, tracks.dim, tracks.layer_dim)
    assert {s.name for s in measure(alone)} == {"policy.turn", "policy.previous"}
    assert set(trajectory(alone)) == {"policy"}


def sentence(error, call, message):
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_one_snapshot_only(tmp_path):
    SketchWriter(tmp_path).add("policy", policy(), "0.policy", 0)
    tracks = read_sketches(tmp_path)
    sentence(ValueError, lambda: measure(tracks), "there is one snapshot of the policy")
    sentence(ValueError, lambda: trajectory(tracks), "there are 1 snapshots, and a trajectory")
    sentence(ValueError, lambda: scores(tracks), "has no sketches of the reward")
    SketchWriter(tmp_path).add("reward", reward(), "reward", 0)
    sentence(ValueError, lambda: scores(read_sketches(tmp_path)), "have 1 common moments")


def test_adapters_of_differing_rank_and_other_tensors(tmp_path):
    writer = SketchWriter(tmp_path)
    fewer = {n: t for n, t in reward().items() if "v_proj" not in n}
    for step in range(4):
        writer.add("policy", policy(), "0.policy", step)
        writer.add("reward", reward(rank=8), "reward", step)
        SketchWriter(tmp_path / "b").add("policy", policy(), "0.policy", step)
        SketchWriter(tmp_path / "b").add("reward", fewer, "reward", step)
    for call in (measure, scores, trajectory):
        sentence(ValueError, lambda c=call: c(read_sketches(tmp_path)), "differing rank")
        missing = "the policy has 'layers.0.self_attn.v_proj.lora_A.weight' and the reward has not"
        sentence(ValueError, lambda c=call: c(read_sketches(tmp_path / "b")), missing)


def test_unknown_names(run):
    tracks = run[0]
    sentence(ValueError, lambda: measure(tracks, "layers.9"), "layer='layers.9' is in no network")
    sentence(ValueError, lambda: trajectory(tracks, "som"), "method='som' is not known")
    sentence(ValueError, lambda: trajectory(tracks, dims=4), "dims=4 is not allowed")
    sentence(ValueError, lambda: tracks["judge"], "has no sketches of the judge")
    if trajectory_methods()["umap"] != "available":
        sentence(ImportError, lambda: trajectory(tracks, "umap"), "needs `pip install umap-learn`")


def test_trajectories(run):
    tracks = run[0]
    for method in [m for m, state in trajectory_methods().items() if state == "available"]:
        for dims in (2, 3):
            points = trajectory(tracks, method, dims, "layers.1")
            for name, way in points.items():
                assert way.shape == (len(tracks[name]), dims) and np.isfinite(way).all()
            again = trajectory(tracks, method, dims, "layers.1")
            assert all((again[n] == points[n]).all() for n in points), method


def test_pca_keeps_the_distances_of_a_way_in_a_plane(tmp_path):
    writer, weights = SketchWriter(tmp_path), policy()
    corners = [(0, 0), (3, 0), (3, 4), (0, 4)]
    for step, (a, b) in enumerate(corners):
        here = {n: t.clone() for n, t in weights.items()}
        move(here, direction(1), float(a))
        move(here, direction(2), float(b))
        writer.add("policy", here, "0.policy", step)
    points = trajectory(read_sketches(tmp_path))["policy"]
    length = np.linalg.norm(direction(1).numpy())
    sides = np.linalg.norm(np.diff(points, axis=0), axis=1) / length
    assert sides == pytest.approx([3, 4, 3], rel=0.05)
