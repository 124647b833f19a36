"""The sketches in a run's folder: written, gone on with, read, refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from analysis.made import direction, move, policy, reward, write_run

import zopro_kernels as zk
from zopro.analysis import SketchWriter, read_sketches
from zopro.analysis.names import canonical, in_order, layer_of, parameter_index
from zopro.analysis.snapshots import FOLDER


@pytest.mark.parametrize(
    "names, short, layer",
    [
        (("base_model.model.model.layers.3.mlp.up_proj.lora_A.default.weight",
          "base_model.model.model.layers.3.mlp.up_proj.lora_A.weight",
          "trunk.layers.3.mlp.up_proj.lora_A.reward.weight"),
         "layers.3.mlp.up_proj.lora_A.weight", "layers.3"),
        (("model.layers.12.input_layernorm.weight",), "layers.12.input_layernorm.weight",
         "layers.12"),
        (("transformer.h.0.attn.c_attn.weight",), "layers.0.attn.c_attn.weight", "layers.0"),
        (("model.embed_tokens.weight", "base_model.model.model.embed_tokens.weight"),
         "embed_tokens.weight", "embed_tokens"),
        (("score.weight", "base_model.model.score.modules_to_save.default.weight"),
         "score.weight", "head"),
        (("lm_head.weight", "base_model.model.lm_head.weight"), "lm_head.weight", "head"),
        (("weight",), "weight", "rest"),
    ],
)  # fmt: skip
def test_names(names, short, layer):
    assert {canonical(name) for name in names} == {short}
    assert layer_of(short) == layer and 0 <= parameter_index(short) < 2**32


def test_layers_in_order():
    found = {"head", "layers.10", "norm", "layers.2", "embed_tokens"}
    assert in_order(found) == ["layers.2", "layers.10", "embed_tokens", "norm", "head"]


def test_positions_are_sketches_of_the_way_from_the_start(tmp_path):
    writer, weights = SketchWriter(tmp_path, seed=4, dim=2048, layer_dim=256), policy()
    start = {n: t.clone() for n, t in weights.items()}
    writer.add("policy", weights, "0.policy", 0)
    for step in (5, 10):
        move(weights, direction(step), 0.01)
        writer.add("policy", weights, "0.policy", step)
    track = read_sketches(tmp_path)["policy"]
    assert track.steps.tolist() == [0, 5, 10] and track.phases == ("0.policy",) * 3
    assert track.order.tolist() == [0, 1, 2] and (np.diff(track.seconds) >= 0).all()
    assert not track.whole[0].any() and track.iterations.tolist() == [0, 0, 0]
    moved = {n: weights[n] - start[n] for n in weights}
    exact = zk.sketch(list(moved.values()), 4, 2048,
                      params=[parameter_index(canonical(n)) for n in moved]).numpy()  # fmt: skip
    error = np.linalg.norm(track.whole[2] - exact) / np.linalg.norm(exact)
    assert error < 2e-4  # of int16, and of fp32 sums of weights a hundred times the way
    assert track.sum()[2] == pytest.approx(sum(t.double().sum().item() for t in moved.values()))
    assert track.numel() == sum(t.numel() for t in weights.values())
    assert track.positions("layers.1").shape == (3, 256)
    mine = [n for n in moved if ".layers.1." in n]
    exact = zk.sketch([moved[n] for n in mine], 4, 2048,
                      params=[parameter_index(canonical(n)) for n in mine]).numpy()  # fmt: skip
    folded = exact.reshape(8, 256).sum(0)
    assert np.linalg.norm(track.positions("layers.1")[2] - folded) < 2e-4 * np.linalg.norm(folded)


def test_a_head_is_a_layer_of_its_own_outside_the_whole(tmp_path):
    writer, weights = SketchWriter(tmp_path), reward()
    writer.add("reward", weights, "reward", 0)
    weights["score.weight"] += 1.0
    writer.add("reward", weights, "reward", 1)
    track = read_sketches(tmp_path)["reward"]
    assert track.layers == ("layers.0", "layers.1", "layers.2", "head")
    assert not track.whole.any() and track.positions("head")[1].any()
    assert track.sum("head")[1] == pytest.approx(96, rel=1e-6)


def test_a_run_that_goes_on_leaves_what_one_that_never_stopped_does(tmp_path):
    write_run(tmp_path / "whole", 2)
    write_run(tmp_path / "again", 2)
    # Killed in 1.policy after step 20: it goes on from step 10, in another process.
    weights = policy()
    for i, step in ((0, 10), (0, 20), (1, 10), (1, 20)):
        move(weights, direction(100 * i + step), 0.1)
        move(weights, direction(1000), 0.05)
        if i == 1:
            # What came after is dropped, the reward model's is its own to drop.
            SketchWriter(tmp_path / "again").add("policy", weights, "1.policy", step)
    a, b = (read_sketches(tmp_path / n)["policy"] for n in ("whole", "again"))
    assert a.steps.tolist() == b.steps.tolist() and a.phases == b.phases
    np.testing.assert_array_equal(a.whole, b.whole)


def test_size_of_a_hundred_snapshots_of_policy_and_reward_of_a_billion_parameters(tmp_path):
    """28 layers, as Llama-3.2-3B has, and 7 adapted modules each: sizes do not depend on widths."""
    modules = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    weights = {
        f"base_model.model.model.layers.{i}.self_attn.{m}.lora_{ab}.default.weight": torch.randn(4)
        for i in range(28) for m in modules for ab in "AB"
    }  # fmt: skip
    writer = SketchWriter(tmp_path)
    for step in range(2):
        for t in weights.values():
            t += 0.1
        writer.add("policy", weights, "0.policy", step)
    sizes = {p.name: p.stat().st_size for p in (tmp_path / FOLDER).iterdir()}
    start = sizes["start.policy.safetensors"]
    assert 2 * (start + 100 * sizes["000001.policy.safetensors"]) < 20e6


def refused(folder, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_sketches(folder)
    assert "\n" not in str(caught.value)


def test_folders_without_a_run(tmp_path):
    refused(tmp_path / "none", "is no folder")
    refused(tmp_path, "holds no sketches")
    SketchWriter(tmp_path).path.mkdir()
    (tmp_path / FOLDER / "index.json").write_text(
        json.dumps({"format": 1, "law": 1, "seed": 0, "dim": 8192, "layer_dim": 1024})
    )
    refused(tmp_path, "holds no snapshot yet")


@pytest.mark.parametrize(
    "name, damage, message",
    [
        ("index.json", lambda d: d[: len(d) // 2], "index.json' is damaged"),
        ("index.json", lambda d: d.replace(b'"format": 1', b'"format": 2'), "has format 2"),
        ("000003.reward.safetensors", lambda d: d[: len(d) // 2], "000003.*is damaged"),
        ("000003.reward.safetensors", lambda d: b"", "000003.*is damaged"),
        ("000003.reward.safetensors", lambda d: b"\xff" * len(d), "000003.*is damaged"),
        ("start.reward.safetensors", lambda d: d[:100], "start.reward.*is damaged"),
        ("start.reward.safetensors", None, "start.reward.*is gone"),
    ],
)
def test_damaged_files(name, damage, message, tmp_path):
    writer, weights = SketchWriter(tmp_path), reward()
    for step in range(4):
        writer.add("reward", weights, "reward", step)
    path = tmp_path / FOLDER / name
    path.write_bytes(damage(path.read_bytes())) if damage else path.unlink()
    refused(tmp_path, message)


def test_a_file_that_a_kill_left_half_written_is_not_seen(tmp_path):
    write_run(tmp_path, 1)
    (tmp_path / FOLDER / "000099.policy.safetensors.part").write_bytes(b"half")
    assert len(read_sketches(tmp_path / FOLDER)["policy"]) == 3


def test_what_a_writer_refuses(tmp_path):
    writer, weights = SketchWriter(tmp_path), policy()
    writer.add("policy", weights, "0.policy", 0)
    with pytest.raises(
        ValueError, match="is \\(4, 96\\) in its first snapshot and \\(8, 96\\) here"
    ):
        writer.add("policy", policy(rank=8), "0.policy", 1)
    with pytest.raises(ValueError, match="there are no weights"):
        writer.add("policy", {}, "0.policy", 1)
    bad = {n: t * float("nan") for n, t in weights.items()}
    with pytest.raises(ValueError, match="policy's weights are not finite at step 1"):
        writer.add("policy", bad, "0.policy", 1)
    with pytest.raises(ValueError, match="are both"):
        writer.add("policy", weights | reward(), "0.policy", 1)
    with pytest.raises(ValueError, match="network='a/b' is not allowed"):
        writer.add("a/b", weights, "0.policy", 1)
    with pytest.raises(ValueError, match="dim=2048, but the sketches in"):
        SketchWriter(tmp_path, dim=2048)
    with pytest.raises(ValueError, match="layer_dim=1000 does not divide"):
        SketchWriter(tmp_path, layer_dim=1000)
    assert len(read_sketches(tmp_path)["policy"]) == 1  # nothing of it was written
