"""zo_restore="layerwise" in the trainers: the run of "exact", with weights that never move away."""

import pytest
import torch
from trainer.test_trainer_rloo import build
from trainer.tiny_llama import build_model
from trainer.tiny_trainer import logged, trainer
from transformers import TrainerCallback


class Looks(TrainerCallback):
    """The weights between each estimate and its step."""

    def __init__(self):
        self.seen = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.seen.append([p.detach().clone() for p in model.parameters()])


def weights(t):
    return [p.detach() for p in t.model.parameters()]


@pytest.mark.parametrize("make", [trainer, build], ids=["Trainer", "ZOPrOTrainer"])
@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_run_is_that_of_exact(tmp_path, make, accumulated):
    runs = []
    for restore in ("exact", "layerwise"):
        t = make(tmp_path / restore, zo_restore=restore, max_steps=2, learning_rate=1e-2,
                 gradient_accumulation_steps=accumulated)  # fmt: skip
        t.train()
        assert t.zopro.restore_policy == restore
        assert not any(m._forward_pre_hooks for m in t.model.modules())
        runs.append(t)
    assert logged(runs[0], "loss") == logged(runs[1], "loss")
    assert all(map(torch.equal, weights(runs[0]), weights(runs[1])))
    assert not all(map(torch.equal, weights(runs[0]), build_model().parameters()))


@pytest.mark.parametrize("limit", ["EXACT", "WHOLE"])
def test_auto_goes_by_layers_where_a_copy_is_large(tmp_path, monkeypatch, limit):
    copied = trainer(tmp_path / "copied", max_steps=2, learning_rate=1e-2)
    copied.train()
    for name in {"EXACT", "WHOLE"} if limit == "EXACT" else {"WHOLE"}:
        monkeypatch.setattr(f"zopro.restore.{name}_LIMIT_BYTES", 0)
    t = trainer(tmp_path / "layers", max_steps=2, learning_rate=1e-2)
    t.train()
    policies = copied.zopro.restore_policy, t.zopro.restore_policy
    assert policies == ("exact", "layerwise")
    assert all(map(torch.equal, weights(copied), weights(t)))


@pytest.mark.parametrize("restore,policy", [("auto", "inplace"), ("exact", "exact")])
def test_a_model_that_cannot_be_attached_stays_as_it_was(
    tmp_path, monkeypatch, caplog, restore, policy
):
    for name in ("EXACT", "WHOLE"):
        monkeypatch.setattr(f"zopro.restore.{name}_LIMIT_BYTES", 0)

    def refused(model, *, evaluated):
        raise ValueError("model has a module that is compiled")

    monkeypatch.setattr("zopro.checks.attachable", refused)
    t = trainer(tmp_path, zo_restore=restore, max_steps=1)
    t.train()
    assert t.zopro.restore_policy == policy
    assert f"zo_restore='{restore}' stays {policy}: model has a module" in caplog.text
    with pytest.raises(ValueError, match="is compiled"):
        trainer(tmp_path / "2", zo_restore="layerwise", max_steps=1).train()


def test_weights_between_estimate_and_step_are_theta(tmp_path):
    looks = Looks()
    t = trainer(tmp_path, zo_restore="layerwise", learning_rate=0.0, callbacks=[looks])
    t.train()
    assert len(looks.seen) == 4
    for seen in looks.seen:
        assert all(map(torch.equal, seen, build_model().parameters()))
