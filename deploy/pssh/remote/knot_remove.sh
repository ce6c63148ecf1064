# knot-remove: resolv.conf as it was, kresd ended. The package stays.
# shellcheck shell=bash

saved=$REMOTE_DIR/conf/resolv.conf
mark="# made by img2dataset: make knot-remove brings back what was here"
systemd=/run/systemd/system
did=

# The other cluster that uses what this one would undo: its kresd lives, or, where systemd has them for all, anything.
other() {
    local file pattern='kresd-*.pid'
    if [ -d "$systemd" ]; then pattern='*.pid'; fi
    for file in $(compgen -G "$REMOTE_DIR/run/*/$pattern" || :); do
        if [ "$(dirname "$file")" != "$RUN" ] && alive "$file"; then
            basename "$(dirname "$file")"
            return
        fi
    done
}
name=$(other)
if [ -n "$name" ]; then
    LAUNCHER=as_root
    for file in "$RUN"/kresd-*.pid; do
        if end_session "$file" 5; then did="$did${did:+, }ended $(basename "$file" .pid)"; fi
    done
    echo "${did:+$did; }DNS is left as it is, for the cluster $name"
    exit 0
fi

if grep -qxF "$mark" /etc/resolv.conf 2>/dev/null; then
    need_root
    if [ -s "$saved.link" ]; then
        as_root ln -sfn "$(cat "$saved.link")" /etc/resolv.conf
    elif [ -e "$saved.before" ]; then
        as_root tee /etc/resolv.conf <"$saved.before" >/dev/null
    else
        fail "/etc/resolv.conf is ours, but what was there before is lost ($saved.before): write it by hand"
    fi
    rm -f "$saved.link" "$saved.before" "$saved.ours"
    did="restored resolv.conf"
fi
LAUNCHER=as_root
for file in "$REMOTE_DIR"/run/*/kresd-*.pid; do
    [ -f "$file" ] || continue
    need_root
    if end_session "$file" 5; then did="$did${did:+, }ended $(basename "$file" .pid)"; fi
done
if [ -e /etc/systemd/system/img2dataset-kresd@.service ]; then
    need_root
    as_root systemctl disable -q --now 'img2dataset-kresd@*' 2>/dev/null || :
    for name in $(systemctl list-units --all --no-legend --plain 'img2dataset-kresd@*' | awk '{ print $1 }'); do
        as_root systemctl disable -q --now "$name" || :
    done
    as_root rm -f /etc/systemd/system/img2dataset-kresd@.service
    as_root systemctl daemon-reload
    did="$did${did:+, }removed the units"
fi
echo "${did:-already removed}"
