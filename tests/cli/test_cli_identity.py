"""What a run folder says of what it was made of, and what of it may change while it goes on."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import zopro_kernels as zk
from zopro.cli import main
from zopro.digests import digest
from zopro.iterations.identity import compare, fingerprint, identity

ONCE = ("--iterations", "1", "--first", "spsa", "--rewards", "chrf")


def test_the_folder_names_everything_and_other_weights_are_refused(train, model, tmp_path, capsys):
    own = tmp_path / "own"
    shutil.copytree(model, own)
    folder = tmp_path / "run"
    argv = train(folder, "--model", str(own), *ONCE)
    assert main(argv) == 0
    found = json.loads((folder / "config.json").read_text())["identity"]
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(model)
    assert found["model"] == digest(loaded.parameters()) == fingerprint(loaded)
    assert found["reward_funcs"] == ["chrf_reward"] and found["judge"] is None
    assert found["backend"] == zk.default_backend("cpu") and found["law"] == zk.LAW
    assert found["world_size"] == 1 and found["device"] == "cpu" and "commit" in found
    (start,) = map(json.loads, (folder / "runs.jsonl").read_text().splitlines())
    assert start["ranks"] == 1

    tensors = load_file(own / "model.safetensors")  # the same folder, one weight another
    tensors["model.norm.weight"][0] += 1
    save_file(tensors, own / "model.safetensors", metadata={"format": "pt"})
    assert main(argv) == 2
    said = capsys.readouterr().err
    assert f"the model's weights are not what the run in {str(folder)!r} began with" in said
    assert "give the same, or name a new folder" in said


class Named:
    name, url = "endpoint's model m", "http://a/v1"


@pytest.mark.parametrize("name,other", [
    ("model", "0" * 64), ("tokenizer", "0" * 64), ("reward_model", "0" * 64),
    ("reward_funcs", ["another"]), ("judge", "callable other"),
])  # fmt: skip
def test_what_may_not_differ(name, other, tmp_path):
    now = made(Named())
    with pytest.raises(ValueError, match=r"not what the run in .* \(.* then, .* now\): give the"):
        compare(tmp_path, {**now, name: other}, now)
    compare(tmp_path, {}, now)  # a run from before


@pytest.mark.parametrize("name,other,told", [
    ("world_size", 2, "world size 2 and goes on with 1"), ("backend", "triton", "the backend tri"),
    ("commit", "abc", "commit abc"), ("endpoint", "http://b", "its judge at http://b"),
    ("device", "cuda", "device cuda"), ("law", 0, "the noise law 0"),
])  # fmt: skip
def test_what_is_told(name, other, told, tmp_path, caplog):
    now = made(Named())
    compare(tmp_path, {**now, name: other}, now)
    (said,) = caplog.messages
    assert told in said and "its end may have other bits" in said


def test_callables_have_no_names_to_go_by(tmp_path):
    now = made(lambda *texts: [])
    compare(tmp_path, {**now, "judge": "callable another"}, now)
    assert now["judge"] == "callable <lambda>"


def made(judge):
    from trainer.tiny_llama import build_model, build_tokenizer

    given = {"b": torch.ones(2), "a": torch.zeros(3)}
    turned = dict(reversed(given.items()))
    rewards = [lambda completions, **columns: []]
    found = identity(build_model(), build_tokenizer(), judge, rewards, given)
    again = identity(build_model(), build_tokenizer(), judge, rewards, turned)
    assert found == again
    return found
