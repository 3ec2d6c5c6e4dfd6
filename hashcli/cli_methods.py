"""`hashcli methods`: the installed ways to learn codes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hashcli import cli_options as opt
from hashcli import cli_output as output
from hashcli.cli_completion import complete_method

if TYPE_CHECKING:
    from hashcli.formats import Row


def methods(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="Tell about this one.", autocompletion=complete_method),
    ] = None,
    form: opt.TableFormat = None,
    header: opt.Header = False,
) -> None:
    """List the methods, or tell about one.

    Of one: its paper, what it needs, and its settings with defaults and bounds.
    """
    from hashcli import registry

    if name is None:
        rows: list[Row] = [(m.name, m.summary, f"{m.package} {m.version}") for m in registry.installed().values()]
        output.show(("name", "summary", "package"), rows, form, header=header)
    else:
        _one(name, form, header)


def _one(name: str, form: str | None, header: bool) -> None:
    from hashcli import registry, settings

    found, method = registry.find(name), registry.load(name)
    rows: list[Row] = [
        ("method", name, "", ""),
        ("summary", method.summary, "", ""),
        ("paper", method.paper, "", ""),
        ("needs", ", ".join(sorted(method.needs)).replace("_", " ") or "photos alone", "", ""),
        ("labels per photo", "one or several" if method.multi_label else "one", "", ""),
        ("package", f"{found.package} {found.version}", "", ""),
    ]
    for setting in settings.declared(method.Settings):
        default = str(setting.default).lower() if setting.type is bool else str(setting.default)
        rows.append((f"--set {setting.name}", default, setting.bounds, setting.param.help))
    output.show(("item", "value", "allowed", "help"), rows, form, header=header)
