"""Specs that the schemas must refuse, and the words in which they do. Held against whatever API server there is."""

from __future__ import annotations

import copy
from typing import Any

GOOD: dict[str, Any] = {
    "mountpoint": "/data",
    "selector": {},
    "s3Config": {"bucket": "my-bucket", "endpoint": "https://play.min.io"},
}


def spec(**changed: Any) -> dict[str, Any]:
    """The good one with fields replaced; None removes. `s3_x` is x of s3Config."""
    result = copy.deepcopy(GOOD)
    for key, value in changed.items():
        place, name = (result["s3Config"], key.removeprefix("s3_")) if key.startswith("s3_") else (result, key)
        place[name] = value
        if value is None:
            del place[name]
    return result


ACCEPTED: dict[str, dict[str, Any]] = {
    "the least": spec(),
    "everything": spec(
        readOnly=True,
        storageProvider="s3",
        storageProviderClass="s3-sample",
        uid=1000,
        gid=4294967294,
        umask="0022",
        selector={"matchLabels": {"app": "x"}, "matchExpressions": [{"key": "tier", "operator": "In", "values": ["a", "b"]}]},
        s3_prefix="datasets/imagenet",
        s3_region="eu-central-1",
        s3_pathStyle=False,
    ),
    "Unicode": spec(mountpoint="/daten/größe 数据"),
    "names that begin with dots": spec(mountpoint="/.cache/...x"),
    "the deepest": spec(mountpoint="/a" * 64),
    "the longest": spec(mountpoint=("/" + "x" * 255) * 4),
    "an endpoint with a port": spec(s3_endpoint="http://minio.storage.svc:9000/"),
    "an IPv6 endpoint": spec(s3_endpoint="http://[::1]:9000"),
    "no endpoint": spec(s3_endpoint=None),
    "empty strings": spec(s3_endpoint="", s3_region="", s3_prefix="", umask=""),
    "a prefix with a slash at its end": spec(s3_prefix="a/b/"),
    "an NFS server": spec(s3Config=None, nfsConfig={"server": "files.example.com", "path": "/a b/größe", "options": "softerr"}),
    "an IPv6 server with port and version": spec(
        s3Config=None, nfsConfig={"server": "[2001:db8::5]:20049", "path": "/", "version": "4.1"}
    ),
    "a PersistentVolumeClaim": spec(s3Config=None, pvcConfig={"claimName": "disk", "subPath": "users/..alice"}),
}


def nfs(**config: Any) -> dict[str, Any]:
    return spec(s3Config=None, nfsConfig={"server": "files.example.com", "path": "/exports", **config})


def pvc(**config: Any) -> dict[str, Any]:
    return spec(s3Config=None, pvcConfig={"claimName": "disk", **config})


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a server with a path": (nfs(server="files.example.com:/exports"), "must be a host name or an address"),
    "a server that is an option": (nfs(server="a,addr=b"), "must be a host name or an address"),
    "a bare IPv6 server": (nfs(server="2001:db8::5"), "must be a host name or an address"),
    "a relative export": (nfs(path="exports"), "must begin with a slash"),
    "an export that climbs": (nfs(path="/exports/../etc"), "must not contain . or .. as a name"),
    "an export with a line break": (nfs(path="/a\nb"), "must not contain control characters"),
    "NFS 3": (nfs(version="3"), "spec.nfsConfig.version"),
    "NFS with an owner": (nfs() | {"uid": 1000}, "keeps owner and mode of files itself"),
    "an NFS provider with a bucket": (spec(storageProvider="nfs"), "must be given in nfsConfig"),
    "a subPath that climbs": (pvc(subPath="a/../.."), "must not contain . or .. as a name"),
    "a subPath of the node": (pvc(subPath="/etc"), "must be relative to the volume"),
    "a subPath with a gap": (pvc(subPath="a//b"), "must not contain //"),
    "a PersistentVolumeClaim of another namespace": (pvc(claimName="other/disk"), "spec.pvcConfig.claimName"),
    "a volume and a bucket": (spec(pvcConfig={"claimName": "disk"}), "give exactly one provider configuration"),
    "a provider that is not the configuration's": (pvc() | {"storageProvider": "s3"}, "must be given in s3Config"),
    "no mountpoint": (spec(mountpoint=None), "spec.mountpoint: Required value"),
    "an empty mountpoint": (spec(mountpoint=""), "spec.mountpoint"),
    "the root": (spec(mountpoint="/"), "must not be / itself"),
    "a relative mountpoint": (spec(mountpoint="data"), "must be absolute"),
    "..": (spec(mountpoint="/a/../b"), "must not contain . or .. as a name"),
    ".. at the end": (spec(mountpoint="/a/.."), "must not contain . or .. as a name"),
    ".. at the beginning": (spec(mountpoint="/../a"), "must not contain . or .. as a name"),
    ".": (spec(mountpoint="/a/./b"), "must not contain . or .. as a name"),
    "//": (spec(mountpoint="//"), "must not contain //"),
    "// within": (spec(mountpoint="/a//b"), "must not contain //"),
    "a slash at the end": (spec(mountpoint="/a/"), "must not end with a slash"),
    "5,000 characters": (spec(mountpoint="/" + "x" * 5000), "spec.mountpoint: Too long"),
    "a long name": (spec(mountpoint="/" + "x" * 256), "at most 255 bytes"),
    "a name long in bytes": (spec(mountpoint="/" + "ä" * 130), "at most 255 bytes"),
    "a path long in bytes": (spec(mountpoint=("/" + "ä" * 120) * 5), "at most 1024 bytes"),
    "a path of many names": (spec(mountpoint="/a" * 65), "must not be more than 64 names deep"),
    "a line break": (spec(mountpoint="/a\nb"), "must not contain control characters"),
    "a null": (spec(mountpoint="/a\0b"), "must not contain control characters"),
    "text that runs backwards": (spec(mountpoint="/a\u202eb"), "must not contain control characters"),
    "a space of no width": (spec(mountpoint="/a\u200bb"), "must not contain control characters"),
    "a line separator": (spec(mountpoint="/a\u2028b"), "must not contain control characters"),
    "no selector": (spec(selector=None), "spec.selector: Required value"),
    "In without values": (
        spec(selector={"matchExpressions": [{"key": "a", "operator": "In"}]}),
        "the operators In and NotIn need values",
    ),
    "Exists with values": (
        spec(selector={"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["x"]}]}),
        "the operators Exists and DoesNotExist take no values",
    ),
    "an unknown operator": (
        spec(selector={"matchExpressions": [{"key": "a", "operator": "Has"}]}),
        'operator: Unsupported value: "Has"',
    ),
    "a label's value that cannot be": (spec(selector={"matchLabels": {"a": "b c"}}), "spec.selector.matchLabels"),
    "no configuration": (spec(s3Config=None), "give exactly one provider configuration"),
    "a provider without its configuration": (
        spec(s3Config=None, storageProvider="s3"),
        "storageProvider is s3, so the configuration must be given in s3Config",
    ),
    "an unknown provider": (spec(storageProvider="floppy"), "its configuration must be given in config"),
    "a provider of no name": (spec(storageProvider="Floppy!"), "spec.storageProvider"),
    "two configurations": (spec(rcloneConfig={"type": "webdav"}), "give exactly one provider configuration"),
    "a configuration of no one": (spec(s3Config=None, config={"a": "b"}), "give storageProvider too"),
    "an rclone path with dots": (spec(s3Config=None, rcloneConfig={"type": "sftp", "path": "a/../b"}), "as a name"),
    "another's configuration": (
        spec(storageProvider="rclone"),
        "storageProvider is rclone, so the configuration must be given in rcloneConfig",
    ),
    "a class that cannot be": (spec(storageProviderClass="A_b"), "spec.storageProviderClass"),
    "a class with a path": (spec(storageProviderClass="../x"), "spec.storageProviderClass"),
    "a Secret of no name": (spec(credentialsSecretRef={}), "spec.credentialsSecretRef.name: Required value"),
    "a Secret of another namespace": (spec(credentialsSecretRef={"name": "other/keys"}), "spec.credentialsSecretRef.name"),
    "no bucket": (spec(s3_bucket=None), "spec.s3Config.bucket: Required value"),
    "a short bucket": (spec(s3_bucket="ab"), "spec.s3Config.bucket"),
    "a bucket in capitals": (spec(s3_bucket="My-Bucket"), "is no bucket name: use lower-case letters"),
    "a bucket with an option": (spec(s3_bucket="a,allow_root"), "is no bucket name: use lower-case letters"),
    "a bucket that looks like an option": (spec(s3_bucket="-o-x"), "is no bucket name: use lower-case letters"),
    "a bucket with a path": (spec(s3_bucket="a/b/c"), "is no bucket name: use lower-case letters"),
    "a bucket with two dots": (spec(s3_bucket="a..b"), "two dots must not follow each other"),
    "a bucket that is an address": (spec(s3_bucket="192.168.1.1"), "it has the form of an IP address"),
    "a reserved bucket": (spec(s3_bucket="xn--abc"), "is reserved"),
    "an endpoint without scheme": (spec(s3_endpoint="play.min.io"), "must be a URL that begins with https:// or http://"),
    "an endpoint of another scheme": (spec(s3_endpoint="file:///etc"), "must be a URL that begins with https:// or http://"),
    "an endpoint with a password": (spec(s3_endpoint="https://a:b@host"), "without user, path, query or fragment"),
    "an endpoint with a query": (spec(s3_endpoint="https://host/?a=b"), "without user, path, query or fragment"),
    "an endpoint with a path": (spec(s3_endpoint="https://host/a"), "without user, path, query or fragment"),
    "an endpoint with an empty label": (spec(s3_endpoint="https://a..b"), "without user, path, query or fragment"),
    "an endpoint with a long label": (spec(s3_endpoint=f"https://{'a' * 64}.b"), "without user, path, query or fragment"),
    "an endpoint with an option": (spec(s3_endpoint="https://host,allow_root"), "without user, path, query or fragment"),
    "a prefix that is absolute": (spec(s3_prefix="/a"), "must not begin with a slash"),
    "a prefix with ..": (spec(s3_prefix="a/../b"), "must not contain . or .. as a name"),
    "a prefix with a line break": (spec(s3_prefix="a\nb"), "must not contain control characters"),
    "a prefix with a backslash": (spec(s3_prefix="a\\b"), "must not contain a backslash"),
    "a region with a blank": (spec(s3_region="eu west"), "is no region"),
    "a negative uid": (spec(uid=-1), "spec.uid"),
    "a uid that Linux reserves": (spec(uid=4294967295), "spec.uid"),
    "a umask in decimal": (spec(umask="0098"), "octal digits"),
    "a umask that YAML took for a number": (spec(umask=18), "spec.umask"),
    "a string for a boolean": (spec(readOnly="yes"), "spec.readOnly"),
}

KEY = "dynamicvolume.csi.cloudnative101.net"
CREDENTIALS = {f"{KEY}/storage-provider-secret-name": "s", f"{KEY}/storage-provider-secret-namespace": "n"}

CLASSES_REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no provider": ({"parameters": CREDENTIALS}, "spec.provider: Required value"),
    "an unknown provider": ({"provider": "Floppy!", "parameters": CREDENTIALS}, "spec.provider"),
    "half a Secret": (
        {"provider": "s3", "parameters": {f"{KEY}/storage-provider-secret-name": "s"}},
        "a Secret has a name and a namespace",
    ),
    "a number for a parameter": ({"provider": "s3", "parameters": {**CREDENTIALS, f"{KEY}/mount-cpu-limit": 1}}, "mount-cpu-limit"),
}
