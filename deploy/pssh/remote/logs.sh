# logs: the last lines of each.
# shellcheck shell=bash

show() {
    local file
    for file in "$@"; do
        [ -s "$file" ] || continue
        echo "==> $file"
        tail -n "$LINES_WANTED" "$file"
    done
}
want() { [ "$LOG" = "$1" ] || [ "$LOG" = all ]; }
if want master; then show "$LOGS/master.log"; fi
if want worker; then show "$LOGS/worker.log"; fi
if want kresd; then
    show "$LOGS"/kresd-*.log
    if [ -d /run/systemd/system ]; then journalctl -q --no-pager -n "$LINES_WANTED" -u 'img2dataset-kresd@*' 2>/dev/null || :; fi
fi
if want job; then show "$(find "$LOGS" -name 'job-*.log' -printf '%T@ %p\n' 2>/dev/null | sort -n | tail -n 1 | cut -d ' ' -f 2-)"; fi
if want executors; then
    # Of the newest application; the newest executors of it.
    app=$(find "$WORK_DIR/$CLUSTER" -mindepth 1 -maxdepth 1 -name 'app-*' 2>/dev/null | sort | tail -n 1)
    if [ -n "$app" ]; then
        for number in $(find "$app" -mindepth 1 -maxdepth 1 -printf '%f\n' | sort -n | tail -n 3); do show "$app/$number/stderr"; done
    fi
fi
