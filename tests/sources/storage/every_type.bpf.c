// SPDX-License-Identifier: GPL-2.0
/* Global variables of every type of C: negative enums, bit fields, arrays in arrays, pointers, 128 bits. */
#include <linux/bpf.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>

enum verdict { REFUSED = -2, OPEN = 7 };
typedef struct { char text[12]; } name_t;

enum verdict verdict = REFUSED;
signed char narrow = -1;
short shorter = -300;
unsigned long long widest = ~0ULL;
__int128 huge;
bool truths[3] = {true, false, true};
name_t names[2] = {{"first"}, {"second one"}};
int grid[2][3] = {{1, 2, 3}, {4, 5, 6}};
struct {
	unsigned int low : 3, : 5, high : 24;
	union {
		int number;
		struct {
			short lower, upper;
		};
	};
	struct nested {
		struct nested *next;
		void (*call)(void);
	} nested;
} mixed = {5, 1000, {-1}};
const char *pointer;
double real = 0.5;

SEC("tc")
int use(struct __sk_buff *skb)
{
	mixed.high += narrow + shorter;
	names[0].text[0] = truths[skb->mark & 1];
	grid[1][2] = verdict == OPEN;
	return widest == 0 && pointer;
}

char LICENSE[] SEC("license") = "GPL";
