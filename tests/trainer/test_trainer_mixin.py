"""ZerothOrderMixin over transformers.Trainer: what a step does."""

import pytest
import torch
from trainer.tiny_llama import build_model, moved, snapshot, tokens
from trainer.tiny_trainer import Reports, ZOArguments, ZOTrainer, arguments, logged, trainer
from transformers import Trainer, TrainingArguments


def test_only_trainable_weights_move_and_nothing_has_a_gradient(tmp_path):
    model = build_model()
    model.model.embed_tokens.requires_grad_(False)
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    before = snapshot(model)
    graphs = []
    model.model.layers[0].register_forward_hook(
        lambda module, args, output: graphs.append(torch.is_grad_enabled())
    )
    trainer(tmp_path, model).train()
    assert moved(before, model) == set(before) - frozen
    assert all(p.grad is None for p in model.parameters())
    assert len(graphs) == 2 * 4 and not any(graphs)


def test_lr_moves_and_logs_keep_their_names(tmp_path):
    zeroth = trainer(tmp_path)
    zeroth.train()
    first = Trainer(build_model(), arguments(tmp_path, TrainingArguments), None, tokens())
    first.train()
    ours = [{n for n in e if not n.startswith("zo_")} for e in zeroth.state.log_history]
    assert ours == [set(e) for e in first.state.log_history]
    assert logged(zeroth, "learning_rate") == logged(first, "learning_rate")
    assert len(set(logged(zeroth, "learning_rate"))) == 4
    slope = zeroth.zopro.last.projected_gradients[0]
    assert logged(zeroth, "grad_norm")[-1] == pytest.approx(abs(slope))


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("by_tokens", [True, False])
def test_logged_loss_is_the_parents(tmp_path, steps, by_tokens):
    logs = []
    for cls, config in ((ZOTrainer, ZOArguments), (Trainer, TrainingArguments)):
        model = build_model()
        model.accepts_loss_kwargs = by_tokens
        args = arguments(
            tmp_path, config, gradient_accumulation_steps=steps, learning_rate=0.0, max_steps=2
        )
        t = cls(model, args, None, tokens())
        t.train()
        logs.append(logged(t, "loss"))
    assert logs[0] == pytest.approx(logs[1], abs=2e-3)  # curvature at eps 1e-3


@pytest.mark.parametrize("by_tokens", [True, False])
def test_accumulated_estimate_is_that_of_the_larger_batch(tmp_path, by_tokens):
    def mask(row, i):  # rows of different lengths, so that tokens and batches weigh differently
        return {"labels": [-100] * (i % 4) + row["labels"][i % 4 :]}

    data = tokens().map(mask, with_indices=True) if by_tokens else tokens()
    slopes = []
    for batch, steps in ((8, 1), (4, 2)):
        reports = Reports()
        model = build_model()
        model.accepts_loss_kwargs = by_tokens
        trainer(
            tmp_path, model, data, [reports],
            per_device_train_batch_size=batch, gradient_accumulation_steps=steps,
            learning_rate=0.0, max_steps=3, zo_eps=1e-2,
        ).train()  # fmt: skip
        assert [r.estimates for r in reports.all] == [steps] * 3
        slopes.append([r.projected_gradients[0] for r in reports.all])
        assert len({r.seed for r in reports.all}) == 3
    assert slopes[0] == pytest.approx(slopes[1], rel=1e-3, abs=1e-4)


def test_resumed_run_ends_at_the_same_bits(tmp_path):
    options = {
        "max_steps": 6,
        "save_strategy": "steps",
        "save_steps": 3,
        "weight_decay": 0.1,
        "gradient_accumulation_steps": 2,
        "zo_num_directions": 2,
        "zo_distribution": "gaussian",
        "zo_restore": "inplace",
    }
    whole = build_model()
    trainer(tmp_path / "a", whole, tokens(64), **options).train()
    resumed = build_model(seed=1)
    t = trainer(tmp_path / "b", resumed, tokens(64), **options)
    t.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-3"))
    assert t.state.global_step == 6 and not moved(snapshot(whole), resumed)
