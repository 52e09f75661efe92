#!/bin/sh
# A PostgreSQL of the pod's own, made anew: it stays in the machine's /var/lib, and goes with the machine.
set -eu
bin=$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | tail -n 1)
data=/var/lib/postgresql/shop
umask 077
mkdir -p /var/lib/postgresql
chmod 0755 /var/lib/postgresql
rm -rf $data
mkdir $data
chown postgres $data
as_postgres() {
    # It refuses to run as root.
    setpriv --reuid=postgres --regid=postgres --init-groups -- "$@"
}
as_postgres "$bin/initdb" --pgdata=$data --username=shop --auth=trust --encoding=UTF8 --locale=C --no-sync >/dev/null
# Whoever reaches it may write: an example's database. Yours asks for a password.
echo 'host shop shop all trust' >>$data/pg_hba.conf
as_postgres "$bin/postgres" --single -D $data postgres >/dev/null <<'END'
CREATE DATABASE shop
END
as_postgres "$bin/postgres" --single -D $data shop >/dev/null <<'END'
CREATE TABLE orders (site text NOT NULL, at timestamptz NOT NULL DEFAULT now())
END
exec setpriv --reuid=postgres --regid=postgres --init-groups -- \
    "$bin/postgres" -D $data -c listen_addresses='*' -c unix_socket_directories= -c fsync=off
