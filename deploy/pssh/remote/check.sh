# hosts-check: what this machine is, and whether we can work here.
# shellcheck shell=bash

folder=$REMOTE_DIR
while [ ! -d "$folder" ]; do folder=$(dirname "$folder"); done

java_version=$( (java -version 2>&1 || :) | sed -n 's/.*version "\([^"]*\)".*/\1/p' | head -n 1)
pythons=$(for name in python3.10 python3.11 python3.12 python3.13 python3.14 python3; do
    "$name" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || :
done | sort -uV | paste -sd ' ')

fact hostname "$(uname -n)"
# shellcheck disable=SC1091
fact os "$(. /etc/os-release 2>/dev/null && echo "$ID ${VERSION_ID:-}")"
fact machine "$(uname -m)"
fact cores "$(nproc)"
fact memory "$(($(sed -n 's/^MemTotal: *\([0-9]*\).*/\1/p' /proc/meminfo) / 1024))"
fact disk "$(df -Pm "$folder" | awk 'NR == 2 { print $4 }')"
fact python "${pythons:--}"
fact java "${java_version:--}"

command -v setsid >/dev/null || fail "there is no setsid (package util-linux)"
if ! { [ -d "$REMOTE_DIR" ] && [ -w "$REMOTE_DIR" ]; }; then need_root; fi
if can_root; then fact root yes; else fact root no; fi
fact clock "$(date +%s)" # last: it is compared with the clock of the controller when this gets there
uname -n
