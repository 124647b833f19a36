"""zopro train with each kind of judge and objective, on a tiny model; what it says meanwhile."""

import http.server
import json
import re
import threading

import pytest

from zopro.cli import main
from zopro.iterations import LocalJudge
from zopro.iterations.sampled import SampledRewardTrainer

ONCE = ("--iterations", "1", "--first", "spsa")


def done(folder, phase):
    rows = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    return next(r for r in rows if r["phase"] == phase and r.get("event") == "done")


def kept(folder):
    return json.loads((folder / "config.json").read_text())["identity"]


@pytest.fixture
def endpoint():
    """An OpenAI-compatible server on loopback: it says A to each, and what it was asked."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((self.path, self.headers["Authorization"], body))
            raw = json.dumps({"choices": [{"message": {"content": "A"}}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1", asked
    server.shutdown()
    server.server_close()


def test_an_endpoint(endpoint, train, tmp_path, monkeypatch, capsys):
    url, asked = endpoint
    monkeypatch.setenv("JUDGE_KEY", "very-secret-key")
    folder = tmp_path / "run"
    more = ("--judge", url, "--judge_model", "m", "--judge_key_env", "JUDGE_KEY", *ONCE)
    assert main(train(folder, *more)) == 0
    found = done(folder, "0.pairs")
    assert found["unusable_verdicts"] == 0 and found["pairs"] == len(asked) > 0
    path, key, body = asked[0]
    assert path == "/v1/chat/completions" and key == "Bearer very-secret-key"
    assert body["model"] == "m"
    said = capsys.readouterr().err
    assert f"0.pairs: judging {len(asked)}/{len(asked)}, 00:00 left" in said
    for file in (p for p in folder.rglob("*") if p.is_file()):
        assert b"very-secret-key" not in file.read_bytes(), file
    assert kept(folder)["judge"] == "endpoint's model m" and kept(folder)["endpoint"] == url

    assert main(train(folder, "--judge", url, "--judge_model", "n", *ONCE)) == 2
    assert "the judge is not what the run in" in capsys.readouterr().err
    moved = (url.replace("127.0.0.1", "localhost"), *more[2:])
    assert main(train(folder, "--judge", *moved)) == 0  # a finished run: nobody is asked
    assert "began with its judge at http://127.0.0.1" in capsys.readouterr().err


def test_a_local_chat_model(train, chat_model, tmp_path, monkeypatch, capsys):
    # A random model says neither letter; what is made of its replies: test_iterations_judges.py.
    counts = []
    call = LocalJudge.__call__
    monkeypatch.setattr(LocalJudge, "__call__", lambda self, *texts: [
        counts.append(v) or i % 2 for i, v in enumerate(call(self, *texts))
    ])  # fmt: skip
    folder = tmp_path / "run"
    assert main(train(folder, "--judge", chat_model, *ONCE)) == 0
    assert done(folder, "0.pairs")["pairs"] == len(counts) > 0
    said = capsys.readouterr().err
    lines = "sampling, first responses", "scoring", "sampling, second responses", "judging"
    for what in lines:  # each with its remaining time and its rate
        assert re.search(rf"0.pairs: {what} (\d+)/\1, 00:00 left, tok/s [\d.]+\n", said), what
    assert kept(folder)["judge"] == f"chat model {chat_model}"


def test_fresh_samples_as_the_objective(train, tmp_path, monkeypatch):
    made, loss = [], SampledRewardTrainer._compute_loss

    def counted(self, model, inputs):
        made.append(inputs)
        return loss(self, model, inputs)

    monkeypatch.setattr(SampledRewardTrainer, "_compute_loss", counted)
    folder = tmp_path / "run"
    assert main(train(folder, "--objective", "samples", "--first", "spsa", "--zo_eps", "1")) == 0
    state = json.loads((folder / "state.json").read_text())
    assert state["done"][-1] == "1.updates"
    assert len(made) >= 2 * 2 * 5  # five losses a step, two steps an iteration
    assert done(folder, "1.updates")["policy_update_norm"] > 0
