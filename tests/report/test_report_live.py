"""The live server: loopback only, two paths, what is new."""

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from report.made_run import log, make_run

import zopro
from zopro.report.live import Server, Source, serve


@pytest.fixture
def served(tmp_path):
    """(folder, ask): ask(path, method, headers) -> (status, headers, body)."""
    folder = make_run(tmp_path / "run", steps=3, sketches=False)
    server = Server(Source([folder]), 0)
    port = server.server_address[1]
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def ask(path, method="GET", **headers):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        body = answer.read().decode()
        connection.close()
        return answer.status, dict(answer.headers), body

    yield folder, ask, server
    server.shutdown()
    server.server_close()


def test_two_paths_for_this_machine_alone(served):
    _, ask, server = served
    assert server.server_address[0] == "127.0.0.1"
    status, headers, body = ask("/")
    assert status == 200 and "connect-src &#39;self&#39;" in body
    assert headers["X-Content-Type-Options"] == "nosniff" and headers["Cache-Control"] == "no-store"
    for path in ("/config.json", "/../etc/passwd", "/data.json/..", "/?a"):
        assert ask(path)[0] == 404, path
    for host in ("evil.example", "evil.example:80", "127.0.0.1", "127.0.0.1:1", "[::1]", ""):
        assert ask("/data.json", Host=host)[0] == 403, host
    assert ask("/", Host=f"localhost:{server.server_address[1]}")[0] == 200
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert ask("/", method)[0] == 501, method


def test_data_follow_the_files(served):
    folder, ask, _ = served
    _, headers, body = ask("/data.json")
    tag = headers["ETag"]
    assert ask("/data.json", **{"If-None-Match": tag})[0] == 304
    log(folder, "1.policy", 4, {"reward": 9.0})
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"phase": "1.pol')
    status, headers, later = ask("/data.json", **{"If-None-Match": tag})
    assert status == 200 and headers["ETag"] != tag

    def rewards(text):
        figures = {f["name"]: f for f in json.loads(text)["figures"]}
        return figures["reward"]["views"][""]["curves"][0]["y"]

    assert rewards(later) == [*rewards(body), 9.0]
    folder.rename(folder.with_name("moved"))  # the last good data stay
    assert rewards(ask("/data.json")[2]) == rewards(later)


def test_a_port_that_is_taken(served):
    folder, _, server = served
    with pytest.raises(ValueError, match=r"cannot be served on 127\.0\.0\.1: .* use another"):
        serve(folder, server.server_address[1])
    with pytest.raises(ValueError, match="is no folder"):
        serve(folder / "gone", 0)


def test_ctrl_c_ends_it(tmp_path):
    folder = make_run(tmp_path / "run", steps=2, sketches=False)
    environment = {**os.environ, "PYTHONPATH": str(Path(zopro.__file__).parents[1])}
    process = subprocess.Popen(
        [sys.executable, "-m", "zopro.cli", "report", "--live", str(folder), "--port", "0"],
        stdout=subprocess.PIPE, text=True, env=environment,
        # A shell's background job ignores Ctrl-C, and its children with it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    try:
        said = process.stdout.readline()
        assert said.startswith("http://127.0.0.1:") and "Ctrl-C ends" in said
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
        assert process.returncode == 0 and rest == "ended\n"
    finally:
        process.kill()
