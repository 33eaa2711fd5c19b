/*
 * egress-counter: counts the packets that leave a cgroup.
 *
 *     egress-counter run OBJECT CGROUP DIRECTORY    start counting; end on SIGTERM or SIGINT
 *     egress-counter show DIRECTORY                 print the count
 *     egress-counter stop DIRECTORY                 stop counting
 *
 * DIRECTORY is in a BPF FS. The link and the map are pinned there, so that counting goes on while
 * the daemon restarts, and the new daemon takes over the link and the map of the old one.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

static char link_pin[4096], map_pin[4096];

static int fail(const char *what)
{
	fprintf(stderr, "egress-counter: %s: %s\n", what, strerror(errno));
	return 1;
}

#ifndef ORPHANS

/* Keeps the program attached as long as its pin is there, and no longer. */
static int attach(struct bpf_program *program, int cgroup)
{
	struct bpf_link *link;

	if (!access(link_pin, F_OK)) {
		/* The link of the daemon before: this program replaces that daemon's program. */
		link = bpf_link__open(link_pin);
		return link ? bpf_link__update_program(link, program) : -1;
	}
	link = bpf_program__attach_cgroup(program, cgroup);
	return link ? bpf_link__pin(link, link_pin) : -1;
}

#else

/*
 * The bug. The program is attached without a link, so it stays when the daemon ends. The next
 * daemon attaches another program next to it, and nobody detaches the first one any more.
 */
static int attach(struct bpf_program *program, int cgroup)
{
	return bpf_prog_attach(bpf_program__fd(program), cgroup, BPF_CGROUP_INET_EGRESS,
			       BPF_F_ALLOW_MULTI);
}

#endif

static int run(const char *object_path, const char *cgroup_path)
{
	struct rlimit unlimited = { RLIM_INFINITY, RLIM_INFINITY };
	struct bpf_object *object;
	struct bpf_map *map;
	sigset_t ends;
	int cgroup, signal;

	sigemptyset(&ends);
	sigaddset(&ends, SIGTERM);
	sigaddset(&ends, SIGINT);
	sigprocmask(SIG_BLOCK, &ends, NULL);
	setrlimit(RLIMIT_MEMLOCK, &unlimited); /* before 5.11 BPF memory counts as locked */

	object = bpf_object__open(object_path);
	if (!object)
		return fail(object_path);
	map = bpf_object__find_map_by_name(object, "packets");
	/* libbpf reuses the map that is pinned there; if there is none, it pins this one. */
	if (!map || bpf_map__set_pin_path(map, map_pin) || bpf_object__load(object))
		return fail("load");
	cgroup = open(cgroup_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (cgroup < 0)
		return fail(cgroup_path);
	if (attach(bpf_object__find_program_by_name(object, "count_egress"), cgroup))
		return fail("attach");
	puts("ready");
	fflush(stdout);
	sigwait(&ends, &signal);
	return 0;
}

static int show(void)
{
	int map = bpf_obj_get(map_pin);
	__u64 count;
	__u32 zero = 0;

	if (map < 0 || bpf_map_lookup_elem(map, &zero, &count))
		return fail(map_pin);
	printf("%llu\n", (unsigned long long)count);
	return 0;
}

static int stop(void)
{
	if (unlink(link_pin) && errno != ENOENT)
		return fail(link_pin);
	if (unlink(map_pin) && errno != ENOENT)
		return fail(map_pin);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc < 3) {
		fprintf(stderr, "usage: egress-counter run OBJECT CGROUP DIRECTORY"
				" | show DIRECTORY | stop DIRECTORY\n");
		return 2;
	}
	snprintf(link_pin, sizeof(link_pin), "%s/link", argv[argc - 1]);
	snprintf(map_pin, sizeof(map_pin), "%s/packets", argv[argc - 1]);
	if (!strcmp(argv[1], "run") && argc == 5)
		return run(argv[2], argv[3]);
	if (!strcmp(argv[1], "show"))
		return show();
	return stop();
}
