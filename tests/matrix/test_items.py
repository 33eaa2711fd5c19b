"""Kernels as a parameter: options, ids, and the worker that runs an item."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., pytest.RunResult]


def collected(result: pytest.RunResult) -> list[str]:
    return [line for line in result.outlines if "::" in line]


def reported_by(result: pytest.RunResult) -> dict[str, str]:
    """Return the worker that reported each item, in a verbose run."""
    lines = (line.split() for line in result.outlines if line.startswith("["))
    return {words[-1]: words[0].strip("[]") for words in lines if "::" in words[-1]}


# Ids


def test_each_test_is_an_item_per_kernel_and_ids_end_with_it(
    pytester: pytest.Pytester, with_fakes: Run
) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("name", ["pin_raw_tp", "pin_tp_btf"])
        def test_pin(name): pass

        def test_x(): pass

        def pytest_generate_tests(metafunc):
            if "late" in metafunc.fixturenames:
                metafunc.parametrize("late", [1])

        def test_late(late): pass
        """
    )

    result = with_fakes("--collect-only", "-q", "--kernel", "native,6.1", "--kernel=7.2")

    file = "test_each_test_is_an_item_per_kernel_and_ids_end_with_it.py"
    assert collected(result) == [
        f"{file}::{test}"
        for test in (
            "test_pin[pin_raw_tp-native]",
            "test_pin[pin_raw_tp-6.1]",
            "test_pin[pin_raw_tp-7.2]",
            "test_pin[pin_tp_btf-native]",
            "test_pin[pin_tp_btf-6.1]",
            "test_pin[pin_tp_btf-7.2]",
            "test_x[native]",
            "test_x[6.1]",
            "test_x[7.2]",
            "test_late[1-native]",
            "test_late[1-6.1]",
            "test_late[1-7.2]",
        )
    ]


def test_parameter_has_a_name_for_reports_and_takes_no_test_s_own(
    pytester: pytest.Pytester, with_fakes: Run
) -> None:
    """Allure and others show a test's parameters by their names."""
    pytester.makepyfile(
        """
        import pytest

        def test_name(request):
            assert [*request.node.callspec.params] == ["kernel"]

        @pytest.mark.parametrize("kernel", ["theirs"])
        def test_parameter(kernel):
            assert kernel == "theirs"
        """
    )
    below = pytester.mkdir("below")
    (below / "conftest.py").write_text(
        "import pytest\n@pytest.fixture\ndef kernel(): return 'theirs'\n"
    )
    (below / "test_own.py").write_text(
        "def test_own(kernel): assert kernel == 'theirs'\n"
        "def test_asked_for(request):\n"
        "    assert request.getfixturevalue('kernel') == 'theirs'\n"
    )

    result = with_fakes("--kernel", "native,6.1", "-v")

    result.assert_outcomes(passed=8)
    result.stdout.fnmatch_lines_random(
        ["*PASSED *::test_parameter[[]theirs-6.1]*", "*PASSED *::test_asked_for[[]6.1]*"]
    )


@pytest.mark.parametrize(
    "option", ["--collect-only", "--fixtures", "--fixtures-per-test", "--cache-show", "--markers"]
)
def test_options_that_only_show_something_neither_fetch_nor_boot(
    pytester: pytest.Pytester, with_fakes: Run, option: str
) -> None:
    pytester.makepyfile("def test_x(): pass")

    result = with_fakes(option, "--kernel", "unknown")

    assert result.ret == 0
    result.stdout.no_fnmatch_line("*fetching*")
    assert not (pytester.path / "boots").exists()


@pytest.mark.parametrize(
    ("paths", "ids"),
    [
        (["boot/vmlinuz-6.1.0-44-amd64"], ["6.1.0-44-amd64"]),
        (["linux/arch/x86/boot/bzImage"], ["linux"]),
        (["my tree"], ["my_tree"]),
        (["old/linux", "new/linux"], ["linux", "linux-2"]),
    ],
)
def test_a_path_gives_a_short_id(
    pytester: pytest.Pytester, with_fakes: Run, paths: list[str], ids: list[str]
) -> None:
    pytester.makepyfile("def test_x(): pass")
    for path in paths:
        (pytester.path / path).mkdir(parents=True)

    result = with_fakes("--collect-only", "-q", "--kernel", ",".join(f"./{path}" for path in paths))

    assert [line.partition("[")[2].rstrip("]") for line in collected(result)] == ids


def test_tests_of_one_module_are_not_reordered(pytester: pytest.Pytester, with_fakes: Run) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture(scope="module", params=["a", "b"])
        def wide(request): pass

        def test_1(): pass
        def test_2(wide): pass
        def test_3(wide): pass
        """
    )

    without = [line.rstrip("]") for line in collected(with_fakes("--collect-only", "-q"))]
    result = with_fakes("--collect-only", "-q", "--kernel", "6.1")

    assert [line.replace("[6.1]", "").replace("-6.1]", "") for line in collected(result)] == without


# Options


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kernel", "unknown"], "ERROR: --kernel unknown: there is no kernel unknown;*good"),
        (["--kernel", "unknown,unknown2"], "--kernel unknown2: there is no kernel unknown2;*good"),
        (["--kernel", "noqemu"], "ERROR: --kernel noqemu: QEMU is not installed: apt-get*"),
        (["--kernel", "full"], "ERROR: --kernel full: *No space left on device: 'launch.sh'"),
        (
            ["--kernel-memory", "223"],
            "*argument --kernel-memory: 223 MiB is too little: a guest needs 224 MiB to boot",
        ),
        (["--kernel-memory", "1G"], "*argument --kernel-memory: '1G' is no whole number"),
        (["--kernel-cpus", "0"], "*argument --kernel-cpus: 0 is too little: at least 1 is needed"),
        (["--kernel-workers", "0"], "*argument --kernel-workers: 0 is too little*"),
        (
            ["--kernel-rw", "nowhere"],
            "*argument --kernel-rw: nowhere does not exist: mkdir -p */nowhere",
        ),
        (["--kernel-rw", "/bin/sh"], "*argument --kernel-rw: /bin/sh is no directory"),
        (["--kernel-rw", "/"], "*argument --kernel-rw: / would share the whole host: *"),
        (
            ["--kernel", "good", "--kernel-rw", ".", "--kernel-host", "ssh=x"],
            "*--kernel-rw: guests on a --kernel-host can't reach this host",
        ),
        (["--kernel-timeout", "-1"], "*argument --kernel-timeout: -1 is no number of seconds*"),
        (["--kernel-timeout", "1m"], "*argument --kernel-timeout: '1m' is no number of seconds"),
        (["--kernel-timeout", "inf"], "*argument --kernel-timeout: inf is no number of seconds*"),
        (["--kernel", "6.1,native", "--kernel", "6.1"], "ERROR: --kernel: 6.1 is given twice"),
        (["--kernel", "./tree,./tree/../tree"], "ERROR: --kernel: * is given twice"),
        (["--kernel", "native,"], "ERROR: --kernel: a SPEC is empty; *"),
        (["--kernel", "good", "-p", "no:xdist"], "*pip install 'pytest-bpflink?vm?'*"),
        (["--kernel", "good", "--pdb"], "ERROR: --pdb *guest*"),
        (["--kernel", "good", "--tx", "popen"], "ERROR: --tx: *"),
        (["--kernel", "good", "--dist", "each"], "ERROR: --dist=each: *"),
    ],
)
def test_what_cannot_work_is_a_usage_error_before_any_test(
    pytester: pytest.Pytester, with_fakes: Run, arguments: list[str], message: str
) -> None:
    pytester.makepyfile("def test_x(): pass")
    pytester.mkdir("tree")

    result = with_fakes(*arguments)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])
    result.stdout.no_fnmatch_line("* passed*")


@pytest.mark.parametrize(
    ("variable", "what"),
    [("PYTHONPATH", "the entry of sys.path"), ("BPFLINK_CACHE", "the cache (BPFLINK_CACHE)")],
)
def test_directory_that_xdist_or_virtme_ng_can_not_pass_on_is_a_usage_error(
    pytester: pytest.Pytester,
    with_fakes: Run,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    what: str,
) -> None:
    prepend = os.pathsep if variable == "PYTHONPATH" else None
    monkeypatch.setenv(variable, "/not\udcffUTF-8", prepend=prepend)
    pytester.makepyfile("def test_x(): pass")

    result = with_fakes("--kernel", "6.1")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert result.stderr.str().rstrip() == undecodable(what, "/not\\udcffUTF-8")


@pytest.mark.parametrize(
    ("arguments", "what", "path"),
    [
        (["--kernel", "./a\udcff"], "the kernel", "./a"),
        (["--kernel", "6.1", "a\udcff"], "the path of tests", "a"),
    ],
)
def test_argument_that_xdist_or_virtme_ng_can_not_pass_on_is_a_usage_error(
    pytester: pytest.Pytester, with_fakes: Run, *, arguments: list[str], what: str, path: str
) -> None:
    pytester.makepyfile("def test_x(): pass")
    pytester.path.joinpath("a\udcff").mkdir()

    result = with_fakes(*arguments)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert result.stderr.str().rstrip() == undecodable(what, f"{path}\\udcff")


def undecodable(what: str, path: str) -> str:
    return (
        f"ERROR: --kernel: {what} '{path}' is not UTF-8, and neither pytest-xdist nor virtme-ng can"
        " pass it on; rename it, or use another"
    )


def test_native_alone_needs_no_xdist(pytester: pytest.Pytester, with_fakes: Run) -> None:
    pytester.makepyfile("def test_x(): pass")

    result = with_fakes("--kernel", "native", "-p", "no:xdist", "-v")

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*::test_x?native? PASSED*"])


@pytest.mark.parametrize("module", ["pytest_bpflink.matrix.items", "xdist.dsession", "ctypes"])
def test_importing_the_plugin_does_not_import(module: str) -> None:
    program = f"import sys, pytest_bpflink.plugin; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# Workers and their items


def test_each_kernel_has_a_worker_that_runs_its_items(
    pytester: pytest.Pytester, with_fakes: Run
) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("n", range(4))
        def test_x(n): pass
        """
    )

    result = with_fakes("-v", "--kernel", "native,6.1,7.2")

    result.assert_outcomes(passed=12)
    workers = reported_by(result)
    assert len(workers) == 12
    assert {item.rpartition("-")[2].rstrip("]") for item in workers} == {"native", "6.1", "7.2"}
    assert all(item.endswith(f"-{worker}]") for item, worker in workers.items())


@pytest.mark.parametrize(
    ("arguments", "workers"),
    [
        (["--kernel", "native,good", "-n2"], {"native-1", "native-2", "good"}),
        (["--kernel", "native,good", "-n0"], {"native", "good"}),
        (["--kernel", "native,good"], {"native", "good"}),
        (["--kernel", "good", "-n2"], {"good"}),
        (["--kernel", "good", "-n0"], {"good"}),
        (["--kernel", "native", "-n2"], {"gw0", "gw1"}),
    ],
)
def test_n_is_the_number_of_native_workers(
    pytester: pytest.Pytester, with_fakes: Run, arguments: list[str], workers: set[str]
) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("n", range(6))
        def test_x(n): pass
        """
    )

    result = with_fakes("-v", *arguments)

    assert set(reported_by(result).values()) == workers


def test_a_worker_on_another_kernel_than_it_should_be_refuses_to_run(
    pytester: pytest.Pytester, with_fakes: Run
) -> None:
    pytester.makepyfile("def test_x(): raise SystemExit('it ran')")

    result = with_fakes("--kernel", "mistaken")

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"mistaken is Linux 0.0.1, *runs on {os.uname().release}: not*"])


def test_what_cannot_be_parametrized_runs_once_on_the_first_kernel(
    pytester: pytest.Pytester, with_fakes: Run
) -> None:
    pytester.makepyfile(
        """
        import unittest

        class TestCase(unittest.TestCase):
            def test_x(self): pass
        """
    )
    pytester.maketxtfile(test_doc=">>> 1 + 1\n2\n")

    result = with_fakes("-v", "--kernel", "good,native", "-m", 'on_kernel(spec="good")')

    result.assert_outcomes(passed=2)
    assert set(reported_by(result).values()) == {"good"}
    assert all("[" not in item for item in reported_by(result))
    result.stdout.fnmatch_lines(["on good only, since they can't be parametrized: 2 *"])


def test_a_test_can_ask_which_kernel_it_runs_on(pytester: pytest.Pytester, with_fakes: Run) -> None:
    pytester.makepyfile(
        """
        import os
        from pytest_bpflink.session.kernel import running_kernel

        def test_x(request):
            kernel = running_kernel(request.config)
            assert kernel.release == os.uname().release
            assert request.node.name in {"test_x", f"test_x[{kernel.id}]"}
            expected = {"native": "native", "good": "tcg"}
            assert kernel.where == expected[kernel.spec]
            assert kernel.reason
        """
    )

    with_fakes("--kernel", "native,good").assert_outcomes(passed=2)
    with_fakes("--kernel", "native").assert_outcomes(passed=1)
    with_fakes().assert_outcomes(passed=1)


# Together with other options and plugins


def test_a_mark_selects_a_kernel(pytester: pytest.Pytester, with_fakes: Run) -> None:
    pytester.makepyfile("def test_x(): pass\ndef test_y(): pass")

    result = with_fakes("-v", "--strict-markers", "--kernel", "native,6.1,6.12", "-m",
                        'on_kernel(spec="6.1")')  # fmt: skip

    result.assert_outcomes(passed=2)
    assert set(reported_by(result).values()) == {"6.1"}


@pytest.mark.parametrize("kernels", ["native,good", "good,native"])
def test_a_kernel_without_items_does_not_spoil_the_run(
    pytester: pytest.Pytester, with_fakes: Run, kernels: str
) -> None:
    pytester.makepyfile("def test_x(): pass")

    result = with_fakes("--kernel", kernels, "-k", "native]")

    assert result.ret == 0
    result.assert_outcomes(passed=1)


def test_nothing_selected_on_any_kernel_is_no_tests_collected(
    pytester: pytest.Pytester, with_fakes: Run
) -> None:
    pytester.makepyfile("def test_x(): pass")

    result = with_fakes("--kernel", "native,good", "-k", "absent")

    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED


@pytest.mark.parametrize("by_path", [False, True])
def test_last_failed_runs_what_failed_on_its_kernel_only(
    pytester: pytest.Pytester, with_fakes: Run, *, by_path: bool
) -> None:
    file = pytester.makepyfile(
        """
        def test_x(request): assert "good" not in request.node.name
        def test_y(): pass
        """
    )
    # pytest filters while it collects, but not in files that are arguments.
    arguments = ["--kernel", "native,good", *([file] if by_path else [])]
    with_fakes(*arguments).assert_outcomes(passed=3, failed=1)

    result = with_fakes("-v", "--lf", *arguments)

    result.assert_outcomes(failed=1)
    assert set(reported_by(result).values()) == {"good"}


def test_failed_first_begins_with_what_failed_on_its_kernel(
    pytester: pytest.Pytester, with_fakes: Run
) -> None:
    pytester.makepyfile(
        """
        def test_x(): pass
        def test_y(request): assert "good" not in request.node.name
        """
    )
    with_fakes("--kernel", "native,good")

    result = with_fakes("-v", "--ff", "--kernel", "native,good")

    order = [name.partition("::")[2] for name in reported_by(result)]
    assert order.index("test_y[good]") < order.index("test_x[good]")
    assert order.index("test_x[native]") < order.index("test_y[native]")


def test_durations_are_of_each_kernel(pytester: pytest.Pytester, with_fakes: Run) -> None:
    pytester.makepyfile("import time\ndef test_x(): time.sleep(0.02)")

    result = with_fakes("--durations=2", "--kernel", "native,good")

    for kernel in ("native", "good"):
        result.stdout.re_match_lines([rf"0\.\d\ds call +.*::test_x\[{kernel}\]"])


@pytest.mark.parametrize("options", [["-s"], ["-s", "-q"]], ids=" ".join)
def test_output_of_guests_is_shown_without_capturing(
    options: list[str], pytester: pytest.Pytester, with_fakes: Run
) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_x():
            print("said in", "a test")
            print("not a whole line", end="", file=sys.stderr)
        """
    )

    result = with_fakes(*options, "--kernel", "native,good")

    result.assert_outcomes(passed=2)
    for kernel in ("native", "good"):
        lines = [rf"\.?\[{kernel}\] said in a test", rf"\.?\[{kernel}\] not a whole line"]
        result.stdout.re_match_lines(lines)


def test_works_with_the_options_that_people_keep_in_addopts(
    pytester: pytest.Pytester, with_fakes: Run
) -> None:
    pytester.makeini("[pytest]\naddopts = -n auto --dist loadgroup -p no:cacheprovider")
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.xdist_group("g")
        @pytest.mark.parametrize("n", range(6))
        def test_x(n): pass
        """
    )

    result = with_fakes("-v", "--kernel", "native,good")

    result.assert_outcomes(passed=12)
    workers = reported_by(result)
    assert all(item.endswith(("-native]", "-good]")) for item in workers)
    assert len({worker for item, worker in workers.items() if item.endswith("native]")}) == 1


def test_a_group_stays_together_among_the_workers_of_a_kernel(
    pytester: pytest.Pytester, with_fakes: Run
) -> None:
    pytester.makepyfile(
        """
        import pytest, time

        @pytest.mark.xdist_group("g")
        @pytest.mark.parametrize("n", range(4))
        def test_grouped(n): time.sleep(0.05)

        @pytest.mark.parametrize("n", range(8))
        def test_apart(n): time.sleep(0.05)
        """
    )

    result = with_fakes("-v", "--kernel", "native,good", "-n", "2")

    workers = {item: worker for item, worker in reported_by(result).items() if "native" in item}
    assert len({worker for item, worker in workers.items() if "::test_grouped" in item}) == 1
    assert len({worker for item, worker in workers.items() if "::test_apart" in item}) == 2


def test_junit_shows_a_test_case_per_kernel(
    pytester: pytest.Pytester, with_fakes: Run, tmp_path: Path
) -> None:
    pytester.makepyfile("def test_x(request): assert 'good' not in request.node.name")
    file = tmp_path / "junit.xml"

    with_fakes("--kernel", "native,good", "--junitxml", file)

    cases = ET.parse(file).getroot().iter("testcase")  # noqa: S314
    assert {case.get("name"): [child.tag for child in case] for case in cases} == {
        "test_x[native]": ["properties"],
        "test_x[good]": ["properties", "failure"],
    }


# The terminal


def test_the_header_names_each_kernel_its_release_and_how_it_runs(
    pytester: pytest.Pytester, with_fakes: Run
) -> None:
    pytester.makepyfile("def test_x(): pass")
    release = os.uname().release

    result = with_fakes("--kernel", "native,good")

    result.stdout.fnmatch_lines(
        [
            f"kernel native: Linux {release}, the running kernel",
            f"kernel good: Linux {release}, TCG: a fake has no hardware",
        ]
    )


def test_the_end_shows_results_by_kernel_and_the_tests_that_differ(
    pytester: pytest.Pytester, with_fakes: Run
) -> None:
    pytester.makepyfile(
        """
        import pytest

        def test_same(): pass

        def test_differs(request): assert "6.1" not in request.node.name

        @pytest.fixture
        def broken(request):
            yield
            assert "7.2" not in request.node.name

        def test_teardown(broken): pass

        def test_skipped(): pytest.skip("for no reason")
        """
    )
    file = "test_the_end_shows_results_by_kernel_and_the_tests_that_differ.py"

    result = with_fakes("--kernel", "native,6.1,7.2")

    result.stdout.re_match_lines_random(
        [
            r"kernel +release +boot +passed +failed +skipped +errors",
            r"native +\S+ +native +- +3 +0 +1 +0",
            r"6.1 +\S+ +tcg +\d+ ms +2 +1 +1 +0",
            r"7.2 +\S+ +tcg +\d+ ms +2 +0 +1 +1",
            rf"differs: {file}::test_differs: passed on native, 7.2; failed on 6.1; changes at 6.1",
            rf"differs: {file}::test_teardown: passed on native, 6.1; error on 7.2; changes at 7.2",
        ]
    )
    result.stdout.no_fnmatch_line("differs: *test_same*")
    result.stdout.no_fnmatch_line("differs: *test_skipped*")


def test_quiet_is_quiet(pytester: pytest.Pytester, with_fakes: Run) -> None:
    pytester.makepyfile("def test_x(): pass")

    result = with_fakes("-q", "--kernel", "good")

    result.stdout.no_fnmatch_line("*good*")


def test_hooks_of_a_directory_are_called_for_its_items_only(
    pytester: pytest.Pytester, with_fakes: Run
) -> None:
    """A worker looks up the hooks once for each file."""
    for name in ("a", "b"):
        directory = pytester.mkdir(name)
        (directory / f"test_{name}.py").write_text("def test_1(): pass\ndef test_2(): pass")
    (pytester.path / "a" / "conftest.py").write_text(
        "import pytest\ndef pytest_runtest_setup(item): pytest.skip('of a')"
    )
    result = with_fakes("--kernel", "6.1")
    result.assert_outcomes(passed=2, skipped=2)
