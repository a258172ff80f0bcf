"""Runs the command lines of a page that want Docker, on a machine that has runc only.

The lines are taken as they stand on the page, so that what is written there is what was seen to work. Of Docker's options those
are known that the pages use; another one is an error, not a thing to overlook. All of it happens on a machine within the machine,
with mounts and process ids of its own: when its first process is killed, no container, mount or process is left.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from e2e.cluster import cgroups
from e2e.cluster.children import PATH, clean_environment
from e2e.cluster.kubelet import oci
from e2e.cluster.kubelet.oci import BindMount, ContainerSpec, Propagation, User
from e2e.kubectl import Completed, eventually

_DYNVOL = Path(PATH.partition(":")[0], "dynvol")
_PROPAGATION = {kind.option: kind for kind in Propagation}
_BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language, in order."""
    return [text for kind, text in _BLOCK.findall(page.read_text()) if kind == language]


def lines(block: str, *, prompt: str) -> list[str]:
    """The commands of a console block; lines that end with a backslash go on."""
    whole = block.replace("\\\n", " ").splitlines()
    return [line.removeprefix(prompt).strip() for line in whole if line.startswith(prompt)]


@dataclass(frozen=True, slots=True)
class Machine:
    """A host with a container engine. `do` is what a person at its prompt does."""

    state: Path
    process: int
    cgroup: str
    specs: dict[str, ContainerSpec] = field(default_factory=dict)

    def do(self, line: str, *, stdin: str = "") -> Completed:
        """Run one line of a page; `< file` at its end stands for `stdin`."""
        words = shlex.split(line.partition(" < ")[0])
        match words:
            case ["docker", "run", *rest]:
                return self._run(rest)
            case ["docker", "exec", *rest]:
                return self._runc("exec", *(word for word in rest if word != "-i"), stdin=stdin)
            case ["docker", "kill", name]:
                return self._end(name, "KILL")
            case ["docker", "stop", name]:
                return self._end(name, "TERM")
            case ["docker", "start", name]:
                return self._start(name)
            case ["docker", *_]:
                raise AssertionError(f"nothing here can run: {line}")
        return self.inside(*words)

    def must(self, line: str, *, stdin: str = "") -> str:
        done = self.do(line, stdin=stdin)
        assert done.code == 0, f"{line}: {done.said}"
        return done.out

    def inside(self, *command: str | Path, stdin: str = "") -> Completed:
        entering = ["nsenter", f"--target={self.process}", "--mount", "--pid", "--", *map(str, command)]
        done = subprocess.run(
            entering, input=stdin, capture_output=True, text=True, timeout=90, check=False, env=clean_environment()
        )
        return Completed(done.returncode, done.stdout, done.stderr)

    def first_process(self, name: str) -> int:
        """Of a container, as the machine counts."""
        return int(self._state(name)["pid"])

    def log(self, name: str) -> str:
        return (self.state / name / "log").read_text()

    def _run(self, words: Sequence[str]) -> Completed:
        parser = argparse.ArgumentParser("docker run", exit_on_error=False, allow_abbrev=False)
        parser.add_argument("-d", action="store_true", required=True)
        parser.add_argument("--name", required=True)
        parser.add_argument("--privileged", action="store_true")
        parser.add_argument("--restart")
        parser.add_argument("--stop-timeout")
        parser.add_argument("--mount", action="append", default=[])
        parser.add_argument("image")
        parser.add_argument("command", nargs=argparse.REMAINDER)
        asked = parser.parse_args(words)
        entrypoint = [str(_DYNVOL)] if asked.image.partition(":")[0] == "dynvol" else []
        self.specs[asked.name] = ContainerSpec(
            arguments=[*entrypoint, *asked.command],
            environment=[f"PATH={PATH}", "HOME=/root"],
            working_directory="/",
            hostname=asked.name,
            user=User(),
            mounts=[self._bind(text) for text in asked.mount],
            cgroup=f"{self.cgroup}/{asked.name}" if self.cgroup else "",
            privileged=asked.privileged,
        )
        folder = self.state / asked.name
        for part in ("rootfs", "upper", "work"):
            (folder / part).mkdir(parents=True)
        return self._start(asked.name)

    def _bind(self, text: str) -> BindMount:
        """A value of `--mount`."""
        given = dict(part.partition("=")[::2] for part in text.split(","))
        known = {"type", "src", "dst", "readonly", "bind-recursive", "bind-propagation"}
        assert set(given) <= known, f"--mount {text}"
        source = Path(given["src"])
        if given["type"] == "volume":
            source = self.state / "volumes" / source
            source.mkdir(parents=True, exist_ok=True)
        # Docker makes what is below a read-only bind read-only too, unless told so; runc does not.
        assert "readonly" not in given or given["bind-recursive"] == "writable", f"--mount {text}"
        kind = _PROPAGATION[given.get("bind-propagation", "rprivate")]
        return BindMount(source, given["dst"], read_only="readonly" in given, propagation=kind)

    def _start(self, name: str) -> Completed:
        """With the same file system as before, but for what was in memory."""
        folder = self.state / name
        (folder / "config.json").write_text(json.dumps(oci.config(self.specs[name])))
        layers = f"lowerdir=/,upperdir={folder / 'upper'},workdir={folder / 'work'}"
        mounted = self.inside("mount", "-t", "overlay", "overlay", "-o", layers, folder / "rootfs")
        assert mounted.code == 0, mounted.said
        with (folder / "log").open("a") as log:
            command = ["nsenter", f"--target={self.process}", "--mount", "--pid", "--", *self._command()]
            command += ["run", "--detach", "--bundle", str(folder), name]
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=60, check=False, env=clean_environment()
            )
        return Completed(done.returncode, "", self.log(name) if done.returncode else "")

    def _end(self, name: str, number: str) -> Completed:
        """Signal it, wait for its end, and take it from runc; its files stay."""
        signalled = self._runc("kill", name, number)
        eventually(lambda: self._state(name)["status"] == "stopped", what=f"{name} ends")
        self._runc("delete", "--force", name)
        self.inside("umount", "--lazy", self.state / name / "rootfs")
        return signalled

    def _state(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._runc("state", name).out)
        return found

    def _runc(self, *arguments: str, stdin: str = "") -> Completed:
        return self.inside(*self._command(), *arguments, stdin=stdin)

    def _command(self) -> list[str]:
        return ["runc", "--root", str(self.state / "runc"), *([] if self.cgroup else ["--rootless=true"])]


@contextlib.contextmanager
def machine(state: Path) -> Iterator[Machine]:
    """1. A first process in namespaces of its own, whose mounts go nowhere. 2. An empty /srv. Whatever happens, be it to the suite,
    it is killed."""
    state.mkdir(parents=True, exist_ok=True)
    cgroup = f"/dynvol-{os.getpid()}-{state.parent.name}"
    cgroup = cgroup if cgroups.writable(cgroup) else ""
    begin = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    begin += ["--propagation", "private", "sleep", "infinity"]
    with subprocess.Popen(begin, stdin=subprocess.DEVNULL, env=clean_environment()) as outer:
        try:
            first = eventually(lambda: _child_of(outer.pid), within=20, every=0.02)
            assert first is not None
            made = Machine(state, first, cgroup)
            assert made.inside("mount", "-t", "tmpfs", "srv", "/srv").code == 0
            yield made
        finally:
            outer.send_signal(signal.SIGKILL)
            outer.wait()
            if cgroup:
                cgroups.remove(cgroup)
            shutil.rmtree(state, ignore_errors=True)


def _child_of(process: int) -> int | None:
    """The one child, once it is what it is to be."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    ready = children and Path(f"/proc/{children[0]}/comm").read_text().strip() == "sleep"
    return int(children[0]) if ready else None
