/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

/* Until 6.19 it had a fifth argument, which is the verifier's. */
extern int bpf_stream_vprintk(int stream, const char *format, const void *arguments, __u32 length) __ksym;

SEC("syscall")
int print(void *context)
{
	static const char format[] = "a number: %d\n";
	__u64 arguments[] = {7};

	return bpf_stream_vprintk(1, format, arguments, sizeof(arguments));
}

SEC("syscall")
int again(void *context)
{
	static const char format[] = "a number: %d\n";
	__u64 arguments[] = {7};

	return bpf_stream_vprintk(2, format, arguments, sizeof(arguments));
}

char LICENSE[] SEC("license") = "GPL";
