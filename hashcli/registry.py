"""Installed methods, found through the entry-point group `hashcli.methods`; one is imported when it is asked for."""

from __future__ import annotations

import ast
import difflib
import importlib.util
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING

from hashcli.errors import MachineError, UsageError

if TYPE_CHECKING:
    from hashcli.method import HashMethod

GROUP = "hashcli.methods"


@dataclass(frozen=True)
class Installed:
    """A method that some installed package offers, known without importing it."""

    name: str
    package: str
    version: str
    entry: metadata.EntryPoint

    @property
    def summary(self) -> str:
        """First line of the plugin module's docstring, read from its source: importing could cost seconds."""
        try:
            spec = importlib.util.find_spec(self.entry.module)
        except ImportError:
            return "(cannot be imported)"
        if spec is None or not spec.origin or not spec.origin.endswith(".py"):
            return ""
        with open(spec.origin, encoding="utf-8") as source:
            text = ast.get_docstring(ast.parse(source.read())) or ""
        return text.partition("\n")[0].rstrip(".")


def installed() -> dict[str, Installed]:
    """All methods by name, in alphabetical order.

    Raises MachineError when two packages offer the same name: which one ran would depend on luck.
    """
    found: dict[str, Installed] = {}
    for entry in metadata.entry_points(group=GROUP):
        package = entry.dist.name if entry.dist else "?"
        other = found.get(entry.name)
        if other and other.package != package:
            raise MachineError(
                f"two installed packages offer the method {entry.name!r}: {other.package} and {package}",
                f"uninstall one of them: pip uninstall {package}",
            )
        version = entry.dist.version if entry.dist else "?"
        found[entry.name] = Installed(entry.name, package, version, entry)
    return dict(sorted(found.items()))


def find(name: str) -> Installed:
    """The method of that name. Raises UsageError with the nearest name when there is none."""
    methods = installed()
    if name in methods:
        return methods[name]
    near = difflib.get_close_matches(name, methods, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"installed: {', '.join(methods)}"
    raise UsageError(f"no method is called {name!r}", hint)


def load(name: str) -> type[HashMethod]:
    """Import the plugin and give its class.

    Raises UsageError for an unknown name, MachineError for a plugin that does not load or is no HashMethod.
    """
    from hashcli.method import HashMethod

    method = find(name)
    try:
        cls = method.entry.load()
    except (ImportError, AttributeError, SyntaxError) as error:
        raise MachineError(f"the method {name!r} of {method.package} does not load: {error}") from error
    if not (isinstance(cls, type) and issubclass(cls, HashMethod)):
        raise MachineError(f"{method.entry.value} of {method.package} is not a HashMethod")
    return cls
