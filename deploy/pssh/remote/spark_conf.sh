# Before a process of Spark's is started: its configuration. The file has the secret, so that only we may read it.
# shellcheck shell=bash

need_folder
HOME_OF_SPARK=$REMOTE_DIR/spark
[ -x "$HOME_OF_SPARK/bin/spark-class" ] || fail "there is no Spark in $REMOTE_DIR/spark: run make spark-install first"
command -v java >/dev/null || [ -n "${JAVA_HOME:-}" ] || fail "there is no java: run make hosts-setup first"
(
    umask 077
    cat >"$CONF/spark-defaults.conf.new" <<<"$SPARK_DEFAULTS"
    mv -f "$CONF/spark-defaults.conf.new" "$CONF/spark-defaults.conf"
)
own_folder "$WORK_DIR"
mkdir -p "$WORK_DIR/$CLUSTER"
unset SPARK_NO_DAEMONIZE
export SPARK_HOME=$HOME_OF_SPARK SPARK_CONF_DIR=$CONF SPARK_LOCAL_IP=$ADDRESS SPARK_PUBLIC_DNS=$ADDRESS
export SPARK_WORKER_DIR=$WORK_DIR/$CLUSTER PEX_ROOT PYSPARK_PYTHON=$PEX
[ -z "$LOCAL_DIRS" ] || export SPARK_LOCAL_DIRS=$LOCAL_DIRS
