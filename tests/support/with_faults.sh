#!/usr/bin/env bash
# Run a command that strikes faults: with PostgreSQL's programs and libfaketime, installed by apt-get where that can be done.
set -euo pipefail
clock() { ls /usr/lib/*/faketime/libfaketimeMT.so.1 /usr/lib/faketime/libfaketimeMT.so.1 2>/dev/null | head -n 1 || true; }
missing=()
ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing+=(postgresql)
test -n "$(clock)" || missing+=(faketime)
if [ ${#missing[@]} -gt 0 ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing ${missing[*]} by apt-get" >&2
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
export FHIR_GATEWAY_TEST_FAULTS=1 FHIR_GATEWAY_TEST_FAKETIME=$(clock)
"$@"
