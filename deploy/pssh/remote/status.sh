# status: what runs here, and how the machine is.
# shellcheck shell=bash

traffic() { awk -F'[: ]+' 'NR > 2 { sub(/^ +/, ""); if ($1 != "lo") { rx += $2; tx += $10 } } END { printf "%.0f %.0f", rx, tx }' /proc/net/dev; }
read -r rx tx <<<"$(traffic)"
begin=$(date +%s%N)
state_of() { if alive "$RUN/$1.pid"; then echo yes; else echo no; fi; }
fact master "$(state_of master)"
fact worker "$(state_of worker)"
executors=0
if alive "$RUN/worker.pid"; then executors=$(executors_of "$PID" | wc -l); fi
fact executors "$executors"
kresd=0
for file in "$RUN"/kresd-*.pid; do if alive "$file"; then kresd=$((kresd + 1)); fi; done
if [ -d /run/systemd/system ]; then kresd=$(systemctl list-units --state=active --no-legend 'img2dataset-kresd@*' | wc -l); fi
fact kresd "$kresd"
jobs=
for file in "$RUN"/job-*.pid; do
    if alive "$file"; then
        job=$(basename "$file" .pid)
        jobs="$jobs${jobs:+ }${job#job-}"
    fi
done
fact jobs "$jobs"
folder=$REMOTE_DIR
while [ ! -d "$folder" ]; do folder=$(dirname "$folder"); done
fact disk "$(df -Pm "$folder" | awk 'NR == 2 { print $4 }')"
fact free "$(($(sed -n 's/^MemAvailable: *\([0-9]*\).*/\1/p' /proc/meminfo) / 1024))"
fact load "$(cut -d ' ' -f 1 /proc/loadavg)"
if [ -n "$MASTER_UI_PORT" ] && alive "$RUN/master.pid"; then fact json "$(http_get "$ADDRESS" "$MASTER_UI_PORT" /json/ | tr -d '\r\n')"; fi
sleep 1
read -r rx2 tx2 <<<"$(traffic)"
spent=$(($(date +%s%N) - begin))
fact rx $(((rx2 - rx) * 1000 / (spent / 1000000)))
fact tx $(((tx2 - tx) * 1000 / (spent / 1000000)))
echo up
