# hosts-setup: packages, our folder, names in /etc/hosts.
# shellcheck shell=bash

java_ok() {
    local version
    version=$( (java -version 2>&1 || :) | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1)
    [ "${version:-0}" -ge 17 ]
}

# The headless JRE of version 17, or the next one that this system has.
java_package() {
    local name
    if [ -n "$JAVA_PACKAGE" ]; then
        echo "$JAVA_PACKAGE"
    elif command -v apt-cache >/dev/null; then
        [ -n "$(apt-cache madison openjdk-17-jre-headless openjdk-21-jre-headless default-jre-headless)" ] ||
            as_root apt-get -qq update >/dev/null 2>&1 || :
        for name in openjdk-17-jre-headless openjdk-21-jre-headless openjdk-25-jre-headless; do
            if [ -n "$(apt-cache madison "$name")" ]; then
                echo "$name"
                return
            fi
        done
        echo default-jre-headless
    else
        echo java-17-openjdk-headless
    fi
}

missing_packages() {
    local name
    java_ok || java_package
    command -v python3 >/dev/null && [ "$PYTHON_PACKAGE" = python3 ] || has_package "$PYTHON_PACKAGE" || echo "$PYTHON_PACKAGE"
    command -v curl >/dev/null || printf '%s\n' curl ca-certificates
    for name in $PACKAGES; do has_package "$name" || echo "$name"; done
}

did=
missing=$(missing_packages | paste -sd ' ')
if [ -n "$missing" ]; then
    # shellcheck disable=SC2086
    install_packages $missing
    did="installed $missing"
fi
java_ok || fail "Java 17 or newer is needed, there is $( (java -version 2>&1 || echo none) | head -n 1); set JAVA_PACKAGE to a package that has it"

[ -d "$REMOTE_DIR" ] || did="$did${did:+; }made $REMOTE_DIR"
own_folders

# Names: lines "address name" of all hosts. One that is there, and a name that two hosts have, is left out.
begin="# img2dataset $CLUSTER: begin"
end="# img2dataset $CLUSTER: end"
if [ "$ETC_HOSTS" = 1 ]; then
    wanted=$(mktemp)
    awk -v begin="$begin" -v end="$end" '$0 == begin { skip = 1 } !skip { print } $0 == end { skip = 0 }' /etc/hosts >"$wanted"
    others=$(sed 's/#.*//' "$wanted")
    lines=
    while read -r address name; do
        [ -n "$name" ] || continue
        if awk -v name="$name" '{ for (i = 2; i <= NF; i++) if ($i == name) found = 1 } END { exit !found }' <<<"$others"; then continue; fi
        if [ "$address" != "$ADDRESS" ] && [ "$(awk -v name="$name" '$2 == name' <<<"$NAMES" | wc -l)" -gt 1 ]; then continue; fi
        lines="$lines$address $name"$'\n'
    done <<<"$NAMES"
    [ -z "$lines" ] || printf '%s\n%s%s\n' "$begin" "$lines" "$end" >>"$wanted"
    if ! cmp -s "$wanted" /etc/hosts; then
        need_root
        as_root tee /etc/hosts <"$wanted" >/dev/null # not mv: in a container it may be a mount
        did="$did${did:+; }names in /etc/hosts"
    fi
    rm -f "$wanted"
fi
echo "${did:-already set up}"
