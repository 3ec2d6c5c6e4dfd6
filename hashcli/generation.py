"""A generation: a hasher and its gallery in one folder, and the small JSON files that say what a folder is."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hashcli import versions
from hashcli.durable import replace_file
from hashcli.errors import DamagedError

if TYPE_CHECKING:
    from hashcli.gallery import Gallery
    from hashcli.hasher import Hasher

FORMAT, VERSION = "hashcli-generation", 1
CARRIED = "carried"
State = Literal["complete", "staged"]


@dataclass(frozen=True)
class Building:
    """A generation that is being built; nobody reads it yet."""

    name: str
    folder: Path

    @property
    def hasher_folder(self) -> Path:
        return self.folder / "hasher"

    @property
    def gallery_folder(self) -> Path:
        return self.folder / "gallery"


@dataclass(frozen=True)
class Generation:
    """A hasher and its gallery, on disk under `folder`.

    parent   the generation that was current before this one, if any
    created  when it was published, ISO 8601 in UTC
    refused  its hasher has collapsed: it stays staged until someone insists on it
    """

    name: str
    folder: Path
    state: State
    parent: str | None
    created: str
    refused: bool = False

    @cached_property
    def hasher(self) -> Hasher:
        """The hasher, opened at the first use. Raises DamagedError."""
        from hashcli.hasher import Hasher

        return Hasher.open(self.folder / "hasher")

    def carried_from(self) -> str | None:
        """The generation whose photos this one, while it is staged, has taken over already."""
        try:
            return (self.folder / CARRIED).read_text("ascii", "replace").strip()
        except FileNotFoundError:
            return None

    def note_carried(self, old: Generation | None) -> None:
        """All photos of `old` are here."""
        if old is not None:
            replace_file(self.folder / CARRIED, f"{old.name}\n".encode("ascii"))

    @property
    def has_gallery(self) -> bool:
        """Whether there is a gallery yet."""
        return (self.folder / "gallery").is_dir()

    def gallery(self, write: bool = False) -> Gallery:
        """Open the gallery; the caller closes it. Raises DamagedError, also when it belongs to another hasher."""
        from hashcli.gallery import Gallery

        gallery = Gallery.open(self.folder / "gallery", write=write)
        if gallery.hasher_digest != self.hasher.digest:
            gallery.close()
            raise DamagedError(
                f"the gallery in {self.folder} was made by another hasher", "`hashcli library rollback` goes back"
            )
        return gallery


def read_generation(folder: Path) -> Generation:
    """The generation in `folder`. Raises FileNotFoundError, DamagedError, NewerFormatError."""
    path = folder / "generation.json"
    record = read_json(path)
    check_record(record, path, VERSION)
    if record.get("format") != FORMAT or record.get("state") not in ("complete", "staged"):
        raise DamagedError(f"{path} is not what hashcli wrote", "`hashcli library rollback` goes back")
    created, refused = str(record.get("created", "")), record.get("refused") is True
    return Generation(folder.name, folder, record["state"], record.get("parent"), created, refused)


def write_generation(folder: Path, state: State, parent: str | None, refused: bool = False) -> None:
    """Write the generation's own file, now as its time of making."""
    created = datetime.now(UTC).isoformat(timespec="seconds")
    record = {"format": FORMAT, "version": VERSION, "state": state, "parent": parent, "created": created}
    if refused:
        record["refused"] = True
    write_json(folder / "generation.json", record)


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Put the record, with a checksum of it, in place of `path`, atomically and durably."""
    replace_file(path, (json.dumps(record | {"crc32": _crc32(record)}, indent=2) + "\n").encode("ascii"))


def read_json(path: Path) -> dict[str, Any]:
    """What `write_json` wrote. Raises OSError, and DamagedError for anything but a JSON object."""
    try:
        record = json.loads(path.read_bytes())
    except ValueError:
        record = None
    if not isinstance(record, dict):
        raise DamagedError(f"{path} is not what hashcli wrote", "`hashcli library verify` looks at every file")
    return record


def check_record(record: dict[str, Any], path: Path, newest: int) -> None:
    """Refuse a record that `write_json` did not write, or in a format later than `newest`."""
    version = record.get("version")
    if not isinstance(version, int) or version < 1:
        raise DamagedError(f"{path} has no readable version", "`hashcli library verify` looks at every file")
    if version > newest:
        raise versions.newer(str(path), version, newest)
    if record.get("crc32") != _crc32(record):
        raise DamagedError(f"{path} is not what hashcli wrote", "`hashcli library repair` writes it anew")


def _crc32(record: dict[str, Any]) -> str:
    plain = {name: value for name, value in record.items() if name != "crc32"}
    return f"{zlib.crc32(json.dumps(plain, sort_keys=True).encode()):08x}"
