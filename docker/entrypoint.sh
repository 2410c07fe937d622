#!/bin/sh
# Starts the gateway. Secrets given as files (..._FILE, as Docker and Kubernetes mount them) become settings of this
# process alone: they are in no image, no compose file and no `docker inspect`.
set -eu

for name in FHIR_GATEWAY_DATABASE_URL FHIR_GATEWAY_ENCRYPTION_KEY FHIR_GATEWAY_METRICS_TOKEN FHIR_GATEWAY_SMTP_URL \
    FHIR_GATEWAY_OPENID AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY; do
    eval "file=\${${name}_FILE:-}"
    if [ -n "$file" ]; then
        value=$(cat "$file") # by itself, so that a file that cannot be read ends this script
        export "$name=$value"
        unset "${name}_FILE" value
    fi
done

exec fhir-gateway "$@"
