#!/usr/bin/env bash
# Lint, types and tests: scripts/test.sh [pytest arguments]
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
cd "$root"
ruff check .
ruff format --check .
[ "$SPARK" != 4.1 ] || mypy  # one series is enough for types
pytest "$@"
