# mount: sshfs of the storage machine. The key and the keys of that host came on stdin.
# shellcheck shell=bash

own_folders
mounted() { [ -n "$(sshfs_on "$MOUNT_POINT")" ]; }
source="$MOUNT_USER${MOUNT_USER:+@}$MOUNT_HOST:$MOUNT_DIR"
if [ -s "$CONF/mounted" ] && [ "$(cat "$CONF/mounted")" != "$MOUNT_POINT" ] && [ -n "$(sshfs_on "$(cat "$CONF/mounted")")" ]; then
    fail "it is mounted on $(cat "$CONF/mounted") already: run make unmount first"
fi
if mounted; then
    if timeout 10 stat -f "$MOUNT_POINT" >/dev/null 2>&1; then
        sshfs_on "$MOUNT_POINT" | grep -qF "${source// /\\040} " ||
            fail "something else is mounted on $MOUNT_POINT: run make unmount first"
        echo "already mounted"
        exit 0
    fi
    as_root timeout 10 umount -l "$MOUNT_POINT" # its connection is dead
fi
if ! command -v sshfs >/dev/null; then
    if command -v apt-get >/dev/null; then install_packages sshfs; else install_packages fuse-sshfs; fi
fi
[ -e /dev/fuse ] || { need_root; as_root modprobe fuse 2>/dev/null || :; }
[ -e /dev/fuse ] || fail "there is no /dev/fuse on this host (in a container: --device /dev/fuse --cap-add SYS_ADMIN)"
(
    umask 077
    # Without one, that of the last time counts; unmount removes it.
    [ -z "$MOUNT_KEY" ] || printf '%s\n' "$MOUNT_KEY" >"$CONF/mount_key"
)
printf '%s\n' "$MOUNT_KNOWN_HOSTS" >"$CONF/mount_known_hosts"
own_folder "$MOUNT_POINT"
options=(-o reconnect -o ServerAliveInterval=15 -o ServerAliveCountMax=3 -o idmap=user -o BatchMode=yes -o ConnectTimeout=10
    -o StrictHostKeyChecking=yes -o "UserKnownHostsFile=$CONF/mount_known_hosts")
[ ! -f "$CONF/mount_key" ] || options+=(-o "IdentityFile=$CONF/mount_key" -o IdentitiesOnly=yes)
[ -z "$MOUNT_PORT" ] || options+=(-p "$MOUNT_PORT")
[ "$(id -u)" != 0 ] || options+=(-o allow_other)
out=$(timeout 40 sshfs "$source" "$MOUNT_POINT" "${options[@]}" </dev/null 2>&1) || fail "sshfs $source: $(tail -n 1 <<<"$out")"
mounted || fail "sshfs ended without an error, but nothing is mounted on $MOUNT_POINT"
printf '%s' "$MOUNT_POINT" >"$CONF/mounted"
echo "mounted $source on $MOUNT_POINT"
