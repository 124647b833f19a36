"""The log's file: damage is cut or refused, what does not fit is named."""

import dataclasses
import importlib.util
import json
import random
import zlib
from pathlib import Path

import pytest
import torch
from optimizer.helpers import copies, parameters, same_bits
from steplog.runs import Run

from zopro import StepLog, ZOPrO, replay
from zopro.steplog import layout, read_log
from zopro.steplog.coding import Coder

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return Run(tmp_path_factory.mktemp("run"), targeted=True, steps=20, restore="inplace").train()


def rewritten(run, tmp_path, change):
    """The run's log with a head that `change` has changed, under right checksums."""
    log, data = read_log(run.path), run.path.read_bytes()
    head = json.loads(data[16 : log.begin - 4])
    change(head)
    text = json.dumps(head).encode()
    new = data[:12] + len(text).to_bytes(4, "little") + text
    new += layout.CRC.pack(zlib.crc32(new))
    coder = Coder(log.head, layout.last_crc(new))
    for record in log.records:
        new += coder.encode(record)
        coder.take(record, layout.last_crc(new))
    path = tmp_path / "steps.zolog"
    path.write_bytes(new)
    return path


def test_damage_is_cut_or_refused(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    spec = importlib.util.spec_from_file_location("fuzz_log", ROOT / "benchmarks/fuzz_log.py")
    fuzz_log = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fuzz_log)
    outcomes = fuzz_log.fuzz(4000, seed=1)
    assert sum(outcomes.values()) == 4000
    for kind in fuzz_log.INJURIES:  # each of them bites
        assert outcomes[f"{kind.__name__}: cut"] > 100, kind
    assert outcomes["forged head: refused"] > 400
    for end in ("cut", "replay refused", "replayed"):
        assert outcomes[f"forged records: {end}"] > 50, end


def test_a_cut_log_replays_to_where_it_is_whole(run, tmp_path, caplog):
    data = run.path.read_bytes()
    whole = read_log(data)
    end = next(e for r, e in zip(whole.records, whole.ends)
               if isinstance(r, layout.Step) and r.step == 12)  # fmt: skip
    path = tmp_path / "steps.zolog"
    for targets in run.path.parent.glob("targets-*"):
        (tmp_path / targets.name).write_bytes(targets.read_bytes())
    path.write_bytes(data[: end + 9])
    log = read_log(path)
    assert "after step 13, are cut: a record is not finished" in log.cut and " 9 bytes" in log.cut
    weights = copies(run.base)
    replay(log, weights)
    assert same_bits(weights, run.weights[13])
    replay(path, copies(run.base), 13)
    assert not caplog.text
    replay(path, copies(run.base))
    assert "9 bytes, after step 13, are cut" in caplog.text
    assert "the weights are those of step 13" in caplog.text
    flipped = bytearray(data)
    flipped[end + 5] ^= 4
    log = read_log(bytes(flipped))
    assert log.steps == 13 and "checksum" in log.cut


@pytest.mark.parametrize("data,words", [
    (b"", "no step log"), (b"PK\x03\x04 and more", "no step log"),
    (layout.MAGIC, "inside its head"),
    (layout.MAGIC + b"\x01" + b"\0" * 60, "version 1 where this zopro reads 2"),
    (layout.MAGIC + b"\x02\0\0\0" + b"\xff" * 60, "inside its head"),
    (layout.MAGIC + b"\x02\0\0\0" + b"\x02\0\0\0{}aaaa", "damaged head"),
])  # fmt: skip
def test_what_is_no_log_is_refused(data, words):
    with pytest.raises(ValueError, match=words):
        read_log(data)


def test_another_law_is_refused(run, tmp_path):
    path = rewritten(run, tmp_path, lambda head: head.update(law=2))
    with pytest.raises(ValueError, match=r"noise law 2.* has law 1"):
        read_log(path)


@pytest.mark.parametrize("change,words", [
    (lambda h: h["parameters"][1].update(group=7), "a group that is not"),
    (lambda h: h["parameters"][1].update(name="0"), "same name"),
    (lambda h: h["parameters"][1].update(dtype="float64"), "dtype"),
    (lambda h: h["parameters"][1].update(shape=[-1]), "-1"),
    (lambda h: h["parameters"][1].pop("index"), "parameter needs"),
    (lambda h: h["options"].update(estimator="three_sided"), "estimator"),
    (lambda h: h["options"].update(num_directions=2**40), "num_directions"),
    (lambda h: h.update(groups=2**40), "groups"),
    (lambda h: h.update(seed=2**64), "seed|no int"),
    (lambda h: h.update(digest="../x"), "SHA-256"),
])  # fmt: skip
def test_a_head_that_makes_no_sense_is_refused(run, tmp_path, change, words):
    with pytest.raises(ValueError, match=f"makes no sense: .*({words})"):
        read_log(rewritten(run, tmp_path, change))


def test_a_wrong_base_is_refused_by_name(run):
    log = read_log(run.path)
    good = {str(i): w for i, w in enumerate(copies(run.base))}
    for given, words in [
        ({**good, "1": good["1"] + 1e-3}, "parameter '1' has other weights"),
        ({**good, "1": good["1"].bfloat16()}, "'1' is bfloat16"),
        ({**good, "1": good["1"].view(7, 1)}, r"'1' is float32 \(7, 1\)"),
        ({"0": good["0"], "2": good["2"]}, "no '1'"),
        (list(good.values())[:2], "has 2 tensors"),
    ]:
        before = copies(given.values() if isinstance(given, dict) else given)
        with pytest.raises(ValueError, match=words):
            replay(log, given)
        after = given.values() if isinstance(given, dict) else given
        assert same_bits(before, after)
    with pytest.raises(ValueError, match="until=21 is not in the log: it holds steps 0 to 20"):
        replay(log, good, 21)


def test_targets_stay_in_their_folder(run, tmp_path):
    log = read_log(run.path)
    (aim,) = [r for r in log.records if isinstance(r, layout.Aim) and r.file]
    place = log.records.index(aim)
    for name in ("../other.safetensors", "/etc/hostname", "sub/x", "..", ""):
        log.records[place] = dataclasses.replace(aim, file=name)
        with pytest.raises(ValueError, match="no file in its folder"):
            replay(log, copies(run.base))
    data = (run.path.parent / aim.file).read_bytes()
    path = tmp_path / "steps.zolog"
    path.write_bytes(run.path.read_bytes())
    with pytest.raises(ValueError, match="put the file beside the log"):
        replay(path, copies(run.base))
    (tmp_path / aim.file).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ValueError, match="their digest is another"):
        replay(path, copies(run.base))


def test_weights_changed_beside_the_optimizer_are_noticed(tmp_path):
    run = Run(tmp_path, steps=4)
    with StepLog(run.path, run.opt):
        run.opt.step(run.loss)
        with torch.no_grad():
            run.params[0].add_(1e-3)
        run.opt.step(run.loss)
    with pytest.raises(ValueError, match="after step 2 are not those of the run"):
        replay(run.path, run.base)


def test_what_a_log_cannot_tell_raises(tmp_path):
    params = parameters((4,), (3,))
    opt = ZOPrO([{"params": [p]} for p in params])
    log, state = StepLog(tmp_path / "a", opt), opt.state_dict()
    with pytest.raises(RuntimeError, match="writes a step log already"):
        StepLog(tmp_path / "b", opt)
    opt.step(lambda: 1.0)
    opt.load_state_dict(state)
    with pytest.raises(RuntimeError, match="after load_state_dict"):
        opt.step(lambda: 1.0)
    log.close(mark=False)
    opt.estimate(lambda: 1.0)
    with pytest.raises(RuntimeError, match="estimates wait"):
        StepLog(tmp_path / "b", opt)
    opt.step()
    StepLog(tmp_path / "b", opt)
    params[0].requires_grad_(False)
    with pytest.raises(RuntimeError, match="parameters that require grad are others"):
        opt.step(lambda: 1.0)


def test_a_full_disk_leaves_whole_records(tmp_path, monkeypatch):
    run = Run(tmp_path, steps=9)
    log = StepLog(run.path, run.opt, every_step=True)
    run.opt.step(run.loss)
    whole, file = run.path.read_bytes(), log._file._file

    class Full:
        def __getattr__(self, name):
            return getattr(file, name)

        def write(self, data):
            return file.write(data[:10])

    log._file._file = Full()
    with pytest.raises(OSError, match=r"cannot be written: No space left.*make room"):
        run.opt.step(run.loss)
    assert run.path.read_bytes() == whole


def test_random_bytes_as_payload_make_no_other_error():
    data = layout.encode_head(read_log(_small()).head)
    generator = random.Random(0)
    for _ in range(2000):
        kind, size = generator.randrange(8), generator.choice((0, 1, 2, 7, 8, 9, 16, 48, 60))
        body = bytes((kind, generator.choice((0, 0, 1, 4, 7, 8, 24, 31, 32)), size))
        body += generator.randbytes(size)
        crc = zlib.crc32(body, layout.last_crc(data))
        log = read_log(data + body + layout.CRC.pack(crc))
        assert len(log.records) + (log.cut is not None) == 1


def _small() -> bytes:
    from zopro.steplog.writer import head_of

    return layout.encode_head(head_of(ZOPrO(parameters((4,), (3,)))))
