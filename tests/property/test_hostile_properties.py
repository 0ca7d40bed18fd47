"""Whatever reads bytes that others wrote reads them or raises an AnomganError, and nothing else.

A few seconds of `tests/acceptance/fuzz.py`; and the seams between what is written and what is read.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from fuzz_targets import TARGETS, UNPROMISED, Target, outcome
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import Mutator

from anomgan.errors import ModelCorruptError
from anomgan.serving.plain_graph import require_plain_graph
from anomgan.untrusted import parse_arrays, parse_json

CASES = 8_000  # by share; each target has 5 at least
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
)


@pytest.mark.parametrize(
    "target", [t for t in TARGETS if t.name not in UNPROMISED], ids=lambda target: target.name
)
def test_damaged_files_are_read_or_refused(target: Target, tmp_path: Path) -> None:
    run, seeds = target.start(tmp_path), target.seeds()
    mutator = Mutator(seeds, target.tokens, random.Random(target.name))
    n_read = 0
    for case in seeds:
        read, error = outcome(run, case)
        assert error is None, case[:300]
        n_read += read
    assert n_read  # or the target refuses everything, and finds nothing
    for _ in range(max(5, round(CASES * target.share))):
        case = mutator.case()
        read, error = outcome(run, case)
        assert error is None, f"{error!r}: {case[:1000]!r}"
        if read:
            mutator.keep(case)


@given(JSON)
@settings(max_examples=100, deadline=None)
def test_json_without_infinities_comes_back(value: object) -> None:
    assert parse_json(json.dumps(value), "x") == value


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_bytes_are_refused_as_everything(content: bytes) -> None:
    for read in (parse_json, parse_arrays):
        try:
            read(content, "x")
        except ModelCorruptError:
            continue
    with pytest.raises(ModelCorruptError):
        require_plain_graph(content, "x")
