# master-stop, workers-stop: end the sessions of pid files that match NAMES.
# shellcheck shell=bash

ended=
for file in $(compgen -G "$RUN/$NAMES" || :); do
    if end_session "$file" 15; then ended="$ended $(basename "$file" .pid)"; fi
done
if [ -n "$ended" ]; then echo "ended$ended"; else echo "already stopped"; fi
