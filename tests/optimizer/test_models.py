"""Whole problems: real digits to first-order accuracy, and a LoRA'd Hugging Face model."""

import pytest
import torch

from zopro import ZOPrO

from .helpers import copies, same_bits


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def digits():
    """scikit-learn's 1,797 handwritten digits: 20 whitened components, 1,347 to train on."""
    datasets = pytest.importorskip("sklearn.datasets")
    from sklearn.decomposition import PCA
    from sklearn.model_selection import train_test_split

    x, y = datasets.load_digits(return_X_y=True)
    split = train_test_split(x / 16.0, y, test_size=0.25, random_state=0, stratify=y)
    components = PCA(20, whiten=True, svd_solver="full").fit(split[0])
    train, test = (torch.tensor(components.transform(part)).float() for part in split[:2])
    return train, test, torch.tensor(split[2]), torch.tensor(split[3])


def classifier():
    model = torch.nn.Linear(20, 10)
    torch.nn.init.zeros_(model.weight)
    torch.nn.init.zeros_(model.bias)
    return model


def test_digits_to_within_a_point_of_first_order_accuracy(one_thread):
    train, test, labels, test_labels = digits()

    def objective(model):
        fit = torch.nn.functional.cross_entropy(model(train), labels)
        return fit + 1e-3 * model.weight.square().sum()

    def accuracy(model):
        return (model(test).argmax(1) == test_labels).double().mean().item()

    first = classifier()
    newton = torch.optim.LBFGS(first.parameters(), max_iter=300, line_search_fn="strong_wolfe")

    def gradient():
        newton.zero_grad()
        loss = objective(first)
        loss.backward()
        return loss

    newton.step(gradient)

    model, steps = classifier(), 3500
    opt = ZOPrO(model.parameters(), lr=0.1, eps=1e-2)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(opt, steps)
    for _ in range(steps):
        opt.step(lambda: objective(model))
        scheduler.step()
    assert accuracy(first) > 0.94
    assert accuracy(model) > accuracy(first) - 0.01
    assert objective(model) < objective(first) + 0.02
    assert opt.skipped_steps == 0


def lora_llama():
    transformers = pytest.importorskip("transformers")
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=64,
        initializer_range=0.2,
    )  # fmt: skip
    base = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    lora = peft.LoraConfig(r=4, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    model = peft.get_peft_model(base, lora)
    for p in model.parameters():
        if p.requires_grad:
            p.data = p.data.float()
    return model.eval()


@pytest.mark.parametrize("restore", ["auto", "inplace"])
def test_lora_trains_and_leaves_the_base_alone(restore, one_thread):
    model = lora_llama()
    tokens = torch.randint(0, 32, (4, 8), generator=torch.Generator().manual_seed(1))
    loss = lambda: model(input_ids=tokens, labels=tokens).loss  # noqa: E731
    base = [p for p in model.parameters() if not p.requires_grad]
    adapters = [p for p in model.parameters() if p.requires_grad]
    assert len(base) > 9 and len(adapters) == 14
    bits, start = copies(base), copies(adapters)
    with torch.no_grad():
        before = loss().item()
    opt = ZOPrO(model.parameters(), lr=3e-3, eps=1e-2, restore=restore)
    for _ in range(40):
        opt.step(loss)
    with torch.no_grad():
        after = loss().item()
    assert same_bits(base, bits)
    assert all(not torch.equal(p, s) for p, s in zip(adapters, start))
    assert after < before - 0.1
    assert all(p.grad is None for p in model.parameters())
