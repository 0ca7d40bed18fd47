"""Networks in float16: near the score, finite for every row, and rounded as a GPU rounds."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pandas as pd
import pytest
import torch
from onnx import GraphProto, TensorProto, helper, numpy_helper
from sklearn.metrics import roc_auc_score

from anomgan import GANDetector
from anomgan.errors import ExportError, UsageError
from anomgan.estimator import detector_class
from anomgan.export import run_scorer
from anomgan.export.graph import Network, member
from anomgan.export.half import (
    farthest_corner,
    forward_in_half,
    scaled_down,
    scaled_forward,
)
from anomgan.export.half_loss import measure_half
from anomgan.export.parity import open_rounded
from anomgan.export.precision import FP16
from anomgan.export.rounding import round_every_value
from anomgan.export.scorer import build_row_scorer, build_scorer
from anomgan.fitting import FittedModel
from anomgan.nets.batched import LEAK
from anomgan.persistence import export_half, export_scorer
from anomgan.scoring.frozen import FrozenScore
from anomgan.tables import Rows
from anomgan_datasets import clean_split, load
from anomgan_datasets.splits import Split

SHORT = {"n_steps": 200, "random_state": 0, "device": "cpu"}


def _split(name: str, data_dir: Path) -> Split:
    data = load(name, data_dir=data_dir)
    return clean_split(data.X.to_numpy(dtype=float), data.y, 0)


@pytest.fixture(scope="module", params=["38_thyroid", "16_http", "12_fault"])
def trained(request: pytest.FixtureRequest, data_dir: Path) -> tuple[FittedModel, Split]:
    """Continuous columns; known rows in heaps, far from each other; a discriminator to scale."""
    split = _split(request.param, data_dir)
    return GANDetector(**SHORT).fit(np.asarray(split.X_train)).model_, split


@pytest.fixture(scope="module")
def fitted(data_dir: Path) -> FittedModel:
    split = _split("6_cardio", data_dir)
    return GANDetector(**SHORT).fit(np.asarray(split.X_train)).model_


def _rows(array: np.ndarray) -> Rows:
    return Rows(np.asarray(array, dtype=float), np.empty((len(array), 0), dtype=object), None, 1)


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)


def _scores(score: FrozenScore, rows: np.ndarray) -> np.ndarray:
    features = np.asarray(rows, dtype=np.float32)
    feed = {"features": features, "surprise": np.zeros((len(rows), score.n_columns), np.float32)}
    return open_rounded(build_row_scorer(score, FP16)).run(["score"], feed)[0][:, 0]


def test_scores_of_real_rows_stay_near_and_rank_alike(trained: tuple[FittedModel, Split]) -> None:
    fitted, split = trained
    model, parity, facts = export_half(fitted, created_at="now")
    n = min(4000, len(split.X_test))
    order = np.random.default_rng(0).permutation(len(split.X_test))[:n]
    test, labels = np.asarray(split.X_test)[order], np.asarray(split.y_test)[order]
    found = run_scorer(model, _rows(test), FP16)
    full = run_scorer(export_scorer(fitted, created_at="now")[0], _rows(test))
    relative = np.abs(found["score"] / full["score"] - 1.0)
    assert 1e-6 < np.quantile(relative, 0.99) < FP16.p99_relative
    assert relative.max() < FP16.max_relative
    change = roc_auc_score(labels, found["score"]) - roc_auc_score(labels, full["score"])
    assert abs(change) < 5e-4
    assert np.abs(found["p_value"] - full["p_value"]).max() < 0.05
    gap = np.abs(found["contributions"].sum(axis=1) / found["score"] - 1.0)
    assert gap.max() < 1e-5
    assert 1e-6 < parity.p99_relative < FP16.p99_relative
    assert facts["rank_correlation"] > 0.999


def test_networks_are_of_float16_and_known_rows_are_not(fitted: FittedModel) -> None:
    model = onnx.load_from_string(export_half(fitted, created_at="now")[0])
    weights = [t for g in _graphs(model.graph) for t in g.initializer if len(t.dims) == 2]
    score = fitted.score
    assert isinstance(score, FrozenScore)
    matrices = [
        *score.generator.matrices[1:],
        *score.encoder.matrices,
        *score.discriminator.matrices[:-1],
    ]
    for shape in {tuple(matrix.shape[1:]) for matrix in matrices}:
        kinds = {t.data_type for t in weights if tuple(t.dims) == shape}
        assert kinds == {TensorProto.FLOAT16}, shape
    width = len(score.feature_column) + 2
    known = [t for t in weights if tuple(t.dims) == (width, len(score.memory_rows))]
    assert [t.data_type for t in known] == [TensorProto.DOUBLE]


def test_what_rounding_changes_stands_in_the_metadata(fitted: FittedModel) -> None:
    model, _, facts = export_half(fitted, created_at="now")
    stated = {p.key: p.value for p in onnx.load_from_string(model).metadata_props}
    found = json.loads(stated["anomgan.fp16"])
    assert found == {name: pytest.approx(value, rel=1e-5) for name, value in facts.items()}
    assert 0.5 < found["auroc_fp32"] < 1.0
    assert found["auroc_fp16"] == pytest.approx(found["auroc_fp32"], abs=1e-3)
    assert 0.0 < found["p99_relative"] <= found["max_relative"] < FP16.max_relative
    assert export_half(fitted, created_at="now")[0] == model


def test_rounding_is_measured_on_rows_taken_out_of_the_memory(
    fitted: FittedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    scores = FrozenScore.scores

    def spy(self: FrozenScore, features: torch.Tensor, *rest: object) -> torch.Tensor:
        if len(features) == n // 5 and len(self.memory_rows) < n:
            seen.append((self.memory_rows, features))
        return scores(self, features, *rest)

    monkeypatch.setattr(FrozenScore, "scores", spy)
    assert isinstance(fitted.score, FrozenScore)
    n = len(fitted.score.memory_rows)
    measure_half(fitted.score, 0)
    (memory, judged), _ = seen  # rows, and mixtures of them
    assert len(memory) == n - n // 5
    assert torch.cdist(judged.double(), memory.double()).min() > 0.0


def test_every_value_is_rounded_in_the_check(fitted: FittedModel) -> None:
    assert isinstance(fitted.score, FrozenScore)
    model = onnx.load_from_string(build_row_scorer(fitted.score, FP16))
    checked = onnx.load_from_string(round_every_value(build_row_scorer(fitted.score, FP16)))
    halves = [_half_values(proto.graph) for proto in (model, checked)]
    assert len(halves[0]) > 30
    # Each of them is rounded once, and nothing else goes on in float16.
    assert halves[1] == {f"{name}_rounded": "Cast" for name in halves[0]}


def _half_values(graph: GraphProto) -> dict[str, str]:
    """What nodes give in float16, and the kinds of the nodes; declared types are not trusted."""
    found: dict[str, str] = {}
    for part in _graphs(graph):
        half = {t.name for t in part.initializer if t.data_type == TensorProto.FLOAT16}
        for node in part.node:
            to = [a.i for a in node.attribute if a.name == "to"]
            if to == [TensorProto.FLOAT16] or (not to and half & set(node.input)):
                half.add(node.output[0])
                found[node.output[0]] = node.op_type
    return found


def test_the_check_rounds_as_float16_does() -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(64, 64)).astype(np.float16)
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["a"]),
        helper.make_node("LeakyRelu", ["a"], ["b"], alpha=LEAK),
        helper.make_node("Exp", ["b"], ["y"]),
    ]
    value = helper.make_tensor_value_info
    nodes.insert(0, helper.make_node("Cast", ["wide"], ["x"], to=TensorProto.FLOAT16))
    nodes.append(helper.make_node("Cast", ["y"], ["out"], to=TensorProto.FLOAT))
    graph = helper.make_graph(
        nodes,
        "g",
        [value("wide", TensorProto.FLOAT, ["N", 64])],
        [value("out", TensorProto.FLOAT, ["N", 64])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    x = (0.1 * rng.normal(size=(200, 64))).astype(np.float16)
    product = (x.astype(np.float64) @ weight.astype(np.float64)).astype(np.float16)
    below = (np.float64(np.float16(LEAK)) * product).astype(np.float16)
    kept = np.where(product > 0, product, below)
    expected = np.exp(kept.astype(np.float64)).astype(np.float16)
    content = model.SerializeToString()
    feed = {"wide": x.astype(np.float32)}
    rounded = open_rounded(content).run(None, feed)[0]
    # Only where the exact result lies between two numbers of float16 may it be the other one.
    assert (rounded != expected).mean() < 0.01


def test_no_row_is_too_far_out(trained: tuple[FittedModel, Split]) -> None:
    fitted, split = trained
    model = export_half(fitted, created_at="now")[0]
    rng = np.random.default_rng(0)
    train = np.asarray(split.X_train)
    far = train[rng.integers(len(train), size=300)].copy()
    by = 10.0 ** rng.uniform(0, 30, size=far.shape) * rng.choice([-1.0, 1.0], size=far.shape)
    moved = rng.random(far.shape) < rng.random((300, 1))
    far = np.where(moved, by, far)
    found = run_scorer(model, _rows(far), FP16)
    full = run_scorer(export_scorer(fitted, created_at="now")[0], _rows(far))
    for name in ("score", "contributions", "p_value"):
        assert np.isfinite(found[name]).all()
    assert np.abs(found["score"] / full["score"] - 1.0).max() < FP16.max_relative


def test_steps_that_give_no_number_are_not_taken(fitted: FittedModel) -> None:
    score = fitted.score
    assert isinstance(score, FrozenScore)
    inversion = replace(score.settings.inversion, n_steps=8, learning_rate=3e2)
    wild = replace(score, settings=replace(score.settings, inversion=inversion))
    still = replace(
        score, settings=replace(score.settings, inversion=replace(inversion, n_steps=0))
    )
    rows = score.memory_rows[:200].numpy()
    assert (_scores(wild, rows) <= _scores(still, rows)).all()
    assert np.isfinite(_scores(wild, 3.0 * rows)).all()


def test_layers_are_scaled_by_powers_of_two_which_round_nothing() -> None:
    rng = np.random.default_rng(0)
    sizes = (20, 64, 64, 8)
    net = Network(
        tuple(rng.normal(size=s).astype(np.float32) for s in itertools.pairwise(sizes)),
        tuple(rng.normal(size=(1, s)).astype(np.float32) for s in sizes[1:]),
        "leaky_relu",
    )
    at_most = np.full(20, 1000.0)
    scaled, scales = scaled_down(net, at_most)
    assert scales[0] == 0.5 or scales[0] == 1.0
    assert 1.0 > scales[1] > scales[2] > 2.0**-12
    x = rng.uniform(-1000.0, 1000.0, size=(300, 20)).astype(np.float32)
    for i, (ours, theirs) in enumerate(
        zip(_layers(scaled, x), _layers(net, x), strict=True),
    ):
        assert (ours == theirs * np.float32(scales[i])).all()
        assert np.abs(ours).max() < 32752.0
    assert scaled_down(net, np.full(20, 0.01))[1] == (1.0, 1.0, 1.0)


def _layers(net: Network, x: np.ndarray) -> list[np.ndarray]:
    found = []
    for i, (matrix, bias) in enumerate(zip(net.matrices, net.biases, strict=True)):
        x = x @ matrix + bias
        found.append(x)
        if i < len(net.matrices) - 1:
            x = np.where(x > 0, x, np.float32(LEAK) * x)
    return found


def test_sums_of_signs_that_agree_fit(fitted: FittedModel) -> None:
    """Inputs that make one unit's sum its bound: what random ones never come near."""
    score = fitted.score
    assert isinstance(score, FrozenScore)
    edge = farthest_corner(score)
    for m in range(score.n_members):
        for weights in (score.encoder, score.discriminator):
            scaled, _ = scaled_down(member(weights, m), edge)
            assert np.abs(_first_sums(scaled, edge)).max() <= 32752.0
        ours = forward_in_half(score, m)
        codes = np.full(len(ours.net.matrices[0]), ours.codes)
        assert np.abs(_first_sums(ours.net, codes)).max() <= 32752.0


def _first_sums(net: Network, at_most: np.ndarray) -> np.ndarray:
    """Every unit of the first layer, at the input that drives it most either way."""
    matrix, bias = net.matrices[0].astype(float), net.biases[0].astype(float)
    return np.stack([s * (at_most * np.sign(matrix.T)) @ matrix + bias for s in (1.0, -1.0)])


@pytest.mark.parametrize(
    ("codes", "rows", "matrices", "biases", "scales"),
    [
        (1.0, 1.0, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
        (32752.0, 0.0, (1.0, 0.1, 0.1), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),  # at the line
        (32753.0, 0.0, (-1.0, 0.1, 0.1), (0.0, 0.0, 0.0), (0.5, 0.5, 0.5)),  # above it
        (32752.0, 0.0, (1.0, 0.1, 0.1), (-1.0, 0.0, 0.0), (0.5, 0.5, 0.5)),  # by a bias
        (32752.0, 0.0, (1.0, 1.0, 0.1), (0.0, 1.0, 0.0), (1.0, 0.5, 0.5)),  # by the 1 added
        (32751.0, 0.0, (1.0, 1.0, 0.1), (0.0, 0.0, 0.0), (1.0, 0.5, 0.5)),  # by taking it off
        (100.0, 32700.0, (1.0, 1.0, 1.0), (0.0, 1.0, 1.0), (1.0, 1.0, 0.5)),  # by the row
        (1e6, 0.0, (1.0, 0.001, 0.001), (0.0, 0.0, 0.0), (2.0**-5,) * 3),  # none above the last
    ],
)
def test_a_generator_is_scaled_where_it_goes_beyond(
    codes: float,
    rows: float,
    matrices: tuple[float, ...],
    biases: tuple[float, ...],
    scales: tuple[float, ...],
) -> None:
    def one(value: float) -> np.ndarray:
        return np.array([[value]], dtype=np.float32)

    net = Network(tuple(map(one, matrices)), tuple(map(one, biases)), "elu")
    assert scaled_forward(net, codes, np.array([rows])).scales == scales


@pytest.mark.parametrize("codes", [8.0, 1e5])
def test_a_scaled_generator_generates_the_same(fitted: FittedModel, codes: float) -> None:
    score = fitted.score
    assert isinstance(score, FrozenScore)
    ours = scaled_forward(member(score.generator, 0), codes, np.zeros(len(score.feature_column)))
    assert (min(ours.scales) < 1.0) == (codes > 10.0)
    z = np.random.default_rng(0).normal(size=(500, len(ours.net.matrices[0]))) * codes / 5.0
    x = z
    for i, (matrix, bias) in enumerate(zip(ours.net.matrices, ours.net.biases, strict=True)):
        x = x @ matrix.astype(float) + bias
        if i < 2:
            unit = x / ours.scales[i]
            x = ours.scales[i] * (np.maximum(unit, 0.0) + np.exp(np.minimum(unit, 0.0)))
    made = score.generator.member(0).activations(torch.from_numpy(z).float().unsqueeze(0))[-1][0]
    np.testing.assert_allclose(x / ours.scales[-1], made, rtol=1e-3, atol=1e-3 * codes)


def test_codes_are_cut_beyond_all_that_are_met(fitted: FittedModel) -> None:
    score = fitted.score
    assert isinstance(score, FrozenScore)
    low, high = score.box or ()
    other = torch.rand(20_000, len(low), generator=torch.Generator().manual_seed(5)) < 0.5
    rows = torch.cat([score.memory_rows, torch.where(other, low, high)])
    met = score.encoder.activations(rows.expand(score.n_members, -1, -1))[-1].abs()
    model = onnx.load_from_string(build_row_scorer(score, FP16))
    cuts = [
        _constants(part, node.input[1:])
        for part in _graphs(model.graph)
        for node in part.node
        if node.op_type == "Clip" and part.name == "tile"
    ]
    cuts = [cut for cut in cuts if cut[0] == -cut[1]]
    assert len(cuts) == score.n_members
    for m, (_, cut) in enumerate(cuts):
        assert cut == forward_in_half(score, m).codes >= 1.5 * float(met[m].max())


def _constants(graph: GraphProto, names: Sequence[str]) -> list[float]:
    values = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    return [float(values[name]) for name in names]


@pytest.mark.parametrize("times", [3.0, 300.0])
def test_known_rows_far_out_are_scored_as_in_float32(fitted: FittedModel, times: float) -> None:
    """With every layer scaled, the encoder's among them."""
    assert isinstance(fitted.score, FrozenScore)
    score = replace(fitted.score, memory_rows=times * fitted.score.memory_rows)
    _, scales = scaled_down(member(score.encoder, 0), farthest_corner(score))
    assert (scales[-1] < 1.0) == (times == 300.0)
    assert min(forward_in_half(score, 0).scales) < 1.0
    loss = measure_half(score, 0)
    assert 1e-6 < loss.far_relative < 0.03
    assert loss.left_out.p99_relative < FP16.p99_relative


def test_a_stray_known_row_costs_no_accuracy() -> None:
    """Its code is far beyond those of other rows; to cut it took half of a score."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(1500, 4)) @ rng.normal(size=(4, 4))
    rows[7] = 300.0 * np.array([1.0, -1.0, 0.5, 2.0])
    fitted = GANDetector(**SHORT).fit(rows).model_
    model = export_half(fitted, created_at="now")[0]
    near = rows[7] * np.linspace(0.5, 3.0, 400)[:, None] * rng.normal(1.0, 0.1, size=(400, 4))
    found = run_scorer(model, _rows(near), FP16)["score"]
    full = run_scorer(export_scorer(fitted, created_at="now")[0], _rows(near))["score"]
    assert np.abs(found / full - 1.0).max() < 0.03


def test_wide_generators_fit() -> None:
    rows = np.random.default_rng(0).normal(size=(300, 20))
    fitted = GANDetector(n_steps=20, random_state=0, device="cpu", generator_width=512).fit(rows)
    assert export_half(fitted.model_, created_at="now")[2]["far_relative"] < 0.03


def test_rows_beyond_float16_are_refused(fitted: FittedModel) -> None:
    assert isinstance(fitted.score, FrozenScore)
    score = replace(fitted.score, memory_rows=3e3 * fitted.score.memory_rows)
    with pytest.raises(UsageError, match=r"safe up to 32752, and .* export this model with --prec"):
        export_half(replace(fitted, score=score), created_at="now")


@pytest.mark.parametrize("limit", ["p99_relative", "max_relative"])
def test_what_changes_too_much_is_refused(
    fitted: FittedModel, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    """The 99th percentile on rows that are left out, and any row: the worst ones are far out."""
    assert isinstance(fitted.score, FrozenScore)
    loss = measure_half(fitted.score, 0)
    assert loss.far_relative > loss.left_out.max_relative
    found = {"p99_relative": loss.left_out.p99_relative, "max_relative": loss.far_relative}[limit]
    for share, refused in ((0.99, True), (1.01, False)):
        strict = replace(FP16, **{limit: share * found})
        monkeypatch.setattr("anomgan.export.half_loss.FP16", strict)
        if not refused:
            assert measure_half(fitted.score, 0) == loss
            continue
        with pytest.raises(UsageError, match=r"float16 changes scores by .*--precision fp32"):
            measure_half(fitted.score, 0)


def test_weights_beyond_float16_are_refused(fitted: FittedModel) -> None:
    score = fitted.score
    assert isinstance(score, FrozenScore)
    with pytest.raises(UsageError, match=r"larger than fp16 holds.*--precision fp32"):
        build_row_scorer(replace(score, preconditioner=1e7 * score.preconditioner), FP16)


def test_a_model_of_before_there_was_a_box_is_refused(fitted: FittedModel) -> None:
    score = fitted.score
    assert isinstance(score, FrozenScore)
    boxless = replace(score, settings=replace(score.settings, margin=None))
    with pytest.raises(UsageError, match=r"has no box.*fit it again, or export it with"):
        export_half(replace(fitted, score=boxless), created_at="now")


def test_a_model_that_knows_few_rows_is_refused(fitted: FittedModel) -> None:
    score = fitted.score
    assert isinstance(score, FrozenScore)
    few = replace(score, memory_rows=score.memory_rows[:9], memory_counts=score.memory_counts[:9])
    with pytest.raises(UsageError, match="knows 9 of them, at least 10 are needed"):
        measure_half(few, 0)


def test_detectors_of_the_literature_are_refused(fitted: FittedModel) -> None:
    rows = pd.DataFrame(np.random.default_rng(0).normal(size=(200, 3)))
    alad = detector_class("alad")(n_steps=20, random_state=0, device="cpu").fit(rows).model_
    with pytest.raises(UsageError, match=r"only the default detector.*'alad'.*--precision fp32"):
        export_half(alad, created_at="now")
    with pytest.raises(TypeError, match="cannot be exported in fp16"):
        build_scorer(
            alad.schema, alad.encoder, alad.score, alad.calibrator, metadata={}, precision=FP16
        )


def test_a_graph_that_rounds_too_much_is_not_written(
    fitted: FittedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = replace(FP16, p99_relative=1e-7)
    monkeypatch.setattr("anomgan.persistence.FP16", strict)
    told = r"differ from torch on .* rows.*at most 1e-07.*export it with --precision fp32"
    with pytest.raises(ExportError, match=told):
        export_half(fitted, created_at="now")


@pytest.mark.parametrize("size", [1, 7, 2048, 2049])
def test_a_row_scores_alike_in_any_batch(fitted: FittedModel, size: int) -> None:
    """On a processor; the products of a GPU add up in another order in other sizes."""
    assert isinstance(fitted.score, FrozenScore)
    model = export_half(fitted, created_at="now")[0]
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    rows = np.tile(fitted.probe.numeric, (30, 1))[:4200]
    rows = rows + 0.01 * rng.normal(size=rows.shape)
    whole = session.run(["score"], {"numeric": rows})[0]
    starts = range(0, min(len(rows), 40 * size), size)
    parts = [session.run(["score"], {"numeric": rows[i : i + size]})[0] for i in starts]
    joined = np.concatenate(parts)
    np.testing.assert_allclose(joined, whole[: len(joined)], rtol=1e-5)
