# Sourced by scripts that build programs into $cache, once on a machine.

# One build of a kind at a time: who waits here finds what the other one built, and looks for it again. Then $work is a folder
# beside the results, so that they are moved out of it whole, and it goes with the script. While $building names a program, a
# script that fails says that it cannot be built.
begin_building() {
    local kind=$1
    mkdir -p "$cache"
    exec {lock}>"$cache/$kind.lock"
    if ! flock --nonblock "$lock"; then
        echo "waiting for another run that builds $kind into $cache"
        flock "$lock"
    fi
    work=$(mktemp -d "$cache/building.XXXXXX")
    building=
    trap end_building EXIT
}

end_building() {
    local code=$?
    rm -rf "$work"
    if [[ $code -ne 0 && -n $building ]]; then
        echo "error: cannot build $building: the lines above say why" >&2
    fi
}
