"""What of a Hugging Face configuration has no meaning without a backward pass."""

import warnings
from typing import Any

from transformers import TrainingArguments

_NO_GRAPH = "there is no graph to recompute"
_NO_MOMENTS = "ZOPrO keeps no moments"
_NO_DDP = "there is no gradient to reduce, so no DDP"
# What only a backward pass or another optimizer reads: the values that mean "off" (the first is
# set), and why. The parent's own default is set to it with a notice, every other value is refused.
OFF: dict[str, tuple[tuple, str]] = {
    "max_grad_norm": ((0.0, None), "there is no gradient to clip"),
    "activation_checkpointing": ((None, False), _NO_GRAPH),
    "activation_checkpointing_kwargs": ((None, {}), _NO_GRAPH),
    "gradient_checkpointing": ((None, False), _NO_GRAPH),
    "gradient_checkpointing_kwargs": ((None, {}), _NO_GRAPH),
    "activation_offloading": ((False, None), "there is no graph to offload"),
    "neftune_noise_alpha": ((None, 0), "both signs must see the same function"),
    "adam_beta1": ((0.9,), _NO_MOMENTS),
    "adam_beta2": ((0.999,), _NO_MOMENTS),
    "adam_epsilon": ((1e-8,), f"{_NO_MOMENTS}; the perturbation's size is `zo_eps`"),
    "ddp_find_unused_parameters": ((None,), _NO_DDP),
    "ddp_bucket_cap_mb": ((None,), _NO_DDP),
    "ddp_broadcast_buffers": ((None,), _NO_DDP),
    "ddp_static_graph": ((None,), _NO_DDP),
}

# What asks for something else than zeroth-order training on whole weights: refused.
REFUSED = {
    "fp16": "loss scaling is made for gradients; load the model in bfloat16, or use bf16=True",
    "fsdp": "sharded parameters are not supported; use plain data parallelism (torchrun)",
    "deepspeed": "DeepSpeed is not supported; use plain data parallelism (torchrun)",
    "optim_args": "the optimizer is ZOPrO; its arguments are the fields that begin with `zo_`",
    "optim_target_modules": "the optimizer is ZOPrO; it trains what requires a gradient",
    "use_weighting": "its weights are held fixed in the gradient, but move the loss's value",
}
DETACHED_LOSSES = ("dft", "cispo")  # SFT's, GRPO's


def refuse(args: Any) -> None:
    """ValueError for what asks for something else than zeroth-order training."""
    for name, reason in REFUSED.items():
        if getattr(args, name, None):
            raise ValueError(f"{name}={getattr(args, name)!r} is refused: {reason}.")
    loss_type = getattr(args, "loss_type", None)
    if loss_type in DETACHED_LOSSES:
        raise ValueError(
            f"loss_type={loss_type!r} is refused: a detached factor makes its gradient another"
            " than the slope of its value, which is what forward passes measure."
        )
    if args.optim != TrainingArguments.default_optim:
        raise ValueError(
            f"optim={str(getattr(args.optim, 'value', args.optim))!r} is refused: the optimizer"
            " of this trainer is ZOPrO; leave `optim` out."
        )


def switch_off(args: Any, ours: type) -> None:
    """Sets what has no meaning without a backward pass to off; ValueError where it was asked for.
    ours: the configuration above the Hugging Face one."""
    for name, (off, reason) in OFF.items():
        given = getattr(args, name, None)
        if given in off:
            continue
        if given != _default_of(type(args), ours, name):
            raise ValueError(
                f"{name}={given!r} is refused: {reason}; leave `{name}` out or set {off[0]!r}."
            )
        # The caller of the configuration: above its __init__ and __post_init__.
        warnings.warn(f"{name}={given!r} is switched off: {reason}.", stacklevel=4)
        setattr(args, name, off[0])


def _default_of(cls: type, ours: type, name: str) -> Any:
    """The default of a field as the Hugging Face configuration under `ours` has it."""
    for parent in cls.__mro__[cls.__mro__.index(ours) + 1 :]:
        found = getattr(parent, "__dataclass_fields__", {}).get(name)
        if found is not None:
            return found.default
    return None
