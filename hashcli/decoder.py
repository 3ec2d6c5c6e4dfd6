"""The process that decodes photos, apart from the rest: a file that crashes a decoder takes only this process along.

Started by `hashcli.worker`. It reads requests from stdin and answers on what was stdout:

    request   length (uint32), path            verdict   b"g" go on, b"s" skip the pixels
    answer    b"d" digest (16)                 then, after the verdict, one of
              b"p" pixels (size * size * 3)  |  b"s" nothing  |  b"e" length (uint32), reason (UTF-8)

or b"e" instead of the digest, when the file cannot be read. The first answer, b"h", says that it is ready.
It ends at the end of stdin, so with its parent.
"""

from __future__ import annotations

import os
import resource
import signal
import struct
import sys
from typing import BinaryIO

from hashcli.photos import Fit, PhotoError, PhotoFile, digest, read
from hashcli.pixels import decode_image

HELLO = b"h"
LENGTH = struct.Struct("<I")


def serve(size: int, fit: Fit, timeout: float, max_pixels: int, memory_limit: int) -> None:
    """Answer requests until stdin ends. Whoever takes longer than `timeout` seconds for one is killed by the kernel."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # deadly also in the middle of C code, and without a parent
    _limit(memory_limit)
    requests = os.fdopen(os.dup(0), "rb", buffering=0)
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    _write_all(answers, HELLO)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)  # what libraries print must not mix with the answers
    os.dup2(silence, 2)
    while header := _exactly(requests, LENGTH.size):
        path = _exactly(requests, LENGTH.unpack(header)[0])
        signal.setitimer(signal.ITIMER_REAL, timeout)
        answer = _answer(path, size, fit, max_pixels, requests, answers)
        signal.setitimer(signal.ITIMER_REAL, 0)
        _write_all(answers, answer)


def takes_too_long(timeout: float) -> str:
    """The reason for a photo that was given up."""
    return f"takes longer than {timeout:g} s to decode"


def _answer(path: bytes, size: int, fit: Fit, max_pixels: int, requests: BinaryIO, answers: BinaryIO) -> bytes:
    try:
        data = read(PhotoFile(b"", path, 0, 0, 0, 0))
        _write_all(answers, b"d" + digest(data))
        if _exactly(requests, 1) != b"g":
            return b"s"
        return b"p" + decode_image(data, size, fit, max_pixels).tobytes()
    except PhotoError as error:
        reason = error.reason
    except MemoryError:
        reason = "needs too much memory to read"
    text = reason.encode("utf-8", "replace")[:4096]
    return b"e" + LENGTH.pack(len(text)) + text


def _limit(memory_limit: int) -> None:
    limits = [(resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_DATA, memory_limit)]
    for kind, limit in limits:
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _exactly(stream: BinaryIO, n: int) -> bytes:
    """The next n bytes; empty at the end of the stream."""
    data = b""
    while len(data) < n:
        piece = stream.read(n - len(data))
        if not piece:
            return b""
        data += piece
    return data


def _write_all(stream: BinaryIO, data: bytes) -> None:
    """Write all of `data` to an unbuffered stream."""
    view = memoryview(data)
    while view:
        view = view[stream.write(view) :]


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2], float(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))  # type: ignore[arg-type]
