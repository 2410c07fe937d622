"""Where data rests: FHIR resources as typed columns in Delta tables, per resource type, with their raw JSON.

Entry points: :class:`fhir_gateway.lake.store.Lake`, :class:`fhir_gateway.lake.persons.PersonAssigner`,
:class:`fhir_gateway.lake.quarantine.QuarantinedLine`.
"""
