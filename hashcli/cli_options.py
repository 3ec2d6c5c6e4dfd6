"""The options of all commands, each declared once, so that a name means the same everywhere."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer

from hashcli.cli_completion import complete_backbone, complete_method, complete_setting, starting

FORMATS = ("table", "tsv", "csv", "jsonl", "paths")
DEVICES = ("auto", "cuda", "cpu", "mps")
DOMAINS = ("src", "tgt")
FINETUNES = ("none", "last", "all")
CODE_LENGTHS = ("16", "32", "48", "64", "96", "128", "256", "512", "1024")


def one_of(*choices: str) -> Callable[[str], str]:
    """A parser for a word that must be one of `choices`; the mistake names them all and the nearest one."""

    def parse(word: str) -> str:
        if word in choices:
            return word
        near = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
        suggestion = f" Did you mean {near[0]}?" if near else ""
        raise typer.BadParameter(f"{word!r} is none of {', '.join(choices)}.{suggestion}")

    return parse


def library_file(ctx: typer.Context, library: Path | None) -> Path | None:
    """Let the library's own config file say how to search and show, where nothing nearer to the user does."""
    if not ctx.resilient_parsing:
        from hashcli import config
        from hashcli.library import default_location

        config.apply_library_file(ctx, library.expanduser() if library else default_location())
    return library


# ---- where and with what

Library = Annotated[
    Path | None,
    typer.Option(
        "--library",
        "-L",
        metavar="DIR",
        envvar="HASHCLI_LIBRARY",
        is_eager=True,
        callback=library_file,
        help="The library: one folder with all that hashcli knows. Default: a folder in your user data directory.",
    ),
]
Method = Annotated[
    str,
    typer.Option(
        "--method",
        "-m",
        metavar="NAME",
        help="How to learn the codes; `hashcli methods` lists the choices.",
        autocompletion=complete_method,
    ),
]
OptionalMethod = Annotated[
    str | None,
    typer.Option(
        "--method",
        "-m",
        metavar="NAME",
        help="How to learn the codes. Default: dcgh for photos with classes and captions; else source-only with "
        "--labels, and dsah without.",
        autocompletion=complete_method,
    ),
]
Bits = Annotated[
    int,
    typer.Option(
        "--bits",
        "-b",
        metavar="N",
        help="Code length: a multiple of 8 from 16 to 1024.",
        autocompletion=starting(*CODE_LENGTHS),
    ),
]
Backbone = Annotated[
    str | None,
    typer.Option(
        "--backbone",
        metavar="NAME",
        help="The network that looks at the photos. Default: efficientnet_lite0.",
        autocompletion=complete_backbone,
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="A setting of the method, as `hashcli methods NAME` lists them; may be repeated.",
        autocompletion=complete_setting,
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="|".join(DEVICES),
        parser=one_of(*DEVICES),
        help="Where to compute.",
        autocompletion=starting(*DEVICES),
    ),
]
Seed = Annotated[int, typer.Option("--seed", min=0, metavar="N", help="Seed of all randomness.")]
Labels = Annotated[
    Path | None,
    typer.Option(
        "--labels",
        metavar="FILE.csv",
        help="Labels from a table with the header `path,labels` (paths relative to it, `;` between labels), "
        "instead of from subfolders.",
    ),
]
CaptionsFile = Annotated[
    Path | None,
    typer.Option(
        "--captions-file",
        metavar="FILE.csv",
        help="Captions from a table with the header `path,caption` (paths relative to it), for methods that learn "
        "from words.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=1, metavar="N", help="Processes that read photos. Default: one for each CPU core."),
]
Include = Annotated[
    list[str] | None,
    typer.Option("--include", metavar="GLOB", help="Only photos whose path matches; may be repeated."),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option("--exclude", metavar="GLOB", help="No photos whose path matches; may be repeated."),
]
Hidden = Annotated[
    bool, typer.Option("--hidden/--no-hidden", help="Also photos and folders whose names begin with a dot.")
]
FollowSymlinks = Annotated[
    bool,
    typer.Option(
        "--follow-symlinks/--no-follow-symlinks",
        help="Also look into folders that symbolic links lead to; a photo counts once all the same.",
    ),
]
Domain = Annotated[
    Literal["src", "tgt"] | None,
    typer.Option(
        "--domain",
        metavar="|".join(DOMAINS),
        parser=one_of(*DOMAINS),
        help="Treat the photos as src or tgt. Default: that of the folder they are in, else tgt.",
        autocompletion=starting(*DOMAINS),
    ),
]

# ---- what becomes of the result

NoIndex = Annotated[
    bool,
    typer.Option("--no-index", help="Only put the hasher aside; `hashcli index` completes it and takes it into use."),
]
Replace = Annotated[
    bool, typer.Option("--replace", help="Replace a hasher that was learned from unrelated folders, without asking.")
]
Finetune = Annotated[
    str,
    typer.Option(
        "--finetune",
        metavar="|".join(FINETUNES),
        parser=one_of(*FINETUNES),
        help="Train the backbone too: the last quarter of its layers, or all. Slow without a GPU.",
        autocompletion=starting(*FINETUNES),
    ),
]
Restart = Annotated[bool, typer.Option("--restart", help="Begin anew instead of going on where a stopped run was.")]
Force = Annotated[
    bool, typer.Option("--force", help="Take the new hasher into use even when it is refused as collapsed.")
]
NoHoldOut = Annotated[
    bool,
    typer.Option(
        "--no-hold-out",
        help="Learn from all labeled photos, instead of holding out a tenth to tell whether learning helped.",
    ),
]
Report = Annotated[
    Path | None,
    typer.Option("--report", metavar="FILE.jsonl", help="Write one JSON line for each photo that failed."),
]

# ---- how results are shown

Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        "-f",
        metavar="|".join(FORMATS),
        parser=one_of(*FORMATS),
        help="Form of the output. Default: table on a terminal, else tsv.",
        autocompletion=starting(*FORMATS),
    ),
]
TableFormat = Annotated[
    str | None,
    typer.Option(
        "--format",
        "-f",
        metavar="|".join(FORMATS[:-1]),
        parser=one_of(*FORMATS[:-1]),
        help="Form of the output. Default: table on a terminal, else tsv.",
        autocompletion=starting(*FORMATS[:-1]),
    ),
]
Null = Annotated[
    bool,
    typer.Option(
        "--null", "-0", help="Paths end with a NUL byte, on stdin and in the output (-f paths, which it implies)."
    ),
]
Header = Annotated[bool, typer.Option("--header", help="Begin tsv and csv with the names of the columns.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors and results.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say what each step counted.")]
