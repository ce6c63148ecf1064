# What every step needs. The settings stand before it as shell variables; a step follows it.
# shellcheck shell=bash

export LC_ALL=C PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
umask 022

RUN=$REMOTE_DIR/run/$CLUSTER
LOGS=$REMOTE_DIR/log/$CLUSTER
CONF=$REMOTE_DIR/conf/$CLUSTER
PEX=$REMOTE_DIR/img2dataset.pex
BOOT=$(cat /proc/sys/kernel/random/boot_id)

fail() {
    echo "error: $*"
    exit 1
}

# The last line says that the output is whole.
trap 'echo "@done=$?"' EXIT

fact() { printf '@%s=%s\n' "$1" "$2"; }

# The address by which we were reached is the one that the others reach too.
if [ -z "${ADDRESS:-}" ]; then
    # shellcheck disable=SC2086
    set -- ${SSH_CONNECTION:-}
    ADDRESS=${3:-}
    ADDRESS=${ADDRESS#::ffff:}
fi
[ -n "$ADDRESS" ] || fail "sshd did not say by which address we came (SSH_CONNECTION)"
fact address "$ADDRESS"

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

can_root() { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }

need_root() {
    can_root || fail "$(id -un) must be root or have sudo without a password: add '$(id -un) ALL=(ALL) NOPASSWD: ALL' to /etc/sudoers.d/$(id -un)"
}

own_folder() {
    [ -d "$1" ] && [ -w "$1" ] && return
    mkdir -p "$1" 2>/dev/null && [ -w "$1" ] && return
    need_root
    as_root mkdir -p "$1"
    as_root chown "$(id -u):$(id -g)" "$1"
}

own_folders() {
    own_folder "$REMOTE_DIR"
    mkdir -p "$RUN" "$LOGS" "$CONF"
}

need_folder() {
    if [ ! -d "$REMOTE_DIR" ] || [ ! -w "$REMOTE_DIR" ]; then fail "there is no $REMOTE_DIR that we may write to: run make hosts-setup first"; fi
    mkdir -p "$RUN" "$LOGS" "$CONF"
}

# --- packages

has_package() {
    if command -v dpkg-query >/dev/null; then
        dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q ' installed$'
    else
        rpm -q "$1" >/dev/null 2>&1
    fi
}

# Install packages; the lists are fetched only if it does not go without. A package is not to start its services.
install_packages() {
    local out
    need_root
    out=$(mktemp)
    if command -v apt-get >/dev/null; then
        apt() { as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=120 -o Acquire::Retries=2 "$@" >>"$out" 2>&1; }
        apt install -y --no-install-recommends "$@" || { apt update && apt install -y --no-install-recommends "$@"; } || {
            local why
            why=$(grep -E '^(E|Err):' "$out" | tail -n 1) || why=$(tail -n 1 "$out")
            tail -n 5 "$out"
            rm -f "$out"
            fail "apt-get could not install $*: $why"
        }
    elif command -v dnf >/dev/null || command -v yum >/dev/null; then
        as_root "$(command -v dnf || command -v yum)" install -y -q "$@" >"$out" 2>&1 || {
            tail -n 5 "$out"
            rm -f "$out"
            fail "dnf could not install $*"
        }
    else
        rm -f "$out"
        fail "there is neither apt-get nor dnf here: install $* by hand, then run this again"
    fi
    rm -f "$out"
}

# --- processes: each of ours is the leader of a session; its pid file tells "pid start-time boot"

start_time() { sed 's/^.*) //' "/proc/$1/stat" 2>/dev/null | cut -d ' ' -f 20; }

# Set PID to the process of a pid file if it lives.
alive() {
    local start boot
    PID=
    [ -f "$1" ] && read -r PID start boot <"$1" || return 1
    [ "$boot" = "$BOOT" ] && [ "$(start_time "$PID")" = "$start" ] && [ "$(process_state "$PID")" != Z ]
}

process_state() { sed 's/^.*) //' "/proc/$1/stat" 2>/dev/null | cut -d ' ' -f 1; }

# All processes of the session of $1 and what descends from them, as pid:start-time.
members() {
    cat /proc/[0-9]*/stat 2>/dev/null | awk -v leader="$1" '
        { pid = $1; sub(/^.*\) /, ""); if ($1 == "Z") next
          parent[pid] = $2; start[pid] = $20; if (pid == leader || $4 == leader) ours[pid] = 1 }
        END { do { more = 0; for (p in parent) if (!(p in ours) && (parent[p] in ours)) { ours[p] = 1; more = 1 } } while (more)
              for (p in ours) print p ":" start[p] }' || :
}

# Those of the arguments (pid:start-time) that still live.
living() {
    local one
    for one in "$@"; do
        if [ "$(start_time "${one%%:*}")" = "${one#*:}" ] && [ "$(process_state "${one%%:*}")" != Z ]; then
            echo "$one"
        fi
    done
}

# Start a process that outlives us: launch PIDFILE LOGFILE COMMAND... ; LAUNCHER=as_root starts it as root.
launch() {
    local pid_file=$1 log=$2
    shift 2
    rm -f "$pid_file"
    [ ! -s "$log" ] || mv -f "$log" "$log.1"
    # shellcheck disable=SC2016
    ${LAUNCHER:-} setsid -f bash -c '
        start=$(sed "s/^.*) //" "/proc/$$/stat" | cut -d " " -f 20)
        echo "$$ $start $(cat /proc/sys/kernel/random/boot_id)" >"$0.new" && mv -f "$0.new" "$0"
        exec "$@"' "$pid_file" "$@" </dev/null >"$log" 2>&1
    wait_until 5 test -f "$pid_file" || fail "$1 did not start: $(tail -n 3 "$log")"
}

# wait_until SECONDS COMMAND...
wait_until() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$end" ] || return 1
        sleep 0.2
    done
}

# End the session of a pid file: TERM, up to $2 seconds, KILL. False if there was nothing to end.
end_session() {
    local pid start boot all left
    [ -f "$1" ] && read -r pid start boot <"$1" || return 1
    all=
    if [ "$boot" = "$BOOT" ]; then
        case $(start_time "$pid") in
        "$start") all=$(members "$pid") ;;
        "") all=$(members "$pid") ;; # The leader died; a pid is not given anew while its session lives.
        esac
    fi
    if [ -z "$all" ]; then
        ${LAUNCHER:-} rm -f "$1"
        return 1
    fi
    # shellcheck disable=SC2086
    if [ -n "$(living "$pid:$start")" ]; then send TERM "$pid:$start"; else send TERM $all; fi
    # shellcheck disable=SC2086
    all_gone() { [ -z "$(living $all)" ]; }
    wait_until "${2:-10}" all_gone || {
        # What was born since, too.
        all="$all $(members "$pid")"
        # shellcheck disable=SC2086
        send KILL $all
        # shellcheck disable=SC2086
        wait_until 5 all_gone || {
            left=$(living $all)
            fail "these processes do not end: $left"
        }
    }
    ${LAUNCHER:-} rm -f "$1"
}

send() {
    local signal=$1 one
    shift
    # shellcheck disable=SC2048
    for one in $(living "$@"); do
        ${LAUNCHER:-} kill "-$signal" "${one%%:*}" 2>/dev/null || :
    done
}

# The executors of a worker.
executors_of() {
    local pid
    while read -r pid; do
        if grep -qsa CoarseGrainedExecutorBackend "/proc/$pid/cmdline"; then echo "$pid"; fi
    done < <(cat /proc/[0-9]*/stat 2>/dev/null | awk -v parent="$1" '{ pid = $1; sub(/^.*\) /, ""); if ($2 == parent && $1 != "Z") print pid }')
}

# The line of /proc/mounts of sshfs on a folder.
sshfs_on() { awk -v point="${1// /\\\\040}" '$2 == point && $3 == "fuse.sshfs"' /proc/mounts; }

# --- network

listens() { (exec 3<>"/dev/tcp/$1/$2") 2>/dev/null; }

# A page over http: http_get ADDRESS PORT PATH
http_get() {
    # shellcheck disable=SC2016
    timeout 10 bash -c 'exec 3<>"/dev/tcp/$1/$2" && printf "GET %s HTTP/1.0\r\nHost: %s\r\n\r\n" "$3" "$1" >&3 && cat <&3' http "$1" "$2" "$3" 2>/dev/null |
        sed '1,/^\r*$/d'
}
