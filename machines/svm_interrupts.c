/*
 * Preloaded into QEMU, mends its emulation of VMRUN, as of QEMU 7.2 to 10.
 *
 * helper_vmrun() delivers an interrupt that the hypervisor injects (EVENTINJ), and leaves its vector
 * in the processor's exception_index. If the processor's time slice ends before the guest's next
 * #VMEXIT, the loop takes that for an exception that is pending, and delivers the interrupt again,
 * although the guest has masked interrupts by then: a handler that holds a lock waits for itself.
 *
 * QEMU's code calls helpers through their `struct TCGHelperInfo`, which begins with the function.
 */
#include <stdio.h>
#include <stdlib.h>

extern __thread void *current_cpu;
extern void *helper_info_vmrun;
extern void helper_vmrun(void *env, int address_size, int next_instruction);
extern void cpu_loop_exit_noexc(void *cpu) __attribute__((noreturn));

static void vmrun(void *env, int address_size, int next_instruction)
{
	helper_vmrun(env, address_size, next_instruction);
	cpu_loop_exit_noexc(current_cpu); /* sets exception_index to -1 */
}

__attribute__((constructor)) static void replace(void)
{
	if (helper_info_vmrun != (void *)helper_vmrun) {
		fputs("this QEMU does not call helper_vmrun() as expected\n", stderr);
		exit(1);
	}
	helper_info_vmrun = (void *)vmrun;
	unsetenv("LD_PRELOAD"); /* QEMU runs other programs */
}
