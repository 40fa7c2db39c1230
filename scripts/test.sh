#!/usr/bin/env bash
# Lint, types and tests: scripts/test.sh [pytest arguments]
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
cd "$root"
ruff check .
ruff format --check .
if [ "$SPARK" = 4.1 ]; then  # one series is enough for types and kernels
  mypy
  # Compiles the CUDA kernels in a test; there is none for some systems, and the test is skipped then.
  if [ "$(uname -s)" = Linux ] && ! python -c 'import nvidia.cuda_nvrtc' 2>/dev/null; then
    pip install --quiet --disable-pip-version-check nvidia-cuda-nvrtc-cu12 || echo "without NVIDIA's compiler"
  fi
fi
pytest -n 2 --dist worksteal "$@"
