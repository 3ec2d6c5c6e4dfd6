"""Write the parts of the documents that the code knows better: help texts, settings, exit codes.

    python docs/generate.py            write them
    python docs/generate.py --check    say which files differ, and exit with 1 (a test does this)

What is generated lies between `<!-- NAME:begin -->` and `<!-- NAME:end -->`; all else is written by hand.
"""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

os.environ |= {"COLUMNS": "100", "TERMINAL_WIDTH": "100", "NO_COLOR": "1"}

import typer.core
import typer.main

from hashcli import errors, registry, settings
from hashcli.cli import app
from hashcli.method import HashMethod

DOCS = Path(__file__).resolve().parent
OTHER_CODES = {
    0: "done; found",
    1: "nothing found",
    3: "done, but some photos failed (`--report FILE.jsonl` lists them)",
    70: "a bug in hashcli; the message says how to report it",
    130: "stopped by Ctrl-C; the library is as it was, and the same command goes on",
    141: "whoever read the output closed the pipe; no message",
    143: "stopped by a termination signal, as by Ctrl-C",
}


def main() -> int:
    """Write or check all generated parts."""
    written = [file for file, text in pages() if file.read_text("utf-8") != text and not _write(file, text)]
    for file in written:
        print(f"{file.relative_to(DOCS.parent)}: {'differs: python docs/generate.py' if _checking() else 'written'}")
    return int(bool(written) and _checking())


def pages() -> Iterator[tuple[Path, str]]:
    """Every file with generated parts, with its text as it should be."""
    yield DOCS / "commands.md", _filled(DOCS / "commands.md", commands=commands())
    yield DOCS / "exit-codes.md", _filled(DOCS / "exit-codes.md", codes=exit_codes())
    yield DOCS / "methods/README.md", _filled(DOCS / "methods/README.md", methods=methods())
    for name in own_methods():
        file = DOCS / f"methods/{name}.md"
        yield file, _filled(file, settings=settings_of(name))


@functools.cache
def own_methods() -> dict[str, type[HashMethod]]:
    """The methods that come with hashcli; others have documents of their own."""
    return {name: found.entry.load() for name, found in registry.installed().items() if found.package == "hashcli"}


@functools.cache
def command_tree() -> typer.core.TyperGroup:
    """The whole command line."""
    return typer.main.get_command(app)


def commands() -> str:
    """`--help` of every command, one section each."""
    sections = []
    for words, command in _commands(command_tree(), ["hashcli"]):
        context = _context(words)
        help_text = "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
        sections.append(f"## {' '.join(words)}\n\n```text\n{help_text}\n```")
    return "\n\n".join(sections)


def _commands(command: object, words: list[str]) -> Iterator[tuple[list[str], typer.main.TyperCommand]]:
    yield words, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from _commands(inner, [*words, name])


def _context(words: list[str]) -> typer.Context:
    context, command = None, command_tree()
    for word in words:
        command = command if context is None else command.commands[word]
        context = typer.Context(command, info_name=word, parent=context, **command.context_settings)
    assert context is not None
    return context


def methods() -> str:
    """A table of the methods that come with hashcli."""
    rows = ["| method | summary | needs | labels per photo | paper |", "| --- | --- | --- | --- | --- |"]
    for name, cls in own_methods().items():
        labels = "one or several" if cls.multi_label else "one"
        rows.append(f"| [`{name}`]({name}.md) | {cls.summary} | {_needs(cls)} | {labels} | {cls.paper} |")
    return "\n".join(rows)


def settings_of(name: str) -> str:
    """What `hashcli methods NAME` says, as a page's end."""
    cls = own_methods()[name]
    rows = ["| `--set` | default | allowed | what it is |", "| --- | --- | --- | --- |"]
    for setting in settings.declared(cls.Settings):
        default = str(setting.default).lower() if setting.type is bool else str(setting.default)
        bounds = setting.bounds.replace(" | ", ", ")
        rows.append(f"| `{setting.name}` | {default} | {bounds} | {setting.param.help} |")
    labels = "one or several labels" if cls.multi_label else "one label"
    return f"Needs {_needs(cls)}; takes {labels} per photo. Paper: {cls.paper}.\n\n" + "\n".join(rows)


def _needs(cls: type) -> str:
    return ", ".join(sorted(cls.needs)).replace("_", " ") or "photos alone"


def exit_codes() -> str:
    """A table of the exit codes: those of the error tree and those that are no error."""
    said = {}
    for line in (errors.__doc__ or "").splitlines():
        if found := re.fullmatch(r"\W*(\w+)\s+(\d+)\s+(.+)", line):
            said[int(found[2])] = found[3]
    said |= OTHER_CODES
    return "\n".join(["| code | meaning |", "| ---: | --- |", *(f"| {code} | {said[code]} |" for code in sorted(said))])


def _filled(file: Path, **parts: str) -> str:
    text = file.read_text("utf-8")
    for name, part in parts.items():
        pattern = rf"(?s)(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)"
        text, n = re.subn(pattern, lambda found, part=part: f"{found[1]}{part}\n{found[2]}", text)
        if n != 1:
            raise SystemExit(f"{file} has no place for {name}")
    return text


def _checking() -> bool:
    return "--check" in sys.argv[1:]


def _write(file: Path, text: str) -> None:
    if not _checking():
        file.write_text(text, "utf-8")


if __name__ == "__main__":
    sys.exit(main())
