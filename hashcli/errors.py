"""Every failure a user can meet, each with its exit code.

HashcliError                    70  a bug of ours, unless a subclass says better
├── UsageError                   2  the command line asks for something that cannot be
├── LibraryError                 4  the library cannot serve
│   ├── NoLibraryError              there is none, or it has no hasher yet
│   ├── DamagedError                a file is not what was written
│   ├── NewerFormatError            a later hashcli wrote it
│   └── LockedError                 another process is writing
├── MachineError                 5  this machine cannot: extra, weights, device, space, memory
└── RefusedError                 6  the new hasher is worse than the old one
"""

from __future__ import annotations


class HashcliError(Exception):
    """What went wrong, and in `hint` what to type next."""

    exit_code = 70

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(HashcliError):
    """The command line asks for something that cannot be."""

    exit_code = 2


class LibraryError(HashcliError):
    """The library cannot serve this request."""

    exit_code = 4


class NoLibraryError(LibraryError):
    """There is no library here, or it holds no hasher yet."""


class DamagedError(LibraryError):
    """A file of the library is not what hashcli wrote."""


class NewerFormatError(LibraryError):
    """A later version of hashcli wrote this file."""


class LockedError(LibraryError):
    """Another process is writing to the library."""


class MachineError(HashcliError):
    """This machine lacks what the request needs: an extra, weights, a device, space, memory."""

    exit_code = 5


class RefusedError(HashcliError):
    """The new hasher is worse than the one in use, and was not put in its place."""

    exit_code = 6
