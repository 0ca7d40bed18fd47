"""The Scorer on a small graph of known arithmetic: values, purity, refusals, the probe."""

import io
import json
import subprocess
import sys

import numpy as np
import onnx
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_model import toy_bundle, toy_contributions, toy_fit, toy_table

from anomgan.bundle import Bundle
from anomgan.errors import (
    ModelCorruptError,
    ModelError,
    ModelNotFoundError,
    SchemaError,
    UsageError,
)
from anomgan.serving import Scorer, Verdicts
from anomgan.serving.scorer import ScoredBatch
from anomgan.tables.readers import Batch, open_table


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("scorer") / "model"
    toy_bundle(path)
    return path


@pytest.fixture(scope="module")
def scorer(model):
    return Scorer.open(model, providers="cpu", threads=2)


@pytest.fixture(scope="module")
def new():
    return toy_table(300, seed=1).with_columns(
        mode=pl.when(pl.int_range(300) == 5).then(pl.lit("turbo")).otherwise("mode"),
        pressure=pl.when(pl.int_range(300) == 17).then(500.0).otherwise("pressure"),
    )


def _same(a, b):
    np.testing.assert_array_equal(a.score, b.score)
    np.testing.assert_array_equal(a.p_value, b.p_value)
    np.testing.assert_array_equal(a.is_anomaly, b.is_anomaly)
    np.testing.assert_array_equal(a.contributions, b.contributions)


def _with_model(path, change):
    """Save a copy of the toy model whose graph `change` has edited."""
    model, *_ = toy_fit(toy_table())
    graph = onnx.load_from_string(model)
    change(graph)
    path.write_bytes(graph.SerializeToString())
    return path


def _with_metadata(path, **changes):
    def change(graph):
        kept = {entry.key: entry.value for entry in graph.metadata_props}
        kept |= {f"anomgan.{key}": value for key, value in changes.items()}
        del graph.metadata_props[:]
        onnx.helper.set_model_props(graph, {k: v for k, v in kept.items() if v is not None})

    return _with_model(path, change)


def test_scores_are_the_arithmetic_of_the_graph(scorer, new):
    train = toy_table()
    schema = scorer.schema
    rows = schema.rows(Batch(train, 1, "<train>"))
    expected = toy_contributions(
        schema,
        schema.rows(Batch(new, 1, "<new>")),
        np.nanmean(rows.numeric, axis=0),
        np.nanstd(rows.numeric, axis=0),
        categories={c.name: c.categories for c in schema.columns},
    )
    verdicts = scorer.score(new)
    np.testing.assert_allclose(verdicts.contributions, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(verdicts.score, expected.sum(axis=1), rtol=1e-5)
    assert verdicts.feature_names == ("pressure", "mode", "speed", "discriminator")
    assert verdicts.is_anomaly[17]
    np.testing.assert_array_equal(verdicts.is_anomaly, verdicts.p_value <= np.float32(0.01))


def test_p_values_agree_with_the_calibrator(scorer, new):
    *_, calibrator, _ = toy_fit(toy_table())
    verdicts = scorer.score(new)
    np.testing.assert_allclose(verdicts.p_value, calibrator.p_values(verdicts.score), rtol=1e-6)


def test_rows_of_every_kind_score_alike(scorer, new, tmp_path):
    expected = scorer.score(new)
    new.write_parquet(tmp_path / "new.parquet")
    batch = next(iter(open_table(tmp_path / "new.parquet")))
    shuffled = new.select(["speed", "mode", "plant", "part_id", "pressure"])
    kinds = {
        "pandas": new.to_pandas(),
        "arrow": new.to_arrow(),
        "batch": batch,
        "rows": scorer.schema.rows(batch),
        "columns": new.to_dict(as_series=False),
        "records": new.to_dicts(),
        "other column order": shuffled,
        "without what is set aside": new.select(["mode", "pressure", "speed"]),
    }
    for rows in kinds.values():
        _same(scorer.score(rows), expected)
    one = scorer.score(new.to_dicts()[17])
    assert one.score.tolist() == [expected.score[17]]


@settings(max_examples=20, deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from([1, 7, 64, 300]))
def test_a_score_depends_on_its_row_alone(scorer, new, random, chunk):
    expected = scorer.score(new)
    order = list(range(new.height))
    random.shuffle(order)
    parts = [scorer.score(new[order[i : i + chunk]]) for i in range(0, len(order), chunk)]
    _same(Verdicts.joined(parts), Verdicts.joined([scorer.score(new[order])]))
    np.testing.assert_array_equal(Verdicts.joined(parts).score, expected.score[order])


def test_many_rows_are_spread_over_threads_and_stay_in_order(model):
    table = toy_table(5_000, seed=3)
    alone = Scorer.open(model, threads=1).score(table)
    together = Scorer.open(model, threads=3).score(table)
    _same(alone, together)
    assert together.first_row == 1


def test_streaming_gives_the_same_in_order(scorer, new, tmp_path):
    new.write_csv(tmp_path / "new.csv")
    pairs = list(scorer.stream(open_table(tmp_path / "new.csv", batch_rows=64)))
    assert [len(v) for _, v in pairs] == [64, 64, 64, 64, 44]
    assert [v.first_row for _, v in pairs] == [1, 65, 129, 193, 257]
    _same(Verdicts.joined([v for _, v in pairs]), scorer.score(new))
    batches = scorer.stream_batches(open_table(tmp_path / "new.csv", batch_rows=64))
    assert isinstance(next(batches), ScoredBatch)
    batches.close()


def test_no_rows_give_no_verdicts(scorer, new):
    for rows in (new.head(0), [], scorer.schema.rows(Batch(new.head(0), 1, "x"))):
        verdicts = scorer.score(rows)
        assert len(verdicts) == 0
        assert verdicts.contributions.shape == (0, 4)
        assert verdicts.to_frame().columns == ["row", "score", "p_value", "is_anomaly"]


def test_the_rate_can_be_changed_without_refitting(scorer, new):
    strict = scorer.score(new, false_alarm_rate=0.003)
    loose = scorer.score(new, false_alarm_rate=0.2)
    assert strict.is_anomaly.sum() < scorer.score(new).is_anomaly.sum() < loose.is_anomaly.sum()
    np.testing.assert_array_equal(loose.is_anomaly, loose.p_value <= np.float32(0.2))
    assert loose.false_alarm_rate == 0.2


def test_a_rate_beyond_the_calibration_rows_is_refused(scorer, new, tmp_path):
    with pytest.raises(UsageError, match=r"0\.0001 needs 9999 calibration rows .* has 400"):
        scorer.score(new, false_alarm_rate=1e-4)
    with pytest.raises(UsageError, match="between 0 and 1"):
        scorer.score(new, false_alarm_rate=0.0)
    toy_bundle(tmp_path / "m", tail=True)
    Scorer.open(tmp_path / "m").score(new, false_alarm_rate=1e-4)


def test_a_bad_row_is_an_error_or_has_no_score(scorer, new):
    table = new.head(4).with_columns(pressure=pl.Series(["99", "98", "12 bar", "97"]))
    with pytest.raises(SchemaError, match="12 bar"):
        scorer.score(table)
    verdicts = scorer.score(table, on_bad_row="skip")
    assert np.isnan(verdicts.score).tolist() == [False, False, True, False]
    assert np.isnan(verdicts.p_value[2])
    assert not verdicts.is_anomaly[2]
    assert np.isnan(verdicts.contributions[2]).all()
    frame = verdicts.to_frame()
    assert frame["score"].null_count() == frame["is_anomaly"].null_count() == 1
    assert frame["row"].to_list() == [1, 2, 3, 4]


def test_missing_columns_are_named(scorer, new):
    with pytest.raises(SchemaError, match="column 'speed' is missing"):
        scorer.score(new.drop("speed"))


def test_arrays_need_a_model_of_numbers(scorer, tmp_path):
    with pytest.raises(UsageError, match=r"array of shape \[2, 3\] does not say which"):
        scorer.score(np.zeros((2, 3)))
    numbers = toy_table().select("pressure", "speed")
    toy_bundle(tmp_path / "m", numbers)
    numeric = Scorer.open(tmp_path / "m")
    _same(numeric.score(numbers.to_numpy()), numeric.score(numbers))
    with pytest.raises(UsageError, match=r"needs 2 columns \(pressure, speed\)"):
        numeric.score(np.zeros((2, 3)))
    with pytest.raises(UsageError, match="shapes"):
        numeric.score(scorer.schema.rows(Batch(toy_table(), 1, "x")))


def test_a_path_is_not_rows(scorer):
    with pytest.raises(UsageError, match="takes rows in memory"):
        scorer.score("new.csv")
    with pytest.raises(UsageError, match="cannot read a table from int"):
        scorer.score(3)


def test_a_bare_graph_scores_like_its_directory(scorer, model, new):
    bare = Scorer.open(model / "scorer.onnx")
    _same(bare.score(new), scorer.score(new))
    assert bare.schema == scorer.schema
    assert bare.calibration == {}
    assert scorer.calibration["n"] == 400


def test_a_categorical_model_needs_no_numbers(tmp_path):
    table = toy_table().select("mode")
    toy_bundle(tmp_path / "m", table, false_alarm_rate=0.2)
    verdicts = Scorer.open(tmp_path / "m").score({"mode": "turbo"})
    assert verdicts.score.tolist() == [3.25]


def test_what_is_not_there_or_no_model_is_said(tmp_path):
    with pytest.raises(ModelNotFoundError, match="does not exist"):
        Scorer.open(tmp_path / "absent")
    (tmp_path / "x.onnx").write_bytes(b"no graph")
    with pytest.raises(ModelCorruptError, match=r"x\.onnx is no scorer .*: it is no ONNX"):
        Scorer.open(tmp_path / "x.onnx")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": None}, "no scorer made by anomgan"),
        ({"schema": "{"}, "metadata of .* is damaged"),
        ({"schema": "[" * 100_000}, "metadata of .* is damaged"),
        ({"schema": '{"columns": 1}'}, "metadata of .* is damaged"),
        ({"format_version": "3"}, "has format 3 .* upgrade anomgan"),
        ({"format_version": None}, "has format unknown"),
        ({"feature_names": '["a"]'}, "feature names are not those of its schema"),
        ({"false_alarm_rate": "often"}, "metadata of .* is damaged"),
        ({"false_alarm_rate": "1.5"}, "metadata of .* is damaged"),
    ],
)
def test_damaged_metadata_are_refused(tmp_path, changes, message):
    path = _with_metadata(tmp_path / "s.onnx", **changes)
    with pytest.raises(ModelCorruptError, match=message):
        Scorer.open(path)


def test_a_graph_that_does_not_fit_its_schema_is_refused(tmp_path):
    schema = json.loads(next(_schema_of(toy_fit(toy_table())[0])))
    schema["columns"] = schema["columns"][:1]
    names = json.dumps([schema["columns"][0]["name"], "discriminator"])
    path = _with_metadata(tmp_path / "s.onnx", schema=json.dumps(schema), feature_names=names)
    with pytest.raises(ModelCorruptError) as caught:
        Scorer.open(path)
    assert "an input 'categorical' that no column feeds" in str(caught.value)
    assert "an input 'numeric' that is not tensor(double) [N, 1]" in str(caught.value)


def _schema_of(model):
    for entry in onnx.load_from_string(model).metadata_props:
        if entry.key == "anomgan.schema":
            yield entry.value


def test_a_graph_without_the_outputs_is_refused(tmp_path):
    def change(graph):
        del graph.graph.output[1:3]

    with pytest.raises(ModelCorruptError, match=r"no output 'p_value' of tensor\(float\); no out"):
        Scorer.open(_with_model(tmp_path / "s.onnx", change))


def test_a_call_that_fails_is_told_in_one_line(model, new):
    class Broken:
        def run(self, outputs, feed):
            raise RuntimeError("[ONNXRuntimeError] : out of memory\nsecond line")

    scorer = Scorer.open(model)
    scorer._session = Broken()
    with pytest.raises(ModelError) as caught:
        scorer.score(new)
    assert str(caught.value) == (
        f"{model / 'scorer.onnx'} failed on CPUExecutionProvider: "
        "[ONNXRuntimeError] : out of memory"
    )


def _resave(source, target, **arrays):
    """Copy a model with some probe arrays replaced."""
    bundle = Bundle.open(source)
    buffer = io.BytesIO()
    np.savez(buffer, **(bundle.arrays("probe.npz") | arrays))
    files = {name: bundle.read(name) for name in bundle.names} | {"probe.npz": buffer.getvalue()}
    return Bundle.save(target, files=files, manifest=bundle.manifest)


def test_a_probe_that_scores_otherwise_is_refused(model, tmp_path):
    probe = Bundle.open(model).arrays("probe.npz")
    score = probe["score"].copy()
    score[2] *= 1.5
    _resave(model, tmp_path / "m", score=score)
    with pytest.raises(
        ModelCorruptError, match=r"^1 of 16 probe rows .*\(row 3: 1.8\d+ instead of 2.7"
    ):
        Scorer.open(tmp_path / "m")
    assert Scorer.open(tmp_path / "m", verify_probe=False).provider == "CPUExecutionProvider"
    _resave(model, tmp_path / "ok", score=probe["score"] * (1 + 1e-5))
    Scorer.open(tmp_path / "ok")
    _resave(model, tmp_path / "p", p_value=probe["p_value"] * 0.5)
    with pytest.raises(ModelCorruptError, match="probe rows do not score here"):
        Scorer.open(tmp_path / "p")


@pytest.mark.parametrize(
    "arrays",
    [
        {"numeric": np.zeros((16, 9))},
        {"score": np.zeros(3)},
        {"score": np.zeros(0), "p_value": np.zeros(0), "numeric": np.zeros((0, 2))},
        {"categorical": np.zeros((16, 1), dtype=np.str_), "numeric": np.array([["x", "y"]] * 16)},
    ],
)
def test_a_probe_of_another_model_is_refused(model, tmp_path, arrays):
    _resave(model, tmp_path / "m", **arrays)
    with pytest.raises(ModelCorruptError, match="are not of this model"):
        Scorer.open(tmp_path / "m")


def test_an_altered_graph_is_refused(model, tmp_path):
    copy = _resave(model, tmp_path / "m")
    content = copy.file("scorer.onnx").read_bytes()
    copy.file("scorer.onnx").write_bytes(content.replace(b"toy", b"toi"))
    with pytest.raises(ModelCorruptError, match="does not match its checksum"):
        Scorer.open(tmp_path / "m")


def test_threads_below_one_are_refused(model):
    with pytest.raises(UsageError, match="threads must be at least 1, got 0"):
        Scorer.open(model, threads=0)


def test_serving_imports_no_training_package(model):
    code = (
        "import sys\n"
        "from anomgan.serving import Scorer\n"
        f"Scorer.open({str(model)!r}).score({{'mode': 'run', 'pressure': 1, 'speed': 2.5}})\n"
        "heavy = ('torch', 'sklearn', 'pandas', 'onnx', 'scipy', 'pyarrow', 'anomgan_cli')\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")
