#!/usr/bin/env bash
# Builds the real parts of Kubernetes that tests run beside the mesh, once, into a cache outside the checkout:
# ${MESH_CACHE:-~/.cache/mesh}/kubernetes-1.37.2/{kube-apiserver,kube-controller-manager,kube-proxy} and helm-3.22.0/helm
# (all Apache-2.0). Without arguments all of them, else those that are named. Does nothing for what is there.
# The first run takes about eight minutes on two cores, and needs Go 1.26 and the Go module proxy.
set -euo pipefail
source "$(dirname "$0")/building.sh"

kubernetes=1.37.2
helm=3.22.0
needs_go=1.26
cache=${MESH_CACHE:-$HOME/.cache/mesh}

place() {
    case $1 in
        kube-apiserver | kube-controller-manager | kube-proxy) echo "$cache/kubernetes-$kubernetes/$1" ;;
        helm) echo "$cache/helm-$helm/$1" ;;
        *)
            echo "error: there is no program \`$1\` to build: kube-apiserver, kube-controller-manager, kube-proxy, helm" >&2
            return 1
            ;;
    esac
}

# Sets `missing` to those of the arguments that are not there yet.
look() {
    missing=()
    local program file
    for program in "$@"; do
        file=$(place "$program")
        [[ -x $file ]] || missing+=("$program")
    done
}

[[ $# -gt 0 ]] || set -- kube-proxy kube-apiserver kube-controller-manager helm
look "$@"
[[ ${#missing[@]} -gt 0 ]] || exit 0

"$(dirname "$0")/need-go" "${missing[*]}"
export GOTOOLCHAIN=local GOFLAGS='-p=2 -buildvcs=false' CGO_ENABLED=0 GOWORK=off

begin_building kubernetes
look "$@"

# The wrapper module: `go install` refuses modules with replace lines, and those of Kubernetes name folders that its
# published module does not have. The same code is published beside it, under v0.
wrapper() {
    local module=k8s.io/kubernetes@v$kubernetes
    go mod download "$module"
    mkdir "$work/wrapper"
    cd "$work/wrapper"
    {
        printf 'module wrapper\n\ngo %s.0\n\ngodebug default=go%s\n\n' "$needs_go" "$needs_go"
        sed -n "s|^\t\(k8s.io/[^ ]*\) => ./staging/.*|replace \1 => \1 v0.${kubernetes#1.}|p" \
            "$(go env GOMODCACHE)/cache/download/k8s.io/kubernetes/@v/v$kubernetes.mod"
    } >go.mod
    # Its two hundred lines of modules that were found are worth reading only when one was not.
    local programs=k8s.io/kubernetes/cmd
    if ! go get -tool "$programs"/{kube-apiserver,kube-controller-manager,kube-proxy}@v$kubernetes 2>get.log; then
        cat get.log >&2
        return 1
    fi
}

build() {
    local program=$1 version
    if [[ $program == helm ]]; then
        local flags="-s -w -X helm.sh/helm/v3/internal/version.version=v$helm"
        GOBIN=$work go install -trimpath -ldflags="$flags" "helm.sh/helm/v3/cmd/helm@v$helm"
        version=$("$work/helm" version --short)
        [[ $version == v$helm* ]]
        return
    fi
    [[ -d $work/wrapper ]] || wrapper
    cd "$work/wrapper"
    local in=k8s.io/component-base/version major=${kubernetes%%.*} rest=${kubernetes#*.}
    local flags="-s -w -X $in.gitVersion=v$kubernetes -X $in.gitMajor=$major -X $in.gitMinor=${rest%%.*}"
    go build -trimpath -ldflags="$flags" -o "$work/$program" "k8s.io/kubernetes/cmd/$program"
    version=$("$work/$program" --version)
    [[ $version == "Kubernetes v$kubernetes" ]]
}

for program in "${missing[@]}"; do
    target=$(place "$program")
    echo "building $program with $(go env GOVERSION): $target"
    start=$SECONDS
    building=$program
    (build "$program") </dev/null
    mkdir -p "$(dirname "$target")"
    mv "$work/$program" "$target"
    echo "built $program in $((SECONDS - start)) s, $(du -m "$target" | cut -f1) MB"
    building=
done
