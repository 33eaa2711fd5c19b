"""Which release a SPEC means: words, patterns, and the error if there is no such release."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from pytest_bpflink.vm.kernels import releases


@dataclass(frozen=True)
class Known:
    """A kernel by its release and its package's version."""

    release: str
    version: str

    @property
    def upstream(self) -> str:
        return self.version.rsplit("-", 1)[0]


KNOWN = [
    Known("7.3-amd64", "7.3~rc7-1~exp1"),
    Known("6.12.5+deb12-amd64", "6.12.5-1~bpo12+1"),
    Known("6.12.5+deb13-amd64", "6.12.5-1"),
    Known("6.1.0-9-amd64", "6.1.99-1"),
    Known("6.1.0-10-amd64", "6.1.100-1"),
    Known("6.17.2+deb13-amd64", "6.17.2-1"),
    Known("5.10.0-46-amd64", "5.10.262-1"),
    Known("5.10.0-8-amd64", "5.10.46-4"),
]


@pytest.mark.parametrize(
    ("spec", "release"),
    [
        ("lts", "6.12.5+deb13-amd64"),
        ("newest", "6.17.2+deb13-amd64"),
        ("oldest", "5.10.0-46-amd64"),
        ("6.1", "6.1.0-10-amd64"),
        ("6.12.5", "6.12.5+deb13-amd64"),
        ("6.12.5+deb12", "6.12.5+deb12-amd64"),
        ("7.3", "7.3-amd64"),
        ("7.3-rc7", "7.3-amd64"),
        ("7.3~rc7", "7.3-amd64"),
        ("6.2", None),
        ("6.1.0", None),
    ],
)
def test_choice(spec: str, release: str | None) -> None:
    chosen = releases.choose(spec, KNOWN)
    assert (chosen and chosen.release) == release


def test_of_equals_the_first_is_chosen() -> None:
    twin = Known("6.17.2+deb13-amd64", "6.17.2-1")
    assert releases.choose("newest", [twin, *KNOWN]) is twin
    assert releases.choose("6.17", [twin, *KNOWN]) is twin


def test_no_word_means_a_candidate() -> None:
    for word in releases.WORDS:
        assert releases.choose(word, KNOWN[:1]) is None


def test_longterm_kernels_only() -> None:
    assert releases.choose("lts", [Known("6.17.2", "6.17.2-1")]) is None


@pytest.mark.parametrize(
    ("pattern", "specs"),
    [
        ("6.1*", ["6.1", "6.12", "6.17"]),
        ("6.1.*", ["6.1.99", "6.1.100"]),
        ("6.1[0-9]", ["6.12", "6.17"]),
        ("5.10.?6", ["5.10.46"]),
        ("*+deb12-amd64", ["6.12.5+deb12-amd64"]),
        ("*", ["5.10", "6.1", "6.12", "6.17"]),
        ("7*", ["7.3"]),
        ("8*", []),
    ],
)
def test_pattern(pattern: str, specs: list[str]) -> None:
    assert releases.expand(pattern, KNOWN) == specs


@pytest.mark.parametrize(
    ("spec", "versions"),
    [
        ("6.1", ["6.1.99", "6.1.100"]),
        ("5.1*", ["5.10.262", "5.10.46"]),
        ("newest", ["6.17.2"]),
        ("8.0", []),
    ],
)
def test_every_kernel_that_is_meant(spec: str, versions: list[str]) -> None:
    assert [kernel.upstream for kernel in releases.meant(spec, KNOWN)] == versions


def test_offer_is_a_line_for_each_series() -> None:
    assert releases.offer(KNOWN, KNOWN[3:4]) == [
        "  5.10  5.10.262    1 older; longterm",
        "  6.1   6.1.100     1 older; longterm; in the store: 6.1.99",
        "  6.12  6.12.5      longterm",
        "  6.17  6.17.2",
        "  7.3   7.3~rc7",
    ]


def test_sentence_names_the_versions_of_the_same_series() -> None:
    said = releases.sentence("5.10.7", KNOWN, [])
    assert said == "there is no kernel 5.10.7; of 5.10 there are: 5.10.46, 5.10.262"


def test_sentence_where_there_is_nothing() -> None:
    assert "none at all (is there a network?)" in releases.sentence("6.1", [], [])
