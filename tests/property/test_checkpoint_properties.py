"""What holds for any training state that goes through a file."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_flagship import tiny_trainer

from anomgan.training.checkpoints import Checkpointer
from anomgan.training.selection import SelectionState

TRAINER = tiny_trainer(n_steps=1)
COUNTS = st.integers(0, 10**9)


@st.composite
def findings(draw: st.DrawFn) -> SelectionState:
    n = draw(st.integers(1, 6))
    shapes = draw(st.lists(st.lists(st.integers(0, 4), max_size=2), max_size=4))
    rng = torch.Generator().manual_seed(draw(COUNTS))
    return SelectionState(
        steps=tuple(draw(st.lists(COUNTS, min_size=n, max_size=n))),
        qualities=tuple(draw(st.lists(st.floats(0.0, 1.0), min_size=n, max_size=n))),
        restarts=tuple(draw(st.lists(COUNTS, min_size=n, max_size=n))),
        best=[torch.randn((n, *shape), generator=rng) for shape in shapes],
    )


@given(st.none() | findings(), COUNTS, st.floats(0.0, 1.0), COUNTS)
@settings(max_examples=60, deadline=None)
def test_a_state_comes_back_bit_by_bit(
    selection: SelectionState | None, step: int, rate_factor: float, n_rollbacks: int
) -> None:
    written = replace(
        TRAINER._snapshot(),
        step=step,
        rate_factor=rate_factor,
        n_rollbacks=n_rollbacks,
        selection=selection,
    )
    with tempfile.TemporaryDirectory() as folder:
        keeper = Checkpointer(Path(folder) / "c", fingerprint="rows", resume=True)
        keeper.save(written)
        read = keeper.load(torch.device("cpu"))
    assert read is not None
    assert (read.step, read.rate_factor, read.n_rollbacks) == (step, rate_factor, n_rollbacks)
    if selection is None:
        assert read.selection is None
        return
    assert read.selection is not None
    for name in ("steps", "qualities", "restarts"):
        assert getattr(read.selection, name) == getattr(selection, name)
    assert len(read.selection.best) == len(selection.best)
    for one, other in zip(read.selection.best, selection.best, strict=True):
        assert torch.equal(one, other)
