"""Photo files -> content digests and cached features: what is known is looked up, the rest decoded and encoded."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hashcli.decoding import Decoded, decode_all
from hashcli.encoding import Session, bulk_session
from hashcli.features import FeatureCache
from hashcli.identity import IdentityCache
from hashcli.photos import DECODE_RULE, DIGEST_SIZE, PhotoFile
from hashcli.progress import Progress, Silent
from hashcli.walking import Problem

if TYPE_CHECKING:
    from hashcli.backbones import ExportedBackbone, Spec
    from hashcli.library import Library

IN_FLIGHT = 2  # batches that are being encoded or wait for it; what an interrupted run loses is at most one more
READ_BATCH = 1024  # of photos that were only read


PhotoFailure = Problem  # of a photo that was met and could not be read


@dataclass(frozen=True)
class Extracted:
    """What is known of n photos; `digests` and `rows` are aligned with the files given.

    digests    content digests; None where the contents could not be read
    rows       (n,) int64 rows of the feature cache; -1 for photos that failed
    failures   one per failed photo, in the order of the files
    n_read     photos that were opened: the others were known by their stat
    n_encoded  photos that went through the backbone
    """

    digests: list[bytes | None]
    rows: NDArray[np.int64]
    failures: list[PhotoFailure]
    n_read: int
    n_encoded: int


def extract(
    files: Sequence[PhotoFile],
    backbone: ExportedBackbone,
    library: Library,
    *,
    workers: int | None = None,
    device: str = "auto",
    progress: Progress | None = None,
    session: Session | None = None,
) -> Extracted:
    """See that the library's caches hold digest and feature of every photo that can be read.

    device    where to encode (`encoding.bulk_session`, unless there is a `session` already)

    Photos whose stat is known are not opened, contents that are known are not decoded, and the same contents
    are encoded once. While a batch is encoded the next ones are decoded, and those before it are committed: a run
    that is interrupted goes on where it was. A photo that fails is reported each time, and decoded again only
    when its contents or the decoder change. A cached feature that is damaged is dropped and made again: the rows
    of the result were all read and found whole. Raises MachineError when decoders or backbone cannot be started,
    and the caches' errors.
    """
    spec, talk = backbone.spec, progress or Silent()
    with library.identity() as identity, library.features(spec) as cache:
        run = _Run(files, identity, cache, _rule(spec))
        if run.n_damaged:
            talk.say(f"{run.n_damaged} cached features are damaged; their photos are read again")
        if not run.todo:
            return run.result()
        session = session or bulk_session(backbone, device, len(run.todo), talk)
        with talk.task("reading photos", len(files)) as task, _one_thread() as encoder:
            task.advance(len(files) - len(run.todo))
            todo = [files[i] for i in run.todo]
            ahead = IN_FLIGHT * session.batch
            with closing(decode_all(todo, spec.size, spec.fit, workers, known=run.is_known, ahead=ahead)) as decoded:
                for result in decoded:
                    run.add(run.todo[result.index], result)
                    task.advance()
                    if run.is_full(session.batch):
                        run.encode(encoder, session)
                        run.commit(IN_FLIGHT)
            run.encode(encoder, session)
            run.commit(0)
        return run.result()


@contextmanager
def _one_thread() -> Iterator[ThreadPoolExecutor]:
    """A thread that takes up nothing new when the work before it fails."""
    thread = ThreadPoolExecutor(1)
    try:
        yield thread
    finally:
        thread.shutdown(cancel_futures=True)


def _rule(spec: Spec) -> str:
    """Under which conditions a photo that failed may be taken to fail again."""
    decoders = ", ".join(f"{name} {_version(name)}" for name in ("pillow", "pillow-heif", "rawpy"))
    return f"{DECODE_RULE}; {spec.size} {spec.fit}; {decoders}"


def _version(package: str) -> str:
    from importlib import metadata  # slow to import, and needed only when photos are read

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"


@dataclass
class _Batch:
    """What is written to the caches at once. `features` are those of `pixels`, when they are there."""

    read: list[tuple[PhotoFile, bytes]] = field(default_factory=list)
    failed: list[tuple[bytes, str]] = field(default_factory=list)
    pixels: list[tuple[bytes, NDArray[np.uint8]]] = field(default_factory=list)
    features: Future[NDArray[np.float16]] | None = None


class _Run:
    """The books of one extraction. `is_known` is asked by the decoders' threads, the rest by one thread."""

    def __init__(self, files: Sequence[PhotoFile], identity: IdentityCache, cache: FeatureCache, rule: str) -> None:
        self.files, self._identity, self._cache, self._rule = files, identity, cache, rule
        self._started = time.time_ns()
        self._digests = identity.get(files)
        self.n_damaged = 0  # cached features that had to be dropped
        self._seen = set(self._settled([digest for digest in self._digests if digest is not None]))
        self._lock = threading.Lock()
        self.todo = [i for i, digest in enumerate(self._digests) if digest not in self._seen]
        self._unread: dict[int, str] = {}
        self._n_encoded = 0
        self._batch = _Batch()
        self._waiting: deque[_Batch] = deque()

    def _settled(self, digests: Sequence[bytes]) -> list[bytes]:
        """Those of the contents whose feature or failure is known."""
        self.n_damaged += self._cache.drop_damaged(digests)
        rows, reasons = self._cache.rows(digests), self._identity.failures(digests, self._rule)
        return [digest for digest, row, reason in zip(digests, rows, reasons, strict=True) if row >= 0 or reason]

    def is_known(self, digest: bytes) -> bool:
        """Whether these contents need not be decoded, because they were before, or are being so right now."""
        with self._lock:
            known = digest in self._seen or bool(self._settled([digest]))
            self._seen.add(digest)
            return known

    def add(self, index: int, result: Decoded) -> None:
        """Book what became of photo `index`."""
        if result.digest is None:
            self._digests[index] = None
            self._unread[index] = result.reason or "cannot be read"
            return
        self._digests[index] = result.digest
        self._batch.read.append((self.files[index], result.digest))
        if result.reason is not None:
            self._batch.failed.append((result.digest, result.reason))
        elif result.pixels is not None:
            self._batch.pixels.append((result.digest, result.pixels))

    def is_full(self, batch: int) -> bool:
        """Whether `batch` photos wait to be encoded, or many others to be booked."""
        return len(self._batch.pixels) == batch or len(self._batch.read) == READ_BATCH

    def encode(self, encoder: ThreadPoolExecutor, session: Session) -> None:
        """Begin to encode what waits, and open another batch."""
        if self._batch.pixels:
            pixels = np.stack([pixels for _, pixels in self._batch.pixels])
            self._batch.features = encoder.submit(session.features, pixels)
        self._waiting.append(self._batch)
        self._batch = _Batch()

    def commit(self, in_flight: int) -> None:
        """Write batches to the caches until `in_flight` are left; features first, as all else leads there."""
        while len(self._waiting) > in_flight:
            batch = self._waiting.popleft()
            if batch.features is not None:
                self._cache.append([digest for digest, _ in batch.pixels], batch.features.result())
                self._n_encoded += len(batch.pixels)
            self._identity.put_failures(batch.failed, self._rule)
            self._identity.put(batch.read, self._started)

    def result(self) -> Extracted:
        """The state of all photos, from the caches."""
        digests = [digest or bytes(DIGEST_SIZE) for digest in self._digests]
        rows = self._cache.rows(digests)
        bad = np.flatnonzero(rows < 0).tolist()
        reasons = self._identity.failures([digests[i] for i in bad], self._rule)
        failures = [
            PhotoFailure(self.files[i].full, self._unread.get(i) or reason or "was not encoded")
            for i, reason in zip(bad, reasons, strict=True)
        ]
        return Extracted(self._digests, rows, failures, len(self.todo), self._n_encoded)
