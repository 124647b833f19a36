"""A judge behind an OpenAI-compatible endpoint (POST <url>/chat/completions)."""

from __future__ import annotations

import http.client
import json
import logging
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

from zopro import checks

from .judges import QUESTION, fill, letter

logger = logging.getLogger(__name__)

PASSING = (408, 409, 429, 500, 502, 503, 504)  # worth another try
MOST = 1 << 20  # bytes of a reply that are read


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another host."""

    def redirect_request(self, *args: Any) -> None:
        return None


class EndpointJudge:
    """Asks `model` at `url` (up to and with "/v1") for the better answer, a request a pair.

    key_env: name of the environment variable that holds the key; None sends none. The key is read
    at each request, kept nowhere and named in no message. timeout: seconds a request, > 0.
    retries: more tries after a request that failed in passing, >= 0, with pauses of `pause`,
    2 pause, ... seconds, at most 30. A pair whose tries are used up has no usable verdict.
    parallel: requests under way at a time, >= 1. Redirects are not followed. `told`, where it is
    set, hears of each answer.

    Raises ValueError for a bad url or a missing key; RuntimeError when the endpoint refuses the
    request itself (a status that another try would not change).
    """

    def __init__(
        self,
        url: str,
        model: str,
        key_env: str | None = None,
        question: str = QUESTION,
        timeout: float = 60.0,
        retries: int = 3,
        pause: float = 1.0,
        max_tokens: int = 8,
        parallel: int = 4,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("url is no http(s) address: give one such as http://host:8000/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError(
                "url holds more than host and path: put the key in a variable, key_env"
            )
        self.url, self.name = url.rstrip("/"), f"endpoint's model {model}"
        self.told: Callable[[int, int], None] | None = None
        self._url = self.url + "/chat/completions"
        self._model, self._key_env, self._question = model, key_env, question
        self._timeout = checks.number("timeout", timeout, 0.0, open_low=True)
        self._retries = checks.integer("retries", retries, 0)
        self._pause = checks.number("pause", pause, 0.0)
        self._max_tokens = checks.integer("max_tokens", max_tokens, 1)
        self._parallel = checks.integer("parallel", parallel, 1)
        self._opener = urllib.request.build_opener(_NoRedirect)

    def __call__(self, prompts: list[str], firsts: list[str], seconds: list[str]) -> list:
        with ThreadPoolExecutor(self._parallel) as pool:
            verdicts = []
            for verdict in pool.map(self._one, prompts, firsts, seconds):
                verdicts.append(verdict)
                if self.told is not None:
                    self.told(1, 0)
            return verdicts

    def _one(self, prompt: str, first: str, second: str) -> int | None:
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": fill(self._question, prompt, first, second)}],
            "temperature": 0.0,
            "max_tokens": self._max_tokens,
        }
        for attempt in range(self._retries + 1):
            if attempt:
                time.sleep(min(30.0, self._pause * 2 ** (attempt - 1)))
            try:
                return letter(self._reply(body))
            except urllib.error.HTTPError as error:
                status = error.code
                error.close()
                if status not in PASSING:
                    raise RuntimeError(
                        f"the endpoint answered {status}: check its address, the model's name and "
                        "the key"
                    ) from None
                reason = f"status {status}"
            except (OSError, http.client.HTTPException) as error:  # URLError and timeouts too
                reason = type(error).__name__
            logger.warning("the judge's endpoint: try %d failed (%s)", attempt + 1, reason)
        return None

    def _reply(self, body: dict[str, Any]) -> Any:
        headers = {"Content-Type": "application/json"}
        if self._key_env is not None:
            key = os.environ.get(self._key_env)
            if not key:
                raise ValueError(f"key_env={self._key_env!r} is not set: put the key there")
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self._url, json.dumps(body).encode(), headers)
        with self._opener.open(request, timeout=self._timeout) as response:
            raw = response.read(MOST)
        try:
            return json.loads(raw)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError):
            return None  # no usable verdict
