"""The validator: a resource against base R4, the extensions in it, and the profiles it declares or is asked to keep.

Checked of a StructureDefinition: cardinalities, fixed values and patterns, types, targets of references (their type),
required bindings whose value set is at hand (extensible ones give warnings), slicing, extensions (known, in a place
where they may be), and invariants. What cannot be checked stands in :attr:`Report.unchecked`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from fhir_gateway.conformance.definitions import Definitions
from fhir_gateway.conformance.invariants import Expressions, NotEvaluated
from fhir_gateway.conformance.items import Item, Scope, listed, resource_item
from fhir_gateway.conformance.models import Finding, Report, Unchecked
from fhir_gateway.conformance.profile import UNBOUNDED, Node, Profile, Profiles
from fhir_gateway.conformance.slicing import BY_URL, Slicer, Undecided, extension_url
from fhir_gateway.conformance.values import CodeBook, codings, matches_pattern, member
from fhir_gateway.lake import explain
from fhir_gateway.r4 import rules, spec
from fhir_gateway.r4.rules import Invariant

#: Invariants of R4 that base validation decides already (ele-1), or that are advice (dom-6: there should be narrative).
_DECIDED = frozenset({"ele-1", "dom-6"})
#: Invariants of R4 that are about contained resources only.
_OF_CONTAINED = frozenset({"dom-2", "dom-3", "dom-4", "dom-5"})
_ABSTRACT = {"Resource", "DomainResource"}


class Validator:
    """Checks resources by the definitions at hand. Safe to share between threads."""

    def __init__(self, definitions: Definitions) -> None:
        self.profiles = Profiles(definitions)
        self.codes = CodeBook(definitions)
        self.expressions = Expressions(self.codes)

    def validate(self, resource: Any, profiles: Iterable[str] = (), *, declared: bool = True) -> Report:
        """Everything wrong with a resource: by base R4, and by ``profiles`` and those it declares in ``meta.profile``.

        Resources inside it (contained, entries, parameters) are checked by what they declare themselves.
        """
        report = Report()
        for issue in explain.issues(resource, contained=True):
            report.findings.append(Finding("error", issue.path, issue.rule, issue.message))
        if not isinstance(resource, dict) or resource.get("resourceType") not in spec.resource_types():
            report.unchecked[Unchecked("profiles", "it is not known what the resource is")] = None
            return report
        check = _Check(self, report, Scope(resource))
        check.resource(resource_item(resource), tuple(profiles), declared=declared)
        return report


class _Check:
    """One check of one outermost resource."""

    def __init__(self, validator: Validator, report: Report, scope: Scope) -> None:
        self._profiles = validator.profiles
        self._codes = validator.codes
        self._expressions = validator.expressions
        self._validator = validator
        self._report = report
        self._scope = scope
        self._container: Mapping[str, Any] = scope.root  # what contains the resource under check, or itself
        self._slicer = Slicer(validator.profiles, validator.codes, self._conforms)

    def resource(self, item: Item, profiles: tuple[str, ...] = (), *, declared: bool = True) -> None:
        """A resource with everything in it."""
        outer = self._container
        if not item.place.endswith(".contained"):
            self._container = item.value
        self._whole(item, profiles, declared)
        self._container = outer

    def _whole(self, item: Item, profiles: tuple[str, ...], declared: bool) -> None:
        self._base(item, item.value)
        meta = item.value.get("meta")
        told = listed(meta.get("profile")) if declared and isinstance(meta, dict) else ()
        for canonical in dict.fromkeys([*profiles, *(one for one in told if isinstance(one, str))]):
            self._by_profile(item, canonical, item.value)

    def _by_profile(self, item: Item, canonical: str, holder: Mapping[str, Any]) -> None:
        profile = self._profiles.get(canonical)
        if profile is None:
            if self._profiles.type_of(canonical) == item.type:
                return  # R4's own definition of the type: base validation
            self._not_checked(f"profile {canonical}", "it is not installed")
            return
        self._report.unchecked.update(dict.fromkeys(profile.missing))
        if profile.type not in (item.type, *_ABSTRACT):
            self._found(item.path, "type", f"the profile is one of {profile.type}", profile.url)
            return
        self._node(item, profile.root, holder)

    # What base R4 says beyond shapes, and extensions.

    def _base(self, item: Item, holder: Mapping[str, Any]) -> None:
        for place in dict.fromkeys((item.place, item.type)):
            for one in rules.invariants(place):
                self._invariant(item, one, holder, None)
        if item.type in spec.resource_types() and item.value is holder:
            for place in ("Resource", "DomainResource"):
                for one in rules.invariants(place):
                    if one.key not in _OF_CONTAINED or item.value.get("contained"):
                        self._invariant(item, one, holder, None)
        bound = rules.bound_value_set(item.place)
        if bound is not None:
            self._binding(item, ("required", bound), None)
        for child in item.all():
            if child.type in ("Extension",):
                self._extension(item, child, holder)
            if child.type in spec.resource_types() and isinstance(child.value, dict):
                self.resource(child)
            elif isinstance(child.value, dict) or child.sibling is not None or child.type in spec.PRIMITIVE_COLUMNS:
                self._base(child, holder)

    def _extension(self, above: Item, item: Item, holder: Mapping[str, Any]) -> None:
        """An extension of the item ``above``."""
        url = item.fields().get("url")
        if above.type == "Extension" or not isinstance(url, str):
            return  # sub-extensions belong to the definition of the outer one
        profile = self._profiles.get(url)
        if profile is None or profile.type != "Extension":
            self._not_checked(f"extension {url}", "its definition is not installed")
            return
        self._report.unchecked.update(dict.fromkeys(profile.missing))
        self._context(above, item, profile)
        self._node(item, profile.root, holder)

    def _context(self, above: Item, item: Item, profile: Profile) -> None:
        kinds = {kind for kind, _ in profile.contexts}
        if not profile.contexts:
            return
        allowed = {expression for kind, expression in profile.contexts if kind == "element"}
        here = {above.type, above.place, above.choice, "Element"}
        if above.type in spec.resource_types():
            here |= _ABSTRACT
        if allowed & here:
            return
        if kinds - {"element"}:
            self._not_checked("context of the extension", "it is given by FHIRPath or another extension", profile.url)
            return
        self._found(item.path, "extension-context", "the extension is not for this element", profile.url)

    # What profiles say.

    def _node(self, item: Item, node: Node, holder: Mapping[str, Any]) -> None:
        """The rules of a node for one instance."""
        if node.fixed is not None and item.value != node.fixed:
            self._found(item.path, "fixed", "is not the value that is fixed here", node.profile)
        if node.pattern is not None and not matches_pattern(item.value, node.pattern):
            self._found(item.path, "pattern", "does not hold the pattern that is required here", node.profile)
        if node.types is not None:
            self._type(item, node, holder)
        if node.binding is not None and item.value is not None:
            self._binding(item, node.binding, node.profile)
        for one in node.invariants.values():
            self._invariant(item, one, holder, node.profile)
        within = item.value if item.type in spec.resource_types() and isinstance(item.value, dict) else holder
        for name, child in node.children.items():
            self._children(item, name, child, within)

    def _children(self, item: Item, name: str, node: Node, holder: Mapping[str, Any]) -> None:
        items = item.children(name)
        path = f"{item.path}.{name}"
        self._count(path, len(items), node)
        for one in items:
            self._node(one, node, holder)
        if node.slices:
            self._slices(path, items, node, holder)

    def _slices(self, path: str, items: list[Item], node: Node, holder: Mapping[str, Any]) -> None:
        extension = node.name in ("extension", "modifierExtension")
        slicing = node.slicing or (BY_URL if extension else None)
        left = list(items)
        undecided = False
        for name, slice_ in node.slices.items():
            try:
                found = [one for one in items if self._of_slice(one, name, slice_, slicing, extension, holder)]
            except Undecided as reason:
                self._not_checked(f"slice {path}:{name}", str(reason), slice_.profile)
                undecided = True
                continue
            self._count(f"{path}:{name}", len(found), slice_)
            for one in found:
                if one in left:
                    left.remove(one)
                self._node(one, slice_, holder)
            if slice_.slices:
                self._slices(f"{path}:{name}", found, slice_, holder)
        if slicing is not None and slicing.closed and not undecided:
            for one in left:
                self._found(one.path, "slicing", "belongs to none of the slices, and there are no others", node.profile)

    def _of_slice(
        self, item: Item, name: str, slice_: Node, slicing: Any, extension: bool, holder: Mapping[str, Any]
    ) -> bool:
        if extension:
            return item.fields().get("url") == extension_url(slice_, self._profiles)
        if node_is_choice(slice_):
            return item.path.rsplit(".", 1)[-1].partition("[")[0] == name or item.type in _codes_of(slice_)
        if slicing is None:
            raise Undecided("nothing says how to tell the slices apart")
        return self._slicer.belongs(item, slice_, slicing, holder, self._scope)

    def _count(self, path: str, count: int, node: Node) -> None:
        if node.min is not None and count < node.min:
            self._found(path, "cardinality", f"{count} given, at least {node.min} needed", node.profile)
        if node.max is not None and count > node.max != UNBOUNDED:
            self._found(path, "cardinality", f"{count} given, at most {node.max} allowed", node.profile)

    def _type(self, item: Item, node: Node, holder: Mapping[str, Any]) -> None:
        rule = next((one for one in node.types or () if one.code in (item.type, *_ABSTRACT)), None)
        if rule is None:
            named = {one.code for one in node.types or ()}
            if named & {"BackboneElement", "Element"} or any(one.startswith("System.") for one in named):
                return
            if item.type != "Resource" and named:
                self._found(item.path, "type", f"is a {item.type}, not one of {', '.join(sorted(named))}", node.profile)
            return
        if rule.targets and item.type == "Reference":
            self._target(item, rule.targets, holder, node.profile)
        if rule.profiles and item.type != "Extension":  # extensions are checked wherever they are
            self._any_profile(item, rule.profiles, holder, node.profile)

    def _target(self, item: Item, targets: tuple[str, ...], holder: Mapping[str, Any], profile: str) -> None:
        found = self._scope.target_type(item.value, holder) if isinstance(item.value, dict) else None
        if found is None:
            return
        types = [self._profiles.type_of(one) for one in targets]
        if found in types or any(one in _ABSTRACT for one in types):
            return
        if None in types:
            unknown = next(one for one, known in zip(targets, types, strict=True) if known is None)
            self._not_checked(f"target of {item.place}", f"profile {unknown} is not installed", profile)
            return
        self._found(
            item.path,
            "reference-target",
            f"refers to a {found}, not to {', '.join(sorted({str(one) for one in types}))}",
            profile,
        )

    def _any_profile(self, item: Item, urls: tuple[str, ...], holder: Mapping[str, Any], profile: str) -> None:
        answers = [self._conforms(item, url, holder, self._scope) for url in urls]
        if any(answers):
            return
        if None in answers:
            self._not_checked(f"profile {urls[answers.index(None)]}", "it is not installed", profile)
            return
        if len(urls) == 1:
            self._by_profile(item, urls[0], holder)  # says what is wrong
            return
        self._found(item.path, "profile", f"keeps none of the {len(urls)} profiles that are allowed here", profile)

    def _conforms(self, item: Item, url: str, holder: Mapping[str, Any], scope: Scope) -> bool | None:
        """Whether an item keeps a profile, or is a reference to something of its type; None when it is not at hand."""
        profile = self._profiles.get(url)
        if item.type == "Reference" and (profile is None or profile.type != "Reference"):
            named = self._profiles.type_of(url)
            return None if named is None else scope.target_type(item.value, holder) == named
        if profile is None:
            named = self._profiles.type_of(url)
            return None if named is None else named == item.type
        if profile.type != item.type:
            return False
        inner = _Check(self._validator, Report(), scope)
        inner._container = self._container
        inner._node(item, profile.root, item.value if item.type in spec.resource_types() else holder)
        return inner._report.valid

    def _binding(self, item: Item, binding: tuple[str, str], profile: str | None) -> None:
        strength, value_set = binding
        if strength not in ("required", "extensible"):
            return
        pairs = codings(item.value, item.type)
        if not pairs and item.type != "CodeableConcept":
            return
        codes = self._codes.codes(value_set)
        if codes is None:
            self._not_checked(f"{strength} binding to {value_set}", "its codes are not at hand", profile)
            return
        if not pairs and strength == "extensible":
            return  # text without a code is what extensible allows
        if not member(pairs, codes, item.type):
            severity = "error" if strength == "required" else "warning"
            self._found(item.path, "binding", f"no code of the {strength} value set {value_set}", profile, severity)

    def _invariant(self, item: Item, one: Invariant, holder: Mapping[str, Any], profile: str | None) -> None:
        if profile is None and one.key in _DECIDED:
            return
        if item.value is None:
            return
        try:
            holds = (
                contained_are_used(holder)
                if one.key == "dom-3" and profile is None
                else self._expressions.holds(one.expression, item, holder, self._container, self._scope)
            )
        except NotEvaluated as reason:
            self._not_checked(f"invariant {one.key} of {item.place}", str(reason), profile)
            return
        if not holds:
            severity = "error" if one.severity == "error" else "warning"
            self._report.findings.append(Finding(severity, item.path, one.key, one.human, profile, invariant=True))

    def _found(self, path: str, rule: str, message: str, profile: str | None, severity: str = "error") -> None:
        self._report.findings.append(Finding(severity, path, rule, message, profile))

    def _not_checked(self, what: str, reason: str, profile: str | None = None) -> None:
        self._report.unchecked[Unchecked(what, reason, profile)] = None


def node_is_choice(node: Node) -> bool:
    """True for slices of ``value[x]``, which are told apart by type."""
    return node.name.endswith("[x]")


def _codes_of(node: Node) -> Iterator[str]:
    return (one.code for one in node.types or ())


def contained_are_used(resource: Mapping[str, Any]) -> bool:
    """dom-3: each contained resource is referred to, or refers to the container. By hand: the library stops at it."""
    local = set(_local_references(resource))
    return all(
        f"#{one.get('id')}" in local or "#" in set(_local_references(one))
        for one in listed(resource.get("contained"))
        if isinstance(one, dict)
    )


def _local_references(node: Any) -> Iterator[str]:
    """Everything that may name a contained resource: references, canonicals, uris and urls that begin with #."""
    if isinstance(node, dict):
        for one in node.values():
            yield from _local_references(one)
    elif isinstance(node, list):
        for one in node:
            yield from _local_references(one)
    elif isinstance(node, str) and node.startswith("#"):
        yield node
