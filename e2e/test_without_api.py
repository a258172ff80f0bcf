"""The API server is away: what is mounted works, the node process says how it is, and afterwards all goes on."""

from __future__ import annotations

from e2e import manifests
from e2e.conftest import World
from e2e.manifests import ROOT


def node_process(world: World) -> tuple[str, str]:
    """The name of the node process' pod, and the address of its port."""
    (pod,) = world.kubectl.within("dynvol-system").list("pods", "--selector=app.kubernetes.io/component=node")
    return pod["metadata"]["name"], f"http://{pod['status']['podIP']}:9810"


def test_mounts_work_on_and_health_tells_the_truth(world: World) -> None:
    (pod,) = world.deploy()
    bucket = world.bucket(readme="hello")
    world.kubectl.apply(world.claim("data", bucket))
    world.ready("data")
    uid, (_, port) = world.kubectl.get("pod", pod)["metadata"]["uid"], node_process(world)
    (mount_pod,) = world.mount_pods()
    assert world.ground.fetch(f"{port}/readyz")[0] == 200

    with world.ground.without_api():
        assert world.ground.run_in(uid, "cat", f"{ROOT}/data/readme") == "hello"
        world.settles(lambda: world.ground.fetch(f"{port}/readyz")[0] == 503, within=30, what="not ready")
        assert "api-server" in world.ground.fetch(f"{port}/readyz")[1]
        assert world.ground.fetch(f"{port}/healthz")[0] == 200, "a restart would not bring the API server back"
        # A client that dies now comes back as well: its mounter needs no API server for that.
        assert world.ground.kill("s3fs", pod=mount_pod)
        world.settles(lambda: world.ground.run_in(uid, "cat", f"{ROOT}/data/readme") == "hello", what="restored without the API")
        assert world.ground.run_in(uid, "sh", "-c", f"echo new > {ROOT}/data/written && echo done") == "done\n"

    world.settles(lambda: world.ground.fetch(f"{port}/readyz")[0] == 200, within=60, what="ready again")
    world.settles(lambda: world.store.read(bucket, "written") == "new\n")
    world.kubectl.delete("dvc", "data")
    assert world.misses(pod, "/data")
    assert world.restarts(pod) == 0


def test_a_node_process_that_starts_without_an_api_server_waits_for_it(world: World) -> None:
    (pod,) = world.deploy()
    world.kubectl.apply(world.claim("data", world.bucket(readme="hello")))
    world.ready("data")
    name, port = node_process(world)
    with world.ground.without_api():
        assert world.ground.kill("dynvol node", pod=name)
        world.settles(lambda: world.ground.fetch(f"{port}/healthz")[0] == 200, within=60, what="alive without the API")
        assert world.ground.fetch(f"{port}/readyz")[0] == 503
    world.settles(lambda: world.ground.fetch(f"{port}/readyz")[0] == 200, within=90, what="ready again")
    world.kubectl.apply(world.claim("more", world.bucket("more", readme="more"), mountpoint="/more"))
    world.ready("more")
    assert world.read(pod, "/more/readme") == "more"
    assert manifests.ROOT in world.kubectl.exec(pod, "cat", "/proc/mounts").out
