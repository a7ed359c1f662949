# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""The web page: page.html at /, and /search?q=…&k=… as JSON. For one's own machine: no TLS, no accounts."""

from __future__ import annotations

import dataclasses
import http.server
import json
import pathlib
import signal
import threading
import time
import urllib.parse
from typing import Callable

from lion_serve import LionError

from store import Found

PAGE = pathlib.Path(__file__).with_name("page.html")
MAX_RESULTS = 100


def serve(listen: str, search: Callable[[str, int], list[Found]]) -> None:
    """Until SIGINT or SIGTERM. Prints its address once it listens; port 0 is any."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urllib.parse.urlsplit(self.path)
            if url.path == "/":
                return self._answer(200, "text/html; charset=utf-8", PAGE.read_bytes())
            if url.path != "/search":
                return self._json(404, {"error": "there is / and /search?q=…"})
            asked = urllib.parse.parse_qs(url.query)
            query, limit = asked.get("q", [""])[0], asked.get("k", ["10"])[0]
            if not query.strip():
                return self._json(400, {"error": "q: is empty"})
            if not limit.isascii() or not limit.isdigit() or not 1 <= int(limit) <= MAX_RESULTS:
                return self._json(400, {"error": f"k: {limit!r} is not a number from 1 to {MAX_RESULTS}"})
            start = time.perf_counter()
            try:
                found = search(query, int(limit))
            except LionError as error:
                return self._json(502, {"error": str(error)})
            milliseconds = 1000 * (time.perf_counter() - start)
            self._json(200, {"milliseconds": round(milliseconds, 1), "found": [dataclasses.asdict(f) for f in found]})

        def _json(self, code: int, value: object) -> None:
            self._answer(code, "application/json", json.dumps(value).encode())

        def _answer(self, code: int, kind: str, body: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Security-Policy", "default-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    host, _, port = listen.rpartition(":")
    server = http.server.ThreadingHTTPServer((host, int(port)), Handler)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
    print(f"http://{host}:{server.server_port}/", flush=True)
    server.serve_forever()
    server.server_close()
