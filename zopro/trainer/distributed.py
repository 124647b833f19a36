"""Several ranks: the same seeds, averaged losses, and weights that stay equal to the bit.

Each rank perturbs and updates its own replica. Nothing but scalars crosses between ranks: the
seed once, the losses at each estimate, and a digest of the weights now and then.
"""

from collections.abc import Iterable

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from transformers import TrainerCallback

from zopro.digests import digest


def refuse_sharding(accelerator: Accelerator, args) -> None:
    """ValueError where a rank would not hold the whole model, or one process has many replicas."""
    state = accelerator.state
    parallelism = getattr(accelerator, "parallelism_config", None)
    unsupported = {
        "FSDP": getattr(state, "fsdp_plugin", None) is not None,
        "DeepSpeed": getattr(state, "deepspeed_plugin", None) is not None,
        "Megatron-LM": getattr(state, "megatron_lm_plugin", None) is not None,
        "tensor, context or sequence parallelism": any(
            getattr(parallelism, f"{kind}_enabled", False) for kind in ("tp", "cp", "sp")
        ),
        "nn.DataParallel (several GPUs in one process)": args.n_gpu > 1,
    }
    for name, used in unsupported.items():
        if used:
            raise ValueError(
                f"{name} is not supported by zeroth-order training: give each rank one GPU and the"
                " whole model, with torchrun or `accelerate launch --multi_gpu`."
            )


def refuse_wrapped(model: torch.nn.Module) -> None:
    """ValueError where the caller has put `model`, or a part of it, into FSDP or DataParallel.

    FSDP's first version flattens parameters into plain tensors, and DataParallel copies them to
    other GPUs at each forward: neither shows in the parameters.
    """
    wrappers = [torch.nn.DataParallel]
    if torch.distributed.is_available():
        wrappers.append(torch.distributed.fsdp.FullyShardedDataParallel)
    for name, module in model.named_modules():
        if isinstance(module, tuple(wrappers)):
            where = f"module {name!r}" if name else "the model"
            raise ValueError(
                f"{where} is wrapped in {type(module).__name__}, which zeroth-order training does"
                " not support: pass the module itself, and start one rank a GPU with torchrun or"
                " `accelerate launch --multi_gpu`."
            )


def refuse_sharded_parameters(named_parameters: Iterable[tuple[str, torch.Tensor]]) -> None:
    """ValueError for a parameter that is a DTensor: its rank holds a shard only."""
    for name, parameter in named_parameters:
        if hasattr(parameter, "device_mesh"):
            raise ValueError(
                f"parameter {name!r} is sharded over a device mesh, which zeroth-order training"
                " does not support: load the whole model on each rank."
            )


def common_seed(seed: int) -> int:
    """Rank 0's `seed`, on every rank."""
    return broadcast_object_list([seed])[0]


def mean_loss(accelerator: Accelerator, loss: torch.Tensor) -> torch.Tensor:
    """The mean of a scalar `loss` over the ranks, the same bits on each; a NaN spreads to all.

    float64 (one rank: `loss` as it is). Gathered and then averaged in the order of the ranks: the
    order in which an all-reduce adds may differ between ranks, and with it the last bit.
    """
    if accelerator.num_processes == 1:
        return loss
    return accelerator.gather(loss.detach().double().reshape(1)).mean()


class SameWeights(TrainerCallback):
    """Compares the digests of the trainable weights of all ranks at start, saves and end.

    Raises RuntimeError on every rank where they differ. One rank: does nothing.
    """

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self._compare(args, model, "when training starts (build or load them from the same seed)")

    def on_save(self, args, state, control, model=None, **kwargs):
        self._compare(args, model, f"at the checkpoint of step {state.global_step}")

    def on_train_end(self, args, state, control, model=None, **kwargs):
        self._compare(args, model, f"after step {state.global_step}, when training ends")

    @staticmethod
    def _compare(args, model, when: str) -> None:
        if args.world_size == 1:
            return
        trainable = (p for p in model.parameters() if p.requires_grad)
        digests = gather_object([digest(trainable)])
        strangers = [rank for rank, other in enumerate(digests) if other != digests[0]]
        if strangers:
            raise RuntimeError(
                f"The trainable weights of rank(s) {strangers} differ from rank 0's {when}."
            )
