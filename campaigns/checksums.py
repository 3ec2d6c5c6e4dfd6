"""How much damage beyond a single bit do the checksums miss?

    python -m campaigns.checksums

Bursts of 2 to 64 bytes of noise, each in a sealed record (CRC-32) and in a block of codes (a 64-bit sum a plane); and
pairs of bits flipped anywhere in one block, of which the sums miss those that make up for each other: one in 16,000.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from pathlib import Path

import numpy as np

from campaigns.results import write
from hashcli.checksums import plane_sums
from hashcli.errors import DamagedError
from hashcli.records import Record, decode_record, encode_record


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=500_000)
    parser.add_argument("--blocks", type=int, default=100_000)
    parser.add_argument("--pairs", type=int, default=500_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="where the result goes (default: among the committed ones)")
    options = parser.parse_args()
    start, draw = time.monotonic(), random.Random(options.seed)
    sound = encode_record(7, Record(0, b"holiday/0007.jpg", 1, 2, bytes(range(16)), "a label", "src"), bytes(4))
    words = np.random.default_rng(options.seed).integers(0, 2**64, (1, 1024), dtype=np.uint64)
    sums = plane_sums(words)
    missed = {"records": 0, "blocks": 0, "pairs": 0}
    for _ in range(options.records):
        data = _burst(sound, draw)
        try:
            decode_record(7, data)
            missed["records"] += data != sound
        except DamagedError:
            continue
    for _ in range(options.blocks):
        data = _burst(words.tobytes(), draw)
        damaged = np.frombuffer(data, np.uint64).reshape(words.shape)
        missed["blocks"] += plane_sums(damaged) == sums and bool((damaged != words).any())
    block = np.random.default_rng(options.seed).integers(0, 2**64, (1, 16384), dtype=np.uint64)
    sums = plane_sums(block)
    for _ in range(options.pairs):
        pair = [(draw.randrange(16384), np.uint64(1 << draw.randrange(64))) for _ in range(2)]
        for place, bit in pair:
            block[0, place] ^= bit
        missed["pairs"] += plane_sums(block) == sums and pair[0] != pair[1]
        for place, bit in pair:
            block[0, place] ^= bit
    done = {"records": options.records, "blocks": options.blocks, "pairs": options.pairs, "seed": options.seed}
    result = {**done, "missed": missed}
    write("checksums", result, time.monotonic() - start, options.out)
    print(json.dumps(result, indent=1))
    return int(missed["records"] + missed["blocks"] > 0)


def _burst(sound: bytes, draw: random.Random) -> bytes:
    data = bytearray(sound)
    size = draw.choice([2, 4, 8, 64])
    place = draw.randrange(len(data) - size + 1)
    data[place : place + size] = draw.randbytes(size)
    return bytes(data)


if __name__ == "__main__":
    sys.exit(main())
