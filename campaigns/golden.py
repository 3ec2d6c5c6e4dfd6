"""Make the golden library of today's formats: tiny, and committed, so that later versions prove that they read it.

    python -m campaigns.golden tests/golden/format-1.zip

A library of six photos in two folders, with an LMDB file each for the gallery, the features' index and what is known
of files. Its photos' folder is at `/golden`, which need not exist. Never made again once it was released.
"""

from __future__ import annotations

import os
import sys
import tempfile
import zipfile
from pathlib import Path

from campaigns import world
from hashcli.library import Library
from hashcli.records import Root
from tests import tiny


def main() -> None:
    target = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as name, world.here():
        folder = Path(name)
        for i in range(6):
            world.photo(os.fsencode(folder / ("studio/mug" if i % 2 else "phone") / f"{i}.png"), i)
        library = Library.at(folder / "library")
        roots = [(folder / "studio", "src"), (folder / "phone", "tgt")]
        generation, _ = tiny.adapt(library, tiny.backbone(folder / "backbone"), roots)  # type: ignore[arg-type]
        with library.writing(), generation.gallery(write=True) as gallery:
            for root in gallery.roots():
                gallery.set_root(Root(root.id, b"/golden/" + os.path.basename(root.path), root.domain, root.by_folder))
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted((folder / "library").rglob("*")):
                if path.is_file() and path.name not in ("lock", "lock.mdb"):
                    archive.write(path, path.relative_to(folder / "library"))


if __name__ == "__main__":
    main()
