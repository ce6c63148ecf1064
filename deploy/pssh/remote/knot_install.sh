# knot-install: knot-resolver on 127.0.0.1, and resolv.conf points to it. What was there is kept for knot-remove.
# shellcheck shell=bash

need_root
own_folders
conf=$REMOTE_DIR/conf/kresd.conf
work=/var/cache/img2dataset-kresd
unit=/etc/systemd/system/img2dataset-kresd@.service
did=
if ! command -v kresd >/dev/null; then
    install_packages knot-resolver
    did="installed knot-resolver"
    # The package may start one of its own, on the port that ours shall have.
    if [ -d /run/systemd/system ]; then as_root systemctl disable -q --now kresd@1.service kresd.target 2>/dev/null || :; fi
fi

processes=$KNOT_PROCESSES
[ "$processes" -gt 0 ] || processes=$(($(nproc) < 4 ? $(nproc) : 4))

wanted() {
    echo "-- made by img2dataset (make knot-install)"
    echo "net.listen('127.0.0.1', 53, { kind = 'dns' })"
    if id knot-resolver >/dev/null 2>&1; then echo "user('knot-resolver', 'knot-resolver')"; fi
    echo "cache.size = $KNOT_CACHE * MB"
    echo "modules = { 'policy', 'stats' }"
    echo "$KNOT_LUA"
}
if ! wanted | cmp -s - "$conf"; then
    wanted >"$conf"
    did="$did${did:+, }configured"
    changed=1
fi
as_root mkdir -p "$work"
if id knot-resolver >/dev/null 2>&1; then as_root chown knot-resolver:knot-resolver "$work"; fi

answers() {
    python3 - 127.0.0.1 <<'PY'
import socket, struct, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(1)
q = struct.pack(">HHHHHH", 4711, 0x100, 1, 0, 0, 0) + b"\x09localhost\0" + struct.pack(">HH", 1, 1)
s.sendto(q, (sys.argv[1], 53))
try:
    sys.exit(s.recv(512)[:2] != q[:2])
except OSError:
    sys.exit(1)
PY
}

start_plain() {
    local n file living=
    for file in "$RUN"/kresd-*.pid; do
        [ -f "$file" ] || continue
        n=${file##*-}
        if [ -n "${changed:-}" ] || [ "${n%.pid}" -gt "$processes" ]; then end_session "$file" 5 || :; fi
        if alive "$file"; then living=yes; fi
    done
    [ -n "$living" ] || ! answers 2>/dev/null || fail "something else answers on 127.0.0.1:53: end it first"
    for n in $(seq "$processes"); do
        if alive "$RUN/kresd-$n.pid"; then continue; fi
        launch "$RUN/kresd-$n.pid" "$LOGS/kresd-$n.log" "$(command -v kresd)" -n -c "$conf" "$work"
        did="$did${did:+, }started kresd $n"
    done
}

start_systemd() {
    local n
    if [ -n "${changed:-}" ] || [ ! -e "$unit" ]; then
        as_root tee "$unit" >/dev/null <<U
[Unit]
Description=knot-resolver of img2dataset, process %i
After=network.target
[Service]
ExecStart=$(command -v kresd) -n -c $conf $work
Restart=always
RestartSec=2
LimitNOFILE=65536
[Install]
WantedBy=multi-user.target
U
        as_root systemctl daemon-reload
        changed=1
    fi
    for n in $(systemctl list-units --all --no-legend --plain 'img2dataset-kresd@*' | sed -n 's/^img2dataset-kresd@\([0-9]*\)\.service.*/\1/p'); do
        if [ "$n" -gt "$processes" ]; then
            as_root systemctl disable -q --now "img2dataset-kresd@$n"
            did="$did${did:+, }ended kresd $n"
        fi
    done
    for n in $(seq "$processes"); do
        if ! systemctl is-active -q "img2dataset-kresd@$n" || [ -n "${changed:-}" ]; then
            as_root systemctl enable -q "img2dataset-kresd@$n"
            as_root systemctl restart "img2dataset-kresd@$n"
            did="$did${did:+, }started kresd $n"
        fi
    done
}

LAUNCHER=as_root
if [ -d /run/systemd/system ]; then start_systemd; else start_plain; fi
wait_until 15 answers || fail "kresd does not answer on 127.0.0.1: see make logs LOG=kresd"

# resolv.conf: what was there is kept once, a link as a link.
saved=$REMOTE_DIR/conf/resolv.conf
mark="# made by img2dataset: make knot-remove brings back what was here"
if ! grep -qxF "$mark" /etc/resolv.conf 2>/dev/null; then
    rm -f "$saved.link" "$saved.before"
    if [ -L /etc/resolv.conf ]; then readlink /etc/resolv.conf >"$saved.link"; fi
    { cat /etc/resolv.conf 2>/dev/null || :; } >"$saved.before"
    { echo "$mark"; echo "nameserver 127.0.0.1"; grep -E '^ *(search|domain|options)' "$saved.before" || :; } >"$saved.ours"
    if [ -L /etc/resolv.conf ]; then as_root rm /etc/resolv.conf; fi
    as_root tee /etc/resolv.conf <"$saved.ours" >/dev/null # not mv: in a container it may be a mount
    did="$did${did:+, }set resolv.conf"
fi
fact processes "$processes"
echo "${did:-already runs, $processes kresd}"
