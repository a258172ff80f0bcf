"""The story that hack/quickstart tells, one function for each chapter; each shows what it does, and fails if it did not happen.

It knows the cluster by kubectl only, but for the last look at the node itself. Bringing the cluster up and down is `stage`'s.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from e2e.grounds import onnode
from e2e.manifests import GROUP
from e2e.quickstart import samples
from e2e.quickstart.samples import CLAIM, FILE, NAMESPACE, ROOT, SECOND_CLAIM, SECOND_FILE, WORKLOAD
from e2e.quickstart.stage import Stage
from e2e.quickstart.terminal import CommandFailed, Terminal, output

SYSTEM = "dynvol-system"
MOUNT_PODS = f"--selector={GROUP}/mount-pod"
LIMIT = 60.0
LIMIT_AS_WRITTEN = 180.0
"""Seconds until a mount is given up: in a class of 10m CPU, all of it takes its time."""


class Untrue(Exception):
    """The story says one thing, and the cluster shows another."""


@dataclass(slots=True)
class Story:
    terminal: Terminal
    stage: Stage
    as_written: bool
    latencies: list[tuple[str, float]] = field(default_factory=list)

    @property
    def limit(self) -> float:
        return LIMIT_AS_WRITTEN if self.as_written else LIMIT

    def tell(self, *, to_the_end: bool) -> None:
        """Without `to_the_end`, the workload and its first bucket stay."""
        self.install()
        self.deploy()
        self.claim()
        self.change()
        self.claim_another()
        self.remove_one()
        self.lose_mount_pod()
        if to_the_end:
            self.end()

    def install(self) -> None:
        with self.terminal.step("Install dynvol"):
            self.terminal.run("kubectl", "apply", "-k", "config/default", first=4)
            for what in ("daemonset/dynvol-node", "deployment/dynvol-webhook"):
                self.terminal.run("kubectl", "-n", SYSTEM, "rollout", "status", what, "--timeout=60s", limit=70)

    def deploy(self) -> None:
        made = self.stage.samples
        with self.terminal.step("Start a workload that opts in by two annotations"):
            self._explain_cpu()
            self._apply("config/samples/namespace.yaml", made.secret, made.provider_class)
            self.terminal.run("grep", "-A2", "annotations:", "config/samples/deployment.yaml")
            self._apply("config/samples/deployment.yaml")
            self._kubectl("rollout", "status", f"deployment/{WORKLOAD}", "--timeout=60s", limit=70)
            self._kubectl("get", "pods")
            self.terminal.say("Its volume is there, empty and read-only:")
            found = self._kubectl("exec", self._pod(), "--", "ls", "-la", ROOT)
            assert_that(len(found.splitlines()) == 3, f"{ROOT} is not empty")

    def _explain_cpu(self) -> None:
        if not self.as_written:
            self.terminal.say(
                f"The sample class grants mount pods 10m CPU, which works, slowly. Here they get {samples.CPU_LIMIT};"
            )
            self.terminal.say("--as-written leaves the class as it is.")

    def claim(self) -> None:
        with self.terminal.step("Claim a bucket"):
            self.terminal.run("cat", self.stage.samples.claim)
            self._claim(self.stage.samples.claim, FILE, "the first (a mount pod is started)")
            self._ready(CLAIM)
            self.terminal.say("Every replica reads it:")
            for pod in self._pods():
                self._reads(pod, FILE, "hello from my-bucket\n")
            self._kubectl("get", "dvc")
            self._kubectl("describe", "dvc", CLAIM, since="Status:")
            self._kubectl("get", "pods")
            self._never_restarted()

    def change(self) -> None:
        with self.terminal.step("Change an object in the bucket"):
            self.stage.put(samples.BUCKET, "hello.txt", "hello again, from a changed object\n")
            self.terminal.say("hello.txt was put anew, by another S3 client; the pod reads")
            self._reads(self._pod(), FILE, "hello again, from a changed object\n", within=30.0)

    def claim_another(self) -> None:
        with self.terminal.step("Claim a second bucket for the same pods"):
            self._claim(self.stage.samples.second_claim, SECOND_FILE, "the second (the mount pod is there)")
            self._ready(SECOND_CLAIM)
            self._kubectl("get", "dvc")
            self._kubectl("exec", self._pod(), "--", "find", ROOT, "-type", "f")

    def remove_one(self) -> None:
        with self.terminal.step("Remove it again"):
            self._kubectl("delete", "dvc", SECOND_CLAIM, limit=self.limit)
            listed = self._kubectl("exec", self._pod(), "--", "ls", ROOT)
            assert_that(listed.split() == ["data"], f"{ROOT} should hold data, and nothing else")

    def lose_mount_pod(self) -> None:
        with self.terminal.step("Kill a mount pod"):
            entry = self._status()["pods"][0]
            pod, mount_pod = entry["pod"], entry["mountPod"]
            with self._gap(pod, FILE) as gap:
                self._system("delete", "pod", mount_pod, "--now")
            self.terminal.say(f"The file could not be read for {gap():.1f} s, and then again, in the same container:")
            self.latencies.append(("unreadable after its mount pod was killed", gap()))
            self._settle(lambda: self._status().get("summary") == "2/2", "the claim is whole again")
            self._reads(pod, FILE, "hello again, from a changed object\n")
            self._kubectl("get", "pods")
            self._never_restarted()
            self.terminal.say("The claim tells it:")
            self._kubectl("events", "--for", f"dvc/{CLAIM}")

    def end(self) -> None:
        with self.terminal.step("Delete the workload"):
            self._kubectl("delete", "deployment", WORKLOAD)
            self._kubectl("wait", "pod", f"--selector=app={WORKLOAD}", "--for=delete", "--timeout=60s", limit=70)
            self._settle(lambda: not self._mount_pods(), "the mount pods are gone")
            self._system("get", "pods,secrets", MOUNT_PODS)
            self._kubectl("get", "dvc")
            self._settle(lambda: not self._left_on_nodes(), "nothing is left on the node")
            self.terminal.say("On the node: no mount, no directory of dynvol's is left.")

    # Ways to look

    def _apply(self, *files: str) -> None:
        self.terminal.run("kubectl", "apply", *(word for file in files for word in ("-f", file)))

    def _kubectl(self, *arguments: str, limit: float = 60.0, since: str = "") -> str:
        return self.terminal.run("kubectl", "-n", NAMESPACE, *arguments, limit=limit, since=since)

    def _exec(self, pod: str, *command: str) -> str:
        return self.terminal.ask("kubectl", "-n", NAMESPACE, "exec", pod, "--", *command)

    def _ready(self, claim: str) -> None:
        self._kubectl("wait", f"dvc/{claim}", "--for=condition=Ready", f"--timeout={self.limit:.0f}s", limit=self.limit + 10)

    def _system(self, *arguments: str) -> str:
        return self.terminal.run("kubectl", "-n", SYSTEM, *arguments)

    def _pods(self) -> list[str]:
        found = self._items(NAMESPACE, "pods", f"--selector=app={WORKLOAD}")
        return sorted(pod["metadata"]["name"] for pod in found)

    def _pod(self) -> str:
        return self._pods()[0]

    def _mount_pods(self) -> list[Any]:
        return self._items(SYSTEM, "pods", MOUNT_PODS) + self._items(SYSTEM, "secrets", MOUNT_PODS)

    def _items(self, namespace: str, kind: str, *arguments: str) -> list[Any]:
        found: list[Any] = json.loads(self.terminal.ask("kubectl", "-n", namespace, "get", kind, *arguments, "-o", "json"))["items"]
        return found

    def _status(self) -> dict[str, Any]:
        claim = json.loads(self.terminal.ask("kubectl", "-n", NAMESPACE, "get", "dvc", CLAIM, "-o", "json"))
        status: dict[str, Any] = claim.get("status", {})
        return status

    def _never_restarted(self) -> None:
        statuses = [s for pod in self._items(NAMESPACE, "pods") for s in pod["status"]["containerStatuses"]]
        assert_that(all(status["restartCount"] == 0 for status in statuses), "a container was restarted")

    def _reads(self, pod: str, file: str, text: str, *, within: float = 0.0) -> None:
        """The pod's container reads `text`. What a client may remember for a while is waited for."""
        if within:
            self._settle(lambda: self._exec(pod, "cat", file) == text, file, within)
        assert_that(self._kubectl("exec", pod, "--", "cat", file) == text, f"{file} should read {text!r}")

    def _claim(self, manifest: str, file: str, which: str) -> None:
        """Apply a claim while a shell in a pod waits for the file that it will bring."""
        with self._shell(self._pod(), f"echo waiting; until [ -f {file} ]; do sleep 0.02; done; cat {file}") as heard:
            heard()
            began = time.monotonic()
            self._apply(manifest)
            text = heard()
            took = time.monotonic() - began
        self.terminal.say(f"A shell in the pod was waiting for {file}. After {took:.2f} s it read: {text}")
        self.latencies.append((f"claim applied to file readable: {which}", took))

    @contextlib.contextmanager
    def _gap(self, pod: str, file: str) -> Iterator[Callable[[], float]]:
        """Yields what tells, after the block, for how many seconds the file could not be read."""
        read = f"cat {file} > /dev/null 2>&1"
        script = f"echo waiting; while {read}; do sleep 0.02; done; echo lost; until {read}; do sleep 0.02; done; echo back"
        times: list[float] = []
        with self._shell(pod, script) as heard:
            heard()
            yield lambda: times[1] - times[0]
            for _ in ("lost", "back"):
                heard()
                times.append(time.monotonic())

    @contextlib.contextmanager
    def _shell(self, pod: str, script: str) -> Iterator[Callable[[], str]]:
        """A shell that runs in the pod's container; yields what returns its next line."""
        with self.terminal.started("kubectl", "-n", NAMESPACE, "exec", pod, "--", "sh", "-c", script, limit=self.limit) as process:

            def heard() -> str:
                if line := output(process).readline():
                    return line.rstrip("\n")
                raise CommandFailed(f"in pod {pod} nothing came of it within {self.limit:.0f} s: {script}")

            yield heard

    def _settle(self, look: Callable[[], bool], what: str, within: float = 60.0) -> None:
        deadline = time.monotonic() + within
        while not look():
            if time.monotonic() > deadline:
                raise Untrue(f"not within {within:.0f} s: {what}")
            time.sleep(0.1)

    def _left_on_nodes(self) -> list[str]:
        """dynvol's mounts and directories, as the nodes see them."""
        left: list[str] = []
        for pid in self.stage.nodes():
            left += onnode.mounts("/xvols/", process=pid) + onnode.state_files(f"/proc/{pid}/root")
        return left


def assert_that(truth: bool, otherwise: str) -> None:
    if not truth:
        raise Untrue(otherwise)
