#!/usr/bin/env bash
# Run a command with FHIR_GATEWAY_TEST_SPARK set, where there is a Java of version 17 or newer; Debian's package is
# installed where that can be done.
set -euo pipefail
java=${JAVA_HOME:+$JAVA_HOME/bin/}java
recent() { "$java" -version 2>&1 | grep -qE 'version "(1[7-9]|[2-9][0-9])'; }
if ! recent && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing openjdk-17-jre-headless by apt-get" >&2
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends openjdk-17-jre-headless >/dev/null ||
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends default-jre-headless >/dev/null
    java=java
    unset JAVA_HOME
fi
recent || {
    echo "no Java 17 found, and it cannot be installed from here (Debian, as root: apt-get install openjdk-17-jre-headless)" >&2
    exit 1
}
export FHIR_GATEWAY_TEST_SPARK=1
"$@"
