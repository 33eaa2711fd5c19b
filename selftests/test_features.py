"""The probes on kernels whose features are known: they find what works, not what is accepted."""

from __future__ import annotations

import errno
from functools import partial
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import AttachFlags, AttachType, BpfError, LinkType
from pytest_bpflink.features import probing
from pytest_bpflink.features.options import options_of
from pytest_bpflink.selftests.support.numbered import Hook, datagram_from, numbered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_bpflink import Cgroup, KernelInfo, Link

# Guests run a distribution's own kernels; a host may refuse or backport anything.
pytestmark = pytest.mark.guest_only


_SINCE = {
    "link:raw_tracepoint": "5.7",
    "link:tracing": "5.7",
    "link:cgroup": "5.7",
    "link:iter": "5.8",
    "link:netns": "5.9",
    "link:xdp": "5.9",
    "link:perf_event": "5.15",
    "link:kprobe_multi": "5.18",
    "link:struct_ops": "6.4",
    "link:netfilter": "6.4",
    "link:tcx": "6.6",
    "link:uprobe_multi": "6.6",
    "link:netkit": "6.7",
    "link:sockmap": "6.10",
    "link:tracing_multi": "7.2",
    "prog:cgroup_skb": "4.10",
    "prog:netfilter": "6.4",
    "map:ringbuf": "5.8",
    "map:bloom_filter": "5.16",
    "helper:bpf_map_lookup_elem": "3.18",
    "helper:map_lookup_elem:xdp": "4.8",
    "helper:bpf_loop": "5.17",
    "helper:bpf_get_func_arg": "5.17",
    "helper:sk_assign:sk_lookup": "5.9",
    "helper:sk_assign:xdp": "99.0",
    "helper:bpf_get_attach_cookie:tracing": "5.19",
    "kfunc:bpf_task_acquire": "6.2",
}
# The beginnings of attach types' names; all others are older than 5.10.
_ATTACH_TYPES_SINCE = {
    "sk_skb_verdict": "5.13",
    "sk_reuseport_": "5.14",
    "perf_event": "5.15",
    "trace_kprobe_multi": "5.18",
    "lsm_cgroup": "6.0",
    "struct_ops": "6.4",
    "netfilter": "6.4",
    "tcx_": "6.6",
    "trace_uprobe_multi": "6.6",
    "cgroup_unix_": "6.7",
    "netkit_": "6.7",
    "trace_kprobe_session": "6.10",
    "trace_uprobe_session": "6.13",
    "trace_fsession": "7.0",
    "trace_fentry_multi": "7.2",
    "trace_fexit_multi": "7.2",
    "trace_fsession_multi": "7.2",
}


@pytest.mark.parametrize(("feature", "since"), _SINCE.items())
def test_probe(feature: str, since: str, bpf_kernel: KernelInfo) -> None:
    """A probe finds a feature on the kernels that have it, and on no other."""
    _require_as_since(feature, since, bpf_kernel)


@pytest.mark.parametrize("attach_type", [each.name.lower() for each in AttachType])
def test_probe_of_attach_type(attach_type: str, bpf_kernel: KernelInfo) -> None:
    """The probe of an attach type finds it on the kernels that have it, and on no other."""
    found = [name for name in _ATTACH_TYPES_SINCE if attach_type.startswith(name)]
    since = _ATTACH_TYPES_SINCE[max(found, key=len)] if found else "5.10"
    _require_as_since(f"attach:{attach_type}", since, bpf_kernel)


def _require_as_since(feature: str, since: str, bpf_kernel: KernelInfo) -> None:
    absence = probing.absence(feature)
    if absence is not None and absence.hint.startswith("needs libbpf"):
        pytest.skip(str(absence))
    if absence is not None:
        options = options_of(feature)
        reason = probing.excuse(absence, bpf_kernel, since=since, config=options)
        if reason and not reason.startswith("came with"):
            pytest.skip(reason)  # the kernel is built without it, or lacks BTF or the BPF LSM
    assert (absence is None) is (bpf_kernel.version >= probing.version_tuple(since)), absence


def test_each_link_type_has_a_probe() -> None:
    """Each link type has a probe, and `_SINCE` the release from which on the probe succeeds."""
    known = {f"link:{kind.name.lower()}" for kind in LinkType if kind is not LinkType.UNSPEC}
    assert known == {feature for feature in _SINCE if feature.startswith("link:")}


@pytest.fixture
def child(cgroup: Cgroup) -> Cgroup:
    return cgroup.create("child")


@pytest.fixture
def hook(child: Cgroup, bpf_link: Callable[..., Link]) -> Iterator[Hook]:
    """The child's hook for egress."""
    with numbered("cgroup") as loaded:
        yield Hook(loaded, "cgroup", bpf_link, partial(datagram_from, child))


# Releases say nothing here. Revisions came with 6.17 and PREORDER with 6.15; but of Debian's 6.12
# kernels, 6.12.107 ignores a wrong revision and takes PREORDER only without a link, while 6.12.117
# has both.


@pytest.mark.bpf_requires("link:cgroup", libbpf="1.6")
def test_revision(hook: Hook, cgroup: Cgroup) -> None:
    """The probe finds revisions exactly where a link that expects a wrong one is refused."""
    try:
        hook.attach(1, target=cgroup, expected_revision=1000)
    except BpfError as error:
        honoured = error.errno == errno.ESTALE
    else:
        honoured = False
        assert hook.order() == "1"
    assert (probing.absence("cgroup:revision") is None) is honoured


@pytest.mark.bpf_requires("link:cgroup", libbpf="1.6")
def test_preorder(hook: Hook, cgroup: Cgroup, child: Cgroup) -> None:
    """The probe finds PREORDER exactly where a parent's link with it runs first."""
    hook.attach(1, target=child)
    try:
        hook.attach(2, target=cgroup, flags=AttachFlags.PREORDER)
    except BpfError as error:
        refusal = error.errno
    else:
        refusal = 0
    assert refusal in {0, errno.EINVAL}
    assert (probing.absence("cgroup:preorder") is None) is (hook.order() == "21")
