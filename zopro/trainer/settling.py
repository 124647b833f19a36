"""Stored weights are theta wherever a trainer or a callback looks at them."""

from transformers import TrainerCallback

from zopro.optimizer import ZOPrO


def settle(optimizer) -> None:
    """Stores theta, where an estimate or `zo_lookahead` has left a perturbed theta."""
    zopro = getattr(optimizer, "optimizer", optimizer)  # without accelerate's wrapper
    if isinstance(zopro, ZOPrO):
        zopro.settle()


class Settle(TrainerCallback):
    """The first of the callbacks: the others find theta when an epoch or training ends."""

    def on_epoch_end(self, args, state, control, optimizer=None, **kwargs):
        settle(optimizer)

    def on_train_end(self, args, state, control, optimizer=None, **kwargs):
        settle(optimizer)


def watched(callbacks, event: str) -> bool:
    """Whether one of `callbacks` does something at `event`, such as a look at the weights."""
    return any(getattr(type(c), event) is not getattr(TrainerCallback, event) for c in callbacks)
