#!/usr/bin/env bash
# Style, types and tests. Arguments go to pytest: ./run_tests.sh -k relevance
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/tools/environment.sh"
cd -- "$crane_root"

failed=""
"$crane_python" -m ruff check || failed="$failed ruff"
"$crane_python" -m mypy || failed="$failed mypy"
[ -z "$failed" ] || echo "run_tests: failed:$failed" >&2
"$crane_python" -m pytest "$@" || exit $?
[ -z "$failed" ]
