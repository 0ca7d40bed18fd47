"""A model's generators measured by the rows of a table of any length."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from tiny_flagship import fitted

from anomgan import GANDetector
from anomgan.errors import InputError, UsageError
from anomgan.estimator import detector_class
from anomgan.evaluation.generator_quality import judge_generator
from anomgan.evaluation.generators import IDEALS, _drawn, judge_on_rows, row_generators
from anomgan.tables.readers import open_table


def table(n: int = 60, seed: int = 5) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, 4)) @ np.random.default_rng(0).normal(size=(4, 4))
    return pl.DataFrame({f"x{i}": rows[:, i] for i in range(4)})


def test_measures_are_those_of_the_rows_as_the_networks_see_them() -> None:
    model, frame = fitted(), table()
    with open_table(frame) as reader:
        found = judge_on_rows(model, reader)
    with open_table(frame) as reader:
        (batch,) = reader
    rows = torch.from_numpy(model.encoder.transform(model.schema.rows(batch)).features)
    score = model.score
    expected = judge_generator(
        rows,
        score.generator,
        latent_dim=model.parameters.latent_dim,
        n_members=2,
        features=lambda x: score.discriminator.activations(x)[-2],
    )
    assert found.members == expected
    assert (found.n_rows, found.n_judged, found.n_unreadable) == (60, 60, 0)
    assert set(IDEALS) == set(expected[0].to_dict())


def test_the_draw_does_not_depend_on_how_the_table_is_read() -> None:
    model, frame = fitted(), table(300)
    found = []
    for batch_rows in (7, 64, 1000):
        with open_table(frame, batch_rows=batch_rows) as reader:
            found.append(judge_on_rows(model, reader, most=50))
    assert found[0] == found[1] == found[2]
    assert (found[0].n_rows, found[0].n_judged) == (300, 50)
    with open_table(frame) as reader:
        assert judge_on_rows(model, reader, most=50, seed=1).members != found[0].members


def test_every_row_is_drawn_as_often_and_none_twice() -> None:
    block = np.arange(30, dtype=np.float32)[:, None]
    drawn = np.stack(
        [_drawn(iter([block[:11], block[11:]]), 10, np.random.default_rng(s)) for s in range(900)]
    )[..., 0]
    assert (np.diff(drawn, axis=1) > 0).all()  # in the order of the table, none twice
    counts = np.bincount(drawn.astype(int).ravel(), minlength=30)
    # Binomial, n = 900, p = 1/3: standard deviation 14; 30 rows, so 5 are passed in 2 of 10^5.
    assert (np.abs(counts - 300) < 5 * 14.2).all()


def test_too_few_rows_are_refused() -> None:
    with open_table(table(9)) as reader, pytest.raises(InputError, match="has 9 rows that can be"):
        judge_on_rows(fitted(), reader)


def test_a_detector_of_the_literature_has_one_generator_and_no_features() -> None:
    frame = table(120)
    detector = detector_class("alad")(n_steps=10, random_state=0, device="cpu").fit(frame)
    with open_table(frame) as reader:
        (member,) = judge_on_rows(detector.model_, reader).members
    assert member.frechet_distance_features is None
    assert member.path_length_features is None
    assert np.isfinite([v for v in member.to_dict().values() if v is not None]).all()


def test_codes_and_rows_have_the_shapes_of_the_model() -> None:
    model = GANDetector(
        n_members=3, n_steps=5, latent_dim=2, random_state=0, device="cpu", discriminator_width=7
    ).fit(table(80))
    generators = row_generators(model.model_, asked="a test")
    made = generators.generate(torch.zeros(3, 5, 2))
    assert made.shape == (3, 5, 4)
    assert generators.encode is not None
    assert generators.encode(made[0]).shape == (5, 2)
    assert generators.features is not None
    assert generators.features(made).shape == (3, 5, 7)


@pytest.mark.parametrize(
    "broken",
    [
        lambda t: 1e7 * t,
        lambda t: 1.5e8 + t,
        lambda t: 1.7e9 + np.arange(len(t)),
        lambda t: np.full(len(t), 1e300),
    ],
)
def test_columns_of_huge_values_are_judged_too(broken: Any) -> None:
    """As where seconds since 1970 stand in the place of scaled values."""
    frame = table().to_pandas()
    frame["x1"] = broken(frame["x1"].to_numpy())
    with open_table(frame) as reader:
        (member, _) = judge_on_rows(fitted(), reader).members
    assert member.to_dict()["coverage"] <= 0.1


def test_rows_that_need_more_than_a_code_are_not_taken_for_generated_ones() -> None:
    for context in ((), ("x0",)):
        model = detector_class("conditional")(context=context, n_steps=5, random_state=0)
        with pytest.raises(UsageError, match="the detector conditional keeps none"):
            row_generators(model.fit(table()).model_, asked="this")
