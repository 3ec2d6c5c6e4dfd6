"""Settings that a method declares once: default, bounds and help, read from the command line and shown."""

from __future__ import annotations

import dataclasses
import difflib
import math
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, get_args, get_origin

from hashcli.errors import UsageError

S = TypeVar("S")
Value = bool | int | float | str


@dataclass(frozen=True)
class Param:
    """Help, bounds and choices of one setting: `Annotated[float, Param("weight of ...", ge=0)]`."""

    help: str
    ge: float | None = None
    le: float | None = None
    choices: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Setting:
    """One declared setting, as `hashcli methods NAME` shows it."""

    name: str
    type: type
    default: Value
    param: Param

    @property
    def bounds(self) -> str:
        """The values allowed, in words; empty when any will do."""
        if self.type is bool:
            return "true or false"
        if self.param.choices:
            return " | ".join(self.param.choices)
        low, high = self.param.ge, self.param.le
        if low is not None and high is not None:
            return f"{low:g} to {high:g}"
        if low is not None:
            return f"at least {low:g}"
        return "" if high is None else f"at most {high:g}"


def declared(cls: type) -> list[Setting]:
    """The settings of a frozen dataclass whose fields are all `Annotated[type, Param(...)] = default`.

    Raises TypeError for a field that is declared otherwise: that is the plugin author's mistake.
    """
    hints = typing.get_type_hints(cls, include_extras=True)
    found = []
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        param = next((a for a in get_args(hint)[1:] if isinstance(a, Param)), None)
        if get_origin(hint) is not Annotated or param is None or field.default is dataclasses.MISSING:
            raise TypeError(f"{cls.__name__}.{field.name} must be Annotated[type, Param(...)] with a default")
        found.append(Setting(field.name, get_args(hint)[0], field.default, param))
    return found


def parse(cls: type[S], assignments: Iterable[str], owner: str) -> S:
    """Make `cls` from command-line words `name=value`; names left out keep their defaults.

    Raises UsageError that names the word, the allowed values and near names.
    """
    known = {s.name: s for s in declared(cls)}
    values: dict[str, Value] = {}
    for word in assignments:
        name, equals, text = word.partition("=")
        name = name.strip()
        if not equals:
            raise UsageError(f"--set {word!r} has no value", "write --set name=value")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"`hashcli methods {owner}` lists its settings"
            raise UsageError(f"{owner} has no setting {name!r}", hint)
        values[name] = _value(known[name], text.strip(), owner)
    return cls(**values)


def words(values: Mapping[str, Value]) -> tuple[str, ...]:
    """Settings by name as the command-line words `name=value`."""
    return tuple(f"{name}={_text(value)}" for name, value in values.items())


def from_record(cls: type[S], record: dict[str, Any], owner: str) -> S:
    """Make `cls` from what `record()` wrote, checked like the command line's words."""
    return parse(cls, words(record), owner)


def record(settings: Any) -> dict[str, Value]:
    """The settings as plain values, for JSON."""
    return dataclasses.asdict(settings)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _value(setting: Setting, text: str, owner: str) -> Value:
    wrong = UsageError(
        f"{owner}: {setting.name}={text!r} is not {_wanted(setting)}",
        f"the default is {_text(setting.default)}; `hashcli methods {owner}` lists all settings",
    )
    if setting.type is bool:
        words = {
            "true": True,
            "yes": True,
            "on": True,
            "1": True,
            "false": False,
            "no": False,
            "off": False,
            "0": False,
        }
        if text.lower() not in words:
            raise wrong
        return words[text.lower()]
    if setting.type is str:
        if setting.param.choices and text not in setting.param.choices:
            near = difflib.get_close_matches(text, setting.param.choices, n=1)
            if near:
                wrong.hint = f"did you mean {near[0]}?"
            raise wrong
        return text
    try:
        number = int(text) if setting.type is int else float(text)
    except ValueError:
        raise wrong from None
    low, high = setting.param.ge, setting.param.le
    if not math.isfinite(number) or (low is not None and number < low) or (high is not None and number > high):
        raise wrong
    return number


def _wanted(setting: Setting) -> str:
    kind = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}[setting.type]
    if setting.type is bool or not setting.bounds:
        return kind
    return f"one of {setting.bounds}" if setting.param.choices else f"{kind} {_joined(setting.bounds)}"


def _joined(bounds: str) -> str:
    return f"from {bounds}" if " to " in bounds else f"of {bounds}"
