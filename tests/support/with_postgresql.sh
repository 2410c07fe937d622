#!/usr/bin/env bash
# Run a command with FHIR_GATEWAY_TEST_POSTGRESQL naming an empty database of a throwaway PostgreSQL server.
# Needs PostgreSQL's server binaries (Debian: package postgresql). Never touches a server that is already there.
set -euo pipefail
bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1)
bin=${bin:-$(dirname "$(command -v initdb || echo /nowhere/initdb)")}
test -x "$bin/initdb" || { echo "no PostgreSQL server binaries found (Debian: apt-get install postgresql)" >&2; exit 1; }
folder=$(mktemp -d)
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
as=()
if [ "$(id -u)" = 0 ]; then # the server refuses to run as root
    chown postgres "$folder"
    as=(setpriv --reuid=postgres --regid=postgres --init-groups)
fi
stop() {
    "${as[@]}" "$bin/pg_ctl" --pgdata "$folder/data" --mode immediate --silent stop || true
    rm -rf "$folder"
}
trap stop EXIT
cd /
"${as[@]}" "$bin/initdb" --pgdata "$folder/data" --auth trust --username gateway --encoding UTF8 >/dev/null
"${as[@]}" "$bin/pg_ctl" --pgdata "$folder/data" --wait --silent --log "$folder/log" \
    --options "-c listen_addresses=127.0.0.1 -c port=$port -c unix_socket_directories=$folder -c fsync=off" start
cd - >/dev/null
export FHIR_GATEWAY_TEST_POSTGRESQL="postgresql+psycopg://gateway@127.0.0.1:$port/postgres"
"$@"
