"""The gateway's FHIR REST face: discovery, read and search of results, and operations on measures.

``app.create_app(gateway)`` builds the application. Nothing is imported here, so that the control plane may load this
package's table (``audit``) without loading a web framework.
"""
