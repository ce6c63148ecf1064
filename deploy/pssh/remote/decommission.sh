# workers-remove: the worker takes no more tasks; when its executors are through, it is ended.
# shellcheck shell=bash

file=$RUN/worker.pid
if ! alive "$file"; then
    end_session "$file" 5 || :
    echo "no worker runs here"
    exit 0
fi
worker=$PID
before=$(executors_of "$worker" | wc -l)
kill -PWR "$worker"
# The master tells the driver, and the driver the executor. But one that only begins is not known to the driver yet: it
# would get tasks for ever. So each is told here too, until its log says that it heard. (One that does not catch SIGPWR
# would die of it.)
heard() { grep -qsaiE 'decommission executor|(will exit when|already|finished) (started |finished )?decommission' "/proc/$1/cwd/stderr"; }
catches_power() { [ $((0x$(sed -n 's/^SigCgt:[[:space:]]*//p' "/proc/$1/status" 2>/dev/null || echo 0) >> 29 & 1)) = 1 ]; }
next=$SECONDS
idle() {
    local pid left=
    for pid in $(executors_of "$worker"); do
        left=yes
        if [ "$SECONDS" -ge "$next" ] && catches_power "$pid" && ! heard "$pid"; then kill -PWR "$pid" 2>/dev/null || :; fi
    done
    if [ "$SECONDS" -ge "$next" ]; then next=$((SECONDS + 4)); fi
    [ -z "$left" ] || ! alive "$file"
}
if wait_until "$DECOMMISSION_TIMEOUT" idle; then
    how="its $before executor(s) finished what they had"
else
    how="its executor(s) were not through after $DECOMMISSION_TIMEOUT s, their tasks are done again elsewhere"
fi
end_session "$file" 15 || :
echo "removed; $how"
