"""What reads bytes that others wrote, each with real contents to start from.

A target takes any bytes and may raise an `AnomganError`; whatever else it does is a find.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from hostile import NEW, REAL, signed

from anomgan.bundle import Manifest
from anomgan.errors import AnomganError
from anomgan.groups import calibrator_from_arrays, require_stated_rate
from anomgan.serving.interface import read_calibration, read_metadata
from anomgan.serving.plain_graph import require_plain_graph
from anomgan.tables import Batch, Schema, SchemaOptions, open_table
from anomgan.tables.encoding import FeatureEncoder
from anomgan.tables.labels import LabelReader, anomalous, keep_normal
from anomgan.tables.profile import Profile
from anomgan.untrusted import parse_arrays, parse_json

Run = Callable[[bytes], None]
MODELS = ("flagship", "grouped", "ganomaly")


@dataclass(frozen=True)
class Target:
    """Something that reads.

    Parameters
    ----------
    name : str
    share : float
        Of all cases.
    seeds : callable
        Gives the real contents.
    tokens : tuple of bytes
        What has a meaning in them.
    start : callable
        Given an empty folder, gives what reads one case.
    """

    name: str
    share: float
    seeds: Callable[[], list[bytes]]
    tokens: tuple[bytes, ...]
    start: Callable[[Path], Run]


def scratch() -> tempfile.TemporaryDirectory[str]:
    """Make a folder, in memory where there is such a place."""
    shared = "/dev/shm" if os.path.isdir("/dev/shm") else None
    return tempfile.TemporaryDirectory(dir=shared)


# --- A model's texts ------------------------------------------------------------------------


def _manifests() -> list[bytes]:
    return [(REAL / name / "manifest.json").read_bytes() for name in MODELS]


def _manifest(folder: Path) -> Run:
    return lambda case: _use(Manifest.from_dict(parse_json(case, "manifest.json")))


def _use(manifest: Manifest) -> None:
    require_stated_rate(manifest.calibration, 0.1)


def _inspection(folder: Path) -> Run:
    """The whole of `anomgan inspect`, and what a report says of a model."""
    from typer.testing import CliRunner

    from anomgan_cli.app import app

    model = Path(shutil.copytree(REAL / "grouped", folder / "m"))

    def run(case: bytes) -> None:
        (model / "manifest.json").write_bytes(case)
        for options in ([], ["--json"]):
            result = CliRunner().invoke(app, ["inspect", "-m", str(model), *options])
            if result.exit_code not in (0, 2):
                raise RuntimeError(f"exit code {result.exit_code}: {result.output}")
        if result.exit_code == 2:
            raise AnomganError(result.stderr)

    return run


def _schemas() -> list[bytes]:
    return [json.dumps(json.loads(manifest)["schema"]).encode() for manifest in _manifests()]


def _schema(folder: Path) -> Run:
    (batch,) = open_table(NEW)

    def run(case: bytes) -> None:
        schema = Schema.from_dict(parse_json(case, "schema"))
        again = Schema.from_dict(json.loads(json.dumps(schema.to_dict(), allow_nan=False)))
        if again != schema:
            raise RuntimeError("a schema does not come back")
        schema.rows(batch, on_bad_row="skip")

    return run


def _profiles() -> list[bytes]:
    return [(REAL / name / "profile.json").read_bytes() for name in MODELS]


def _profile(folder: Path) -> Run:
    schema = Schema.from_dict(json.loads(_schemas()[0]))

    def run(case: bytes) -> None:
        profile = Profile.from_dict(parse_json(case, "profile.json"))
        profile.require_schema(schema)
        for column in profile.columns:
            _ = column.bin_of_cell, column.group_of_cell, column.weights

    return run


def _encoders() -> list[bytes]:
    texts = [(REAL / name / "scoring.json").read_bytes() for name in MODELS]
    return [json.dumps(json.loads(text)["encoder"]).encode() for text in texts]


def _encoder(folder: Path) -> Run:
    schema = Schema.from_dict(json.loads(_schemas()[0]))
    (batch,) = open_table(NEW)
    rows = schema.rows(batch)

    def run(case: bytes) -> None:
        encoder = FeatureEncoder.from_dict(parse_json(case, "encoder"))
        encoder.require_schema(schema)
        encoder.transform(rows)

    return run


# --- A graph --------------------------------------------------------------------------------

_PAIR, _KEY = b"\x1e", b"\x1f"


@cache
def _graphs() -> list[bytes]:
    from toy_model import toy_fit, toy_table

    graphs = [(REAL / name / "scorer.onnx").read_bytes() for name in ("grouped", "flagship")]
    return [toy_fit(toy_table(160))[0]] * 8 + graphs


def _metadata_seeds() -> list[bytes]:
    import onnx

    models = [onnx.load_from_string(graph) for graph in _graphs()[-2:]]
    return [
        _PAIR.join(e.key.encode() + _KEY + e.value.encode() for e in model.metadata_props)
        for model in models
    ]


def _metadata(folder: Path) -> Run:
    def run(case: bytes) -> None:
        text = case.decode("utf-8", "replace")
        pairs = (pair.partition(_KEY.decode()) for pair in text.split(_PAIR.decode()))
        metadata = {key: value for key, _, value in pairs}
        schema, names, rate = read_metadata(metadata, "x.onnx")
        if len(names) != len(schema.columns) + 1 or not 0.0 < rate < 1.0:
            raise RuntimeError(f"{names}, {rate}")
        require_stated_rate(read_calibration(metadata, "x.onnx"), rate)

    return run


def _graph(folder: Path) -> Run:
    return lambda case: require_plain_graph(case, "x.onnx")


def _scorer(folder: Path) -> Run:
    """A file on its own: opened and run."""
    from anomgan.serving import Scorer

    path = folder / "scorer.onnx"
    (batch,) = open_table(NEW)

    def run(case: bytes) -> None:
        path.write_bytes(case)
        scorer = Scorer.open(path, providers="cpu", threads=1)
        scorer.score(Batch(batch.frame.head(3), 1, "new.csv"), on_bad_row="skip")

    return run


def _arrays_seeds() -> list[bytes]:
    names = [(model, name) for model in MODELS for name in ("calibration.npz", "probe.npz")]
    packed = io.BytesIO()
    np.savez_compressed(packed, **parse_arrays((REAL / MODELS[1] / names[0][1]).read_bytes(), ""))
    return [packed.getvalue(), *((REAL / model / name).read_bytes() for model, name in names)]


def _arrays(folder: Path) -> Run:
    def run(case: bytes) -> None:
        calibrator = calibrator_from_arrays(parse_arrays(case, "calibration.npz"))
        calibrator.require_rate(0.2)
        calibrator.threshold(0.2)

    return run


def _directory_seeds() -> list[bytes]:
    return [
        path.name.encode() + _PAIR + path.read_bytes()
        for path in sorted((REAL / "grouped").iterdir())
        if path.name != "manifest.json"
    ]


def _directory(folder: Path) -> Run:
    """A whole model, one of its files damaged and signed anew, read by both sides."""
    from anomgan.persistence import load_fitted
    from anomgan.serving import Scorer

    whole = (REAL / "grouped" / "manifest.json").read_bytes()
    model = Path(shutil.copytree(REAL / "grouped", folder / "m"))
    names = {path.name.encode() for path in model.iterdir()} - {b"manifest.json"}

    def run(case: bytes) -> None:
        name, _, content = case.partition(_PAIR)
        if name not in names:
            raise AnomganError("no file of a model")
        signed(model, name.decode(), content)
        try:
            load_fitted(model)
            Scorer.open(model, providers="cpu", threads=1)
        finally:
            shutil.copy(REAL / "grouped" / name.decode(), model / name.decode())
            (model / "manifest.json").write_bytes(whole)

    return run


# --- Tables ---------------------------------------------------------------------------------


def _csv_seeds() -> list[bytes]:
    rows = NEW.read_bytes().splitlines(keepends=True)
    quoted = b'a,"b ""c""",d\r\n1,"x, y",2024-01-01\r\n"1\n2",,?\r\n'
    return [
        b"".join(rows[:6]),
        b"".join(rows[:3]).replace(b",", b";"),
        quoted,
        b"\xef\xbb\xbfx\ty\n1\t2\n",
        "a,b\n1,é\n".encode("utf-16"),
        b"a\n1\n\n2\n",
        b"a,b\n1,2\n3\n4,5,6\n",
    ]


_OPTIONS: tuple[Mapping[str, Any], ...] = (
    *({}, {}, {}, {"delimiter": ";"}, {"delimiter": ","}, {"encoding": "utf-16"}),
    *({"encoding": "latin-1"}, {"batch_rows": 1}),
)


def _csv(folder: Path) -> Run:
    path = folder / "t.csv"
    turns = itertools.count()
    schema = Schema.from_dict(json.loads(_schemas()[0]))

    def run(case: bytes) -> None:
        turn = next(turns)
        path.write_bytes(case)
        with open_table(
            path,
            on_bad_row="skip" if turn % 2 else "error",
            **_OPTIONS[turn % len(_OPTIONS)],
        ) as reader:
            batches = list(reader)
        for batch in batches:
            if batch.frame.columns != list(reader.columns):
                raise RuntimeError(f"columns {batch.frame.columns}")
            if turn % 3 == 0:
                Schema.infer(batch.frame, SchemaOptions(), source="t.csv")
            elif turn % 3 == 1:
                schema.rows(batch, on_bad_row="skip")

    return run


def _label_seeds() -> list[bytes]:
    return [
        b"y\n0\n0\n1\n0",
        b"y\nok, fine\nok\nbad\nfine",
        b"y\n,\nnormal\nanomaly",
        b"y\n1.0\n1\n2\n?",
    ]


def _labels(folder: Path) -> Run:
    """First line: the column; second: its normal values; then cells."""

    def run(case: bytes) -> None:
        name, _, rest = case.decode("utf-8", "replace").partition("\n")
        wanted, _, cells = rest.partition("\n")
        normal = [value for value in wanted.split(",") if value]
        frame = pl.DataFrame({"y": cells.split("\n")}, schema={"y": pl.String})
        failed: AnomganError | None = None
        for read in (
            lambda: LabelReader(name, normal, "t.csv").read(frame),
            lambda: anomalous(frame, name, normal, "t.csv"),
            lambda: keep_normal(frame, name, normal, source="t.csv"),
        ):
            try:
                read()
            except AnomganError as error:
                failed = error
        if failed is not None:
            raise failed

    return run


def _columnar_seeds() -> list[bytes]:
    frame = pl.read_csv(NEW).head(4)
    parquet, ipc, plain = io.BytesIO(), io.BytesIO(), io.BytesIO()
    frame.write_parquet(parquet)
    frame.write_ipc(ipc)
    frame.select("pressure", "site").write_parquet(plain, compression="uncompressed")
    return [parquet.getvalue(), ipc.getvalue(), plain.getvalue()]


def _columnar(folder: Path) -> Run:
    path = folder / "t.parquet"

    def run(case: bytes) -> None:
        path.write_bytes(case)
        for batch in open_table(path):
            batch.frame.height  # noqa: B018

    return run


# --- All of them ----------------------------------------------------------------------------

_JSON = (
    *(b"{", b"}", b"[", b"]", b",", b":", b"null", b"true", b"[[[[[[[[", b'"\\ud800"', b"1e400"),
    *(b'"columns"', b'"kind"', b'"numeric"', b'"categorical"', b'"datetime"', b'"groups"'),
    *(b'"bytes"', b'"sha256"', b'"../x"', b'"n"', b'"tail"', b'"by"'),
)
_NPY = (
    *(b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06", b"\x93NUMPY", b"\x01\x00", b"|O", b"<U0"),
    *(b"<f8", b"'shape': (", b"(99999999999,)", b"((((", b"True", b"'descr'", b"[('a', '<f8')]"),
)
_ONNX = (
    *(b"\x3a", b"\x7a", b"\x08", b"\x2a\x04", b"\x80\x80\x80\x80\x10", b"\xff" * 10),
    *(b"com.microsoft", b"anomgan.schema", b"Loop", b"Expand", b"\x70\x01", b"location"),
    # Tags of more than 32 bits: fields 1, 5, 7 and 13 to a reader that drops the others.
    *(bytes([n << 3 | 2 | 0x80]) + b"\x80\x80\x80\x10" for n in (1, 5, 7, 13)),
    b"ORTM",
)
_CSV = (b",", b";", b"\t", b"|", b"\r", b"\r\n", b'""', b'",', b"'", b"\xef\xbb\xbf", b"\xff\xfe")
_CELLS = (b"2024-01-01", b"inf", b"-0", b"NA", b"1,5", b"0x1p3", b"true", b"\xc2\xa0", b"\x1f\x8b")

TARGETS: tuple[Target, ...] = (
    Target("manifest", 0.24, _manifests, _JSON, _manifest),
    Target("schema", 0.20, _schemas, _JSON, _schema),
    Target("metadata", 0.24, _metadata_seeds, (*_JSON, _PAIR, _KEY), _metadata),
    Target("csv", 0.04, _csv_seeds, (*_CSV, *_CELLS), _csv),
    Target("labels", 0.04, _label_seeds, (*_CELLS, b",", b"normal", b"1.0", b""), _labels),
    Target("profile", 0.08, _profiles, _JSON, _profile),
    Target("encoder", 0.08, _encoders, _JSON, _encoder),
    Target("arrays", 0.06, _arrays_seeds, _NPY, _arrays),
    Target("graph", 0.015, _graphs, _ONNX, _graph),
    Target("columnar", 0.004, _columnar_seeds, (b"PAR1", b"ARROW1", b"\x15"), _columnar),
    Target("scorer", 0.0005, _graphs, _ONNX, _scorer),
    Target("inspect", 0.0003, _manifests, _JSON, _inspection),
    Target("directory", 0.0002, _directory_seeds, (*_NPY, *_ONNX), _directory),
)


UNPROMISED = ("columnar",)
"""Targets that are left out unless they are named: polars' own readers, which end the process where
a file declares more than there is memory for."""


def outcome(run: Run, case: bytes) -> tuple[bool, BaseException | None]:
    """Run one case; tell whether it was read, and what it raised that is no error of ours."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run(case)
    except AnomganError:
        return False, None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # polars panics with a class that is no Exception
        return False, error
    return True, None
