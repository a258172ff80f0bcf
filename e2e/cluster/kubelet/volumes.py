"""A pod's volumes, made on the node and taken away again.

Made from the pod's object; taken away from what is on disk, since the object may be gone by then. Contents that come
from the API (secrets, config maps, tokens, downward API) are written as kubelet's AtomicWriter does: a new directory,
then one symbolic link swapped, so that a reader sees all of the old or all of the new.

    <kubelet root>/pods/<uid>/volumes/<plugin>/<name>
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from e2e.cluster import mounts
from e2e.cluster.api import ApiClient, ApiError, Object, path
from e2e.cluster.kubelet import csi, environment, persistent, quantity
from e2e.cluster.kubelet.environment import Facts

log = logging.getLogger(__name__)

_MEMORY_BACKED = {"secret", "projected", "downwardAPI"}
_PLUGINS = {
    "emptyDir": "kubernetes.io~empty-dir",
    "secret": "kubernetes.io~secret",
    "configMap": "kubernetes.io~configmap",
    "projected": "kubernetes.io~projected",
    "downwardAPI": "kubernetes.io~downward-api",
    "csi": "kubernetes.io~csi",
    "persistentVolumeClaim": persistent.PLUGIN,
}
SUB_PATHS = "volume-subpaths"
"""Kubelet's binds of what containers ask for by `subPath`: <volume>/<container>/<index of the volume mount>."""


class MountError(Exception):
    """A volume cannot be made now; kubelet says so in a FailedMount event, and tries again."""


@dataclass(frozen=True, slots=True)
class File:
    content: bytes
    mode: int
    owner: int = 0


@dataclass(frozen=True, slots=True)
class _Token:
    value: str
    expires: float
    refresh_at: float


class Volumes:
    """The volumes of one node's pods below `root`, kubelet's own directory."""

    def __init__(self, root: Path, *, api: ApiClient, inline: csi.Volumes) -> None:
        self._pods = root / "pods"
        self._api = api
        self._inline = inline
        self._tokens: dict[tuple[str, str, str], _Token] = {}
        self._persistent: dict[tuple[str, str], str] = {}
        """Pod's uid and volume's name in it → the PersistentVolume's name."""

    def pod_directory(self, uid: str) -> Path:
        return self._pods / uid

    def pods_on_disk(self) -> list[str]:
        return [entry.name for entry in self._pods.iterdir()] if self._pods.exists() else []

    async def mount(self, pod: Object, volume: Object, facts: Facts) -> Path:
        """Make one volume, or bring what is in it up to date; returns its path on the node. Safe to repeat."""
        kind = _kind(volume)
        if kind == "hostPath":
            return await asyncio.to_thread(_host_path, volume["hostPath"])
        if kind == "persistentVolumeClaim":
            return await self._mount_persistent(pod, volume)
        folder: Path = self.pod_directory(pod["metadata"]["uid"]) / "volumes" / _PLUGINS[kind] / volume["name"]
        if kind == "csi":
            return await self._mount_csi(pod, volume, folder)
        if kind == "emptyDir":
            _empty_dir(volume.get("emptyDir") or {}, folder, _fs_group(pod))
            return folder
        files = await self._files(pod, kind, volume[kind], facts)
        if kind in _MEMORY_BACKED:
            _ensure_memory_backed(folder)
        _write_atomically(folder, files, group=_fs_group(pod))
        return folder

    def sub_path_names(self, uid: str) -> dict[str, Path]:
        """Volume's name in the pod → where its sub-paths are bound, for those that have another name there than in the pod."""
        folder = self.pod_directory(uid) / SUB_PATHS
        return {name: folder / real for (whose, name), real in self._persistent.items() if whose == uid}

    async def _mount_persistent(self, pod: Object, volume: Object) -> Path:
        uid = pod["metadata"]["uid"]
        try:
            found = await persistent.volume_of(self._api, pod, volume["persistentVolumeClaim"]["claimName"])
            name = self._persistent[uid, volume["name"]] = found["metadata"]["name"]
            if "hostPath" in found["spec"]:
                return await asyncio.to_thread(_host_path, found["spec"]["hostPath"])
            if "local" not in found["spec"]:
                raise MountError(f"volume {name} is of no kind that is known here: hostPath, local")
            folder = self.pod_directory(uid) / "volumes" / persistent.PLUGIN / name
            return await asyncio.to_thread(persistent.mount_local, found, folder, group=_fs_group(pod))
        except persistent.Unusable as why:
            raise MountError(str(why)) from why

    async def refresh(self, pod: Object, facts: Facts) -> None:
        """Bring contents that come from the API up to date. A failure leaves the old contents, and is only logged."""
        for volume in pod["spec"].get("volumes") or ():
            kind = _kind(volume)
            if kind in {"hostPath", "emptyDir", "persistentVolumeClaim"} or (
                kind == "csi" and not self._inline.republishes(volume)
            ):
                continue
            try:
                await self.mount(pod, volume, facts)
            except (MountError, environment.ConfigError, csi.CsiError, ApiError, OSError) as error:
                log.warning("volume: not refreshed pod=%s volume=%s: %s", pod["metadata"]["name"], volume["name"], error)

    async def _mount_csi(self, pod: Object, volume: Object, folder: Path) -> Path:
        target = folder / "mount"
        published = mounts.is_mounted(target)
        if published and not self._inline.republishes(volume):
            return target
        reference = volume["csi"].get("nodePublishSecretRef")
        values: dict[str, str] = {}
        if reference:
            secret = await self.secret(pod, reference["name"])
            if secret is None:
                raise MountError(f'fetching NodePublishSecretRef: secret "{reference["name"]}" not found')
            values = {key: value.decode() for key, value in environment.secret_values(secret).items()}
        return await self._inline.publish(pod, volume, folder=folder, secrets=values, again=published)

    async def _files(self, pod: Object, kind: str, source: Object, facts: Facts) -> dict[str, File]:
        mode = source.get("defaultMode", 0o644)
        match kind:
            case "secret":
                named = {**source, "name": source.get("secretName")}
                return await self._secret_files(pod, named, mode)
            case "configMap":
                return await self._config_map_files(pod, source, mode)
            case "downwardAPI":
                return _downward_files(pod, source, mode, facts)
        files: dict[str, File] = {}
        for part in source.get("sources") or ():
            files |= await self._projected(pod, part, mode, facts)
        return files

    async def _projected(self, pod: Object, part: Object, mode: int, facts: Facts) -> dict[str, File]:
        if "secret" in part:
            return await self._secret_files(pod, part["secret"], mode)
        if "configMap" in part:
            return await self._config_map_files(pod, part["configMap"], mode)
        if "downwardAPI" in part:
            return _downward_files(pod, part["downwardAPI"], mode, facts)
        if "serviceAccountToken" in part:
            token = await self.token(pod, part["serviceAccountToken"])
            owner, token_mode = _token_owner(pod, mode)
            return {part["serviceAccountToken"]["path"]: File(token.encode(), token_mode, owner)}
        raise MountError(f"unsupported projection: {sorted(part)}")

    async def _secret_files(self, pod: Object, source: Object, mode: int) -> dict[str, File]:
        secret = await self.secret(pod, source["name"])
        if secret is None and not source.get("optional"):
            raise MountError(f'secret "{source["name"]}" not found')
        return _selected(environment.secret_values(secret or {}), source, mode)

    async def _config_map_files(self, pod: Object, source: Object, mode: int) -> dict[str, File]:
        config_map = await self.config_map(pod, source["name"])
        if config_map is None and not source.get("optional"):
            raise MountError(f'configmap "{source["name"]}" not found')
        return _selected(environment.config_map_values(config_map or {}), source, mode)

    async def config_map(self, pod: Object, name: str) -> Object | None:
        return await self._found("configmaps", pod, name)

    async def secret(self, pod: Object, name: str) -> Object | None:
        return await self._found("secrets", pod, name)

    async def _found(self, resource: str, pod: Object, name: str) -> Object | None:
        try:
            return await self._api.get(path("v1", resource, namespace=pod["metadata"]["namespace"], name=name))
        except ApiError as error:
            if error.code == 404:
                return None
            raise

    async def token(self, pod: Object, source: Object) -> str:
        """A service account token bound to the pod, asked for again when four fifths of its life are over."""
        uid, audience = pod["metadata"]["uid"], source.get("audience", "")
        account = pod["spec"].get("serviceAccountName") or "default"
        key = (uid, account, audience)
        known = self._tokens.get(key)
        if known and time.time() < known.refresh_at:
            return known.value
        lifetime = source.get("expirationSeconds", 3600)
        metadata = pod["metadata"]
        bound = {"apiVersion": "v1", "kind": "Pod", "name": metadata["name"], "uid": uid}
        spec: Object = {"expirationSeconds": lifetime, "boundObjectRef": bound}
        spec["audiences"] = [audience] if audience else []
        url = path("v1", "serviceaccounts", namespace=metadata["namespace"], name=account, sub="token")
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        answer = await self._api.create(url, body)
        begin = time.time()
        fresh = _Token(answer["status"]["token"], begin + lifetime, begin + lifetime * 0.8)
        self._tokens[key] = fresh
        return fresh.value

    async def unmount_all(self, uid: str) -> None:
        """Take away every volume of a pod, whose containers must have ended. Raises CsiError if a driver will not.

        Every volume is tried, so that one driver that is away does not hold up another's clean-up.
        """
        problems: list[csi.CsiError] = []
        _unmount_sub_paths(self.pod_directory(uid) / SUB_PATHS)
        for plugin in _subdirectories(self.pod_directory(uid) / "volumes"):
            for folder in _subdirectories(plugin):
                try:
                    await self._unmount(plugin.name, folder)
                except csi.CsiError as error:
                    problems.append(error)
            with contextlib.suppress(OSError):
                plugin.rmdir()
        self._tokens = {key: token for key, token in self._tokens.items() if key[0] != uid}
        self._persistent = {key: name for key, name in self._persistent.items() if key[0] != uid}
        if problems:
            raise problems[0]

    async def _unmount(self, plugin: str, folder: Path) -> None:
        if plugin == _PLUGINS["csi"]:
            await self._inline.unpublish(folder)
            return
        if mounts.is_mounted(folder):
            mounts.unmount(folder)
        if plugin == persistent.PLUGIN:
            # What is in it is the volume's own, and stays, should it be mounted still.
            os.rmdir(folder)
        elif not mounts.below(folder):
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    def remove_pod_directory(self, uid: str) -> bool:
        """Remove what is left of a pod, unless something is mounted or published there; says whether it is gone."""
        folder = self.pod_directory(uid)
        volumes = folder / "volumes"
        if mounts.below(folder) or any(_subdirectories(plugin) for plugin in _subdirectories(volumes)):
            return False
        shutil.rmtree(folder, ignore_errors=True)
        return not folder.exists()


def _kind(volume: Object) -> str:
    for kind in ("hostPath", *_PLUGINS):
        if kind in volume:
            return kind
    if set(volume) == {"name"}:
        return "emptyDir"
    raise MountError(f"unsupported volume type: {sorted(set(volume) - {'name'})}")


def _unmount_sub_paths(folder: Path) -> None:
    """What is bound there may be a file. Directories go by rmdir and files by unlink, and nothing through a mount."""
    for point in mounts.below(folder):
        mounts.unmount(point)
    for where, folders, files in os.walk(folder, topdown=False):
        for name in files:
            os.unlink(os.path.join(where, name))
        for name in folders:
            os.rmdir(os.path.join(where, name))
    with contextlib.suppress(FileNotFoundError):
        folder.rmdir()


def _subdirectories(folder: Path) -> list[Path]:
    try:
        return [Path(entry.path) for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def _fs_group(pod: Object) -> int | None:
    group: int | None = (pod["spec"].get("securityContext") or {}).get("fsGroup")
    return group


def _host_path(source: Object) -> Path:
    """The types of hostPath, and their errors, as kubelet words them."""
    found = Path(source["path"])
    kind = source.get("type") or ""
    if kind == "DirectoryOrCreate":
        found.mkdir(parents=True, exist_ok=True, mode=0o755)
    elif kind == "FileOrCreate" and not found.exists():
        found.touch(mode=0o644)
    checks = {
        "Directory": found.is_dir,
        "DirectoryOrCreate": found.is_dir,
        "File": found.is_file,
        "FileOrCreate": found.is_file,
        "Socket": found.is_socket,
        "CharDevice": found.is_char_device,
        "BlockDevice": found.is_block_device,
    }
    if kind in checks and not checks[kind]():
        raise MountError(f"hostPath type check failed: {found} is not a {kind.removesuffix('OrCreate').lower()}")
    return found


def _ensure_memory_backed(folder: Path) -> None:
    """What came from the API in confidence is never written to a disk."""
    if not mounts.is_mounted(folder):
        folder.mkdir(parents=True, exist_ok=True)
        mounts.tmpfs(folder, options="mode=0755,size=64m")


def _empty_dir(source: Object, folder: Path, group: int | None) -> None:
    if source.get("medium") == "Memory" and not mounts.is_mounted(folder):
        folder.mkdir(parents=True, exist_ok=True)
        limit = source.get("sizeLimit")
        mounts.tmpfs(folder, options="mode=0777" + (f",size={quantity.whole(limit)}" if limit else ""))
    elif folder.exists():
        return
    else:
        folder.mkdir(parents=True)
    folder.chmod(0o777)
    if group is not None:
        os.chown(folder, -1, group)
        folder.chmod(0o2777)


def _selected(values: Mapping[str, bytes], source: Object, mode: int) -> dict[str, File]:
    """All keys under their own names, or those of `items` under the paths that they give."""
    items = source.get("items")
    if items is None:
        return {key: File(value, mode) for key, value in values.items()}
    files = {}
    for item in items:
        if item["key"] in values:
            files[_safe(item["path"])] = File(values[item["key"]], item.get("mode", mode))
        elif not source.get("optional"):
            raise MountError(f"references non-existent key: {item['key']}")
    return files


def _safe(relative: str) -> str:
    if relative.startswith("/") or ".." in PurePosixPath(relative).parts:
        raise MountError(f"invalid path in volume: {relative}")
    return relative


def _downward_files(pod: Object, source: Object, mode: int, facts: Facts) -> dict[str, File]:
    files = {}
    for item in source.get("items") or ():
        if reference := item.get("fieldRef"):
            text = environment.field(pod, reference["fieldPath"], facts)
        else:
            text = environment.resource(pod, item["resourceFieldRef"], facts)
        files[_safe(item["path"])] = File(text.encode(), item.get("mode", mode))
    return files


def _token_owner(pod: Object, mode: int) -> tuple[int, int]:
    """Kubelet's rule: with fsGroup 0600 (the group's bit comes later), and else owned by the one user all run as."""
    if _fs_group(pod) is not None:
        return 0, 0o600
    spec = pod["spec"]
    common = (spec.get("securityContext") or {}).get("runAsUser")
    everyone = [*(spec.get("initContainers") or ()), *spec["containers"]]
    users = {(container.get("securityContext") or {}).get("runAsUser", common) for container in everyone}
    only = users.pop() if len(users) == 1 else None
    return (only, 0o600) if only is not None else (0, mode)


def _write_atomically(folder: Path, files: Mapping[str, File], *, group: int | None) -> None:
    """Replace the contents of `folder` by `files` in one step that readers see; nothing if they are the same.

    1. A new directory `..<time>` with the files.
    2. `..data` points to it, by rename.
    3. A link for each top name; links of names that are gone, and the old directory, are removed.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o755)
    data = folder / "..data"
    if data.is_symlink() and _current(data) == {name: file.content for name, file in files.items()}:
        return
    stamp = datetime.now(UTC).strftime("%Y_%m_%d_%H_%M_%S")
    fresh = folder / f"..{stamp}.{secrets.randbelow(10**9)}"
    fresh.mkdir(mode=0o755)
    for name, file in files.items():
        _write_file(fresh / name, file, group)
    old = folder / os.readlink(data) if data.is_symlink() else None
    swap = folder / "..data_tmp"
    swap.unlink(missing_ok=True)
    swap.symlink_to(fresh.name)
    swap.rename(data)
    _link_names(folder, {PurePosixPath(name).parts[0] for name in files})
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def _write_file(target: Path, file: File, group: int | None) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(file.content)
    mode = file.mode if group is None else file.mode | 0o440
    os.chown(target, file.owner, -1 if group is None else group)
    target.chmod(mode)


def _current(data: Path) -> dict[str, bytes]:
    """What readers see now, by relative name."""
    real = data.resolve()
    return {str(found.relative_to(real)): found.read_bytes() for found in real.rglob("*") if found.is_file()}


def _link_names(folder: Path, names: set[str]) -> None:
    for entry in os.scandir(folder):
        if not entry.name.startswith("..") and entry.name not in names:
            os.unlink(entry.path)
    for name in names:
        link = folder / name
        if not link.is_symlink():
            link.symlink_to(f"..data/{name}")
