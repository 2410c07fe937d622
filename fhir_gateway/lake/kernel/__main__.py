"""Compile everything now, instead of at the first ingest: ``python -m fhir_gateway.lake.kernel``.

Part of the installation (``make install``, the image); takes some ten seconds, and nothing when it was done before.
"""

from __future__ import annotations

import duckdb
import numpy as np
import pyarrow as pa

from fhir_gateway.lake.lines import LineBlock
from fhir_gateway.lake.scan import Scanner
from fhir_gateway.lake.typed import typed_rows

_PATIENT = (
    b'{"resourceType":"Patient","id":"1","meta":{"versionId":"1","lastUpdated":"2024-01-01T00:00:00Z"},"active":true,'
    b'"multipleBirthInteger":1,"contact":[{"extension":[{"url":"x"}]}],'
    b'"extension":[{"url":"x","valueDecimal":1.5},{"url":"y","valueString":"\\n"}]}\n'
)


def main() -> None:
    """Take one resource through all compiled functions."""
    scanner = Scanner()
    ((name, batch),) = scanner.scan(LineBlock(_PATIENT, 1, 1), "Patient", "warm-up", 0).rows
    with duckdb.connect() as connection:
        for _ in typed_rows(connection, scanner.grammar, name, pa.table(batch), np.arange(1), scanner.shape(name)):
            pass


if __name__ == "__main__":
    main()
