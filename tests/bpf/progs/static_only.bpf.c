#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

static volatile int counted;
static volatile int begun = 3;
static const volatile int step = 2;

SEC("socket")
int count(struct __sk_buff *skb)
{
	counted += step;
	begun++;
	bpf_printk("counted %d", counted);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
