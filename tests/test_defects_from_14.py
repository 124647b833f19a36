"""The fifteen defects of the method's reference implementation, by their numbers: 14 and 15.

Each check passes on this package and fails on a small stand-in that has the defect.
"""

import pickle

import pytest
import torch
from defects import PLAIN, fails_on, one
from iterations.tiny_run import Stop, StopAt, config, data, longer, run, same, supervised
from safetensors.torch import load_file
from trainer.tiny_llama import build_model, prompts, tokens
from trainer.tiny_trainer import ZOTrainer, arguments

from zopro import ZOPrOTrainer
from zopro.iterations import pairs
from zopro.iterations.store import RunFolder
from zopro.iterations.training import Context


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("CI", "1")  # TRL sends no telemetry
    torch.set_num_threads(1)


def test_14_a_custom_collator_is_used(tmp_path):
    class Ignores(ZOTrainer):
        def __init__(self, model, args, collator, *rest):
            super().__init__(model, args, None, *rest)

    def check(cls):
        batches = []

        def collate(rows):
            batches.append(len(rows))
            return {k: torch.tensor([r[k] for r in rows]) for k in ("input_ids", "labels")}

        cls(build_model(), arguments(tmp_path, max_steps=1), collate, tokens()).train()
        assert batches

    check(ZOTrainer)
    fails_on(check, Ignores)


def test_14_the_judge_is_asked_on_the_main_rank_alone(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(pairs, "broadcast_object_list", lambda found: [([], {})])

    def check(collect):
        asked.clear()
        run = RunFolder(str(tmp_path / "x"), {}, True, main=False)
        collect(Context(config(tmp_path), run, None, None, None, judge=asked.append), "0.pairs")
        assert not asked

    check(lambda context, phase: pairs.collect(context, phase, prompts(4)))
    fails_on(check, lambda context, phase: context.judge(phase))


def test_14_a_run_name_moves_no_update(tmp_path, monkeypatch):
    got = []
    original = ZOPrOTrainer.set_targets
    monkeypatch.setattr(
        ZOPrOTrainer,
        "set_targets",
        lambda self, *u, **o: (got.append(u), original(self, *u, **o))[1],
    )
    run(tmp_path / "run", policy={**PLAIN, "run_name": "mine"}, judge=longer)
    folder = tmp_path / "run" / "phases" / "0.updates"

    def check(reward_update):
        assert reward_update and same(reward_update, load_file(folder / "reward.safetensors"))

    check(got[0][1])
    fails_on(check, {})  # nothing in the folder that it looked into


def pickles(folder):
    """Files that are a pickle, torch's archives of one among them, by name or by content."""
    names = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}
    files = [p for p in folder.rglob("*") if p.is_file()]
    assert files
    starts = (b"\x80\x02", b"\x80\x04", b"\x80\x05", b"PK")
    return [p.name for p in files if p.suffix in names or p.read_bytes()[:4].startswith(starts)]


def test_15_no_pickle_in_a_run_that_is_stopped_in_each_phase(tmp_path):
    def check(folder):
        assert not pickles(folder)

    folder, rows = tmp_path / "run", data(supervised=supervised())
    for phase in ("supervised", "reward", "0.policy", "0.refine", "1.policy", "1.refine"):
        with pytest.raises(Stop):
            run(folder, rows, supervised={}, call={"callbacks": [StopAt(phase)]})
        assert list((folder / "checkpoints" / phase).glob("checkpoint-*/*.safetensors"))
        check(folder)
    run(folder, rows, supervised={})
    check(folder)
    _, opt = one()
    torch.save(opt.state_dict(), tmp_path / "state")
    torch.load(tmp_path / "state", weights_only=True)  # numbers, lists and tensors alone
    for name, write in [
        ("state.bin", lambda path: path.write_bytes(pickle.dumps(config(tmp_path)))),
        ("rng_state.pth", lambda path: path.write_bytes(b"")),
        ("hidden.json", lambda path: torch.save({"a": 1}, path)),
    ]:
        write(folder / name)
        fails_on(check, folder)
        (folder / name).unlink()
