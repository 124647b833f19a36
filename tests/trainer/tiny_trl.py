"""The mixin over TRL's trainers, each beside its parent, on the tiny model."""

import dataclasses

from trainer.tiny_llama import build_model, build_tokenizer, pairs, prompts, reward_digits, texts
from trainer.tiny_trainer import arguments
from trl import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    RLOOConfig,
    RLOOTrainer,
    SFTConfig,
    SFTTrainer,
)

from zopro import ZerothOrderMixin, ZOPrOConfig, ZOPrOTrainer
from zopro.trainer import Resumable, ZerothOrderArguments


@dataclasses.dataclass
class ZOSFTConfig(ZerothOrderArguments, SFTConfig):
    pass


@dataclasses.dataclass
class ZODPOConfig(ZerothOrderArguments, DPOConfig):
    pass


@dataclasses.dataclass
class ZOGRPOConfig(ZerothOrderArguments, GRPOConfig):
    pass


class ZOSFTTrainer(ZerothOrderMixin, SFTTrainer):
    pass


class ZODPOTrainer(ZerothOrderMixin, DPOTrainer):
    pass


class ZOGRPOTrainer(ZerothOrderMixin, GRPOTrainer):
    pass


GENERATE = {"num_generations": 2, "max_completion_length": 6, "beta": 0.0}
TRAINERS = {
    "sft": ((ZOSFTTrainer, ZOSFTConfig), (SFTTrainer, SFTConfig), texts, {}, {}),
    "dpo": ((ZODPOTrainer, ZODPOConfig), (DPOTrainer, DPOConfig), pairs, {}, {}),
    "rloo": (
        (ZOPrOTrainer, ZOPrOConfig),
        (RLOOTrainer, RLOOConfig),
        prompts,
        {"reward_funcs": reward_digits},
        GENERATE,
    ),
    "grpo": (
        (ZOGRPOTrainer, ZOGRPOConfig),
        (GRPOTrainer, GRPOConfig),
        prompts,
        {"reward_funcs": reward_digits},
        GENERATE,
    ),
}


def build(name, tmp_path, zeroth=True, model=None, peft_config=None, data=None, **options):
    ours, theirs, rows, extra, defaults = TRAINERS[name]
    cls, config = ours if zeroth else theirs
    if not zeroth:  # the parent with the same draws: ours are those of (seed, step)
        cls = type(cls.__name__, (Resumable, cls), {})
    args = arguments(tmp_path, config, **{"bf16": False, **defaults, **options})
    if model is None:  # by name: DPO loads its reference model from there as well
        model = str(tmp_path / "model")
        build_model().save_pretrained(model)
    return cls(
        model=model,
        args=args,
        train_dataset=rows(32) if data is None else data,
        processing_class=build_tokenizer(),
        peft_config=peft_config,
        **extra,
    )
