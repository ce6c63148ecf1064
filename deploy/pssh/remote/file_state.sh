# What there is of a file: whole, a part, nothing.
# shellcheck shell=bash

need_folder
part=$(part_of "$DEST" "$DIGEST")
if { [ -n "$UNPACKED" ] && [ -n "$(compgen -G "$UNPACKED")" ]; } ||
    { [ -f "$DEST" ] && [ "$(digest_of "$DEST" "$KIND")" = "$DIGEST" ]; }; then
    fact have yes
    echo "already there"
else
    fact have no
    size=$(stat -c %s "$part" 2>/dev/null || echo 0)
    if [ "$size" -gt "$SIZE" ]; then
        rm -f "$part"
        size=0
    fi
    free=$(df -Pk "$REMOTE_DIR" | awk 'NR == 2 { print $4 }')
    [ "$free" -gt $(((SIZE - size) / 1024)) ] || fail "no room for $(basename "$DEST"): $((free / 1024)) MiB are free in $REMOTE_DIR"
    fact part "$size"
    echo "$((size / 1048576)) of $((SIZE / 1048576)) MiB are there"
fi
