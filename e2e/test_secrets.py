"""While dynvol lives its life, its key is where it must be, and nowhere else.

Where it must be: in Secrets; in the files, in memory, from which a mount pod and its client read it; and in the memory of those who
carry it from the one to the other. Everything else that can be looked at is looked through: all objects of the API with their
events, annotations and managed fields, all logs, all metrics, and on the nodes all command lines, environments and files on
disk, and the memory of every program that has no business with it.
"""

from __future__ import annotations

import json
import secrets

from e2e import manifests
from e2e.conftest import World
from e2e.manifests import GROUP

CARRIERS = ("dynvol node", "dynvol mounter", "s3fs", "rclone", "kubelet")
"""They read the key and hand it on. Kubelet also makes the files from which mount pods read it."""


def found(world: World, *texts: str) -> set[str]:
    """The places where one of these stands and should not. Logs are among the nodes' files."""
    api, metrics = everything_in_the_api(world), all_metrics(world)
    on_nodes = {place for text in texts for place in world.ground.findings(text)}
    return {
        *(f"object {name}" for name, written in api.items() if any(text in written for text in texts)),
        *(f"metrics of {pod}" for pod, page in metrics.items() if any(text in page for text in texts)),
        *(p for p in on_nodes if not (p.startswith("memory of") and any(name in p for name in CARRIERS))),
    }


def everything_in_the_api(world: World) -> dict[str, str]:
    """Each object but Secrets, by kind and name, as JSON."""
    kinds = [kind for kind in world.kubectl("api-resources", "--verbs=list", "--output=name").split() if kind != "secrets"]
    objects = world.kubectl.list(",".join(kinds), "--all-namespaces", "--show-managed-fields")
    assert {"Event", "Pod", "StorageProviderClass", "Lease"} <= {o["kind"] for o in objects}
    return {f"{o['kind']} {o['metadata'].get('namespace', '')}/{o['metadata']['name']}": json.dumps(o) for o in objects}


def all_metrics(world: World) -> dict[str, str]:
    """What each process tells whoever asks, by pod."""
    system = world.kubectl.within("dynvol-system")
    pages = {}
    for component, port in (("node", 9810), ("webhook", 9811)):
        for pod in system.list("pods", f"--selector=app.kubernetes.io/component={component}"):
            url = f"http://{pod['status']['podIP']}:{port}"
            program = (
                f"import urllib.request as u; print(*(u.urlopen('{url}' + p).read() for p in ('/metrics', '/readyz?verbose')))"
            )
            done = system.exec(pod["metadata"]["name"], "python3", "-c", program)
            assert "dynvol_build_info" in done.out, done.said
            pages[pod["metadata"]["name"]] = done.out
    return pages


def credential_files(world: World) -> list[str]:
    """Mode, owner and file system of each file that the clients of this world read."""
    system = world.kubectl.within("dynvol-system")
    look = ("find", "/run/dynvol/secrets", "-type", "f", "-printf", "%m %u %F\\n")
    return [line for pod in world.mount_pods() for line in system.exec(pod, *look).out.splitlines()]


def test_the_key_is_found_nowhere_but_where_it_must_be(world: World) -> None:
    """A life: a key that is refused, the right one, crashes of everything that knows it, an unmount, the end."""
    wrong = f"wrong-{secrets.token_hex(12)}"
    other = f"{world.provider_class}-rclone"
    world.kubectl.apply(
        manifests.secret("s3", namespace=world.namespace, access=world.store.access, key=wrong),
        manifests.provider_class(
            other, secret="s3", secret_namespace=world.namespace, mounter="rclone", allowed_claim_secrets="own"
        ),
        manifests.secret("own", namespace=world.namespace, access=world.store.access, key=wrong),
    )
    annotations = {
        f"{GROUP}/storage-provider-class": f"{world.provider_class},{other}",
        f"{GROUP}/volume-mount-path-root": f"{manifests.ROOT},/more",
    }
    (pod,) = world.deploy(annotations=annotations)
    bucket = world.bucket(readme="hello")
    claims = {"one": world.provider_class, "two": world.provider_class, "three": other, "four": other}
    given = [world.claim(name, bucket, mountpoint=f"/{name}", storageProviderClass=c) for name, c in claims.items()]
    given[-1]["spec"]["credentialsSecretRef"] = {"name": "own"}
    world.kubectl.apply(*given)
    for name in claims:
        world.settles(lambda name=name: world.condition(name, "Ready")["reason"] == "AccessDenied")  # type: ignore[misc]

    # A node process that starts anew looks at Secrets at once.
    for name in ("s3", "own"):
        world.kubectl.apply(manifests.secret(name, namespace=world.namespace, access=world.store.access, key=world.store.key))
    assert world.ground.kill("dynvol node")
    for name in claims:
        world.ready(name, timeout=90)
    for mount_pod in world.mount_pods():
        assert world.ground.kill("dynvol mounter", pod=mount_pod)
    world.settles(lambda: world.sees(pod, "/one/readme", "hello"))
    world.settles(lambda: credential_files(world) == ["600 root tmpfs"] * 4)
    assert not found(world, world.store.key, wrong)

    world.kubectl.delete("dvc", "two")
    world.settles(lambda: credential_files(world) == ["600 root tmpfs"] * 3)
    world.kubectl.delete("dvc", "--all")
    world.settles(lambda: not world.mount_pods())
    assert not found(world, world.store.key, wrong)


def test_the_search_finds_what_is_planted(world: World) -> None:
    """Else the test above would prove nothing."""
    planted = f"planted-{secrets.token_hex(12)}"
    spec = manifests.pod_spec(command=["sh", "-c", 'echo "$KEY"; printf %s "$KEY" > /tmp/file; exec sleep infinity'])
    spec["containers"][0]["env"] = [{"name": "KEY", "value": planted}]
    world.kubectl.apply(manifests.pod("careless", spec=spec))
    world.kubectl.wait("pod/careless", condition="condition=Ready")
    world.settles(lambda: planted in world.kubectl("logs", "careless"))
    places = found(world, planted)
    assert f"object Pod {world.namespace}/careless" in places
    assert "environment of sleep infinity" in places
    assert "memory of sleep infinity" in places
    assert any(place.startswith("file ") and place.endswith(".log") for place in places)


def test_no_process_that_knows_a_key_leaves_its_memory_to_disk(world: World) -> None:
    """Neither in a core file nor, where cores go to a program, to that."""
    world.deploy()
    world.kubectl.apply(world.claim("data", world.bucket(readme="hello")))
    world.ready("data")
    system = world.kubectl.within("dynvol-system")
    look = 'for p in /proc/[0-9]*; do echo "$(tr "\\0" " " < $p/cmdline)|$(grep core $p/limits)|$(cat $p/coredump_filter)"; done'
    components = ("node", "webhook", "mount-pod")
    selector = f"--selector=app.kubernetes.io/component in ({','.join(components)})"
    seen = []
    for pod in (p["metadata"]["name"] for p in system.list("pods", selector)):
        lines = [line.split("|") for line in system.exec(pod, "sh", "-c", look).out.splitlines()]
        ours = [line for line in lines if "dynvol " in line[0] or line[0].startswith("s3fs")]
        assert ours
        for command, limit, memory in ours:
            assert limit.split()[4:6] == ["0", "0"], command
            assert int(memory, 16) == 0, command
            seen.append(command)
    assert any(command.startswith("s3fs") for command in seen)
