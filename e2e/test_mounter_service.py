"""The mounter on its own: the commands and manifests of its page, run as they stand there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.dockerlines import Machine, blocks, lines, machine
from e2e.grounds.ground import ObjectStore
from e2e.grounds.session import s3_server
from e2e.kubectl import eventually

PAGE = Path(__file__).resolve().parents[1] / "dynvol" / "service" / "README.md"
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
