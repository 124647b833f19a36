"""Judges: order, verdicts that do not serve, a local chat model, an endpoint on the loopback."""

import http.server
import json
import threading

import pytest
from iterations.tiny_run import run
from trainer.tiny_llama import build_model, build_tokenizer

from zopro.iterations import EndpointJudge, LocalJudge, judge_pairs
from zopro.iterations.judges import fill, letter

ROWS = [f"p{i}" for i in range(40)]
GOOD, BAD = ["good"] * 40, ["bad"] * 40


def test_order_is_shuffled_and_undone():
    shown = []

    def judge(prompts, firsts, seconds):
        shown.extend(firsts)
        return [0 if a == "good" else 1 for a in firsts]

    verdicts = judge_pairs(judge, ROWS, GOOD, BAD, seed=3)
    assert verdicts.better == [0] * 40 and verdicts.unusable == 0
    assert 10 < shown.count("good") < 30
    again, shown[:] = list(shown), []
    judge_pairs(judge, ROWS, GOOD, BAD, seed=3)
    assert shown == again
    shown.clear()
    judge_pairs(judge, ROWS, GOOD, BAD, seed=4)
    assert shown != again


def test_a_judge_that_always_says_first_gains_nothing():
    better = judge_pairs(lambda p, a, b: [0] * len(p), ROWS, GOOD, BAD, seed=0).better
    assert 10 < sum(better) < 30


def test_unusable_verdicts_are_counted():
    def judge(prompts, firsts, seconds):
        return [0, None, "A", 2, True, -1, float("nan"), 1, *[0] * 32]

    verdicts = judge_pairs(judge, ROWS, GOOD, BAD, seed=0)
    assert verdicts.unusable == 6
    assert [i for i, v in enumerate(verdicts.better) if v is None] == [1, 2, 3, 4, 5, 6]


def test_judge_errors_are_one_sentence():
    with pytest.raises(RuntimeError, match="the judge raised ZeroDivisionError: division by zero"):
        judge_pairs(lambda *a: 1 / 0, ROWS, GOOD, BAD, 0)
    with pytest.raises(ValueError, match="the judge returned 1 verdicts for 40 pairs"):
        judge_pairs(lambda *a: [0], ROWS, GOOD, BAD, 0)


def test_run_drops_what_is_unusable_and_stops_where_nothing_is(tmp_path):
    def half(prompts, firsts, seconds):
        return [0 if i % 2 else None for i in range(len(prompts))]

    run(tmp_path / "half", judge=half, iterations=1)
    lines = [json.loads(x) for x in (tmp_path / "half" / "metrics.jsonl").read_text().splitlines()]
    (counts,) = [x for x in lines if x["phase"] == "0.pairs"]
    assert counts["near_boundary"] == 10 and counts["prompts"] == 16
    differing = counts["near_boundary"] - counts["identical"]
    assert counts["pairs"] + counts["unusable_verdicts"] == differing
    assert counts["pairs"] == differing // 2
    with pytest.raises(ValueError, match="no usable verdict for any of"):
        run(tmp_path / "none", judge=lambda p, a, b: [None] * len(p), iterations=1)


def test_letters():
    for reply in ("A", "a.", " **A**", '"A"', "Answer A", "A is better", "(A)"):
        assert letter(reply) == 0, reply
    assert letter("B") == 1 and letter("Answer: B") == 1
    for reply in ("", "Both", "C", None, 3, "I think A", "AB"):
        assert letter(reply) is None, reply


def test_texts_cannot_fill_each_other_in():
    question = "{prompt}|{first}|{second}"
    assert fill(question, "{second}", "{prompt}", "x{0}") == "{second}|{prompt}|x{0}"


def test_local_judge_answers_for_every_pair():
    model, tokenizer = build_model(), build_tokenizer()
    judge = LocalJudge(model, tokenizer, batch_size=3, question="{prompt} {first} {second}")
    replies = judge(["w1"] * 4, ["good"] * 4, ["bad"] * 4)
    assert len(replies) == 4 and set(replies) <= {0, 1, None}
    with pytest.raises(ValueError, match="a loaded judge needs its tokenizer"):
        LocalJudge(model)
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="no chat template"):
        judge(["w1"], ["a"], ["b"])


class Server:
    """Answers with `replies` in turn: text, a status, or a raw body."""

    def __init__(self, *replies):
        outer = self
        self.replies, self.asked, self.keys = list(replies), [], []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.asked.append((self.path, json.loads(body)))
                outer.keys.append(self.headers["Authorization"])
                reply = outer.replies.pop(0) if outer.replies else "A"
                status = reply if isinstance(reply, int) else 200
                text = {"choices": [{"message": {"content": reply}}]}
                raw = reply if isinstance(reply, bytes) else json.dumps(text).encode()
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", "http://127.0.0.1:9/")
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *args):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def serve():
    servers = []

    def start(*replies):
        servers.append(Server(*replies))
        return servers[-1]

    yield start
    for server in servers:
        server.http.shutdown()
        server.http.server_close()


def ask(server, count=1, **options):
    judge = EndpointJudge(server.url, "m", pause=0.0, timeout=5.0, parallel=1, **options)
    return judge(["p"] * count, ["x"] * count, ["y"] * count)


def test_endpoint_judges(serve):
    server = serve("A", "B", "perhaps", b"no json", b'{"choices": []}')
    assert ask(server, 5) == [0, 1, None, None, None]
    path, body = server.asked[0]
    assert path == "/v1/chat/completions" and body["model"] == "m" and body["temperature"] == 0.0
    assert "x" in body["messages"][0]["content"] and server.keys[0] is None


def test_endpoint_tries_again_within_bounds(serve, caplog, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "very-secret-key")
    server = serve(500, 429, "B")
    with caplog.at_level("DEBUG"):
        assert ask(server, retries=2, key_env="JUDGE_KEY") == [1]
    assert server.keys == ["Bearer very-secret-key"] * 3
    assert "status 500" in caplog.text and "very-secret-key" not in caplog.text
    tired = serve(*[503] * 9)
    assert ask(tired, retries=2) == [None] and len(tired.asked) == 3


@pytest.mark.parametrize("status", [400, 401, 404, 302])
def test_endpoint_that_refuses_stops_the_run(serve, status, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "very-secret-key")
    server = serve(status)
    with pytest.raises(RuntimeError, match=f"the endpoint answered {status}") as caught:
        ask(server, key_env="JUDGE_KEY")
    assert "secret" not in str(caught.value) and len(server.asked) == 1


def test_endpoint_that_is_not_there():
    judge = EndpointJudge("http://127.0.0.1:9/v1", "m", pause=0.0, retries=1, timeout=1.0)
    assert judge(["p"], ["x"], ["y"]) == [None]


def test_bad_endpoints_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="url is no http"):
        EndpointJudge("file:///tmp/x", "m")
    with pytest.raises(ValueError, match="url holds more than host and path"):
        EndpointJudge("http://user:pass@host/v1", "m")
    with pytest.raises(ValueError, match="timeout=0 is not allowed"):
        EndpointJudge("http://host/v1", "m", timeout=0)
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    judge = EndpointJudge("http://127.0.0.1:9/v1", "m", key_env="JUDGE_KEY")
    with pytest.raises(ValueError, match="key_env='JUDGE_KEY' is not set"):
        judge(["p"], ["x"], ["y"])
