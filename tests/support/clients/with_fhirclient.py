"""Run by ``.clients/bin/python``: the PyPI client ``fhirclient`` gets a token by an assertion, reads and searches.

Arguments: base URL, client id, the assertion. Prints one JSON line.
"""

import json
import sys

from fhirclient import client
from fhirclient.models.measure import Measure
from fhirclient.models.patient import Patient

base, client_id, assertion = sys.argv[1:]
settings = {"app_id": client_id, "api_base": base, "jwt_token": assertion, "scope": "system/*.rs"}
smart = client.FHIRClient(settings=settings)
smart.wants_patient = False
smart.prepare()
smart.authorize()
found = list(Patient.where({"_count": "2"}).perform_resources_iter(smart.server))
again = Patient.read(found[0].id, smart.server)
measures = Measure.where({"status": "active"}).perform_resources(smart.server)
print(json.dumps({"patients": [one.id for one in found], "read": again.id, "measures": len(measures)}))
