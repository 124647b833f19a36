"""ZerothOrderMixin over transformers.Trainer: what surrounds a step, and what is refused."""

import functools

import pytest
import torch
from trainer.tiny_llama import build_model, moved, snapshot, tokens
from trainer.tiny_trainer import ZOTrainer, arguments, logged, trainer
from transformers import Trainer, TrainingArguments

from zopro import ZOPrO


def test_evaluation_is_the_parents(tmp_path):
    args = arguments(tmp_path, eval_strategy="steps", eval_steps=2, learning_rate=0.0)
    t = ZOTrainer(build_model(), args, None, tokens(), tokens(8))
    t.train()
    parent = Trainer(build_model(), arguments(tmp_path, TrainingArguments), None, None, tokens(8))
    exact = parent.evaluate()["eval_loss"]
    assert logged(t, "eval_loss") == pytest.approx([exact] * 2, rel=1e-5)


def test_noise_leaves_the_global_generators_alone(tmp_path):
    states = []
    for seed, directions, distribution in ((1, 1, "rademacher"), (2, 3, "gaussian")):
        trainer(
            tmp_path, zo_seed=seed, zo_num_directions=directions, zo_distribution=distribution
        ).train()
        states.append(torch.random.get_rng_state())
    assert torch.equal(*states)


def test_labels_survive_the_first_evaluation(tmp_path):
    """Trainer.compute_loss pops the labels for a label smoother and for compute_loss_func."""
    t = trainer(tmp_path, label_smoothing_factor=0.1)
    t.train()
    assert all(g != 0 for g in logged(t, "grad_norm"))

    seen = []

    def loss_func(outputs, labels, num_items_in_batch=None):
        seen.append(num_items_in_batch)
        logits = outputs.logits.flatten(0, 1)
        sums = torch.nn.functional.cross_entropy(logits, labels.flatten(), reduction="sum")
        return sums / num_items_in_batch

    args = arguments(tmp_path, gradient_accumulation_steps=2)
    t = ZOTrainer(build_model(), args, None, tokens(), compute_loss_func=loss_func)
    t.train()
    assert all(n is not None for n in seen) and logged(t, "loss")[0] < 6


def test_outer_autocast_does_not_hide_the_perturbation(tmp_path):
    t = trainer(tmp_path, zo_eps=0.05, learning_rate=0.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        t.train()
    assert all(g != 0 for g in logged(t, "grad_norm"))


def test_bf16_autocast_works(tmp_path):
    t = trainer(tmp_path, bf16=True, zo_eps=0.05)
    t.train()
    assert all(g != 0 for g in logged(t, "grad_norm"))


def test_biases_and_norms_are_not_decayed(tmp_path):
    model = build_model(attention_bias=True)
    t = trainer(tmp_path, model, weight_decay=0.1)
    t.create_optimizer()
    parent = Trainer(model, arguments(tmp_path, TrainingArguments, weight_decay=0.1))
    parent.create_optimizer()
    ours, theirs = ({
        decay: {id(p) for g in o.param_groups if g["weight_decay"] == decay for p in g["params"]}
        for decay in (0.0, 0.1)
    } for o in (t.zopro, parent.optimizer))  # fmt: skip
    assert ours == theirs and ours[0.0] and ours[0.1]


def test_step_with_a_loss_that_is_not_finite_is_skipped(tmp_path):
    t = trainer(tmp_path, max_steps=3)
    parent, calls = t.model.forward, []

    @functools.wraps(parent)
    def forward(*args, **kwargs):
        out = parent(*args, **kwargs)
        calls.append(None)
        out.loss = out.loss * (float("nan") if len(calls) == 3 else 1.0)
        return out

    t.model.forward = forward
    before = snapshot(t.model)
    t.train()
    assert t.zopro.skipped_steps == 1 and moved(before, t.model)
    assert logged(t, "zo_skipped_steps") == [1, 1]
    assert all(torch.isfinite(p).all() for p in t.model.parameters())


def test_set_targets_reaches_the_optimizer_with_the_runs_length(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(
        ZOPrO, "set_targets", lambda self, *a, **k: calls.append((a, k)), raising=False
    )
    t = trainer(tmp_path, zo_schedule="cosine", max_steps=3)
    t.set_targets({"a": 1}, None)
    t.train()
    t.train()
    assert calls == [(({"a": 1}, None, "cosine", 3, 0.1, "int8"), {})]


def test_wrong_arguments_are_refused(tmp_path):
    plain = arguments(tmp_path, TrainingArguments)
    with pytest.raises(TypeError, match="args is a TrainingArguments"):
        ZOTrainer(build_model(), plain, None, tokens())

    model = build_model()
    adam = torch.optim.AdamW(model.parameters())
    t = ZOTrainer(model, arguments(tmp_path), None, tokens(), optimizers=(adam, None))
    with pytest.raises(TypeError, match="AdamW"):
        t.train()
    t = ZOTrainer(
        model, arguments(tmp_path), None, tokens(), optimizer_cls_and_kwargs=(torch.optim.SGD, {})
    )
    with pytest.raises(TypeError, match="optimizer_cls_and_kwargs"):
        t.train()

    model.requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter that requires a gradient"):
        trainer(tmp_path, model).train()


def test_own_zopro_is_used(tmp_path):
    model = build_model()
    optimizer = ZOPrO(model.lm_head.parameters(), lr=1e-3)
    before = snapshot(model)
    t = ZOTrainer(model, arguments(tmp_path), None, tokens(), optimizers=(optimizer, None))
    t.train()
    assert t.zopro is optimizer and moved(before, model) == {"lm_head.weight"}
