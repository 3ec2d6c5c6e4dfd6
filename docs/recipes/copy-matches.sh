#!/usr/bin/env bash
# Link the best matches of a photo into a folder, to look through them in any viewer: copy-matches.sh PHOTO FOLDER [N]
set -euo pipefail

photo=${1:?usage: copy-matches.sh PHOTO FOLDER [N]} folder=${2:?usage: copy-matches.sh PHOTO FOLDER [N]}
mkdir -p "$folder"
rank=0
while IFS= read -r -d '' path; do
    rank=$((rank + 1))
    ln -sf -- "$path" "$folder/$(printf %03d "$rank")-$(basename -- "$path")"
done < <(hashcli query "$photo" --top "${3:-50}" --format paths --null --quiet)
echo "$rank photos in $folder"
