"""A FHIR-native gateway for value-based care. The rooms and their doors: ``docs/develop/rooms.md``."""
