"""One training job: which photos go in, the key its checkpoints lie under, the hasher that comes out."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hashcli import __version__, backbones, calibration, registry, settings
from hashcli.carrying import Given
from hashcli.codes import check_n_bits
from hashcli.errors import LibraryError, MachineError, UsageError
from hashcli.holding import held_out_record
from hashcli.parts import Part, label_array
from hashcli.photos import escape
from hashcli.progress import Event, Progress
from hashcli.records import DOMAINS

if TYPE_CHECKING:
    from hashcli.backbones import ExportedBackbone
    from hashcli.calibration import Calibration
    from hashcli.encoder import BackboneSession
    from hashcli.fitting import FittedHasher
    from hashcli.helped import Helped
    from hashcli.library import Library
    from hashcli.method import HashMethod, Tuning
    from hashcli.records import Domain

Means = NDArray[np.float32]


def checked_method(
    name: str, words: Sequence[str], n_bits: int, backbone: str, finetune: str = "none"
) -> type[HashMethod]:
    """The method's class, once the names, settings and code length asked for are known to be right (UsageError)."""
    check_n_bits(n_bits)
    backbones.check_name(backbone)
    method = registry.load(name)
    settings.parse(method.Settings, words, name)
    if finetune != "none" and not method.finetunes:
        able = [other for other in registry.installed() if _loads(other) and registry.load(other).finetunes]
        raise UsageError(f"{name} cannot train the backbone (--finetune)", f"methods that can: {', '.join(able)}")
    return method


def _loads(name: str) -> bool:
    try:
        return bool(registry.load(name))
    except MachineError:
        return False


@dataclass(frozen=True)
class TrainingJob:
    """A method with its settings, and the parts ("src" labeled, "tgt" never labeled) it learns from.

    held_out: digests of labeled photos that it does not learn from (`holding`); they are indexed like the others.
    finetune: none, or which layers of the backbone are trained too; pretrained: the backbone it began with, once
    `backbone` is the one that came of that.
    """

    method: str
    words: tuple[str, ...]
    n_bits: int
    seed: int
    backbone: ExportedBackbone
    parts: dict[Domain, Part]
    held_out: frozenset[bytes] = frozenset()
    finetune: str = "none"
    pretrained: ExportedBackbone | None = None

    @property
    def classes(self) -> list[str]:
        """Names of the source's classes, in the order of their numbers."""
        return self.parts["src"].collection.classes if "src" in self.parts else []

    @cached_property
    def labeled(self) -> Part:
        """The labeled photos of the source to learn from; the others below it are indexed and not learned from."""
        part = self.parts["src"]
        return part.take([i for i, own in enumerate(part.labels) if own and part.digests[i] not in self.held_out])

    @property
    def held(self) -> Part:
        """The labeled photos of the source that were held out."""
        part = self.parts["src"]
        return part.take([i for i, own in enumerate(part.labels) if own and part.digests[i] in self.held_out])

    @property
    def seen(self) -> list[bytes]:
        """Digests of the photos that take part in training, sorted."""
        parts = [self.labeled if domain == "src" else part for domain, part in self.parts.items()]
        return sorted({digest for part in parts for digest in part.digests})

    @cached_property
    def key(self) -> str:
        """Equal for jobs that compute the same weights."""
        plugin = registry.find(self.method)
        chosen = settings.record(settings.parse(registry.load(self.method).Settings, self.words, self.method))
        made = [__version__, plugin.package, plugin.version, self.method, chosen]
        plan = [*made, self.n_bits, self.seed, (self.pretrained or self.backbone).spec.key, self.finetune]
        said = hashlib.blake2b(json.dumps(plan).encode(), digest_size=12)
        for domain, part in sorted(self.parts.items()):
            said.update(domain.encode())
            for digest, labels in zip(part.digests, part.labels, strict=True):
                said.update(digest + "\0".join(labels).encode("utf-8", "surrogateescape") + b"\0")
            for caption in part.captions:
                said.update(caption.encode("utf-8", "surrogateescape") + b"\0")
        for digest in sorted(self.held_out):
            said.update(digest)
        return said.hexdigest()

    def fit(
        self, progress: Progress, device: str, checkpoint: Path, tune: Callable[[Means], Tuning] | None = None
    ) -> FittedHasher:
        """Train, `tune` as `fitting.fit_method` takes it. Raises what that raises."""
        from hashcli import towers
        from hashcli.fitting import Labeled, Unlabeled, fit_method

        source = target = None
        if "src" in self.parts:
            labels = label_array(self.labeled.labels, self.classes, self.parts["src"].collection.multi_label)
            captions = self.labeled.captions or None
            tower = partial(towers.of, self.backbone, progress)
            source = Labeled(self.labeled.features, labels, partial(self._read, self.labeled), captions, tower)
        if "tgt" in self.parts:
            target = Unlabeled(self.parts["tgt"].features, partial(self._read, self.parts["tgt"]))
        return fit_method(
            self.method,
            self.words,
            source,
            target,
            n_classes=len(self.classes),
            n_bits=self.n_bits,
            seed=self.seed,
            progress=progress,
            device=device,
            checkpoint=checkpoint,
            encode=self._features,
            tune=tune,
        )

    def write_hasher(
        self, fitted: FittedHasher, folder: Path, events: list[Event], device: str, helped: Helped
    ) -> None:
        """Export what was fitted and write the hasher's folder. Raises MachineError."""

        from hashcli.fitting import text_means
        from hashcli.hasher import Hasher
        from hashcli.network import export_head
        from hashcli.text_tower import TextTower

        plugin = registry.find(self.method)
        with tempfile.TemporaryDirectory(prefix="hashcli-") as scratch:
            head = Path(scratch, "head.onnx")
            export_head(fitted.means, fitted.fitted.image, head, self.backbone.spec.dim, self.n_bits)
            text_head, text_dim, words = None, None, fitted.words
            if fitted.fitted.text is not None and words is not None:
                text_head, text_dim = Path(scratch, "text.onnx"), len(words)
                export_head(text_means(text_dim), fitted.fitted.text, text_head, text_dim, self.n_bits)
            Hasher.write(
                folder,
                exported=self.backbone,
                head_path=head,
                method=self.method,
                settings=settings.record(fitted.method.settings),
                n_bits=self.n_bits,
                seed=self.seed,
                threads=fitted.threads,
                centering=fitted.method.centering,
                classes=self.classes,
                seen=self.seen,
                log=events,
                package=plugin.package,
                package_version=plugin.version,
                device=device,
                text_head_path=text_head,
                text_dim=text_dim,
                vocabulary=words.record() if words is not None else None,
                tower_path=words.path if isinstance(words, TextTower) else None,
                calibration=self._calibration(fitted),
                training={
                    "job": self.key,
                    "held_out": held_out_record(self.held_out),
                    "helped": helped.record(),
                    "finetune": self.finetune,
                },
            )

    def _calibration(self, fitted: FittedHasher) -> Calibration | None:
        """Match probability by distance, from the held-out photos against those learned from."""
        if not self.held_out:
            return None
        parts = (self.held, self.labeled)
        held, others = (fitted.codes(part.features, DOMAINS.index("src")) for part in parts)
        multi_label = self.parts["src"].collection.multi_label
        held_labels, labels = (label_array(part.labels, self.classes, multi_label) for part in parts)
        return calibration.fit(held, held_labels, others, labels)

    def given(self, library: Library) -> Iterator[Given]:
        """All readable photos, labeled or not, as the gallery takes them."""
        for domain, part in self.parts.items():
            with library.features(self.backbone.spec) as cache:
                rows = cache.rows(part.digests)
            captions: Sequence[str | None] = part.captions or [None] * len(part)
            photos = zip(part.files, part.labels, part.digests, rows, captions, strict=True)
            for file, labels, digest, row, caption in photos:
                yield Given(file, domain, ";".join(labels) or None, digest, int(row), caption)

    def _features(self, pixels: NDArray[np.uint8]) -> NDArray[np.float16]:
        return self._session.features(pixels)

    @cached_property
    def _session(self) -> BackboneSession:
        from hashcli.encoder import BackboneSession

        return BackboneSession(self.backbone.folder, self.backbone.spec)

    def photos(self, wanted: Sequence[tuple[str, NDArray[np.int64]]]) -> Generator[NDArray[np.uint8], None, None]:
        """Pixels (len(rows), s, s, 3) of rows of the training data, for each ("source" or "target", rows) in turn."""
        return self._pixels([(self.labeled if name == "source" else self.parts["tgt"], rows) for name, rows in wanted])

    def _read(self, part: Part, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        return next(self._pixels([(part, rows)]))

    def _pixels(self, wanted: Sequence[tuple[Part, NDArray[np.int64]]]) -> Generator[NDArray[np.uint8], None, None]:
        """Decoded some photos ahead of their taking. Raises LibraryError for one that cannot be read any more."""
        from hashcli.decoding import decode_all

        spec = self.backbone.spec
        files = [part.files[row] for part, rows in wanted for row in rows]
        with closing(decode_all(files, spec.size, spec.fit)) as decoded:
            for part, rows in wanted:
                block = []
                for row, photo in zip(rows, decoded, strict=False):
                    if photo.pixels is None:
                        raise LibraryError(
                            f"{escape(part.files[row].full)} can no longer be read: {photo.reason}",
                            "run the same command again",
                        )
                    block.append(photo.pixels)
                yield np.stack(block)
