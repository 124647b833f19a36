"""What makes the losses of one estimate values of one function, whatever the weights."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch


@contextlib.contextmanager
def root_in_eval(model: torch.nn.Module) -> Iterator[None]:
    """Inside, `model` itself is in eval mode while its forward runs, and as it was elsewhere.

    A forward may drop out on the flag of the root module (`F.dropout(x, p, self.training)`), and
    TRL's trainers name their metrics by the same flag between the forwards. The root gets its
    mode back after each forward, also one that raised; submodules stay in eval mode.
    """
    modes = []  # a stack: a forward may call its own module again

    def before(module, args):
        modes.append(module.training)
        module.training = False
        submodules_in_eval(module)

    def after(module, args, output):
        module.training = modes.pop()

    handles = [
        model.register_forward_pre_hook(before, prepend=True),
        model.register_forward_hook(after, always_call=True),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def submodules_in_eval(model: torch.nn.Module) -> None:
    """Puts all but `model` itself in eval mode; cheap where they are in it."""
    for child in model.children():
        if child.training:
            child.eval()


class CommonRandomNumbers:
    """Called before each evaluation of an estimate: all draw the random numbers of the first.

    It resets torch's global generators of the CPU and of `devices`, so after the last evaluation
    they are as one evaluation would have left them. What draws elsewhere (Python's `random`,
    NumPy, a generator of the model's own) is not replayed.
    """

    def __init__(self, devices: Iterable[torch.device]):
        self._devices = sorted({d for d in devices if d.type not in ("cpu", "meta")}, key=str)
        self._states = None

    def __call__(self) -> None:
        if self._states is None:
            self._states = torch.get_rng_state(), [self._of(d, "get") for d in self._devices]
            return
        torch.set_rng_state(self._states[0])
        for device, state in zip(self._devices, self._states[1], strict=True):
            self._of(device, "set", state)

    @staticmethod
    def _of(device, verb, *state):
        where = () if device.type == "mps" else (device,)  # it has one device and takes none
        return getattr(torch.get_device_module(device), f"{verb}_rng_state")(*state, *where)


def steps_in_loss(trainer: Any, num_items_in_batch: Any) -> int:
    """By how many micro-batches the parent's compute_loss has divided its loss already. The rule is
    Trainer.training_step's."""
    scaled = getattr(trainer, "loss_is_scaled_for_ga", None)
    if scaled is None:
        scaled = (
            trainer.model_accepts_loss_kwargs and num_items_in_batch is not None
        ) or trainer.compute_loss_func is not None
    return trainer.current_gradient_accumulation_steps if scaled else 1
