"""A library of thousands of photos that costs seconds: hashers of a few hundred bytes, photos of eight by eight pixels.

It has what real ones have: two generations, removed and moved photos, copies, odd names, several blocks of codes.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import pytest
from PIL import Image

from hashcli import backbones, gallery
from hashcli.indexing import index
from hashcli.library import Library
from hashcli.progress import Silent
from tests import tiny

BLOCK_SLOTS = 512  # blocks of a gallery of thousands, where one of millions has 16,384
ODD_NAMES = (b"new\nline.png", b"-dash.png", b"\xff\xfe.png", b"quote'\".png", "\u202egnp.png".encode())


@dataclass(frozen=True)
class World:
    """Photos, a library of them, and a photo that is not in it."""

    folder: Path

    @property
    def library(self) -> Path:
        return self.folder / "library"

    @property
    def photos(self) -> Path:
        return self.folder / "photos"

    @property
    def stranger(self) -> Path:
        return self.folder / "stranger.png"


def photo(path: bytes, seed: int) -> None:
    """A photo of four random gray quarters, another one for each seed."""
    quarters = np.random.default_rng(seed).integers(0, 256, (2, 2), dtype=np.uint8)
    pixels = np.repeat(np.repeat(quarters, tiny.SIZE // 2, 0), tiny.SIZE // 2, 1)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        Image.fromarray(np.stack([pixels] * 3, -1)).save(file, "PNG")


def make(folder: Path, n_photos: int, seed: int = 0) -> World:
    """Photos in a labeled and an unlabeled folder, indexed by two generations; some were removed, moved, changed."""
    world = World(folder)
    draw = random.Random(seed)
    photos = os.fsencode(world.photos)
    names = [b"studio/class%d/%05d.png" % (i % 7, i) for i in range(n_photos // 3)]
    names += [b"phone/%d/%05d.png" % (i // 500, i) for i in range(n_photos - len(names))]
    names += [b"phone/odd/" + name for name in ODD_NAMES]
    for number, name in enumerate(names):
        photo(os.path.join(photos, name), number if number % 50 else 0)  # some contents come many times
    photo(os.fsencode(world.stranger), -seed - 1 & 0xFFFF_FFFF)
    with here():
        library = Library.at(world.library)
        exported = tiny.backbone(folder / "backbone")
        roots = [(world.photos / "studio", "src"), (world.photos / "phone", "tgt")]
        tiny.adapt(library, exported, roots, seed=seed)  # type: ignore[arg-type]
        tiny.adapt(library, exported, roots, seed=seed + 1)  # type: ignore[arg-type]
        for name in draw.sample(names, n_photos // 20):
            path = os.path.join(photos, name)
            chance = draw.random()
            if chance < 0.4:
                os.unlink(path)
            elif chance < 0.7:
                os.rename(path, os.path.join(photos, b"phone", b"moved-" + os.path.basename(name)))
            else:
                photo(path, draw.randrange(10**6, 10**7))
            if draw.random() < 0.02:
                index(library, prune=True, yes=True, progress=Silent())
        index(library, prune=True, yes=True, progress=Silent())
    return world


def keep_backbone(cache: Path) -> None:
    """Make a backbone of a few hundred bytes the default one of all who have `cache` as HASHCLI_CACHE."""
    kept = cache / "backbones" / backbones._folder_name(backbones.DEFAULT, backbones.FIT)
    spec = tiny.backbone(kept).spec.record() | {"name": backbones.DEFAULT}
    record = {"format": backbones._FORMAT, "version": backbones._VERSION, "spec": spec, "sources": []}
    (kept / backbones._RECORD).write_text(json.dumps(record))


@contextlib.contextmanager
def here() -> Iterator[None]:
    """Small blocks, and photos decoded in this process: the isolated decoders have campaigns of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gallery, "BLOCK_SLOTS", BLOCK_SLOTS)
        tiny.decode_here(patch)
        yield


@dataclass(frozen=True)
class Answer:
    """What a command said. `code` is negative where a signal ended it."""

    code: int
    out: bytes
    said: bytes

    @property
    def err(self) -> str:
        """What it said on stderr."""
        return self.said.decode("utf-8", "backslashreplace")


def warm(world: World) -> None:
    """Import here all that commands import, for the forked processes of `ask`."""
    from hashcli.cli import main

    quiet = io.TextIOWrapper(io.BytesIO())
    with here(), contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        for command in (["query", str(world.stranger)], ["index"], ["library", "verify"], ["library", "info"]):
            main([*command, "--library", str(world.library)])


def ask(*arguments: str | bytes, seconds: float = 60) -> Answer:
    """Run `hashcli ARGUMENTS` in a forked process, which has all that this one imported; a hang ends with -14."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = start(arguments, out.fileno(), err.fileno(), seconds)
        _, status = os.waitpid(child, 0)
        return Answer(os.waitstatus_to_exitcode(status), *(_contents(file) for file in (out, err)))


def start(arguments: Sequence[str | bytes], out: int, err: int, seconds: float, here_: bool = True) -> int:
    """Fork a process that runs `hashcli ARGUMENTS`; its id."""
    child = os.fork()
    if child == 0:
        code = 70
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, seconds)
            os.dup2(out, 1)
            os.dup2(err, 2)
            code = run([os.fsdecode(argument) for argument in arguments], here_)
        except BaseException:  # whatever left main() is a finding, and nothing may leave a forked process
            traceback.print_exc()
        finally:
            os._exit(code)
    return child


def run(arguments: list[str], here_: bool = True) -> int:
    """The command in this process, as whoever calls the installed one gets it on descriptors 1 and 2; its exit code."""
    from hashcli.cli import main

    os.environ["HASHCLI_DEBUG"] = "1"
    kept = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(io.FileIO(number, "wb", closefd=False), "utf-8", write_through=True) for number in (1, 2)
    )
    try:
        with here() if here_ else contextlib.nullcontext():
            return main(arguments)
    finally:
        sys.stdout.flush()
        sys.stdout, sys.stderr = kept


def _contents(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read()
