"""watch(): index again whenever something changes in the indexed folders, until a signal ends it.

Where the system does not tell of changes (network file systems, too many folders), it is looked every few seconds.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hashcli.errors import LockedError, MachineError
from hashcli.mounts import is_network_folder
from hashcli.photos import escape
from hashcli.progress import Progress
from hashcli.roots import inside, relative

if TYPE_CHECKING:
    from hashcli.library import Library

SETTLE_MS = 1600  # changes within this time are one change: an upload is many small writes
POLL_MS = 2000
RETRY_SECONDS = 5.0  # between two tries while another process writes to the library

Paths = set[bytes]


def watch(
    library: Library,
    folders: Sequence[Path],
    index: Callable[[Sequence[Path]], None],
    progress: Progress,
    hidden: bool = False,
) -> None:
    """Call `index` with `folders`, then with those that changed, again and again; none: all that are indexed.

    Folders whose names begin with a dot, and those in them, are called with only if `hidden`.
    Ends only by an exception, such as a signal handler's. Raises MachineError when the extra is not installed, and
    what `index` raises, except that another writer is waited for.
    """
    check_installed()
    roots = {os.path.realpath(os.fsencode(folder)) for folder in folders} or _indexed(library)
    own = os.path.realpath(bytes(library.folder))  # what indexing itself writes, where a root contains the library
    here = sorted(root for root in roots if os.path.isdir(root))
    changes: queue.Queue[Paths | BaseException] = queue.Queue()
    stop = threading.Event()
    # the watcher would take a signal's exception for its own, so it gets a thread and signals go to the main one
    threading.Thread(target=_listen, args=(here, changes, stop, progress), daemon=True).start()
    try:
        _patiently(index, folders, progress)  # after the watch has begun, or what changes meanwhile would be missed
        progress.say(f"watching {', '.join(map(escape, here))}; Ctrl-C ends it")
        while True:
            changed = changes.get()
            if isinstance(changed, BaseException):
                raise changed
            if some := changed_folders(changed, here, own, hidden):
                _patiently(index, [Path(os.fsdecode(folder)) for folder in some], progress)
    finally:
        stop.set()


def check_installed() -> None:
    """Raises MachineError that names the extra when it is not installed."""
    try:
        import watchfiles  # noqa: F401
    except ImportError:
        raise MachineError("--watch needs an extra that is not installed", "pip install 'hashcli[watch]'") from None


def changed_folders(
    paths: Collection[bytes], roots: Collection[bytes], own: bytes, hidden: bool = False
) -> list[bytes]:
    """The folders to look through after these paths changed: those that are still there, none inside another.

    Below a root, folders whose names begin with a dot are left out unless they are wanted (`hidden`). The folder `own`
    and what is in it count for nothing, also where looking finds the folder itself changed.
    """
    found: Paths = set()
    for path in paths:
        if path == own or inside(path, own):
            continue
        folder = os.path.dirname(path)
        while not os.path.isdir(folder):
            folder = os.path.dirname(folder)
        around = [relative(folder, root) for root in roots if folder == root or inside(folder, root)]
        if any(hidden or b"/." not in b"/" + path for path in around):
            found.add(folder)
    return sorted(folder for folder in found if not any(inside(folder, other) for other in found))


def _indexed(library: Library) -> Paths:
    with library.require().gallery() as gallery:
        return {root.path for root in gallery.roots()}


def _patiently(index: Callable[[Sequence[Path]], None], folders: Sequence[Path], progress: Progress) -> None:
    told = False
    while True:
        try:
            index(folders)
            return
        except LockedError as error:
            if not told:
                progress.say(f"{error}; waiting")
            told = True
            time.sleep(RETRY_SECONDS)


def _listen(
    roots: Sequence[bytes], changes: queue.Queue[Paths | BaseException], stop: threading.Event, progress: Progress
) -> None:
    """Put what changes below the roots into the queue, and what ends this as well."""
    polling = any(is_network_folder(Path(os.fsdecode(root))) for root in roots)
    try:
        try:
            _pass_on(roots, changes, stop, polling)
        except (OSError, RuntimeError) as error:
            progress.say(f"the system does not tell of changes ({error}), so it is looked every few seconds")
            _pass_on(roots, changes, stop, polling=True)
    except BaseException as error:  # for the main thread to raise
        changes.put(error)


def _pass_on(
    roots: Sequence[bytes], changes: queue.Queue[Paths | BaseException], stop: threading.Event, polling: bool
) -> None:
    import watchfiles

    for found in watchfiles.watch(
        *map(os.fsdecode, roots),
        watch_filter=None,
        debounce=SETTLE_MS,
        stop_event=stop,
        force_polling=polling or None,
        poll_delay_ms=POLL_MS,
        raise_interrupt=False,
    ):
        changes.put({os.fsencode(path) for _, path in found})
