"""Decoding many photos in worker processes, each photo at its own risk: it can crash, hang or swell, and costs itself.

A thread of this process stands behind each worker and hands it one photo after the other. Results come in the order
of the photos; a bounded number waits to be taken.
"""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hashcli.errors import HashcliError
from hashcli.photos import MAX_PIXELS, Fit, PhotoError, PhotoFile, decode, digest, read
from hashcli.worker import Worker, takes_too_long

TIMEOUT = 20.0
MEMORY_LIMIT = 2 << 30
AHEAD = 64


@dataclass(frozen=True)
class Decoded:
    """What became of photo number `index`.

    digest  of its contents; None when they could not be read
    pixels  (size, size, 3) uint8; None when `reason` says why not, or when the digest was known
    """

    index: int
    digest: bytes | None
    pixels: NDArray[np.uint8] | None = None
    reason: str | None = None


def default_workers() -> int:
    """As many decoders as this process may use cores."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def decode_all(
    files: Sequence[PhotoFile],
    size: int,
    fit: Fit,
    workers: int | None = None,
    *,
    timeout: float = TIMEOUT,
    max_pixels: int = MAX_PIXELS,
    memory_limit: int = MEMORY_LIMIT,
    known: Callable[[bytes], bool] | None = None,
) -> Generator[Decoded, None, None]:
    """Read and decode all photos in worker processes; results in the order of `files`.

    A photo that takes longer than `timeout` seconds, more than `memory_limit` bytes, or that crashes its worker
    comes back with a reason. A photo whose digest is `known` (asked from several threads) is not decoded. The
    workers end when the iterator is closed or dropped, and with this process, however it ends.
    Raises MachineError when workers cannot be started.
    """
    options = [str(size), fit, str(timeout), str(max_pixels), str(memory_limit)]
    n_workers = min(workers or default_workers(), len(files))
    pool = _Pool(files, size, [Worker(options, timeout) for _ in range(n_workers)], known)
    try:
        pool.start()
        for index in range(len(files)):
            yield pool.take(index)
    finally:
        pool.stop()


def decode_one(
    file: PhotoFile, size: int, fit: Fit, *, timeout: float = TIMEOUT, max_pixels: int = MAX_PIXELS
) -> Decoded:
    """Read and decode one photo in this process: quicker than starting a worker, and without its protection.

    In the main thread an alarm ends it after `timeout` seconds.
    """
    found = None
    try:
        with _alarm(timeout):
            data = read(file)
            found = digest(data)
            return Decoded(0, found, decode(data, size, fit, max_pixels))
    except PhotoError as error:
        return Decoded(0, found, reason=error.reason)


@contextmanager
def _alarm(timeout: float) -> Iterator[None]:
    """PhotoError after `timeout` seconds; nothing outside the main thread, which alone gets signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_: object) -> None:
        raise PhotoError(takes_too_long(timeout))

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, timeout)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class _Pool:
    """The threads behind the workers, and the results that wait to be taken."""

    def __init__(
        self, files: Sequence[PhotoFile], size: int, workers: Sequence[Worker], known: Callable[[bytes], bool] | None
    ) -> None:
        self._files, self._size, self._workers, self._known = files, size, workers, known
        self._changed = threading.Condition()
        self._results: dict[int, Decoded] = {}
        self._next = self._taken = 0
        self._error: HashcliError | None = None
        self._stopped = False
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        for worker in self._workers:
            thread = threading.Thread(target=self._work, args=(worker,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def take(self, index: int) -> Decoded:
        """The result for photo `index`, which must be the one after the last taken."""
        with self._changed:
            self._changed.wait_for(lambda: index in self._results or self._error is not None)
            if self._error is not None:
                raise self._error
            self._taken += 1
            self._changed.notify_all()
            return self._results.pop(index)

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for worker in self._workers:
            worker.stop()
        for thread in self._threads:
            thread.join()

    def _work(self, worker: Worker) -> None:
        try:
            while (index := self._assigned()) is not None:
                result = self._decoded(worker, index)
                with self._changed:
                    self._results[index] = result
                    self._changed.notify_all()
        except HashcliError as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()
        finally:
            worker.close()

    def _assigned(self) -> int | None:
        """The next photo to decode, once there is room for its result; None when nothing is left to do."""
        with self._changed:
            limit = AHEAD + len(self._workers)
            self._changed.wait_for(
                lambda: self._stopped or self._next == len(self._files) or self._next - self._taken < limit
            )
            if self._stopped or self._next == len(self._files):
                return None
            self._next += 1
            return self._next - 1

    def _decoded(self, worker: Worker, index: int) -> Decoded:
        shape = (self._size, self._size, 3)
        found, answer = worker.ask(self._files[index].full, math.prod(shape), self._wanted)
        if isinstance(answer, str):
            return Decoded(index, found, reason=answer)
        return Decoded(index, found, np.frombuffer(answer, np.uint8).reshape(shape) if answer else None)

    def _wanted(self, found: bytes) -> bool:
        return self._known is None or not self._known(found)
