"""Global variables and map values, typed through BTF: on a real object, in a real kernel."""

from __future__ import annotations

import struct
import sys
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import BpfError, Object
from pytest_bpflink.binding.btf import Btf

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STRUCTURE = {
    "small": 1,
    "inner": {"low": -2, "name": b"inner"},
    "narrow": 5,
    "negative": -3,
    "number": 0x01020304,
    "bytes": [4, 3, 2, 1],
}


@pytest.fixture
def variables(bpf_object: Callable[..., Object]) -> Object:
    return bpf_object("progs/variables.bpf.c")


@pytest.fixture
def opened(request: pytest.FixtureRequest) -> Iterator[Object]:
    """The same object, opened but not loaded."""
    with Object.open(request.path.parent / "progs/variables.bpf.c") as opened:
        yield opened


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("signed_8", -1),
        ("unsigned_8", 255),
        ("signed_64", -5),
        ("unsigned_64", 2**64 - 1),
        ("wide", 7),
        ("flag", True),
        ("text", b"hello"),
        ("array", [1, 2, 3]),
        ("structure", STRUCTURE),
        ("color", 5),
        ("ratio", 0.5),
        ("pointer", 16),
    ],
)
@pytest.mark.parametrize("state", ["opened", "variables"])
def test_initial_value(
    request: pytest.FixtureRequest, state: str, name: str, value: object
) -> None:
    assert request.getfixturevalue(state).data[name] == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("signed_8", -128),
        ("unsigned_8", 0),
        ("signed_64", -(2**63)),
        ("unsigned_64", 2**63),
        ("wide", 2**100),
        ("flag", False),
        ("text", b"x" * 16),
        ("array", [0, 2**32 - 1, 5]),
        ("color", 0),
        ("ratio", -1.25),
    ],
)
def test_written_value(variables: Object, name: str, value: object) -> None:
    others = {other: variables.data[other] for other in variables.data if other != name}

    variables.data[name] = value

    assert variables.data[name] == value
    assert {other: variables.data[other] for other in others} == others


def test_text_from_str(variables: Object) -> None:
    variables.data["text"] = "new"
    assert variables.data["text"] == b"new"


def test_members_left_out_stay(variables: Object) -> None:
    variables.data["structure"] = {"inner": {"low": 7}, "narrow": 2, "negative": -16}
    assert variables.data["structure"] == {
        **STRUCTURE,
        "inner": {"low": 7, "name": b"inner"},
        "narrow": 2,
        "negative": -16,
    }


def test_names(variables: Object) -> None:
    assert set(variables.bss) == {"zero", "zero_flag"}
    assert set(variables.rodata) == {"constant", "constants"}
    assert len(variables.data) == 12


@pytest.mark.parametrize(
    ("name", "value", "error", "sentence"),
    [
        ("unsigned_8", 256, OverflowError, "256 is out of range for u8"),
        ("signed_8", -129, OverflowError, "-129 is out of range for s8"),
        ("text", b"x" * 17, OverflowError, r"17 bytes do not fit a char\[16\]"),
        ("array", [1, 2], TypeError, "2 values for an array of 3"),
        ("array", [1, 2.5, "3"], TypeError, "'float' object cannot be interpreted as an integer"),
        ("text", 5, TypeError, r"5 for a char\[16\], which holds bytes or str"),
        ("structure", {"odd": 1}, TypeError, "no member 'odd'; there are: small, inner, narrow"),
        ("structure", {"narrow": 8}, OverflowError, "8 does not fit a bit field of 3 bits"),
    ],
)
def test_value_that_does_not_fit(
    variables: Object, name: str, value: object, error: type[Exception], sentence: str
) -> None:
    before = variables.data[name]
    with pytest.raises(error, match=sentence):
        variables.data[name] = value
    assert variables.data[name] == before


def test_constants_are_written_before_loading(opened: Object) -> None:
    opened.rodata["constant"] = 41
    opened.rodata["constants"] = {"small": 3}
    opened.load()

    assert opened.rodata["constant"] == 41
    assert opened.rodata["constants"]["small"] == 3


def test_constants_are_frozen_by_loading(variables: Object) -> None:
    with pytest.raises(BpfError, match=r"write constant .* EACCES .*; it is frozen by loading"):
        variables.rodata["constant"] = 2
    assert variables.rodata["constant"] == 1


def test_variable_can_not_be_deleted(variables: Object) -> None:
    with pytest.raises(TypeError, match=r"zero in \.bss of .* can't be deleted"):
        del variables.bss["zero"]


def test_typed_map(variables: Object) -> None:
    typed = variables.map("typed")
    typed[{"a": 1, "b": 2}] = STRUCTURE
    typed[{"a": 3, "b": 4}] = {"small": 9}

    assert typed[{"a": 1, "b": 2}] == STRUCTURE
    assert typed[{"a": 3, "b": 4}]["small"] == 9
    assert sorted(key["a"] for key in typed) == [1, 3]

    del typed[{"a": 1, "b": 2}]

    assert len(typed) == 1
    assert typed.get({"a": 1, "b": 2}) is None
    with pytest.raises(KeyError):
        del typed[{"a": 1, "b": 2}]


def test_section_as_a_map(bpf_object: Callable[..., Object]) -> None:
    loaded = bpf_object("progs/loading.bpf.c", only=["sum"])
    hot = loaded.map(".data.hot")
    assert dict(hot) == {0: {"hot": 4}}
    hot["hot"] = 5
    assert loaded.section(".data.hot")["hot"] == 5
    [variables] = (dict(each) for each in loaded.maps.values() if each.name.endswith(".bss"))
    assert variables == {0: dict(loaded.bss)}
    with pytest.raises(TypeError, match="set one by one"):
        hot[0] = {"hot": 1}
    with pytest.raises(KeyError):
        hot["cold"] = 1


def test_map_without_types(variables: Object) -> None:
    plain = variables.map("plain")
    plain[b"keys"] = b"8 bytes."

    key, value = (int.from_bytes(each, sys.byteorder) for each in (b"keys", b"8 bytes."))
    assert dict(plain) == {key: value}
    with pytest.raises(TypeError, match="'str' object cannot be interpreted as an integer"):
        plain["keys"] = b"8 bytes."


def test_full_map_is_e2big(variables: Object) -> None:
    plain = variables.map("plain")
    for number in range(4):
        plain[number.to_bytes(4)] = bytes(8)
    with pytest.raises(BpfError, match="set map plain: E2BIG"):
        plain[b"more"] = bytes(8)


def enums(*values: tuple[bool, int]) -> Btf:
    """Return BTF with an enum for each value, as compilers make them: flagged as signed or not."""
    text = b"\0it\0"
    types = b"".join(
        struct.pack("=IIIIi", 1, flagged << 31 | 6 << 24 | 1, 4, 1, value)
        for flagged, value in values
    )
    begin = struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(text))
    return Btf(begin + types + text)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        # clang up to release 14 flags no enum.
        ([(False, -7), (False, 7)], [-7, 7]),
        # Later ones flag the signed enums: -7 without the flag is 0xfffffff9.
        ([(True, -7), (False, -7)], [-7, 2**32 - 7]),
    ],
)
def test_signed_enum_of_every_clang(values: list[tuple[bool, int]], expected: list[int]) -> None:
    btf = enums(*values)
    for type_id, ((_, value), number) in enumerate(zip(values, expected, strict=True), 1):
        raw = struct.pack("=i", value)
        assert btf.decode(type_id, raw) == number
        assert btf.encode(type_id, number, bytes(4)) == raw
