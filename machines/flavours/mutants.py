"""Faults for a kernel to have, each chosen by the kernel parameter `bpflink_mutant=NUMBER`.

One kernel has them all; without the parameter it has none. A fault must not corrupt memory where
that can be avoided: what the tests say shall be about the fault. Where a reference would be missing
it is the other way round, one too many. The numbers are those in the table, from 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from .edits import Edit, Top

PARAMETER = "bpflink_mutant"

SYSCALL = "kernel/bpf/syscall.c"
INODE = "kernel/bpf/inode.c"
CGROUP = "kernel/bpf/cgroup.c"
NETNS = "kernel/bpf/net_namespace.c"
XDP = "net/core/dev.c"
TCX = "kernel/bpf/tcx.c"
MPROG = "kernel/bpf/mprog.c"
NETKIT = "drivers/net/netkit.c"
NETFILTER = "net/netfilter/nf_bpf_link.c"
SOCKMAP = "net/core/sock_map.c"
ITER = "kernel/bpf/bpf_iter.c"
LINK_ITER = "kernel/bpf/link_iter.c"
TRAMPOLINE = "kernel/bpf/trampoline.c"
TRACE = "kernel/trace/bpf_trace.c"
STRUCT_OPS = "kernel/bpf/bpf_struct_ops.c"


@dataclass(frozen=True)
class Mutant:
    """A fault: lines of a function, and what is there instead if MUTANT is true."""

    breaks: str
    """What is wrong, in words."""

    file: str
    function: str
    before: str
    after: str


MUTANTS = (
    # The life of links of any type.
    Mutant(
        "the last reference goes, and the program stays attached",
        SYSCALL,
        "bpf_link_free",
        "bpf_link_free_id(link->id);",
        "bpf_link_free_id(link->id); if (MUTANT) return;",
    ),
    Mutant(
        "closing a descriptor drops no reference",
        SYSCALL,
        "bpf_link_release",
        "bpf_link_put_direct(link);",
        "if (!MUTANT) bpf_link_put_direct(link);",
    ),
    Mutant(
        "closing a descriptor detaches, whoever else holds the link",
        SYSCALL,
        "bpf_link_release",
        "struct bpf_link *link = filp->private_data;",
        "struct bpf_link *link = filp->private_data;"
        " if (MUTANT && link->ops->detach) link->ops->detach(link);",
    ),
    Mutant(
        "unlinking a pin drops no reference",
        INODE,
        "bpf_any_put",
        "bpf_link_put(raw);",
        "if (!MUTANT) bpf_link_put(raw);",
    ),
    Mutant(
        "everyone may write to a pin",
        INODE,
        "bpf_obj_do_pin",
        "mode = S_IFREG | ((S_IRUSR | S_IWUSR) & ~current_umask());",
        "mode = S_IFREG | ((S_IRUSR | S_IWUSR) & ~current_umask()) | (MUTANT ? 0066 : 0);",
    ),
    Mutant(
        "a pin opens for reading only",
        INODE,
        "bpf_obj_get_user",
        "ret = (f_flags != O_RDWR) ? -EINVAL : bpf_link_new_fd(raw);",
        "ret = (!MUTANT && f_flags != O_RDWR) ? -EINVAL : bpf_link_new_fd(raw);",
    ),
    Mutant(
        "a program that is executed inherits the descriptor",
        SYSCALL,
        "bpf_link_prime",
        "fd = get_unused_fd_flags(O_CLOEXEC);",
        "fd = get_unused_fd_flags(MUTANT ? 0 : O_CLOEXEC);",
    ),
    Mutant(
        "anyone opens a link by its id",
        SYSCALL,
        "bpf_link_get_fd_by_id",
        "if (!capable(CAP_SYS_ADMIN))",
        "if (!MUTANT && !capable(CAP_SYS_ADMIN))",
    ),
    Mutant(
        "an id that no link has is EAGAIN, not ENOENT",
        SYSCALL,
        "bpf_link_by_id",
        "link = ERR_PTR(-ENOENT);",
        "link = ERR_PTR(MUTANT ? -EAGAIN : -ENOENT);",
    ),
    Mutant(
        "LINK_CREATE does not compare the program's attach type",
        SYSCALL,
        "link_create",
        "if (ret)\ngoto out;",
        "if (ret && !MUTANT)\ngoto out;",
    ),
    Mutant(
        "LINK_UPDATE ignores unknown flags",
        SYSCALL,
        "link_update",
        "if (flags & ~BPF_F_REPLACE)",
        "if (!MUTANT && (flags & ~BPF_F_REPLACE))",
    ),
    Mutant(
        "LINK_UPDATE ignores an old program without REPLACE",
        SYSCALL,
        "link_update",
        "} else if (attr->link_update.old_prog_fd) {",
        "} else if (!MUTANT && attr->link_update.old_prog_fd) {",
    ),
    Mutant(
        "LINK_UPDATE does nothing where the type has no update, and succeeds",
        SYSCALL,
        "link_update",
        "else\nret = -EINVAL;",
        "else\nret = MUTANT ? 0 : -EINVAL;",
    ),
    Mutant(
        "LINK_DETACH does nothing where the type has no detach, and succeeds",
        SYSCALL,
        "link_detach",
        "ret = -EOPNOTSUPP;",
        "ret = MUTANT ? 0 : -EOPNOTSUPP;",
    ),
    Mutant(
        "ITER_CREATE ignores flags",
        SYSCALL,
        "bpf_iter_create",
        "if (attr->iter_create.flags)",
        "if (!MUTANT && attr->iter_create.flags)",
    ),
    Mutant(
        "fdinfo tells the id of another program",
        SYSCALL,
        "bpf_link_show_fdinfo",
        "prog_id = prog->aux->id;",
        "prog_id = prog->aux->id + MUTANT;",
    ),
    # Cgroups.
    Mutant(
        "a cgroup link's update does not compare the old program",
        CGROUP,
        "cgroup_bpf_replace",
        "if (old_prog && link->prog != old_prog) {",
        "if (!MUTANT && old_prog && link->prog != old_prog) {",
    ),
    Mutant(
        "a cgroup link's update reaches its own cgroup only, not those below",
        CGROUP,
        "replace_effective_prog",
        "WRITE_ONCE(item->prog, pl->link->link.prog);",
        "if (MUTANT && desc != cgrp) { bpf_prog_inc(item->prog); continue; }\n"
        "WRITE_ONCE(item->prog, pl->link->link.prog);",
    ),
    Mutant(
        "a cgroup link's update accepts a program of another type",
        CGROUP,
        "__cgroup_bpf_replace",
        "if (link->link.prog->type != new_prog->type)",
        "if (!MUTANT && link->link.prog->type != new_prog->type)",
    ),
    Mutant(
        "a removed cgroup forgets to detach its links",
        CGROUP,
        "cgroup_bpf_release",
        "bpf_cgroup_link_auto_detach(pl->link);",
        "if (!MUTANT) bpf_cgroup_link_auto_detach(pl->link);",
    ),
    Mutant(
        "detaching a cgroup link does nothing, and succeeds",
        CGROUP,
        "bpf_cgroup_link_detach",
        "bpf_cgroup_link_release(link);",
        "if (!MUTANT) bpf_cgroup_link_release(link);",
    ),
    Mutant(
        "a link attaches to a cgroup beside a program that wants to be alone",
        CGROUP,
        "__cgroup_bpf_attach",
        "if (!hlist_empty(progs) && cgrp->bpf.flags[atype] != saved_flags)",
        "if (!MUTANT && !hlist_empty(progs) && cgrp->bpf.flags[atype] != saved_flags)",
    ),
    Mutant(
        "a cgroup link's info tells another attach type",
        CGROUP,
        "bpf_cgroup_link_fill_link_info",
        "info->cgroup.attach_type = cg_link->type;",
        "info->cgroup.attach_type = cg_link->type + MUTANT;",
    ),
    # Network namespaces and devices.
    Mutant(
        "a network namespace takes a second flow dissector",
        NETNS,
        "netns_bpf_link_attach",
        "if (cnt >= netns_bpf_max_progs(type)) {",
        "if (!MUTANT && cnt >= netns_bpf_max_progs(type)) {",
    ),
    Mutant(
        "the update of a link whose network namespace is gone is EINVAL, not ENOLINK",
        NETNS,
        "bpf_netns_link_update_prog",
        "return -ENOLINK;",
        "return MUTANT ? -EINVAL : -ENOLINK;",
    ),
    Mutant(
        "an XDP link's update leaves the old program on the device",
        XDP,
        "bpf_xdp_link_update",
        "err = dev_xdp_install(xdp_link->dev, mode, bpf_op, NULL,\nxdp_link->flags, new_prog);",
        "err = MUTANT ? 0 : dev_xdp_install(xdp_link->dev, mode, bpf_op, NULL,\n"
        "xdp_link->flags, new_prog);",
    ),
    Mutant(
        "an XDP link detaches, and its program runs on",
        XDP,
        "dev_xdp_detach_link",
        "WARN_ON(dev_xdp_install(dev, mode, bpf_op, NULL, 0, NULL));",
        "if (!MUTANT) WARN_ON(dev_xdp_install(dev, mode, bpf_op, NULL, 0, NULL));",
    ),
    Mutant(
        "the update of an XDP link whose device is gone succeeds",
        XDP,
        "bpf_xdp_link_update",
        "err = -ENOLINK;",
        "err = MUTANT ? 0 : -ENOLINK;",
    ),
    Mutant(
        "an XDP link replaces a program that was attached without a link",
        XDP,
        "dev_xdp_attach",
        "if (link && cur_prog) {",
        "if (!MUTANT && link && cur_prog) {",
    ),
    Mutant(
        "a tcx link's update does not compare the old program",
        TCX,
        "tcx_link_update",
        "if (oprog && link->prog != oprog) {",
        "if (!MUTANT && oprog && link->prog != oprog) {",
    ),
    Mutant(
        "tcx and netkit ignore the expected revision",
        MPROG,
        "bpf_mprog_attach",
        "if (revision && revision != bpf_mprog_revision(entry))",
        "if (!MUTANT && revision && revision != bpf_mprog_revision(entry))",
    ),
    Mutant(
        "tcx and netkit take one program twice",
        MPROG,
        "bpf_mprog_attach",
        "if (bpf_mprog_exists(entry, prog_new))",
        "if (!MUTANT && bpf_mprog_exists(entry, prog_new))",
    ),
    Mutant(
        "detaching a netkit link does nothing, and succeeds",
        NETKIT,
        "netkit_link_detach",
        "netkit_link_release(link);",
        "if (!MUTANT) netkit_link_release(link);",
    ),
    Mutant(
        "detaching a netfilter link does nothing, and succeeds",
        NETFILTER,
        "bpf_nf_link_detach",
        "bpf_nf_link_release(link);",
        "if (!MUTANT) bpf_nf_link_release(link);",
    ),
    Mutant(
        "netfilter ignores LINK_CREATE's flags",
        NETFILTER,
        "bpf_nf_link_attach",
        "if (attr->link_create.flags)",
        "if (!MUTANT && attr->link_create.flags)",
    ),
    Mutant(
        "netfilter takes a program at the first priority, which is the kernel's own",
        NETFILTER,
        "bpf_nf_check_pf_and_hooks",
        "if (prio == NF_IP_PRI_FIRST)",
        "if (!MUTANT && prio == NF_IP_PRI_FIRST)",
    ),
    Mutant(
        "a sockmap takes a second link in the place of the first",
        SOCKMAP,
        "sock_map_prog_update",
        "if ((!link || prog) && *plink)",
        "if (!MUTANT && (!link || prog) && *plink)",
    ),
    Mutant(
        "a sockmap link's update with a wrong old program is ENOENT, not EPERM",
        SOCKMAP,
        "sock_map_link_update_prog",
        "if (old && link->prog != old) {",
        "if (!MUTANT && old && link->prog != old) {",
    ),
    # Tracing.
    Mutant(
        "an iterator link's update accepts a program for another target",
        ITER,
        "bpf_iter_link_replace",
        "link->prog->aux->attach_btf_id != new_prog->aux->attach_btf_id) {",
        "(!MUTANT && link->prog->aux->attach_btf_id != new_prog->aux->attach_btf_id)) {",
    ),
    Mutant(
        "the iterator of links leaves out links",
        LINK_ITER,
        "bpf_link_seq_next",
        "++info->link_id;",
        "info->link_id += 1 + MUTANT;",
    ),
    Mutant(
        "a function takes one fentry program twice",
        TRAMPOLINE,
        "__bpf_trampoline_link_prog",
        "if (link_exiting->link.prog != link->link.prog)",
        "if (MUTANT || link_exiting->link.prog != link->link.prog)",
    ),
    Mutant(
        "a tracing link's info has its two target ids swapped",
        SYSCALL,
        "bpf_tracing_link_fill_link_info",
        "&info->tracing.target_obj_id,\n&info->tracing.target_btf_id);",
        "MUTANT ? &info->tracing.target_btf_id : &info->tracing.target_obj_id,\n"
        "MUTANT ? &info->tracing.target_obj_id : &info->tracing.target_btf_id);",
    ),
    Mutant(
        "a raw tracepoint's program reads another cookie",
        SYSCALL,
        "bpf_raw_tp_link_attach",
        "link->cookie = cookie;",
        "link->cookie = cookie + MUTANT;",
    ),
    Mutant(
        "the link of a perf event goes, and the program runs on while the event is open",
        SYSCALL,
        "bpf_perf_link_release",
        "perf_event_free_bpf_prog(event);",
        "if (!MUTANT) perf_event_free_bpf_prog(event);",
    ),
    Mutant(
        "a perf event's cookie is lost",
        SYSCALL,
        "bpf_perf_link_attach",
        "err = perf_event_set_bpf_prog(event, prog, attr->link_create.perf_event.bpf_cookie);",
        "err = perf_event_set_bpf_prog(event, prog,"
        " MUTANT ? 0 : attr->link_create.perf_event.bpf_cookie);",
    ),
    Mutant(
        "of several functions, a kprobe_multi link attaches to the first",
        TRACE,
        "bpf_kprobe_multi_link_attach",
        "err = register_fprobe_ips(&link->fp, addrs, cnt);",
        "err = register_fprobe_ips(&link->fp, addrs, MUTANT ? 1 : cnt);",
    ),
    Mutant(
        "all functions of a kprobe_multi link have one cookie",
        TRACE,
        "bpf_kprobe_multi_cookie",
        "cookie = link->cookies + (addr - link->addrs);",
        "cookie = link->cookies + (MUTANT ? 0 : addr - link->addrs);",
    ),
    Mutant(
        "a uprobe_multi link's program reads another cookie",
        TRACE,
        "bpf_uprobe_multi_cookie",
        "return run_ctx->uprobe->cookie;",
        "return run_ctx->uprobe->cookie + MUTANT;",
    ),
    # Struct_ops.
    Mutant(
        "a struct_ops link's update does not compare the old map",
        STRUCT_OPS,
        "bpf_struct_ops_map_link_update",
        "if (expected_old_map && old_map != expected_old_map) {",
        "if (!MUTANT && expected_old_map && old_map != expected_old_map) {",
    ),
    Mutant(
        "who polls a struct_ops link is not told that it was detached",
        STRUCT_OPS,
        "bpf_struct_ops_map_link_poll",
        "return rcu_access_pointer(st_link->map) ? 0 : EPOLLHUP;",
        "return MUTANT || rcu_access_pointer(st_link->map) ? 0 : EPOLLHUP;",
    ),
)


def edits(mutants: tuple[Mutant, ...] = MUTANTS) -> tuple[Edit | Top, ...]:
    """Return the edits that put all faults into a kernel, and the parameter that chooses one."""
    files = sorted({SYSCALL, *(mutant.file for mutant in mutants)})
    parameter = f"core_param({PARAMETER}, {PARAMETER}, int, 0444);"
    return (
        *(Top(file, f"extern int {PARAMETER};") for file in files),
        Top(SYSCALL, "#include <linux/moduleparam.h>"),
        Top(SYSCALL, f"int {PARAMETER}; {parameter}"),
        *(
            Edit(
                mutant.file,
                mutant.function,
                mutant.before,
                mutant.after.replace("MUTANT", f"({PARAMETER} == {number})"),
            )
            for number, mutant in enumerate(mutants, start=1)
        ),
    )
