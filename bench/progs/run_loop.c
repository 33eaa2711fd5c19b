/*
 * The loop that bench_run.py compares Program.run() with: as a C author writes it with libbpf.
 *
 * run_times() runs the program of a descriptor TIMES on the packet, and returns the nanoseconds of
 * processor time that this took, or -1.
 */
#include <time.h>

#include <bpf/bpf.h>

static char after[65536 + 64];

static long long now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
	return time.tv_sec * 1000000000LL + time.tv_nsec;
}

long long run_times(int program, const char *packet, int length, int times, int room)
{
	long long began = now();

	for (int i = 0; i < times; i++) {
		LIBBPF_OPTS(bpf_test_run_opts, options,
			.data_in = packet,
			.data_size_in = length,
			.data_out = after,
			.data_size_out = room,
		);

		if (bpf_prog_test_run_opts(program, &options) || options.retval != 1)
			return -1;
	}
	return now() - began;
}
