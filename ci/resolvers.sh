#!/usr/bin/env bash
# What resolves names on hosts (systemd-resolved, resolvconf, openresolv), for the tests of the VM agent: unpacked from the
# distribution's packages into ${MESH_CACHE:-~/.cache/mesh}/resolvers, once. They are not installed: each of them would take
# over this machine's own resolver.
set -euo pipefail
tools=${MESH_CACHE:-$HOME/.cache/mesh}/resolvers
[[ -e $tools/ready ]] && exit 0

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
packages=(systemd-resolved libsystemd-shared dbus-daemon resolvconf openresolv)
if ! apt-cache show "${packages[@]}" >/dev/null 2>&1; then
    apt-get update -qq
fi
# Read by root: the directory is nobody else's.
(cd "$work" && apt-get download -qq -o APT::Sandbox::User=root "${packages[@]}")

# The files of some packages as one tree, each where a system with a merged /usr has it.
lay() {
    local tree=$tools/$1 part
    shift
    rm -rf "$tree"
    mkdir -p "$tree/usr/lib" "$tree/usr/sbin" "$tree/etc"
    for package in "$@"; do
        dpkg-deb -x "$work/$package"_*.deb "$work/$package"
        for part in lib sbin; do
            [[ ! -d $work/$package/$part ]] || cp -a "$work/$package/$part/." "$tree/usr/$part/"
        done
        for part in usr etc; do
            [[ ! -d $work/$package/$part ]] || cp -a "$work/$package/$part/." "$tree/$part/"
        done
    done
}
lay systemd-resolved systemd-resolved libsystemd-shared dbus-daemon
lay resolvconf resolvconf
lay openresolv openresolv
touch "$tools/ready"
