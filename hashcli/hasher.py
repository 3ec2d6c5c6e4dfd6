"""The hasher's folder on disk: format `hashcli-hasher`, version 1. No other module knows it.

hasher.json     what made the hasher, and size and SHA-256 of each other file; itself sealed by `digest`
backbone.onnx   pixels -> feature (a hard link to the exported backbone where the file system has them)
head.onnx       feature, domain -> relaxed code
text.onnx, vocabulary.json   where the method learned from captions
tower.onnx      where their features are those of a text tower; vocabulary.json is then its tokenizer
seen.bin        sorted 16-byte digests of the photos that took part in training
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hashcli import __version__, hasher_record, onnx_check
from hashcli.backbones import FILE_NAME, ExportedBackbone, Spec
from hashcli.codes import check_n_bits
from hashcli.errors import DamagedError, LibraryError, UsageError
from hashcli.photos import DECODE_RULE

if TYPE_CHECKING:
    from hashcli.calibration import Calibration

RECORD, HEAD, TEXT_HEAD, VOCABULARY, SEEN = "hasher.json", "head.onnx", "text.onnx", "vocabulary.json", "seen.bin"
TOWER = "tower.onnx"
REQUIRED = frozenset([FILE_NAME, HEAD, SEEN])
WORDS = frozenset([TEXT_HEAD, VOCABULARY])
DIGEST_BYTES = 16


@dataclass(frozen=True)
class Hasher:
    """An opened hasher: `record` is hasher.json, `spec` its backbone."""

    folder: Path
    record: dict[str, Any]
    spec: Spec

    @classmethod
    def write(
        cls,
        folder: Path,
        *,
        exported: ExportedBackbone,
        head_path: Path,
        method: str,
        settings: dict[str, Any],
        n_bits: int,
        seed: int,
        threads: int,
        centering: str,
        classes: Sequence[str] = (),
        seen: Iterable[bytes] = (),
        log: Iterable[tuple[str, dict[str, Any]]] = (),
        package: str = "",
        package_version: str = "",
        device: str = "cpu",
        text_head_path: Path | None = None,
        text_dim: int | None = None,
        vocabulary: dict[str, Any] | None = None,
        tower_path: Path | None = None,
        calibration: Calibration | None = None,
        training: dict[str, Any] | None = None,
    ) -> Hasher:
        """Write a hasher into `folder` (made if absent) and open it as anyone would.

        classes, seen, log   names in the order of their numbers; digests of training photos; (event, counts)
        package   who offers the method, with its version
        training  key of the job, the choice of held-out photos, whether it helped (`jobs`)

        Raises OSError, and DamagedError when what was given is not a hasher.
        """
        folder.mkdir(parents=True, exist_ok=True)
        _link_or_copy(exported.path, folder / FILE_NAME)
        shutil.copyfile(head_path, folder / HEAD)
        digests = sorted(set(seen))
        if any(len(d) != DIGEST_BYTES for d in digests):
            raise ValueError(f"digests of photos have {DIGEST_BYTES} bytes")
        (folder / SEEN).write_bytes(b"".join(digests))
        names = [FILE_NAME, HEAD, SEEN]
        if text_head_path is not None:
            shutil.copyfile(text_head_path, folder / TEXT_HEAD)
            (folder / VOCABULARY).write_text(json.dumps(vocabulary), "utf-8")
            names += [TEXT_HEAD, VOCABULARY]
        if tower_path is not None:
            _link_or_copy(tower_path, folder / TOWER)
            names += [TOWER]
        record: dict[str, Any] = {
            "format": hasher_record.FORMAT,
            "version": hasher_record.VERSION,
            "method": method,
            "package": package,
            "package_version": package_version,
            "settings": settings,
            "n_bits": n_bits,
            "seed": seed,
            "threads": threads,
            "device": device,
            "centering": centering,
            "classes": list(classes),
            "backbone": exported.spec.record(),
            "text_dim": text_dim,
            "calibration": calibration.record() if calibration else None,
            "training": training or {},
            "log": [[event, dict(counts)] for event, counts in log],
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "hashcli": __version__,
            "files": {name: hasher_record.state(folder / name) for name in names},
        }
        record["digest"] = hasher_record.seal(record)
        (folder / RECORD).write_text(json.dumps(record, indent=1), "utf-8")
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path) -> Hasher:
        """Open and check all but the bytes of backbone.onnx and tower.onnx, checked when `encoder` loads them.

        Raises DamagedError, NewerFormatError, and LibraryError when photos are decoded otherwise today.
        """
        record = hasher_record.read(folder / RECORD)
        try:
            spec = Spec.from_record(record["backbone"])
            check_n_bits(record["n_bits"])
        except (ValueError, UsageError) as error:
            raise DamagedError(f"{folder / RECORD} is damaged: {error}") from None
        hasher = cls(folder, record, spec)
        hasher._check_files()
        if spec.decode_rule != DECODE_RULE:
            raise LibraryError(
                f"the hasher in {folder} was made for photos read by the rule {spec.decode_rule!r}; "
                f"this hashcli reads them by {DECODE_RULE!r}",
                "train again with `hashcli adapt` or `hashcli train`",
            )
        return hasher

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the record, and through the hashes in it of every file: what a gallery belongs to."""
        return str(self.record["digest"])

    @property
    def method(self) -> str:
        """Name of the method that made it."""
        return str(self.record["method"])

    @property
    def settings(self) -> dict[str, Any]:
        """The method's settings."""
        return dict(self.record["settings"])

    @property
    def n_bits(self) -> int:
        """Length of its codes."""
        return int(self.record["n_bits"])

    @property
    def seed(self) -> int:
        """The seed it was trained with."""
        return int(self.record["seed"])

    @property
    def classes(self) -> list[str]:
        """Names of the source's classes in the order of their numbers; empty when it learned without labels."""
        return list(self.record["classes"])

    @property
    def backbone_folder(self) -> Path:
        """The folder with backbone.onnx."""
        return self.folder

    @property
    def backbone(self) -> ExportedBackbone:
        """Its backbone, as `backbones.exported` would give it."""
        return ExportedBackbone(self.folder, self.spec)

    @property
    def head_path(self) -> Path:
        """head.onnx."""
        return self.folder / HEAD

    @property
    def text_head_path(self) -> Path | None:
        """text.onnx, with the ports of a head of `record["text_dim"]` inputs, if the method learned from captions."""
        return self.folder / TEXT_HEAD if TEXT_HEAD in self.record["files"] else None

    @property
    def vocabulary(self) -> dict[str, Any] | None:
        """What turns words into text features. Raises DamagedError."""
        if VOCABULARY not in self.record["files"]:
            return None
        return hasher_record.read_json(self.folder / VOCABULARY)

    @property
    def tower(self) -> tuple[Path, str] | None:
        """tower.onnx and its SHA-256 (hex), where texts become features by it."""
        state = self.record["files"].get(TOWER)
        return (self.folder / TOWER, str(state.get("sha256"))) if state else None

    @property
    def training(self) -> dict[str, Any]:
        """What `jobs` said of the training; empty where it said nothing."""
        record = self.record.get("training")
        return record if isinstance(record, dict) else {}

    @cached_property
    def calibration(self) -> Calibration | None:
        """What gives results a match probability; None where no labeled photos were held out. Raises DamagedError."""
        record = self.record.get("calibration")
        if record is None:
            return None
        from hashcli.calibration import Calibration

        try:
            return Calibration.from_record(record, self.n_bits)
        except (ValueError, AttributeError) as error:
            raise DamagedError(f"{self.folder / RECORD} is damaged: {error}") from None

    @cached_property
    def seen(self) -> frozenset[bytes]:
        """Digests of the photos that took part in training."""
        data = (self.folder / SEEN).read_bytes()
        return frozenset(data[i : i + DIGEST_BYTES] for i in range(0, len(data), DIGEST_BYTES))

    def verify(self) -> None:
        """Look at every byte. Raises DamagedError that names the file."""
        for name, state in self.record["files"].items():
            if hasher_record.state(self.folder / name) != state:
                raise hasher_record.not_written(self.folder / name)
        files = [(FILE_NAME, onnx_check.backbone_ports(self.spec.size, self.spec.dim))]
        files += [(HEAD, onnx_check.head_ports(self.spec.dim, self.n_bits))]
        if self.text_head_path is not None:
            files += [(TEXT_HEAD, onnx_check.head_ports(self.record["text_dim"], self.n_bits))]
        if self.tower is not None:
            from hashcli.bpe import Tokenizer

            tokenizer = Tokenizer.from_record(self.vocabulary or {}, str(self.folder / VOCABULARY))
            files += [(TOWER, onnx_check.tower_ports(tokenizer.context, self.record["text_dim"]))]
        for name, ports in files:
            onnx_check.check((self.folder / name).read_bytes(), ports, str(self.folder / name))

    def _check_files(self) -> None:
        """Names, sizes, and the hashes of all files but backbone and tower; the backbone's must be the spec's."""
        files = self.record["files"]
        names = set(files)
        if names - WORDS - {TOWER} != REQUIRED or names & WORDS not in ([WORDS] if TOWER in names else [WORDS, set()]):
            raise DamagedError(f"{self.folder / RECORD} lists the files {', '.join(sorted(names))}")
        if (TEXT_HEAD in names) != isinstance(self.record["text_dim"], int):
            raise DamagedError(f"{self.folder / RECORD} does not say how wide text features are")
        if files[FILE_NAME].get("sha256") != self.spec.digest:
            raise hasher_record.not_written(self.folder / FILE_NAME)
        for name, state in files.items():
            path = self.folder / name
            if name in (FILE_NAME, TOWER):
                if hasher_record.size(path) != state.get("bytes"):
                    raise hasher_record.not_written(path)
            elif hasher_record.state(path) != state:
                raise hasher_record.not_written(path)
        if files[SEEN]["bytes"] % DIGEST_BYTES:
            raise hasher_record.not_written(self.folder / SEEN)


def _link_or_copy(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)
