"""No command reaches for the network: sockets are blocked in the real processes that run them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# Found on PYTHONPATH, it is run at the start of every Python below, before anything of ours.
BLOCK = """
import os, socket, sys

def refuse(name, *arguments):
    with open(os.environ["SOCKETS_ASKED_FOR"], "a") as file:
        print(name, arguments, file=file)
    raise OSError(f"{name} is blocked")

class Blocked(socket.socket):
    def __init__(self, *arguments, **named):
        refuse("socket", arguments)

socket.socket = socket.SocketType = Blocked
for name in ("create_connection", "create_server", "getaddrinfo", "gethostbyname", "socketpair"):
    setattr(socket, name, lambda *arguments, name=name, **named: refuse(name, arguments))
# What goes past the names above is still seen by the interpreter itself.
sys.addaudithook(
    lambda event, arguments: refuse(event, arguments)
    if event in ("socket.__new__", "socket.connect", "socket.getaddrinfo", "socket.bind")
    else None
)
"""


def _alone() -> list[str]:
    """A command in front that leaves a process without any network, where that is allowed."""
    if shutil.which("unshare") is None:
        return []
    for options in (["-n"], ["-r", "-n"]):
        tried = subprocess.run(["unshare", *options, "true"], capture_output=True, check=False)
        if tried.returncode == 0:
            return ["unshare", *options]
    return []


@pytest.fixture
def offline(tmp_path: Path) -> dict[str, str]:
    """Environment of processes in which every socket is refused, and noted."""
    (tmp_path / "block").mkdir()
    (tmp_path / "block" / "sitecustomize.py").write_text(BLOCK)
    asked = str(tmp_path / "asked.txt")
    return {**os.environ, "PYTHONPATH": str(tmp_path / "block"), "SOCKETS_ASKED_FOR": asked}


@pytest.mark.parametrize(
    "code",
    [
        "import socket; socket.socket()",
        "import _socket; _socket.socket()",
        "import urllib.request; urllib.request.urlopen('http://localhost:9')",
    ],
)
def test_the_block_blocks_and_tells(offline: dict[str, str], code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code], env=offline, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "is blocked" in done.stderr
    assert Path(offline["SOCKETS_ASKED_FOR"]).read_text()


def test_fit_score_report_and_evaluate_ask_for_no_socket(
    offline: dict[str, str], tumour_files: tuple[Path, Path], tmp_path: Path
) -> None:
    train, test = map(str, tumour_files)
    labels = ["--label", "label", "--normal", "normal"]
    commands = [
        ["fit", train, *labels, "--set", "n_steps=20", "--seed", "0"],
        ["score", test, "-o", "scores.csv", "--report", "scored.html"],
        ["evaluate", test, *labels, "--report", "evaluated.html"],
        ["export", "-o", "scorer.onnx"],
        ["inspect", "--json"],
    ]
    front = _alone()
    for command in commands:
        done = subprocess.run(
            [*front, sys.executable, "-m", "anomgan_cli", *command],
            cwd=tmp_path,
            env=offline,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    for name in ("scores.csv", "scored.html", "evaluated.html", "scorer.onnx"):
        assert (tmp_path / name).stat().st_size > 1000
    asked = Path(offline["SOCKETS_ASKED_FOR"])
    assert not asked.exists(), asked.read_text()
