"""What a StorageProviderClass's parameters must be.

Here as well as in the class controller, so that the mistake shows where it is made. Whether the Secret is there is not asked: the
webhook may read no Secrets but its own, and a class may come before its Secret; the class's condition tells.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from dynvol.api import names, quantities
from dynvol.api.providerclass import ClassSpec
from dynvol.mount import providers
from dynvol.mount.providers import pins

from .verdict import Verdict

_KNOWN: Final = frozenset(
    {
        names.SECRET_NAME_PARAMETER,
        names.SECRET_NAMESPACE_PARAMETER,
        names.CPU_REQUEST_PARAMETER,
        names.MEMORY_REQUEST_PARAMETER,
        names.CPU_LIMIT_PARAMETER,
        names.MEMORY_LIMIT_PARAMETER,
        names.MOUNTER_PARAMETER,
        names.OPTIONS_PARAMETER,
        names.ALLOWED_NAMESPACES_PARAMETER,
        names.ALLOWED_ENDPOINTS_PARAMETER,
        names.ALLOWED_BUCKETS_PARAMETER,
        names.RCLONE_OPTIONS_PARAMETER,
        names.CLAIM_SECRETS_PARAMETER,
        names.MOUNT_POD_PARAMETER,
    }
)
_RESOURCES: Final = (
    (names.CPU_REQUEST_PARAMETER, names.CPU_LIMIT_PARAMETER, "a number of cores such as 10m or 0.5"),
    (names.MEMORY_REQUEST_PARAMETER, names.MEMORY_LIMIT_PARAMETER, "a number of bytes such as 50Mi"),
)
_SUBDOMAIN: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")

COMFORTABLE_CPU: Final = "50m"
MEMORY_NEEDED: Final = {"s3fs": "48Mi", "rclone": "128Mi", "geesefs": "192Mi", "mount-s3": "768Mi"}
"""Of a mount pod with one mount in use: mounter and client together."""


def review_class(spec: ClassSpec) -> Verdict:
    """Also the class controller's judgement: what is a problem here is a condition there."""
    parameters = spec.parameters
    problems = (
        *_credentials(spec),
        *_quantities(parameters),
        *_preparation(parameters),
        *pins.problems(parameters),
        *providers.validate_class(spec.provider, spec.mount_parameters),
    )
    return Verdict(problems=problems, warnings=(*_unknown(parameters), *(() if problems else _tight(spec))))


def _credentials(spec: ClassSpec) -> Iterator[str]:
    provider = providers.provider(spec.provider)
    if provider is None:
        return
    namespace, name = spec.secret
    keys = " and ".join(provider.secret_keys) or "the credentials"
    secretless = provider.serves_anyone and not (namespace or name)
    for key, value, form, what in (
        (names.SECRET_NAME_PARAMETER, name, _SUBDOMAIN, "name"),
        (names.SECRET_NAMESPACE_PARAMETER, namespace, _LABEL, "namespace"),
    ):
        if secretless:
            continue
        if not value:
            yield f"parameter {key} is missing: the {what} of the Secret with {keys}"
        elif not form.fullmatch(value):
            yield f"parameter {key}: {value[:64]!r} cannot be a Secret's {what}"
    if (danger := pins.danger_of_any_endpoint(provider)) and not spec.parameters.get(names.ALLOWED_ENDPOINTS_PARAMETER):
        examples = "nfs://files.example.com" if provider.in_kernel else "https://dav.example.com or sftp://files.example.com"
        yield (
            f"parameter {names.ALLOWED_ENDPOINTS_PARAMETER} is missing: provider {spec.provider} {danger}, so name those that are "
            f"meant, such as {examples}"
        )


def _quantities(parameters: Mapping[str, str]) -> Iterator[str]:
    for request_key, limit_key, form in _RESOURCES:
        amounts = {key: quantities.parse(parameters[key]) for key in (request_key, limit_key) if key in parameters}
        for key, amount in amounts.items():
            if not amount:
                yield f"parameter {key}: {parameters[key][:64]!r} is no amount; write {form}"
        request, limit = amounts.get(request_key), amounts.get(limit_key)
        if request and limit and request > limit:
            yield f"parameter {request_key} ({parameters[request_key]}) is more than {limit_key} ({parameters[limit_key]})"


def _preparation(parameters: Mapping[str, str]) -> Iterator[str]:
    when = parameters.get(names.MOUNT_POD_PARAMETER, names.ON_DEMAND)
    if when not in (names.ON_DEMAND, names.PREPARED):
        yield f"parameter {names.MOUNT_POD_PARAMETER}: {when[:64]!r} is neither {names.ON_DEMAND} nor {names.PREPARED}"


def _unknown(parameters: Mapping[str, str]) -> Iterator[str]:
    for key in sorted(parameters.keys() - _KNOWN):
        yield f"parameter {key[:128]} is not known and has no effect"


def _tight(spec: ClassSpec) -> Iterator[str]:
    """Limits under which mounting works badly or not at all. `spec` has no problems."""
    cpu = spec.parameters.get(names.CPU_LIMIT_PARAMETER)
    if cpu and _less(cpu, COMFORTABLE_CPU):
        yield f"with mount-cpu-limit {cpu} a mount takes seconds and transfers are slow; {COMFORTABLE_CPU} or more is comfortable"
    memory = spec.parameters.get(names.MEMORY_LIMIT_PARAMETER)
    mounter = spec.parameters.get(names.MOUNTER_PARAMETER) or ("s3fs" if spec.provider == "s3" else spec.provider)
    needed = MEMORY_NEEDED.get(mounter)
    if memory and needed and _less(memory, needed):
        yield f"with mount-memory-limit {memory} {mounter} may be killed for lack of memory; it needs {needed}"


def _less(one: str, other: str) -> bool:
    left, right = quantities.parse(one), quantities.parse(other)
    return left is not None and right is not None and left < right
