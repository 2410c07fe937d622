#!/bin/sh
# Starts the gateway. Secrets given as files (FHIR_GATEWAY_..._FILE, as Docker and Kubernetes mount them) become
# settings of this process alone: they are in no image, no compose file and no `docker inspect`.
set -eu

for name in DATABASE_URL ENCRYPTION_KEY; do
    eval "file=\${FHIR_GATEWAY_${name}_FILE:-}"
    if [ -n "$file" ]; then
        eval "FHIR_GATEWAY_${name}=\$(cat \"\$file\")"
        export "FHIR_GATEWAY_${name}"
        unset "FHIR_GATEWAY_${name}_FILE"
    fi
done

exec fhir-gateway "$@"
