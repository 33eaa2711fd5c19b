/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Also for user space: no types of the kernel's. */
#ifndef __EXECS_H
#define __EXECS_H

#define TASK_COMM_LEN 16
#define ARGS_SIZE 60

struct event {
	int pid;
	unsigned int uid;
	char comm[TASK_COMM_LEN];
	char args[ARGS_SIZE];
};

#endif
