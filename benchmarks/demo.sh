#!/usr/bin/env bash
# hashcli's whole story on real images, command by command: adapt, query, compare. Run it by `make demo`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH="$PWD/.venv/bin:$PATH"

tell() { printf '\n# %s\n' "$@"; }
run() {
    printf '\n$ %s\n' "$*"
    "$@"
}

tell "Two collections of handwritten digits. studio/ has labels: its subfolders. phone/ has none and looks different."
run python benchmarks/demo_data.py demo

tell "Learn 64-bit codes that fit both, and index both. Photos stay where they are; all else goes to demo/library."
run hashcli adapt --src demo/studio --tgt demo/phone --library demo/library

tell "Search with a phone photo that took no part in training. Studio photos among the nearest carry their label."
run hashcli query demo/held-out/7/000.png --library demo/library

tell "Was adapting worth it? Three methods are trained, apart from the library's; 180 held-out phone photos are the queries."
run hashcli eval --src demo/studio --tgt demo/phone --queries demo/held-out --method itq,source-only,couple \
    --seeds 1 --library demo/library

cat <<'END'

# Where to go next (put .venv/bin on your PATH, or write .venv/bin/hashcli)
#   hashcli adapt --src LABELED_FOLDER --tgt YOUR_PHOTOS     the same with your own photos
#   hashcli query PHOTO --format paths                       bare paths, for pipes
#   hashcli methods                                          what else is installed; `hashcli methods NAME` explains one
#   hashcli library info --library demo/library              what a library holds
END
