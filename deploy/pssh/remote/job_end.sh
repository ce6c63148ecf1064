# run: the exit code of a job, or a signal to it (USR1 is handed on as INT, TERM as TERM).
# shellcheck shell=bash

file=$RUN/job-$JOB.pid
if [ -n "$SIGNAL" ]; then
    if alive "$file"; then kill "-$SIGNAL" "$PID"; fi
    echo sent
elif alive "$file"; then
    fact running yes
    echo running
else
    fact running no
    fact code "$(cat "$RUN/job-$JOB.exit" 2>/dev/null || echo 137)"
    end_session "$file" 5 || : # The exit code stays: this answer may be lost, and is asked for again.
    echo ended
fi
