"""The commands by name; each is imported and its options are built when it is asked for.

Building the options of all commands takes longer than many a query.
"""

from __future__ import annotations

from collections import UserDict
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

PLACES = {
    "adapt": ("cli_learn", "adapt"),
    "train": ("cli_learn", "train"),
    "index": ("cli_index", "index"),
    "query": ("cli_search", "query"),
    "eval": ("cli_eval", "evaluate"),
    "methods": ("cli_methods", "methods"),
    "config": ("cli_config", "config"),
    "library": ("cli_library", "app"),
}


class Commands(TyperGroup):
    """The group of all commands."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = _Built(PLACES)

    def list_commands(self, ctx: Any) -> list[str]:
        """Names in the order in which help shows them."""
        return list(PLACES)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the commands in a help text, which tells nothing of their options."""
        named: dict[str, Any] = {name: TyperCommand(name, help=_help(name)) for name in PLACES}
        TyperGroup(commands=named).format_commands(ctx, formatter)


class _Built(UserDict[str, Any]):
    """Commands by name: (module, function) until one is asked for."""

    def __getitem__(self, name: str) -> Any:
        command = super().__getitem__(name)
        if isinstance(command, tuple):
            command = self.data[name] = _build(name)
        return command


def _found(name: str) -> Any:
    """The function, or the group's Typer app."""
    module, attribute = PLACES[name]
    return getattr(import_module(f"hashcli.{module}"), attribute)


def _build(name: str) -> Any:
    found = _found(name)
    alone = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)
    alone.callback()(lambda: None)  # with it even one command makes a group
    if isinstance(found, typer.Typer):
        alone.add_typer(found, name=name)
    else:
        alone.command(name)(found)
    group: Any = typer.main.get_command(alone)
    return group.commands[name]


def _help(name: str) -> str | None:
    found = _found(name)
    return found.info.help if isinstance(found, typer.Typer) else found.__doc__
