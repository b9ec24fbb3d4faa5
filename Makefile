# The only interface: CI types what you type. `make help` lists it.

# Asked when it is needed: `make deploy` needs no Rust.
TARGET = $(shell rustc -vV | sed -n 's/^host: //p')
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
RELEASE := $(TARGET_DIR)/release
STATIC = $(TARGET_DIR)/$(TARGET)/release
# The composer runs on any host, and the image has no library. glibc resolves names without one since 2.34
# (deploy/tests/test_image.py).
STATICALLY := RUSTFLAGS='-C target-feature=+crt-static'
VENV := $(TARGET_DIR)/venv
IMAGE ?= coredump-handler:0.1.0
# A registry may fail more than once.
export CARGO_NET_RETRY ?= 10

# Cargo uses all processors by itself.
.NOTPARALLEL:

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

.PHONY: build
build: ## the three release binaries, in dist/; installs what that needs, or names it
	@sh deploy/tools.sh build
	$(STATICALLY) cargo build --release --locked -p composer --target $(TARGET)
	$(STATICALLY) cargo build --release --locked -p installer -p uploader --target $(TARGET)
	mkdir -p dist
	install -m 0755 $(STATIC)/composer $(STATIC)/installer $(STATIC)/uploader dist/

.PHONY: image
image: build dist/ca-certificates.crt ## the container image, in dist/image.tar and as IMAGE=NAME:TAG
	@sh deploy/image.sh $(IMAGE)

# Where Debian has them, or Red Hat.
dist/ca-certificates.crt: $(firstword $(wildcard /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt))
	install -D -m 0644 $< $@

.PHONY: deploy
deploy: ## onto every node: BUCKET=NAME [OVERLAY=PROVIDER] [ENDPOINT=URL] [REGION=NAME] [PATH_STYLE=true] [IMAGE=NAME:TAG] [AUTH=KIND]
	@sh deploy/deploy.sh

.PHONY: undeploy
undeploy: ## off every node, which is what it was before: [OVERLAY=PROVIDER]
	@sh deploy/undeploy.sh

.PHONY: demo
demo: ## one real crash becomes one verified object; needs root, puts the host back
	@sh deploy/demo.sh --check
	@$(MAKE) --no-print-directory build
	cargo build --locked -p testbed --bins
	@exec sh deploy/demo.sh

.PHONY: test
test: tools build static crasher test-deploy ## everything; as root also with the real kernel
ifeq ($(shell id -u),0)
	@$(MAKE) --no-print-directory image
	cargo test --locked --workspace --no-fail-fast
else
	cargo test --locked --workspace --exclude testbed --no-fail-fast
	@echo 'not root: what needs the kernel (deploy/testbed) was left out'
endif

# The manifests, the chart and the scripts of deploy/, without a cluster.
.PHONY: test-deploy
test-deploy: tools build dist/ca-certificates.crt $(VENV)/installed
	$(VENV)/bin/python -m unittest discover --start-directory deploy/tests

# helm-sdkpy asks for Python 3.12 and works with 3.11 all the same.
$(VENV)/installed: deploy/tests/requirements.txt
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --retries 10 --ignore-requires-python --requirement $<
	touch $@

# The containers of the tests have nothing in them but this.
.PHONY: crasher
crasher:
	$(STATICALLY) cargo build --locked -p testbed --bin crasher --target $(TARGET)
	mkdir -p dist/test
	install -s -m 0755 $(TARGET_DIR)/$(TARGET)/debug/crasher dist/test/

.PHONY: tools
tools: ## installs what the tests need of the system, or names it
	@sh deploy/tools.sh

.PHONY: bench
bench: build ## how long a crashed process is held, and by whom; needs root and a quarter of an hour
	cargo build --release --locked -p testbed --bins
	$(RELEASE)/bench --write docs/benchmarks.md

.PHONY: faults
faults: build ## kills, misleads, wears out, and counts what was lost and what lied; needs root and some minutes
	cargo build --release --locked -p testbed --bins
	$(RELEASE)/faults

.PHONY: fmt-check
fmt-check:
	cargo fmt --all --check

.PHONY: lint
lint: check-deps ## formatting, clippy, shellcheck, dependency directions
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo clippy --locked -p composer --no-default-features --all-targets -- -D warnings
	shellcheck deploy/*.sh deploy/testbed/src/containerd/*.sh deploy/testbed/tests/install_cos/*.sh .ci/run

.PHONY: doc
doc: ## the developers' documentation
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --workspace --no-deps --document-private-items

# The composer runs as root beside a dying process: no TLS, no internet. And
# nobody brings rusoto's own, old TLS stack back.
.PHONY: check-deps
check-deps: ## arrows point to protocol; the composer stays small
	@for crate in composer installer uploader; do \
	  tree=$$(cargo tree --locked -p $$crate -e normal --prefix none) || exit 1; \
	  others=$$(printf '%s\n' composer installer uploader testbed | grep -vx $$crate | tr '\n' '|'); \
	  if echo "$$tree" | grep -E "^($${others%|}) "; then echo "$$crate must not depend on it"; exit 1; fi; \
	done
	@tree=$$(cargo tree --locked -p composer -e normal --prefix none) && \
	  ! echo "$$tree" | grep -E '^(reqwest|rusoto_|rustls|openssl|native-tls)'
	@tree=$$(cargo tree --locked -p uploader -e normal --prefix none) && \
	  ! echo "$$tree" | grep -E '^(openssl|openssl-sys|native-tls) |^rustls v0\.(1[0-9]|2[0-2])\.'

.PHONY: static
static: build ## the composer must run on any host, and all three in an image of nothing else
	@for program in composer installer uploader; do \
	  ldd dist/$$program 2>&1 | grep -qE 'statically linked|not a dynamic executable' || { echo "$$program is not static"; exit 1; }; \
	done

.PHONY: ci
ci: tools fmt-check lint doc test ## what the pipeline runs

.PHONY: clean
clean: ## removes what was built
	cargo clean
	rm -rf dist
