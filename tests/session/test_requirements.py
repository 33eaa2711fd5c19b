"""The requirements of tests: marks, and whether a lack is a skip or a failure."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import BpfError, KernelInfo, NotSupported
from pytest_bpflink.features import conditions, kernel_info, probing
from pytest_bpflink.features.options import options_of
from pytest_bpflink.selftests.conformance.rows import ROWS
from pytest_bpflink.session import requirements

if TYPE_CHECKING:
    from pathlib import Path

_OLD = KernelInfo(release="6.1.0-50-amd64", where="tcg", spec="6.1")
_ABSENT = BpfError(errno.EINVAL, "make a link")


def test_older_kernel_is_an_excuse() -> None:
    """A kernel older than the feature need not have it; one of the feature's release must."""
    assert probing.excuse(_ABSENT, _OLD, since="6.6") == (
        "came with Linux 6.6, this is 6.1.0-50-amd64"
    )
    assert probing.excuse(_ABSENT, _OLD, since="6.1") == ""
    assert probing.excuse(_ABSENT, _OLD) == ""


def test_config_is_an_excuse() -> None:
    """Only a config that is known, and lacks the option, is an excuse."""
    kernel = KernelInfo(release="6.6.1", where="tcg")
    kernel.__dict__["config"] = {"CONFIG_BPF": "y"}
    twice = ("CONFIG_BPF", "CONFIG_FPROBE", "CONFIG_FPROBE")
    lacking = probing.excuse(_ABSENT, kernel, config=twice)
    assert lacking == "this kernel (6.6.1) is built without CONFIG_FPROBE"
    assert probing.excuse(_ABSENT, kernel, config=("CONFIG_BPF",)) == ""
    kernel.__dict__["config"] = {}
    assert probing.excuse(_ABSENT, kernel, config=("CONFIG_FPROBE",)) == ""


@pytest.mark.parametrize(
    ("feature", "option"),
    [
        ("link:tracing", "CONFIG_BPF_JIT"),
        ("link:tracing_multi", "CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS"),
        ("attach:trace_fentry", "CONFIG_DEBUG_INFO_BTF"),
        ("attach:lsm_mac", "CONFIG_BPF_LSM"),
        ("attach:lsm_cgroup", "CONFIG_CGROUP_BPF"),
        ("prog:struct_ops", "CONFIG_BPF_JIT"),
        ("link:kprobe_multi", "CONFIG_FPROBE"),
        ("prog:kprobe", "CONFIG_KPROBE_EVENTS"),
        ("link:perf_event", "CONFIG_PERF_EVENTS"),
        ("link:tcx", "CONFIG_NET_CLS_ACT"),
        ("cgroup:revision", "CONFIG_CGROUP_BPF"),
        ("kfunc:bpf_task_acquire", "CONFIG_DEBUG_INFO_BTF"),
        ("map:ringbuf", "CONFIG_BPF_SYSCALL"),
        ("helper:bpf_get_func_arg", "CONFIG_BPF_JIT"),
        ("helper:bpf_get_attach_cookie:tracing", "CONFIG_BPF_JIT"),
        ("helper:bpf_sk_assign:sk_lookup", "CONFIG_BPF_SYSCALL"),
    ],
)
def test_options_of_features_are_excuses(feature: str, option: str) -> None:
    """A kernel need not have what it is built without, also if a test names no option."""
    kernel = KernelInfo(release="6.6.1", where="tcg")
    needed = options_of(feature)
    kernel.__dict__["config"] = dict.fromkeys((*needed, "CONFIG_X86"), "y")
    assert probing.excuse(_ABSENT, kernel, config=needed) == ""
    del kernel.config[option]
    reason = probing.excuse(_ABSENT, kernel, config=needed)
    assert reason == f"this kernel (6.6.1) is built without {option}"


def test_probe_on_code_of_ftrace() -> None:
    """riscv64 has no probes at the beginning of functions, and answers EINVAL."""
    kernel = KernelInfo(release="6.12.1", where="tcg")
    kernel.__dict__["config"] = {"CONFIG_KPROBE_EVENTS": "y", "CONFIG_DYNAMIC_FTRACE": "y"}
    assert probing.excuse(_ABSENT, kernel, config=("CONFIG_KPROBE_EVENTS",)) == (
        "this kernel's functions begin with code of ftrace's, where it can't place probes"
        " (CONFIG_KPROBES_ON_FTRACE)"
    )
    other = BpfError(errno.ENOENT, "attach program")
    assert probing.excuse(other, kernel, config=("CONFIG_KPROBE_EVENTS",)) == ""
    kernel.config["CONFIG_KPROBES_ON_FTRACE"] = "y"
    assert probing.excuse(_ABSENT, kernel, config=("CONFIG_KPROBE_EVENTS",)) == ""


def test_no_trampolines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """arm64 had none before Linux 6.0, and answers ENOTSUPP where a program is replaced."""
    jit = tmp_path / "bpf_jit_enable"
    jit.write_text("1\n")
    monkeypatch.setattr(conditions, "_JIT", jit)
    kernel = KernelInfo(release="5.10.1", where="tcg")
    kernel.__dict__["config"] = {"CONFIG_BPF_SYSCALL": "y", "CONFIG_BPF_JIT": "y"}
    unsupported = BpfError(524, "attach program")
    needed = options_of("prog:ext")
    assert probing.excuse(unsupported, kernel, config=needed) == (
        "this kernel has no trampolines (CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS)"
    )
    assert probing.excuse(_ABSENT, kernel, config=needed) == ""
    kernel.config["CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS"] = "y"
    assert probing.excuse(unsupported, kernel, config=needed) == ""


@pytest.mark.parametrize(
    ("row", "needs_btf"),
    [
        ("raw_tp", False),
        ("tp_btf", True),
        ("fentry", True),
        ("lsm", True),
        ("freplace", False),
        ("kprobe_multi", False),
        ("cgroup-egress", False),
        ("cgroup-lsm_cgroup", True),
        ("iter_task", True),
    ],
)
def test_rows_that_need_btf(row: str, needs_btf: bool) -> None:  # noqa: FBT001
    """Want of the kernel's BTF explains a row's absence if its programs name the kernel's types."""
    (options,) = (each.options for each in ROWS if each.id == row)
    assert ("CONFIG_DEBUG_INFO_BTF" in options) is needs_btf


def test_configuration_that_the_host_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guest of a kernel without modules finds its configuration where the host did."""
    monkeypatch.setattr(kernel_info, "_OWN", tmp_path / "none")
    file = tmp_path / "config"
    file.write_text('CONFIG_BPF=y\nCONFIG_LSM="bpf"\n# CONFIG_NETKIT is not set\n')
    known = KernelInfo(release="6.6.1-none", config_file=str(file))
    assert known.config == {"CONFIG_BPF": "y", "CONFIG_LSM": "bpf"}
    gone = KernelInfo(release="6.6.1-none", config_file=str(tmp_path / "gone"))
    assert gone.config == {}


def test_libbpf_is_an_excuse() -> None:
    """A function that the loaded libbpf lacks is not the kernel's fault."""
    missing = NotSupported("call f", since="libbpf 1.3", here="libbpf 1.1.2")
    assert "needs libbpf 1.3 or later, this is libbpf 1.1.2" in probing.excuse(missing, _OLD)
    made = NotSupported("attach", since="Linux 5.15", here="an older kernel")
    assert probing.excuse(made, _OLD, since="5.15") == ""


def test_refusal_is_an_excuse_of_hosts_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """EPERM in spite of every capability is a host's policy; a guest has none."""
    refused = BpfError(errno.EPERM, "attach")
    monkeypatch.setattr(probing, "missing_privileges", lambda: "")
    assert "policy" in probing.excuse(refused, KernelInfo(release="6.18.1"))
    assert probing.excuse(refused, KernelInfo(release="6.18.1", where="tcg")) == ""
    assert probing.excuse(_ABSENT, KernelInfo(release="6.18.1")) == ""
    monkeypatch.setattr(probing, "missing_privileges", lambda: "needs CAP_BPF")
    assert probing.excuse(refused, KernelInfo(release="6.18.1")) == ""


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        (">=6.1", True),
        (">=6.1.51", False),
        ("<6.1", False),
        ("<6.2", True),
        ("==6.1", True),
        ("!=6.1", False),
        (">=5.10,<6.1", False),
        (">=5.10, <6.12", True),
    ],
)
def test_kernel_expression(wanted: str, fits: bool) -> None:  # noqa: FBT001
    """As many numbers are compared as the bound has: 6.1.50 is 6.1."""
    assert requirements.matches((6, 1, 50), wanted) is fits


def test_kernel_expression_that_can_not_be_read() -> None:
    """The error says how to write an expression."""
    with pytest.raises(pytest.UsageError, match=r'kernel\(">=6.6"\)'):
        requirements.matches((6, 1), "6.6")


def test_probes_look_at_the_effect(pytester: pytest.Pytester) -> None:
    """A test runs if its feature is there, is skipped if it is newer, and fails otherwise."""
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.bpf_requires("link:raw_tracepoint", "link:cgroup", "prog:cgroup_skb")
        def test_here(): pass

        @pytest.mark.bpf_requires("kfunc:nobody_has_this", since="99.0")
        def test_newer(): pass

        @pytest.mark.bpf_requires("kfunc:nobody_has_this", since="5.0")
        def test_absent(): pass

        @pytest.mark.bpf_requires("link:nonsense")
        def test_unknown(): pass

        @pytest.mark.kernel("<4.0")
        def test_other(): pass

        @pytest.mark.bpf_requires("link:cgroup", libbpf="99.0")
        def test_libbpf(): pass
        """
    )
    result = pytester.runpytest("-rs")
    result.assert_outcomes(passed=1, skipped=3, errors=2)
    result.stdout.fnmatch_lines_random(
        [
            "*kfunc:nobody_has_this is absent, and nothing explains it: *ENOENT*",
            "*no probe for 'link:nonsense'; there are link:raw_tracepoint, *",
            "SKIPPED*kfunc:nobody_has_this: came with Linux 99.0, this is *",
            "SKIPPED*link:cgroup: *needs libbpf 99.0 or later, this is *",
            "SKIPPED*for Linux <4.0, this is *",
        ]
    )
    strict = pytester.runpytest("--bpf-strict", "-k", "newer or other")
    strict.assert_outcomes(errors=1, skipped=1)


def test_guest_only(pytester: pytest.Pytester) -> None:
    """Tests that can crash a kernel are skipped natively, unless --bpf-native-all runs them."""
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.guest_only
        def test_dangerous(): pass

        @pytest.mark.kernel_bug("commit 123")
        def test_crasher(): pass
        """
    )
    result = pytester.runpytest("-rs")
    result.assert_outcomes(skipped=2)
    result.stdout.fnmatch_lines(
        ["*can crash or change the whole machine*", "*known to crash kernels (commit 123)*"]
    )
    pytester.runpytest("--bpf-native-all").assert_outcomes(passed=2)


@pytest.mark.parametrize(
    ("options", "natively"), [((), False), (("--bpf-native-all",), True)], ids=["", "all"]
)
def test_guest_only_beside_guests(
    pytester: pytest.Pytester,
    options: tuple[str, ...],
    natively: bool,  # noqa: FBT001
) -> None:
    """If there are guests, the native kernel has not even a skipped item."""
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.guest_only
        def test_dangerous(): pass

        @pytest.mark.kernel_bug("commit 123")
        class TestCrasher:
            def test_crashes(self): pass

        def test_harmless(): pass
        """
    )
    result = pytester.runpytest("--kernel=native,6.1", "--collect-only", "-q", *options)

    native = {line for line in result.outlines if line.endswith("[native]")}
    harmless = "test_guest_only_beside_guests.py::test_harmless[native]"
    assert (native == {harmless}) is not natively
    assert len(native) == (3 if natively else 1)
    assert len([line for line in result.outlines if line.endswith("[6.1]")]) == 3
