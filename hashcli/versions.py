"""Files say which format they have, and in which version: what is said of a later one."""

from __future__ import annotations

from typing import Any

from hashcli.errors import DamagedError, NewerFormatError


def check(record: dict[str, Any], form: str, newest: int, what: str, kind: str) -> None:
    """Refuse a record that is not of format `form` up to version `newest`. Raises DamagedError, NewerFormatError.

    `what` is the file, and `kind` what it should describe, for the message.
    """
    version = record.get("version")
    if record.get("format") != form or type(version) is not int or version < 1:
        raise DamagedError(f"{what} does not describe {kind}")
    if version > newest:
        raise newer(what, version, newest)


def newer(what: str, version: int, newest: int) -> NewerFormatError:
    """What is said of a file in a version later than `newest`."""
    return NewerFormatError(
        f"{what} has format version {version}; this hashcli reads up to {newest}",
        "upgrade it: pip install --upgrade hashcli",
    )
