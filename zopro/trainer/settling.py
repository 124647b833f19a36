"""Stored weights are theta wherever a trainer or a callback looks at them."""

import logging

from transformers import TrainerCallback

from zopro.optimizer import ZOPrO

logger = logging.getLogger(__name__)


def settle(optimizer) -> None:
    """Stores theta, where an estimate or `zo_lookahead` has left a perturbed theta."""
    zopro = getattr(optimizer, "optimizer", optimizer)  # without accelerate's wrapper
    if isinstance(zopro, ZOPrO):
        zopro.settle()


def attached(optimizer: ZOPrO, model) -> ZOPrO:
    """`optimizer`, which may evaluate `model` layer by layer from now on.

    The head's weight is held: TRL's losses read it in chunks, without its module.
    """
    if optimizer._restore == "inplace":
        return optimizer
    head = getattr(model, "get_output_embeddings", lambda: None)()
    try:
        optimizer.attach(model, held=() if head is None else head.parameters())
    except ValueError as error:
        if optimizer._restore == "layerwise":
            raise
        logger.warning("zo_restore=%r stays %s: %s", optimizer._restore,
                       optimizer.restore_policy, error)  # fmt: skip
    return optimizer


class Settle(TrainerCallback):
    """The first of the callbacks: the others find theta when an epoch or training ends."""

    def on_epoch_end(self, args, state, control, optimizer=None, **kwargs):
        settle(optimizer)

    def on_train_end(self, args, state, control, optimizer=None, **kwargs):
        settle(optimizer)


def watched(callbacks, event: str) -> bool:
    """Whether one of `callbacks` does something at `event`, such as a look at the weights."""
    return any(getattr(type(c), event) is not getattr(TrainerCallback, event) for c in callbacks)
