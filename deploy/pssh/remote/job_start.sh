# run: put the script down and start it; its output goes to a file, so that it does not end with our connection.
# shellcheck shell=bash

[ -x "$PEX" ] || fail "there is no $PEX here: run make pex-install first"
jobs=$REMOTE_DIR/jobs/$CLUSTER
mkdir -p "$jobs/$JOB"
printf '%s' "$SCRIPT" >"$jobs/$JOB/$SCRIPT_NAME"
printf '%s' "$RUNNER" >"$jobs/$JOB/.runner.py"
eval "$ENVIRONMENT"
eval "set -- $ARGS"
export PEX_ROOT PYSPARK_PYTHON="$PEX" MASTER="$MASTER_URL" PYTHONUNBUFFERED=1
export DRIVER_HOST="${DRIVER_HOST:-$ADDRESS}" BIND_ADDRESS="${BIND_ADDRESS:-$ADDRESS}" DRIVER_PORT BLOCK_MANAGER_PORT
unset SPARK_HOME # the pex has its own; the thin one is told below
if ! "$PEX" -c 'import pyspark' 2>/dev/null; then
    export SPARK_HOME=$REMOTE_DIR/spark
    PYTHONPATH="$SPARK_HOME/python:$(compgen -G "$SPARK_HOME/python/lib/py4j-*-src.zip" | head -n 1)${PYTHONPATH:+:$PYTHONPATH}"
    export PYTHONPATH
fi
cd "$jobs/$JOB" || fail "there is no $jobs/$JOB"
launch "$RUN/job-$JOB.pid" "$LOGS/job-$JOB.log" python3 .runner.py "$RUN/job-$JOB.exit" "$PEX" "$SCRIPT_NAME" "$@"
# Old ones are not kept for ever, but for those that still run.
find "$LOGS" -name 'job-*' -mtime +30 -delete 2>/dev/null || :
find "$RUN" -name 'job-*.exit' -mtime +30 -delete 2>/dev/null || :
for old in $(find "$jobs" -mindepth 1 -maxdepth 1 -mtime +30 -printf '%f\n' 2>/dev/null || :); do
    alive "$RUN/job-$old.pid" || rm -rf "${jobs:?}/$old"
done
echo started
