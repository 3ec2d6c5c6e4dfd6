"""Decoding many photos in worker processes, each photo at its own risk: it can crash, hang or swell, and costs itself.

A thread of this process stands behind each worker and hands it one photo after the other, also while the caller works
on what came before.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hashcli.decoder import takes_too_long
from hashcli.photos import MAX_PIXELS, Fit, PhotoError, PhotoFile, decode, digest, read

if TYPE_CHECKING:
    from concurrent.futures import Future

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
    ahead: int = AHEAD,
) -> Generator[Decoded, None, None]:
    """Read and decode all photos in worker processes; results in the order of `files`, up to `ahead` of their taking.

    A photo that takes longer than `timeout` seconds, more than `memory_limit` bytes, or that crashes its worker
    comes back with a reason. A photo whose digest is `known` (asked from several threads) is not decoded. The
    workers end when the iterator is closed or dropped, and with this process, however it ends.
    Raises MachineError when workers cannot be started.
    """
    from concurrent.futures import ThreadPoolExecutor  # these are not for the one photo of a query
    from queue import SimpleQueue

    from hashcli.worker import Worker

    options = [str(size), fit, str(timeout), str(max_pixels), str(memory_limit)]
    n_workers = max(1, min(workers or default_workers(), len(files)))
    everyone = [Worker(options, timeout) for _ in range(n_workers)]
    idle: SimpleQueue[Worker] = SimpleQueue()
    for worker in everyone:
        idle.put(worker)

    def decoded(index: int) -> Decoded:
        worker = idle.get()
        try:
            found, answer = worker.ask(files[index].full, 3 * size * size, wanted)
        finally:
            idle.put(worker)
        if isinstance(answer, str):
            return Decoded(index, found, reason=answer)
        return Decoded(index, found, np.frombuffer(answer, np.uint8).reshape(size, size, 3) if answer else None)

    def wanted(found: bytes) -> bool:
        return known is None or not known(found)

    threads = ThreadPoolExecutor(n_workers)
    waiting: deque[Future[Decoded]] = deque()
    try:
        for index in range(len(files)):
            waiting.append(threads.submit(decoded, index))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for worker in everyone:
            worker.stop()
        threads.shutdown(cancel_futures=True)
        for worker in everyone:
            worker.close()


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
