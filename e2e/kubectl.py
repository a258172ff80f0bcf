"""The real kubectl, as the suite's only way to a cluster: what a test does, a user can do."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
Manifest = Mapping[str, Any]
SHORT_LIVED = {"GOGC": "off", "GOMEMLIMIT": "256MiB", "GOMAXPROCS": "1"}
"""For Go programs that end before their garbage matters, or a second thread helps: a third of a kubectl goes into these."""


class KubectlError(AssertionError):
    """kubectl ended with an error; the message holds what it said."""


@dataclass(frozen=True, slots=True)
class Completed:
    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        return f"{self.out}{self.err}".strip()


@dataclass(frozen=True, slots=True)
class Kubectl:
    """`namespace` is that of every call; empty: what the kubeconfig or the manifest says."""

    kubeconfig: Path
    namespace: str = ""
    binary: str = "kubectl"

    def within(self, namespace: str) -> Kubectl:
        return Kubectl(self.kubeconfig, namespace, self.binary)

    def try_(self, *arguments: str, stdin: str | None = None, timeout: float = 60.0) -> Completed:
        """Runs kubectl and says how it went."""
        chosen = [f"--namespace={self.namespace}"] if self.namespace else []
        command = [self.binary, f"--kubeconfig={self.kubeconfig}", *chosen, *arguments]
        environment = {**clean_environment(), **SHORT_LIVED}
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout, check=False, env=environment)
        return Completed(done.returncode, done.stdout, done.stderr)

    def __call__(self, *arguments: str, stdin: str | None = None, timeout: float = 60.0) -> str:
        """Runs kubectl and returns its output. Raises KubectlError."""
        done = self.try_(*arguments, stdin=stdin, timeout=timeout)
        if done.code:
            raise KubectlError(f"kubectl {' '.join(arguments)}: {done.said}")
        return done.out

    def apply(self, *manifests: Manifest) -> str:
        return self("apply", "-f", "-", stdin=_documents(manifests))

    def try_apply(self, *manifests: Manifest) -> Completed:
        return self.try_("apply", "-f", "-", stdin=_documents(manifests))

    def get(self, kind: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self("get", kind, name, "-o", "json"))
        return found

    def list(self, kind: str, *arguments: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = json.loads(self("get", kind, "-o", "json", *arguments))["items"]
        return items

    def delete(self, kind: str, *names: str, wait: bool = True, timeout: float = 60.0) -> str:
        return self("delete", kind, *names, f"--wait={str(wait).lower()}", f"--timeout={timeout:.0f}s", timeout=timeout + 10)

    def wait(self, what: str, *, condition: str, timeout: float = 60.0) -> str:
        return self("wait", what, f"--for={condition}", f"--timeout={timeout:.0f}s", timeout=timeout + 10)

    def exec(self, pod: str, *command: str, container: str = "", timeout: float = 30.0) -> Completed:
        """Runs a command in a running container."""
        chosen = ["-c", container] if container else []
        return self.try_("exec", pod, *chosen, "--", *command, timeout=timeout)

    def events(self, kind: str, name: str) -> Sequence[tuple[str, str]]:
        """(reason, message) of each event about an object."""
        selector = f"involvedObject.kind={kind},involvedObject.name={name}"
        return [(e["reason"], e.get("message", "")) for e in self.list("events", f"--field-selector={selector}")]


def clean_environment() -> dict[str, str]:
    """Nothing of the surroundings but where programs are and a home for kubectl's cache."""
    import os

    return {k: os.environ[k] for k in ("PATH", "HOME") if k in os.environ}


def eventually(look: Callable[[], T], *, within: float = 60.0, every: float | None = None, what: str = "") -> T:
    """The first truthy answer of `look`; assertion and kubectl errors mean "not yet". AssertionError after `within` seconds.

    What is waited for has to share the machine with the looks, so the longer it takes the rarer they become, unless told how many
    seconds to leave between them.
    """
    began = time.monotonic()
    last: object = None
    while True:
        try:
            if answer := look():
                return answer
            last = answer
        except (AssertionError, subprocess.TimeoutExpired) as error:
            last = error
        waited = time.monotonic() - began
        if waited > within:
            raise AssertionError(f"not within {within:.0f} s: {what or look}; last: {last}")
        time.sleep(every or min(max(0.15, waited / 3), 1.0))


def _documents(manifests: Sequence[Manifest]) -> str:
    return "\n".join(json.dumps(manifest) for manifest in manifests)
