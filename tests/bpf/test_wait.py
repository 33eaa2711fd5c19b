"""Waiting with a deadline."""

from __future__ import annotations

import time

import pytest

from pytest_bpflink import eventually


def test_at_once_costs_nothing() -> None:
    assert eventually(lambda: True) < 0.01


def test_says_how_long_it_took() -> None:
    start = time.monotonic()
    took = eventually(lambda: time.monotonic() - start > 0.05)
    assert 0.05 <= took < 1


def test_deadline() -> None:
    with pytest.raises(AssertionError, match=r"the moon: not so after 0\.\d\d s .*0.05 s.*last: 0"):
        eventually(lambda: 0, within=0.05, what="the moon")


def test_tried_once_more_when_the_deadline_passed_meanwhile() -> None:
    """A machine that stood still between two tries does not fail a test."""
    tries = iter([False, True])

    def slow() -> bool:
        time.sleep(0.05)
        return next(tries)

    assert eventually(slow, within=0.01) >= 0.05


def test_exceptions_go_through() -> None:
    with pytest.raises(ZeroDivisionError):
        eventually(lambda: 1 / 0)
