"""The mounter on its own: the commands and manifests of its page, run as they stand there."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e import manifests
from e2e.conftest import World
from e2e.dockerlines import Machine, blocks, lines, machine
from e2e.grounds.ground import ObjectStore
from e2e.grounds.session import s3_server
from e2e.kubectl import eventually

README = Path(__file__).resolve().parents[1] / "README.md"
PAGE = README.parent / "dynvol" / "service" / "README.md"
PREPARE, RUN, USE = (lines(block, prompt="# ") for block in blocks(PAGE, "console")[:3])
ENDPOINT = "https://s3.example.com"


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Machine]:
    with machine(tmp_path / "machine") as made:
        yield made


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with s3_server(tmp_path_factory.mktemp("storage") / "s3") as made:
        yield made


def keys(store: ObjectStore) -> str:
    return f"access-key-id={store.access}\nsecret-access-key={store.key}\n"


def serves(host: Machine) -> bool:
    return host.do("docker exec assistant dynvol mounts").code == 0


def phases(host: Machine) -> dict[str, tuple[str, str]]:
    found = json.loads(host.must("docker exec assistant dynvol mounts --output json"))
    return {mount["path"]: (mount["phase"], mount["reason"]) for mount in found}


def test_buckets_come_into_a_running_container_and_go_again(host: Machine, store: ObjectStore) -> None:
    store.make("imagenet", readme="hello")
    for line in (*PREPARE, *RUN):
        host.must(line)
    eventually(lambda: serves(host))
    notebook = host.first_process("notebook")
    mount, look, table, umount = (line.replace(ENDPOINT, store.endpoint) for line in USE)

    host.must(mount, stdin=keys(store))
    assert host.must(look) == "readme\n"
    assert "Mounted" in host.must(table)
    assert host.do("docker exec notebook touch /datasets/stray").said.endswith("Read-only file system")
    host.must("docker exec notebook cp /datasets/imagenet/readme /datasets/imagenet/copy")
    assert store.read("imagenet", "copy") == "hello"

    host.do("docker kill assistant")
    assert "not connected" in host.do(look).said
    host.must("docker start assistant")
    eventually(lambda: phases(host) == {"/imagenet": ("Failed", "CredentialsLost")})
    host.must(mount, stdin=keys(store))
    assert host.must(look) == "copy\nreadme\n"

    host.must(umount)
    assert "No such file or directory" in host.do(look).said
    assert host.do(umount).said.endswith("(NOT_FOUND)")
    assert host.first_process("notebook") == notebook
    host.do("docker stop assistant")
    assert "left as asked" in host.log("assistant")


def test_the_readme_shows_the_same_lines() -> None:
    shown = [line for block in blocks(README, "console") for line in lines(block, prompt="# docker ")]
    assert len(shown) == 4
    assert set(shown) <= {line.removeprefix("docker ") for line in (*RUN, *USE)}


def test_one_pod_needs_nothing_else_in_its_cluster(world: World) -> None:
    bucket = world.bucket(readme="hello")
    pod: dict[str, Any] = yaml.safe_load(blocks(PAGE, "yaml")[0])
    node = world.kubectl.within("dynvol-system").get("daemonset", "dynvol-node")
    assistant = pod["spec"]["initContainers"][0]
    assistant["image"] = node["spec"]["template"]["spec"]["containers"][0]["image"]
    pod["spec"]["containers"][0]["image"] = manifests.IMAGE  # the page's is any with a shell
    assistant["env"] = [{"name": "POD_NAME", "value": "notebook"}]  # by which the suite finds its process
    world.kubectl.apply(pod)
    world.kubectl.wait("pod/notebook", condition="condition=Ready")
    mount, look, umount = (words(world, line, bucket) for line in lines(blocks(PAGE, "console")[3], prompt="$ kubectl "))
    world.settles(lambda: world.kubectl.try_(*mount).code == 0, what="the assistant serves")
    assert world.kubectl(*look) == "readme\n"
    assert "Read-only file system" in world.kubectl.exec("notebook", "touch", "/datasets/stray", container="notebook").said
    assert not world.kubectl.exec(
        "notebook", "cp", "/datasets/imagenet/readme", "/datasets/imagenet/copy", container="notebook"
    ).code
    assert world.store.read(bucket, "copy") == "hello"
    assert world.ground.kill("mounter serve", pod="notebook") == 1
    world.settles(lambda: world.kubectl.try_(*look).out == "copy\nreadme\n", what="the next assistant mounts it again")
    world.settles(lambda: world.kubectl.try_(*umount).code == 0)
    assert "No such file or directory" in world.kubectl.try_(*look).said
    assert world.restarts("notebook") == 0
    world.kubectl(*mount)
    world.kubectl.delete("pod", "notebook")
    assert not world.ground.mounts("empty-dir/datasets"), "the assistant left something mounted"


def words(world: World, line: str, bucket: str) -> list[str]:
    """Of a line of the page, with this test's storage."""
    return shlex.split(line.replace("s3://imagenet", f"s3://{bucket}").replace(ENDPOINT, world.store.endpoint))
