"""What the suite does on a node itself: finds and signals dynvol's processes, reads the mount table, lists dynvol's files.

The local cluster's ground calls these functions; on any other cluster the same file is sent to a pod on each node and run there by
a bare Python (`python3 - kill …`). So it imports nothing but the standard library, and prints what it found as JSON.
"""

from __future__ import annotations

import base64
import ctypes
import ipaddress
import json
import os
import re
import shutil
import signal
import socket
import struct
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

STATE_DIR = "/var/lib/dynamic"
DISK = (STATE_DIR, "/var/lib/kubelet/pods", "/var/log")
"""Where dynvol and its pods may leave something on a node's disk."""
NODES_ROOT = "/proc/1/root"
"""Where a pod that sees the node's processes has the node's own files."""
_API = ("etcd", "kube-apiserver", "kube-controller-manager")
"""How the programs of a control plane that have all Secrets are called."""
_NEW_ROUTE, _DELETE_ROUTE = 24, 25
_CLONE_NEWNET = 0x40000000


def kill(program: str, *, pods: Collection[str], name: str, among: Iterable[int]) -> int:
    """Sends the signal `name` ("KILL") to those processes `among` whose command line contains `program`, in pods of these names.

    Returns how many there were.
    """
    chosen = [pid for pid in among if pid != os.getpid() and program in command(pid) and pod_of(pid) in pods]
    for pid in chosen:
        os.kill(pid, signal.Signals[f"SIG{name}"])
    return len(chosen)


def everything() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]


def clusters_own() -> list[int]:
    """The processes of pods, and kubelet. What else a node runs, this suite or its S3 server perhaps, is none of the cluster's; and
    a control plane that runs in pods has every Secret, as it must."""
    own = (pid for pid in everything() if "kubepods" in _text(pid, "cgroup") or _program(pid) == "kubelet")
    return [pid for pid in own if not _program(pid).startswith(_API)]


def below(pid: int) -> Iterator[int]:
    """The process and all that descend from it, in whatever namespaces they are."""
    waiting = [pid]
    while waiting:
        found = waiting.pop()
        yield found
        waiting += _children(found)


def fetch(address: str) -> tuple[int, str]:
    """HTTP status and text; 0 where nobody answers."""
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


def cut_off(address: str, *, pods: Collection[str], among: Iterable[int]) -> int:
    """From now on nothing passes between pods of these names and an IP address, and neither side is told. Returns how many pods.
    They must have networks of their own, or the node is cut off with them.

    1. A route in the pod's own network refuses what it sends. 2. What comes is dropped, for it could not be answered: with this
    filter on, which stays on, the kernel looks whether it could.
    """
    networks = _networks(pods, among)
    for network in networks:
        with _within(network):
            _route(_NEW_ROUTE, address)
            Path("/proc/sys/net/ipv4/conf/all/rp_filter").write_text("2")
    return len(networks)


def let_through(address: str, *, pods: Collection[str], among: Iterable[int]) -> int:
    """Undoes `cut_off`."""
    networks = _networks(pods, among)
    for network in networks:
        with _within(network):
            _route(_DELETE_ROUTE, address)
    return len(networks)


def _networks(pods: Collection[str], among: Iterable[int]) -> list[str]:
    found = [f"/proc/{pid}/ns/net" for pid in among if pod_of(pid) in pods]
    return list({os.stat(network).st_ino: network for network in found}.values())


@contextmanager
def _within(network: str) -> Iterator[None]:
    """This thread is in that network namespace, and so is what it opens."""
    with open("/proc/self/ns/net") as own, open(network) as other:
        _enter(other.fileno())
        try:
            yield
        finally:
            _enter(own.fileno())


def _enter(namespace: int) -> None:
    # os.setns came with Python 3.12.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def _route(kind: int, address: str) -> None:
    """Makes or deletes the route that says that this one address is unreachable: rtnetlink(7). The image has no program for it."""
    to = ipaddress.ip_address(address)
    family = socket.AF_INET if to.version == 4 else socket.AF_INET6
    table, static, unreachable = 254, 4, 7
    route = struct.pack("=8BI", family, to.max_prefixlen, 0, 0, table, static, 0, unreachable, 0)
    destination = struct.pack("=HH", 4 + len(to.packed), 1) + to.packed
    request, acknowledge, create = 0x1, 0x4, 0x400
    body = route + destination
    header = struct.pack("=IHHII", 16 + len(body), kind, request | acknowledge | create, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as kernel:
        kernel.send(header + body)
        (error,) = struct.unpack_from("=i", kernel.recv(4096), 16)
    if error:
        raise OSError(-error, os.strerror(-error), address)


def mounts(containing: str, *, process: int | str = "self") -> list[str]:
    """The mount points with this text in their path, as the process sees them."""
    table = Path(f"/proc/{process}/mountinfo").read_text()
    points = [_unescaped(line.split()[4]) for line in table.splitlines()]
    return [point for point in points if containing in point]


def state_files(root: str = "") -> list[str]:
    """The directories of the mount pods, the workloads' own below them, and the caches. Nothing that is mounted is entered."""
    roots, caches = (_mount_pods(Path(f"{root}{STATE_DIR}/{kind}")) for kind in ("xvols", "cache"))
    return [str(path) for path in (*roots, *(path for root_ in roots for path in _listed(root_)), *caches)]


def _mount_pods(directory: Path) -> list[Path]:
    return [path for name in _listed(directory) for path in _listed(name)]


def write(path: str, text: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)


def read(path: str) -> str | None:
    try:
        return Path(path).read_text()
    except FileNotFoundError:
        return None


def link(path: str, to: str) -> None:
    Path(path).symlink_to(to)


def erase(directory: str) -> None:
    if os.path.isdir(directory):
        shutil.rmtree(directory)


def findings(text: str, *, among: Iterable[int], folders: Iterable[str]) -> list[str]:
    """Where a text stands, plain or in base64, of all that a node keeps: one sentence for each place.

    Of the processes `among`: command line, environment and memory. Of the files below `folders`: those on their own disk, for what
    is mounted there is not entered.
    """
    needles = [text.encode(), base64.b64encode(text.encode())]
    return [
        *(f"{what} of {command(pid)[:100].strip() or pid}" for pid in among if pid != os.getpid() for what in _told(pid, needles)),
        *(f"file {path}" for folder in folders for path in _files(folder) if _holds(path, needles)),
    ]


def _told(pid: int, needles: Collection[bytes]) -> Iterator[str]:
    for file, what in (("cmdline", "command line"), ("environ", "environment")):
        if any(needle in _bytes(f"/proc/{pid}/{file}") for needle in needles):
            yield what
    if any(needle in piece for piece in _memory(pid) for needle in needles):
        yield "memory"


def _memory(pid: int) -> Iterator[bytes]:
    """What the process has written, a region at a time. A process that ends meanwhile has no more."""
    try:
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
            for line in _text(pid, "maps").splitlines():
                place, rights, *_ = line.split()
                first, last = (int(bound, 16) for bound in place.split("-"))
                if rights.startswith("rw"):
                    memory.seek(first)
                    yield memory.read(last - first)
    except (OSError, OverflowError):
        return


def _files(folder: str) -> Iterator[str]:
    for directory, names, files in os.walk(folder):
        here = os.stat(directory).st_dev
        names[:] = [name for name in names if os.lstat(f"{directory}/{name}").st_dev == here]
        yield from (f"{directory}/{name}" for name in files)


def _holds(path: str, needles: Collection[bytes]) -> bool:
    content = _bytes(path) if os.path.isfile(path) and not os.path.islink(path) else b""
    return any(needle in content for needle in needles)


def _bytes(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


def _listed(directory: Path) -> list[Path]:
    """Sorted. What has gone since it was seen has nothing in it."""
    try:
        return sorted(directory.iterdir())
    except OSError:
        return []


def pod_of(pid: int) -> str:
    """The name of the pod that a process is in; empty if it is in none of ours.

    It stands in the environment as POD_NAME, or in that of a process above: what a FUSE client inherits is little.
    """
    while pid > 1:
        if name := _environment(pid).get("POD_NAME"):
            return name
        pid = _parent(pid)
    return ""


def _children(pid: int) -> list[int]:
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return []


def _parent(pid: int) -> int:
    # After the last parenthesis: a program's name may hold spaces and parentheses too.
    return int(_text(pid, "stat").rpartition(")")[2].split()[1]) if _text(pid, "stat") else 0


def command(pid: int) -> str:
    """Its arguments, joined by blanks; empty for one that has ended."""
    return _text(pid, "cmdline").replace("\0", " ")


def _program(pid: int) -> str:
    return command(pid).partition(" ")[0].rpartition("/")[2]


def _environment(pid: int) -> dict[str, str]:
    pairs = [entry.partition("=") for entry in _text(pid, "environ").split("\0")]
    return {key: value for key, _, value in pairs}


def _text(pid: int, file: str) -> str:
    """Empty for a process that has just ended."""
    try:
        return Path(f"/proc/{pid}/{file}").read_text(errors="replace")
    except OSError:
        return ""


def _unescaped(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def main(task: str, *arguments: str) -> None:
    match task:
        case "kill":
            program, name, *pods = arguments
            found: object = kill(program, pods=pods, name=name, among=everything())
        case "mounts":
            found = mounts(*arguments)
        case "findings":
            # Not as it is, or it would be found in this very command line.
            found = findings(bytes.fromhex(arguments[0]).decode(), among=clusters_own(), folders=DISK)
        case "state-files":
            found = state_files()
        case "write" | "read" | "link" | "erase":
            path, *rest = arguments
            tasks: dict[str, Callable[..., str | None]] = {"write": write, "read": read, "link": link, "erase": erase}
            found = tasks[task](NODES_ROOT + path, *rest)
        case "fetch":
            found = fetch(*arguments)
        case "cut-off" | "let-through":
            address, *pods = arguments
            found = (cut_off if task == "cut-off" else let_through)(address, pods=pods, among=everything())
        case _:
            raise SystemExit(f"unknown task: {task}")
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
