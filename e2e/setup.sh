#!/usr/bin/env bash
# Installs what building and testing Gantry need on Debian or Ubuntu; only what is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(
  runc              # an OCI runtime beside the embedded one
  crun runsc        # further handlers: another OCI runtime, and gVisor
  nftables          # host ports and masquerading of the built-in network
  containernetworking-plugins iptables   # CNI plugins, and what one of them calls
  busybox-static    # content of the test images
  docker-registry   # a registry of our own: tests reach no other
  skopeo umoci      # push test images; unpack them as another tool does
  libseccomp-dev pkg-config gcc   # to build the embedded runtime
  jq iproute2 procps util-linux curl ca-certificates
  qemu-system-x86 crun criu cpio e2fsprogs binutils   # the virtual machine of make test-vm
)

missing=()
for package in "${packages[@]}"; do
  state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  [[ $state == installed ]] || missing+=("$package")
done
if ((${#missing[@]} == 0)); then
  echo "setup: all ${#packages[@]} packages are installed"
else
  if [[ $(id -u) != 0 ]]; then
    echo "setup: these packages are missing, install them as root: ${missing[*]}" >&2
    exit 1
  fi
  echo "setup: installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get -q -o Acquire::Retries=3 update
  # Debian starts what it installs; the tests run registries of their own on ports of their own.
  policy=/usr/sbin/policy-rc.d
  if [[ ! -e $policy ]]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 0755 "$policy"
    trap 'rm -f "$policy"' EXIT
  fi
  apt-get -q -o Acquire::Retries=3 install -y --no-install-recommends "${missing[@]}"
fi

if ! command -v cargo >/dev/null; then
  echo "setup: cargo is missing: install Rust from https://rustup.rs" >&2
  exit 1
fi

e2e/vm/packages
e2e/critest/packages
