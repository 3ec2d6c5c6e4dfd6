"""What shells are offered to complete a word: methods, backbones, settings, choices.

Answers read metadata only and import neither numpy nor torch.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable

import typer


def starting(*choices: str) -> Callable[[str], list[str]]:
    """Completion of a word that must be one of `choices`."""

    def complete(incomplete: str) -> list[str]:
        return [choice for choice in choices if choice.startswith(incomplete)]

    return complete


def complete_method(incomplete: str) -> list[tuple[str, str]]:
    """Installed methods with their summaries; after a comma the next of a list."""
    from hashcli import registry

    done, comma, last = incomplete.rpartition(",")
    found = registry.installed().items()
    return [(f"{done}{comma}{name}", _one_line(method.summary)) for name, method in found if name.startswith(last)]


def complete_backbone(incomplete: str) -> list[tuple[str, str]]:
    """The default backbone, those exported on this machine, and the families that others are named by."""
    from hashcli import backbones

    offered = {backbones.DEFAULT: "the default", **dict.fromkeys(backbones.kept_names(), "prepared on this machine")}
    offered |= {f"{family}:": f"any network of {family}" for family in backbones.FAMILIES}
    offered |= {"file:": "a file of weights"}
    return [(name, text) for name, text in offered.items() if name.startswith(incomplete)]


def _one_line(text: str) -> str:
    """Help that no shell sees folded: fish takes a second line for another candidate."""
    return textwrap.shorten(text, 60, placeholder=" ...")


def complete_setting(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """`name=` for each setting of the method chosen so far on the command line."""
    from hashcli import registry, settings
    from hashcli.errors import HashcliError

    try:
        method = registry.load(ctx.params.get("method") or "couple")
    except HashcliError:
        return []  # the command itself will say what is wrong
    declared = settings.declared(method.Settings)
    return [(f"{s.name}=", _one_line(s.param.help)) for s in declared if f"{s.name}=".startswith(incomplete)]
