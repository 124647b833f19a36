"""Reading runs: what is there, what is damaged, what is refused; means over seeds."""

import json
import shutil

import pytest
from report.made_run import log, make_run

from zopro.report import read_run, write_report
from zopro.report.curves import grouped, interval, logged, over_groups, placed
from zopro.report.figures import figures_of_logs
from zopro.report.interplay import figures_of_tracks
from zopro.report.tables import final
from zopro.report.way_figure import way_figure


@pytest.fixture
def run(run_folder, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(run_folder, tmp_path / "run")


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="gone' is no folder: give the output_dir of a run"):
        read_run(tmp_path / "gone")
    (tmp_path / "notes.txt").write_text("no run")
    with pytest.raises(ValueError, match=r"holds no run \(none of config\.json, state\.json"):
        write_report([tmp_path], tmp_path / "out.html")
    assert not (tmp_path / "out.html").exists()
    with pytest.raises(ValueError, match="runs is empty"):
        write_report([])


def test_the_same_run_twice_is_refused(run_folder):
    with pytest.raises(ValueError, match="is given twice"):
        write_report([run_folder, run_folder / ".." / run_folder.name])


def test_half_written_and_damaged_files_are_told(run):
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"phase": "1.policy", "step": 11, "rew')
    assert read_run(run).notes == []  # a line that is being written
    with open(run / "metrics.jsonl", "a") as file:
        file.write('\n{"no": "step"}\n')
    (run / "config.json").write_text('{"options": {"me')
    (run / "state.json").write_bytes(b"\xff\x00[1, 2]")
    (run / "policy").mkdir()
    (run / "policy" / "eval-a.json").write_text("[]")
    held = read_run(run)
    assert len(held.notes) == 5, held.notes
    assert held.notes[0].startswith("config.json is damaged and left out: ")
    assert "1 line is damaged in metrics.jsonl and left out." in held.notes
    assert "1 logs name no step and are left out." in held.notes
    assert len(logged("reward")(held)[1]) == 20 and held.option("method") == "zopro"


def test_damaged_sketches_say_so_in_the_page(run):
    file = sorted((run / "sketches").glob("*.policy.safetensors"))[3]
    file.write_bytes(file.read_bytes()[:60])
    (ways, *rest), scores = figures_of_tracks([read_run(run)])
    assert file.name in ways.missing and "is damaged" in ways.missing
    assert rest == [] and scores == [] and ways.views == {}


def test_one_snapshot_only(run):
    for path in sorted((run / "sketches").glob("0*.safetensors"))[1:]:
        path.unlink()
    figures, _ = figures_of_tracks([read_run(run)])
    assert all(f.missing for f in figures)
    assert "there are 1 snapshots, and a trajectory takes 3" in figures[0].missing
    assert "there is one snapshot of the reward" in figures[1].missing


def test_adapters_of_differing_rank(tmp_path):
    import torch

    from zopro.analysis import SketchWriter

    folder = make_run(tmp_path / "run", sketches=False)
    writer = SketchWriter(folder, dim=512, layer_dim=256)
    for network, rank in (("policy", 2), ("reward", 4)):
        for step in range(3):
            weights = {"model.layers.0.q.lora_A.weight": torch.randn(rank, 16)}
            writer.add(network, weights, "0.policy", step)
    (ways, *_), _ = figures_of_tracks([read_run(folder)])
    assert "differing rank" in ways.missing


def test_a_run_without_sketches_or_rewards(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for step in range(1, 4):
        log(folder, "train", step, {"loss": 1.0 / step})
    runs = [read_run(folder)]
    figures = {f.name: f for f in figures_of_logs(grouped(runs))}
    assert figures["loss"].views and "no policy phase has logged a reward" in (
        figures["reward"].missing
    )
    assert "holds no sketches" in figures_of_tracks(runs)[0][0].missing
    assert final(grouped(runs))[0] == []
    assert write_report([folder], tmp_path / "report.html").is_file()


def test_a_trainers_folder(tmp_path):
    """Of transformers' Trainer: the log history of its last checkpoint."""
    for step in (2, 10):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        history = [{"step": k, "loss": 1.0 / k, "reward": float(k)} for k in range(1, step + 1)]
        (folder / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    assert logged("reward")(read_run(tmp_path))[1] == [float(k) for k in range(1, 11)]


def test_steps_go_on_over_phases():
    rows = [{"phase": p, "step": s} for p, s in (("0.policy", 1), ("0.policy", 7), ("1.policy", 2))]
    assert [x for x, _ in placed(rows)] == [1, 7, 9]


def test_seeds_become_a_mean_with_its_interval(tmp_path, run_folder):
    from scipy.stats import t

    others = [make_run(tmp_path / f"seed{k}", seed=k, sketches=False) for k in (1, 2)]
    plain = make_run(tmp_path / "plain", method="spsa", sketches=False)
    slower = make_run(tmp_path / "slower", method="spsa", sketches=False, lora_r=8)
    runs = [read_run(p) for p in (run_folder, *others, plain, slower)]
    groups = grouped(runs)
    assert [g.name for g in groups] == ["zopro, lora_r 2", "spsa, lora_r 2", "spsa, lora_r 8"]
    assert [len(g.runs) for g in groups] == [3, 1, 1]
    curve = over_groups(groups, logged("reward"))[0]
    values = [logged("reward")(r)[1][4] for r in runs[:3]]
    mean = sum(values) / 3
    half = t.ppf(0.975, 2) * (sum((v - mean) ** 2 for v in values) / 2 / 3) ** 0.5
    assert interval(values) == pytest.approx((mean, half))
    assert curve.y[4] == pytest.approx(mean) and curve.high[4] == pytest.approx(mean + half)
    assert curve.label == "zopro, lora_r 2, mean of 3 seeds" and len(curve.x) == 20
    rows, how = final(groups)
    assert rows[0]["gain"].count("[") == 1 and "Student" in how
    assert rows[0]["name"].endswith("3 seeds")


def test_rewards_of_snapshots_are_those_logged_by_then(run_folder):
    run = read_run(run_folder)
    from zopro.report.interplay import tracks_of

    tracks = tracks_of(run)
    figure, _ = way_figure({"a": tracks}, {"a": run}, quick=True)
    curves = figure.views["a/all layers/pca/2"]["curves"]
    assert [c["label"] for c in curves] == ["policy", "reward"]
    last = logged("reward")(run)[1][-1]  # the snapshots were taken after all logs
    assert curves[0]["more"]["reward"] == [last] * 8 and len(curves[1]["x"]) == 12
    assert figure.choices[1] == ("Layer", [(n, n) for n in ("all layers", "layers.0", "layers.1")])


def test_measures_layer_by_layer(run_folder):
    """Chance stands beside each, and the overview has each layer's mean."""
    from zopro.analysis import measure, read_sketches

    figures, scores = figures_of_tracks([read_run(run_folder)], quick=True)
    turn = next(f for f in figures if f.name == "measure-turn")
    tracks, means = read_sketches(run_folder), []
    for layer in ("layers.0", "layers.1"):
        series = {s.name: s for s in measure(tracks, layer)}
        curves = {c["label"]: c for c in turn.views[f"seed0/{layer}"]["curves"]}
        assert list(curves) == ["policy", "reward", "chance"]
        assert curves["policy"]["y"] == series["policy.turn"].values.tolist()
        assert curves["chance"]["y"] == [series["policy.turn"].chance] * 2
        means.append(series["policy.turn"].values.mean())
    overview = turn.views["seed0/layer by layer (means)"]["curves"][0]
    assert overview["x"] == ["layers.0", "layers.1"] and overview["y"] == pytest.approx(means)
    assert {(layer, s.name) for _, layer, s in scores} == {
        (layer, name)
        for layer in ("all layers", "layers.0", "layers.1")
        for name in ("distance_correlation", "procrustes")
    }
