# unmount: what mount.sh wrote down, wherever it is.
# shellcheck shell=bash

rm -f "$CONF/mount_key" "$CONF/mount_known_hosts"
if [ ! -s "$CONF/mounted" ]; then
    echo "already unmounted"
    exit 0
fi
point=$(cat "$CONF/mounted")
gone() { [ -z "$(sshfs_on "$point")" ]; }
if ! gone; then
    tool=$(command -v fusermount3 || command -v fusermount)
    # Somebody is in it, or its connection is dead: out of sight now, gone when they leave. (fusermount wants /etc/mtab.)
    timeout 20 "$tool" -u "$point" 2>/dev/null || timeout 20 "$tool" -uz "$point" 2>/dev/null ||
        as_root timeout 20 umount -l "$point" || fail "$point cannot be unmounted"
    wait_until 10 gone || fail "$point is still mounted"
fi
rm -f "$CONF/mounted"
echo "unmounted $point"
