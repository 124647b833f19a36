"""Every field of TRL's RLOOConfig, decided: it works, or is refused by name."""

import dataclasses
import warnings

import pytest
import torch
from trainer.tiny_llama import build_model, moved, snapshot
from trainer.tiny_trainer import ZOTrainer, arguments, logged
from trainer.tiny_trl import build
from transformers import TrainerCallback
from trl import RLOOConfig

from zopro import ZOPrOConfig

# Name and a value that is not the default. TRL's and the parents' own code reads the others.
REFUSED = {
    "max_grad_norm": 0.5,
    "activation_checkpointing": True,
    "activation_checkpointing_kwargs": {"use_reentrant": False},
    "gradient_checkpointing_kwargs": {"use_reentrant": False},
    "neftune_noise_alpha": 5.0,
    "adam_beta1": 0.95,
    "adam_beta2": 0.95,
    "adam_epsilon": 1e-6,
    "ddp_find_unused_parameters": True,
    "ddp_bucket_cap_mb": 25,
    "ddp_broadcast_buffers": True,
    "ddp_static_graph": True,
    "fp16": True,
    "fsdp": "full_shard",
    "deepspeed": {"zero_optimization": {"stage": 3}},
    "optim": "adafactor",
    "optim_args": "a=1",
    "optim_target_modules": "all",
}
# TRL's own defaults are switched off with a notice, so that its scripts run as they are.
NOTICED = {"max_grad_norm": 1.0, "gradient_checkpointing": True}
# Falsy, and another choice all the same.
FALSY = [("adam_beta1", 0.0), ("adam_beta2", 0.0), ("adam_epsilon", 0.0), ("ddp_bucket_cap_mb", 0),
         ("ddp_find_unused_parameters", False), ("ddp_broadcast_buffers", False)]  # fmt: skip
# Means nothing unless a field above is set: as in the parent, which says nothing either.
IDLE = {"fsdp_config", "ds3_gather_for_generation"}
# By the trainer, when accelerate has read it: test_trainer_sharding.py.
BY_THE_TRAINER = {"parallelism_config"}
# What acts on the forwards, the weights or the step, each run below.
ACTS = {
    "weight_decay": 0.1,
    "gradient_accumulation_steps": 2,
    "average_tokens_across_devices": False,
    "bf16": True,
    "tf32": False,
    "torch_compile": True,
    "torch_compile_backend": "aot_eager",
    "torch_empty_cache_steps": 1,
    "use_cache": True,
    "lr_scheduler_type": "cosine",
    "lr_scheduler_kwargs": {"num_cycles": 1},
    "warmup_steps": 1,
    "disable_dropout": True,
    "num_iterations": 2,
    "steps_per_generation": 2,
    "epsilon": 0.1,
    "epsilon_high": 0.3,
    "reward_weights": [0.5],
    "normalize_advantages": True,
    "reward_clip_range": (0.0, 0.5),
    "mask_truncated_completions": True,
    "generation_kwargs": {"typical_p": 0.9},
    "repetition_penalty": 1.1,
    "temperature": 0.7,
    "top_p": 0.9,
    "top_k": 5,
    "min_p": 0.05,
    "cache_implementation": "static",
    "beta": 0.1,
}
BY_THE_PARENT = """
    output_dir per_device_train_batch_size num_train_epochs max_steps learning_rate
    label_smoothing_factor bf16_full_eval fp16_full_eval torch_compile_mode use_liger_kernel
    liger_kernel_config auto_find_batch_size logging_strategy logging_steps logging_first_step
    log_on_each_node logging_nan_inf_filter include_num_input_tokens_seen log_level
    log_level_replica disable_tqdm report_to run_name project trackio_space_id trackio_bucket_id
    trackio_static_space_id eval_strategy eval_steps eval_delay per_device_eval_batch_size
    prediction_loss_only eval_on_start eval_do_concat_batches eval_use_gather_object
    eval_accumulation_steps include_for_metrics batch_eval_metrics save_only_model save_strategy
    save_steps save_on_each_node save_total_limit enable_jit_checkpoint push_to_hub hub_token
    hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision
    load_best_model_at_end metric_for_best_model greater_is_better ignore_data_skip
    restore_callback_states_from_checkpoint seed data_seed use_cpu accelerator_config
    dataloader_drop_last dataloader_num_workers dataloader_pin_memory
    dataloader_persistent_workers dataloader_prefetch_factor dataloader_multiprocessing_context
    dataloader_in_order remove_unused_columns label_names train_sampling_strategy
    length_column_name ddp_backend ddp_timeout debug skip_memory_metrics do_train do_eval
    do_predict resume_from_checkpoint local_rank model_init_kwargs trust_remote_code
    router_aux_loss_coef full_determinism num_generations num_generations_eval max_completion_length
    shuffle_dataset pad_to_multiple_of generation_batch_size chat_template_kwargs use_vllm
    vllm_mode vllm_model_impl vllm_enable_sleep_mode vllm_structured_outputs_regex
    vllm_server_base_url vllm_server_host vllm_server_port vllm_server_timeout vllm_group_port
    vllm_gpu_memory_utilization vllm_max_model_length vllm_tensor_parallel_size sync_ref_model
    ref_model_mixup_alpha ref_model_sync_steps log_completions log_multimodal
    num_completions_to_print log_unique_prompts use_transformers_continuous_batching
    transformers_continuous_batching_config use_transformers_paged
"""


def test_every_field_is_decided_once():
    noticed = set(NOTICED) - set(REFUSED)
    groups = (REFUSED, noticed, IDLE, BY_THE_TRAINER, ACTS, BY_THE_PARENT.split())
    decided = [name for group in groups for name in group]
    assert len(decided) == len(set(decided))
    assert {f.name for f in dataclasses.fields(RLOOConfig)} - set(decided) == set()


@pytest.mark.parametrize("name", NOTICED)
def test_a_default_of_trl_is_switched_off_with_one_notice(name, tmp_path):
    with pytest.warns(UserWarning, match=f"^{name}=.* is switched off: ") as caught:
        args = ZOPrOConfig(str(tmp_path), **{name: NOTICED[name]})
    assert not getattr(args, name)
    assert sum("switched off" in str(w.message) for w in caught) == 1


@pytest.mark.parametrize("name, value", [*REFUSED.items(), *FALSY])
def test_refused_is_named(name, value, tmp_path):
    with pytest.raises(ValueError, match=f"^{name}=.* is refused: "):
        ZOPrOConfig(str(tmp_path), **{name: value})


def run(tmp_path, **options):
    t = build("rloo", tmp_path, **{"max_steps": 2, "learning_rate": 1e-2, **options})
    before = snapshot(t.model)
    t.train()
    return t, before


@pytest.mark.parametrize("name", sorted(set(ACTS) - {"torch_compile_backend"}))
def test_what_acts_on_a_step_trains(name, tmp_path):
    options = {name: ACTS[name]}
    if name == "torch_compile":  # eager code after tracing: no compiler is needed
        options["torch_compile_backend"] = ACTS["torch_compile_backend"]
    if name == "lr_scheduler_kwargs":
        options["lr_scheduler_type"] = ACTS["lr_scheduler_type"]
    if name == "mask_truncated_completions":
        options["max_steps"] = 6  # a step whose samples are all cut moves nothing
    if name == "bf16":
        options["zo_eps"] = 0.05  # above autocast's rounding
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*switched off")
        t, before = run(tmp_path, **options)
    assert moved(before, t.model)
    assert all(p.grad is None for p in t.model.parameters())


def test_synchronised_reference_follows_the_weights(tmp_path):
    options = {"sync_ref_model": True, "ref_model_sync_steps": 1, "ref_model_mixup_alpha": 1.0}
    t, before = run(tmp_path, beta=0.1, **options)
    assert moved(before, t.model)
    assert not moved(snapshot(t.model), t.ref_model)  # its weights after the step, no sign's


def test_batch_size_is_lowered_after_out_of_memory(tmp_path):
    """The evaluation that ran out of memory leaves no perturbation behind."""
    model, sizes, weights = build_model(), [], []
    start = snapshot(model)

    def full(module, args, kwargs):
        sizes.append(len(kwargs["input_ids"]))
        if sizes[-1] > 3:
            raise RuntimeError("CUDA out of memory.")

    class Before(TrainerCallback):
        def on_train_begin(self, args, state, control, model=None, **kwargs):
            weights.append(moved(start, model))

    model.register_forward_pre_hook(full, with_kwargs=True)
    args = arguments(tmp_path, auto_find_batch_size=True, max_steps=2)
    data = torch.randint(4, 40, (32, 8)).tolist()
    rows = [{"input_ids": row, "labels": row} for row in data]
    t = ZOTrainer(model, args, None, rows, callbacks=[Before()])
    t.train()
    assert sizes[0] == 4 and sizes[1:] and max(sizes[1:]) <= 3
    assert weights and not any(weights) and moved(start, model)
    assert len(logged(t, "loss")) == 2
