"""Injection: the volumes and mounts that a pod asks for by annotation, as a patch of what is missing (design §3).

The patch is worked out from what is there, so a second review of its own result adds nothing; a sidecar that appeared in between
is all that it adds to. What a pod's author wrote by hand stays as written.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from dynvol.api import names
from dynvol.api.providerclass import StorageProviderClass
from dynvol.mount.providers import pins

from .admitted import AdmittedContainer, AdmittedPod, AdmittedVolume
from .paths import as_runtime_sees_it, within
from .verdict import Operation, Refused, Verdict
from .wishes import Wish, check_class, check_policy, listed, read_wishes

PROPAGATION: Final = "HostToContainer"
OPT_OUT: Final = "false"


def review_pod(
    pod: AdmittedPod, *, namespace: str, defaults: Mapping[str, str], classes: Mapping[str, StorageProviderClass]
) -> Verdict:
    """The verdict on a new pod.

    `defaults` are the annotations of a namespace that speaks for its pods, else empty; the pod's own win, key by key. `classes` are
    the classes that exist. One that does not exist is warned of, not refused: manifests arrive in any order, the pod starts with an
    empty root, and gets its mounts when the class is there. One that is not for this namespace is refused: its root would stay
    empty.
    """
    own = pod.annotations
    try:
        _check_written_by_hand(pod)
        wishes = () if own.get(names.INJECT) == OPT_OUT else read_wishes({**_ours(defaults), **_ours(own)})
        injection = _Injection.plan(pod, wishes, chosen=_chosen(pod, own=own, defaults=defaults))
        added = tuple(injection.patch())
    except Refused as refused:
        return Verdict(problems=(str(refused),))
    used = {v.provider_class for v in pod.volumes if v.ours} | {w.provider_class for w in injection.wishes}
    if forbidden := tuple(_forbidden(used, classes, namespace=namespace)):
        return Verdict(problems=forbidden)
    warnings = (
        *_misleading_inject(own),
        *_missing(used, classes),
        *_overruled(pod, injection.wishes),
        *_mounts_that_see_nothing(pod),
    )
    return Verdict(warnings=warnings, patch=(*added, *_label(pod, used)))


def _ours(annotations: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in annotations.items() if key.startswith(f"{names.GROUP}/")}


def _check_written_by_hand(pod: AdmittedPod) -> None:
    """What kubelet would only say in an event, again and again, while the pod hangs in ContainerCreating."""
    for volume in pod.volumes:
        if not volume.ours:
            continue
        if not volume.provider_class:
            raise Refused(f"volume {volume.name}: its volumeAttributes must name a {names.CLASS_ATTRIBUTE}")
        check_class(volume.provider_class, where=f"volume {volume.name}, attribute {names.CLASS_ATTRIBUTE}")
        check_policy(volume.policy, where=f"volume {volume.name}, attribute {names.POLICY_ATTRIBUTE}")


def _chosen(pod: AdmittedPod, *, own: Mapping[str, str], defaults: Mapping[str, str]) -> frozenset[str] | None:
    """The containers that get the volume; None for all.

    A name that no container has is a mistake on the pod itself. On a namespace it is not: its pods differ.
    """
    present = {container.name for _, container in pod.containers()}
    mine = listed(own, names.CONTAINERS_ANNOTATION)
    unknown = [name for name in mine if name not in present]
    if unknown:
        there = ", ".join(sorted(present))
        raise Refused(f"annotation {names.CONTAINERS_ANNOTATION}: there is no container {', '.join(unknown)}; there are {there}")
    chosen = mine if names.CONTAINERS_ANNOTATION in own else listed(defaults, names.CONTAINERS_ANNOTATION)
    return frozenset(chosen) if chosen else None


@dataclass(frozen=True, slots=True)
class _Injection:
    """Which volume carries each wish, and which containers must see it."""

    pod: AdmittedPod
    wishes: tuple[Wish, ...]
    names_of: Mapping[str, str]
    """Class → name of its volume."""
    chosen: frozenset[str] | None

    @classmethod
    def plan(cls, pod: AdmittedPod, wishes: Sequence[Wish], *, chosen: frozenset[str] | None) -> _Injection:
        if chosen is not None and not any(container.name in chosen for _, container in pod.containers()):
            wishes = ()
        taken = {v.name for v in pod.volumes}
        names_of: dict[str, str] = {}
        for wish in wishes:
            volume = _existing(pod, wish)
            names_of[wish.provider_class] = volume.name if volume else _free_name(taken)
            taken.add(names_of[wish.provider_class])
        return cls(pod, tuple(wishes), names_of, chosen)

    def patch(self) -> Iterator[Operation]:
        """Volumes first, as one reads a pod."""
        present = {v.name for v in self.pod.volumes}
        missing = [w for w in self.wishes if self.names_of[w.provider_class] not in present]
        yield from _append("/spec/volumes", [self._volume(w) for w in missing], exists=bool(self.pod.volumes))
        for place, container in self.pod.containers():
            if self.chosen is None or container.name in self.chosen:
                mounts = self._mounts(container)
                yield from _append(f"{place}/volumeMounts", mounts, exists=bool(container.volume_mounts))

    def _volume(self, wish: Wish) -> dict[str, object]:
        attributes = {names.POLICY_ATTRIBUTE: wish.policy or names.INDEPENDENT, names.CLASS_ATTRIBUTE: wish.provider_class}
        csi = {"driver": names.DRIVER, "readOnly": True, "volumeAttributes": attributes}
        return {"name": self.names_of[wish.provider_class], "csi": csi}

    def _mounts(self, container: AdmittedContainer) -> list[dict[str, object]]:
        """The mounts that `container` lacks. Raises `Refused` where another mount is in the way."""
        mounted = {m.name for m in container.volume_mounts or ()}
        missing = [w for w in self.wishes if self.names_of[w.provider_class] not in mounted]
        for wish in missing:
            self._check_place(wish, container)
        return [{"name": self.names_of[w.provider_class], "mountPath": w.root, "mountPropagation": PROPAGATION} for w in missing]

    def _check_place(self, wish: Wish, container: AdmittedContainer) -> None:
        """The root is a read-only directory: nothing can be mounted in it, and it can be mounted in nothing that is read-only.

        Below a writable volume (a home directory, say) it is welcome: the runtime makes the directory.
        """
        read_only = {v.name for v in self.pod.volumes if v.read_only}
        for mount in container.volume_mounts or ():
            path = as_runtime_sees_it(mount.mount_path)
            there = f"container {container.name} has volume {mount.name} at {path}"
            if within(path, wish.root):
                raise Refused(f"{there}, where {names.ROOT_ANNOTATION} wants {wish.root}; choose a root that is free")
            if within(wish.root, path) and (mount.read_only or mount.name in read_only):
                raise Refused(f"{there}, read-only, so {wish.root} cannot be made in it; choose another {names.ROOT_ANNOTATION}")


def _existing(pod: AdmittedPod, wish: Wish) -> AdmittedVolume | None:
    """The pod's volume of this class, whoever put it there."""
    return next((v for v in pod.volumes if v.ours and v.provider_class == wish.provider_class), None)


def _free_name(taken: Collection[str]) -> str:
    """The contract's name for the first class, -1 for the next; a stranger's volume of that name is stepped over."""
    candidates = (names.VOLUME_NAME if n == 0 else f"{names.VOLUME_NAME}-{n}" for n in range(len(taken) + 1))
    return next(name for name in candidates if name not in taken)


def _append(path: str, values: Sequence[dict[str, object]], *, exists: bool) -> Iterator[Operation]:
    """JSON patch cannot append to a list that is not there."""
    if not values:
        return
    if exists:
        yield from (Operation(f"{path}/-", value) for value in values)
    else:
        yield Operation(path, list(values))


def _label(pod: AdmittedPod, used: Collection[str]) -> Iterator[Operation]:
    labels = pod.metadata.labels or {}
    if not used or labels.get(names.INJECTED_LABEL) == "true":
        return
    if labels:
        yield Operation(f"/metadata/labels/{names.INJECTED_LABEL.replace('/', '~1')}", "true")
    else:
        yield Operation("/metadata/labels", {names.INJECTED_LABEL: "true"})


def _misleading_inject(own: Mapping[str, str]) -> Iterator[str]:
    value = own.get(names.INJECT)
    if value is not None and value not in (OPT_OUT, "true"):
        yield f'annotation {names.INJECT}: {value!r} means nothing; only "false" opts out'


def _missing(used: Collection[str], classes: Collection[str]) -> Iterator[str]:
    for name in sorted(used):
        if name not in classes:
            yield f"StorageProviderClass {name} does not exist; until it does, the pod's volume stays empty"


def _forbidden(used: Collection[str], classes: Mapping[str, StorageProviderClass], *, namespace: str) -> Iterator[str]:
    for name in sorted(used):
        if name in classes and (why := pins.namespace_refusal(classes[name].spec, namespace)):
            yield f"StorageProviderClass {name} {why}"


def _overruled(pod: AdmittedPod, wishes: Sequence[Wish]) -> Iterator[str]:
    """Policies that are asked for, but a volume written by hand says otherwise."""
    for wish in wishes:
        volume = _existing(pod, wish)
        if volume and wish.policy and volume.policy != wish.policy:
            yield f"volume {volume.name} is {volume.policy}, as written; annotation {names.POLICY_ANNOTATION} does not change that"


def _mounts_that_see_nothing(pod: AdmittedPod) -> Iterator[str]:
    """Mounts written by hand that propagation does not reach."""
    ours = {v.name for v in pod.volumes if v.ours}
    for _, container in pod.containers():
        for mount in container.volume_mounts or ():
            if mount.name not in ours:
                continue
            where = f"container {container.name}: volume {mount.name}"
            if mount.mount_propagation not in (PROPAGATION, "Bidirectional"):
                yield f"{where} needs mountPropagation: {PROPAGATION}, or mounts never show in it"
            elif mount.sub_path or mount.sub_path_expr:
                yield f"{where} is mounted with a subPath, in which mounts never show"
