"""What the rest of hashcli needs of the place that holds codes and records, so that another engine could stand in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from hashcli.codes import Packed
from hashcli.records import Domain, Record, Root
from hashcli.scan import Ints

Slots = Sequence[int] | Ints


@dataclass(frozen=True)
class GalleryInfo:
    """What `library info` tells about a gallery."""

    count: int
    slots: int  # given so far, removed ones included
    roots: int
    n_bits: int
    hasher_digest: str
    size_bytes: int
    version: int


class Store(Protocol):
    """Photos under slots. Each call that changes something is one transaction: all of it or nothing, and durable."""

    @property
    def n_bits(self) -> int:
        """Bits of each code."""

    @property
    def hasher_digest(self) -> str:
        """The hasher that made the codes."""

    def close(self) -> None:
        """Give files and connections back."""

    def snapshot(self) -> AbstractContextManager[None]:
        """Inside, all reading sees the state of now, whatever is written meanwhile."""

    def count(self) -> int:
        """Photos held."""

    def info(self) -> GalleryInfo:
        """Sizes and origin."""

    def roots(self) -> list[Root]:
        """All roots by id."""

    def add_root(self, path: bytes, domain: Domain, by_folder: bool = True) -> int:
        """Note a root (see `Root`) and give its id; one that is known under this path keeps its id alone."""

    def set_root(self, root: Root) -> None:
        """Write a root under its id: the photos of a folder that moved keep their records."""

    def append(self, records: Sequence[Record], packed: Packed) -> Ints:
        """Add photos with their codes (n, n_bits // 8) -> their slots (n,), which no photo had before.

        A path that the store holds already passes to its new slot, and the old slot is removed.
        """

    def remove(self, slots: Slots) -> None:
        """Take photos out. Raises ValueError for a slot that holds none."""

    def replace_records(self, changes: Sequence[tuple[int, Record]]) -> None:
        """Give slots new records, codes untouched: photos that moved. Another photo at a new path is removed."""

    def records(self, slots: Slots) -> list[Record]:
        """The records of slots. Raises ValueError for a slot that holds no photo."""

    def paths(self, slots: Slots) -> list[tuple[int, bytes]]:
        """Root and path of slots, quicker than their records. Raises ValueError for a slot that holds no photo."""

    def codes(self, slots: Slots) -> Packed:
        """Packed codes (n, n_bits // 8) of slots. Raises ValueError for a slot that was never given."""

    def slot_of(self, root: int, path: bytes) -> int | None:
        """The slot of a path, if the store holds it."""

    def slots_by_path(self, root: int) -> Iterator[int]:
        """The slots of a root's photos in the order of path bytes. Raises DamagedError."""

    def slots_of_digest(self, digest: bytes) -> list[int]:
        """All slots whose photos have this content, in order."""

    def scan(self) -> Iterator[tuple[int, Record]]:
        """All photos by slot, read piece by piece (in `snapshot()`, of one state). Raises DamagedError."""

    def verify(self) -> list[str]:
        """Compare everything that was written; what is wrong, in words. Empty when all is well."""

    def search(self, packed: Packed, k: int | None, radius: int | None = None) -> list[tuple[Ints, Ints]]:
        """Per query (q, n_bits // 8): (slots, Hamming distances), by distance, then slot.

        The `k` nearest, all within `radius`, or the `k` nearest within it. Raises DamagedError.
        """
