#!/usr/bin/env bash
# Run the job on this machine: scripts/run.sh --input-embeddings-path … --output-path … [flags]
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
export SPARK_CONF_DIR="$root/conf/local"
if [ -t 2 ]; then export PYSPARK_SUBMIT_ARGS="--conf spark.ui.showConsoleProgress=true pyspark-shell"; fi
exec python "$root/jobs/dedup.py" "$@"
