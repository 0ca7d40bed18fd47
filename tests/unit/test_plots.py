"""What the pictures of a model show: counts, names, paths; and that labels can be told apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_flagship import fitted

from anomgan.errors import UsageError
from anomgan.persistence import load_fitted
from anomgan.report import plots
from anomgan.report.figures import _labels
from anomgan.report.plots import PlotSample, feature_names, marginal, sample_model
from anomgan.tables.columns import ColumnKind


@pytest.fixture(scope="module")
def machine(machine_model: Path) -> PlotSample:
    return sample_model(load_fitted(machine_model))


def test_sample_has_the_rows_of_the_memory_and_as_many_generated_ones() -> None:
    model = fitted()
    sample = sample_model(model)
    counts = model.score.memory_counts.numpy().astype(int)
    expected = np.repeat(model.score.memory_rows.numpy(), counts, axis=0)
    np.testing.assert_array_equal(sample.real, expected)
    assert sample.generated.shape == sample.real.shape
    again = sample_model(model)
    np.testing.assert_array_equal(sample.generated, again.generated)
    assert sample_model(model, n_rows=50).real.shape == (50, 4)
    known = {tuple(row) for row in expected.astype(np.float64).tolist()}
    assert {tuple(row) for row in sample_model(model, n_rows=50).real.tolist()} <= known


@torch.no_grad()
def test_paths_lead_from_one_real_row_to_another() -> None:
    model = fitted()
    score = model.score
    for path in sample_model(model).paths:
        ends = torch.from_numpy(path.ends).float()
        given_back = score.generator.member(0)(score.encoder.member(0)(ends.unsqueeze(0)))[0]
        np.testing.assert_allclose(path.steps[[0, -1]], given_back.numpy(), rtol=1e-4, atol=1e-5)
        rows = score.memory_rows.tolist()
        assert all(end in rows for end in path.ends.astype(np.float32).tolist())
        assert path.steps.shape == (7, 4)


def test_every_feature_has_a_name_of_its_own(machine: PlotSample) -> None:
    names = feature_names(machine.columns)
    assert len(names) == machine.real.shape[1]
    assert len(set(names)) == len(names)
    assert {"speed_rpm", "speed_rpm missing", "mode = idle", "machine = missing"} <= set(names)
    place = names.index("mode = idle")
    (mode,) = [c for c in machine.columns if c.column.name == "mode"]
    single = np.zeros((1, len(names)))
    single[0, place] = 1.0
    assert mode.cells(single) == ["idle"]


def test_marginals_count_every_row_once(machine: PlotSample) -> None:
    n = 0
    for column in machine.columns:
        one = marginal(column, machine.real, machine.generated)
        if one is None:
            continue
        n += 1
        for shares, gone in ((one.real, one.missing[0]), (one.generated, one.missing[1])):
            assert shares.sum() + gone == pytest.approx(1.0)
            assert len(shares) == (len(one.states) if one.edges is None else len(one.edges) - 1)
        assert 0.0 <= one.difference <= 1.0
        same = marginal(column, machine.real, machine.real)
        assert same is not None
        assert same.difference == 0.0
        if column.column.kind is ColumnKind.CATEGORICAL:
            cells = column.cells(machine.real)
            for state, share in zip(one.states, one.real, strict=True):
                assert share == pytest.approx(cells.count(state) / len(cells))
    assert n >= 8


def test_far_generated_numbers_neither_vanish_nor_squeeze_the_real_ones() -> None:
    column = sample_model(fitted()).columns[0]
    real = np.tile(np.linspace(-1.0, 1.0, 101)[:, None], (1, 4))
    one = marginal(column, real, real + 1e4)
    assert one is not None
    assert one.edges is not None
    assert one.generated[-1] == pytest.approx(1.0)
    assert (one.real > 0.0).sum() >= 15
    assert one.difference == pytest.approx(1.0, abs=0.05)
    flat = marginal(column, 0.0 * real, 0.0 * real)
    assert flat is not None
    assert flat.difference == 0.0


def test_parts_of_dates_stand_in_the_order_of_the_calendar() -> None:
    place = plots._calendar_place
    assert sorted(["23", "00", "07"], key=place) == ["00", "07", "23"]
    assert sorted(["Fri", "Sun", "Mon"], key=place) == ["Mon", "Fri", "Sun"]
    assert sorted(["Dec", "Apr", "Jan"], key=place) == ["Jan", "Apr", "Dec"]


def test_labels_that_are_cut_can_be_told_apart() -> None:
    assert _labels(["short", "two\nlines"]) == ["short", "two lines"]
    assert _labels(["a rather long name 01", "b"], 11) == ["a rat…me 01", "b"]
    alike = [f"state number {i} with a long end" for i in (3, 7)]
    assert _labels([*alike, "4 more"], 12) == ["stat…3 with ", "stat…7 with ", "4 more"]


def test_generators_that_diverged_are_an_error_and_no_picture() -> None:
    model = fitted()
    weights = model.score.generator
    broken = weights.__class__(
        tuple(m * torch.nan for m in weights.matrices), weights.biases, weights.activation
    )
    with pytest.raises(UsageError, match="generated rows are not finite"):
        sample_model(replace(model, score=replace(model.score, generator=broken)))
