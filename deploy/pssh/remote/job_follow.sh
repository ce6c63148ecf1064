# run: the output of a job from a byte on, until it ends.
# shellcheck shell=bash

pid=0
if alive "$RUN/job-$JOB.pid"; then pid=$PID; fi
trap - EXIT
echo "@begin"
if [ "$pid" = 0 ]; then
    exec tail -c "+$OFFSET" "$LOGS/job-$JOB.log"
fi
exec tail -c "+$OFFSET" -s 0.2 --pid="$pid" -f "$LOGS/job-$JOB.log"
