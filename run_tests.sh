#!/usr/bin/env bash
# Style, imports, types and tests. Arguments go to pytest: ./run_tests.sh -k relevance
# --real: also the tests on published weights, which accepts the Gemma terms of use and fetches them once.
# Tests run in as many processes as there are cores, at most 8; CRANE_TEST_PROCESSES sets another number.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/tools/environment.sh"
cd -- "$crane_root"

processes="${CRANE_TEST_PROCESSES:-$("$crane_python" -c 'import os; print(min(8, len(os.sched_getaffinity(0))))')}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" # one thread per process: more would compete for the same cores

failed=""
echo "run_tests: style and imports, then tests; types (mypy) are checked beside them and told at the end" >&2
"$crane_python" -m ruff check || failed="$failed ruff"
"$crane_python" -c 'from importlinter.cli import lint_imports_command as main; main()' --no-logo --no-cache ||
    failed="$failed import-linter"
types="$(mktemp)"
"$crane_python" -m mypy > "$types" 2>&1 &
mypy=$!
trap 'kill "$mypy" 2> /dev/null || true; rm -f "$types"' EXIT
"$crane_python" -m pytest -n "$processes" --dist loadfile --no-loadscope-reorder "$@" || failed="$failed pytest"
wait "$mypy" || failed="$failed mypy"
cat "$types"
[ -z "$failed" ] || { echo "run_tests: failed:$failed" >&2 && exit 1; }
