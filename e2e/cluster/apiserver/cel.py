"""CEL as Kubernetes speaks it: the language from the library, Kubernetes' functions from here.

Used by the rules of custom resources, the match conditions of webhooks, and admission policies. Expressions are checked when they
are compiled, against variables of unknown type: a mistake in a field's name shows when the rule runs. Costs are not counted.
"""

from __future__ import annotations

import datetime
import functools
import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import SplitResult, urlsplit

from cel_expr_python import cel
from cel_expr_python.ext import ext_bindings, ext_encoders, ext_math, ext_optional, ext_strings
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from e2e.cluster.apiserver.shape import Shape
from e2e.cluster.apiserver.status import Json

_RESERVED = frozenset(
    ("true", "false", "null", "in", "as", "break", "const", "continue", "else", "for", "function", "if")
    + ("import", "let", "loop", "package", "namespace", "return", "var", "void", "while")
)
_NO_IDENTIFIER = re.compile(r"[./-]|__")
_ESCAPES = {"__": "__underscores__", ".": "__dot__", "-": "__dash__", "/": "__slash__"}
_QUANTITY = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([numkMGTPE]|[KMGTPE]i|[eE][+-]?\d+)?")

T, INT, DYN, BOOL, TEXTS = cel.Type.STRING, cel.Type.INT, cel.Type.DYN, cel.Type.BOOL, cel.Type.List(cel.Type.STRING)


class CompileError(Exception):
    """The expression is no CEL, or names what is not there."""


class EvaluationError(Exception):
    """The expression could not be worked out on these values."""


class Program:
    """A compiled expression. `uses` tells whether it names a variable, as transition rules name `oldSelf`."""

    __slots__ = ("_environment", "_expression", "source")

    def __init__(self, source: str, variables: tuple[str, ...]) -> None:
        self.source = source
        self._environment = _environment(variables)
        try:
            self._expression = self._environment.compile(source)
        except RuntimeError as error:
            text = str(error).removeprefix("INVALID_ARGUMENT: ").removesuffix(" [INVALID_ARGUMENT]")
            raise CompileError(f"compilation failed: {text}") from error

    def uses(self, variable: str) -> bool:
        return re.search(rf"\b{variable}\b", self.source) is not None

    def evaluate(self, values: Mapping[str, Any]) -> Any:
        """The result as Python has it."""
        result = self._expression.eval(self._environment.Activation(values))
        if result.type() == cel.Type.ERROR:
            raise EvaluationError(_error_text(str(result.value())))
        return result.plain_value()


@functools.lru_cache(maxsize=2048)
def compiled(source: str, variables: tuple[str, ...] = ("self", "oldSelf")) -> Program:
    return Program(source, variables)


@functools.lru_cache
def _environment(variables: tuple[str, ...]) -> cel.Env:
    standard = [
        ext_strings.ExtStrings(),
        ext_math.ExtMath(),
        ext_encoders.ExtEncoders(),
        ext_bindings.ExtBindings(),
        ext_optional.ExtOptional(),
    ]
    return cel.NewEnv(
        variables={name: DYN for name in variables}, extensions=[*standard, cel.CelExtension("kubernetes", _functions())]
    )


def _error_text(text: str) -> str:
    match = re.search(r'Key not found in map : "(.*)"', text)
    return f"no such key: {match[1]}" if match else text


def matches(text: str, pattern: str) -> bool:
    """Whether the RE2 pattern is found in the text: the flavour that schemas are written for."""
    return bool(compiled("text.matches(pattern)", ("text", "pattern")).evaluate({"text": text, "pattern": pattern}))


def value_of(value: Json, shape: Shape) -> Any:
    """A JSON value as an expression sees it: field names escaped, times and durations of their own type."""
    match value:
        case dict():
            declared = shape.fields
            return {(escaped(k) if k in declared else k): value_of(v, shape.field(k)) for k, v in value.items()}
        case list():
            items = shape.items
            return [value_of(item, items) for item in value]
        case int() if shape.type == "number" and not isinstance(value, bool):
            return float(value)
        case str() if shape.schema.get("format") in ("date-time", "date"):
            return _moment(value)
        case str() if shape.schema.get("format") == "duration":
            return _duration(value)
    return value


def escaped(name: str) -> str:
    """A field's name as an identifier: `__dash__` and the like, and `__in__` for CEL's own words."""
    if name in _RESERVED:
        return f"__{name}__"
    return re.sub(_NO_IDENTIFIER, lambda match: _ESCAPES[match[0]], name)


def _moment(text: str) -> Any:
    """A time, in the one form in which the library takes it."""
    try:
        moment = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return text
    value = Timestamp()
    value.FromDatetime(moment)
    return value


def _duration(text: str) -> Any:
    units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|us|µs|ns|h|m|s)", text)
    if not parts:
        return text
    value = Duration()
    value.FromTimedelta(datetime.timedelta(seconds=sum(float(number) * units[unit] for number, unit in parts)))
    return value


def _functions() -> list[cel.FunctionDecl]:
    """Kubernetes' own library. URLs, addresses and quantities stay text here, and their accessors are functions of text."""
    return [
        _member("find", T, (T, T), lambda text, pattern: _found(text, pattern, 1)[0]),
        cel.FunctionDecl(
            "findAll",
            [
                _overload("findAll", TEXTS, (T, T), lambda text, pattern: _found(text, pattern, -1)),
                _overload("findAll", TEXTS, (T, T, INT), _found),
            ],
        ),
        _member("isSorted", BOOL, (cel.Type.LIST,), lambda items: all(a <= b for a, b in zip(items, items[1:], strict=False))),
        _member("sum", DYN, (cel.Type.LIST,), sum),
        _member("min", DYN, (cel.Type.LIST,), min),
        _member("max", DYN, (cel.Type.LIST,), max),
        _plain("isURL", BOOL, _is_url),
        _plain("url", T, _valid(_is_url, "URL parse error during conversion from string")),
        _member("getScheme", T, (T,), lambda text: urlsplit(text).scheme),
        _member("getHost", T, (T,), lambda text: urlsplit(text).netloc.rpartition("@")[2]),
        _member("getHostname", T, (T,), lambda text: _bracketless(urlsplit(text))),
        _member("getPort", T, (T,), lambda text: str(urlsplit(text).port or "")),
        _member("getEscapedPath", T, (T,), lambda text: urlsplit(text).path),
        _plain("isIP", BOOL, _is_address),
        _plain("ip", T, _valid(_is_address, "IP Address parse error during conversion from string")),
        _member("family", INT, (T,), lambda text: ipaddress.ip_address(text).version),
        _plain("isCIDR", BOOL, _is_network),
        _plain("isQuantity", BOOL, lambda text: _QUANTITY.fullmatch(text) is not None),
    ]


def _member(name: str, result: cel.Type, parameters: Sequence[cel.Type], function: Callable[..., Any]) -> cel.FunctionDecl:
    return cel.FunctionDecl(name, [_overload(name, result, parameters, function)])


def _overload(name: str, result: cel.Type, parameters: Sequence[cel.Type], function: Callable[..., Any]) -> cel.Overload:
    return cel.Overload(
        f"k8s_{name}_{len(parameters)}", return_type=result, parameters=list(parameters), is_member=True, impl=function
    )


def _plain(name: str, result: cel.Type, function: Callable[[str], Any]) -> cel.FunctionDecl:
    overload = cel.Overload(f"k8s_{name}", return_type=result, parameters=[T], is_member=False, impl=function)
    return cel.FunctionDecl(name, [overload])


def _found(text: str, pattern: str, limit: int) -> list[str]:
    found = [match[0] for match in re.finditer(pattern, text)]
    return (found if limit < 0 else found[:limit]) or ([""] if limit == 1 else [])


def _valid(check: Callable[[str], bool], problem: str) -> Callable[[str], str]:
    def checked(text: str) -> str:
        if not check(text):
            raise ValueError(f"{problem}: {text}")
        return text

    return checked


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return bool(parts.scheme and (parts.netloc or parts.path)) or text.startswith("/")
    except ValueError:
        return False


def _bracketless(parts: SplitResult) -> str:
    return parts.hostname or ""


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return "/" in text
