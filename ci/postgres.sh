#!/usr/bin/env bash
# Installs the distribution's PostgreSQL, for tests that run one of their own: a VM's psql, terraform-examples/edge-to-core-local.
# Does nothing when it is there.
set -euo pipefail
compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null && [[ -x $(command -v psql) ]] && exit 0

if ! apt-cache show postgresql >/dev/null 2>&1; then
    apt-get update -qq
fi
export DEBIAN_FRONTEND=noninteractive
apt-get install -y -qq --no-install-recommends postgresql-common >/dev/null
# Else the package makes a database on this machine, and starts it.
own=/etc/postgresql-common/createcluster.d/no-database-for-tests.conf
mkdir -p "$(dirname "$own")"
trap 'rm -f "$own"' EXIT
echo 'create_main_cluster = false' >"$own"
apt-get install -y -qq --no-install-recommends postgresql postgresql-client >/dev/null
