"""The generations of a library: which one is in use, and the steps by which a writer changes that.

A generation is called staged until it has been in use, and complete from then on. Each step is ordered so that a
writer killed anywhere leaves a generation in use that is whole, and `settle` puts the rest right.
"""

from __future__ import annotations

import os
import re
import shutil
import zlib
from pathlib import Path

from hashcli.durable import replace_file, sync, sync_tree
from hashcli.errors import DamagedError, LibraryError
from hashcli.generation import Building, Generation, State, read_generation, write_generation

_NAME = re.compile(r"g\d{6,}")


def current_file(name: str) -> bytes:
    """What LIBRARY/current holds: the name of the generation in use, and its CRC-32."""
    return f"{name} {zlib.crc32(name.encode()):08x}\n".encode("ascii")


class Generations:
    """LIBRARY/generations and LIBRARY/current. What changes them is called by the library's one writer."""

    def __init__(self, library: Path) -> None:
        self._library, self._folder = library, library / "generations"

    def current_name(self) -> str | None:
        """What `current` names; None before the first. Raises DamagedError."""
        try:
            content = (self._library / "current").read_bytes()
        except FileNotFoundError:
            return None
        name = content[:-10].decode("ascii", "replace")
        if not _NAME.fullmatch(name) or content != current_file(name):
            raise DamagedError(f"{self._library / 'current'} names no generation", "`hashcli library repair`")
        return name

    def current(self) -> Generation | None:
        """The generation in use; None before the first. Raises DamagedError."""
        name = self.current_name()
        if name is None:
            return None
        try:
            return read_generation(self._folder / name)
        except FileNotFoundError:
            pass  # a writer may have published and pruned between the two reads: look once more
        name = self.current_name()
        try:
            return None if name is None else read_generation(self._folder / name)
        except FileNotFoundError:
            raise DamagedError(
                f"the current generation {name} of {self._library} is gone", "`hashcli library rollback` goes back"
            ) from None

    def all(self) -> list[Generation]:
        """All whole generations, oldest first."""
        found = []
        for name in self._names():
            try:
                found.append(read_generation(self._folder / name))
            except FileNotFoundError:  # being pruned
                continue
        return found

    def staged(self) -> Generation | None:
        """The newest generation that was never in use."""
        current = self.current_name()
        found = [g for g in self.all() if g.state == "staged" and g.name != current]
        return found[-1] if found else None

    def building(self) -> Building:
        """A new folder for the next generation."""
        taken = [int(name[1:]) for name in self._names()]
        name = f"g{max(taken, default=0) + 1:06d}"
        building = Building(name, self._folder / f".new-{name}")
        building.folder.mkdir(parents=True)
        return building

    def settle(self) -> None:
        """Finish what a killed writer left half done."""
        for stale in self._folder.glob(".new-*"):
            shutil.rmtree(stale)
        try:
            used = self.current()
        except DamagedError:  # rollback and repair write, too
            return
        if used is not None and used.state == "staged":
            write_generation(used.folder, "complete", used.parent)

    def publish(self, building: Building, state: State, refused: bool = False) -> Generation:
        """Put a whole generation in its place; a complete one is then in use.

        The one in use until now is kept to go back to. Older generations go, staged ones too: the new one replaces
        them, and completing one later would bring an older hasher back.
        """
        parent = self.current_name()
        write_generation(building.folder, "staged", parent, refused)
        sync_tree(building.folder)
        os.rename(building.folder, self._folder / building.name)
        sync(self._folder)
        sync(self._library)
        published = read_generation(self._folder / building.name)
        if state == "complete":
            return self.complete(published)
        self._prune(building.name, parent, *(g.name for g in self.all() if g.state == "complete"))
        return published

    def complete(self, staged: Generation) -> Generation:
        """Take a whole generation into use."""
        parent = self.current_name()
        sync_tree(staged.folder)
        # `current` first: killed in between, the generation is in use and merely still called staged
        self._set_current(staged.name)
        write_generation(staged.folder, "complete", parent)
        self._prune(staged.name, parent)
        return read_generation(staged.folder)

    def rollback(self) -> Generation:
        """Take the previous generation into use again; a second rollback undoes the first. Raises LibraryError."""
        name = self.current_name()
        used = {g.name: g for g in self.all() if g.state == "complete"}
        parent = used[name].parent if name in used else None
        others = sorted(used.keys() - {name})
        if not others:
            raise LibraryError(f"the library at {self._library} keeps no other generation to go back to")
        target = used[parent if parent in others else others[-1]]
        self._set_current(target.name)
        return target

    def _names(self) -> list[str]:
        try:
            return sorted(name for name in os.listdir(self._folder) if _NAME.fullmatch(name))
        except FileNotFoundError:
            return []

    def _set_current(self, name: str) -> None:
        replace_file(self._library / "current", current_file(name))

    def _prune(self, *keep: str | None) -> None:
        for name in set(self._names()).difference(keep):
            doomed = self._folder / f".new-{name}"  # a name that the next writer clears if this one is killed
            os.rename(self._folder / name, doomed)
            shutil.rmtree(doomed, ignore_errors=True)
