"""The fifteen defects of the method's reference implementation, by their numbers: 1 to 8.

Each check passes on this package and fails on a small stand-in that has the defect. 9 to 15 are
in test_defects_from_9.py and test_defects_from_14.py.
"""

import ast
import inspect
from pathlib import Path

import pytest
import torch
from defects import fails_on, one, square
from iterations.tiny_run import config, run
from trainer.tiny_llama import build_model, tokens
from trainer.tiny_trainer import ZOTrainer, arguments
from trl import RLOOTrainer

import zopro.iterations
from zopro import ZOPrO, ZOPrOTrainer, schedules
from zopro.iterations import IterationConfig
from zopro.trainer import mixin


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("CI", "1")  # TRL sends no telemetry
    torch.set_num_threads(1)


def test_01_the_targeted_phase_runs(tmp_path, monkeypatch):
    ran = []
    original = ZOPrO.step
    monkeypatch.setattr(
        ZOPrO, "step", lambda self, *a: (ran.append(self._targets), original(self, *a))[1]
    )

    def check(method):
        ran.clear()
        run(tmp_path / method, method=method)
        assert len(ran) == 2 and None not in ran

    check("zopro")
    fails_on(check, "rloo")  # a driver that never comes to its targeted branch


def test_02_trainers_get_only_keywords_that_they_have(tmp_path, monkeypatch):
    given = {}
    for cls in (RLOOTrainer, ZOPrOTrainer):

        def spy(self, *args, original=cls.__init__, **kwargs):
            given.setdefault("all", set()).update(kwargs)
            original(self, *args, **kwargs)

        monkeypatch.setattr(cls, "__init__", spy)
    known = set(inspect.signature(RLOOTrainer.__init__.__kwdefaults__["original"]).parameters)

    def check(keywords):
        assert keywords and keywords <= known

    run(tmp_path / "run")
    check(given["all"])
    fails_on(check, {"model", "zo_state"})
    with pytest.raises(ValueError, match="zeroth holds 'kl_coef', which ZOPrOConfig has not"):
        config(tmp_path, zeroth={"kl_coef": 0.1})


def test_03_every_option_that_is_read_exists():
    have = {*IterationConfig.__dataclass_fields__, *vars(IterationConfig)}

    def check(source):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Attribute):
                of = ast.unparse(node.value)
                if of in ("config", "self.config", "context.config", "self.context.config"):
                    assert node.attr in have, node.attr

    for path in Path(zopro.iterations.__file__).parent.glob("*.py"):
        check(path.read_text())
    fails_on(check, "open(config.log_dir)")


def test_04_the_perturbation_clears_the_rounding_floor():
    theta = torch.randn(4096, generator=torch.Generator().manual_seed(0))
    prev = 1e-6 * torch.randn(4096)

    def check(perturbed):
        moved = perturbed(theta) - theta
        assert (moved != 0).float().mean() > 0.9
        assert moved.square().mean().sqrt().item() == pytest.approx(1e-4, rel=0.1)

    def ours(theta):
        p = torch.nn.Parameter(theta.clone())
        opt = ZOPrO([p], eps=1e-4)
        opt.set_targets([prev], schedule="linear", steps=10)
        with opt.perturbed(+1):
            return p.detach().clone()

    check(ours)
    fails_on(check, lambda theta: theta + 1e-4 * prev)  # z as long as the previous update


def test_05_the_weight_is_never_negative():
    def check(schedule):
        for steps in (10, 1000, 4000):
            assert all(0.0 <= schedule(step, steps) <= 1.0 for step in range(5000))

    for name in schedules.NAMES:
        check(lambda step, n, name=name: schedules.resolve(name, n, 0.1)(step, n))
    fails_on(check, lambda step, steps: 0.999 - step / 1000)


def test_06_ranks_share_rank_0s_seed(tmp_path, monkeypatch):
    monkeypatch.setattr(mixin, "common_seed", lambda seed: 7)  # what rank 0 broadcasts
    # Two processes: tests/trainer/test_trainer_ranks.py.

    class Alone(ZOTrainer):
        def _build_optimizer(self, model):
            return ZOPrO(model.named_parameters(), seed=self.args.zo_seed)

    def check(cls):
        seeds = []
        for rank in (0, 1):
            t = cls(build_model(), arguments(tmp_path, zo_seed=rank), None, tokens())
            t.create_optimizer()
            seeds.append(t.zopro.state_dict()["zopro"]["seed"])
        assert seeds == [7, 7]

    check(ZOTrainer)
    fails_on(check, Alone)


def test_07_noise_leaves_the_global_generator_alone():
    class Reseeds(ZOPrO):
        def step(self, closure=None):
            torch.manual_seed(self._seed)
            return super().step(closure)

    def check(cls):
        p, opt = one(cls=cls)
        torch.manual_seed(11)
        before = torch.get_rng_state()
        opt.step(square(p))
        assert torch.equal(torch.get_rng_state(), before)

    check(ZOPrO)
    fails_on(check, Reseeds)


def test_08_every_step_has_a_seed_of_its_own():
    class Stuck(ZOPrO):
        def step(self, closure=None):
            self._step_count = 0
            return super().step(closure)

    def check(cls):  # inner epochs of the trainer: test_iterations_sampled.py
        p, opt = one(cls=cls)
        seeds = [(opt.step(square(p)), opt.last.seed)[1] for _ in range(8)]
        assert len(set(seeds)) == 8

    check(ZOPrO)
    fails_on(check, Stuck)
