"""Trains the demo's starting checkpoint from scratch: about eight minutes on one CPU core.

    python examples/translation/train_start.py --out examples/translation/start

A byte-level BPE tokenizer of 4,000 entries and a Llama of 2.7 M parameters learn to translate
short English texts into German on the training split of ``zopro.tasks.debian``, supervised, with
TRL's SFTTrainer. The result is saved in bf16 (safetensors, no pickle). The run is seeded; its
weights still depend on the package index of the day and on the CPU's arithmetic.
"""

from __future__ import annotations

import argparse
import time

import torch
from datasets import concatenate_datasets
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed
from trl import SFTConfig, SFTTrainer

from zopro.tasks.debian import translation_pairs

VOCABULARY = 4000
LONGEST = 12  # words of a source; longer paragraphs cost time and teach short texts little


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE of ``VOCABULARY`` entries, with ``<pad>`` (0) and ``</s>`` (1)."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<pad>",
        eos_token="</s>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def new_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama of 2.7 M parameters (fp32): hidden 192, 4 layers, 4 heads, tied embeddings."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=576,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def training_pairs(cache_dir: str | None):
    """The training split's synopses and short paragraphs: columns prompt, completion."""
    parts = [
        translation_pairs("train", cache_dir, part=part).filter(
            lambda source: len(source.split()) <= LONGEST, input_columns="source"
        )
        for part in ("synopsis", "paragraph")
    ]
    pairs = concatenate_datasets(parts)
    completions = [" " + text for text in pairs["reference"]]
    return pairs.select_columns("prompt").add_column("completion", completions)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="start", help="folder for the checkpoint")
    parser.add_argument("--epochs", type=float, default=3.0)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cache-dir", default=None, help="where the sentence pairs are kept")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    set_seed(0)
    pairs = training_pairs(args.cache_dir)
    texts = zip(pairs["prompt"], pairs["completion"], strict=True)
    tokenizer = train_tokenizer([prompt + completion for prompt, completion in texts])
    model = new_model(tokenizer)
    print(f"{len(pairs)} pairs, {sum(p.numel() for p in model.parameters()):,} parameters")
    config = SFTConfig(
        output_dir=args.out,
        num_train_epochs=args.epochs,
        per_device_train_batch_size=args.batch_size,
        train_sampling_strategy="group_by_length",
        learning_rate=args.lr,
        lr_scheduler_type="cosine",
        warmup_steps=100,
        weight_decay=0.01,
        max_length=128,
        completion_only_loss=True,
        use_cpu=not torch.cuda.is_available(),
        bf16=False,
        gradient_checkpointing=False,
        save_strategy="no",
        report_to="none",
        logging_steps=50,
        seed=0,
    )
    started = time.time()
    trainer = SFTTrainer(model=model, args=config, train_dataset=pairs, processing_class=tokenizer)
    trainer.train()
    model.config.use_cache = True  # the trainer has switched it off
    model.to(torch.bfloat16).save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    print(f"saved in {args.out} after {time.time() - started:.0f} s")


if __name__ == "__main__":
    main()
