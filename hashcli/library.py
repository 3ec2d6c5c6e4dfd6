"""A library on disk: one folder with generations (a hasher and its gallery each), caches, and one writer at a time.

LIBRARY/library.json says what the folder is. LIBRARY/current names the generation in use and is replaced
atomically, so that a reader finds the old one or the new one, whole. A generation is built in a folder
`generations/.new-NAME` and renamed when everything in it is on the disk; what a killed writer left is removed
by the next. Readers take no lock: they keep the generation they opened, even when it is pruned meanwhile,
because open files and maps survive their names.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hashcli.errors import DamagedError, HashcliError, LibraryError, LockedError, MachineError, NoLibraryError
from hashcli.generation import Building, Generation, State, check_record, read_json, write_json
from hashcli.generations import Generations

if TYPE_CHECKING:
    from hashcli.backbones import Spec
    from hashcli.features import FeatureCache
    from hashcli.identity import IdentityCache
    from hashcli.inventory import LibraryInfo
    from hashcli.progress import Progress

FORMAT, VERSION = "hashcli-library", 1
MAKE_ONE = "`hashcli adapt --src DIR --tgt DIR` or `hashcli train DIR` makes one; --library DIR names another place"


def default_location() -> Path:
    """The library used when --library is not given: HASHCLI_LIBRARY, else a folder in the user's data directory."""
    chosen = os.environ.get("HASHCLI_LIBRARY")
    if chosen:
        return Path(chosen).expanduser()
    import platformdirs

    return platformdirs.user_data_path("hashcli") / "library"


class Library:
    """An opened library. Make one with `Library.open` or `Library.create`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._generations = Generations(folder)
        self._writing = False

    @classmethod
    def open(cls, folder: Path) -> Library:
        """The library in `folder`; nothing is written.

        Raises NoLibraryError where there is none, NewerFormatError, DamagedError.
        """
        try:
            record = read_json(folder / "library.json")
        except (FileNotFoundError, NotADirectoryError):
            if (folder / "current").exists() and (folder / "generations").is_dir():
                raise DamagedError(f"{folder} has lost its library.json", "`hashcli library repair`") from None
            what = f"{folder} is not a library" if folder.exists() else f"there is no library at {folder}"
            raise NoLibraryError(what, MAKE_ONE) from None
        except OSError as error:
            raise LibraryError(f"the library at {folder} cannot be read: {error.strerror}") from error
        if record.get("format") != FORMAT:
            raise NoLibraryError(f"{folder} is not a library: its library.json belongs to something else", MAKE_ONE)
        check_record(record, folder / "library.json", VERSION)
        return cls(folder)

    @classmethod
    def create(cls, folder: Path) -> Library:
        """The library in `folder`, made if there is none. A folder with other things in it is not touched.

        Raises what `open` raises, and LibraryError where it cannot be made.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            names = set(os.listdir(folder))
            if "library.json" in names or {"current", "generations"} <= names:
                return cls.open(folder)
            if names - {".new-library.json"}:  # what a creator leaves that was killed at the wrong moment
                raise LibraryError(
                    f"{folder} is a folder with other things in it, not a library",
                    "--library DIR: name a folder that is empty or does not exist yet",
                )
            write_json(folder / "library.json", {"format": FORMAT, "version": VERSION})
        except OSError as error:
            raise _explained(error, folder, f"no library can be made at {folder}") from error
        return cls(folder)

    @classmethod
    def at(cls, folder: Path) -> Library:
        """The library in `folder`, or one that the first `writing()` makes there: a mistake before it leaves nothing.

        Raises what `open` raises when there is one.
        """
        return cls.open(folder) if (folder / "library.json").exists() else cls(folder)

    # ---- reading

    def current(self) -> Generation | None:
        """The generation in use; None before the first. Raises DamagedError."""
        return self._generations.current()

    def require(self) -> Generation:
        """The generation in use. Raises NoLibraryError when there is none yet."""
        current = self.current()
        if current is None:
            staged = self.staged()
            hint = "`hashcli index` completes the hasher that waits to be taken into use" if staged else MAKE_ONE
            if staged and staged.refused:
                hint = f"{staged.name} was refused; the command that made it takes it with --force"
            raise NoLibraryError(f"the library at {self.folder} has no hasher in use yet", hint)
        return current

    def staged(self) -> Generation | None:
        """The generation whose gallery `index` has still to complete, if there is one."""
        return self._generations.staged()

    def generations(self) -> list[Generation]:
        """All whole generations, oldest first."""
        return self._generations.all()

    def features(self, spec: Spec) -> FeatureCache:
        """The feature cache of a backbone and its preprocessing, for writing too."""
        from hashcli.features import FeatureCache

        return FeatureCache(self.folder / "features" / spec.key, spec.dim)

    def identity(self) -> IdentityCache:
        """The cache that knows photos' digests by path and stat, for writing too."""
        from hashcli.identity import IdentityCache

        return IdentityCache(self.folder / "identity")

    def kept_features(self, spec: Spec) -> FeatureCache | None:
        """The features of a backbone for reading alone; None where none are kept."""
        from hashcli.features import FeatureCache

        folder = self.folder / "features" / spec.key
        if not (folder / "index").is_dir():
            return None
        try:
            return FeatureCache(folder, spec.dim, write=False)
        except HashcliError:
            if folder.exists():
                raise
            return None  # `drop_features` was quicker

    def drop_features(self) -> None:
        """Delete all feature caches; for those who read them they are gone at once. Only for who is `writing`."""
        kept, gone = self.folder / "features", self.folder / "work" / "features"
        if gone.exists():  # a stopped run left it
            shutil.rmtree(gone)
        if kept.exists():
            gone.parent.mkdir(exist_ok=True)
            kept.rename(gone)
            shutil.rmtree(gone)

    def kept_identity(self) -> IdentityCache | None:
        """The cache of photos' digests for reading alone; None where there is none."""
        from hashcli.identity import IdentityCache

        folder = self.folder / "identity"
        return IdentityCache(folder, write=False) if (folder / "data.mdb").is_file() else None

    def warning(self) -> str | None:
        """What the user should know before anything is written here; None when all is well."""
        from hashcli.mounts import is_network_folder

        kind = is_network_folder(self.folder)
        if kind is None:
            return None
        return f"{self.folder} is on a network file system ({kind}): use this library from one machine at a time"

    def info(self) -> LibraryInfo:
        """Counts, sizes, roots and hashers, for `hashcli library info`."""
        from hashcli.inventory import take

        return take(self)

    # ---- writing: everything below is called inside `writing()`

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Be the library's one writer; finishes or removes what killed writers left.

        Raises LockedError that names the other writer, LibraryError where the folder is read-only, and turns
        a full disk met inside into MachineError.
        """
        Library.create(self.folder)
        try:
            lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise _explained(error, self.folder, f"the library at {self.folder} cannot be written") from error
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise _locked(lock, self.folder) from None
            except OSError as error:  # a file system without locks
                raise _explained(error, self.folder, f"the library at {self.folder} cannot be locked") from error
            os.ftruncate(lock, 0)
            command = shlex.join([os.path.basename(sys.argv[0] or "python"), *sys.argv[1:]])
            os.pwrite(lock, os.fsencode(f"{os.getpid()} {command}\n"), 0)
            self._writing = True
            self._generations.settle()
            yield
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                raise
            raise _explained(error, self.folder, f"the library at {self.folder} cannot be written") from error
        finally:
            self._writing = False
            os.close(lock)

    @contextmanager
    def new_generation(self) -> Iterator[Building]:
        """A folder to build the next generation in; it is removed on leaving unless it was published."""
        self._check_writing()
        building = self._generations.building()
        try:
            yield building
        finally:
            shutil.rmtree(building.folder, ignore_errors=True)  # no longer there when it was published

    def publish(
        self, building: Building, state: State = "complete", progress: Progress | None = None, refused: bool = False
    ) -> Generation:
        """Put a whole generation in its place: a complete one becomes current, a staged one waits beside it.

        The one current until now is kept for `rollback`. A staged one that is `refused` waits for someone to insist
        on it. An older staged one goes, which `progress` says: completed later, it would replace the newer one.
        """
        self._check_writing()
        older = self.staged()
        published = self._generations.publish(building, state, refused)
        if older is not None and progress is not None:
            progress.say(f"the staged hasher {older.name}, which is older than {published.name}, is dropped")
        return published

    def complete(self, staged: Generation) -> Generation:
        """The staged generation's gallery is whole: make it current."""
        self._check_writing()
        return self._generations.complete(staged)

    def rollback(self) -> Generation:
        """Make the previous generation current again; a second rollback undoes the first.

        Raises LibraryError when there is none to go back to: one that was never in use is none.
        """
        self._check_writing()
        return self._generations.rollback()

    def work(self, key: str) -> Path:
        """The folder for checkpoints of the job `key`, made if need be; `drop_work` removes it when it is done."""
        self._check_writing()
        folder = self.folder / "work" / key
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def drop_work(self, key: str) -> None:
        """Remove the checkpoints of a job that is done."""
        self._check_writing()
        shutil.rmtree(self.folder / "work" / key, ignore_errors=True)

    def _check_writing(self) -> None:
        if not self._writing:
            raise RuntimeError("only inside `with library.writing():`")


def _locked(lock: int, folder: Path) -> LockedError:
    from hashcli.photos import escape

    pid, _, command = os.pread(lock, 4096, 0).strip().partition(b" ")
    who = f"process {escape(pid)}: {escape(command)}" if pid else "another process"
    return LockedError(f"the library at {folder} is being written by {who}", "wait until it is done; queries work")


def _explained(error: OSError, folder: Path, what: str) -> LibraryError | MachineError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return MachineError(f"no space left on the disk of {folder}", "`hashcli library clean` drops caches")
    return LibraryError(
        f"{what}: {error.strerror or error}", "check who owns the folder, or name another: --library DIR"
    )
