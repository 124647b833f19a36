"""restore="layerwise" on PEFT's adapters and with gradient checkpointing: bits of the exact way."""

import pytest
import torch

from zopro import ZOPrO

from .helpers import copies, same_bits

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

IDS = torch.randint(0, 32, (2, 8), generator=torch.Generator().manual_seed(1))


def llama(dtype=torch.float32):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=64,
        initializer_range=0.2,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).to(dtype).eval()


def adapted(dtype=torch.float32, **options):
    options = {"r": 4, "target_modules": "all-linear", "init_lora_weights": False, **options}
    torch.manual_seed(2)
    return peft.get_peft_model(llama(dtype), peft.LoraConfig(**options)).eval()


def base_too():
    model = adapted()
    for p in model.parameters():
        p.requires_grad_(True)
    return model


def checkpointed(train, reentrant, make=llama):
    model = make()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    return model.train(train)


MODELS = {
    "adapter": adapted,
    "adapter in bf16": lambda: adapted(torch.bfloat16),
    "adapter and a saved head": lambda: adapted(modules_to_save=["lm_head"]),
    "DoRA": lambda: adapted(use_dora=True),
    "adapter and its base": base_too,
    "checkpointing, eval": lambda: checkpointed(False, False),
    "checkpointing, train": lambda: checkpointed(True, False),
    "reentrant checkpointing, train": lambda: checkpointed(True, True),
    "checkpointed adapter, train": lambda: checkpointed(True, False, adapted),
}


def walked(make, restore, held=lambda name: False):
    """Losses of each evaluation and the trained weights of three steps; how many never moved."""
    model = make()
    opt = ZOPrO(model.parameters(), lr=1e-2, eps=1e-2, seed=5, restore=restore)
    if restore == "layerwise":
        opt.attach(model, held=[p for n, p in model.named_parameters() if held(n)])
    start, losses = copies(opt._indices), []

    def closure():
        losses.append(model(input_ids=IDS, labels=IDS, use_cache=False).loss)
        return losses[-1]

    for _ in range(3):
        opt.step(closure)
    still = sum(same_bits([p], [s]) for p, s in zip(opt._indices, start))
    return torch.stack(losses), list(opt._indices), still


@pytest.mark.parametrize("name", MODELS)
def test_losses_and_weights_are_the_exact_ones(name):
    (losses, weights, still), (others, exact, _) = (
        walked(MODELS[name], restore) for restore in ("layerwise", "exact")
    )
    assert torch.equal(losses, others) and same_bits(weights, exact)
    assert len(set(losses.tolist())) > 3 and still == 0


def test_lora_of_an_embedding_is_refused_or_held():
    """PEFT keeps its parameters in a module that has no forward."""
    make = lambda: adapted(target_modules=["embed_tokens"])  # noqa: E731
    with pytest.raises(
        RuntimeError, match=r"lora_embedding_A.*is read outside its module's forward"
    ):
        walked(make, "layerwise")
    held, exact = (walked(make, r, lambda n: "embedding" in n) for r in ("layerwise", "exact"))
    assert torch.equal(held[0], exact[0]) and same_bits(held[1], exact[1])
