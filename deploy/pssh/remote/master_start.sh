# master-start
# shellcheck shell=bash

file=$RUN/master.pid
url=spark://$ADDRESS:$MASTER_PORT
fact url "$url"
if alive "$file"; then
    echo "already runs at $url (pid $PID)"
    exit 0
fi
for port in "$MASTER_PORT" "$MASTER_UI_PORT"; do
    ! listens "$ADDRESS" "$port" || fail "something else listens on $ADDRESS:$port: end it, or set MASTER_PORT and MASTER_UI_PORT"
done
launch "$file" "$LOGS/master.log" "$SPARK_HOME/bin/spark-class" org.apache.spark.deploy.master.Master \
    --host "$ADDRESS" --port "$MASTER_PORT" --webui-port "$MASTER_UI_PORT"
ready() { ! alive "$file" || { listens "$ADDRESS" "$MASTER_PORT" && listens "$ADDRESS" "$MASTER_UI_PORT"; }; }
wait_until 120 ready || fail "the master did not come up within 120 s: see make logs LOG=master"
alive "$file" || {
    tail -n 5 "$LOGS/master.log"
    fail "the master ended at once: $(tail -n 1 "$LOGS/master.log")"
}
echo "runs at $url, http://$ADDRESS:$MASTER_UI_PORT (pid $PID)"
