# Gantry: build, check, test, demonstrate, install. `make` alone lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CARGO ?= cargo
PREFIX ?= /usr/local
DESTDIR ?=
HOST := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
# Every process of a pod pays for the monitor's pages: static, at a fixed address, no unwinding tables.
MONITOR_RUSTFLAGS := -C target-feature=+crt-static -C relocation-model=static
PROGRAMS := gantry gantry-monitor gantry-runtime

.PHONY: help setup tools build build-ci check test unit e2e test-vm conformance conformance-all demo bench-build bench install clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' Makefile

setup: ## install what building and testing need (says what; only what is missing)
	@e2e/setup.sh

tools: ## build the pinned test tools (crictl, critest, runc) into e2e/tools/bin
	@e2e/tools/build.sh

build: monitor ## build the three programs for users into target/dist
	$(CARGO) build --locked --release -p gantry -p gantry-oci-runtime
	@$(call collect,release,dist)

build-ci: monitor ## build the three programs for tests into target/dist-ci
	$(CARGO) build --locked --profile ci -p gantry -p gantry-oci-runtime
	@$(call collect,ci,dist-ci)

.PHONY: monitor
monitor:
	@test -n "$(HOST)" || { echo "rustc is missing: install Rust (https://rustup.rs), then try again" >&2; exit 1; }
	RUSTFLAGS="$(MONITOR_RUSTFLAGS)" $(CARGO) build --locked -p gantry-monitor --profile monitor --target $(HOST)

# A running daemon keeps its own copy: replace, do not write into.
define collect
mkdir -p target/$(2) && cp --remove-destination target/$(1)/gantry target/$(1)/gantry-runtime \
	target/$(HOST)/monitor/gantry-monitor target/$(2)/ && ls -l target/$(2)
endef

check: ## formatting, lints and unit tests; needs neither root nor a network
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --profile ci --workspace --all-targets --test vm -- -D warnings
	$(CARGO) test --locked --profile ci --workspace --exclude gantry-e2e --lib --bins --no-fail-fast
	@if command -v cargo-deny >/dev/null; then $(CARGO) deny --offline check bans licenses sources; \
	else echo "cargo-deny is missing: bans, licenses and sources of dependencies are not checked"; fi

test: setup tools build-ci ## set everything up, then unit, integration and end-to-end tests, as root
	@test "$$(id -u)" = 0 || { echo "make test makes namespaces, mounts and networks: run it as root" >&2; exit 1; }
	$(CARGO) test --locked --profile ci --workspace --exclude gantry-e2e --no-fail-fast
	GANTRY_MONITOR=$(CURDIR)/target/dist-ci/gantry-monitor \
		$(CARGO) test --locked --profile ci -p gantry-monitor --test kernel -- --ignored
	$(MAKE) --no-print-directory e2e

e2e: ## the end-to-end tests alone, with what `make build-ci tools` built (T=name selects)
	$(CARGO) test --locked --profile ci -p gantry-e2e --no-fail-fast -- --test-threads=1 $(T)

test-vm: setup tools build-ci ## the tests that need cgroup v2 or AppArmor, in a virtual machine (T=name selects)
	@e2e/vm/run $(T)

conformance: setup tools build-ci ## critest, whole, in the combinations that CI runs (T=name: others), as root
	$(CARGO) run --locked --profile ci -p gantry-e2e --bin conformance -- $(T)

conformance-all: setup tools build-ci ## critest, whole, in every combination, as root
	$(CARGO) run --locked --profile ci -p gantry-e2e --bin conformance -- --all

demo: setup build-ci ## two pods, a page and a visitor, from an image in a local registry
	@GANTRY_DIST=target/dist-ci examples/demo.sh

bench-build: ## build gantry-bench for users' builds into target/dist
	$(CARGO) build --locked --profile ci -p gantry-bench
	@mkdir -p target/dist && cp --remove-destination target/ci/gantry-bench target/dist/

bench: build bench-build ## measure beside Debian's containerd, as root (B="--rounds 10" passes options)
	benches/side-by-side.sh $(B)

install: build ## install programs, systemd unit and documents below PREFIX (/usr/local)
	install -D -m 0755 target/dist/gantry $(DESTDIR)$(PREFIX)/bin/gantry
	install -D -m 0755 -t $(DESTDIR)$(PREFIX)/libexec/gantry target/dist/gantry-monitor target/dist/gantry-runtime
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system
	sed 's|/usr/local|$(PREFIX)|g' deploy/gantry.service >$(DESTDIR)$(PREFIX)/lib/systemd/system/gantry.service
	install -D -m 0644 -t $(DESTDIR)$(PREFIX)/share/doc/gantry README.md docs/*.md

clean: ## remove everything that was built
	$(CARGO) clean
	rm -rf e2e/tools/bin
