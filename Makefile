# `make demo` and `make test` install packages; the README lists what must be there before.

export PYTHON ?= python3
# Further Debian packages, without which some tests are skipped: openssh-server for --kernel-host
# (on your own machine it would start a service), chromium for reports, fish and zsh for completion,
# zstd for compressed kernels, skopeo for kernels in images.
TEST_PACKAGES ?=
export KERNELS ?= 5.10,6.1,6.12,7.2
# A SPEC of --bpf-libbpf. Link types that are newer than the distribution's newest libbpf need the libbpf
# of a kernel's sources: LIBBPF=../linux-7.3.
LIBBPF ?= newest
# What building a small kernel takes. TREE keeps its sources and objects for the next build.
KERNEL_PACKAGES = gcc make flex bison bc perl dwarves xz-utils dpkg libelf-dev
KERNEL_TREE = $(if $(TREE),--tree $(TREE))

.PHONY: help prepare demo test conformance lint docs bench clean link-types selftests-page kernel-bugs model
.PHONY: kernel-mutants soak test-machines

help: ## Show these targets
	@sed -n 's/^\([a-z-]*\):.*## /    make \1\t/p' $(MAKEFILE_LIST) | expand -t 24

prepare: ## Install missing Debian packages, and the project in .venv
	@tools/prepare

demo: prepare ## See two of the kernel's selftests pass on this kernel, and on Linux 6.1 in a VM
	@tools/demo

test: prepare ## Run all tests: the plugin's own, and the selftests on KERNELS too
	@tools/prepare $(TEST_PACKAGES)
	@tools/test

conformance: prepare ## Run all selftests, every link type, on KERNELS with the newest libbpf, or LIBBPF
	@tools/python -m pytest selftests --kernel $(KERNELS) --bpf-libbpf $(LIBBPF)

link-types: KERNELS = 5.10,6.1,6.12,6.18,7.2
link-types: prepare ## Run all selftests, and write docs/link-types.md from what each kernel answered
	@run=$$(mktemp) && page=$$(mktemp) && \
	tools/python -m pytest selftests --kernel $(KERNELS) --bpf-libbpf $(LIBBPF) --junitxml=$$run && \
	tools/python -m pytest_bpflink.selftests.conformance.page $$run > $$page && \
	cat $$page > docs/link-types.md; status=$$?; rm -f $$run $$page; exit $$status

selftests-page: prepare ## Write docs/selftests.md: which of the kernel's selftests on links are here
	@page=$$(mktemp) && tools/python -m pytest_bpflink.selftests.upstream.page > $$page && \
	cat $$page > docs/selftests.md; status=$$?; rm -f $$page; exit $$status

kernel-bugs: prepare ## Write docs/kernel-bugs.md from the rows of selftests/bugs
	@page=$$(mktemp) && .venv/bin/python -m pytest_bpflink.selftests.bugs.page > $$page && \
	cat $$page > docs/kernel-bugs.md; status=$$?; rm -f $$page; exit $$status

model: MINUTES = 10
model: prepare ## Make up lives of links for MINUTES on each of KERNELS, and compare them with an oracle
	@tools/python -m pytest selftests/test_link_model.py --kernel $(KERNELS) --bpf-libbpf $(LIBBPF) \
	    --bpf-model-seconds $$(($(MINUTES) * 60)) --kernel-timeout $$(($(MINUTES) * 60 + 600))

kernel-mutants: prepare ## Show which selftest finds each fault of a small kernel with 50 of them, one at a time
	@tools/prepare $(KERNEL_PACKAGES)
	@tools/kernel-mutants $(KERNEL_TREE) $(if $(ONLY),--only $(ONLY))

lint: prepare ## Check the code without running it
	@.venv/bin/tox -e lint

docs: prepare ## Build the documentation in build/docs, with warnings as errors
	@.venv/bin/tox -e docs

bench: ## Measure the cost of fixtures, link operations and guests, in ten minutes
	@tools/prepare bpftool udev
	@tools/python bench/bench_fixtures.py
	@.venv/bin/python bench/bench_run.py
	@.venv/bin/python bench/bench_maps.py
	@.venv/bin/python bench/bench_guests.py
	@.venv/bin/python bench/bench_model.py

soak: MINUTES = 20
soak: prepare ## Use guests roughly for MINUTES: kills, full disks, damaged caches, 10,000 items
	@tools/python -m pytest_bpflink.cli kernels fetch 6.1 7.2
	@tools/python -m soak --minutes $(MINUTES)

test-machines: prepare ## Test on other kernels, hosts and architectures, in emulation; ONLY=cloud for one of them
	@tools/python -m machines $(if $(ONLY),--only $(ONLY)) $(if $(FIRST),--first $(FIRST)) $(if $(MINUTES),--minutes $(MINUTES))

clean: ## Remove .venv and everything that was built here; kernels stay in the cache
	rm -rf .venv .tox build dist .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -exec rm -rf {} +
