"""hashcli from Python: learn from two folders, then search. Run it with your own folders, or in the tutorial's."""

import sys

import hashcli


def main(studio: str, phone: str, snapshot: str, library: str) -> None:
    """Learn from `studio` (a subfolder per class) and `phone`, then look for `snapshot` in both."""
    lib = hashcli.Library(library)
    report = lib.adapt(studio, phone, method="coral-itq", bits=64)
    print(f"{report.method}: {report.n_indexed} photos indexed")

    for match in lib.query(snapshot, k=5, unique=True):
        sure = "" if match.confidence is None else f"{match.confidence:.0%}"
        print(match.rank, match.distance, sure, match.label or "-", match.file)

    try:
        lib.query("no-such-photo.jpg")
    except hashcli.UsageError as error:
        print(f"as expected: {error} ({error.hint})")


if __name__ == "__main__":
    main(*sys.argv[1:])
