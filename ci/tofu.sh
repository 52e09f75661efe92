#!/usr/bin/env bash
# Builds OpenTofu (MPL-2.0), which the tests of terraform-examples run, once, into a cache outside the checkout:
# ${MESH_CACHE:-~/.cache/mesh}/tofu-VERSION/tofu. Does nothing when it is there. The first run takes about four minutes on two
# cores, and needs Go 1.26 and the Go module proxy.
set -euo pipefail
source "$(dirname "$0")/building.sh"

version=1.12.6
cache=${MESH_CACHE:-$HOME/.cache/mesh}
target=$cache/tofu-$version
[[ -x $target/tofu ]] && exit 0

"$(dirname "$0")/need-go" OpenTofu
export GOTOOLCHAIN=local GOFLAGS='-p=2 -buildvcs=false' CGO_ENABLED=0 GOWORK=off

begin_building tofu
[[ ! -x $target/tofu ]] || exit 0

building=OpenTofu
echo "building OpenTofu $version with $(go env GOVERSION): $target/tofu"
start=$SECONDS
cd "$work"
# `go install` refuses modules with replace lines: a module of our own names the program as its tool, and repeats OpenTofu's
# own replacement of the library that reads its language.
cat >go.mod <<'END'
module wrapper

go 1.26.0

replace github.com/hashicorp/hcl/v2 v2.20.1 => github.com/opentofu/hcl/v2 v2.20.2-0.20251021132045-587d123c2828
END
# Its hundreds of modules that were found are worth reading only when one was not.
if ! go get -tool "github.com/opentofu/opentofu/cmd/tofu@v$version" 2>get.log; then
    cat get.log >&2
    exit 1
fi
mkdir bin
# Without the second flag it would call itself a development build, and print that under every version.
go build -trimpath -ldflags='-s -w -X github.com/opentofu/opentofu/version.dev=no' -o bin/tofu \
    github.com/opentofu/opentofu/cmd/tofu
said=$(env -i bin/tofu version)
[[ ${said%%$'\n'*} == "OpenTofu v$version" ]]
mv -T bin "$target"
echo "built OpenTofu in $((SECONDS - start)) s, $(du -m "$target" | cut -f1) MB"
