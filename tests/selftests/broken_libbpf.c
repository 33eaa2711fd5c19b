// SPDX-License-Identifier: MIT
/* Breaks libbpf in one place: this library stands in front of the real one, and its one function,
 * or a function and its low-level twin, is wrong. Without any -D it changes nothing.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>

struct bpf_link;
struct bpf_program;
struct bpf_link_update_opts;

/* A function of the real libbpf; declared here, so that no header of libbpf is needed. */
void bpf_link__disconnect(struct bpf_link *link);

#ifdef PIN_DOES_NOTHING
int bpf_link__pin(struct bpf_link *link, const char *path)
{
	return 0;
}
#endif

#ifdef UNPIN_DOES_NOTHING
int bpf_link__unpin(struct bpf_link *link)
{
	return 0;
}
#endif

#ifdef DESTROY_KEEPS_DESCRIPTOR
int bpf_link__destroy(struct bpf_link *link)
{
	int (*destroy)(struct bpf_link *) = dlsym(RTLD_NEXT, "bpf_link__destroy");

	if (link)
		bpf_link__disconnect(link);
	return destroy(link);
}
#endif

#ifdef DISCONNECT_DOES_NOTHING
void bpf_link__disconnect(struct bpf_link *link)
{
}
#endif

#ifdef UPDATE_DOES_NOTHING
int bpf_link__update_program(struct bpf_link *link, struct bpf_program *program)
{
	return 0;
}

int bpf_link_update(int link, int program, const struct bpf_link_update_opts *options)
{
	return 0;
}
#endif

#ifdef UPDATE_IGNORES_OLD_PROGRAM
int bpf_link_update(int link, int program, const struct bpf_link_update_opts *options)
{
	int (*update)(int, int, const struct bpf_link_update_opts *) =
		dlsym(RTLD_NEXT, "bpf_link_update");

	return update(link, program, NULL);
}
#endif

#ifdef DETACH_DOES_NOTHING
int bpf_link__detach(struct bpf_link *link)
{
	return 0;
}

int bpf_link_detach(int link)
{
	return 0;
}
#endif
