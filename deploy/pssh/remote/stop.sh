# master-stop, workers-stop, jobs-stop: end the sessions of pid files that match NAMES; each may take GRACE seconds.
# shellcheck shell=bash

stop_one() { if end_session "$1" "$GRACE"; then basename "$1" .pid; fi; }
# All at the same time: several jobs take no longer than one.
said=$(
    for file in $(compgen -G "$RUN/$NAMES" || :); do stop_one "$file" & done
    wait
)
error=$(sed -n 's/^error: //p' <<<"$said" | paste -sd ' ')
[ -z "$error" ] || fail "$error"
if [ -n "$said" ]; then echo "ended $(sort <<<"$said" | paste -sd ' ')"; else echo "already stopped"; fi
