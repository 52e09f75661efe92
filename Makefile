# The commands of the README. `make help` lists them.

CARGO   ?= cargo
# One profile, for the demo and for what is installed.
RELEASE := target/release

# Random days of `make sim`; the ordinary tests run 500.
SEEDS   ?= 10000

.PHONY: help demo test sim test-kernels test-vm test-kubernetes test-terraform fuzz lint deps build release images packages test-packages clean

help:
	@echo 'make demo   build the release binaries and show two clusters acting as one (root; about a minute after the build)'
	@echo 'make test   everything that is checked: format, lints, docs, unit, property, simulation and end-to-end tests (root)'
	@echo 'make sim    random days of whole meshes, simulated, beyond those of the tests: SEEDS=10000'
	@echo 'make test-kubernetes   beside a real kube-apiserver and kube-proxy, built once from their Go modules (root, Go 1.26)'
	@echo 'make test-terraform    the Terraform examples, by OpenTofu, built once from its Go modules (root, Go 1.26)'
	@echo 'make test-kernels   what depends on the kernel, in VMs with the kernels of Debian 11, 12 and 13 (root; downloads 90 MB once)'
	@echo 'make test-vm   the VM agent'"'"'s package on Debian 11 and 12 with their own kernels and systemd, under qemu (root; downloads 300 MB once)'
	@echo 'make fuzz TARGET=… SECONDS=…   look for bytes that a decoder does not survive (C++ compiler; targets: tests/fuzz/corpus)'
	@echo 'make images container images of the four programs, as OCI archives in target/images (root)'
	@echo 'make packages   the VM agent as .deb and .rpm, in target/packages (root)'
	@echo 'make test-packages   installs, upgrades, removes and purges them in a small Debian (root; downloads 60 MB)'
	@echo 'make lint   formatting, clippy and rustdoc, warnings denied'
	@echo 'make deps   install the distribution packages that building and testing need'

demo: release
	@$(RELEASE)/mesh-demo

test:
	@ci/test

sim:
	$(CARGO) run -q -p sim --locked -- $(SEEDS)

# The targets of these tests are chosen by their names: of a package by itself, features are others, and everything is built again.
test-kubernetes: deps
	@ci/etcd.sh
	@ci/kubernetes.sh
	$(CARGO) build --workspace --bins --locked
	$(CARGO) test --workspace --locked --test main -- --ignored --skip machine:: --skip cost:: \
		--skip other_kernel:: --skip thin_links::
	$(CARGO) test --workspace --locked --test cluster --test render -- --ignored

test-terraform: deps
	@ci/tofu.sh
	@ci/cloud-init.sh
	@ci/postgres.sh
	$(CARGO) build --workspace --bins --locked
	$(CARGO) test --workspace --locked --test examples -- --ignored

test-kernels:
	@tests/kernels/run

test-vm:
	@tests/vm/run

fuzz:
	@tests/fuzz/run '$(TARGET)' '$(or $(SECONDS),60)'

lint: deps
	$(CARGO) fmt --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --workspace --no-deps --locked --document-private-items

release: deps
	$(CARGO) build --release --workspace --bins --locked

images: deps
	@ci/images

packages: deps
	@ci/package

test-packages: deps
	@tests/packages/run

deps:
	@ci/install

clean:
	$(CARGO) clean
