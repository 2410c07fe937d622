#!/usr/bin/env bash
# Run a command with FHIR_GATEWAY_TEST_BROWSER naming a Chromium; Debian's package is installed where that can be done.
set -euo pipefail
find_browser() { command -v chromium || command -v chromium-browser || command -v google-chrome; }
if ! find_browser >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing chromium by apt-get" >&2
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null
fi
browser=$(find_browser) || {
    echo "no Chromium found, and it cannot be installed from here (Debian, as root: apt-get install chromium)" >&2
    exit 1
}
export FHIR_GATEWAY_TEST_BROWSER=$browser
"$@"
