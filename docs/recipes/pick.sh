#!/usr/bin/env bash
# Pick one of the look-alikes with fzf and print its path: pick.sh PHOTO | xargs -0 xdg-open
set -eu # not pipefail: fzf may have its answer before the query has written all

photo=${1:?usage: pick.sh PHOTO}
hashcli query "$photo" --top 200 --unique --format paths --null --quiet |
    fzf --read0 --print0 --prompt "like $(basename "$photo")> " \
        --preview 'hashcli query {} --top 5 --format table 2>/dev/null'
