"""Compile everything now, instead of at the first ingest: ``python -m fhir_gateway.lake.kernel``.

Part of the installation (``make install``, the image); takes some ten seconds, and nothing when it was done before.
"""

from __future__ import annotations

import duckdb
import pyarrow as pa

from fhir_gateway.lake.lines import LineBlock
from fhir_gateway.lake.scan import Scanner
from fhir_gateway.lake.staging import id_words
from fhir_gateway.lake.texts import Texts
from fhir_gateway.lake.typed import typed_rows

_PATIENT = (
    b'{"resourceType":"Patient","id":"1","meta":{"versionId":"1","lastUpdated":"2024-01-01T00:00:00Z"},"active":true,'
    b'"multipleBirthInteger":1,"contact":[{"extension":[{"url":"x"}]}],'
    b'"extension":[{"url":"x","valueDecimal":1.5},{"url":"y","valueString":"\\n"}]}\n'
)


def main() -> None:
    """Take one resource through all compiled functions."""
    scanner = Scanner()
    with Texts() as texts, duckdb.connect() as connection:
        ((name, batch),) = scanner.scan(LineBlock(_PATIENT, 1, 1), "Patient", "warm-up", 0, texts).rows
        id_words(batch["id"])
        for _ in typed_rows(connection, scanner.grammar, name, texts, pa.table(batch), scanner.shape(name)):
            pass


if __name__ == "__main__":
    main()
