"""Two gloo ranks, by each launcher: common seeds, averaged losses, equal bits."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from trainer.tiny_llama import build_model, tokens
from trainer.tiny_trainer import Reports, ZOTrainer, arguments

import zopro
from zopro.digests import digest
from zopro.steplog import Step, read_log, replay

HERE = Path(__file__).parent


# --multi_gpu is what makes accelerate start ranks on one machine, GPU or not: its --cpu starts one
# process, or many through MPI. Port 0: any free one.
LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc_per_node=2"],
    "accelerate": [
        *["accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1"],
        *["--main_process_port=0", "--mixed_precision=no", "--dynamo_backend=no"],
    ],
}


@pytest.fixture(scope="module", params=LAUNCHERS)
def ranks(request, tmp_path_factory):
    out = tmp_path_factory.mktemp("ranks")
    installed = Path(zopro.__file__).parent.parent
    paths = [str(HERE.parent), str(installed), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-m", *LAUNCHERS[request.param]]
    done = subprocess.run(
        [*command, str(HERE / "two_ranks.py"), str(out)],
        env=environment, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    assert sorted(p.name for p in out.glob("*.json")) == ["rank0.json", "rank1.json"]
    return [{"out": out, **json.loads((out / f"rank{i}.json").read_text())} for i in range(2)]


def test_slopes_are_those_of_both_batches_together(ranks, tmp_path):
    reports = Reports()
    args = arguments(
        tmp_path, learning_rate=0.0, max_steps=3, zo_eps=1e-2, per_device_train_batch_size=8
    )
    ZOTrainer(build_model(), args, None, tokens(), callbacks=[reports]).train()
    alone = [r.projected_gradients[0] for r in reports.all]
    first, second = (r["mean_of_ranks"]["slopes"] for r in ranks)
    assert first == second and first == pytest.approx(alone, rel=1e-3, abs=1e-4)


def test_weights_stay_equal_to_the_bit(ranks):
    first, second = (r["rloo"] for r in ranks)
    assert first["seed"] == second["seed"] == 0
    assert first["responses"] != second["responses"]
    assert first["skipped"] == second["skipped"] == 1  # a NaN on rank 1 alone
    assert first["moved"] and first["digest"] == second["digest"]


def test_the_log_of_two_ranks_replays_to_their_weights(ranks):
    model, log = build_model(), read_log(ranks[0]["out"] / "rloo/steps.zolog")
    start = digest(model.parameters())
    replay(log, dict(model.named_parameters()))
    assert digest(model.parameters()) == ranks[0]["rloo"]["digest"] != start
    steps = [r for r in log.records if isinstance(r, Step)]
    assert len(steps) == 4 and sum(s.skipped for s in steps) == 1


def test_weights_that_differ_are_refused(ranks):
    for rank in ranks:
        assert "rank(s) [1] differ from rank 0's when training starts" in rank["strangers"]["error"]


def test_digest_sees_every_bit():
    tensors = [torch.zeros(3, 5), torch.ones(7, dtype=torch.bfloat16), torch.zeros(0)]
    known = digest(tensors)
    assert digest([t.clone() for t in tensors]) == known
    tensors[0][2, 4] = -0.0
    assert digest(tensors) != known
    strided = torch.arange(6.0).reshape(2, 3).t()
    assert digest([strided]) == digest([strided.contiguous()])
