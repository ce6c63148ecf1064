# Big files: fetched or pushed to NAME.DIGEST.part, checked, then moved into place.
# shellcheck shell=bash

digest_of() { "$2sum" <"$1" | cut -d ' ' -f 1; } # FILE sha256|sha512

part_of() { echo "$1.${2:0:16}.part"; } # DEST DIGEST

# curl, with what could be secret in an address on its stdin.
get() { # URL CURL-OPTIONS...
    local url=${1//\\/\\\\}
    shift
    command -v curl >/dev/null || fail "there is no curl: run make hosts-setup first"
    curl -K - -fsSL --connect-timeout 20 --speed-limit 1000 --speed-time 60 "$@" <<<"url = \"${url//\"/\\\"}\""
}

# Set DIGEST to what is published beside a file.
published_digest() { # URL sha256|sha512 VARIABLE
    local text length=64
    [ "$2" = sha256 ] || length=128
    text=$(get "${1%%\?*}.$2${1#"${1%%\?*}"}" | tr -d ' \r\n' | grep -oiE "[0-9a-f]{$length}" | head -n 1) || :
    [ -n "$text" ] || fail "there is no digest at ${1%%\?*}.$2: put it there, or give ${3:-the digest}"
    DIGEST=${text,,}
}

fetch() { # URL DEST DIGEST
    local part try error
    part=$(part_of "$2" "$3")
    error=$(mktemp)
    for try in 1 2 3 4 5; do
        if [ -s "$part" ] && [ "$(digest_of "$part" "$KIND")" = "$3" ]; then break; fi
        if get "$1" -C - -o "$part" 2>"$error"; then break; fi
        # 33, 36: the server cannot resume; 22 with a part that is whole or too long.
        if grep -qiE 'cannot resume|416' "$error"; then rm -f "$part"; fi
        [ "$try" -lt 5 ] || {
            tail -n 1 "$error"
            fail "could not fetch ${1%%\?*}: $(tail -n 1 "$error"); what there is of it is kept, run this again"
        }
        sleep "$try"
    done
    rm -f "$error"
}

# Check a part and move it into place; its folder never has half a file under the real name.
take() { # DEST DIGEST
    local part found
    part=$(part_of "$1" "$2")
    [ -f "$part" ] || fail "$(basename "$1") was not copied: run this again"
    found=$(digest_of "$part" "$KIND")
    if [ "$found" != "$2" ]; then
        rm -f "$part"
        fail "$(basename "$1") has the $KIND ${found:0:16}... instead of ${2:0:16}...: it was removed; is the digest right?"
    fi
    chmod "${3:-644}" "$part"
    sync "$part" 2>/dev/null || :
    mv -f "$part" "$1"
    rm -f "$1".*.part
}
