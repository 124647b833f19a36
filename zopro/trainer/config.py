"""The arguments of zeroth-order training: fields beside a Hugging Face configuration's own."""

import warnings
from dataclasses import dataclass, field
from typing import Any

from transformers import TrainingArguments
from trl import RLOOConfig

import zopro_kernels as zk
from zopro import checks, schedules
from zopro.targets import STORAGES

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


@dataclass
class ZerothOrderArguments:
    """The fields that `ZerothOrderMixin` reads, to put before any Hugging Face configuration:

        @dataclass
        class ZOSFTConfig(ZerothOrderArguments, SFTConfig):
            pass

    `learning_rate`, `weight_decay`, the schedules of the learning rate and everything else keep
    their names and their meaning there. What has none without a backward pass is refused with a
    ValueError (`optim`, `adam_beta1`, `max_grad_norm`, `gradient_checkpointing_kwargs`, `fp16`,
    `fsdp`, `deepspeed`, ...); a value that is the parent's own default, such as TRL's
    gradient_checkpointing=True, is switched off with a notice. bf16 autocast is off unless asked
    for: the difference of two losses needs their low bits, and a model can be loaded in bfloat16
    instead.

    Parameters:
        zo_eps (float or "auto"): root mean square of the perturbation of one element, in the
            units of the weights, > 0; "auto" finds the smallest that rises clear of the loss's
            rounding noise.
        zo_distribution: "rademacher" (signs) or "gaussian".
        zo_num_directions (int >= 1): directions of one step, all scored on the same batch (for
            RLOO on the same rollouts, whose generation is the dear part).
        zo_estimator: "two_sided", two losses a direction (SPSA; MeZO, arXiv 2305.17333), or
            "one_sided", one loss a direction and one of the weights as they are.
        zo_schedule: of d, the weight of the previous update in a targeted direction (ZOPrO,
            arXiv 2503.03460): "linear", "exponential", "cosine" or "constant".
        zo_target_storage: of the previous updates: "fp32", "bf16", or "int8" with block scales: 8,
            4 or 2.03 bytes an element, the same learning as measured; see `ZOPrO.set_targets`.
        zo_rounding: of the update: "nearest", "stochastic", or "auto", by dtype.
        zo_restore: after a perturbation: "exact", the very bits (above 1 GiB of trainable weights
            "layerwise"); "layerwise", the same with one layer's memory; "inplace", no memory;
            "auto": "exact" up to 1 GiB, then "inplace".
        zo_seed (int or None): seed of the noise; None takes `seed`. Rank 0's holds on all ranks.
        zo_lookahead (bool): the pass that restores and updates perturbs for the next step too: two
            passes over the weights a step instead of three. In place, two-sided. Callbacks: see
            `ZerothOrderMixin`.
        zo_backend (str or None): of the kernels; None picks by device.
        zo_log_steps: write `steps.zolog` to the output folder, from which `zopro replay` rebuilds
            the weights of any step (docs/replay.md); an adapter's start is saved beside it.
        zo_noise_every (int >= 0): log `zo_loss_noise`, below which a difference of two losses says
            nothing, at the first step and each so many, for four more losses; 0: never.
        zo_sketch_every (int >= 0): write a sketch of the trained weights, for `zopro.analysis`, to
            the output folder's `sketches` at each so many steps, the start and the end; 0: never.
    """

    # Other defaults than Hugging Face's, so that a notice tells of a user's choice alone.
    max_grad_norm: float = field(default=0.0, metadata={"help": "Without meaning: no gradients."})
    gradient_checkpointing: bool | None = field(
        default=None, metadata={"help": "Without meaning: no graph."}
    )
    bf16: bool | None = field(
        default=False,
        metadata={"help": "bf16 autocast. Off: the difference of two losses needs their low bits."},
    )
    learning_rate: float = field(default=1e-4, metadata={"help": "The learning rate of ZOPrO."})

    zo_eps: float | str | None = field(  # None: else the command line takes numbers only
        default=1e-3, metadata={"help": "Rms of the perturbation per element, or 'auto'."}
    )
    zo_distribution: str = field(
        default="rademacher", metadata={"help": f"Of the noise, one of {checks.DISTRIBUTIONS}."}
    )
    zo_num_directions: int = field(default=1, metadata={"help": "Directions of one step."})
    zo_estimator: str = field(
        default="two_sided", metadata={"help": f"One of {checks.ESTIMATORS}."}
    )
    zo_schedule: str = field(
        default="linear", metadata={"help": f"Of the previous update's weight: {schedules.NAMES}."}
    )
    zo_target_storage: str = field(
        default="int8", metadata={"help": f"Of the previous updates, one of {STORAGES}."}
    )
    zo_rounding: str = field(
        default="auto", metadata={"help": f"Of the update, one of {checks.ROUNDINGS}."}
    )
    zo_restore: str = field(
        default="auto", metadata={"help": f"After a perturbation, one of {checks.RESTORES}."}
    )
    zo_seed: int | None = field(
        default=None, metadata={"help": "Seed of the noise. None takes `seed`."}
    )
    zo_lookahead: bool = field(
        default=False, metadata={"help": "Perturb for the next step while updating."}
    )
    zo_backend: str | None = field(
        default=None, metadata={"help": "Backend of the kernels. None picks by device."}
    )
    zo_log_steps: bool = field(
        default=True, metadata={"help": "Write the steps.zolog that `zopro replay` reads."}
    )
    zo_sketch_every: int = field(
        default=0, metadata={"help": "Steps between sketches of the weights; 0: none."}
    )
    zo_noise_every: int = field(
        default=0, metadata={"help": "Steps between measures of the loss's noise; 0: none."}
    )

    def __post_init__(self):
        self._validate()
        self._refuse()
        self._switch_off()
        super().__post_init__()

    def zero_order_arguments(self) -> dict[str, Any]:
        """The keyword arguments of `zopro.ZOPrO`, without parameters and weight decay."""
        return {
            "lr": self.learning_rate,
            "eps": self.zo_eps,
            "distribution": self.zo_distribution,
            "num_directions": self.zo_num_directions,
            "estimator": self.zo_estimator,
            "rounding": self.zo_rounding,
            "restore": self.zo_restore,
            "seed": self.seed if self.zo_seed is None else self.zo_seed,
            "lookahead": self.zo_lookahead,
            "backend": self.zo_backend,
        }

    def _validate(self):
        if self.zo_eps != "auto":
            try:
                self.zo_eps = float(self.zo_eps)  # the command line passes a string
            except (TypeError, ValueError):
                raise ValueError(
                    f"zo_eps={self.zo_eps!r} is not allowed: give a number above 0 or 'auto'"
                ) from None
            checks.number("zo_eps", self.zo_eps, 0.0, open_low=True)
        for name, known in (
            ("zo_distribution", checks.DISTRIBUTIONS),
            ("zo_estimator", checks.ESTIMATORS),
            ("zo_schedule", schedules.NAMES),
            ("zo_target_storage", STORAGES),
            ("zo_rounding", checks.ROUNDINGS),
            ("zo_restore", checks.RESTORES),
        ):
            checks.choice(name, getattr(self, name), known)
        checks.integer("zo_num_directions", self.zo_num_directions, 1)
        checks.integer("zo_noise_every", self.zo_noise_every, 0)
        checks.integer("zo_sketch_every", self.zo_sketch_every, 0)
        if self.zo_seed is not None:
            checks.integer("zo_seed", self.zo_seed, 0, 2**64)
        if self.zo_backend is not None:
            checks.choice("zo_backend", self.zo_backend, tuple(zk.backends()))

    def _refuse(self):
        for name, reason in REFUSED.items():
            if getattr(self, name, None):
                raise ValueError(f"{name}={getattr(self, name)!r} is refused: {reason}.")
        loss_type = getattr(self, "loss_type", None)
        if loss_type in DETACHED_LOSSES:
            raise ValueError(
                f"loss_type={loss_type!r} is refused: a detached factor makes its gradient another"
                " than the slope of its value, which is what forward passes measure."
            )
        if self.optim != TrainingArguments.default_optim:
            raise ValueError(
                f"optim={str(getattr(self.optim, 'value', self.optim))!r} is refused: the optimizer"
                " of this trainer is ZOPrO; leave `optim` out."
            )

    def _switch_off(self):
        for name, (off, reason) in OFF.items():
            given = getattr(self, name, None)
            if given in off:
                continue
            if given != _default_of(type(self), name):
                raise ValueError(
                    f"{name}={given!r} is refused: {reason}; leave `{name}` out or set {off[0]!r}."
                )
            # The caller of the configuration: above its __init__ and __post_init__.
            warnings.warn(f"{name}={given!r} is switched off: {reason}.", stacklevel=4)
            setattr(self, name, off[0])


def _default_of(cls: type, name: str) -> Any:
    """The default of a field as the Hugging Face configuration under `cls` has it."""
    for parent in cls.__mro__[cls.__mro__.index(ZerothOrderArguments) + 1 :]:
        found = getattr(parent, "__dataclass_fields__", {}).get(name)
        if found is not None:
            return found.default
    return None


@dataclass
class ZOPrOConfig(ZerothOrderArguments, RLOOConfig):
    """TRL's `RLOOConfig` and the fields of `ZerothOrderArguments`.

    In it `epsilon` is the PPO clip and `beta` the weight of the KL term; what is ours begins with
    `zo_`. Objective: RLOO (arXiv 2402.14740).
    """


def require_zeroth_order(args) -> None:
    """TypeError for a configuration without our fields, such as TRL's own."""
    if not isinstance(args, ZerothOrderArguments):
        name = type(args).__name__
        raise TypeError(
            f"args is a {name}, which has no zeroth-order fields: use ZOPrOConfig, or a dataclass"
            f" that inherits (ZerothOrderArguments, {name})."
        )
