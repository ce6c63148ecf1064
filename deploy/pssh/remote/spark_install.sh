# spark-install: the folder $REMOTE_DIR/spark becomes that of the pex, or an unpacked archive.
# shellcheck shell=bash

need_folder
export PEX_ROOT

pex_pyspark() { [ -x "$PEX" ] && "$PEX" -c 'import pyspark; print(pyspark.__version__, pyspark.__path__[0])' 2>/dev/null; }

link_to() { # FOLDER VERSION
    local before
    [ -x "$1/bin/spark-class" ] || fail "there is no bin/spark-class in $1"
    [ -z "$SPARK_VERSION" ] || [ "$SPARK_VERSION" = "$2" ] || fail "this is Spark $2, SPARK_VERSION=$SPARK_VERSION is wanted"
    before=$(readlink "$REMOTE_DIR/spark" || :)
    fact spark "$2"
    if [ "$before" = "$1" ]; then
        echo "already there: Spark $2"
    else
        ln -sfn "$1" "$REMOTE_DIR/spark.new"
        mv -Tf "$REMOTE_DIR/spark.new" "$REMOTE_DIR/spark"
        echo "Spark $2 ($3)"
    fi
}

read -r pex_version pex_home <<<"$(pex_pyspark || :)"
if [ "$SOURCE" = pex ]; then
    [ -x "$PEX" ] || fail "there is no pex yet: run make pex-install first, or give SPARK_URL or SPARK_TGZ"
    [ -n "$pex_home" ] || fail "there is no pyspark in this pex (a thin one?): give SPARK_URL or SPARK_TGZ"
    link_to "$pex_home" "$pex_version" "from the pex"
    exit 0
fi

[ -n "$DIGEST" ] || published_digest "$URL" sha512 SPARK_SHA512
DEST=$REMOTE_DIR/spark.tgz
folder=$(compgen -G "$REMOTE_DIR/spark-*-${DIGEST:0:12}" | head -n 1 || :)
if [ -z "$folder" ]; then
    [ -z "$URL" ] || fetch "$URL" "$DEST" "$DIGEST"
    take "$DEST" "$DIGEST"
    rm -rf "$REMOTE_DIR"/spark.unpack.*
    work=$(mktemp -d "$REMOTE_DIR/spark.unpack.XXXXXX")
    tar xzf "$DEST" -C "$work" --no-same-owner || fail "the archive cannot be unpacked"
    top=$(find "$work" -mindepth 1 -maxdepth 1 -type d | head -n 1)
    core=$(compgen -G "$top/jars/spark-core_*.jar" | head -n 1 || :)
    [ -n "$core" ] || fail "the archive is not one of Spark: it has no jars/spark-core_*.jar"
    version=${core##*/spark-core_*-}
    folder=$REMOTE_DIR/spark-${version%.jar}-${DIGEST:0:12}
    mv "$top" "$folder"
    rm -rf "$work" "$DEST"
fi
version=${folder#"$REMOTE_DIR/spark-"}
version=${version%-*}
if [ -n "$pex_version" ] && [ "${version%.*}" != "${pex_version%.*}" ]; then
    fail "this is Spark $version, but the pex has pyspark $pex_version: they cannot talk. Take the thin pex (make pex-thin), or leave SPARK_URL and SPARK_TGZ out"
fi
link_to "$folder" "$version" "from the archive"
