"""hack/kind asks docker, kind and kubectl for the right things in the right order.

The three are played: each notes how it was called, and kubectl is the real one where it needs no cluster. What the commands do to a
cluster is not tried here.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import boto3
import msgspec
import pytest
import yaml
from botocore.config import Config

from dynvol.api.claim import DynamicVolumeClaim
from dynvol.api.providerclass import StorageProviderClass

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "hack/kind"
KUBECTL = shutil.which("kubectl")
TO = "kubectl --context=kind-dynvol"
PLAYER = """#!{python}
import json, os, sys
name, arguments = os.path.basename(sys.argv[0]), sys.argv[1:]
given = sys.stdin.read() if "-" in arguments else ""
with open("{notes}", "a") as notes:
    print(json.dumps([name, arguments, given]), file=notes)
if "--local" in arguments:
    os.execv("{kubectl}", ["kubectl", *arguments])
if arguments == ["get", "clusters"]:
    print("{clusters}")
if arguments[:1] == ["version"]:
    print("linux/arm64")
sys.exit(name == "{failing}")
"""


class Call(NamedTuple):
    program: str
    arguments: list[str]
    given: str

    def __str__(self) -> str:
        return " ".join([self.program, *self.arguments])


class Played:
    """A PATH with nothing on it but programs that note what they are asked for."""

    def __init__(
        self, directory: Path, *, programs: str = "docker kind kubectl", clusters: str = "other", failing: str = ""
    ) -> None:
        self._path, self._notes = directory / "bin", directory / "notes"
        self._path.mkdir()
        self._notes.touch()
        text = PLAYER.format(python=sys.executable, notes=self._notes, kubectl=KUBECTL, clusters=clusters, failing=failing)
        for program in programs.split():
            (self._path / program).write_text(text)
            (self._path / program).chmod(0o755)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-B", str(PROGRAM), *arguments]
        return subprocess.run(
            command,
            env={"PATH": str(self._path)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    @property
    def calls(self) -> list[Call]:
        return [Call(*json.loads(note)) for note in self._notes.read_text().splitlines()]

    @property
    def commands(self) -> list[str]:
        return [str(call) for call in self.calls]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Played:
    """All that is asked for where there is no such cluster yet."""
    if KUBECTL is None:
        pytest.skip("no kubectl, which changes the samples")
    played = Played(tmp_path_factory.mktemp("kind"))
    done = played.run()
    assert done.returncode == 0, done.stderr
    return played


def test_cluster_and_image_are_there_before_kubectl_speaks_to_that_cluster_and_to_no_other(story: Played) -> None:
    (image,) = yaml.safe_load((ROOT / "config/default/kustomization.yaml").read_text())["images"]
    name = f"{image['newName']}:{image['newTag']}"
    assert story.commands[:4] == [
        "kind get clusters",
        "kind create cluster --name=dynvol --wait=120s",
        f"docker build --file={ROOT}/Containerfile --tag={name} {ROOT}",
        f"kind load docker-image {name} --name=dynvol",
    ]
    after = [call for call in story.calls[4:] if "--local" not in call.arguments]
    assert {call.program for call in after} == {"kubectl"}
    assert {call.arguments[0] for call in after} == {"--context=kind-dynvol"}


def test_the_sample_is_made_to_use_the_store_in_the_cluster(story: Played) -> None:
    applied = [json.loads(call.given) for call in story.calls if call.given]
    store, provider_class, claim = applied

    (service,) = (item for item in store["items"] if item["kind"] == "Service")
    host = f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc:{service['spec']['ports'][0]['port']}"
    config = msgspec.convert(claim, DynamicVolumeClaim).spec.s3_config
    assert config is not None
    assert config.endpoint == f"http://{host}"
    assert msgspec.convert(provider_class, StorageProviderClass).metadata.name == claim["spec"]["storageProviderClass"]


def test_files_that_kubectl_is_given_exist(story: Played) -> None:
    named = [call.arguments[i + 1] for call in story.calls for i, word in enumerate(call.arguments) if word in ("-f", "-k")]
    assert all(Path(name).exists() for name in named if name != "-")
    assert len(named) > 3


def test_nothing_is_started_twice_where_all_is_new(story: Played) -> None:
    assert not any("rollout restart" in command or " delete " in command for command in story.commands)


@pytest.fixture(scope="module")
def repeated(tmp_path_factory: pytest.TempPathFactory) -> Played:
    """All that is asked for where the cluster is there."""
    if KUBECTL is None:
        pytest.skip("no kubectl, which changes the samples")
    played = Played(tmp_path_factory.mktemp("kind"), clusters="other\\ndynvol")
    done = played.run()
    assert done.returncode == 0, done.stderr
    return played


def test_a_cluster_that_is_there_is_used_again(repeated: Played) -> None:
    assert not any("create cluster" in command for command in repeated.commands)


def test_a_second_run_restarts_all_that_runs_the_image_once_the_node_has_it(repeated: Played) -> None:
    loaded = next(i for i, command in enumerate(repeated.commands) if command.startswith("kind load"))
    restarted = [call.arguments[3] for call in repeated.calls[loaded:] if call.arguments[1:3] == ["rollout", "restart"]]
    assert restarted == ["daemonset/dynvol-node", "deployment/dynvol-webhook", "deployment/app-4-s3"]


def test_a_second_run_waits_for_a_claim_that_has_not_been_ready_before(repeated: Played) -> None:
    says = repeated.commands
    deleted, waited = (next(i for i, it in enumerate(says) if it.startswith(what)) for what in (f"{TO} delete dvc", f"{TO} wait"))
    assert any("DynamicVolumeClaim" in call.given for call in repeated.calls[deleted:waited])


def test_images_can_be_others_and_come_from_docker(tmp_path: Path) -> None:
    played = Played(tmp_path, failing="kubectl")
    played.run("--node-image", "node:1", "--build-arg", "BASE=base:1", "--build-arg", "VERSION=2")
    created, built = played.commands[1:3]
    assert created == "kind create cluster --name=dynvol --wait=120s --image=node:1"
    assert " --build-arg=BASE=base:1 --build-arg=VERSION=2 " in built


def test_what_docker_has_pulled_is_loaded_for_its_own_platform_before_anything_runs(tmp_path: Path) -> None:
    played = Played(tmp_path, failing="kubectl")
    played.run("--load", "a", "--load", "b:1")
    loads = [call for call in played.calls if call.arguments[0] in ("image", "load")][1:]
    kept = [call.arguments[3].removeprefix("--output=") for call in loads[::2]]
    assert [str(call) for call in loads] == [
        f"docker image save --platform=linux/arm64 --output={kept[0]} a",
        f"kind load image-archive {kept[0]} --name=dynvol",
        f"docker image save --platform=linux/arm64 --output={kept[1]} b:1",
        f"kind load image-archive {kept[1]} --name=dynvol",
    ]
    assert not any(Path(archive).parent.exists() for archive in kept)
    assert played.calls[-1].program == "kubectl"


def test_down_deletes_that_cluster_and_does_nothing_else(tmp_path: Path) -> None:
    played = Played(tmp_path)
    assert played.run("--down").returncode == 0
    assert played.commands == ["kind delete cluster --name=dynvol"]


def test_a_command_that_fails_ends_it_and_is_named(tmp_path: Path) -> None:
    played = Played(tmp_path, failing="docker")
    done = played.run()
    assert done.returncode == 1
    assert "this failed: docker build" in done.stderr
    assert played.calls[-1].program == "docker"


def test_a_program_that_is_missing_is_named_before_anything_is_done(tmp_path: Path) -> None:
    played = Played(tmp_path, programs="docker kubectl")
    done = played.run()
    assert done.returncode == 1
    assert "not in PATH: kind (https://kind.sigs.k8s.io)" in done.stderr
    assert played.calls == []


def test_the_store_can_be_filled_again_and_serves_the_bucket_at_the_address_of_the_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    kind: Any = _loaded()
    with _store(kind) as port:
        fill = kind.FILL.replace(f":{kind.PORT}", f":{port}")
        for _ in range(2):
            subprocess.run([sys.executable, "-c", fill], env={"PATH": "/usr/bin:/bin"}, check=True, timeout=60)

        resolve = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **more: resolve("127.0.0.1", *rest, **more))
        address = kind.ENDPOINT.replace(f":{kind.PORT}", f":{port}")
        path_style = Config(s3={"addressing_style": "path"})
        client = boto3.client(
            "s3", endpoint_url=address, config=path_style, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
        )
        with contextlib.closing(client):
            assert client.get_object(Bucket=kind.BUCKET, Key="hello.txt")["Body"].read() == f"hello from {kind.BUCKET}\n".encode()


@contextlib.contextmanager
def _store(kind: Any) -> Iterator[int]:
    """The S3 server of the store's image, with the environment that it has there. Its port."""
    (deployment,) = (item for item in kind.store()["items"] if item["kind"] == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    environment = {"PATH": "/usr/bin:/bin", **{variable["name"]: variable["value"] for variable in container["env"]}}
    command = [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", "0"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr
            running = (re.search(r"Running on http://127\.0\.0\.1:(\d+)", line) for line in server.stderr)
            yield next(int(found[1]) for found in running if found)
        finally:
            server.kill()


def _loaded() -> ModuleType:
    loader = SourceFileLoader("hack_kind", str(PROGRAM))
    spec = spec_from_loader(loader.name, loader)
    assert spec
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module
