# workers-start
# shellcheck shell=bash

file=$RUN/worker.pid
total=$(($(sed -n 's/^MemTotal: *\([0-9]*\).*/\1/p' /proc/meminfo) / 1024))
reserve=$MEMORY_RESERVE
[ "$reserve" -gt 0 ] || reserve=$((total / 10 > 1024 ? total / 10 : 1024))
memory=$MEMORY
[ "$memory" -gt 0 ] || memory=$((total - reserve))
[ "$memory" -ge 512 ] || fail "only $memory MiB are left for a worker ($total less $reserve): set MEMORY or MEMORY_RESERVE"
cores=$CORES
[ "$cores" -gt 0 ] || cores=$(nproc)
fact cores "$cores"
fact memory "$memory"

if alive "$file"; then
    arguments=$(tr '\0' '\n' <"/proc/$PID/cmdline")
    if grep -qxF "$MASTER_URL" <<<"$arguments"; then
        # What it was started with counts, whatever is asked for now.
        runs_with=$(grep -xA1 -e --cores <<<"$arguments" | tail -n 1)
        fact cores "${runs_with:-$cores}"
        runs_with=$(grep -xA1 -e --memory <<<"$arguments" | tail -n 1)
        runs_with=${runs_with%m}
        fact memory "${runs_with:-$memory}"
        echo "already runs (pid $PID)"
        exit 0
    fi
    end_session "$file" 15 || :
fi
launch "$file" "$LOGS/worker.log" "$SPARK_HOME/bin/spark-class" org.apache.spark.deploy.worker.Worker \
    --host "$ADDRESS" --port "$WORKER_PORT" --webui-port "$WORKER_UI_PORT" --cores "$cores" --memory "${memory}m" "$MASTER_URL"
ready() { ! alive "$file" || grep -q 'Successfully registered with master' "$LOGS/worker.log"; }
wait_until 120 ready || fail "the worker did not reach the master $MASTER_URL within 120 s: is it up, is its port open? See make logs LOG=worker"
alive "$file" || {
    tail -n 5 "$LOGS/worker.log"
    fail "the worker ended at once: $(tail -n 1 "$LOGS/worker.log")"
}
echo "$cores cores, $memory MiB (pid $PID)"
