"""The table of operators: which ELM node runs which kernel, and how nulls and choices are treated.

A kernel gets a :class:`Call` (the node and its frame) and one vector for each operand. Null policies:

``strict``
    any operand null gives null; the kernel sees typed vectors only and may compute garbage in null rows,
    the engine masks them.
``handled``
    the kernel sees nulls as they are (Kleene logic, ``Coalesce``, ``IsNull``, lists ...).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from fhir_gateway.cql.values import BoolArray, Vec

if TYPE_CHECKING:
    from fhir_gateway.cql.compile import Node
    from fhir_gateway.cql.evaluation import Evaluation
    from fhir_gateway.cql.frame import Frame

Kernel = Callable[..., Vec]
NullPolicy = Literal["strict", "handled"]


@dataclass(frozen=True, slots=True)
class Operator:
    """One row of the table."""

    node: str
    section: str  # section of the CQL 1.5 specification, appendix B
    kernel: Kernel
    nulls: NullPolicy
    lift: bool  # evaluate each option of a choice operand on its own
    uncertain: bool  # the kernel reckons with uncertain integers; others see only what is certain
    fields: tuple[str, ...]  # names of the operand fields of the node


@dataclass(slots=True)
class Call:
    """What a kernel may ask about: its node's attributes and its frame."""

    evaluation: Evaluation
    node: Node
    frame: Frame

    @property
    def n(self) -> int:
        """Rows of the frame."""
        return self.frame.n

    @property
    def precision(self) -> str | None:
        """The node's precision, if it names one."""
        value = self.node.elm.get("precision")
        return str(value) if value else None

    def fail(self, rows: BoolArray, reason: str) -> None:
        """Report a run-time error in these rows: their patients are not evaluated."""
        self.evaluation.fail(self.frame, rows, self.node, reason)


OPERATORS: dict[str, Operator] = {}
FORMS: dict[str, Callable[..., Any]] = {}


def operator(
    node: str,
    section: str,
    *,
    nulls: NullPolicy = "strict",
    lift: bool = True,
    uncertain: bool = False,
    fields: tuple[str, ...] = ("operand",),
) -> Callable[[Kernel], Kernel]:
    """Register ``kernel`` for an ELM node whose operands are all evaluated in the node's own frame."""

    def register(kernel: Kernel) -> Kernel:
        if node in OPERATORS:
            raise AssertionError(f"{node} is registered twice")
        OPERATORS[node] = Operator(node, section, kernel, nulls, lift, uncertain, fields)
        return kernel

    return register


def form(node: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a compiler for a node that binds names, opens frames or is otherwise not a plain operator."""

    def register(compiler: Callable[..., Any]) -> Callable[..., Any]:
        FORMS[node] = compiler
        return compiler

    return register
