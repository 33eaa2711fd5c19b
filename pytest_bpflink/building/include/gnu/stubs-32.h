/* glibc's <gnu/stubs.h> includes this file wherever clang does not say that it compiles for x86-64,
 * as for BPF, and Debian has it in libc6-dev-i386 only. It would name functions of libc, which BPF
 * programs do not call. */
