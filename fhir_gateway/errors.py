"""The one error tree of the gateway.

::

    GatewayError                     500 exception   exit 1
    ├── InputError                   400 invalid     exit 2   what a user or sender gave us is wrong
    │   ├── ResourceError            422 structure   exit 2   a FHIR resource breaks a rule (file, line, path, rule)
    │   ├── MeasureError             422 processing  exit 2   a measure package cannot be run
    │   │   ├── LibraryError         422 not-found   exit 2   a CQL library is missing or in the wrong version
    │   │   ├── UnsupportedElm       422 not-supported exit 2 an ELM node or overload the engine does not have
    │   │   └── TerminologyError     422 not-found   exit 2   a value set or code system is missing or empty
    │   ├── ContractError            422 business-rule exit 2 contract terms are incomplete or contradict each other
    │   └── ConfigurationError       400 value       exit 2   settings, files or arguments
    ├── AuthenticationError          401 login       exit 3   who are you
    ├── AuthorizationError           403 forbidden   exit 3   you may not
    ├── NotFoundError                404 not-found   exit 4
    │   └── DeletedError             410 deleted     exit 4   it was here
    ├── ConflictError                409 conflict    exit 5
    │   └── AmbiguousError           412 multiple-matches exit 5  a condition that means one resource is met by several
    ├── TooManyRequests              429 throttled   exit 5   the caller asks too often, or has too much under way
    ├── SourceError                  502 transient   exit 6   a remote endpoint failed or broke its own protocol
    │   └── SourceAuthError          502 login       exit 6   the remote refused our credentials; says which check
    ├── StorageError                 503 transient   exit 6   the object storage of the lake refuses or fails
    │   └── StorageFull              507 no-store    exit 6   the disk is full; says where, if that is known
    ├── ControlPlaneError            503 no-store    exit 6   the database of the control plane is away, or busy
    └── LedgerError                  500 exception   exit 7   counts of a hop do not balance; nothing was committed

Only ``server`` and ``cli`` translate errors to HTTP or exit codes. Messages never carry patient data or secrets:
they name files, lines, element paths and rules, not values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Location:
    """Where a rule was broken: file, 1-based line, FHIRPath of the element, and the rule's name."""

    file: str | None = None
    line: int | None = None
    path: str | None = None
    rule: str | None = None

    def __str__(self) -> str:
        where = self.file or ""
        if self.line is not None:
            where += f":{self.line}"
        parts = [part for part in (where, self.path, f"[{self.rule}]" if self.rule else None) if part]
        return " ".join(parts)


class GatewayError(Exception):
    """Root of all errors the gateway raises on purpose."""

    code: ClassVar[str] = "gateway-error"
    status: ClassVar[int] = 500
    issue_type: ClassVar[str] = "exception"
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, location: Location | None = None) -> None:
        self.message = message
        self.location = location or Location()
        prefix = str(self.location)
        super().__init__(f"{prefix}: {message}" if prefix else message)


class InputError(GatewayError):
    """What a user or sender gave us is wrong."""

    code, status, issue_type, exit_code = "invalid-input", 400, "invalid", 2


class ResourceError(InputError):
    """A FHIR resource breaks a rule."""

    code, status, issue_type = "invalid-resource", 422, "structure"


class MeasureError(InputError):
    """A measure package cannot be run as it is."""

    code, status, issue_type = "invalid-measure", 422, "processing"


class LibraryError(MeasureError):
    """A CQL library is missing or present only in other versions; the message lists what was found where."""

    code, issue_type = "library-not-found", "not-found"


class UnsupportedElm(MeasureError):
    """An ELM node, overload or type the engine does not have; names library, locator and node type."""

    code, issue_type = "unsupported-elm", "not-supported"


class TerminologyError(MeasureError):
    """A value set or code system is missing or empty; names url and version."""

    code, issue_type = "missing-terminology", "not-found"


class ContractError(InputError):
    """Contract terms are incomplete or contradict each other; names the term."""

    code, status, issue_type = "invalid-contract", 422, "business-rule"


class ConfigurationError(InputError):
    """Settings, files or arguments are wrong."""

    code, issue_type = "invalid-configuration", "value"


class AuthenticationError(GatewayError):
    """The caller did not prove who it is."""

    code, status, issue_type, exit_code = "unauthenticated", 401, "login", 3


class AuthorizationError(GatewayError):
    """The caller is known but may not do this."""

    code, status, issue_type, exit_code = "forbidden", 403, "forbidden", 3


class NotFoundError(GatewayError):
    """No such thing, or none that the caller may see."""

    code, status, issue_type, exit_code = "not-found", 404, "not-found", 4


class DeletedError(NotFoundError):
    """It was here and was deleted; its versions may still be."""

    code, status, issue_type = "deleted", 410, "deleted"


class ConflictError(GatewayError):
    """The request contradicts the present state."""

    code, status, issue_type, exit_code = "conflict", 409, "conflict", 5


class AmbiguousError(ConflictError):
    """Several resources meet a condition that means one."""

    code, status, issue_type = "ambiguous", 412, "multiple-matches"


class TooManyRequests(GatewayError):
    """The caller asks too often, or has too much under way; ``retry_after`` is in whole seconds."""

    code, status, issue_type, exit_code = "too-many-requests", 429, "throttled", 5

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class SourceError(GatewayError):
    """A remote endpoint failed or broke its own protocol."""

    code, status, issue_type, exit_code = "source-failed", 502, "transient", 6


class SourceAuthError(SourceError):
    """The remote endpoint refused our credentials; the message says which check failed."""

    code, issue_type = "source-auth-failed", "login"


class StorageError(GatewayError):
    """The object storage of the lake refuses or fails; what was under way has changed nothing."""

    code, status, issue_type, exit_code = "storage-failed", 503, "transient", 6


class StorageFull(StorageError):
    """A disk is full: what was under way has changed nothing, and can be done again when there is room."""

    code, status, issue_type = "storage-full", 507, "no-store"


class ControlPlaneError(GatewayError):
    """The database of the control plane does not answer, or is busy for too long; it may be tried again."""

    code, status, issue_type, exit_code = "control-plane-away", 503, "no-store", 6


class LedgerError(GatewayError):
    """Counts of a hop do not balance; nothing was committed."""

    code, exit_code = "ledger-unbalanced", 7
