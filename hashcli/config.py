"""Options that are set outside the command line: in the environment, the user's file, the library's own file.

Of several settings of one option the first in this order counts: command line; HASHCLI_COMMAND_OPTION and
HASHCLI_OPTION in the environment; the user's config file, its table [COMMAND] before what stands above all tables;
the library's own file. The latter may be a stranger's, so it sets how results are searched and shown and nothing
that is run, read or written.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from hashcli.errors import UsageError

FILE = "config.toml"
DISPLAY_AND_SEARCH = frozenset(
    {"top", "radius", "rerank", "include-self", "unique", "confidence", "min-confidence"}
    | {"format", "header", "quiet", "verbose"}
)
PREFIX = "HASHCLI_"
OTHER_VARIABLES = frozenset(
    {"HASHCLI_CACHE", "HASHCLI_CONFIG", "HASHCLI_DEBUG", "HASHCLI_FEATURES_GB", "HASHCLI_KERNEL", "HASHCLI_LIBRARY"}
)


@dataclass(frozen=True)
class Option:
    """An option of a command: its long name without dashes, Typer's parameter and its context."""

    command: str
    name: str
    param: Any
    context: Any


@dataclass(frozen=True)
class Given:
    """A value that was set outside the command line, and where."""

    option: Option
    value: Any
    source: str


def user_file() -> Path:
    """The user's config file: HASHCLI_CONFIG, else one in the platform's folder for configuration."""
    if chosen := os.environ.get("HASHCLI_CONFIG"):
        return Path(chosen).expanduser()
    import platformdirs

    return platformdirs.user_config_path("hashcli") / FILE


def options(group: Any, prefix: str = "") -> Iterator[Option]:
    """All options of all commands below a Typer group; `library info` is called library-info."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from options(command, f"{prefix}{name}-")
            continue
        context = typer.Context(command, resilient_parsing=True)
        for param in command.params:
            long = next((word for word in param.opts if word.startswith("--")), None)
            if long and long != "--help":
                yield Option(f"{prefix}{name}", long.removeprefix("--"), param, context)


def from_environment(known: list[Option], environment: Mapping[str, str] = os.environ) -> list[Given]:
    """What the environment sets; a variable for one command comes before one for all. Raises UsageError."""
    given: list[Given] = []
    ours = [option for option in known if not option.param.envvar]  # Typer reads the others
    for by_command in (True, False):
        asked: dict[str, list[Option]] = {}
        for option in ours:
            name = f"{option.command}-{option.name}" if by_command else option.name
            asked.setdefault(PREFIX + name.upper().replace("-", "_"), []).append(option)
        for variable, found in asked.items():
            if (text := environment.get(variable)) and variable not in OTHER_VARIABLES:
                value = _words(text, variable) if found[0].param.multiple else text
                given += _fitting(found, value, variable, f"environment: {variable}")
    return given


def from_file(path: Path, known: list[Option], allowed: frozenset[str] | None = None) -> list[Given]:
    """What a config file sets, a command's own table first; `allowed` are the only options it may set.

    Raises UsageError that names file, line and key, and the nearest right one.
    """
    text, content = _read(path)
    lines = _lines(text)
    for_all: list[Given] = []
    for_one: list[Given] = []
    commands = {option.command for option in known}
    for key, value in content.items():
        if isinstance(value, dict):
            if key not in commands:
                raise _unknown(f"{path}{_line(lines, '', key)}", f"command {key!r}", key, commands)
            for name, inner in value.items():
                for_one += _entry(path, lines, known, key, name, inner, allowed)
        else:
            for_all += _entry(path, lines, known, "", key, value, allowed)
    return for_one + for_all


def defaults(given: list[Given]) -> dict[str, Any]:
    """The values as Typer takes them for its `default_map`; of two for one option the first counts."""
    nested: dict[str, Any] = {}
    for one in given:
        command, _, inner = one.option.command.partition("-")
        values = nested.setdefault(command, {})
        if inner:
            values = values.setdefault(inner, {})
        values.setdefault(one.option.param.name, one.value)
    return nested


def user_settings(group: Any) -> list[Given]:
    """What environment and user file set, in the order in which it counts. Raises UsageError."""
    path = user_file()
    there = path.exists()
    if not there and os.environ.get("HASHCLI_CONFIG"):
        raise UsageError(f"there is no file {path}, which HASHCLI_CONFIG names", "name one that exists, or unset it")
    if not there and not any(name.startswith(PREFIX) and name not in OTHER_VARIABLES for name in os.environ):
        return []
    known = list(options(group))
    return from_environment(known) + (from_file(path, known) if there else [])


def library_settings(folder: Path, group: Any) -> list[Given]:
    """What a library's own file sets; nothing where it has none. Raises UsageError."""
    path = folder / FILE
    return from_file(path, list(options(group)), DISPLAY_AND_SEARCH) if path.is_file() else []


def apply_user_settings(ctx: typer.Context) -> None:
    """Make environment and user file the defaults of the command that is about to run. Raises UsageError."""
    ctx.default_map = defaults(user_settings(ctx.command))


def apply_library_file(ctx: typer.Context, folder: Path) -> None:
    """Make the library's own file the defaults below those. Raises UsageError."""
    if (folder / FILE).is_file():
        found = library_settings(folder, ctx.find_root().command)
        own = {one.option.param.name: one.value for one in reversed(found) if one.option.context.command is ctx.command}
        ctx.default_map = own | dict(ctx.default_map or {})


def _entry(
    path: Path, lines: Mapping[tuple[str, str], int], known: list[Option], command: str, name: str, value: Any,
    allowed: frozenset[str] | None,
) -> list[Given]:  # fmt: skip
    """One line of a file: an option of one command, or of all that have it."""
    where = f"{path}{_line(lines, command, name)}"
    found = [option for option in known if option.name == name and command in ("", option.command)]
    if not found:
        names = {option.name for option in known if command in ("", option.command)}
        raise _unknown(where, f"option {name!r}" + (f" of {command}" if command else ""), name, names)
    if allowed is not None and name not in allowed:
        raise UsageError(
            f"{where}: a library's own file may not set {name}, only how results are searched and shown",
            f"allowed are {', '.join(sorted(allowed))}; set others in {user_file()}",
        )
    return _fitting(found, value, f"{where}: {name}", where)


def _fitting(found: list[Option], value: Any, where: str, source: str) -> list[Given]:
    """The value for those of the options that take it: some commands know fewer formats. Raises UsageError if none."""
    given, mistakes = [], []
    for option in found:
        try:
            given.append(Given(option, _converted(option, value, where), source))
        except UsageError as error:
            mistakes.append(error)
    if not given:
        raise mistakes[0]
    return given


def _converted(option: Option, value: Any, where: str) -> Any:
    """The value once it is known to be one that the option takes. Raises UsageError."""
    param = option.param
    if param.multiple:
        value = [value] if isinstance(value, str) else value
        fits, wanted = isinstance(value, list) and all(isinstance(v, str) for v in value), 'a list such as ["a", "b"]'
    elif param.is_flag:
        fits, wanted = isinstance(value, bool) or str(value).lower() in ("true", "false", "1", "0"), "true or false"
    else:
        fits, wanted = isinstance(value, str | int | float) and not isinstance(value, bool), "a text or a number"
    if not fits:
        raise UsageError(f"{where}: {value!r} is not {wanted}")
    try:
        param.process_value(option.context, value)
    except typer.BadParameter as error:
        raise UsageError(
            f"{where}: {error.message}", f"`hashcli {option.command} --help` tells what it takes"
        ) from None
    return value


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    import tomllib

    try:
        text = path.read_text("utf-8")
        return text, tomllib.loads(text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}", 'a line looks like this: format = "jsonl"') from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None


def _lines(text: str) -> dict[tuple[str, str], int]:
    """Line numbers by table and key; a table's own under ("", its name). TOML's parser does not give them."""
    found: dict[tuple[str, str], int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[\s*\"?([\w-]+)\"?\s*\]", line):
            table = header[1]
            found.setdefault(("", table), number)
        elif key := re.match(r"\s*\"?([\w-]+)\"?\s*=", line):
            found.setdefault((table, key[1]), number)
    return found


def _line(lines: Mapping[tuple[str, str], int], table: str, key: str) -> str:
    number = lines.get((table, key))
    return f", line {number}" if number else ""


def _unknown(where: str, what: str, name: str, known: set[str]) -> UsageError:
    near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(known))}"
    return UsageError(f"{where}: there is no {what}", hint)


def _words(text: str, variable: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UsageError(f"{variable}: {error}", "write words as for the shell") from None
