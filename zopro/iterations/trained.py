"""Which of the policy's weights are trained, and what its zeroth-order phases take unless told."""

from __future__ import annotations

from typing import Any

from peft import LoraConfig, PeftModel
from peft.utils.constants import DUMMY_TARGET_MODULES
from torch import nn
from transformers import PreTrainedModel

from .config import IterationConfig

# Learning rate of a zeroth-order phase: this over the number of trained weights, because a step
# moves each of them by lr times the slope, that is all n of them by lr |slope| sqrt(n). On 983,040
# adapter weights a fixed 1e-4 moved the policy by 0.5 to 1.2 a step, noise mostly, where the whole
# first-order iteration before had moved it by 0.84: within 30 steps KL was 13 and every response
# 32 tokens of nothing.
ADAPTER_SCALE = 10.0
# The same for norms, whose weights are near 1: the rates that won in docs/learning.md's tables of
# settings lie around it, for advantages that are normalized there.
NORM_SCALE = 100.0
# Rms of the perturbation. Of norms: the tuned one, from which a fifth and five times could not be
# told apart (docs/learning.md, ablations). Of adapters no eps was shown to be better than another.
ADAPTER_EPS, NORM_EPS = 1e-3, 0.02


def norms_of(model: PreTrainedModel, last: bool) -> list[str]:
    """Names of the model's norms that have weights; last: of the one after the last layer alone.

    Raises ValueError for a model without.
    """
    named = dict(model.named_modules())
    trunk = next(name for name, module in named.items() if module is model.base_model)
    found = [name for name, module in named.items()
             if type(module).__name__.endswith("Norm") and next(module.parameters(False), None)
             is not None]  # fmt: skip
    if last:
        found = [n for n in found if n.rpartition(".")[0] == trunk][-1:]
    if not found:
        what = "last_norm" if last else "norms"
        raise ValueError(f"train={what!r}, but {type(model).__name__} has no such norm with "
                         "weights: use 'lora' or 'all'")  # fmt: skip
    return found


def part(config: IterationConfig, model: PreTrainedModel) -> LoraConfig | None:
    """The policy's adapter for `config.train` and a bare model; None where all weights are trained.

    For norms it is PEFT's `modules_to_save` and no LoRA: copies of the norms are trained, the
    base's own are the reference policy's and the reward model's.
    """
    if config.whole:
        return None
    if config.train == "lora":
        return lora(config, config.lora_r)
    return LoraConfig(
        target_modules=DUMMY_TARGET_MODULES,
        modules_to_save=norms_of(model, config.train == "last_norm"),
        task_type="CAUSAL_LM",
    )


def lora(config: IterationConfig, rank: int) -> LoraConfig:
    """A LoRA adapter as the run's options have it."""
    return LoraConfig(
        r=rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=config.target_modules or "all-linear",
        task_type="CAUSAL_LM",
    )


def zeroth_order_lr(policy: PreTrainedModel | PeftModel, config: IterationConfig) -> float:
    """The learning rate of a zeroth-order phase whose options name none.

    An adapter's effect is scaled by alpha / r, and with it the slope, and the effect of a step: the
    square is taken out, over that of the method's alpha / r = 2.
    """
    count = sum(p.numel() for p in trained(policy).values())
    if config.norms:
        return NORM_SCALE / count
    scale = 2.0
    if isinstance(policy, PeftModel):
        made = policy.peft_config["default"]
        scale = made.lora_alpha / made.r
    return ADAPTER_SCALE / count * (2.0 / scale) ** 2


def trained(policy: PreTrainedModel | PeftModel) -> dict[str, nn.Parameter]:
    """The policy's trained parameters by the names that the optimizer sees."""
    if isinstance(policy, PeftModel):
        return {n: p for n, p in policy.named_parameters() if ".default." in n}
    return {n: p for n, p in policy.named_parameters() if p.requires_grad}


def zeroth_order_defaults(config: IterationConfig, options: dict[str, Any]) -> dict[str, Any]:
    """Of a zeroth-order phase, where `options` name nothing else. Sources: docs/learning.md.

    - Four one-sided directions a step: five losses. Every tuned setting has them; against one
      two-sided direction the ablation's mean is higher, within an interval that holds zero.
      `zo_lookahead`, which is for two-sided steps, keeps one two-sided direction.
    - Rollouts swept twice, no clip: as all tuned settings. A clip cuts off the loss at theta + r z,
      and with it the slope, as soon as a ratio leaves it. With `objective="samples"` there are no
      rollouts to keep.
    - zo_eps by what is trained; signs, which Gaussian noise did not beat.
    - An adapter's weights come back layer by layer, to the same bits as from a copy: at rank 64 the
      copy is a tenth of a small model, beside targets that are a twentieth (docs/benchmarks.md).
      Not where losses generate, each token of which would perturb each layer, nor in a compiled
      model.
    """
    made: dict[str, Any] = {"zo_eps": NORM_EPS if config.norms else ADAPTER_EPS}
    if not options.get("zo_lookahead", False):
        made |= {"zo_num_directions": 4, "zo_estimator": "one_sided"}
        linear = config.train == "lora" and not config.whole and not config.target_modules
        compiled = config.trainer.get("torch_compile") or options.get("torch_compile")
        if linear and config.objective != "samples" and not compiled:
            made["zo_restore"] = "layerwise"
    if options.get("zo_population") is not None:
        made.pop("zo_num_directions", None)  # the population is the directions
    if config.objective != "samples":
        made |= {"num_iterations": 2, "epsilon": 1e3}
    return made
