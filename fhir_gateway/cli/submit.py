"""What ``spark-submit`` is given: ``spark-submit .../cli/submit.py evaluate all --period 2025 --on spark``.

It is the ``fhir-gateway`` command; that the session is Spark's own, :mod:`~fhir_gateway.spark.session` finds by itself.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    # spark-submit puts this folder first, whose modules are no top-level ones
    here = str(Path(__file__).resolve().parent)
    sys.path[:] = [path for path in sys.path if str(Path(path).resolve()) != here]
    from fhir_gateway.cli import main

    main()
