#!/bin/sh
# A till: writes an order a second into the database that its environment names, and goes on when it was away.
set -eu
export PGCONNECT_TIMEOUT=2
until printf "INSERT INTO orders (site) VALUES ('%s') \\\\watch 1\n" "$1" |
    psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 >/dev/null; do
    sleep 1
done
