"""The mixin over transformers.Trainer, on the tiny model."""

import dataclasses

from trainer.tiny_llama import build_model, tokens
from transformers import Trainer, TrainerCallback, TrainingArguments

from zopro import ZerothOrderMixin
from zopro.trainer import ZerothOrderArguments


@dataclasses.dataclass
class ZOArguments(ZerothOrderArguments, TrainingArguments):
    pass


class ZOTrainer(ZerothOrderMixin, Trainer):
    pass


def arguments(tmp_path, cls=ZOArguments, **kwargs):
    """`cls` for four quick steps on the CPU, with `kwargs` on top."""
    defaults = {
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "learning_rate": 1e-3,
    }
    return cls(str(tmp_path), **{**defaults, **kwargs})


def trainer(tmp_path, model=None, dataset=None, callbacks=None, **kwargs):
    model = build_model() if model is None else model
    dataset = tokens() if dataset is None else dataset
    return ZOTrainer(model, arguments(tmp_path, **kwargs), None, dataset, callbacks=callbacks)


def logged(t, name):
    """The values of one metric over the run."""
    return [entry[name] for entry in t.state.log_history if name in entry]


class Reports(TrainerCallback):
    """Keeps the optimizer's report of every step."""

    def __init__(self):
        self.all = []

    def on_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        self.all.append(optimizer.optimizer.last)
