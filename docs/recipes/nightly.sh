#!/usr/bin/env bash
# Nightly: index what came in, forget what is gone, check the library once a week, and mail only when something is wrong.
#   crontab -e:   15 3 * * *  $HOME/bin/nightly.sh
# cron mails whatever a job prints, so this prints nothing as long as all is well.
set -uo pipefail

log=${HASHCLI_LOG:-${XDG_STATE_HOME:-$HOME/.local/state}/hashcli/nightly.log}
failed=${log%.log}-failed.jsonl
mkdir -p "$(dirname "$log")"

hashcli index --prune --report "$failed" >>"$log" 2>&1
code=$?
if [ "$(date +%u)" = 7 ]; then
    hashcli library verify >>"$log" 2>&1 || code=$?
fi
case $code in
0) ;;
3) echo "hashcli: $(wc -l <"$failed") photos could not be read, see $failed" ;;
*) echo "hashcli index ended with $code:" && tail -n 5 "$log" ;;
esac
exit "$code"
