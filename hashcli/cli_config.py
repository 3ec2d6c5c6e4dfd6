"""`hashcli config`: which settings are in force, and where each comes from."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hashcli import cli_options as opt
from hashcli import cli_output as output
from hashcli.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from hashcli.formats import Row


def _complete_command(ctx: typer.Context, incomplete: str) -> list[str]:
    from hashcli import config as settings

    names = sorted({option.command for option in settings.options(ctx.find_root().command)})
    return [name for name in names if name.startswith(incomplete)]


def config(
    ctx: typer.Context,
    command: Annotated[
        str | None,
        typer.Argument(
            metavar="[COMMAND]",
            help="Show all options of this command, such as query or library-info.",
            autocompletion=_complete_command,
        ),
    ] = None,
    library: opt.Library = None,
    form: opt.TableFormat = None,
    header: opt.Header = False,
) -> None:
    """Show which settings are in force, and where they come from.

    Without COMMAND: the places, and all that is set somewhere. An option is set for all commands by HASHCLI_OPTION
    in the environment or `option = value` in the user's config file, for one by HASHCLI_COMMAND_OPTION or below
    [COMMAND].
    """
    from hashcli import config as settings

    root = ctx.find_root().command
    known = list(settings.options(root))
    commands = sorted({option.command for option in known})
    if command is not None and command not in commands:
        raise UsageError(f"no command is called {command!r}", f"commands are {', '.join(commands)}")
    folder = output.located(library)
    given = settings.user_settings(root) + settings.library_settings(folder, root)
    in_force: dict[tuple[str, str], settings.Given] = {}
    for one in given:
        in_force.setdefault((one.option.command, one.option.name), one)
    rows = _places(ctx, folder) if command is None else []
    for option in known:
        found = in_force.get((option.command, option.name))
        if option.command == command or (command is None and found):
            value, source = (found.value, found.source) if found else (option.param.default, "default")
            if option.param.envvar and os.environ.get(option.param.envvar):
                value, source = os.environ[option.param.envvar], f"environment: {option.param.envvar}"
            rows.append((option.command, option.name, _shown(value), source))
    output.show(("command", "option", "value", "from"), rows, form, header=header)


def _places(ctx: typer.Context, library: Path) -> list[Row]:
    from hashcli import config as settings
    from hashcli.backbones import cache_folder

    def named(variable: str) -> str:
        return f"environment: {variable}" if os.environ.get(variable) else "default"

    source = ctx.get_parameter_source("library")
    said = {"COMMANDLINE": "command line", "DEFAULT_MAP": "user's config file"}
    chosen = said.get(source.name if source else "", named("HASHCLI_LIBRARY"))
    user, own = settings.user_file(), library / settings.FILE
    there = {path: "" if path.is_file() else ", not there" for path in (user, own)}
    return [
        ("", "user's config file", os.fsencode(user), named("HASHCLI_CONFIG") + there[user]),
        ("", "library", os.fsencode(library), chosen),
        ("", "library's config file", os.fsencode(own), "library" + there[own]),
        ("", "cache", os.fsencode(cache_folder()), named("HASHCLI_CACHE")),
    ]


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
