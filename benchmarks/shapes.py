"""Llama models of published shapes with random weights, which cost what trained ones cost."""

from __future__ import annotations

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# From each model's published config.json.
SHAPES = {
    "tiny": dict(
        vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
    ),
    "135m": dict(  # SmolLM2-135M
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
        num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True,
    ),
    "1b": dict(  # Llama-3.2-1B
        vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16,
        num_attention_heads=32, num_key_value_heads=8, tie_word_embeddings=True,
    ),
    "8b": dict(  # Llama-3.1-8B
        vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=8, tie_word_embeddings=False,
    ),
}  # fmt: skip
TRAINED = ("full", "lora", "lora64")
RANK = 16  # of "lora"


def build(shape: str, dtype: str, device: str, trained: str, **changes) -> torch.nn.Module:
    """A Llama of SHAPES[shape] (with `changes`) in eval mode; weights ~ N(0, 0.02).

    trained: "full", or "lora": adapters of rank 16 ("lora64": 64, the default of `zopro train`) on
    all linear layers, in fp32 as peft makes them, and nothing else requires grad.
    """
    torch.manual_seed(0)
    config = LlamaConfig(**{**SHAPES[shape], "max_position_embeddings": 2048, **changes})
    before = torch.get_default_dtype()
    torch.set_default_dtype(DTYPES[dtype])  # never as large as fp32 on the way
    try:
        with torch.device(device):
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    if trained.startswith("lora"):
        rank = int(trained.removeprefix("lora") or RANK)
        lora = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear",
                          task_type="CAUSAL_LM")  # fmt: skip
        model = get_peft_model(model, lora)
    return model.eval()


def trainable(model: torch.nn.Module) -> list[Tensor]:
    """The parameters that require grad, in the model's order."""
    return [p for p in model.parameters() if p.requires_grad]


def batch_of(shape: str, batch: int, length: int, device: str) -> dict[str, Tensor]:
    """Random tokens, int64 [batch, length], which are their own labels."""
    ids = torch.randint(SHAPES[shape]["vocab_size"], (batch, length), device=device)
    return {"input_ids": ids, "labels": ids}
