#!/usr/bin/env bash
# Lint, types and tests: scripts/test.sh [pytest arguments]
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
cd "$root"
# Compiles the CUDA kernels in a test; there is none for some systems.
if [ "$(uname -s)" = Linux ] && ! python -c 'import nvidia.cuda_nvrtc' 2>/dev/null; then
  pip install --quiet --disable-pip-version-check nvidia-cuda-nvrtc-cu12 || echo "without NVIDIA's compiler"
fi
ruff check .
ruff format --check .
[ "$SPARK" != 4.1 ] || mypy  # one series is enough for types
pytest "$@"
