"""A folder of photos as the user means it: its files, its classes by subfolder or CSV, and what was wrong with it."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from hashcli.errors import UsageError
from hashcli.photos import PhotoFile, escape
from hashcli.progress import Progress, Silent
from hashcli.walking import NothingReadError, Problem, WalkOptions, folders, walk

Labels = tuple[str, ...]


@dataclass(frozen=True)
class Collection:
    """Photos of one folder in path order; labels[i] belongs to files[i], () where a photo has none.

    captions (`captions.with_captions`) likewise, "" where there is none; empty where nobody looked for them.
    """

    root: bytes
    files: list[PhotoFile]
    problems: list[Problem]
    labels: list[Labels] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)

    @property
    def classes(self) -> list[str]:
        """The names of all classes, sorted."""
        return sorted({label for labels in self.labels for label in labels})

    @property
    def multi_label(self) -> bool:
        """Whether some photo carries more than one label."""
        return any(len(labels) > 1 for labels in self.labels)


def real_folder(folder: Path, option: str) -> bytes:
    """The folder's real absolute path. Raises UsageError when it is not a folder that can be read."""
    if not folder.exists():
        raise UsageError(
            f"{option}: there is no folder {_shown(folder)}", "check the spelling; paths are relative to here"
        )
    if not folder.is_dir():
        raise UsageError(f"{option}: {_shown(folder)} is a file, and a folder is needed")
    if not os.access(folder, os.R_OK | os.X_OK):
        raise UsageError(f"{option}: the folder {_shown(folder)} may not be read", f"chmod u+rx {_shown(folder)}")
    return os.path.realpath(os.fsencode(folder))


def check_apart(one: bytes, other: bytes, options: str) -> None:
    """Raises UsageError when the two folders are the same or one lies in the other."""
    if one == other or os.path.commonpath([one, other]) in (one, other):
        raise UsageError(
            f"{options} overlap: {escape(one)} and {escape(other)}",
            "a photo can only belong to one of them: give two folders of which neither contains the other",
        )


def collect(folder: Path, option: str, options: WalkOptions) -> Collection:
    """Walk a folder for photos, without opening any; one that links lead to as well counts once.

    Raises UsageError when it is no folder, NothingReadError when it holds none.
    """
    root = real_folder(folder, option)
    found = walk(root, options)
    files = [item for item in found if isinstance(item, PhotoFile)]
    problems = [item for item in found if isinstance(item, Problem)]
    if not files:
        filtered = " that --include and --exclude let through" if options.include or options.exclude else ""
        seen = f"; {len(problems)} files could not be used, the first: {problems[0].reason}" if problems else ""
        extra = next((problem.extra for problem in problems if problem.extra), None)
        hint = f"pip install 'hashcli[{extra}]'" if extra else "JPEG, PNG, WebP, TIFF... are looked for, subfolders too"
        raise NothingReadError(f"{option}: no photos{filtered} in {_shown(folder)}{seen}", hint, problems)
    files = _counted_once(files)
    return Collection(root, files, problems, [() for _ in files])


def _counted_once(files: list[PhotoFile]) -> list[PhotoFile]:
    """The files without the links to photos that are there already, under their own name or by an earlier link."""
    links = {file.full: os.path.realpath(file.full) for file in files if file.linked}
    if not links:
        return files
    seen = {file.full for file in files if file.full not in links}
    kept = []
    for file in files:
        real = links.get(file.full)
        if real is None or real not in seen:
            kept.append(file)
        if real is not None:
            seen.add(real)
    return kept


def labeled_by_folder(collection: Collection) -> Collection:
    """Class = first-level subfolder; photos right in the folder have none."""
    tops = [folder_label(file.path) for file in collection.files]
    return replace(collection, labels=[(top,) if top else () for top in tops])


def folder_label(path: bytes) -> str | None:
    """The class of a photo at `path`, relative to its collection: the first-level subfolder, None outside of any."""
    top, slash, _ = path.partition(b"/")
    return escape(top) if slash else None


def labeled_by_csv(collection: Collection, table: Path, option: str, progress: Progress) -> Collection:
    """Labels from a CSV with the header `path,labels`: paths relative to the CSV, `;` between several labels.

    Says which rows name no photo. Raises UsageError that names the line for a bad header or row, or when no photo gets
    a label.
    """
    cells = read_column(collection, table, "labels", option, progress)
    return replace(collection, labels=[_split(cell) for cell in cells])


class LabelTable:
    """Labels from a CSV as for `labeled_by_csv`, read once and looked up photo by photo."""

    def __init__(self, table: Path) -> None:
        """Raises UsageError that names the line for a bad header or row."""
        self._table, self._cells = table, _read_table(table, "labels", "--labels")
        self._strange = set(self._cells)

    def labels_of(self, file: PhotoFile) -> Labels:
        """The photo's labels, () where the table has none."""
        path = os.path.realpath(file.full)
        self._strange.discard(path)
        return _split(self._cells.get(path, ""))

    def check_fits(self, where: Sequence[bytes], options: WalkOptions) -> None:
        """Raises UsageError when no photo of these folders has a label, which takes a look at all of them."""
        found = (item for path in where for folder in folders(path, options) for item in folder.photos())
        if not any(self.labels_of(item) for item in found if isinstance(item, PhotoFile)):
            raise _fits_nothing("--labels", self._table, " or ".join(map(escape, where)))

    def say_strange(self, where: str, progress: Progress) -> None:
        """Say which rows name none of the photos asked for so far, those of `where`."""
        _say_strange("--labels", self._table, self._strange, len(self._cells), where, progress)


def read_column(collection: Collection, table: Path, column: str, option: str, progress: Progress) -> list[str]:
    """The cell of each photo in a CSV with the header `path,COLUMN` (paths relative to the CSV); "" where it has none.

    Says which rows name no photo. Raises UsageError that names `option` and the line for a bad header or row, or when
    no photo gets a cell.
    """
    by_path = _read_table(table, column, option)
    n_rows = len(by_path)
    cells = [by_path.pop(os.path.realpath(file.full), "") for file in collection.files]
    where = escape(collection.root)
    if not any(cells):
        raise _fits_nothing(option, table, where)
    _say_strange(option, table, by_path, n_rows, where, progress)
    return cells


def _say_strange(option: str, table: Path, paths: Iterable[bytes], n_rows: int, where: str, progress: Progress) -> None:
    strange = sorted(paths)
    if strange:
        progress.say(
            f"{option}: {len(strange):,} of {n_rows:,} paths in {_shown(table)} are no photo of {where}, "
            f"the first: {escape(strange[0])}"
        )


def _split(cell: str) -> Labels:
    words = dict.fromkeys(word.strip() for word in cell.split(";"))
    return tuple(word for word in words if word)


def _fits_nothing(option: str, table: Path, where: str) -> UsageError:
    return UsageError(
        f"{option}: no path in {_shown(table)} is a photo of {where}",
        "paths in the table are relative to the table's own folder",
    )


def _read_table(table: Path, column: str, option: str) -> dict[bytes, str]:
    if not table.is_file():
        raise UsageError(f"{option}: there is no file {_shown(table)}")
    base = os.path.realpath(os.fsencode(table.parent))
    found: dict[bytes, str] = {}
    try:
        with open(table, newline="", encoding="utf-8-sig", errors="surrogateescape") as text:
            rows = csv.reader(text)
            header = next(rows, [])
            if [cell.strip().lower() for cell in header] != ["path", column]:
                raise UsageError(f"{option}: the first line of {_shown(table)} must be `path,{column}`")
            for row in rows:
                if not row:
                    continue
                if len(row) != 2:
                    raise UsageError(f"{option}: line {rows.line_num} of {_shown(table)} has {len(row)} columns, not 2")
                if "\0" in row[0]:
                    raise UsageError(f"{option}: line {rows.line_num} of {_shown(table)} has a NUL byte in its path")
                found[os.path.realpath(os.path.join(base, os.fsencode(row[0])))] = row[1]
    except csv.Error as error:
        raise UsageError(f"{option}: {_shown(table)} is no CSV file: {error}") from error
    return found


def with_classes(
    collection: Collection, table: Path | None, option: str, progress: Progress | None = None
) -> Collection:
    """The collection labeled by the CSV (`labeled_by_csv`), or else by its subfolders.

    Raises UsageError when that gives no class or only one.
    """
    if table:
        labeled = labeled_by_csv(collection, table, "--labels", progress or Silent())
    else:
        labeled = labeled_by_folder(collection)
    classes = labeled.classes
    where = escape(collection.root)
    if not classes:
        raise UsageError(
            f"{option}: {where} has no class subfolders",
            "put each class in its own subfolder (mug/1.jpg, shoe/2.jpg ...), or give --labels FILE.csv",
        )
    if len(classes) == 1:
        raise UsageError(
            f"{option}: {where} has one class only ({classes[0]}), and at least 2 are needed to learn from",
            "add a second subfolder, or learn without labels: hashcli train DIR --method dsah",
        )
    return labeled


def _shown(path: Path) -> str:
    return escape(os.fsencode(path))
