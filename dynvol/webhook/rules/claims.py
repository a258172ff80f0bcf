"""What a DynamicVolumeClaim's schema cannot say: its values as the provider sees them, its class, and its neighbours.

Denied is only what is wrong whatever else is in the cluster. What depends on other objects is warned of: they may come, go and
change at any time, in any order, and the claim's conditions say for each pod how it stands.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from dynvol.api import names
from dynvol.api.claim import ClaimSpec, DynamicVolumeClaim, LabelSelector
from dynvol.api.meta import ObjectMeta
from dynvol.api.mounts import overlap
from dynvol.api.providerclass import StorageProviderClass
from dynvol.mount import providers
from dynvol.mount.providers import pins

from .selectors import can_meet
from .verdict import Operation, Verdict

MOST_NEIGHBOURS: Final = 3
"""Overlapping claims that are named in warnings. The API server cuts warnings off at 4 KiB in all."""

_LABEL_KEY: Final = re.compile(r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")


def review_claim(
    spec: ClaimSpec,
    *,
    name: str,
    namespace: str,
    neighbours: Iterable[DynamicVolumeClaim],
    classes: Mapping[str, StorageProviderClass],
) -> Verdict:
    """The verdict on a new or changed claim. `neighbours` are the claims of its namespace, its own old form too or not."""
    problems = (
        *_bad_keys(spec.selector),
        *_unfit(spec, classes),
        *_mismatch(spec, classes),
        *_forbidden(spec, classes, namespace=namespace),
    )
    if problems:
        return Verdict(problems=problems)
    others = [c for c in neighbours if c.metadata.name != name and not c.metadata.deleting]
    missing = _missing_class(spec, classes) or _forbidden_by_all(spec, classes, namespace=namespace)
    return Verdict(warnings=(*missing, *_overlaps(spec, others)))


def hold(metadata: ObjectMeta) -> Verdict:
    """A new claim is born with the finalizer that holds it until every pod has lost its mount. Where it is missing, node processes
    put it on before they mount anything; this saves them the write."""
    if names.CLAIM_FINALIZER in metadata.finalizers:
        return Verdict()
    path, value = (
        ("/metadata/finalizers/-", names.CLAIM_FINALIZER)
        if metadata.finalizers
        else ("/metadata/finalizers", [names.CLAIM_FINALIZER])
    )
    return Verdict(patch=(Operation(path, value),))


def _bad_keys(selector: LabelSelector) -> Iterator[str]:
    """A key that no label can have makes a claim that silently matches nothing."""
    for key in (*selector.match_labels, *(e.key for e in selector.match_expressions)):
        if not _LABEL_KEY.fullmatch(key):
            yield f"spec.selector: {key[:64]!r} cannot be a label's key"


def _unfit(spec: ClaimSpec, classes: Mapping[str, StorageProviderClass]) -> tuple[str, ...]:
    """What no class that the claim may come to use would accept."""
    named = classes.get(spec.storage_provider_class)
    candidates = [named] if named else [c for c in classes.values() if c.spec.provider == spec.provider]
    verdicts = [providers.validate(spec.provider, spec.parameters_in(c.spec)) for c in candidates]
    return min(verdicts, key=len) if verdicts else providers.validate(spec.provider, spec.parameters)


def _mismatch(spec: ClaimSpec, classes: Mapping[str, StorageProviderClass]) -> Iterator[str]:
    found = classes.get(spec.storage_provider_class)
    if found is not None and found.spec.provider != spec.provider:
        yield (
            f"spec.storageProviderClass: {spec.storage_provider_class} is of provider {found.spec.provider}, "
            f"but the claim is for {spec.provider}; name another class or leave it out"
        )


def _forbidden(spec: ClaimSpec, classes: Mapping[str, StorageProviderClass], *, namespace: str) -> Iterator[str]:
    """The class that a claim names, and which is there, is the only one that it can ever use."""
    named = spec.storage_provider_class
    found = classes.get(named)
    if found is not None and found.spec.provider == spec.provider and (why := pins.refusal(found.spec, spec, namespace=namespace)):
        yield f"spec.storageProviderClass: {named} {why}"


def _missing_class(spec: ClaimSpec, classes: Mapping[str, StorageProviderClass]) -> tuple[str, ...]:
    named = spec.storage_provider_class
    if named and named not in classes:
        return (f"StorageProviderClass {named} does not exist; nothing is mounted until it does",)
    if not any(c.spec.provider == spec.provider for c in classes.values()):
        return (f"there is no StorageProviderClass of provider {spec.provider} yet; nothing is mounted until there is",)
    return ()


def _forbidden_by_all(spec: ClaimSpec, classes: Mapping[str, StorageProviderClass], *, namespace: str) -> tuple[str, ...]:
    """Which class serves a claim that names none depends on the pods. It is warned of, as another class may come."""
    fitting = [c for c in classes.values() if c.spec.provider == spec.provider]
    refusals = [(c.metadata.name, why) for c in fitting if (why := pins.refusal(c.spec, spec, namespace=namespace))]
    if len(refusals) < len(fitting):
        return ()
    name, why = min(refusals)
    return (f"no StorageProviderClass of provider {spec.provider} allows this claim; {name} {why}",)


def _overlaps(spec: ClaimSpec, others: Iterable[DynamicVolumeClaim]) -> Iterator[str]:
    found = sorted(c.metadata.name for c in others if _may_collide(spec, c.spec))
    for name in found[:MOST_NEIGHBOURS]:
        yield f"mountpoint {_short(spec.mountpoint)} overlaps that of claim {name}; in a pod that both reach, the older one wins"
    if len(found) > MOST_NEIGHBOURS:
        yield f"mountpoint {_short(spec.mountpoint)} overlaps those of {len(found) - MOST_NEIGHBOURS} more claims"


def _may_collide(one: ClaimSpec, other: ClaimSpec) -> bool:
    """Whether some pod could be reached by both at the same or a nested path of one volume."""
    apart = (
        one.storage_provider_class and other.storage_provider_class and one.storage_provider_class != other.storage_provider_class
    )
    if apart or one.provider != other.provider:
        return False
    return overlap(one.mountpoint, other.mountpoint) and can_meet(one.selector, other.selector)


def _short(path: str) -> str:
    return path if len(path) <= 64 else f"{path[:61]}…"
