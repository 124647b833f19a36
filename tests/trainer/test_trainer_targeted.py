"""Checkpoints of a targeted run name the targets that lie beside its step log."""

import shutil

import pytest
import torch
from optimizer.helpers import same_bits
from trainer.tiny_llama import build_model, tokens
from trainer.tiny_trainer import trainer
from transformers import TrainerCallback

from zopro.trainer import trees
from zopro.trainer.resumable import OPTIMIZER

OPTIONS = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}


class Gone(BaseException):
    pass


class Ends(TrainerCallback):
    def on_save(self, args, state, control, **kwargs):
        raise Gone


def run(folder, callbacks=None, seed=7, **options):
    model = build_model()
    draws = torch.Generator().manual_seed(seed)
    moved, wanted = (
        {n: 1e-2 * torch.randn(p.shape, generator=draws) for n, p in model.named_parameters()}
        for _ in range(2)
    )
    t = trainer(folder, model, tokens(), callbacks, **OPTIONS, **options)
    t.set_targets(moved, wanted)
    return t


def tensors(checkpoint):
    return trees.load(checkpoint / OPTIMIZER)["optimizer"]["zopro"]["targets"]


@pytest.mark.parametrize("storage", ["fp32", "int8"])
def test_it_goes_on_to_the_same_bits(storage, tmp_path):
    whole, folder = tmp_path / "whole", tmp_path / "run"
    t = run(whole, zo_target_storage=storage, zo_log_steps=False)
    t.train()
    assert {"prev", "v"} <= tensors(whole / "checkpoint-2").keys()  # there is no log
    with pytest.raises(Gone):
        run(folder, [Ends()], zo_target_storage=storage).train()
    (file,) = folder.glob("targets-*.safetensors")
    saved, checkpoint = tensors(folder / "checkpoint-2"), folder / "checkpoint-2"
    assert saved["file"] == file.name and not {"prev", "v"} & saved.keys()
    assert (checkpoint / OPTIMIZER).stat().st_size < 6000 < file.stat().st_size
    (folder / "progress.safetensors").unlink()  # by the checkpoint alone
    # Targets set anew are not those of the run: the checkpoint's are.
    rest = run(folder, seed=8, zo_target_storage=storage)
    rest.train(resume_from_checkpoint=str(checkpoint))
    assert same_bits(rest.model.parameters(), t.model.parameters())


def test_other_targets_are_refused(tmp_path):
    with pytest.raises(Gone):
        run(tmp_path / "run", [Ends()]).train()
    (file,) = (tmp_path / "run").glob("targets-*.safetensors")
    checkpoint = str(tmp_path / "run" / "checkpoint-2")
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"checkpoint-2' cannot be gone on from: .*digest"):
        run(tmp_path / "other").train(resume_from_checkpoint=checkpoint)
    file.unlink()
    with pytest.raises(ValueError, match=r"checkpoint-2' cannot be gone on from: .*cannot be read"):
        run(tmp_path / "other").train(resume_from_checkpoint=checkpoint)
    shutil.rmtree(tmp_path / "run")
