"""`zopro report --live`: the page on loopback, following a run that trains."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from .interplay import figures_of_tracks
from .page import as_script, content, page
from .runs import Run, read_run, stamp

HOST = "127.0.0.1"
EVERY = 2.0  # seconds between the page's questions


class Source:
    """The report of `runs` as it is now; built again only when a file of theirs has changed."""

    def __init__(self, runs: Sequence[str | Path], every: float = EVERY) -> None:
        self.runs, self.every = list(runs), every
        self._lock = threading.Lock()
        self._stamp: str | None = None
        self._data: dict[str, Any] = {}
        self._read: list[Run] = []
        self._sketches, self._tracked = "", None
        self.refresh()  # refuses what is no run before anything is served

    def refresh(self) -> dict[str, Any]:
        """The page's data; what was last good where the files cannot be read at this moment."""
        with self._lock:
            now = json.dumps([stamp(run) for run in self.runs])
            if now == self._stamp:
                return self._data
            try:
                read = [read_run(run) for run in self.runs]
            except (ValueError, OSError):
                if self._stamp is None:
                    raise
                return self._data  # the folder is gone or between two states: ask again later
            self._read = read
            self._track()
            short = str(hash(now) & 0xFFFFFFFFFFFF)  # a tag for HTTP, not a digest
            self._data = content(
                self._read, live=self.every, stamp=short, tracked=self._tracked
            )  # fmt: skip
            self._stamp = now
            return self._data

    def _track(self) -> None:
        """Snapshots come seldom and their figures take seconds: only new ones are drawn anew."""
        found = [str(p) for run in self._read for p in sorted(run.path.glob("sketches/*"))]
        rewarded = [sum("reward" in row for row in run.logs) for run in self._read]
        now = json.dumps([found, rewarded if not found else 0])
        if self._tracked is None or now != self._sketches:
            self._tracked = figures_of_tracks(self._read, quick=True)
            self._sketches = now

    def html(self) -> str:
        """The page with the data of now."""
        data = self.refresh()
        return page(self._read, data, f"ZOPrO, live: {', '.join(run.name for run in self._read)}")


class Handler(BaseHTTPRequestHandler):
    """GET of two fixed paths. The Host header must name loopback: a page of another site whose
    name was made to resolve here (DNS rebinding) is refused."""

    server_version, sys_version = "zopro", ""
    # HTTP/1.0: a connection for each answer, so that none is left when the server ends.
    protocol_version = "HTTP/1.0"
    source: Source

    def do_GET(self) -> None:
        """The page, its data, or a refusal."""
        if not self._is_local():
            self._send(HTTPStatus.FORBIDDEN, "text/plain", "this page is for this machine alone\n")
        elif self.path == "/":
            self._send(HTTPStatus.OK, "text/html", self.source.html())
        elif self.path == "/data.json":
            data = self.source.refresh()
            tag = f'"{data["stamp"]}"'
            if self.headers.get("If-None-Match") == tag:
                self._send(HTTPStatus.NOT_MODIFIED, "application/json", "", tag)
            else:
                self._send(HTTPStatus.OK, "application/json", as_script(data), tag)
        else:
            self._send(HTTPStatus.NOT_FOUND, "text/plain", "there are / and /data.json\n")

    def _is_local(self) -> bool:
        port = self.server.server_address[1]
        return self.headers.get("Host") in (f"{HOST}:{port}", f"localhost:{port}")

    def _send(self, status: HTTPStatus, kind: str, text: str, tag: str = "") -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("X-Frame-Options", "DENY")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        if tag:
            self.send_header("ETag", tag)
        self.end_headers()
        if status != HTTPStatus.NOT_MODIFIED:
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a question every two seconds is no news."""


class Server(ThreadingHTTPServer):
    """On loopback; its threads end with it."""

    daemon_threads = True

    def __init__(self, source: Source, port: int) -> None:
        handler = type("Handler", (Handler,), {"source": source})
        super().__init__((HOST, port), handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A reader that goes away in the middle of an answer is no error of ours."""
        import sys

        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def serve(runs: str | Path | Sequence[str | Path], port: int = 8765, every: float = EVERY) -> None:
    """Serves the report of a run, or of several, on 127.0.0.1 until Ctrl-C; prints the address.

    port: 0 takes a free one. every: seconds between the page's questions for new data. Raises
    ValueError for a folder that is no run or a port that is taken (one sentence).
    """
    given = [runs] if isinstance(runs, str | Path) else list(runs)
    source = Source(given, every)
    try:
        server = Server(source, port)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ValueError(
            f"port={port} cannot be served on {HOST}: {why}; use another, or 0 for a free one"
        ) from error
    with server:
        at = f"http://{HOST}:{server.server_address[1]}/"
        try:  # Ctrl-C may come as soon as the address is read
            print(f"{at} follows the run; Ctrl-C ends", flush=True)
            server.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            print("ended")
