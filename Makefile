# `make demo` and `make test` install what they need; what they need before is in the README.

export PYTHON ?= python3
# openssh-server for the tests of --kernel-host (on a machine of one's own it would start a service),
# chromium for those of reports, fish and zsh for those of completion, zstd for those of compressed
# kernels; they are skipped without.
TEST_PACKAGES ?=
export KERNELS ?= 5.10,6.1,6.12,7.2
# As --bpf-libbpf has it. Links that are newer than the newest libbpf of the distribution need one from
# a kernel's sources: LIBBPF=../linux-7.3.
LIBBPF ?= newest

.PHONY: help prepare demo test conformance lint docs bench clean link-types

help: ## Show this
	@sed -n 's/^\([a-z-]*\):.*## /    make \1\t/p' $(MAKEFILE_LIST) | expand -t 24

prepare: ## Install what is missing: Debian packages, and a virtual environment in .venv
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

lint: prepare ## Check the code without running it
	@.venv/bin/tox -e lint

docs: prepare ## Build the documentation in build/docs, with warnings as errors
	@.venv/bin/tox -e docs

bench: ## Measure what fixtures, link operations and guests cost, in ten minutes
	@tools/prepare bpftool udev
	@tools/python bench/bench_fixtures.py
	@.venv/bin/python bench/bench_guests.py

clean: ## Remove what was made here; kernels stay in the cache
	rm -rf .venv .tox build dist .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -exec rm -rf {} +
