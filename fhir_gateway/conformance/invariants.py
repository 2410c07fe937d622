"""Invariants in FHIRPath, by the library ``fhirpathpy`` (ADR 0165): the only module that knows it.

What the library cannot evaluate is told, never passed in silence: functions that need a server or terminology
(``resolve`` of what is not at hand, ``memberOf`` of value sets that are not, ``htmlChecks``), and its own errors.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from fhir_gateway.conformance.items import Item, Scope
from fhir_gateway.conformance.values import CodeBook, codings, member
from fhir_gateway.r4 import spec


class NotEvaluated(Exception):
    """The expression could not be evaluated; the text says why, without values."""


class Expressions:
    """Parsed expressions over one set of value sets."""

    def __init__(self, codes: CodeBook) -> None:
        from fhirpathpy.models import models  # the library takes a while to load and only checks need it

        self._codes = codes
        self._model = models["r4"]
        self._parsed: dict[str, Callable[[Any, Any], list[Any]] | None] = {}
        self._at_hand = threading.local()
        self._lock = threading.Lock()
        self._functions = {
            "resolve": {"fn": self._resolve, "arity": {0: []}},
            "memberOf": {"fn": self._member_of, "arity": {1: ["String"]}},
            "hasValue": {"fn": _has_value, "arity": {0: []}},  # FHIR's own function, which the library lacks
        }

    def holds(
        self, expression: str, item: Item, holder: Mapping[str, Any], container: Mapping[str, Any], scope: Scope
    ) -> bool:
        """Whether the expression is not false of an item. Raises NotEvaluated.

        An empty answer breaks nothing: R4's own rules are written so (ref-1 has none for a reference without text).

        ``holder`` is the resource that the item is in (``%resource``), ``container`` the one that contains that
        (``%rootResource``; the same when it is not contained).
        """
        from fhirpathpy.engine.nodes import ResourceNode

        compiled = self._compiled(expression)
        context = item.value
        if context is None:
            raise NotEvaluated("the element has no value of its own")
        if item.value is not holder:
            path = item.place if spec.is_primitive(item.type) else item.type
            context = ResourceNode.create_node(item.value, path)  # type: ignore[no-untyped-call]
        variables = {"resource": holder, "rootResource": container}
        self._at_hand.holder, self._at_hand.scope = holder, scope
        with self._lock:  # the library keeps the present moment in a module
            try:
                answer = compiled(context, variables)
            except NotEvaluated:
                raise
            except Exception as error:  # noqa: BLE001  # whatever a library raises: told as not checked
                raise NotEvaluated(f"the FHIRPath library stops with {type(error).__name__}") from None
        if not isinstance(answer, list) or len(answer) > 1:
            raise NotEvaluated("the expression does not answer with one boolean")
        return answer != [False]

    def _compiled(self, expression: str) -> Callable[[Any, Any], list[Any]]:
        import fhirpathpy

        if expression not in self._parsed:
            try:
                options = {"userInvocationTable": self._functions, "traceFn": _silent}
                self._parsed[expression] = fhirpathpy.compile(expression, self._model, options)
            except Exception:  # noqa: BLE001  # the parser's errors have no common root
                self._parsed[expression] = None
        found = self._parsed[expression]
        if found is None:
            raise NotEvaluated("the FHIRPath library does not read the expression")
        return found

    def _resolve(self, inputs: list[Any]) -> list[Any]:
        found = []
        for one in inputs:
            text = one.get("reference") if isinstance(one, dict) else one
            target = self._at_hand.scope.target(text, self._at_hand.holder) if isinstance(text, str) else None
            if target is None:
                raise NotEvaluated("it resolves a reference that is not at hand")
            found.append(target)
        return found

    def _member_of(self, inputs: list[Any], value_set: str) -> list[bool]:
        codes = self._codes.codes(value_set)
        if codes is None:
            raise NotEvaluated("it asks for a value set that is not at hand")
        answers = []
        for one in inputs:
            fhir_type = "code" if not isinstance(one, dict) else "CodeableConcept" if "coding" in one else "Coding"
            answers.append(member(codings(one, fhir_type), codes, fhir_type))
        return answers


def _has_value(inputs: list[Any]) -> list[bool]:
    return [len(inputs) == 1 and inputs[0] is not None and not isinstance(inputs[0], dict | list)]


def _silent(*_: Any) -> None:
    """The library would print what ``trace()`` sees: values of patients."""
