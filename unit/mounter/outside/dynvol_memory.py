"""A provider from outside: storage in memory, which goes with its mount. All that a provider must say, in its smallest form."""

from __future__ import annotations

from collections.abc import Mapping

from dynvol.mount.providers.contract import Answer, Client, Command, Credentials, Finding, Place, Silence, Target


class Memory:
    secret_keys = ()
    optional_keys = ()
    serves_anyone = True
    sends_secrets = False
    in_kernel = False

    def validate(self, parameters: Mapping[str, str]) -> tuple[str, ...]:
        return () if parameters.get("greeting") else ("greeting is missing",)

    def validate_class(self, parameters: Mapping[str, str]) -> tuple[str, ...]:
        return ()

    def target(self, parameters: Mapping[str, str]) -> Target:
        return Target(endpoint="", bucket="")

    def unflushed(self, parameters: Mapping[str, str], *, cache: str) -> int:
        return 0

    def client(self, parameters: Mapping[str, str], *, read_only: bool, credentials: Credentials) -> Client:
        return _Served()


class _Served:
    checks_storage = True

    def command(self, place: Place) -> Command:
        argv = ("rclone", "mount", ":memory:", place.mountpoint, f"--devname={place.source}", f"--cache-dir={place.cache}")
        return Command(argv, {"PATH": "/usr/bin:/bin", "HOME": place.secrets}, {"rclone.conf": b""})

    def check(self, place: Place, *, now: float) -> None:
        return None

    def judge(self, answer: Answer | Silence) -> Finding | None:
        return None

    def explain(self, output: str) -> Finding | None:
        return None
