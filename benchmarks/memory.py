"""Peak memory of whole queries, mapped pages included.

python benchmarks/memory.py --scratch DIR                    over the library of startup.py
python benchmarks/memory.py --scratch DIR --photos 10000000  another size, printed and not kept
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from startup import HASHCLI, PHOTOS, made
from timing import Row, finish, machine, peak_bytes

from hashcli.library import Library

SEARCH = """import sys; from pathlib import Path; import numpy as np; from hashcli.gallery import Gallery
from hashcli.roots import Roots; from hashcli.ties import nearest_by_path
with Gallery.open(Path(sys.argv[1])) as gallery, gallery.snapshot():
    code = np.zeros((1, gallery.n_bits // 8), np.uint8)
    gallery.records(nearest_by_path(gallery, Roots(gallery), code, 1002, None, 12)[0][0])"""
INTRO = """\
    python benchmarks/memory.py

The most that a whole process held. A search is that of a query for its 10 nearest. *Beyond the codes*: without the
mapped codes themselves, which the system may take back whenever it likes."""


def main() -> None:
    """Measure, print, and keep the results of the usual size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scratch", type=Path, help="default: a temporary folder")
    parser.add_argument("--photos", type=int, default=PHOTOS)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.scratch or Path(temporary)
        library, photo = made(folder, chosen.photos)
        gallery = Library.open(library).require().folder / "gallery"
        query = [HASHCLI, "query", photo, "--quiet", "--library", library]
        indexed = [HASHCLI, "query", folder / "photos" / "000-1.jpg", "--quiet", "--library", library]
        search = [sys.executable, "-c", SEARCH, gallery]
        size = f"{chosen.photos:,} photos"
        rows = [
            Row(f"query of an unseen photo, {size}", "", megabytes(query), None, "MB", at_most=200, rounds=1),
            Row(f"query of an indexed photo, {size}", "", megabytes(indexed), None, "MB", at_most=200, rounds=1),
        ]
        for kernel in ("numpy", ""):
            held = megabytes(search, HASHCLI_KERNEL=kernel) - 8 * chosen.photos / 1e6
            what = f"search of {size}, {kernel or 'fastest'} kernel, beyond the codes"
            rows.append(Row(what, "", held, None, "MB", at_most=150, rounds=1))
    finish("memory", machine(), rows, INTRO, keep=chosen.photos == PHOTOS)


def megabytes(command: list[str | Path], **env: str) -> float:
    """The most that a command held."""
    return peak_bytes(command, env) / 1e6


if __name__ == "__main__":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    main()
