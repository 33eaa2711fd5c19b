"""Bytes of a guest are read as the values that were written, or refused; they do no harm."""

from __future__ import annotations

import contextlib
import marshal
import random
from typing import Any

import pytest

from pytest_bpflink.matrix.plain_values import DamagedError, dumps, loads, sealed, unsealed

VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    2**31,
    -(2**100),
    0.1 + 0.2,
    float("inf"),
    b"\0\xff",
    "text",
    "\udcff and \U0001f41d",
    (),
    (1, ("two", [3.0, None])),
    {"a": 1, 2: {"b": (True,)}},
    1.5 - 2j,
    {1},
    frozenset({"a"}),
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_value_comes_out_the_same(value: Any) -> None:
    read = loads(dumps(value))
    assert read == value
    assert repr(read) == repr(value)


def test_no_cut_value_is_read() -> None:
    data = dumps(VALUES)
    for end in range(len(data)):
        with pytest.raises(DamagedError):
            loads(data[:end])


def test_no_more_than_a_value_is_read() -> None:
    with pytest.raises(DamagedError, match="1 bytes follow its end"):
        loads(dumps(VALUES) + b"N")


def test_random_bytes_are_plain_values_or_refused() -> None:
    chosen = random.Random(20261129)  # noqa: S311 (repeatable, and no secret)
    kinds = b"NTFilgysu([{<>0c:?r\xe9"
    for _ in range(20_000):
        data = bytearray(dumps(VALUES) if chosen.random() < 0.5 else chosen.randbytes(64))
        for _ in range(chosen.randrange(1, 8)):
            data[chosen.randrange(len(data))] = chosen.choice(kinds)
        with contextlib.suppress(DamagedError):
            assert_plain(loads(bytes(data)))


def assert_plain(value: object) -> None:
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list | tuple | set | frozenset):
        for part in value:
            assert_plain(part)
    else:
        assert type(value) in {type(None), bool, int, float, complex, str, bytes}


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(marshal.dumps(compile("1", "x", "eval"), 2), id="code"),
        pytest.param(b"[\xff\xff\xff\x7f", id="a list of two billions"),
        pytest.param(b"l\xff\xff\xff\x7f", id="an int of two billion digits"),
        pytest.param(b"[\1\0\0\0" * 5000 + b"N", id="deep"),
        pytest.param(b"{[\0\0\0\0N0", id="a key that can't be one"),
        pytest.param(b"s\xff\xff\xff\xff", id="4 GB of bytes"),
        pytest.param(b"u\1\0\0\0\xff", id="no UTF-8"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_bytes_that_would_do_harm_are_refused(data: bytes) -> None:
    with pytest.raises(DamagedError):
        loads(data)


def test_a_sealed_message_has_its_number_and_every_bit_of_it() -> None:
    message = sealed(7, b"data")
    assert unsealed(7, message) == b"data"
    with pytest.raises(DamagedError, match="its number is 7 instead of 8"):
        unsealed(8, message)
    for bit in range(8, 8 * len(message)):
        flipped = bytearray(message)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DamagedError):
            unsealed(7, bytes(flipped))
    with pytest.raises(DamagedError, match="it has 3 bytes"):
        unsealed(7, message[:3])
