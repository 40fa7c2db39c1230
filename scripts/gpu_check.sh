#!/usr/bin/env bash
# On a machine with an NVIDIA GPU: the GPU tests on it, and the GPU benchmark. Needs in the Python found first on the
# path (or named by PYTHON) CuPy, pytest, hypothesis and PyArrow; PySpark and spark-rapids-ml for the whole job.
#
#   scripts/gpu_check.sh [--embeddings embeddings.npy]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python3}
[ "${1:-}" != --embeddings ] || embeddings=$(realpath "$2")
nvidia-smi --query-gpu=name,driver_version,memory.total,compute_cap --format=csv,noheader
"$python" -c 'import cupy, numpy; print("CuPy", cupy.__version__, "NumPy", numpy.__version__, "CUDA", cupy.cuda.runtime.runtimeGetVersion())'
git rev-parse --short HEAD 2>/dev/null || true
status=0
"$python" -m pytest tests/gpu -m gpu || status=$?
"$python" -m scripts.bench.gpu_cells ${embeddings:+--embeddings "$embeddings"} || status=$?
if "$python" -c 'import pyspark, spark_rapids_ml' 2>/dev/null; then
  "$python" -m scripts.bench.gpu_job ${embeddings:+--embeddings "$embeddings"} || status=$?
else
  echo "the whole job was not run: no PySpark and spark-rapids-ml here"
fi
exit "$status"
