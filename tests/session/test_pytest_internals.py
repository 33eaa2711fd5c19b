"""Workers' shortcuts find the same lines, arguments and locations as pytest."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from _pytest import fixtures, python

from pytest_bpflink.session import pytest_internals

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from tests.conftest import RunWithFakes

# As Any: these modules do not export the functions.
PYTHON: Any = python
FIXTURES: Any = fixtures


def taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the shortcuts until the end of a test."""
    for module, name in ((python, "getfslineno"), (fixtures, "getfuncargnames")):
        monkeypatch.setattr(module, name, getattr(module, name))
    pytest_internals.take_shortcuts()


def test_a_function_is_looked_for_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = tmp_path / "source.py"
    source.write_text("\ndef function(): pass")
    namespace: dict[str, Any] = {}
    exec(compile(source.read_text(), source, "exec"), namespace)  # noqa: S102
    taken(monkeypatch)

    found = PYTHON.getfslineno(namespace["function"])
    source.unlink()

    assert found == (source, 1)
    assert PYTHON.getfslineno(namespace["function"]) == found


def test_arguments_are_those_that_pytest_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    def one(argument: int) -> None: ...
    def named(*, argument: int) -> None: ...
    def optional(argument: int = 3) -> None: ...
    @functools.wraps(one)
    def wrapper(*args: int) -> None: ...

    functions = (lambda: 1, one, named, optional, wrapper, functools.partial(one, 1), "".join)
    expected = [FIXTURES.getfuncargnames(each, name="x") for each in functions]
    taken(monkeypatch)

    assert [FIXTURES.getfuncargnames(each, name="x") for each in functions] == expected
    assert expected[:5] == [(), ("argument",), ("argument",), (), ("argument",)]


def test_functions_that_another_pytest_lacks_are_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken(monkeypatch)
    monkeypatch.delattr(python, "getfslineno")
    monkeypatch.delattr(fixtures, "getfuncargnames")

    pytest_internals.take_shortcuts()

    assert not hasattr(python, "getfslineno")
    assert not hasattr(fixtures, "getfuncargnames")


def test_items_of_workers_have_the_same_locations_as_without(
    pytester: pytest.Pytester, with_fakes: RunWithFakes
) -> None:
    pytester.makepyfile(
        """
        import functools, pytest, unittest

        def decorated(function):
            @functools.wraps(function)
            def wrapper(*args, **kwargs): return function(*args, **kwargs)
            return wrapper

        @pytest.fixture
        def made(request): return request.node.location

        @pytest.mark.parametrize("number", [1, 2])
        def test_function(made, number): assert made[1] == 10

        @decorated
        def test_decorated(made): assert made[1] == 13

        class TestClass:
            def test_method(self, made): assert made[1] == 17

        class TestCase(unittest.TestCase):
            def test_of_unittest(self): pass
        """
    )
    with_fakes("--kernel", "6.1").assert_outcomes(passed=5)
    pytester.runpytest_subprocess("-p", "no:bpflink").assert_outcomes(passed=5)
