"""The mixin over TRL's trainers: the parents' metrics, the parents' gradient, and PEFT."""

import pytest
from peft import LoraConfig, get_peft_model
from trainer.tiny_llama import build_model, moved, snapshot
from trainer.tiny_trainer import logged
from trainer.tiny_trl import TRAINERS, build
from transformers import TrainerCallback

from zopro import ZOPrO


@pytest.mark.parametrize("name", TRAINERS)
def test_trains_without_gradients_under_the_parents_names(name, tmp_path):
    options = {"gradient_accumulation_steps": 2, "max_steps": 3}
    zeroth = build(name, tmp_path, zo_num_directions=2, **options)
    before = snapshot(zeroth.model)
    zeroth.train()
    assert moved(before, zeroth.model)
    assert all(p.grad is None for p in zeroth.model.parameters())
    assert len(set(logged(zeroth, "learning_rate"))) == 3

    first = build(name, tmp_path, zeroth=False, **options)
    first.train()
    ours, theirs = zeroth.state.log_history, first.state.log_history
    # Ours are named zo_*: the optimizer's health (zopro/trainer/health.py).
    assert all({"zo_eps", "zo_loss_change"} <= set(entry) for entry in ours[:-1])
    parents = [{name for name in entry if not name.startswith("zo_")} for entry in ours]
    assert parents == [set(entry) for entry in theirs]
    assert logged(zeroth, "num_tokens")[0] == logged(first, "num_tokens")[0]


@pytest.mark.parametrize("name", TRAINERS)
def test_metrics_of_a_still_model_are_the_parents(name, tmp_path):
    """lr 0 and a small eps: all but times agree, the loss under accumulation included."""
    options = {"gradient_accumulation_steps": 2, "max_steps": 2, "learning_rate": 0.0}
    histories = []
    for zeroth in (True, False):
        t = build(name, tmp_path, zeroth=zeroth, **options)
        t.train()
        histories.append(t.state.log_history)
    skip = {"grad_norm", "step_time", "rewards/accuracies"}  # the last: ties with the reference
    for ours, theirs in zip(*histories, strict=True):
        for key in set(theirs) - skip:
            if "runtime" not in key and "per_second" not in key:
                assert ours[key] == pytest.approx(theirs[key], abs=5e-3, rel=1e-3), key


class Gradients(TrainerCallback):
    """Keeps the gradients of the first step."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if state.global_step == 0:
            self.all = {n: p.grad.clone() for n, p in model.named_parameters()}


@pytest.mark.parametrize("name", TRAINERS)
def test_slope_is_the_parents_gradient_along_the_direction(name, tmp_path):
    options = {"gradient_accumulation_steps": 2, "max_steps": 1, "learning_rate": 0.0}
    first, gradients = (
        build(name, tmp_path, zeroth=False, max_grad_norm=0.0, **options),
        Gradients(),
    )
    first.add_callback(gradients)
    first.train()
    zeroth = build(name, tmp_path, zo_eps=1e-3, **options)
    zeroth.train()

    model = build_model()
    theta = snapshot(model)
    optimizer = ZOPrO(model.named_parameters(), eps=1.0, seed=zeroth.args.seed, restore="exact")
    with optimizer.perturbed(+1):
        z = {n: p.detach() - theta[n] for n, p in model.named_parameters()}
    exact = sum((gradients.all[n] * z[n]).sum() for n in theta).item()
    assert zeroth.zopro.last.projected_gradients[0] == pytest.approx(exact, rel=3e-2, abs=1e-3)
    assert abs(exact) > 1e-2


@pytest.mark.parametrize("name", TRAINERS)
def test_lora_moves_adapters_only(name, tmp_path):
    lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    t = build(name, tmp_path, peft_config=lora, zo_eps=1e-2, max_steps=2)
    before = snapshot(t.model)
    t.train()
    adapters = {n for n in before if "lora_" in n and ".ref." not in n}
    assert adapters and moved(before, t.model) <= adapters
    assert len(t.zopro.param_groups[0]["params"]) == len(adapters)


def test_reference_adapter_of_a_peft_model_stays(tmp_path):
    """TRL copies a PeftModel's adapter to "ref"; nothing may perturb or decay the copy."""
    lora = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(build_model(), lora)
    t = build("rloo", tmp_path, model=model, beta=0.1, weight_decay=0.5, max_steps=2)
    before = snapshot(t.model)
    t.train()
    assert any(".ref." in n for n in before)
    assert moved(before, t.model) and all(".default." in n for n in moved(before, t.model))
    assert logged(t, "kl")
