"""From a container of a pod's object to an OCI container: users, mounts, limits, environment.

Reads the account database, checks mount points and sub-paths, and binds the latter; makes nothing else. The rules of mount
propagation, and the refusals, are those of containerd's CRI plugin (`withMounts`).
"""

from __future__ import annotations

import pwd
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster import cgroups, mounts
from e2e.cluster.api import Object
from e2e.cluster.children import PATH
from e2e.cluster.kubelet import environment, oci, quantity
from e2e.cluster.kubelet.environment import ConfigError

TERMINATION_LOG = "/dev/termination-log"


@dataclass(frozen=True, slots=True)
class Images:
    """There are no images here: every container runs on the machine's own root. All that an image gives is its entrypoint,
    and the folder of that is first in PATH, so that `command: [dynvol, node]` is found.

    The name's last path component counts: `registry/dynvol:latest` is `dynvol`.
    """

    entrypoints: Mapping[str, Sequence[str]]

    def entrypoint(self, image: str) -> Sequence[str]:
        name = image.rpartition("/")[2].partition("@")[0].partition(":")[0]
        return self.entrypoints.get(name, ())

    def search_path(self, image: str) -> str:
        entrypoint = self.entrypoint(image)
        return f"{Path(entrypoint[0]).parent}:{PATH}" if entrypoint else PATH


def default_images() -> Images:
    scripts = Path(sys.executable).parent
    return Images({"dynvol": (str(scripts / "dynvol"),), "pause": ("/bin/sleep", "infinity")})


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the kubelet made for this container before it starts."""

    volumes: Mapping[str, Path]
    variables: Mapping[str, str]
    hosts_file: Path
    termination_log: Path
    sub_paths: Path
    """Where sub-paths of volumes are bound."""
    sub_path_names: Mapping[str, Path]
    """The same for volumes that have a place of their own there: PersistentVolumes go by their own names."""


def build(pod: Object, container: Object, around: Surroundings, *, images: Images, cgroup: str) -> oci.ContainerSpec:
    spec = pod["spec"]
    security = container.get("securityContext") or {}
    privileged = bool(security.get("privileged"))
    user = user_of(pod, container)
    capabilities = security.get("capabilities") or {}
    entrypoint = images.entrypoint(container.get("image", ""))
    path = images.search_path(container.get("image", ""))
    variables = {"PATH": path, "HOSTNAME": hostname(pod), "HOME": _home(user.uid)} | dict(around.variables)
    return oci.ContainerSpec(
        arguments=environment.command_line(container, entrypoint, around.variables),
        environment=[f"{name}={value}" for name, value in variables.items()],
        working_directory=container.get("workingDir") or "/",
        hostname=hostname(pod),
        user=user,
        mounts=[*own_mounts(container, around), *volume_mounts(container, around, privileged=privileged)],
        cgroup=cgroup,
        unified_cgroups=cgroups.is_unified(),
        limits=limits_of(container),
        privileged=privileged,
        read_only_root=bool(security.get("readOnlyRootFilesystem")),
        no_new_privileges=security.get("allowPrivilegeEscalation") is False and not privileged,
        host_pid=bool(spec.get("hostPID")),
        host_ipc=bool(spec.get("hostIPC")),
        add_capabilities=[name.removeprefix("CAP_") for name in capabilities.get("add") or ()],
        drop_capabilities=[name.removeprefix("CAP_") for name in capabilities.get("drop") or ()],
    )


def hostname(pod: Object) -> str:
    return str(pod["spec"].get("hostname") or pod["metadata"]["name"])[:63]


def _home(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_dir
    except KeyError:
        return "/"


def user_of(pod: Object, container: Object) -> oci.User:
    """The container's own words win over the pod's; the group of a known user is that user's, of others root's."""
    general = pod["spec"].get("securityContext") or {}
    own = container.get("securityContext") or {}
    uid = own.get("runAsUser", general.get("runAsUser", 0))
    gid = own.get("runAsGroup", general.get("runAsGroup"))
    if (own.get("runAsNonRoot", general.get("runAsNonRoot")) or False) and uid == 0:
        raise ConfigError("container has runAsNonRoot and image will run as root")
    if gid is None:
        gid = _primary_group(uid)
    groups = [*general.get("supplementalGroups", ()), *([general["fsGroup"]] if "fsGroup" in general else [])]
    return oci.User(uid, gid, tuple(dict.fromkeys(groups)))


def _primary_group(uid: int) -> int:
    try:
        return pwd.getpwuid(uid).pw_gid
    except KeyError:
        return 0


def limits_of(container: Object) -> oci.Limits:
    resources = container.get("resources") or {}
    limits = resources.get("limits") or {}
    requests = {**limits, **(resources.get("requests") or {})}
    return oci.Limits(
        cpu_request=quantity.milli(requests.get("cpu", 0)),
        cpu=quantity.milli(limits.get("cpu", 0)),
        memory=quantity.whole(limits.get("memory", 0)),
    )


def own_mounts(container: Object, around: Surroundings) -> list[oci.BindMount]:
    """What every container gets: the pod's hosts file, its termination log, the program itself if it lies elsewhere."""
    log = container.get("terminationMessagePath") or TERMINATION_LOG
    own = [oci.BindMount(around.hosts_file, "/etc/hosts"), oci.BindMount(around.termination_log, log)]
    return own + [oci.BindMount(tree, str(tree), read_only=True) for tree in trees_off_root()]


def trees_off_root() -> list[Path]:
    """The checkout, its environment and the interpreter, where they are not on the root file system (the overlay's)."""
    root = Path("/").stat().st_dev
    needed = {Path(__file__).resolve().parents[3], Path(sys.prefix), Path(sys.base_prefix)}
    return sorted(tree for tree in needed if tree.stat().st_dev != root)


def volume_mounts(container: Object, around: Surroundings, *, privileged: bool) -> list[oci.BindMount]:
    made = []
    for index, wanted in enumerate(container.get("volumeMounts") or ()):
        if wanted["name"] not in around.volumes:
            raise ConfigError(f"volume {wanted['name']} not found")
        source = around.volumes[wanted["name"]]
        sub_path = wanted.get("subPath") or ""
        if expression := wanted.get("subPathExpr"):
            sub_path = environment.expand(expression, around.variables)
        if sub_path:
            place = around.sub_path_names.get(wanted["name"], around.sub_paths / wanted["name"])
            source = bound(inside(source, sub_path), place / container["name"] / str(index))
        propagation = oci.Propagation(wanted.get("mountPropagation") or "None")
        check_propagation(source, propagation, privileged=privileged)
        made.append(oci.BindMount(source, wanted["mountPath"], bool(wanted.get("readOnly")), propagation))
    return made


def check_propagation(source: Path, propagation: oci.Propagation, *, privileged: bool) -> None:
    """containerd's refusals: a mount that is private on the node has nothing to propagate."""
    if propagation is oci.Propagation.NONE:
        return
    mount = mounts.holding(source.resolve())
    if propagation is oci.Propagation.BIDIRECTIONAL:
        if not privileged:
            raise ConfigError("Bidirectional mount propagation is available only to privileged containers")
        if not mount.shared:
            raise ConfigError(f'path "{source}" is mounted on "{mount.mount_point}" but it is not a shared mount')
    elif not (mount.shared or mount.master):
        raise ConfigError(f'path "{source}" is mounted on "{mount.mount_point}" but it is not a shared or slave mount')


def inside(volume: Path, sub_path: str) -> Path:
    """A path below a volume, made as a directory where it is missing; links that lead out of the volume are refused."""
    if sub_path.startswith("/") or ".." in Path(sub_path).parts:
        raise ConfigError(f"invalid subPath: {sub_path}")
    found = volume / sub_path
    real = found.resolve()
    if not real.is_relative_to(volume.resolve()):
        raise ConfigError(f"subpath {sub_path} is outside of the volume")
    if not real.exists():
        real.mkdir(parents=True, mode=0o750)
    return real


def bound(source: Path, target: Path) -> Path:
    """A sub-path where kubelet binds it: just that, without what is mounted inside (kubernetes pkg/volume/util/subpath).
    Idempotent."""
    if mounts.is_mounted(target):
        return target
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
    if source.is_dir():
        target.mkdir(exist_ok=True, mode=0o750)
    else:
        target.touch(mode=0o640)
    mounts.bind(source, target, recursive=False)
    return target
