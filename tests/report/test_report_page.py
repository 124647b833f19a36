"""The page as text, the figures for papers, and the command."""

import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from report.made_run import EVIL, make_run

from zopro.cli import main
from zopro.report import read_run
from zopro.report.page import as_script, content, page


class Tags(HTMLParser):
    """Collects the elements, and what is not closed."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "br", "source"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag


def test_the_page_holds_everything_and_nothing_of_a_run_is_markup(html):
    text = html.read_text(encoding="utf-8")
    tags = Tags(text)
    assert tags.open == []
    assert [t for t, _ in tags.tags].count("script") == 3
    for tag, given in tags.tags:
        assert tag not in ("img", "b", "iframe", "base", "form")
        assert not {"src", "srcset", "style"} & set(given), (tag, given)
        assert not any(name.startswith("on") for name in given)
        assert given.get("href", "#").startswith(("#", "data:,"))
    assert "&lt;/script&gt;&lt;script&gt;window.evil = 1" in text and EVIL not in text
    policy = next(g["content"] for t, g in tags.tags if "http-equiv" in g)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    script = re.search(r"script-src ([^;]*);", policy)[1]
    assert "unsafe" not in script and "connect-src 'none'" in policy
    assert 1e6 < len(text) < 4e6


def test_json_in_a_script_element_cannot_leave_it():
    told = as_script({"a": "</script>&<!--", "b": [float("nan"), 1.5, float("inf")]})
    assert "<" not in told and ">" not in told and "&" not in told
    assert json.loads(told) == {"a": "</script>&<!--", "b": [None, 1.5, None]}


def test_the_numbers_of_the_final_table_and_of_evaluations(run_folder, tmp_path):
    import shutil

    folder = shutil.copytree(run_folder, tmp_path / "run")
    (folder / "policy").mkdir()
    metrics = {"model": {"chrf": {"mean": 0.3125, "low": 0.25, "high": 0.375, "n": 9}}}
    (folder / "policy" / "eval-translation-test.json").write_text(
        json.dumps({"metrics": metrics, "options": {"split": "test"}})
    )
    fragment = content([read_run(folder)])["fragments"]["final"]
    assert "0.312 [0.25, 0.375]" in fragment
    rows = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    y = [r["reward"] for r in rows if "reward" in r]
    first, last = sum(y[:3]) / 3, sum(y[-3:]) / 3
    assert f"{first:.3g}</td>" in fragment and f"{last - first:+.3g} [" in fragment


def test_several_runs_side_by_side(run_folder, tmp_path):
    plain = make_run(tmp_path / "plain", method="spsa")
    runs = [read_run(run_folder), read_run(plain)]
    data = content(runs, live=1.0)
    figures = {f["name"]: f for f in data["figures"]}
    curves = figures["reward"]["views"][""]["curves"]
    assert [c["label"] for c in curves] == ["zopro", "spsa"]
    assert curves[0]["colour"] != curves[1]["colour"]
    assert figures["ways"]["choices"][0] == ("Run", [("seed0", "seed0"), ("plain", "plain")])
    assert "connect-src &#39;self&#39;" in page(runs, data)


def test_command_writes_the_page_and_the_figures(run_folder, tmp_path, capsys):
    out, figures = tmp_path / "new" / "report.html", tmp_path / "figures"
    assert main(["report", str(run_folder), "--out", str(out), "--figures", str(figures)]) == 0
    assert str(out) in capsys.readouterr().out and out.stat().st_size > 1e6
    names = {p.stem for p in figures.glob("*.png")}
    assert names == {p.stem for p in figures.glob("*.svg")}
    assert {"reward", "noise", "measure-turn", "ways-pca-2d", "ways-tsne-3d"} <= names
    for path in figures.iterdir():
        if path.suffix == ".png":
            assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000
        else:
            words = " ".join(ElementTree.parse(path).getroot().itertext())
            axes = ("policy steps", "reward model steps", "snapshots", "direction", "layer")
            assert any(axis in words for axis in axes), path


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ([], "holds no run (none of config.json"),
        (["--live", "--out", "a.html"], "--out is given beside --live"),
        (["--port", "80"], "port=80 is given without --live"),
        (["--live", "--port", "70000"], "port=70000 is not allowed"),
    ],
)
def test_command_refuses_in_one_sentence(more, told, tmp_path, capsys):
    assert main(["report", str(tmp_path), *more]) == 2
    said = capsys.readouterr().err
    assert told in said and said.count("\n") == 1


def test_figures_hold_the_page_numbers(run_folder, tmp_path, monkeypatch):
    """What matplotlib is given is what the page has."""
    from matplotlib.axes import Axes

    from zopro.report.static import write_figures

    given = []
    plot = Axes.plot
    monkeypatch.setattr(
        Axes, "plot", lambda self, *a, **k: (given.append(a[:2]), plot(self, *a, **k))[1]
    )
    data = content([read_run(run_folder)], live=1.0)
    figure = next(f for f in data["figures"] if f["name"] == "reward")
    write_figures([figure], tmp_path)
    (curve,) = figure["views"][""]["curves"]
    assert given == [(curve["x"], curve["y"])]
