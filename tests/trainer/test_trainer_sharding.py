"""A rank must hold the whole model as it is: whatever shards, wraps or replicates it is refused."""

from types import SimpleNamespace

import pytest
import torch
from accelerate.state import AcceleratorState
from accelerate.utils import FullyShardedDataParallelPlugin, ParallelismConfig
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from trainer.tiny_llama import build_model, moved, snapshot, tokens
from trainer.tiny_trainer import ZOTrainer, arguments
from transformers import Trainer

from zopro import ZerothOrderMixin
from zopro.trainer.distributed import refuse_sharded_parameters, refuse_sharding, refuse_wrapped


@pytest.fixture
def mesh(tmp_path):
    """A gloo mesh of this process alone."""
    rendezvous = f"file://{tmp_path / 'rendezvous'}"
    torch.distributed.init_process_group("gloo", rendezvous, rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    "name, state, parallelism, n_gpu",
    [
        ("FSDP", {"fsdp_plugin": object()}, {}, 1),
        ("DeepSpeed", {"deepspeed_plugin": object()}, {}, 1),
        ("Megatron-LM", {"megatron_lm_plugin": object()}, {}, 1),
        ("tensor, context or sequence parallelism", {}, {"tp_size": 2}, 1),
        ("tensor, context or sequence parallelism", {}, {"cp_size": 2}, 1),
        ("tensor, context or sequence parallelism", {}, {"sp_size": 2}, 1),
        ("nn.DataParallel", {}, {}, 2),
    ],
)
def test_sharding_is_refused(name, state, parallelism, n_gpu):
    assert all(hasattr(AcceleratorState, n) or n in AcceleratorState._known_attrs for n in state)
    accelerator = SimpleNamespace(
        state=SimpleNamespace(**state), parallelism_config=ParallelismConfig(**parallelism)
    )
    with pytest.raises(ValueError, match="is not supported by zeroth-order training") as caught:
        refuse_sharding(accelerator, SimpleNamespace(n_gpu=n_gpu))
    assert str(caught.value).startswith(name)
    whole = SimpleNamespace(state=SimpleNamespace(), parallelism_config=ParallelismConfig())
    refuse_sharding(whole, SimpleNamespace(n_gpu=1))


def test_the_trainer_asks_about_gpus_before_it_trains(tmp_path):
    args = arguments(tmp_path)
    args._n_gpu = 2
    with pytest.raises(ValueError, match="DataParallel"):
        ZOTrainer(build_model(), args, None, tokens())


def test_the_trainer_asks_accelerate_before_it_trains(tmp_path):
    """As after `accelerate launch --use_fsdp`, of which the configuration says nothing."""

    class Launched(Trainer):
        def create_accelerator_and_postprocess(self):
            super().create_accelerator_and_postprocess()
            self.accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()

    class ZOLaunched(ZerothOrderMixin, Launched):
        pass

    with pytest.raises(ValueError, match="FSDP is not supported"):
        ZOLaunched(build_model(), arguments(tmp_path), None, tokens())
    AcceleratorState._reset_state()


def test_sharded_parameter_is_refused(mesh, tmp_path):
    whole = torch.nn.Parameter(torch.zeros(2, 2))
    shard = torch.nn.Parameter(distribute_tensor(torch.zeros(2, 2), mesh, [Shard(0)]))
    refuse_sharded_parameters([("bias", whole)])
    with pytest.raises(ValueError, match="parameter 'weight' is sharded over a device mesh"):
        refuse_sharded_parameters([("bias", whole), ("weight", shard)])

    model = build_model()
    fully_shard(model.lm_head, mesh=mesh)
    assert isinstance(model.lm_head.weight, DTensor)
    before = {n: p for n, p in snapshot(model).items() if n != "lm_head.weight"}
    with pytest.raises(ValueError, match=r"parameter 'lm_head.weight' is sharded"):
        ZOTrainer(model, arguments(tmp_path), None, tokens()).train()
    assert all(torch.equal(before[n], model.get_parameter(n)) for n in before)


@pytest.mark.filterwarnings("ignore:FSDP is switching to use `NO_SHARD`:UserWarning")
def test_wrapped_model_is_refused(mesh, tmp_path):
    model = torch.nn.DataParallel(build_model())
    before = snapshot(model)
    args = arguments(tmp_path, remove_unused_columns=False)  # its forward names no column
    with pytest.raises(ValueError, match="the model is wrapped in DataParallel"):
        ZOTrainer(model, args, None, tokens()).train()
    assert not moved(before, model)

    model = build_model()
    model.lm_head = FullyShardedDataParallel(model.lm_head, device_id=torch.device("cpu"))
    with pytest.raises(ValueError, match="module 'lm_head' is wrapped in FullyShardedDataParallel"):
        refuse_wrapped(model)
    refuse_wrapped(build_model())
