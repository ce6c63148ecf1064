# pex-install: fetch it (or take what was pushed), check it, move it into place, unpack it once.
# shellcheck shell=bash

need_folder
did=
[ -n "$DIGEST" ] || published_digest "$URL" sha256 PEX_SHA256
if ! { [ -f "$PEX" ] && [ "$(digest_of "$PEX" sha256)" = "$DIGEST" ]; }; then
    [ -z "$URL" ] || fetch "$URL" "$PEX" "$DIGEST"
    take "$PEX" "$DIGEST" 755
    did=installed
fi
[ -x "$PEX" ] || chmod 755 "$PEX"

own_folder "$PEX_ROOT"
export PEX_ROOT
mark=$PEX_ROOT/.img2dataset-${DIGEST:0:16}
if [ ! -e "$mark" ]; then
    try() { out=$("$PEX" -c 'import cv2, img2dataset_dist; print(img2dataset_dist.__version__)' 2>&1); }
    if ! try; then
        case $out in
        *libGL* | *libgthread* | *libglib*)
            if command -v apt-get >/dev/null; then install_packages libgl1 libglib2.0-0; else install_packages mesa-libGL glib2; fi
            try || { echo "$out" | tail -n 5; fail "the pex does not start: $(tail -n 1 <<<"$out")"; }
            ;;
        *)
            echo "$out" | tail -n 5
            fail "the pex does not start: $(grep -v '^ *$' <<<"$out" | tail -n 1)"
            ;;
        esac
    fi
    touch "$mark"
    did="${did:+$did, }unpacked, version $(tail -n 1 <<<"$out")"
fi
fact digest "$DIGEST"
echo "${did:-already there} (sha256 ${DIGEST:0:12})"
