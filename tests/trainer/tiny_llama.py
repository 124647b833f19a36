"""A tiny random Llama, a tokenizer built on the spot, small datasets: nothing is downloaded."""

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = [f"w{i}" for i in range(40)] + ["user", "assistant", "a", "b", "c", "good", "bad", "cat"]
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] + ' ' + m['content'] + ' [EOS] ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant ' }}{% endif %}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {w: i for i, w in enumerate(["[PAD]", "[UNK]", "[BOS]", "[EOS]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        bos_token="[BOS]",
        eos_token="[EOS]",
        chat_template=TEMPLATE,
        padding_side="left",
    )


def build_model(seed: int = 0, attention_dropout: float = 0.0, **kwargs) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(WORDS) + 4,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        attention_dropout=attention_dropout,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
        **kwargs,
    )
    return LlamaForCausalLM(config)


def prompts(n: int = 32) -> Dataset:
    return Dataset.from_dict(
        {"prompt": [f"w{i % 40} w{(3 * i) % 40} cat" for i in range(n)], "number": list(range(n))}
    )


def texts(n: int = 32) -> Dataset:
    return Dataset.from_dict({"text": [f"w{i % 40} w{(i + 1) % 40} a b c cat" for i in range(n)]})


def pairs(n: int = 32) -> Dataset:
    return Dataset.from_dict(
        {
            "prompt": [f"w{i % 40} w{(i + 7) % 40}" for i in range(n)],
            "chosen": [" good cat a"] * n,
            "rejected": [" bad b c"] * n,
        }
    )


def tokens(n: int = 32, length: int = 8) -> Dataset:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(4, len(WORDS) + 4, (n, length), generator=generator).tolist()
    return Dataset.from_dict({"input_ids": ids, "labels": ids})


def reward_digits(completions, **columns):
    """The mean of the digits of each completion, over 10: differs between most samples."""
    digits = [[int(c) for c in text if c.isdigit()] or [0] for text in completions]
    return [sum(d) / len(d) / 10 for d in digits]


def snapshot(model) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def moved(before: dict[str, torch.Tensor], model) -> set[str]:
    return {n for n, p in model.named_parameters() if not torch.equal(before[n], p.detach())}
