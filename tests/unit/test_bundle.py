"""The model directory: round trips, atomic replacement, and everything hostile that it refuses."""

import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from anomgan import bundle as bundle_module
from anomgan import replacement, untrusted
from anomgan.bundle import Bundle, Manifest, require_free
from anomgan.errors import (
    ModelCorruptError,
    ModelExistsError,
    ModelNotFoundError,
    OutputError,
)

FILES = {"scorer.onnx": b"graph", "weights.safetensors": b"weights"}


def _npz(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _save(path, *, overwrite=False, files=FILES, **facts):
    manifest = Manifest(schema={"columns": []}, **facts)
    return Bundle.save(path, files=files, manifest=manifest, overwrite=overwrite)


def _edit(path, change):
    manifest = json.loads((path / "manifest.json").read_text())
    change(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))


def _tree(path):
    return {p.name: p.read_bytes() for p in path.iterdir()}


def test_what_is_saved_is_what_is_opened(tmp_path):
    probe = _npz(numeric=np.eye(2), categorical=np.array([["a"], ["ü"]]))
    saved = _save(
        tmp_path / "deep" / "model",
        files={**FILES, "probe.npz": probe},
        parameters={"n_members": 4},
        health={"verdict": "degraded", "reasons": ["coverage 0.61"]},
    )
    opened = Bundle.open(tmp_path / "deep" / "model")
    assert opened.manifest == saved.manifest
    assert opened.manifest.parameters == {"n_members": 4}
    assert opened.names == ("probe.npz", "scorer.onnx", "weights.safetensors")
    assert opened.read("scorer.onnx") == b"graph"
    assert opened.file("scorer.onnx").read_bytes() == b"graph"
    np.testing.assert_array_equal(opened.arrays("probe.npz")["categorical"], [["a"], ["ü"]])
    assert opened.manifest.library_versions["numpy"] == np.__version__
    assert opened.manifest.created_at.endswith("+00:00")
    assert os.listdir(tmp_path / "deep") == ["model"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("probe.npz", _npz(x=np.zeros(2000)), "would unpack to 16128 bytes, more than the 10000"),
        ("profile.json", b"[" + b"1, " * 2000 + b"1]", "has more than the 5000 bytes allowed"),
        ("scoring.json", b'{"a": 1, "a": 2}', "a field occurs twice"),
    ],
)
def test_what_would_not_be_read_again_is_not_saved(tmp_path, monkeypatch, name, content, message):
    _save(tmp_path / "m")
    before = _tree(tmp_path / "m")
    monkeypatch.setattr(untrusted, "_ARRAY_BYTES", 10_000)
    monkeypatch.setattr(untrusted, "JSON_BYTES", 5_000)
    for place in ("m", "new"):
        with pytest.raises(OutputError, match=message) as caught:
            _save(tmp_path / place, files={**FILES, name: content}, overwrite=True)
        assert str(caught.value).startswith(f"no model was written to {tmp_path / place}, because")
        assert f"again: {tmp_path / place / name} " in str(caught.value)
        assert ".tmp" not in str(caught.value)
    assert _tree(tmp_path / "m") == before
    assert os.listdir(tmp_path) == ["m"]


def test_a_file_can_be_copied_from_a_path(tmp_path):
    (tmp_path / "w").write_bytes(b"from disk")
    saved = _save(tmp_path / "m", files={"weights.safetensors": tmp_path / "w"})
    assert saved.read("weights.safetensors") == b"from disk"


def test_the_directory_gets_the_permissions_of_any_other(tmp_path):
    _save(tmp_path / "m")
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "m").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_an_existing_model_is_kept_unless_overwriting_is_asked_for(tmp_path):
    _save(tmp_path / "m")
    before = _tree(tmp_path / "m")
    with pytest.raises(ModelExistsError) as caught:
        _save(tmp_path / "m", files={"scorer.onnx": b"new"})
    assert str(caught.value) == (
        f"there is already a model at {tmp_path / 'm'}; --force replaces it, -m puts the new one "
        "elsewhere"
    )
    assert _tree(tmp_path / "m") == before
    _save(tmp_path / "m", files={"scorer.onnx": b"new"}, overwrite=True)
    assert Bundle.open(tmp_path / "m").read("scorer.onnx") == b"new"
    assert Bundle.open(tmp_path / "m").names == ("scorer.onnx",)
    assert os.listdir(tmp_path) == ["m"]


def test_overwriting_never_touches_what_is_no_model(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"x")
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(ModelExistsError, match="not a model"):
        _save(tmp_path / "photos", overwrite=True)
    with pytest.raises(ModelExistsError, match="is a file"):
        _save(tmp_path / "file", overwrite=True)
    assert _tree(tmp_path / "photos") == {"a.jpg": b"x"}
    (tmp_path / "empty").mkdir()
    _save(tmp_path / "empty")


@pytest.mark.parametrize("moment", ["write", "swap"])
def test_a_failed_save_leaves_the_previous_model_untouched(tmp_path, monkeypatch, moment):
    _save(tmp_path / "m")
    before = _tree(tmp_path / "m")
    real = os.replace

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    def second_rename_fails(source, target):
        if str(source).endswith(".tmp"):
            full_disk()
        real(source, target)

    if moment == "write":
        monkeypatch.setattr(bundle_module, "_write_synced", full_disk)
    else:  # as on a system that cannot exchange two names
        monkeypatch.setattr(replacement, "_exchange", lambda *_: False)
        monkeypatch.setattr(os, "replace", second_rename_fails)
    with pytest.raises(OutputError, match="No space left on device; choose another place"):
        _save(tmp_path / "m", files={"scorer.onnx": b"new"}, overwrite=True)
    assert _tree(tmp_path / "m") == before
    assert os.listdir(tmp_path) == ["m"]


def test_a_checkpoint_beside_a_model_is_named(tmp_path):
    _save(tmp_path / "m")
    with pytest.raises(ModelExistsError, match=r"already a model at \S+; --force replaces it"):
        require_free(tmp_path / "m")
    (tmp_path / "m.checkpoint").write_bytes(b"")
    with pytest.raises(ModelExistsError, match=r"m\.checkpoint is of a fit that did not end"):
        require_free(tmp_path / "m")


def test_saving_through_a_link_replaces_its_target(tmp_path):
    _save(tmp_path / "v1")
    (tmp_path / "current").symlink_to("v1")
    _save(tmp_path / "current", files={"scorer.onnx": b"new"}, overwrite=True)
    assert (tmp_path / "current").is_symlink()
    assert Bundle.open(tmp_path / "v1").read("scorer.onnx") == b"new"
    assert Bundle.open(tmp_path / "current").read("scorer.onnx") == b"new"


def test_what_is_not_there_is_said_with_the_remedy(tmp_path):
    (tmp_path / "f").write_text("x")
    (tmp_path / "d").mkdir()
    with pytest.raises(ModelNotFoundError, match=r"does not exist; make a model with `anomgan fit"):
        Bundle.open(tmp_path / "absent")
    with pytest.raises(ModelNotFoundError, match="is a file, not a model directory"):
        Bundle.open(tmp_path / "f")
    with pytest.raises(ModelNotFoundError, match=r"is not a model: it has no manifest\.json"):
        Bundle.open(tmp_path / "d")
    with pytest.raises(ModelCorruptError, match=r"holds no probe\.npz"):
        _save(tmp_path / "m").read("probe.npz")


def test_all_damaged_files_are_named_together(tmp_path):
    _save(tmp_path / "m")
    (tmp_path / "m" / "scorer.onnx").write_bytes(b"graph!")
    (tmp_path / "m" / "weights.safetensors").write_bytes(b"weightz")
    with pytest.raises(ModelCorruptError) as caught:
        Bundle.open(tmp_path / "m")
    assert "has 6 bytes where at most 5 were expected" in str(caught.value)
    assert "weights.safetensors does not match its checksum" in str(caught.value)
    opened = Bundle.open(tmp_path / "m", verify=False)
    with pytest.raises(ModelCorruptError, match="does not match"):
        opened.read("weights.safetensors")


@pytest.mark.parametrize("damage", ["absent", "short", "link", "pipe", "directory"])
def test_a_file_that_is_no_plain_whole_file_is_refused(tmp_path, damage):
    _save(tmp_path / "m")
    path = tmp_path / "m" / "scorer.onnx"
    path.unlink()
    if damage == "short":
        path.write_bytes(b"gra")
    elif damage == "link":
        (tmp_path / "elsewhere").write_bytes(b"graph")
        path.symlink_to(tmp_path / "elsewhere")
    elif damage == "pipe":
        os.mkfifo(path)
    elif damage == "directory":
        path.mkdir()
    expected = {
        "absent": "No such file",
        "short": "3 bytes where the manifest states 5",
        "link": "is a symbolic link",
        "pipe": "not a plain file",
        "directory": "cannot be read|not a plain file",
    }
    with pytest.raises(ModelCorruptError, match=expected[damage]):
        Bundle.open(tmp_path / "m")


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/b", "..", ".hidden", "manifest.json", "a\\b", "C:x", ""]
)
def test_no_name_leads_out_of_the_directory(tmp_path, name):
    _save(tmp_path / "m")
    record = {"sha256": hashlib.sha256(b"").hexdigest(), "bytes": 0}
    _edit(tmp_path / "m", lambda m: m["files"].update({name: record}))
    with pytest.raises(ModelCorruptError, match="no file name that a model may use"):
        Bundle.open(tmp_path / "m")
    with pytest.raises(ModelCorruptError, match="no file name that a model may use"):
        _save(tmp_path / "other", files={name: b""})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format_version=3), "has format 3 .* upgrade anomgan"),
        (lambda m: m.update(format_version="1"), "no usable format_version"),
        (lambda m: m.pop("format_version"), "no usable format_version"),
        (lambda m: m.update(format_version=True), "no usable format_version"),
        (lambda m: m.pop("schema"), "field 'schema' is absent"),
        (lambda m: m.update(extra=1), "unknown field 'extra'"),
        (lambda m: m.update(files=[]), "field 'files' is a list"),
        (lambda m: m.update(health={"verdict": "great"}), "verdict 'great' is none of"),
        (lambda m: m["files"].update(x={"bytes": 1}), "needs exactly sha256 and bytes"),
        (lambda m: m["files"]["scorer.onnx"].update(bytes=-1), "size of scorer.onnx"),
        (lambda m: m["files"]["scorer.onnx"].update(bytes=True), "size of scorer.onnx"),
        (lambda m: m["files"]["scorer.onnx"].update(bytes=2**40), "size of scorer.onnx"),
        (lambda m: m["files"]["scorer.onnx"].update(sha256="x"), "64 hexadecimal digits"),
    ],
)
def test_a_damaged_manifest_is_refused(tmp_path, change, message):
    _save(tmp_path / "m")
    _edit(tmp_path / "m", change)
    with pytest.raises(ModelCorruptError, match=message):
        Bundle.open(tmp_path / "m")


def test_faults_of_a_manifest_are_named_together(tmp_path):
    _save(tmp_path / "m")
    _edit(tmp_path / "m", lambda m: (m.pop("schema"), m.pop("files"), m.update(created_at=3)))
    with pytest.raises(ModelCorruptError, match=r"'schema' is absent; .*'files' .*'created_at'"):
        Bundle.open(tmp_path / "m")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[1]",
        b"\xff\xfe",
        b'{"a": NaN}',
        b'{"a": 1e999}',
        b'{"a": 1, "a": 2}',
        b"[" * 200_000,
        b"null",
    ],
    ids=["empty", "cut", "list", "bytes", "NaN", "inf", "twice", "deep", "null"],
)
def test_a_manifest_that_is_no_json_object_is_refused(tmp_path, content):
    _save(tmp_path / "m")
    (tmp_path / "m" / "manifest.json").write_bytes(content)
    with pytest.raises(ModelCorruptError):
        Bundle.open(tmp_path / "m")


def test_array_files_hold_no_pickles_and_no_bombs(tmp_path, monkeypatch):
    monkeypatch.setattr(untrusted, "_ARRAY_BYTES", 2**20)
    objects = io.BytesIO()
    np.savez(objects, a=np.array([{}], dtype=object))
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a", "w") as f:
        f.write(bytes(2**20 + 1))
    lying = io.BytesIO()
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }"
    header += b" " * (118 - len(header) - 1) + b"\n"
    with zipfile.ZipFile(lying, "w") as archive:
        archive.writestr("a.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    files = {"objects.npz": objects.getvalue(), "bomb.npz": bomb.getvalue()}
    files |= {"text.npz": b"hello", "lying.npz": lying.getvalue()}
    # Written by another than `Bundle.save`, which would read them first.
    saved = _save(tmp_path / "m")
    for name, content in files.items():
        (tmp_path / "m" / name).write_bytes(content)
        record = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        saved.manifest.files[name] = record
    for name, message in [
        ("objects.npz", "pickle|Object arrays"),
        ("bomb.npz", "would unpack to"),
        ("text.npz", "not a readable array file"),
        ("lying.npz", "not a readable array file"),
    ]:
        with pytest.raises(ModelCorruptError, match=message):
            saved.arrays(name)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_place_that_cannot_be_written_is_said_before_training(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="not a directory that you may write to"):
        require_free(tmp_path / "m")


def test_a_parent_that_is_a_file_is_said_before_training(tmp_path):
    (tmp_path / "f").write_text("x")
    with pytest.raises(OutputError, match="is not a directory that you may write to"):
        require_free(tmp_path / "f" / "m")


def test_the_module_imports_no_heavy_package():
    code = (
        "import sys, anomgan.bundle, anomgan.calibration;"
        "print([m for m in ('torch','sklearn','pandas','onnx','scipy','onnxruntime','polars')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
