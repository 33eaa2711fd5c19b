"""Upstream's files on links that are not here, and why; docs/selftests.md shows them.

Every file of Linux 7.3 that does more with a link than to make and to destroy it is here or in the
table below, and so are files that attach in ways of their own: `page` finds the rest in a tree.
"""

from __future__ import annotations

COVERED = "the same is asked here: "

NOT_HERE = {
    "attach_probe": COVERED + "the conformance rows kprobe, kretprobe, uprobe, uretprobe, and"
    " tests/bpf of the plugin for its ways to name a function",
    "bpf_cookie": "cookies are what programs read; fill_link_info has those in infos",
    "bpf_mod_race": "a module that fails to load, with userfaultfd in it: upstream's own module",
    "bpf_qdisc": "a qdisc is attached by netlink; its struct_ops link has no part in it",
    "cgroup_attach_autodetach": COVERED + "the conformance suite's tests of targets that go",
    "cgroup_hierarchical_stats": "pins a link only to read its iterator, as bpf_iter does",
    "cgroup_iter": COVERED + "the conformance row iter_cgroup; the order of the walk is no matter"
    " of links",
    "check_mtu": "attaches an XDP link only to run its program",
    "clone_attach_btf_id": "a property of loading programs",
    "fexit_bpf2bpf": COVERED + "the conformance row freplace; which functions may be replaced is"
    " the verifier's matter",
    "fexit_stress": "how many programs a trampoline takes, a number that upstream changes",
    "fsession_test": COVERED + "the conformance row fsession_multi; sessions are what programs do",
    "kprobe_multi_testmod_test": "functions of upstream's own module; test_conformance_detaching.py"
    " has those of a module that every kernel has",
    "libbpf_get_fd_by_id_opts": "flags of maps' descriptors; links take none",
    "livepatch_trampoline": "needs a live patch",
    "missed": "how many runs were missed: counters of programs, not of links",
    "module_attach": COVERED + "the conformance suite's tests of modules that are unloaded",
    "module_fentry_shadow": "functions of upstream's own module",
    "recursive_attach": "tracing of tracing programs: what loading refuses",
    "sockmap_listen": "attaches links only to run their programs",
    "sockmap_strp": "what a stream parser may do with a packet; updates of its link are refused as"
    " the conformance row sk_skb says",
    "sockopt": "attaches links only to run their programs",
    "tc_opts": "programs attached without links",
    "test_bpffs": "BPF FS without links; bpf_obj_pinning has pins of links",
    "test_struct_ops_refcounted": "what struct_ops programs do with arguments",
    "tp_attach_query": "perf events without links",
    "tramp_prog_detach": "frees of trampolines under load, on which no answer depends",
    "trampoline_count": "how many programs a trampoline takes",
    "uprobe_autoattach": COVERED + "tests/bpf of the plugin for its ways to name a function",
    "usdt": COVERED + "tests/bpf of the plugin, since libbpf keeps a USDT's links",
    "xdp_attach": COVERED + "test_xdp_link.py; the flags of netlink are no matter of links",
    "xdp_info": "queries by netlink",
}
"""The names of files of prog_tests/, and the reasons."""
