"""Passes over the weights in the trainer's loop, and what looks at weights between them."""

import pytest
import torch
from safetensors.torch import load_file
from trainer.tiny_llama import build_model, tokens
from trainer.tiny_trainer import ZOTrainer, arguments, logged, trainer
from transformers import TrainerCallback

from zopro import replay
from zopro_kernels import cpu


@pytest.fixture
def passes(monkeypatch):
    """One entry a kernel call."""
    if cpu.status() != "available":
        pytest.skip(f"backend cpu: {cpu.status()}")
    calls, kernel = [], cpu.add_noise_
    monkeypatch.setattr(cpu, "add_noise_", lambda p: (calls.append(p), kernel(p)))
    return calls


class Looks(TrainerCallback):
    """The weights at every `on_pre_optimizer_step`."""

    def __init__(self):
        self.seen = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.seen.append([p.detach().clone() for p in model.parameters()])


def run(tmp_path, callbacks=None, **kwargs):
    options = {"zo_restore": "inplace", "zo_backend": "cpu", "zo_log_steps": False, **kwargs}
    t = trainer(tmp_path, callbacks=callbacks, **options)
    t.train()
    return t


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_restore_and_update_are_one_pass(tmp_path, passes, micro_batches):
    """Three a step of one batch; each further batch goes on from where the last one was."""
    run(tmp_path, gradient_accumulation_steps=micro_batches)
    assert len(passes) == 4 * (1 + 2 * micro_batches)


def test_with_lookahead_a_step_is_two_passes(tmp_path, passes):
    run(tmp_path, zo_lookahead=True)
    assert len(passes) == 1 + 4 * 2 + 1  # the first perturbation, and the way home at the end


def test_a_callback_between_estimate_and_step_sees_theta(tmp_path, passes):
    looks = Looks()
    start = [p.detach().clone() for p in build_model().parameters()]
    run(tmp_path, callbacks=[looks], learning_rate=0.0)
    assert len(passes) == 4 * 4
    for seen in looks.seen:
        assert all((a - b).abs().max() < 1e-6 for a, b in zip(seen, start))


def test_a_run_is_the_one_without(tmp_path):
    a, b = run(tmp_path / "a"), run(tmp_path / "b", zo_lookahead=True)
    assert logged(a, "loss") == pytest.approx(logged(b, "loss"), rel=1e-5)
    for p, q in zip(a.model.parameters(), b.model.parameters()):
        assert torch.allclose(p, q, rtol=0, atol=1e-5)


def test_evaluation_and_saves_see_theta(tmp_path):
    """A perturbed theta would be 1e-2 away, and lose more."""
    more = {"zo_eps": 1e-2, "eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps",
            "save_steps": 2, "learning_rate": 0.0, "zo_restore": "inplace",
            "zo_log_steps": False}  # fmt: skip
    runs = []
    for lookahead in (False, True):
        args = arguments(tmp_path / str(lookahead), zo_lookahead=lookahead, **more)
        t = ZOTrainer(build_model(), args, None, tokens(), tokens())
        t.train()
        runs.append(t)
        saved = load_file(tmp_path / str(lookahead) / "checkpoint-2" / "model.safetensors")
        start = build_model().state_dict()
        assert all((saved[name] - start[name]).abs().max() < 1e-5 for name in saved)
    assert logged(runs[0], "eval_loss") == pytest.approx(logged(runs[1], "eval_loss"), rel=1e-5)


def test_an_error_leaves_theta(tmp_path):
    class Fails(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            raise KeyError("callback")

    options = {"zo_lookahead": True, "zo_log_steps": False, "learning_rate": 0.0}
    t = trainer(tmp_path, callbacks=[Fails()], **options)
    with pytest.raises(KeyError):
        t.train()
    start = build_model().parameters()
    assert all((p - q).abs().max() < 1e-6 for p, q in zip(t.model.parameters(), start))


def test_its_log_replays(tmp_path):
    t = run(tmp_path, zo_lookahead=True, zo_log_steps=True, learning_rate=1e-2)
    weights = {n: p.detach().clone() for n, p in build_model().named_parameters()}
    replay(tmp_path / "steps.zolog", weights)
    assert all(torch.equal(p, weights[n]) for n, p in t.model.named_parameters())
    assert not all(torch.equal(*pair) for pair in zip(weights.values(), build_model().parameters()))
