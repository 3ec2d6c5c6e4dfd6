"""Permissions that bind root as well, so that what they forbid can be tried in any account."""

from __future__ import annotations

import ctypes
import os
import sys

_DROP_FROM_BOUNDING_SET = 24  # of prctl(2)
_VERSION = 0x20080522  # of capget(2) and capset(2): two words of 32 bits for each of three sets
_PASS_OVER_PERMISSIONS = (1, 2)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH


def heed() -> None:
    """From now on, permissions bind this process and all that it starts. Raises OSError where that cannot be."""
    if os.geteuid() != 0:
        return
    if sys.platform != "linux":
        raise OSError("root can lay down this right on Linux alone")
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(_VERSION, 0), (ctypes.c_uint32 * 6)()
    _check(libc.capget(header, sets))
    for capability in _PASS_OVER_PERMISSIONS:
        if libc.prctl(23, capability, 0, 0, 0):  # is it there at all?
            _check(libc.prctl(_DROP_FROM_BOUNDING_SET, capability, 0, 0, 0))
        for low in range(3):
            sets[low] &= ~(1 << capability)
    _check(libc.capset(header, sets))


def _check(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
