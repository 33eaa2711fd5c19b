/* SPDX-License-Identifier: GPL-2.0 */
#ifndef __TASK_ITER_H
#define __TASK_ITER_H

struct task_info {
	pid_t pid;
	pid_t tid;
	__u32 state;
	char comm[16];
};

#endif /* __TASK_ITER_H */
