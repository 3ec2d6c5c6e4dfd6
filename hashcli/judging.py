"""A freshly fitted hasher put beside the one in use, on the photos of its own training job."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from hashcli.encoder import Encoder
from hashcli.health import SOURCE, TARGET, Encode, Photos, Probe
from hashcli.helped import Helped, compare
from hashcli.parts import Part, label_array

if TYPE_CHECKING:
    from hashcli.codes import Packed
    from hashcli.fitting import FittedHasher
    from hashcli.hasher import Hasher
    from hashcli.jobs import TrainingJob
    from hashcli.library import Library


def judge(job: TrainingJob, fitted: FittedHasher, library: Library) -> Helped:
    """What became better and worse against the library's hasher, and whether the new one has collapsed.

    The hasher in use may look at photos through another backbone: then it is tried on the features that it left in
    the cache, or where some are missing, not at all, which is said.
    """
    source = _photos(job.labeled, job.classes) if "src" in job.parts else None
    held = _photos(job.held, job.classes) if job.held_out else None
    own = _photos(job.parts["tgt"], None) if "tgt" in job.parts else source
    assert own is not None
    probe = Probe(own, TARGET if "tgt" in job.parts else SOURCE, source, held).sampled()
    current = library.current()
    hasher = current.hasher if current else None
    old = _encode(hasher, job, library, probe) if hasher else None
    helped = compare(
        probe,
        lambda photos, domain: fitted.codes(photos.features, domain),
        old,
        n_classes=len(job.classes),
        same_length=hasher is not None and hasher.n_bits == job.n_bits,
        seen=hasher.seen if hasher else frozenset(),
    )
    if hasher and not old:
        helped.warnings.append(
            f"the hasher in use looks at photos through {hasher.spec.name}, which has not seen all of these, "
            "so the two are not compared"
        )
    return helped


def _photos(part: Part, classes: list[str] | None) -> Photos:
    labels = None if classes is None else label_array(part.labels, classes, multi_label=True)
    return Photos(part.features, part.digests, labels)


def _encode(hasher: Hasher, job: TrainingJob, library: Library, probe: Probe) -> Encode | None:
    """The hasher as `health` uses it; None where it needs features that are not cached."""
    encoder = Encoder(hasher)

    def of_own(photos: Photos, domain: int) -> Packed:
        return encoder.codes(photos.features, np.full(len(photos), domain, np.int64))

    if hasher.spec.key == job.backbone.spec.key:
        return of_own
    digests = sorted({digest for some in (probe.own, probe.source, probe.held) if some for digest in some.digests})
    cache = library.kept_features(hasher.spec)
    if cache is None:
        return None
    with cache:
        rows = cache.rows(digests)
        if (rows < 0).any():
            return None
        cached = dict(zip(digests, cache.take(rows), strict=True))

    def of_cached(photos: Photos, domain: int) -> Packed:
        return of_own(replace(photos, features=np.stack([cached[digest] for digest in photos.digests])), domain)

    return of_cached
