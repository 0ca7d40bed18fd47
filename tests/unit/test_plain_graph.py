"""What a scoring graph may be made of: what our exporters write, and nothing that reaches out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from golden_models import GOLDEN
from hostile import REAL
from hypothesis import example, given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from anomgan.errors import ModelCorruptError
from anomgan.serving import Scorer, plain_graph
from anomgan.serving.plain_graph import require_plain_graph
from anomgan.serving.providers import make_session

SCORER = (REAL / "flagship" / "scorer.onnx").read_bytes()


def _changed(change: Callable[[onnx.ModelProto], object]) -> bytes:
    model = onnx.load_from_string(SCORER)
    change(model)
    return bytes(model.SerializeToString())


def _external(location: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", "0"), ("length", "64")):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value

    return change


def _external_inside(model: onnx.ModelProto) -> None:
    inner = next(a.g for n in model.graph.node for a in n.attribute if a.g.initializer)
    inner.initializer[0].data_location = TensorProto.EXTERNAL


def _foreign(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.evil", 1))
    model.graph.node.append(helper.make_node("Run", ["numeric"], ["x"], domain="com.evil"))


def _foreign_inside(model: onnx.ModelProto) -> None:
    inner = next(a.g for n in model.graph.node for a in n.attribute if a.g.node)
    inner.node[0].domain = "com.microsoft"


def _functions(model: onnx.ModelProto) -> None:
    node = helper.make_node("Identity", ["a"], ["b"])
    opsets = [helper.make_opsetid("", 20)]
    model.functions.append(helper.make_function("", "F", ["a"], ["b"], [node], opsets))


def _training(model: onnx.ModelProto) -> None:
    model.training_info.add()


def _sparse(model: onnx.ModelProto) -> None:
    values = numpy_helper.from_array(np.ones(1, np.float32), "v")
    places = numpy_helper.from_array(np.zeros(1, np.int64), "i")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [2**40]))


def _huge(model: onnx.ModelProto) -> None:
    del model.graph.initializer[0].dims[:]
    model.graph.initializer[0].dims.extend([2**31, 2**31])


def _negative(model: onnx.ModelProto) -> None:
    del model.graph.initializer[0].dims[:]
    model.graph.initializer[0].dims.extend([-1])


def _huge_constant(model: onnx.ModelProto) -> None:
    tensor = TensorProto(data_type=TensorProto.FLOAT, dims=[2**33])
    model.graph.node.append(helper.make_node("Constant", [], ["huge"], value=tensor))


def _nested(model: onnx.ModelProto) -> None:
    graph = model.graph
    for _ in range(40):
        node = graph.node.add(op_type="If")
        graph = node.attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH).g


REFUSED: list[tuple[Callable[[onnx.ModelProto], None], str]] = [
    (_external("../../secret"), "its weights are in another file, which is not read"),
    (_external("weights.safetensors"), "its weights are in another file, which is not read"),
    (_external_inside, "its weights are in another file, which is not read"),
    (_foreign, "operators of 'com.evil'"),
    (_foreign_inside, "operators of 'com.microsoft' .*, which are not standard"),
    (_functions, "functions of its own"),
    (_training, "a part for training"),
    (_sparse, "sparse tensors"),
    (_huge, r"declares \d{10,} elements and has \d+ bytes"),
    (_negative, "declares 18446744073709551615 elements"),
    (_huge_constant, "declares 8589934592 elements"),
    (_nested, "graphs are nested more than 16 deep"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_a_graph_that_reaches_out_or_grows_is_refused(
    change: Callable[[onnx.ModelProto], None], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "scorer.onnx"
    path.write_bytes(_changed(change))
    with pytest.raises(ModelCorruptError, match=f"is no scorer .*{message}.*not opened"):
        Scorer.open(path, providers="cpu")


@pytest.mark.parametrize("place", [b"LabelEncoder", b"Gather", b"anomgan.schema", b'"columns"'])
def test_what_is_no_text_in_a_graph_is_told_by_us_alone(
    place: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "scorer.onnx"
    at = SCORER.index(place) + 2
    path.write_bytes(SCORER[:at] + b"\xff" + SCORER[at + 1 :])
    with pytest.raises(ModelCorruptError, match=r"onnxruntime cannot open the scorer|metadata"):
        Scorer.open(path, providers="cpu")
    assert capfd.readouterr().out == ""  # which scores may be written to


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("anomgan.format_version", "²", "has format ²"),
        ("anomgan.format_version", "1" * 5000, "has format 1+ and this"),
        ("anomgan.calibration", "[" * 100_000, "nested too deeply"),
        ("anomgan.calibration", "1", "it is no object"),
        ("anomgan.calibration", '{"n": []}', "has no usable n and no usable resolution"),
        ("anomgan.calibration", '{"n": 1, "n": 2}', "a field occurs twice"),
        ("anomgan.feature_names", '{"a": 1}', "feature names are not those of its schema"),
        ("anomgan.feature_names", "3", "metadata of .* is damaged"),
    ],
)
def test_odd_metadata_are_refused(key: str, value: str, message: str, tmp_path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        for entry in model.metadata_props:
            entry.value = value if entry.key == key else entry.value

    path = tmp_path / "scorer.onnx"
    path.write_bytes(_changed(change))
    with pytest.raises(ModelCorruptError, match=message):
        Scorer.open(path, providers="cpu")


def _varint(value: int) -> bytes:
    content = b""
    while value >= 0x80:
        content, value = content + bytes([value & 0x7F | 0x80]), value >> 7
    return content + bytes([value])


def _field(number: int, content: bytes, tag: bytes | None = None) -> bytes:
    return (tag or _varint(number << 3 | 2)) + _varint(len(content)) + content


def _beyond_32_bits(number: int) -> bytes:
    return _varint(1 << 32 | number << 3 | 2)  # the field 2^29 + number


def _padded(number: int) -> bytes:
    return bytes([number << 3 | 2 | 0x80, 0x80, 0x80, 0x80, 0x00])


def _wrapped(number: int) -> bytes:
    return bytes([number << 3 | 2 | 0x80]) + b"\x80" * 8 + b"\x02"  # 2^64 more than the tag


def _hidden_foreign(tag: Callable[[int], bytes]) -> bytes:
    """A real scorer, and a node whose domain stands behind an odd tag."""
    model = onnx.load_from_string(SCORER)
    node = helper.make_node("Gelu", ["false_alarm_rate"], ["hidden"]).SerializeToString()
    node += _field(7, b"com.microsoft", tag(7))
    graph = _field(1, node) + model.graph.SerializeToString()
    opset = _field(1, b"com.microsoft", tag(1)) + b"\x10\x01"
    model.ClearField("graph")
    return bytes(model.SerializeToString() + _field(8, opset) + _field(7, graph))


def _hidden_location(tag: Callable[[int], bytes]) -> bytes:
    """A real scorer, and a weight that is said to be in another file behind an odd tag."""
    model = onnx.load_from_string(SCORER)
    weight = TensorProto(name="hidden", data_type=TensorProto.FLOAT, dims=[1]).SerializeToString()
    for key, value in ((b"location", b"secret"), (b"length", b"4")):
        weight += _field(13, _field(1, key) + _field(2, value), tag(13))
    graph = model.graph.SerializeToString() + _field(5, weight)
    model.ClearField("graph")
    return bytes(model.SerializeToString() + _field(7, graph))


@pytest.mark.parametrize("hidden", [_hidden_foreign, _hidden_location])
@pytest.mark.parametrize("tag", [_beyond_32_bits, _padded, _wrapped])
def test_nothing_hides_behind_a_tag_that_readers_take_in_two_ways(
    hidden: Callable[[Callable[[int], bytes]], bytes], tag: Callable[[int], bytes], tmp_path: Path
) -> None:
    path = tmp_path / "scorer.onnx"
    path.write_bytes(hidden(tag))
    with pytest.raises(ModelCorruptError, match="states a field in more bytes than that takes"):
        Scorer.open(path, providers="cpu")


def test_a_length_of_more_bytes_than_it_takes_is_refused() -> None:
    for length in (b"\x80\x00", b"\x80\x80\x80\x80\x10", b"\x80" * 9 + b"\x02"):
        with pytest.raises(ModelCorruptError, match="in more bytes than that takes"):
            require_plain_graph(b"\x3a" + length, "x.onnx")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 graphs are in it"),
        (b"\0" * 64, "it is no ONNX model"),
        (b"hello, this is text", "no ONNX model"),
        (b"\x08", "cut short"),
        (b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "cut short"),
        (SCORER[: len(SCORER) // 2], "cut short"),
        (SCORER + _field(7, b""), "2 graphs are in it"),
        # A second value of a single field is merged with the first: dims here, data there.
        (
            _field(7, _field(1, _field(5, _field(5, b"\x08\x01") + _field(5, b"\x10\x01")))),
            "states one setting twice",
        ),
    ],
)
def test_what_is_no_model_is_said(content: bytes, message: str) -> None:
    with pytest.raises(ModelCorruptError, match=message):
        require_plain_graph(content, "x.onnx")


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*/*/scorer.onnx")))
def test_what_the_exporters_write_passes(path: Path) -> None:
    require_plain_graph(path.read_bytes(), str(path))


def _marked(content: bytes) -> bytes:
    """A model that begins as a file of onnxruntime's own format does: an offset, and ORTM."""
    return b"\x48\x00" + _field(9, b"ORTM" + bytes(56)) + content  # model version, unknown field


def test_a_file_that_onnxruntime_would_not_read_as_onnx_is_refused(tmp_path: Path) -> None:
    polyglot = _marked(SCORER)
    assert polyglot[4:8] == b"ORTM"
    assert onnx.load_from_string(polyglot).graph.node  # to protobuf it is a model
    path = tmp_path / "scorer.onnx"
    path.write_bytes(polyglot)
    with pytest.raises(ModelCorruptError, match="onnxruntime's own format, which is no ONNX"):
        Scorer.open(path, providers="cpu")


def test_a_session_reads_onnx_whatever_the_mark() -> None:
    session, _ = make_session(_marked(SCORER), providers="cpu")
    assert "numeric" in {value.name for value in session.get_inputs()}


def test_packed_dims_are_read_as_plain_ones() -> None:
    dims = b"\x80\x80\x80\x80\x10\x02"  # 2^32 and 2
    with pytest.raises(ModelCorruptError, match="declares 8589934592 elements"):
        require_plain_graph(_field(7, _field(5, _field(1, dims))), "x.onnx")


_NUMBER = st.integers(0, 2**64 - 1).map(_varint)
FIELDS = st.one_of(
    st.tuples(st.sampled_from([7, 8, 9, 1, 20, 40]), st.binary(max_size=40)).map(
        lambda pair: _varint(pair[0] << 3 | 2) + _varint(len(pair[1])) + pair[1]
    ),
    st.tuples(st.sampled_from([7, 8, 9, 2]), _NUMBER).map(
        lambda pair: _varint(pair[0] << 3) + pair[1]
    ),
    st.tuples(st.sampled_from([7, 8, 9, 2]), st.binary(min_size=4, max_size=4)).map(
        lambda pair: _varint(pair[0] << 3 | 5) + pair[1]
    ),
    st.tuples(st.sampled_from([7, 8]), st.binary(min_size=8, max_size=8)).map(
        lambda pair: _varint(pair[0] << 3 | 1) + pair[1]
    ),
)


@given(st.lists(FIELDS, max_size=30), st.integers(0, 3))
@example([b"@\x01@\x80"], 0)  # a number without an end after a whole one
@example([b"@\x01J\x0a\x01a"], 0)  # a text that is cut short after a number
def test_what_is_skipped_is_what_nobody_looks_at(fields: list[bytes], cut: int) -> None:
    """The same fields are seen, and the same faults found, as on a walk through every value."""
    message = b"".join(fields)
    end = max(0, len(message) - cut)

    def seen(*skipped: object) -> tuple[list[object], bool]:
        found: list[object] = []
        try:
            fields = plain_graph._fields(message, 0, end, *skipped)  # type: ignore[arg-type]
            found.extend(field for field in fields if field[0] not in (7, 8, 9))
        except plain_graph._Refused:
            return found, True
        return found, False

    assert seen(plain_graph._VALUES) == seen()


def test_a_long_run_of_values_is_passed_over() -> None:
    """A search tree of thousands of numbers is not walked through one by one."""
    ints = b"".join(_varint(8 << 3) + _varint(n) for n in range(20_000))
    names = (_varint(9 << 3 | 2) + b"\x0aBRANCH_LEQ") * 5_000
    floats = (_varint(7 << 3 | 5) + b"\xff\x00\x0a\x80") * 5_000
    message = floats + ints + names
    at, steps = 0, 0
    while run := plain_graph._VALUES.match(message, at, len(message)):
        at, steps = run.end(), steps + 1
    assert at == len(message)
    assert steps == 30  # of 30 000 values
