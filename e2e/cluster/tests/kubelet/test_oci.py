from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from e2e.cluster.kubelet import oci
from e2e.cluster.kubelet.oci import BindMount, ContainerSpec, Limits, Propagation, User


def spec(**changes: Any) -> ContainerSpec:
    fields: dict[str, Any] = {
        "arguments": ["true"],
        "environment": [],
        "working_directory": "/",
        "hostname": "h",
        "user": User(),
        "mounts": [],
        "cgroup": "/group",
    }
    return ContainerSpec(**{**fields, **changes})


def kinds(config: dict[str, Any]) -> set[str]:
    return {namespace["type"] for namespace in config["linux"]["namespaces"]}


def test_a_container_has_no_network_namespace_of_its_own() -> None:
    assert kinds(oci.config(spec())) == {"mount", "uts", "pid", "ipc"}


def test_host_pid_and_ipc_are_the_nodes() -> None:
    assert kinds(oci.config(spec(host_pid=True, host_ipc=True))) == {"mount", "uts"}


@pytest.mark.parametrize(
    ("propagation", "option", "root"),
    [
        (Propagation.NONE, "rprivate", "rslave"),
        (Propagation.HOST_TO_CONTAINER, "rslave", "rslave"),
        (Propagation.BIDIRECTIONAL, "rshared", "rshared"),
    ],
)
def test_propagation_becomes_an_option_of_the_mount_and_of_the_root(propagation: Propagation, option: str, root: str) -> None:
    config = oci.config(spec(mounts=[BindMount(Path("/a"), "/b", propagation=propagation)]))
    assert config["mounts"][-1]["options"] == ["rbind", option, "rw"]
    assert config["linux"]["rootfsPropagation"] == root


def test_parents_are_mounted_before_what_lies_below_them() -> None:
    mounts = [BindMount(Path("/x"), "/a/b/c"), BindMount(Path("/y"), "/a"), BindMount(Path("/z"), "/a/b")]
    assert [mount.target for mount in oci.in_order(mounts)] == ["/a", "/a/b", "/a/b/c"]


def test_limits_become_a_quota_and_a_byte_count() -> None:
    resources = oci.config(spec(limits=Limits(10, 250, 50 << 20)))["linux"]["resources"]
    assert resources["cpu"] == {"shares": 10, "quota": 25_000, "period": 100_000}
    assert resources["memory"] == {"limit": 50 << 20}


def test_a_tiny_quota_is_the_least_that_the_kernel_takes() -> None:
    assert oci.config(spec(limits=Limits(1, 1)))["linux"]["resources"]["cpu"]["quota"] == 1000


def test_without_cgroups_no_limit_is_claimed() -> None:
    linux = oci.config(spec(cgroup="", limits=Limits(10, 10, 10)))["linux"]
    assert "cgroupsPath" not in linux
    assert set(linux["resources"]) == {"devices"}


def test_only_the_privileged_get_devices_and_unmasked_paths() -> None:
    plain, privileged = oci.config(spec())["linux"], oci.config(spec(privileged=True))["linux"]
    assert "devices" not in plain and plain["maskedPaths"]
    assert "maskedPaths" not in privileged
    assert "/dev/null" in {device["path"] for device in privileged["devices"]}
    assert privileged["resources"]["devices"] == [{"allow": True, "access": "rwm"}]


def test_capabilities_are_the_defaults_less_the_dropped_plus_the_added() -> None:
    names = set(oci.capabilities(spec(drop_capabilities=["ALL"], add_capabilities=["NET_BIND_SERVICE"])))
    assert names <= {"NET_BIND_SERVICE"}
    assert set(oci.capabilities(spec())) <= set(oci.DEFAULT_CAPABILITIES)
    assert oci.capabilities(spec(privileged=True)) == oci.grantable()
