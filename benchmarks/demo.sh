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

tell "Learn 64-bit codes that fit both, and index both. Photos stay as they are; what is learned goes to demo/library."
if [ -e demo/library/current ]; then
    echo "# (done by an earlier make demo; remove demo/library to see it again)"
else
    run hashcli adapt --src demo/studio --tgt demo/phone --library demo/library
fi

tell "Search with a phone photo of a 7 that took no part in training. Photos with equal codes are ordered by their looks."
run hashcli query demo/held-out/7/000.png --library demo/library --format table

tell "Was adapting worth it? Three methods learn from the same photos; then 180 held-out phone photos look for studio" \
    "photos of the same digit. map: mean average precision. itq sees no labels, source-only does not adapt, couple does."
if [ -e demo/measured.txt ]; then
    echo "# (by an earlier make demo; remove demo/measured.txt to measure again)"
    cat demo/measured.txt
else
    run hashcli eval --src demo/studio --tgt demo/phone --queries demo/held-out --method itq,source-only,couple \
        --seeds 1 --library demo/library --format table | tee demo/measured.part
    mv demo/measured.part demo/measured.txt
fi

cat <<'END'

# Where to go next (put .venv/bin on your PATH, or write .venv/bin/hashcli)
#   hashcli adapt --src LABELED_FOLDER --tgt YOUR_PHOTOS     the same with your own photos
#   hashcli query PHOTO --format paths                       bare paths, for pipes
#   hashcli methods                                          what else is installed; `hashcli methods NAME` explains one
#   hashcli library info --library demo/library              what a library holds
END
