"""Policy and reward model on one base: two adapters, and a score head of the reward's own.

The policy is a PEFT model whose adapter is named "default", because TRL's RLOOTrainer looks for
that name. The reward model reads the policy's own backbone, the modules themselves, with the
adapter "reward" active. The reference policy is the base with no adapter. No parameter of the base
exists twice.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils import ModulesToSaveWrapper
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import SequenceClassifierOutput

from .config import IterationConfig
from .trained import lora, part
from .trained import trained as policy_weights

POLICY, REWARD = "default", "reward"
# Tokens that many vocabularies keep for padding or hold in reserve, in the order of preference.
PADS = ("<pad>", "[PAD]", "<|pad|>", "<|finetune_right_pad_id|>", "<|endoftext|>",
        "<|reserved_special_token_0|>", "<unk>", "[UNK]")  # fmt: skip


class RewardModel(PreTrainedModel):
    """A sequence classifier with one label over the policy's backbone, adapter "reward" active.

    The score is read at each row's last attended token. Checkpoints hold the adapter and the head
    alone. Sources: reward models of TRL; one base for both, so that memory holds it once.
    """

    base_model_prefix = "trunk"

    def __init__(self, policy: PeftModel) -> None:
        base = policy.get_base_model()
        settings = copy.deepcopy(base.config)
        settings.num_labels = 1
        settings._attn_implementation = "eager"  # the trunk attends, by its own configuration
        super().__init__(settings)
        self.trunk = base.base_model
        text = settings.get_text_config()
        self.score = nn.Linear(text.hidden_size, 1, bias=False)  # fp32, whatever the base is
        nn.init.normal_(self.score.weight, std=getattr(text, "initializer_range", 0.02))
        self.score.to(base.device)
        self._policy = [policy]  # in a list: no submodule, its parameters are the trunk's

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **options
    ) -> SequenceClassifierOutput:
        """input_ids, attention_mask: int64 [B, T], padded on either side. logits: fp32 [B, 1]."""
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        with active(self._policy[0], REWARD):
            out = self.trunk(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        last = (attention_mask * places).argmax(dim=1)
        rows = torch.arange(len(input_ids), device=input_ids.device)
        return SequenceClassifierOutput(
            logits=self.score(out.last_hidden_state[rows, last].to(self.score.weight.dtype))
        )

    def own(self) -> dict[str, nn.Parameter]:
        """The adapter's and the head's parameters by name: what is trained and saved."""
        return {
            name: p
            for name, p in self.named_parameters()
            if f".{REWARD}." in name or name.startswith("score.")
        }

    def save_pretrained(self, save_directory: str | os.PathLike, **options) -> None:
        """Writes the adapter and the head as model.safetensors; the base is not in it."""
        if options.get("is_main_process", True):
            folder = Path(save_directory)
            folder.mkdir(parents=True, exist_ok=True)
            tensors = {n: p.detach().cpu().contiguous() for n, p in self.own().items()}
            save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})

    def load_state_dict(self, state_dict: Mapping[str, Tensor], *args, **options):
        """Takes the adapter and the head; ValueError for other names or shapes."""
        assign(self.own(), state_dict, "the reward model's checkpoint")
        found = super().load_state_dict(state_dict, strict=False)
        found.missing_keys.clear()  # the base, which is no part of a checkpoint
        return found


def load_policy(
    config: IterationConfig, model: PreTrainedModel | None, network_reward: bool
) -> tuple[PreTrainedModel | PeftModel, RewardModel | None]:
    """The policy, and its reward model where the reward is a network.

    model: a causal language model to take instead of loading `config.model`; it is modified.
    Raises ValueError for no model, a network reward without adapters, or adapters that "zopro"
    cannot match.
    """
    if model is None:
        if config.model is None:
            raise ValueError("model=None: name a model or a folder, or hand iterate() a model")
        model = AutoModelForCausalLM.from_pretrained(
            config.model, dtype=dtype_of(config), use_safetensors=True, trust_remote_code=False
        )
    if isinstance(model, PeftModel):
        raise ValueError("model is a PeftModel: merge its adapter (merge_and_unload) first")
    rank = config.reward_lora_r or config.lora_r
    if network_reward and (config.whole or rank is None):
        name = "lora_r=None" if config.train == "lora" else f"train={config.train!r}"
        why = "trains all weights, and" if config.whole else "beside lora_r=None:"
        raise ValueError(
            f"{name} {why} a reward model on the same base needs adapters: set lora_r, or give "
            "plain reward functions"
        )
    adapter = part(config, model)
    if adapter is None:
        return model, None
    torch.manual_seed(config.seed)
    policy = get_peft_model(model, adapter, adapter_name=POLICY)
    if not network_reward:
        return policy, None
    policy.add_adapter(REWARD, lora(config, rank))
    policy.set_adapter(POLICY)
    reward = RewardModel(policy)
    if config.method == "zopro" and not config.norms:
        match_updates(policy_weights(policy), reward_weights(reward))
    return policy, reward


def dtype_of(config: IterationConfig) -> str:
    """What `config.dtype` comes to on this machine.

    On one core a forward of a 2.7 M-parameter Llama took 44 ms in bf16 and 48 in fp32; of what eps
    = 1e-3 changed in a log-probability, rounding was half in bf16 and a thousandth in fp32.
    """
    cpu = config.trainer.get("use_cpu") or not torch.accelerator.is_available()
    return "float32" if config.dtype == "auto" and cpu else config.dtype


@contextmanager
def active(policy: PreTrainedModel | PeftModel, adapter: str) -> Iterator[None]:
    """Inside, `adapter` is the active one and the trainable one; the former again on exit."""
    former = policy.active_adapter
    if former == adapter:
        yield  # no change of requires_grad while a graph is alive
        return
    policy.set_adapter(adapter)
    try:
        yield
    finally:
        policy.set_adapter(former)


def reward_weights(reward: RewardModel) -> dict[str, nn.Parameter]:
    """The reward adapter's parameters under the names of the policy's; the head has none."""
    return {
        n.replace(f".{REWARD}.", f".{POLICY}."): p
        for n, p in reward._policy[0].named_parameters()
        if f".{REWARD}." in n
    }


def match_updates(policy: Mapping[str, Tensor], reward: Mapping[str, Tensor]) -> None:
    """ValueError where the two adapters' tensors differ in name or shape."""
    for name in sorted(set(policy) ^ set(reward)):
        here, there = ("policy", "reward") if name in policy else ("reward", "policy")
        raise ValueError(
            f"the {here}'s adapter has {name!r} and the {there}'s has not: give both the same "
            "target_modules"
        )
    for name, tensor in policy.items():
        if tensor.shape != reward[name].shape:
            raise ValueError(
                f"{name!r} is {tuple(tensor.shape)} in the policy's adapter and "
                f"{tuple(reward[name].shape)} in the reward's: give both the same rank "
                "(reward_lora_r=None)"
            )


def assign(
    parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor], what: str
) -> None:
    """Copies `tensors` into the parameters of the same names; ValueError for others, untouched."""
    for name in sorted(set(parameters) ^ set(tensors)):
        raise ValueError(f"{what} and the model do not both have {name!r}: it is another model's")
    for name, p in parameters.items():
        if p.shape != tensors[name].shape:
            raise ValueError(
                f"{what} has {tuple(tensors[name].shape)} for {name!r}, the model has "
                f"{tuple(p.shape)}: it is another model's"
            )
    with torch.no_grad():
        for name, p in parameters.items():
            p.copy_(tensors[name])


def snapshot(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies, on the CPU: between phases only, so that training holds none of them."""
    return {name: p.detach().to("cpu", copy=True) for name, p in parameters.items()}


def merge(policy: PreTrainedModel | PeftModel, fresh: Mapping[str, Tensor]) -> None:
    """Adds the policy's adapter to the base and sets the adapter to `fresh`: the supervised model
    is the base from then on, and the reference policy. Without adapters there is nothing to do."""
    if not isinstance(policy, PeftModel):
        return
    with torch.no_grad():
        for module in policy.modules():
            if isinstance(module, LoraLayer) and POLICY in module.lora_A:
                weight = module.get_base_layer().weight
                weight.add_(module.get_delta_weight(POLICY).to(weight.dtype))
            if isinstance(module, ModulesToSaveWrapper) and POLICY in module.modules_to_save:
                module.original_module.load_state_dict(module.modules_to_save[POLICY].state_dict())
    norms = {n: p for n, p in policy_weights(policy).items() if ".modules_to_save." in n}
    assign(policy_weights(policy), {**fresh, **norms}, "the fresh adapter")


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    """Gives `tokenizer` a pad token other than its end-of-sequence token, which must be trained.

    Raises ValueError where the vocabulary has no candidate, or no end-of-sequence token.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError("the tokenizer has no end-of-sequence token: set tokenizer.eos_token")
    if tokenizer.pad_token_id not in (None, tokenizer.eos_token_id):
        return
    vocabulary = tokenizer.get_vocab()
    for token in (*PADS, tokenizer.unk_token):
        if token in vocabulary and vocabulary[token] != tokenizer.eos_token_id:
            tokenizer.pad_token = token
            return
    raise ValueError(
        f"the tokenizer has no pad token other than its end of sequence {tokenizer.eos_token!r}: "
        "set tokenizer.pad_token to a token that texts do not hold"
    )
