"""Is a folder on a network file system? LMDB needs a local one: its map and its locks do not travel."""

from __future__ import annotations

import re
from pathlib import Path

_NETWORK = (
    r"nfs\d?|cifs|smb\w*|9p|afs\w*|ceph|glusterfs|lustre|gpfs|beegfs|webdav|davfs"
    r"|fuse\.(sshfs|rclone|s3fs|davfs2?|smbnetfs|ceph\S*|glusterfs|gcsfuse|juicefs)"
)


def is_network_folder(path: Path) -> str | None:
    """The type of the network file system that `path` is on ("nfs4"); None on a local one, or if it cannot be told."""
    place = path.resolve()
    found: tuple[int, str] = (-1, "")
    for mount_point, kind in _mounts():
        if place.is_relative_to(mount_point):
            found = max(found, (len(mount_point), kind), key=lambda pair: pair[0])
    kind = found[1]
    return kind if re.fullmatch(_NETWORK, kind) else None


def _mounts() -> list[tuple[str, str]]:
    """(mount point, type) of all that is mounted."""
    try:
        text = Path("/proc/self/mounts").read_text(errors="surrogateescape")
    except OSError:
        return _mounts_of_macos()
    rows = [line.split(" ") for line in text.splitlines()]
    return [(_unescaped(row[1]), row[2]) for row in rows if len(row) > 2]


def _unescaped(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def _mounts_of_macos() -> list[tuple[str, str]]:
    """`mount` says "//user@server/share on /Volumes/share (smbfs, nodev)"."""
    import subprocess

    try:
        done = subprocess.run(["/sbin/mount"], capture_output=True, text=True, errors="surrogateescape", timeout=5)
    except (OSError, subprocess.SubprocessError):
        return []
    return re.findall(r" on (.+) \((\w+)[,)]", done.stdout)
