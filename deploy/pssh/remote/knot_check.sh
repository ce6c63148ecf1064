# knot-check: resolv.conf is ours, kresd lives and resolves.
# shellcheck shell=bash

grep -qxF "nameserver 127.0.0.1" /etc/resolv.conf || fail "/etc/resolv.conf does not point to 127.0.0.1: run make knot-install (did DHCP write it anew?)"
alive_count=0
if [ -d /run/systemd/system ]; then
    alive_count=$(systemctl list-units --state=active --no-legend 'img2dataset-kresd@*' | wc -l)
else
    for file in "$RUN"/kresd-*.pid; do
        if alive "$file"; then alive_count=$((alive_count + 1)); fi
    done
fi
[ "$alive_count" -gt 0 ] || fail "no kresd runs: run make knot-install"
fact kresd "$alive_count"
result=$(python3 - "$NAME" "$KIND" <<'PY'
import socket, struct, sys, time
name, kind = sys.argv[1].rstrip("."), int(sys.argv[2])
labels = b"".join(bytes([len(part)]) + part.encode("idna") for part in name.split(".") if part) + b"\0"
query = struct.pack(">HHHHHH", 4711, 0x100, 1, 0, 0, 0) + labels + struct.pack(">HH", kind, 1)
begin = time.monotonic()
for _ in range(3):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(4)
        s.sendto(query, ("127.0.0.1", 53))
        try:
            answer = s.recv(4096)
        except OSError:
            continue
    code, count = answer[3] & 15, struct.unpack(">H", answer[6:8])[0]
    names = {0: "no error", 2: "server failure", 3: "no such name", 5: "refused"}
    print(f"{name or '.'}: {names.get(code, code)}, {count} records, {(time.monotonic() - begin) * 1000:.0f} ms")
    sys.exit(code not in {0})
print(f"{name or '.'}: no answer")
sys.exit(1)
PY
) || fail "kresd cannot resolve $result (KNOT_FORWARD, KNOT_ZONES say who is asked)"
echo "$alive_count kresd; $result"
