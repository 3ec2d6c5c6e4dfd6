#!/usr/bin/env bash
# Which studio article is on this phone photo? One CSV line per photo: photo, article, distance, probability.
#   which-article.sh PHONE_FOLDER >articles.csv
# A photo without a sufficiently probable article gets an empty one.
set -euo pipefail

folder=${1:?usage: which-article.sh PHONE_FOLDER}
least=${LEAST:-0.5}

echo "photo,article,distance,confidence"
find "$folder" -type f \( -iname '*.jpg' -o -iname '*.jpeg' -o -iname '*.png' -o -iname '*.heic' \) -print0 |
    hashcli query - -0 --top 1000 --confidence --format jsonl --quiet |
    python3 -c '
import csv, json, sys

least, out, done = float(sys.argv[1]), csv.writer(sys.stdout, lineterminator="\n"), set()
best = {}
for line in sys.stdin:
    found = json.loads(line)
    first = best.setdefault(found["query"], None)
    if first is None and found["domain"] == "src" and found["label"]:
        best[found["query"]] = found
for photo, found in best.items():
    sure = found and (found["confidence"] is None or found["confidence"] >= least)
    out.writerow([photo, *((found[k] for k in ("label", "distance", "confidence")) if sure else ("", "", ""))])
' "$least"
