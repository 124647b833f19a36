"""What a population refuses: one sentence that names the layer or the argument, nothing changed."""

import pytest
import torch
from population.models import Net, adapted, data, losses
from torch import nn

from zopro import StepLog, ZOPrO


def refused(said, model=None, size=2, mapping="all", run=None, error=ValueError, **options):
    model = adapted() if model is None else model
    opt = options.pop("opt", None) or ZOPrO([p for p in model.parameters() if p.requires_grad])
    x, y = data(2)
    options["model"] = options.pop("given", model)
    with pytest.raises(error, match=said), opt.population(size, mapping, **options) as pop:
        (run or (lambda pop: losses(model, pop.copies(x), pop.copies(y))))(pop)
    assert not [m for m in model.modules() if "forward" in m.__dict__]
    assert opt.step_count == 0 and opt._busy is None and opt._pending is None


def test_mappings_that_do_not_fit():
    model = adapted()
    x, _ = data(4)
    refused(r"mapping has 3 entries where the batch has 4", model, mapping=[0, 1, 0],
            run=lambda _: model(x))  # fmt: skip
    refused("4 sequences where mapping='all' with size=3 needs a multiple of 6", model, 3,
            run=lambda _: model(x))  # fmt: skip
    refused("needs 6: each of 3 responses twice", model, 3, "per_response", run=lambda _: model(x))
    refused("mapping=.halves. is not known", mapping="halves")
    refused(r"mapping\[1\] is 2 with sign 1: give a direction from 0 to 1", mapping=[0, 2])
    refused(r"mapping\[0\] is -1 with sign 1", mapping=[-1])
    refused(r"signs\[1\] is 2", mapping=[0, 1], signs=[1, 2])
    refused("signs has 1 entries for 2", mapping=[0, 1], signs=[1])
    refused("mapping is empty", mapping=[])
    refused("float32 tensor of shape", mapping=torch.ones(4), error=TypeError)
    refused("holds what is no integer", mapping=[0.5], error=TypeError)
    refused("mapping has 1 entries", model, mapping=lambda s: [0], run=lambda _: model(x))
    refused("the batch is as it says", mapping=[0], error=RuntimeError)


def test_layers_that_cannot_be_perturbed_are_named():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.head = nn.Embedding(5, 12), nn.Linear(12, 5)

    model = Odd()
    refused(r"cannot perturb table \(Embedding\) by sequence", model)
    model.head.weight = model.table.weight
    refused("table.weight and head.weight are one parameter", model)
    refused("belongs to no module", adapted(), opt=ZOPrO([nn.Parameter(torch.ones(3))]))
    refused("no model says which layers", given=None)


def test_dropout_checkpointing_and_compiled_models():
    refused("'base_model.model.one.lora_dropout.default'.*call model.eval", adapted(
        lora_dropout=0.1).train())  # fmt: skip
    model = adapted()
    model.base_model.model.gradient_checkpointing = True
    refused("gradient checkpointing", model)
    wrapped = nn.Module()
    wrapped._orig_mod = Net()  # as torch.compile puts it
    for given in (wrapped, nn.DataParallel(Net())):
        refused("compiled or replicated", Net(), given=given)


def test_adapters_that_do_not_run_as_they_are():
    model = adapted()
    model.base_model.model.one.merge()
    refused("'base_model.model.one' .* merged", model)
    model = adapted()
    model.base_model.model.one._disable_adapters = True
    refused("adapters disabled", model)
    refused("variant of LoRA", adapted(use_dora=True))

    class Linear4bit(nn.Linear):
        """As bitsandbytes names its own."""

    model = adapted()
    base = model.base_model.model.one.base_layer
    model.base_model.model.one.base_layer = Linear4bit(base.in_features, base.out_features)
    refused(r"'base_model.model.one' .* quantised layer \(Linear4bit\)", model)


def test_a_layer_that_never_ran_and_one_that_reshapes():
    model = adapted()
    x, _ = data(2)

    def half(pop):
        model.base_model.model.one(x.repeat(4, 1, 1))
        pop.losses(torch.zeros(8))

    refused("two.lora_A.default holds trainable parameters but did not run", model, run=half)

    class Routed(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(12, 12), nn.Linear(12, 12)

        def forward(self, x):
            return self.two(self.one(x).flatten(0, 1))

    model = Routed()
    refused("two gets a batch of 40 where the forward's has 8", model,
            run=lambda pop: model(pop.copies(x)))  # fmt: skip


def test_losses_that_do_not_fit():
    model = adapted()
    x, _ = data(2)

    def give(values):
        def run(pop):
            model(pop.copies(x))
            pop.losses(values)

        return run

    refused("losses has 3 entries where the batch had 8", model, run=give(torch.ones(3)))
    refused("one loss a sequence", model, run=give(torch.tensor(1.0)), error=TypeError)
    refused("before a forward", run=lambda pop: pop.losses(torch.ones(8)))

    def run(pop):
        model(x)
        pop.losses(torch.ones(2))

    one = {"model": model, "run": run, "mapping": [0, 1]}
    refused(r"direction 0 has 1 losses at \+ and 0 at -", **one)
    refused("direction 0 has no losses at", signs=-1, **one)
    refused("direction 0 has no baseline", estimator="one_sided", **one)
    one["mapping"] = [0, 0]
    refused("direction 1 has no losses", signs=[1, -1], **one)


def test_a_shared_cache():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.LlamaConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        vocab_size=20,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval().requires_grad_(False)
    model.model.norm.requires_grad_(True)
    ids = torch.ones(2, 3, dtype=torch.long)
    past = model(ids, use_cache=True).past_key_values
    refused("past_key_values holds 3 positions", model, mapping=[0, 1],
            run=lambda _: model(ids[:, :1], past_key_values=past))  # fmt: skip
    opt = ZOPrO(model.model.norm.parameters())
    with opt.population(2, [0, 1], model=model):
        model(ids, use_cache=True)  # its own, and empty at first


def test_options():
    refused("give size", size=None)
    refused("scale='std' with estimator='two_sided'", scale="std")
    refused("rank=0", rank=0)
    refused("estimator='both'", estimator="both")
    model = adapted()
    refused("eps='auto'", model, opt=ZOPrO(model.parameters(), eps="auto"), error=RuntimeError)
    opt = ZOPrO(model.parameters())
    family = opt.family([[torch.ones_like(p) for p in opt._indices]])
    refused("needs its own size", model, opt=opt, family=family)
    with pytest.raises(ValueError, match=r"family\[1\] is 0 or lies in the span"):
        opt.family([[torch.ones_like(p) for p in opt._indices]] * 2)
    with pytest.raises(ValueError, match="updates is empty"):
        opt.family([])
    full = Net()
    opt = ZOPrO(full.parameters())
    opt.set_targets([torch.ones_like(p) for p in full.parameters()], schedule="constant")
    refused("with targets or a family needs full directions", full, opt=opt)


def test_what_waits_for_a_step(tmp_path):
    model = adapted()
    opt = ZOPrO(model.parameters(), num_directions=2)
    x, y = data(2)
    with opt.population(2, model=model) as pop:
        with pytest.raises(RuntimeError, match="inside a population"):
            opt.step()
        pop.losses(losses(model, pop.copies(x), pop.copies(y)))
    for call in (
        lambda: opt.estimate(lambda: 1.0), lambda: opt.perturbed(1).__enter__(), opt.state_dict,
        lambda: opt.population(3, model=model),
    ):  # fmt: skip
        with pytest.raises(RuntimeError, match="step"):
            call()
    opt.step()
    opt.state_dict()
    log = StepLog(tmp_path / "steps.zolog", opt)
    with log, pytest.raises(ValueError, match="num_directions=2"):
        opt.population(3, model=model)
