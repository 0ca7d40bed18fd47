"""Chromium without a window, spoken to over a pipe: no port, no network, no other package."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ANSWER_S = 120.0

# The browser reads from descriptor 3 and writes to 4; a shell cannot be trusted with numbers
# above 9, hence this step between.
_START = (
    "import os, sys\n"
    "r, w = int(sys.argv[1]), int(sys.argv[2])\n"
    "os.dup2(r, 3)\nos.dup2(w, 4)\nos.execvp(sys.argv[3], sys.argv[3:])"
)


def find_browser() -> str | None:
    """Where Chromium or Chrome is, if anywhere."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One page; `events` keeps what the browser said on its own."""

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read = write, read
        self._buffer, self._count = b"", 0
        self.events: list[dict[str, Any]] = []
        self._session: str | None = None

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]
        until = time.monotonic() + ANSWER_S
        while True:
            answer = self._next(until)
            if answer.get("id") == self._count:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer.get("result", {})
            self.events.append(answer)

    def open(self, page: Path) -> None:
        """Load a file, and wait until it is there."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.call(f"{domain}.enable")
        self.call("Page.navigate", url=page.resolve().as_uri())
        until = time.monotonic() + ANSWER_S
        while not any(e.get("method") == "Page.loadEventFired" for e in self.events):
            self.events.append(self._next(until))

    def show(self, *, width: int, dark: bool = False, height: int = 900) -> None:
        """Emulate a screen."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            mobile=width < 600,
            deviceScaleFactor=1,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media="", features=[scheme])

    def print(self) -> bytes:
        """The page as PDF."""
        return base64.b64decode(self.call("Page.printToPDF", preferCSSPageSize=True)["data"])

    def evaluate(self, expression: str) -> Any:
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def screenshot(self, *, whole: bool = True) -> bytes:
        answer = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        return base64.b64decode(answer["data"])

    def _next(self, until: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0.0, until - time.monotonic()))
            assert ready, f"the browser said nothing for {ANSWER_S:g} s"
            chunk = os.read(self._read, 2**20)
            assert chunk, "the browser ended"
            self._buffer += chunk
        message, _, self._buffer = self._buffer.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found


@contextmanager
def browser(program: str, profile: Path) -> Iterator[Browser]:
    """Start a browser of its own, with an empty profile, and end it."""
    to_read, to_write = os.pipe()
    from_read, from_write = os.pipe()
    ours = [to_read, from_write]
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 20) for fd in ours]
    arguments = [
        *("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"),
        *("--host-resolver-rules=MAP * ~NOTFOUND", "--disable-background-networking"),
        *("--no-first-run", "--disable-dev-shm-usage", "--hide-scrollbars"),
        f"--user-data-dir={profile}",
        "about:blank",
    ]
    command = [sys.executable, "-c", _START, str(high[0]), str(high[1]), program, *arguments]
    log = profile.with_suffix(".log").open("wb")
    child = subprocess.Popen(command, pass_fds=high, stdout=log, stderr=log)
    for fd in (*ours, *high):
        os.close(fd)
    try:
        yield Browser(to_write, from_read)
    finally:
        os.close(to_write)
        os.close(from_read)
        try:
            child.wait(timeout=15)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        log.close()
