"""zopro train of the norms: eval and replay of what it left, and going on in each phase."""

import json
import signal

import pytest
import torch
from cli.stops import arm
from cli.test_cli_replay import assert_left, rebuilt
from cli.test_cli_resume import assert_same

from zopro.cli import main

MORE = ("--first", "spsa", "--save_steps", "1", "--learning_rate", "0.1")


def test_eval_and_replay_of_a_finished_run(train, model, rows, tmp_path):
    folder = tmp_path / "run"
    assert main(train(folder, "--train", "norms", "--rewards", "chrf", *MORE)) == 0
    command = ["eval", "--task", "translation", "--model", model, "--source", rows, "--split",
               "train", "--limit", "4", "--adapter", str(folder / "policy")]  # fmt: skip
    assert main(command) == 0
    scored = json.loads((folder / "policy" / "eval-translation-train.json").read_text())
    assert len(scored["completions"]) == 4

    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model)
    trained = PeftModel.from_pretrained(base, folder / "policy").merge_and_unload()
    start = AutoModelForCausalLM.from_pretrained(model).state_dict()
    moved = [n for n, t in trained.state_dict().items() if not torch.equal(t, start[n])]
    assert moved and all("norm" in name for name in moved)

    for name in ("0.policy", "1.policy"):
        phase = folder / "phases" / name
        found = rebuilt(phase / "start_adapter", phase, tmp_path / name)
        assert_left(bare(found), phase)


def bare(tensors):
    """A PEFT file's names of saved modules as the model has them."""
    if any(".modules_to_save." in n for n in tensors):
        return tensors
    return {n.replace("norm.weight", "norm.modules_to_save.weight"): t for n, t in tensors.items()}


@pytest.mark.parametrize("kind", ["last_norm"])
def test_interrupted_in_each_phase(kind, train, tmp_path, monkeypatch, capsys):
    more = ("--train", kind, "--max_steps", "3", *MORE)
    assert main(train(tmp_path / "whole", *more)) == 0
    folder = tmp_path / "run"
    for point in ("reward", "0.policy", "0.sampling", "0.judge", "0.refine", "1.policy",
                  "1.judge", "1.refine"):  # fmt: skip
        with monkeypatch.context() as patched:
            arm(point, lambda: signal.raise_signal(signal.SIGINT), patched.setattr)
            assert main(train(folder, *more)) == 130, point
    assert main(train(folder, *more)) == 0
    assert_same(folder, tmp_path / "whole")
