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
# What it imports, of the versions that were tried.
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check configobj==5.0.9 jinja2==3.1.6 jsonpatch==1.48 \
    jsonschema==4.26.0 oauthlib==4.0.1 pyyaml==6.0.4 requests==2.34.2
cat >"$work/cloud-init" <<'END'
#!/bin/sh
here=$(dirname "$0")
PYTHONPATH=$here/root/usr/lib/python3/dist-packages exec "$here/venv/bin/python" -m cloudinit.cmd.main "$@"
END
chmod 0755 "$work/cloud-init"

printf '#cloud-config\nruncmd: [reboot]\n' >"$work/least.yaml"
"$work/cloud-init" schema --config-file "$work/least.yaml" >/dev/null

# Whole or not at all: another test run may look at the same time.
if [[ ! -e $target ]]; then
    mv -T "$work" "$target"
fi
echo "cloud-init is in $target"
