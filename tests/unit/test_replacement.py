"""Locks, temporary siblings and swaps: killed at every step, nothing half-made is ever there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from anomgan import replacement
from anomgan.bundle import Bundle
from anomgan.errors import OutputError
from anomgan.locks import locked_file, sole_writer
from anomgan.replacement import clear_leftovers, put_in_place, temporary_directory, temporary_file

# A child is killed at its n-th dealing with the file system, for n = 1, 2, ... until it comes
# through. After each kill the place must hold the whole former model or the whole new one.
KILLED_AT_EVERY_STEP = """
import os, signal, sys
from pathlib import Path
import anomgan.replacement
from anomgan.bundle import Bundle, Manifest

place, exchange = Path(sys.argv[1]), sys.argv[2] == "exchange"
if not exchange:
    anomgan.replacement._exchange = lambda one, other: False

def save(content):
    files = {name: content * 1000 for name in ("scorer.onnx", "weights.safetensors")}
    Bundle.save(place / "m", files=files, manifest=Manifest(schema={}), overwrite=True)

def killed_at(n):
    child = os.fork()
    if child:
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])
    left = [n]
    def hook(event, arguments):
        if event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.listdir"):
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    save(b"new")
    os._exit(0)

save(b"old")
n, seen = 1, []
while killed_at(n):
    whole = (place / "m").exists()
    if not whole:  # only where names cannot be exchanged; the next writer brings it back
        anomgan.replacement.clear_leftovers(place / "m")
    seen.append((whole, Bundle.open(place / "m").read("scorer.onnx")[:3].decode()))
    save(b"old")
    assert os.listdir(place) == ["m"], os.listdir(place)
    n += 1
assert Bundle.open(place / "m").read("scorer.onnx")[:3] == b"new"
print(n - 1, all(whole for whole, _ in seen), sorted({content for _, content in seen}))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be forked here")
@pytest.mark.parametrize("way", ["exchange", "two renames"])
def test_a_save_killed_at_any_step_leaves_a_whole_model(tmp_path: Path, way: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED_AT_EVERY_STEP, str(tmp_path), way],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    n_kills, always_there, contents = done.stdout.split(" ", 2)
    assert int(n_kills) > 15
    assert contents == "['new', 'old']\n"
    if way == "exchange" and sys.platform.startswith("linux"):
        assert always_there == "True"


def test_leftovers_go_and_what_is_being_written_stays(tmp_path: Path) -> None:
    target = tmp_path / "m"
    left = tmp_path / ".m.0123456789ab.tmp"
    left.mkdir()
    (left / "weights").write_text("half")
    (tmp_path / ".m.ba9876543210.tmp").write_text("half a file")
    others = [".m.tmp", ".m.0123.tmp", ".n.0123456789ab.tmp", "m.0123456789ab.tmp"]
    for name in others:
        (tmp_path / name).write_text("someone else's")
    with temporary_directory(target) as own:
        path, descriptor = temporary_file(target)
        clear_leftovers(target)
        assert sorted(os.listdir(tmp_path)) == sorted([*others, own.name, path.name])
        os.close(descriptor)
        clear_leftovers(target)
        assert sorted(os.listdir(tmp_path)) == sorted([*others, own.name])
    assert sorted(os.listdir(tmp_path)) == sorted(others)


def test_a_former_model_between_two_renames_comes_back(tmp_path: Path) -> None:
    former = tmp_path / ".m.0123456789ab.old"
    former.mkdir()
    (former / "manifest.json").write_text("former")
    clear_leftovers(tmp_path / "m")
    assert (tmp_path / "m" / "manifest.json").read_text() == "former"
    assert os.listdir(tmp_path) == ["m"]


def test_a_failed_exchange_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("new", "old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()

    def read_only(*_: Path) -> bool:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(replacement, "_exchange", read_only)
    with pytest.raises(OSError, match="Read-only"):
        put_in_place(tmp_path / "new", tmp_path / "old")
    assert os.listdir(tmp_path / "old") == ["old"]


ENDED_IN_HASTE = """
import shutil, signal, sys, time
from pathlib import Path
from types import SimpleNamespace
import anomgan.replacement, anomgan.stopping
from anomgan.bundle import Bundle, Manifest
from anomgan.stopping import prompt_end

def save(content):
    Bundle.save("m", files={"scorer.onnx": content}, manifest=Manifest(schema={}), overwrite=True)

def removed(path, **_):
    for file in path.iterdir():
        file.unlink()
    time.sleep(2.0)  # a slow disk: its name goes later
    shutil.rmtree(path)

real = anomgan.replacement._exchange

def exchange(one, other):
    signal.raise_signal(signal.SIGTERM)
    time.sleep(2.0)
    return sys.argv[1] == "exchange" and real(one, other)

save(b"old")
anomgan.stopping.shutil = SimpleNamespace(rmtree=removed)
anomgan.replacement._exchange = exchange
signal.signal(signal.SIGTERM, lambda *_: None)  # the request has been heeded
with prompt_end(lambda: "ended", 130):
    save(b"new")
    time.sleep(5.0)
"""


@pytest.mark.parametrize("way", ["exchange", "two renames"])
def test_who_is_ended_in_haste_loses_no_model(tmp_path: Path, way: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ENDED_IN_HASTE, way],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (130, "Error: ended\n")
    Bundle.open(tmp_path / "m").verify()
    assert Bundle.open(tmp_path / "m").read("scorer.onnx") == b"new"
    assert os.listdir(tmp_path) == ["m"]


HOLD = """
import sys, time
from pathlib import Path
from anomgan.locks import sole_writer
with sole_writer(Path(sys.argv[1]), shown="m"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_keeps_others_out_and_dies_with_its_process(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "down" / "m"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(target)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with (
        pytest.raises(OutputError, match=rf"another process \({holder.pid}\) is writing to m just"),
        sole_writer(target, shown="m"),
    ):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    assert (target.parent / ".m.lock").exists(), "it was killed and could not tidy up"
    with sole_writer(target, shown="m"):
        assert locked_file(target.parent / ".m.lock") is None
    assert os.listdir(target.parent) == []


def test_a_lock_leaves_no_folder_that_it_made(tmp_path: Path) -> None:
    with sole_writer(tmp_path / "a" / "b" / "m", shown="m"):
        assert (tmp_path / "a" / "b").is_dir()
    assert os.listdir(tmp_path) == []


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(OutputError, match=r"cannot write the model to m: .*; choose another place"),
        sole_writer(tmp_path / "file" / "m", shown="m"),
    ):
        pass
