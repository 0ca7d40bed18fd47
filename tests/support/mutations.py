"""Damage to real files as an attacker or a bad disk would do it, the same for the same seed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 2**31, 2**63, -(2**63) - 1, 2**70, 10**30),
    *(0.0, -0.0, 0.5, 1e-320, 1e300, -1e308, 1.5),
    *("", " ", "\0", "x", "1", "nan", "?", "é", "\ud800", "\u202e", "\x1b[31m", "x" * 3000),
    *([], {}, [[]], [None], [0], [""], {"a": 1}, {"": {}}, [1, [2, [3, [4]]]]),
)
NUMBERS = (b"0", b"-1", b"1", b"255", b"65536", b"4294967296", b"1e999", b"-1e308", b"NaN", b"1e-9")


class Mutator:
    """Makes cases out of real ones.

    Parameters
    ----------
    seeds : sequence of bytes
        Real contents. Cases that were read without an error join them, so that damage adds up.
    tokens : sequence of bytes
        What has a meaning in this kind of content.
    rng : random.Random
    """

    most_kept = 200

    def __init__(self, seeds: Sequence[bytes], tokens: Sequence[bytes], rng: random.Random) -> None:
        self._seeds, self._kept = list(seeds), list[bytes]()
        self._tokens = [*tokens, *NUMBERS, b"\0", b"\xff", b"\n", b'"', b"\xed\xa0\x80"]
        self._rng = rng

    def case(self) -> bytes:
        """Return the next case."""
        rng = self._rng
        content = rng.choice(self._kept if self._kept and rng.random() < 0.3 else self._seeds)
        if content[:1] in (b"{", b"[") and rng.random() < 0.8:
            content = self._json(content)
            if rng.random() < 0.85:
                return content
        for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
            content = rng.choice(_DAMAGE)(content, self._tokens, rng)
        if rng.random() < 0.1:
            other = rng.choice(self._seeds)
            content = content[: _place(content, rng)] + other[_place(other, rng) :]
        return content

    def keep(self, case: bytes) -> None:
        """Go on from a case that was read."""
        if len(case) > 4 * max(map(len, self._seeds)):
            return
        if len(self._kept) < self.most_kept:
            self._kept.append(case)
        else:
            self._kept[self._rng.randrange(self.most_kept)] = case

    def _json(self, content: bytes) -> bytes:
        try:
            value = json.loads(content)
        except (ValueError, RecursionError):
            return content
        for _ in range(self._rng.choice((1, 1, 2, 4))):
            value = _changed(value, self._rng)
        return json.dumps(value).encode()


def _changed(value: Any, rng: random.Random) -> Any:
    """Change one place in JSON content."""
    if not isinstance(value, dict | list) or not value or rng.random() < 0.05:
        return _odd(value, rng)
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = rng.choice(keys)
    deeper = isinstance(value[key], dict | list) and rng.random() < 0.85
    if deeper:
        value[key] = _changed(value[key], rng)
        return value
    kind = rng.random()
    if kind < 0.55:
        value[key] = _odd(value[key], rng)
    elif kind < 0.7:
        del value[key]
    elif kind < 0.85:
        value[key] = value[rng.choice(keys)]
    elif isinstance(value, dict):
        value[str(rng.choice(ODD_VALUES))] = value.pop(key)
    else:
        value.insert(rng.randrange(len(value) + 1), value[key])
    return value


def _odd(value: Any, rng: random.Random) -> Any:
    kind = rng.random()
    if kind < 0.2 and isinstance(value, int | float):
        return rng.choice((-value, value + 1, value * 1e6, str(value), [value]))
    if kind < 0.3 and isinstance(value, str):
        return rng.choice((value * 2, value[1:], value.upper(), f" {value}", [value]))
    odd = rng.choice(ODD_VALUES)
    return json.loads(json.dumps(odd)) if isinstance(odd, dict | list) else odd


def _place(content: bytes, rng: random.Random) -> int:
    return rng.randrange(len(content) + 1)


def _span(content: bytes, rng: random.Random) -> tuple[int, int]:
    start = _place(content, rng)
    return start, min(len(content), start + rng.choice((1, 2, 4, 8, 32, 200)))


Damage = Callable[[bytes, Sequence[bytes], random.Random], bytes]


def _flip(content: bytes, tokens: Sequence[bytes], rng: random.Random) -> bytes:
    if not content:
        return content
    place = rng.randrange(len(content))
    flipped = bytes([content[place] ^ 1 << rng.randrange(8)])
    return content[:place] + flipped + content[place + 1 :]


def _set(content: bytes, tokens: Sequence[bytes], rng: random.Random) -> bytes:
    if not content:
        return content
    place = rng.randrange(len(content))
    value = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    return content[:place] + bytes([value]) + content[place + 1 :]


def _insert(content: bytes, tokens: Sequence[bytes], rng: random.Random) -> bytes:
    place = _place(content, rng)
    return content[:place] + rng.choice(tokens) + content[place:]


def _overwrite(content: bytes, tokens: Sequence[bytes], rng: random.Random) -> bytes:
    place, token = _place(content, rng), rng.choice(tokens)
    return content[:place] + token + content[place + len(token) :]


def _delete(content: bytes, tokens: Sequence[bytes], rng: random.Random) -> bytes:
    start, end = _span(content, rng)
    return content[:start] + content[end:]


def _repeat(content: bytes, tokens: Sequence[bytes], rng: random.Random) -> bytes:
    start, end = _span(content, rng)
    return content[:end] + content[start:end] * rng.choice((1, 2, 50)) + content[end:]


def _move(content: bytes, tokens: Sequence[bytes], rng: random.Random) -> bytes:
    start, end = _span(content, rng)
    place = _place(content, rng)
    return content[:place] + content[start:end] + content[place:]


def _cut(content: bytes, tokens: Sequence[bytes], rng: random.Random) -> bytes:
    return content[: _place(content, rng)]


_DAMAGE: tuple[Damage, ...] = (
    *(_flip, _flip, _set, _insert, _insert, _overwrite, _overwrite),
    *(_delete, _repeat, _move, _cut),
)
