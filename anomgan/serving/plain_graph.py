"""What a graph may be made of, looked at before onnxruntime is given it.

An ONNX file is a protobuf message. It may name other files to read tensors from, operators that
are native code, functions, tensors that are declared to be far larger than the file. None of it
stands in a scorer of anomgan, and how a runtime takes it changes from one release to the next: so
it is refused here, by walking through the message field by field. Nothing is unpacked, and the
package onnx, which serving does without, is not needed.

Field numbers are those of ``onnx.proto3`` (https://github.com/onnx/onnx, IR version 10). A field
that is unknown there is skipped, as protobuf does.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Final

from anomgan.errors import ModelCorruptError

__all__ = ["DOMAINS", "require_plain_graph"]

DOMAINS: Final = ("", "ai.onnx", "ai.onnx.ml")
"""Where operators may come from: the standard ones, two spellings, and those for texts."""

_ORT_MARK = b"ORTM"  # in bytes 4 to 8: onnxruntime would read no protobuf at all
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT = 10  # bytes
_MAX_SHORT = 5  # bytes of a tag or a length
_MAX_DEPTH = 16  # graphs within graphs; ours have three
_ELEMENTS_PER_BYTE = 2  # the narrowest type packs two numbers a byte

# Model
_GRAPH, _OPSET, _TRAINING, _FUNCTIONS = 7, 8, 20, 25
_OPSET_DOMAIN = 1
# Graph
_NODE, _INITIALIZER, _SPARSE = 1, 5, 15
# Node
_OP_TYPE, _ATTRIBUTE, _NODE_DOMAIN = 4, 5, 7
# Attribute: one tensor and one graph, several of each, and sparse ones
_TENSOR, _SUBGRAPH, _TENSORS, _SUBGRAPHS, _SPARSE_TENSOR, _SPARSE_TENSORS = 5, 6, 10, 11, 22, 23
# and what it may hold thousands of: floats, integers and short texts, one field each
_FLOATS, _INTS, _STRINGS = 7, 8, 9
# Tensor
_DIMS, _TENSOR_NAME, _EXTERNAL, _LOCATION = 1, 8, 13, 14


def _run_of_values() -> re.Pattern[bytes]:
    """Match up to 1 024 fields of an attribute that hold numbers and short texts.

    What is unbounded would remember every field that it might have to give back; what gives nothing
    back (``++``) ends in the middle of a field in Python before 3.11.5.
    """
    any_byte = rb"[\x00-\xff]"
    texts = b"|".join(b"%s%s{%d}" % (re.escape(bytes([n])), any_byte, n) for n in range(16))
    kinds = (
        (_FLOATS, _FIXED32, any_byte + rb"{4}"),
        (_INTS, _VARINT, rb"[\x80-\xff]{0,9}[\x00-\x7f]"),
        (_STRINGS, _BYTES, rb"(?:%s)" % texts),
    )
    fields = (re.escape(bytes([number << 3 | kind])) + value for number, kind, value in kinds)
    return re.compile(rb"(?:%s){1,1024}" % b"|".join(fields))


_VALUES: Final = _run_of_values()
"""A search tree has some 20 000 of them, and to walk through these takes long."""

Field = tuple[int, int, int, int]
"""Number, wire type, and where its bytes start and end; a varint's value stands for both."""


def require_plain_graph(model: bytes, source: str) -> None:
    """Refuse a model that holds anything but plain nodes and its own weights.

    Parameters
    ----------
    model : bytes
        A serialised ONNX model.
    source : str
        For messages.

    Raises
    ------
    ModelCorruptError
        It is no such message, or one that a reader may take as another; it refers to other files;
        it uses operators that are not standard, functions, sparse tensors or a part for training;
        or a tensor declares more elements than the file holds for it.
    """
    try:
        _model(model)
    except _Refused as fault:
        raise ModelCorruptError(
            f"{source} is no scorer that anomgan would have written: {fault}; it is not opened"
        ) from None


class _Refused(Exception):
    """What is wrong, as a clause."""


def _fields(
    data: bytes, start: int, end: int, skipped: re.Pattern[bytes] | None = None
) -> Iterator[Field]:
    """Cut a message into its fields, but for those that are skipped."""
    at = start
    while at < end:
        run = skipped.match(data, at, end) if skipped else None
        if run:
            at = run.end()
            continue
        tag = data[at]
        if tag < 0x80:
            at += 1
        else:
            tag, at = _short(data, at, end)
        number, kind = tag >> 3, tag & 7
        if number == 0:
            raise _Refused("it is no ONNX model")
        if kind == _BYTES:
            length, at = _short(data, at, end)
            stop = at + length
            if stop > end:
                raise _Refused("it is cut short, or no ONNX model")
            yield number, kind, at, stop
            at = stop
        elif kind == _VARINT:
            value, at = _varint(data, at, end)
            yield number, kind, value, value
        elif kind in (_FIXED64, _FIXED32):
            stop = at + (8 if kind == _FIXED64 else 4)
            if stop > end:
                raise _Refused("it is cut short, or no ONNX model")
            yield number, kind, at, stop
            at = stop
        else:
            raise _Refused("it is no ONNX model")


def _short(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Read a tag or a length, as `_varint`; refuse what readers cut to 32 bits, each its own way.

    To a reader that drops the upper bits, field 2^29 + n is field n.
    """
    value, after = _varint(data, at, end)
    n_bytes = after - at
    if value >= 2**32 or n_bytes > _MAX_SHORT or (n_bytes > 1 and data[after - 1] == 0):
        raise _Refused("it states a field in more bytes than that takes")
    return value, after


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Read a number of variable length; return it and where it ends."""
    value = shift = 0
    for place in range(at, min(at + _MAX_VARINT, end)):
        byte = data[place]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, place + 1
        shift += 7
    raise _Refused("it is cut short, or no ONNX model")


def _model(data: bytes) -> None:
    if data[4:8] == _ORT_MARK:
        raise _Refused("it is marked as of onnxruntime's own format, which is no ONNX")
    n_graphs = 0
    for number, kind, start, end in _fields(data, 0, len(data)):
        if kind != _BYTES:
            continue
        if number == _GRAPH:
            n_graphs += 1
            _graph(data, start, end, depth=0)
        elif number == _OPSET:
            _opset(data, start, end)
        elif number == _FUNCTIONS:
            raise _Refused("it has functions of its own")
        elif number == _TRAINING:
            raise _Refused("it has a part for training")
    if n_graphs != 1:
        raise _Refused(f"{n_graphs} graphs are in it where one is expected")


def _opset(data: bytes, start: int, end: int) -> None:
    for number, kind, first, last in _fields(data, start, end):
        if number == _OPSET_DOMAIN and kind == _BYTES:
            _require_domain(data[first:last])


def _require_domain(name: bytes, operator: bytes = b"") -> None:
    if name.decode("utf-8", "replace") not in DOMAINS:
        which = f" ({_shown(operator)})" if operator else ""
        raise _Refused(f"it uses operators of {_shown(name)}{which}, which are not standard")


def _graph(data: bytes, start: int, end: int, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise _Refused(f"graphs are nested more than {_MAX_DEPTH} deep")
    for number, kind, first, last in _fields(data, start, end):
        if kind != _BYTES:
            continue
        if number == _NODE:
            _node(data, first, last, depth)
        elif number == _INITIALIZER:
            _tensor(data, first, last)
        elif number == _SPARSE:
            raise _Refused("it has sparse tensors")


def _node(data: bytes, start: int, end: int, depth: int) -> None:
    operator, domains = b"", [b""]
    for number, kind, first, last in _fields(data, start, end):
        if kind != _BYTES:
            continue
        if number == _ATTRIBUTE:
            _attribute(data, first, last, depth)
        elif number == _OP_TYPE:
            operator = data[first:last]
        elif number == _NODE_DOMAIN:
            domains.append(data[first:last])
    for domain in domains:
        _require_domain(domain, operator)


def _attribute(data: bytes, start: int, end: int, depth: int) -> None:
    singles = 0
    for number, kind, first, last in _fields(data, start, end, _VALUES):
        if kind != _BYTES:
            continue
        if number in (_SUBGRAPH, _SUBGRAPHS):
            _graph(data, first, last, depth + 1)
        elif number in (_TENSOR, _TENSORS):
            _tensor(data, first, last)
        elif number in (_SPARSE_TENSOR, _SPARSE_TENSORS):
            raise _Refused("it has sparse tensors")
        # Two of what may be there once would be merged into something that was not looked at.
        singles += number in (_TENSOR, _SUBGRAPH)
    if singles > 1:
        raise _Refused("a node states one setting twice")


def _tensor(data: bytes, start: int, end: int) -> None:
    """Refuse data elsewhere, and more elements than there are bytes for."""
    dims: list[int] = []
    name = b""
    for number, kind, first, last in _fields(data, start, end):
        if number == _EXTERNAL or (number == _LOCATION and first):
            raise _Refused("its weights are in another file, which is not read")
        if number == _TENSOR_NAME and kind == _BYTES:
            name = data[first:last]
        elif number == _DIMS and kind == _VARINT:
            dims.append(first)
        elif number == _DIMS and kind == _BYTES:
            while first < last:
                value, first = _varint(data, first, last)
                dims.append(value)
    declared = math.prod(dims)
    if declared > _ELEMENTS_PER_BYTE * (end - start):
        raise _Refused(
            f"the tensor {_shown(name)} declares {declared} elements and has {end - start} bytes"
        )


def _shown(name: bytes) -> str:
    text = repr(name[:60].decode("utf-8", "replace"))
    return text if len(name) <= 60 else f"{text}..."
