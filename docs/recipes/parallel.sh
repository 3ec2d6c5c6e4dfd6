#!/usr/bin/env bash
# Search for very many photos with GNU parallel: each job takes a batch, so that starting up is paid once per batch.
#   find phone -name '*.jpg' -print0 | parallel.sh >matches.jsonl
# (One `hashcli query -` uses all cores by itself; this is for spreading work over machines: parallel --sshlogin.)
set -euo pipefail

parallel --null --keep-order --jobs "${JOBS:-2}" --max-args "${BATCH:-500}" --no-notice \
    'printf "%s\0" {} | hashcli query - --null --format jsonl --quiet --workers 1' || [ $? -lt 4 ]
