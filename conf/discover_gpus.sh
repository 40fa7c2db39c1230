#!/usr/bin/env bash
# Tells Spark which GPUs this machine has: for spark.executor.resource.gpu.discoveryScript, and on a standalone cluster
# for spark.worker.resource.gpu.discoveryScript.
set -euo pipefail
addresses=$(nvidia-smi --query-gpu=index --format=csv,noheader | sed 's/.*/"&"/' | paste -sd, -)
echo "{\"name\": \"gpu\", \"addresses\": [$addresses]}"
