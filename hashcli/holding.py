"""Which labeled photos are kept out of training, so that a hasher can be measured on photos it never saw."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Sequence

from hashcli.collection import Labels

SHARE = 0.1
LEAST_OF_A_CLASS = 10  # photos below which a class can spare none
SEED = 0  # not the user's --seed: hashers trained with different ones are measured on the same photos


def held_out(
    digests: Sequence[bytes], labels: Sequence[Labels], n_bits: int, taken: Collection[bytes] = ()
) -> frozenset[bytes]:
    """Digests of the photos to hold out: a tenth of each class with at least LEAST_OF_A_CLASS photos.

    digests, labels   (n,) of the source; photos without a label are not held out, copies count once
    n_bits   methods may need more photos than bits: where holding out would leave too few, nothing is
    taken    digests of photos that training sees anyway, such as the target's

    A photo with several labels counts for the rarest of them. Photos are ranked by a keyed hash of their contents:
    the choice stays the same when photos are renamed, and nearly so when some come or go.
    """
    by_digest = {digest: own for digest, own in zip(digests, labels, strict=True) if own}
    frequency = Counter(label for own in by_digest.values() for label in own)
    members: dict[str, list[bytes]] = {}
    for digest, own in by_digest.items():
        members.setdefault(min(own, key=lambda label: (frequency[label], label)), []).append(digest)
    seen = set(taken)
    chosen: set[bytes] = set()
    for some in members.values():
        if len(some) >= LEAST_OF_A_CLASS:
            free = sorted((digest for digest in some if digest not in seen), key=_rank)
            chosen.update(free[: round(SHARE * len(some))])
    if len(by_digest) > n_bits >= len(by_digest) - len(chosen):
        return frozenset()
    return frozenset(chosen)


def held_out_record(chosen: Collection[bytes]) -> dict[str, int | float | str]:
    """How the choice was made, how many photos it took, and a hash of their digests; for the hasher's record."""
    own = hashlib.blake2b(b"".join(sorted(chosen)), digest_size=16).hexdigest()
    return {"share": SHARE, "seed": SEED, "photos": len(chosen), "digest": own}


def _rank(digest: bytes) -> bytes:
    return hashlib.blake2b(digest, digest_size=8, key=SEED.to_bytes(4, "little")).digest()
