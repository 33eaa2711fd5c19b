"""The kernel's BPF link selftests, as pytest tests that run on any kernel.

They use the public API, as anyone's tests would, and eleven modules behind it:

- `binding.libbpf` and `binding.opts`, for calls that the API does not make: updates with wrong
  arguments, programs attached without a link, the function that a program replaces, the file of an
  iterator; and for the release of libbpf
- `binding.bpf_syscall`, `binding.uapi` and `system.perf_events`, for links, programs and pins that
  are made without libbpf, which makes no wrong calls, and to ask for info with buffers that are too
  small
- `features.probing`, for the probes, which are compared with kernels, and to compare releases
- `features.options`, for the options of a kernel that link types need
- `session.requirements`, to skip or fail a test of what the kernel lacks, as `bpf_requires` does
- `binding.btf` and `binding.kernel_btf`, for the kernel's own numbers of functions and enumerators,
  and the layout of its structures
- `errors`, for the names of errnos on the page on link types
"""
