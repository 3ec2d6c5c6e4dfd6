"""One decoder process (`hashcli.decoder`) as its parent sees it: started when needed, replaced when it dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import hashcli
from hashcli.decoder import HELLO, LENGTH, takes_too_long
from hashcli.errors import MachineError

_GRACE = 10.0  # seconds that a process may be late in killing itself
_START = 60.0
_PIPE = 1 << 18


class Worker:
    """At most one decoder process at a time, asked by one thread."""

    def __init__(self, options: list[str], timeout: float) -> None:
        self._options, self._timeout = options, timeout
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False
        self._deadline = 0.0

    def ask(self, path: bytes, n_pixels: int, wanted: Callable[[bytes], bool]) -> tuple[bytes | None, bytearray | str]:
        """Digest and pixels of one photo, or the reason why there are none.

        The pixels are empty when the digest was not `wanted`. The digest is None when the file could not be read,
        took too long, or when the system killed the process: that may go better another time.
        Raises MachineError when no process can be started.
        """
        process = self._running()
        digest: bytes | None = None
        self._deadline = time.monotonic() + self._timeout + _GRACE
        try:
            self._send(process, LENGTH.pack(len(path)) + path)
            kind = self._receive(process, 1)
            if kind == b"d":
                digest = bytes(self._receive(process, 16))
                self._send(process, b"g" if wanted(digest) else b"s")
                kind = self._receive(process, 1)
            if kind == b"e":
                length = LENGTH.unpack(self._receive(process, LENGTH.size))[0]
                return digest, self._receive(process, length).decode()
            return digest, self._receive(process, n_pixels if kind == b"p" else 0)
        except (EOFError, BrokenPipeError):
            reason, lasting = self._autopsy(process)
            self.close()
            return digest if lasting else None, reason

    def stop(self) -> None:
        """End the process at once, and start no other. For any thread; who asks still has to `close`."""
        with self._lock:
            self._stopped = True
            if self._process is not None:
                self._process.kill()

    def close(self) -> None:
        """End the process, if there is one, and let go of it."""
        with self._lock:
            if self._process is not None:
                self._end(self._process)
                self._process = None

    def _running(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                if self._process is not None:
                    self._end(self._process)
                    self._process = None
                if self._stopped:
                    raise MachineError("the decoders were stopped")
                try:
                    self._process = self._started()
                except OSError as error:
                    raise MachineError(f"a decoder process does not start: {error}") from error
            return self._process

    def _started(self) -> subprocess.Popen[bytes]:
        package = os.fspath(Path(hashcli.__file__).parents[1])
        search = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
        command = [sys.executable, "-P", "-m", "hashcli.decoder", *self._options]
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(
                command,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, "PYTHONPATH": search},
                process_group=0,  # Ctrl-C is for the parent, which then stops its workers
            )
            if hasattr(fcntl, "F_SETPIPE_SZ"):  # so that a worker need not wait while we fetch its pixels
                with contextlib.suppress(OSError):
                    fcntl.fcntl(_pipe(process.stdout), fcntl.F_SETPIPE_SZ, _PIPE)
            self._deadline = time.monotonic() + _START
            try:
                self._receive(process, len(HELLO))
            except EOFError as error:
                self._end(process)
                errors.seek(0)
                said = errors.read().decode(errors="replace").split("\n")
                why = next((line for line in reversed(said) if line.strip()), str(error))
                raise MachineError(f"a decoder process does not start: {why}") from error
        return process

    def _send(self, process: subprocess.Popen[bytes], data: bytes) -> None:
        os.write(_pipe(process.stdin), data)  # at most PATH_MAX + 4 bytes into an empty pipe: never in parts

    def _receive(self, process: subprocess.Popen[bytes], n: int) -> bytearray:
        """The next n bytes. Raises EOFError when the process ends before, or is killed for being late."""
        data = bytearray(n)
        rest = memoryview(data)
        pipe = _pipe(process.stdout)
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        while rest:
            if not poll.poll(max(0.0, self._deadline - time.monotonic()) * 1000):
                process.send_signal(signal.SIGALRM)
                raise EOFError("it does not answer")
            got = os.readv(pipe, [rest])
            if not got:
                raise EOFError("it ended")
            rest = rest[got:]
        return data

    def _autopsy(self, process: subprocess.Popen[bytes]) -> tuple[str, bool]:
        """What the photo did to the process that just died of it, and whether it would do so again."""
        try:
            code = process.wait(_GRACE)
        except subprocess.TimeoutExpired:  # stuck in the kernel, where no signal reaches it
            code = -signal.SIGALRM
        if code == -signal.SIGALRM:
            return takes_too_long(self._timeout), False  # the machine may have been busy
        if code == -signal.SIGKILL:
            return "needs more memory than there is: the system killed the decoder", False
        return f"crashes the decoder ({signal.Signals(-code).name if code < 0 else f'exit code {code}'})", True

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # stuck in the kernel: left behind
            process.wait(_GRACE)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def _pipe(stream: IO[bytes] | None) -> int:
    assert stream is not None
    return stream.fileno()
