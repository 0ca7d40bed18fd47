"""Model directories whose maker wrote everything in them, checksums too: refused, each with why."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile import NEW, copied, edited, signed
from safetensors.torch import load, save
from typer.testing import CliRunner

from anomgan.bundle import Bundle
from anomgan.errors import ModelCorruptError, ModelError
from anomgan.evaluation.known import KnownRows
from anomgan.persistence import load_fitted
from anomgan.serving import Scorer
from anomgan_cli.app import app

COMMANDS = {
    "score": ["score", str(NEW), "-o", "scores.csv"],
    "report": ["score", str(NEW), "-o", "scores.csv", "--report", "report.html"],
    "inspect": ["inspect"],
    "export": ["export", "-o", "out.onnx"],
    "threshold": ["threshold", "--false-alarm-rate", "0.2"],
    "explain": ["explain", str(NEW), "--row", "1"],
}
SCORES = ("score", "report", "export", "explain")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return tmp_path


@pytest.fixture
def model(here: Path) -> Path:
    return copied(here / "m")


def _refused_by(model: Path, *commands: str) -> str:
    """Run commands on a model: each refuses it in words, with exit code 2, and writes nothing."""
    words = ""
    for name in commands:
        result = CliRunner().invoke(app, [*COMMANDS[name], "-m", str(model)])
        assert result.exit_code == 2, (name, result.output)
        assert result.stderr.startswith("Error: "), (name, result.stderr)
        assert "Traceback" not in result.output
        assert result.stdout == "", name
        assert os.listdir() == [], name
        words += result.stderr
    return words


def _npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _npy(shape: str, descr: str = "<f8") -> bytes:
    """An array file with a header alone."""
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header = header.ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


def _archive(entries: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return buffer.getvalue()


_STATED = b'{"score.pull":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,8]}}'
HUGE_TENSOR = struct.pack("<Q", len(_STATED)) + _STATED + bytes(8)


def _bomb() -> bytes:
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("scores.npy", "w", force_zip64=True) as entry,
    ):
        for _ in range(300):
            entry.write(bytes(2**20))
    return buffer.getvalue()


# --- The directory --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["scorer.onnx", "weights.safetensors", "probe.npz"])
@pytest.mark.parametrize("damage", ["truncated", "bit flipped", "swapped", "emptied"])
def test_a_file_that_is_not_the_one_of_the_manifest_is_refused(
    model: Path, name: str, damage: str
) -> None:
    path = model / name
    content = bytearray(path.read_bytes())
    if damage == "bit flipped":
        content[len(content) // 2] ^= 1
    elif damage == "swapped":
        content = bytearray(copied(model.with_name("other"), "grouped").joinpath(name).read_bytes())
    else:
        del content[0 if damage == "emptied" else len(content) // 2 :]
    path.write_bytes(content)
    words = _refused_by(model, "inspect", "export", "threshold")
    assert str(path) in words
    with pytest.raises(ModelCorruptError, match="restore it or fit again"):
        load_fitted(model)


def test_nothing_outside_is_read_or_written(here: Path, model: Path) -> None:
    secret = here / "secret"
    secret.write_text("the secret")
    for name in ("../secret", str(secret), "../../secret", "..\\secret"):
        bad = edited(
            model, lambda m, name=name: m["files"].update({name: {"sha256": "0" * 64, "bytes": 10}})
        )
        words = _refused_by(bad, *COMMANDS)
        assert "no file name that a model may use" in words
        assert "the secret" not in words
        edited(model, lambda m, name=name: m["files"].pop(name))
    (model / "scorer.onnx").unlink()
    (model / "scorer.onnx").symlink_to(secret)
    assert "is a symbolic link" in _refused_by(model, *COMMANDS)
    (model / "manifest.json").unlink()
    (model / "manifest.json").symlink_to(secret)
    assert "is a symbolic link" in _refused_by(model, *COMMANDS)
    assert secret.read_text() == "the secret"


@pytest.mark.parametrize("name", ["manifest.json", "scorer.onnx", "probe.npz", "profile.json"])
@pytest.mark.parametrize("kind", ["pipe", "device", "directory"])
def test_what_is_no_plain_file_is_refused_at_once(model: Path, name: str, kind: str) -> None:
    (model / name).unlink()
    if kind == "pipe":
        os.mkfifo(model / name)
    elif kind == "device":
        try:
            os.mknod(model / name, 0o20666, os.makedev(1, 5))  # zeros without an end
        except OSError:
            pytest.skip("devices can be made by root only")
    else:
        (model / name).mkdir()
    words = _refused_by(model, "score", "inspect", "export")
    assert f"{model / name} is not a plain file" in words or "cannot be read" in words


# --- The manifest ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"format_version": 2, "format_version": 1}', "a field occurs twice"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"[" * 10_000_000, "nested too deeply"),
        (b'{"format_version": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b'{"format_version": 1e5}', "no usable format_version"),
        (b"\xff\xfe{}", "not valid JSON"),
    ],
)
def test_a_manifest_that_can_be_read_in_two_ways_or_fills_memory_is_refused(
    model: Path, content: bytes, message: str
) -> None:
    (model / "manifest.json").write_bytes(content)
    assert message in _refused_by(model, *COMMANDS)


def test_a_manifest_of_gigabytes_is_not_read(model: Path) -> None:
    with (model / "manifest.json").open("r+b") as file:
        file.truncate(2**36)
    assert "68719476736 bytes where at most 67108864 were expected" in _refused_by(model, "inspect")


def test_a_text_file_larger_than_any_is_refused_by_its_record(model: Path) -> None:
    edited(model, lambda m: m["files"]["profile.json"].update(bytes=2**30))
    words = _refused_by(model, "inspect")
    assert "the size of profile.json is not between 0 and 67108864 bytes" in words


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(calibration={"n": 5}), "has no usable resolution and no usable thresh"),
        (lambda m: m["calibration"].update(n="many"), "the calibration has no usable n"),
        (lambda m: m["calibration"].update(n=0), "n 0, which is no number of rows"),
        (lambda m: m["calibration"].update(n=2**70), "which is no number of rows"),
        (lambda m: m["calibration"].update(threshold=10**400), "numbers beyond a double"),
        (lambda m: m["calibration"].update(tail=[1]), "the tail of the calibration is a list"),
        (lambda m: m["calibration"].update(groups=[1]), "lacks the column or the groups"),
        (lambda m: m["calibration"].update(by="mode", groups={"a": 1}), "group 'a' is a int"),
        (lambda m: m["calibration"].update(by="mode", groups={"a": {}}), "group 'a' has no usable"),
        (lambda m: m["health"].update(reasons="bad"), "are no list of texts"),
        (lambda m: m["health"].update(reasons=[1]), "are no list of texts"),
        (lambda m: m["training"].update(notes={"a": 1}), "notes on training are no list of texts"),
        (
            lambda m: m["health"].update(facts={"coverage": "a"}),
            "facts of the health verdict are no",
        ),
        (lambda m: m["training"].update(history="abc"), "history of training is no list of numb"),
        (lambda m: m["training"].update(history=[1]), "history of training is no list of numbers"),
        (lambda m: m["training"].update(history=[{"step": [1]}]), "history of training is no list"),
        (lambda m: m["library_versions"].update(numpy=2), "library versions are no texts"),
        (lambda m: m["schema"].update(columns=[]), "there is no column"),
        (lambda m: m["schema"]["columns"][0].update(kind="spell"), "unusable values in kind"),
    ],
)
def test_a_manifest_of_odd_values_is_refused_in_words(
    model: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    edited(model, change)
    assert message in _refused_by(model, "inspect")


@pytest.mark.parametrize("steering", ["\x1b]0;owned\x07", "\x1b[2J", "\x9b31m", "\u202etxt", "\r"])
def test_what_a_model_says_does_not_steer_a_terminal(model: Path, steering: str) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["created_at"] = manifest["training"]["source"] = steering
        manifest["health"] = {"verdict": "degraded", "reasons": [steering]}
        manifest["schema"]["columns"][1]["name"] = steering
        manifest["library_versions"][steering] = steering

    edited(model, change)
    for options in ([], ["--json"]):
        result = CliRunner().invoke(app, ["inspect", "-m", str(model), *options])
        assert result.exit_code == 0, result.stderr
        assert steering not in result.stdout
        assert not set(result.stdout) & set(steering) - set(
            "0123456789[];abcdefghijklmnopqrstuvwxyzJ"
        )
        assert ascii(steering)[1] in result.stdout
    assert json.loads(result.stdout)["created_at"] == steering
    edited(model, lambda manifest: manifest["schema"].update({steering: 1}))
    result = CliRunner().invoke(app, ["inspect", "-m", str(model)])
    assert result.exit_code == 2
    assert steering not in result.stderr


def test_halves_of_characters_are_written_out(model: Path) -> None:
    edited(model, lambda m: m["health"].update(verdict="degraded", reasons=["half \ud800"]))
    for options in ([], ["--json"]):
        result = CliRunner().invoke(app, ["inspect", "-m", str(model), *options])
        assert result.exit_code == 0, result.output
        assert "half \\ud800" in result.stdout


# --- Arrays ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_bomb(), "would unpack to 314572800 bytes"),
        (
            _archive({"scores.npy": _npy("(1000000000000,)")}),
            "declares 8000000000000 bytes",
        ),
        (_archive({"categorical.npy": _npy("(1000000000,)", "<U0")}), "declares 1000000000 bytes"),
        (_archive({"scores.npy": _npy("(-1,)")}), "not a readable array file"),
        (_archive({"scores.npy": _npy("(" * 90 + ")" * 90)}), "not a readable array file"),
        (_archive({"scores.npy": _npy("(1,)", "|O")}), "not a readable array file"),
        (_archive({"scores.npy": b"no array"}), "not a readable array file"),
        (_archive({"../scores.npy": _npy("(0,)")}, zipfile.ZIP_LZMA)[:-30], "not a readable array"),
        (b"PK\x03\x04" + bytes(200), "not a readable array file"),
    ],
)
def test_arrays_that_grow_or_are_none_are_refused(
    model: Path, content: bytes, message: str
) -> None:
    signed(model, "calibration.npz", content)
    signed(model, "probe.npz", content)
    assert message in _refused_by(model, "score", "threshold", "export")
    with pytest.raises(ModelCorruptError, match=message):
        load_fitted(model)


def test_a_locked_archive_is_refused(model: Path) -> None:
    content = bytearray(_npz(scores=np.zeros(3)))
    for place in (content.index(b"PK\x03\x04") + 6, content.index(b"PK\x01\x02") + 8):
        content[place] |= 1  # encrypted, which zipfile tells as a RuntimeError
    signed(model, "probe.npz", bytes(content))
    assert "password required" in _refused_by(model, "score")


@pytest.mark.parametrize(
    "change",
    [
        {"numeric": np.zeros((16, 9))},
        {"numeric": np.array([["x"] * 5] * 3)},
        {"categorical": np.zeros((2, 2))},
    ],
)
def test_probe_rows_of_another_model_are_refused(model: Path, change: dict[str, Any]) -> None:
    arrays = Bundle.open(model).arrays("probe.npz")
    signed(model, "probe.npz", _npz(**(arrays | change)))
    assert "are not of this model" in _refused_by(model, "score")
    with pytest.raises(ModelCorruptError, match="probe rows are not of this model"):
        load_fitted(model)


# --- Tensors --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 2**62) + b"{}",
        struct.pack("<Q", 2**33) + b"{" + b" " * 1000,
        HUGE_TENSOR,
        struct.pack("<Q", 10) + b"[" * 10,
        b"",
        b"\x00" * 7,
    ],
    ids=["header of exabytes", "header of gigabytes", "huge tensor", "deep", "empty", "short"],
)
@pytest.mark.parametrize("name", ["weights.safetensors", "held-out.safetensors"])
def test_tensors_that_are_none_are_refused(model: Path, name: str, content: bytes) -> None:
    signed(model, name, content)
    with pytest.raises(ModelCorruptError, match="is damaged"):
        load_fitted(model)
    if name.startswith("weights"):
        with pytest.raises(ModelCorruptError, match="keeps no normal rows"):
            KnownRows.of(Bundle.open(model))


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("score.pull", torch.zeros(3), "has the shape"),
        ("score.pull", torch.zeros(2, 1), "has the shape|a preconditioner"),
        ("score.memory_rows", torch.zeros(64, 2), "known rows of shape"),
        ("score.memory_rows", torch.full((64, 13), torch.nan), "known rows|other than finite"),
        ("score.memory_counts", torch.zeros(64), "never seen"),
        ("score.memory_counts", torch.ones(64, dtype=torch.float64), "finite float32 numbers"),
        ("score.feature_column", torch.full((13,), 99), "columns that are not there"),
        ("score.feature_column", torch.zeros(13), "columns that are not there"),
        ("score.preconditioner", torch.zeros(1, 1, 1), "a preconditioner of shape"),
        ("score.generator.0.weight", torch.zeros(2, 4), "has the shape"),
        ("score.generator.0.weight", torch.zeros(2, 1, 2**21), "has the shape"),
        ("score.generator.1.weight", torch.zeros(2, 7, 7), "do not fit each other"),
        ("score.generator.0.weight", torch.zeros(2, 4, 4, dtype=torch.int64), "finite float32"),
    ],
)
def test_tensors_that_do_not_fit_each_other_are_refused(
    model: Path, name: str, tensor: torch.Tensor, message: str
) -> None:
    tensors = load((model / "weights.safetensors").read_bytes())
    assert name in tensors
    signed(model, "weights.safetensors", save(tensors | {name: tensor}))
    with pytest.raises(ModelCorruptError, match=message):
        load_fitted(model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["settings"]["inversion"].update(n_steps=10**9), "steps of inversion"),
        (lambda s: s["settings"].update(bandwidth=0), "settings"),
        (lambda s: s["settings"].update(bandwidth="wide"), "could not convert"),
        (lambda s: s.pop("settings"), "'settings'"),
        (lambda s: s["encoder"].update(n_columns=10**12), "encoder takes"),
        (lambda s: s["encoder"].update(value_columns=[2**70]), "stored encoder is damaged"),
        (lambda s: s["encoder"].update(scale=[0.0] * len(s["encoder"]["scale"])), "not above 0"),
        (
            lambda s: s["encoder"]["tables"][0].update(surprise=[[1.0, 2.0]] * 5),
            "surprise has shape",
        ),
        (lambda s: s["encoder"].update(tables=[]), "stored encoder is damaged"),
        (lambda s: s.update(encoder=[]), "is damaged"),
    ],
)
def test_a_score_of_odd_settings_is_refused(
    model: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    scoring = json.loads((model / "scoring.json").read_text())
    change(scoring)
    signed(model, "scoring.json", json.dumps(scoring).encode())
    with pytest.raises(ModelCorruptError, match=message):
        load_fitted(model)


@pytest.mark.parametrize("name", ["scoring.json", "profile.json"])
@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"a": 1, "a": 2}', b"NaN", b"[]", b"{}"])
def test_json_beside_the_manifest_is_read_as_strictly(
    model: Path, name: str, content: bytes
) -> None:
    signed(model, name, content)
    with pytest.raises(ModelCorruptError):
        load_fitted(model)
    if name == "profile.json":
        assert "profile.json" in _refused_by(model, "score", "report")


@pytest.mark.parametrize(
    ("field", "odd"),
    [
        ("counts", 3),
        ("counts", [[1, 2]]),
        ("n", 10**30),
        ("n", 2**63 - 1),
        ("ranks", [2**70]),
        ("keys", None),
        ("order", ["warp"]),
    ],
)
def test_a_profile_of_odd_shapes_is_refused(model: Path, field: str, odd: object) -> None:
    profile = json.loads((model / "profile.json").read_text())
    place = next(i for i, column in enumerate(profile["columns"]) if column["order"] is not None)
    profile["columns"][place][field] = odd
    signed(model, "profile.json", json.dumps(profile).encode())
    with pytest.raises(ModelCorruptError, match=r"profile\.json is damaged"):
        Scorer.open(model, providers="cpu")


def test_rows_seen_quadrillions_of_times_take_no_memory(model: Path) -> None:
    tensors = load((model / "weights.safetensors").read_bytes())
    counts = torch.full_like(tensors["score.memory_counts"], 2.0**39)
    signed(model, "weights.safetensors", save(tensors | {"score.memory_counts": counts}))
    assert len(KnownRows.of(Bundle.open(model)).repeated()) == 50_000
    signed(model, "weights.safetensors", save(tensors | {"score.memory_counts": counts * 1e9}))
    with pytest.raises(ModelCorruptError, match=r"seen less than once"):
        KnownRows.of(Bundle.open(model))


# --- A scorer on its own --------------------------------------------------------------------


def test_a_lone_file_is_checked_for_what_it_is_alone(model: Path) -> None:
    lone = model.with_name("lone.onnx")
    content = (model / "scorer.onnx").read_bytes()
    for bad in (content[:-1], content[: len(content) // 2], b"", b"\x00" * 100):
        lone.write_bytes(bad)
        assert "is no scorer that anomgan would have written" in _refused_by(lone, "score")
    lone.unlink()
    os.mkfifo(lone)
    with pytest.raises(ModelError, match="is a file, not a model directory"):
        Scorer.open(lone)


def test_loading_opens_its_own_files_alone_and_stays_within_memory(model: Path) -> None:
    """The worst of the above, in one process: what they declare is never made room for."""
    worst = {
        "calibration.npz": _archive({"scores.npy": _npy("(30000000000,)")}),
        "probe.npz": _archive({"categorical.npy": _npy("(900000000,)", "<U0")}),
        "weights.safetensors": struct.pack("<Q", 2**40) + b"{",
        "scoring.json": b"[" * 5_000_000,
    }
    for name, content in worst.items():
        signed(copied(model.with_name(name)), name, content)
    code = f"""
import os, resource, sys
from anomgan.errors import ModelCorruptError
from anomgan.decision import read_decision
from anomgan.persistence import load_fitted
from anomgan.serving import Scorer
model, folder, opened = {str(model)!r}, {str(model.parent)!r}, set()
load_fitted(model), Scorer.open(model)  # whatever is imported late is imported now
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
sys.addaudithook(lambda event, args: opened.add(args[0]) if event == "open" else None)
refused = 0
for name in ["m", *{list(worst)!r}]:
    for load in (load_fitted, Scorer.open, read_decision):
        try:
            load(os.path.join(folder, name))
        except ModelCorruptError:
            refused += 1
paths = [str(path) for path in opened if not isinstance(path, int)]
print(refused, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
print(len(paths), [path for path in paths if not path.startswith(folder)])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    memory, files = done.stdout.splitlines()
    refused, kibibytes = map(int, memory.split())
    assert refused >= 6
    assert kibibytes < 200 * 1024
    assert int(files.split()[0]) > 10
    assert files.endswith("[]")
