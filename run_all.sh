#!/usr/bin/env bash
# The whole study: environment, models, statistics, masking, evaluation, figures, claims. See ./run_all.sh --help
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/tools/environment.sh"
export CRANE_PROGRAM="$0" # what usage calls this script
exec "$crane_python" -m crane_run.cli run "$@"
