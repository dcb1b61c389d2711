# SPDX-License-Identifier: Apache-2.0
"""One value, from YAML or from the command line, to the declared type of its key."""

import math
import reprlib
import types
import typing
from typing import Any

from arguments.declare import KeySpec
from utils.device import DEVICE_NAME

MAX_LINE = 1000
TRUE_WORDS, FALSE_WORDS, NONE_WORDS = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}, {"none", "null", "~"}


class Unexpected(Exception):
    """A value that a key does not take; the message completes "expected ..."."""


def show(value: object) -> str:
    """A short repr of any value, safe for huge, deep and self-containing ones."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 80
    short.maxlevel = 2
    try:
        return short.repr(value)
    except Exception:  # a number with too many digits to print, or a tag's object that cannot be shown
        return f"<{type(value).__name__}>"


def one_line(text: str) -> str:
    """The text without what a terminal would not print as it stands; the middle of a very long one is left out."""
    printed = "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
    return printed if len(printed) <= MAX_LINE else f"{printed[: MAX_LINE // 2]} ... {printed[-MAX_LINE // 2 :]}"


def is_pair(kind: Any) -> bool:
    """Whether a declared type is a tuple of fixed length."""
    return typing.get_origin(kind) is tuple and Ellipsis not in typing.get_args(kind)


def is_tuple(kind: Any) -> bool:
    """Whether a declared type is any tuple."""
    return typing.get_origin(kind) is tuple


def expectation(kind: Any, spec: KeySpec) -> str:
    """What a key takes, in words: type, bounds, unit."""
    optional, kind = _optional(kind)
    if spec.choices:
        words = "one of " + ", ".join(spec.choices) + (f", or {spec.others[0]}" if spec.others else "")
    elif spec.device:
        words = "auto, cpu, cuda or cuda:N"
    elif is_tuple(kind):
        item = {float: "number", int: "whole number"}[typing.get_args(kind)[0]]
        words = f"two {item}s" if is_pair(kind) else f"a list of {item}s"
        words += " [lo, hi] with lo <= hi" if spec.ordered else ""
    else:
        words = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}[kind]
    bounds = f"{' each' if is_tuple(kind) else ''} {spec.bounds()}" if spec.bounds() else ""
    return words + bounds + (f" ({spec.unit})" if spec.unit else "") + (", or none" if optional else "")


def in_words(default: object) -> str:
    """A default as `--help` and docs/configuration.md tell it."""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return " ".join(f"{number:g}" for number in default) or "none"
    return "none" if default is None else str(default) or "empty"


def coerce(value: object, kind: Any, spec: KeySpec) -> Any:
    """`value` as the declared type. Raises Unexpected, whose message completes "expected ..."."""
    optional, kind = _optional(kind)
    wanted = expectation(kind | None if optional else kind, spec)
    if optional and (value is None or (isinstance(value, str) and value.strip().lower() in NONE_WORDS)):
        return None
    if is_tuple(kind):
        return _tuple(value, kind, spec, wanted)
    if kind is bool:
        return _boolean(value, wanted)
    if kind is str:
        return _text(value, spec, wanted)
    return _number(value, kind, spec, wanted)


def _optional(kind: Any) -> tuple[bool, Any]:
    """(True, T) for T | None, else (False, T)."""
    if isinstance(kind, types.UnionType):
        return True, next(part for part in typing.get_args(kind) if part is not type(None))
    return False, kind


def _tuple(value: object, kind: Any, spec: KeySpec, wanted: str) -> tuple[Any, ...]:
    item = typing.get_args(kind)[0]
    if not isinstance(value, (list, tuple)) or len(value) > 10_000 or (is_pair(kind) and len(value) != 2):
        raise Unexpected(wanted)
    numbers = tuple(_number(number, item, spec, wanted) for number in value)
    if spec.ordered and numbers[0] > numbers[1]:
        raise Unexpected(f"{wanted}; this range is impossible, are the two exchanged?")
    return numbers


def _boolean(value: object, wanted: str) -> bool:
    word = str(value).strip().lower() if isinstance(value, (bool, int, str)) and value not in ("",) else ""
    if word in TRUE_WORDS:
        return True
    if word in FALSE_WORDS:
        return False
    raise Unexpected(wanted)


def _text(value: object, spec: KeySpec, wanted: str) -> str:
    if {"on", "off"} <= set(spec.choices) and str(value).lower() in TRUE_WORDS | FALSE_WORDS:
        value = "on" if _boolean(value, wanted) else "off"  # YAML 1.1 reads on and off as true and false
    if not isinstance(value, str):
        raise Unexpected(f"{wanted}; put it in quotes" if value is not None and not spec.choices else wanted)
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise Unexpected(f"{wanted} in UTF-8") from None
    if spec.others and spec.others[1].fullmatch(value):
        return value
    if (spec.choices and value not in spec.choices) or (spec.device and not DEVICE_NAME.fullmatch(value)):
        raise Unexpected(wanted)
    return value


def _number(value: object, kind: type, spec: KeySpec, wanted: str) -> float | int:
    """int or float; "1e-4", which YAML 1.1 reads as text, is a number too; true and false are not."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise Unexpected(wanted)
    try:
        number = _whole(value) if kind is int else float(value)
        is_finite = math.isfinite(number)
    except (ValueError, OverflowError):  # a whole number of hundreds of digits fits into no float
        raise Unexpected(wanted) from None
    if not is_finite or not spec.allows(number):
        raise Unexpected(wanted)
    return number


def _whole(value: int | float | str) -> int:
    """A whole number; ValueError where there is a fraction."""
    if isinstance(value, float) and not value.is_integer():
        raise ValueError(value)
    if isinstance(value, int) and value.bit_length() > 64:
        raise ValueError("beyond every bound")
    return int(value)
