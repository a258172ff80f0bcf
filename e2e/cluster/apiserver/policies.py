"""ValidatingAdmissionPolicies: rules in CEL that requests must keep.

A policy counts where a binding names it. Parameters (`paramKind`) are not served: such a policy fails as its failure policy says.
Variables are worked out where an expression comes to them, so that one that does not apply to a request does no harm.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from e2e.cluster.apiserver import cel, matching
from e2e.cluster.apiserver.admission import Attributes
from e2e.cluster.apiserver.status import ApiError, Json, Object
from e2e.cluster.apiserver.store import Key, Store

GROUP = "admissionregistration.k8s.io"
POLICIES = f"{GROUP}/validatingadmissionpolicies"
BINDINGS = f"{GROUP}/validatingadmissionpolicybindings"
EXEMPT = (POLICIES, BINDINGS)

_NAMES = ("object", "oldObject", "request", "namespaceObject")
_CODES = {"Forbidden": 403, "Unauthorized": 401, "RequestEntityTooLarge": 413, "Invalid": 422}


@dataclass(frozen=True, slots=True)
class Violation:
    message: str
    reason: str = "Invalid"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The values that a policy's expressions see in one request, and the expressions of its variables."""

    values: dict[str, Json]
    variables: dict[str, str]

    def of(self, expression: str) -> Json:
        return cel.compiled(self._inlined(expression), _NAMES).evaluate(self.values)

    def _inlined(self, expression: str) -> str:
        """With the variables' expressions in their places: only so does `||` keep away the error of one that does not apply."""

        def inline(match: re.Match[str]) -> str:
            return f"({self._inlined(self.variables[match[1]])})" if match[1] in self.variables else match[0]

        return re.sub(r"\bvariables\.(\w+)", inline, expression)


class Policies:
    """The plug-in."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def mutate(self, attributes: Attributes) -> Object | None:
        return None

    async def validate(self, attributes: Attributes) -> None:
        if attributes.target.resource.storage in EXEMPT:
            return
        for entry in self._store.all(BINDINGS):
            binding = entry.object["spec"]
            policy = self._store.get(Key(POLICIES, "", binding.get("policyName", "")))
            if policy is None or not self._matches(binding.get("matchResources"), attributes):
                continue
            for violation in self._violations(policy.object["spec"], attributes):
                names = f"ValidatingAdmissionPolicy '{policy.key.name}' with binding '{entry.key.name}'"
                self._act(violation, names, binding.get("validationActions") or (), attributes)

    def _act(self, violation: Violation, names: str, actions: list[str] | tuple[str, ...], attributes: Attributes) -> None:
        if "Warn" in actions:
            attributes.call.warn(f"Validation failed for {names}: {violation.message}")
        if "Deny" in actions:
            why = f"{names} denied request: {violation.message}"
            refusal = attributes.refuse(why)
            details = refusal.details | {"causes": [{"message": why}]}
            raise ApiError(_CODES.get(violation.reason, 422), violation.reason, refusal.message, details)

    def _matches(self, resources: Object | None, attributes: Attributes) -> bool:
        """`matchConstraints` of a policy, or `matchResources` of a binding, which may be left out."""
        if resources is None:
            return True
        rules, excluded = resources.get("resourceRules"), resources.get("excludeResourceRules") or ()
        if rules is not None and not any(_rule_covers(rule, attributes) for rule in rules):
            return False
        if any(_rule_covers(rule, attributes) for rule in excluded):
            return False
        return matching.is_selected(self._store, resources, attributes)

    def _violations(self, spec: Object, attributes: Attributes) -> Iterator[Violation]:
        if not self._matches(spec.get("matchConstraints"), attributes):
            return
        fails_open = spec.get("failurePolicy") == "Ignore"
        if spec.get("paramKind"):
            if not fails_open:
                yield Violation("policies with parameters are not served here")
            return
        try:
            if not all(matching.condition_holds(condition, attributes) for condition in spec.get("matchConditions") or ()):
                return
        except (cel.EvaluationError, cel.CompileError) as error:
            if not fails_open:
                yield Violation(str(error))
            return
        evaluation = self._evaluation(spec, attributes)
        for validation in spec.get("validations") or ():
            try:
                if evaluation.of(validation["expression"]) is not True:
                    yield Violation(_message(validation, evaluation), validation.get("reason", "Invalid"))
            except (cel.EvaluationError, cel.CompileError) as error:
                if not fails_open:
                    yield Violation(f"expression '{validation['expression'].strip()}' resulted in error: {error}")

    def _evaluation(self, spec: Object, attributes: Attributes) -> Evaluation:
        namespace = self._store.get(Key("/namespaces", "", attributes.target.namespace))
        values = {
            "object": attributes.object,
            "oldObject": attributes.old,
            "request": matching.request_of(attributes),
            "namespaceObject": namespace.object if namespace else None,
        }
        return Evaluation(values, {entry["name"]: entry["expression"] for entry in spec.get("variables") or ()})


def _rule_covers(rule: Object, attributes: Attributes) -> bool:
    names = rule.get("resourceNames")
    return matching.rule_covers(rule, attributes) and (not names or attributes.name in names)


def _message(validation: Object, evaluation: Evaluation) -> str:
    if expression := validation.get("messageExpression"):
        try:
            text = evaluation.of(expression)
        except cel.EvaluationError:
            text = ""
        if isinstance(text, str) and text.strip():
            return text.strip()
    return str(validation.get("message") or f"failed expression: {validation['expression'].strip()}").strip()
