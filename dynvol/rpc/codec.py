"""What comes is a message of the type that the method takes, or the caller's mistake.

betterproto2 raises whatever it stumbles over, and does not compare what came with what a field is declared to be: a number in place
of a string it hands on as a number. A handler relies on the declared types, so they are looked at here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import betterproto2
from grpclib.encoding.base import CodecBase

from .errors import MessageMalformed

_TEXTUAL: Final[dict[str, type]] = {
    betterproto2.TYPE_STRING: str,
    betterproto2.TYPE_BYTES: bytes,
    betterproto2.TYPE_MESSAGE: betterproto2.Message,
}


class StrictCodec(CodecBase):
    """Another codec, with every error on the way in as MessageMalformed."""

    __content_subtype__ = "proto"

    def __init__(self, codec: CodecBase) -> None:
        self._codec = codec

    def encode(self, message: Any, message_type: Any) -> bytes:
        return self._codec.encode(message, message_type)

    def decode(self, data: bytes, message_type: Any) -> Any:
        try:
            message = self._codec.decode(data, message_type)
            _check(message)
        except Exception as error:
            raise MessageMalformed(f"the request is no {message_type.__name__}: {error or type(error).__name__}") from error
        return message


def _check(message: betterproto2.Message) -> None:
    """Raises TypeError."""
    fields = message._betterproto.meta_by_field_name  # type: ignore[arg-type]  # a class property of the library's own making
    for name, field in fields.items():
        given = getattr(message, name)
        if field.map_meta is not None:
            _check_values(given.keys(), field.map_meta[0], name)
            _check_values(given.values(), field.map_meta[1], name)
        elif field.repeated:
            _check_values(given, field, name)
        elif given is not None:
            _check_values((given,), field, name)


def _check_values(values: Iterable[Any], field: betterproto2.FieldMetadata, name: str) -> None:
    expected = _TEXTUAL.get(field.proto_type, int | float)
    for value in values:
        # What a wrapper type stands for is a plain value here.
        if field.unwrap is None and not isinstance(value, expected):
            raise TypeError(f"{name} is of another type")
        if isinstance(value, betterproto2.Message):
            _check(value)
