#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

enum verdict { REFUSED = -7, TAKEN = 3 };

const volatile int limit = 1;
const volatile int far_limit SEC(".rodata.far") = 2;
int first = 3;
int hot SEC(".data.hot") = 4;
int total;
int cold SEC(".bss.cold");
enum verdict verdict = REFUSED;

extern int CONFIG_HZ __kconfig __weak;
extern int LINUX_KERNEL_VERSION __kconfig;
extern char CONFIG_LSM[512] __kconfig __weak;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, int);
	__type(value, int);
} start SEC(".maps");

SEC("socket")
int sum(struct __sk_buff *skb)
{
	int key = 5;

	total = limit + far_limit + first + hot + cold;
	bpf_map_update_elem(&start, &key, &key, BPF_ANY);
	verdict = LINUX_KERNEL_VERSION && CONFIG_HZ && CONFIG_LSM[0] ? TAKEN : verdict;
	return total;
}

SEC("?socket")
int spare(struct __sk_buff *skb)
{
	return 9;
}

SEC("no_type/known")
int untyped(void *ctx)
{
	return 2;
}

SEC("?fentry")
int BPF_PROG(on_function)
{
	total++;
	return 0;
}

SEC("?socket")
int refused(struct __sk_buff *skb)
{
	return *(volatile char *)0;
}

char LICENSE[] SEC("license") = "GPL";
