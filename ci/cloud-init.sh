#!/usr/bin/env bash
# The distribution's cloud-init, for `cloud-init schema` in the tests of terraform-examples: unpacked from its package into
# ${MESH_CACHE:-~/.cache/mesh}/cloud-init/cloud-init, once, with its libraries in a virtual environment. It is not installed:
# at the next boot it would set this machine up anew.
set -euo pipefail
target=${MESH_CACHE:-$HOME/.cache/mesh}/cloud-init
[[ -x $target/cloud-init ]] && exit 0

mkdir -p "$(dirname "$target")"
work=$(mktemp -d "$target.XXXXXX")
trap 'rm -rf "$work"' EXIT

if ! apt-cache show cloud-init >/dev/null 2>&1; then
    apt-get update -qq
fi
# Read by root: the directory is nobody else's.
(cd "$work" && apt-get download -qq -o APT::Sandbox::User=root cloud-init && dpkg-deb -x cloud-init_*.deb root)
# What it imports of its package's dependencies, with which its schema is checked.
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check \
    configobj jinja2 jsonpatch jsonschema oauthlib pyyaml requests setuptools
cat >"$work/cloud-init" <<'END'
#!/bin/sh
here=$(dirname "$0")
PYTHONPATH=$here/root/usr/lib/python3/dist-packages exec "$here/venv/bin/python" -m cloudinit.cmd.main "$@"
END
chmod 0755 "$work/cloud-init"

# Whole or not at all: another test run may look at the same time.
said=$("$work/cloud-init" --version 2>&1)
if [[ ! -e $target ]]; then
    mv -T "$work" "$target"
fi
echo "cloud-init is in $target: $said"
