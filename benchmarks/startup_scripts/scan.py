"""The bare search: numpy over the blocks in the map, ten paths read. GALLERY [whatever]"""

import os
import sys

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
import lmdb
import numpy as np

HEADER, SLOTS = 2224, 16384  # of a block
PATH_SIZE, PATH = slice(41, 43), 45  # in a record


def nearest(folder, code, k=10):
    """The k nearest (distance, path)."""
    env = lmdb.open(folder, readonly=True, max_dbs=8, lock=False)
    query = code.view("<u8")[0]
    with env.begin(buffers=True) as txn:
        best, limit = [], 65
        for number, (_, value) in enumerate(txn.cursor(env.open_db(b"blocks", txn, create=False))):
            distances = np.bitwise_count(np.frombuffer(value, "<u8", offset=HEADER) ^ query)
            for slot in np.flatnonzero(distances < limit):
                best.append((int(distances[slot]), number * SLOTS + int(slot)))
            best = sorted(best)[:k]
            limit = best[-1][0] if len(best) == k else 65
        records = env.open_db(b"records", txn, create=False)
        found = [(distance, txn.get(slot.to_bytes(8, "big"), db=records)) for distance, slot in best]
        return [
            (distance, bytes(record[PATH:][: int.from_bytes(record[PATH_SIZE], "little")]))
            for distance, record in found
        ]


if __name__ == "__main__":
    import typer  # noqa: F401  # the command line costs every user of Typer as much

    for distance, path in nearest(sys.argv[1], np.zeros(8, np.uint8)):
        print(distance, path, sep="\t")
