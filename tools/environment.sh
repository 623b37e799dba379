# shellcheck shell=bash
# Sourced by run_all.sh and run_tests.sh: finds or makes the Python environment.
# Sets crane_root (this repository) and crane_python (the interpreter to use) and puts the packages on PYTHONPATH.
#
# In this order: $CRANE_PYTHON as it is; the active virtual or conda environment if its packages match the lock files;
# .venv, made from the lock files where it is missing or behind.

crane_root="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)"
crane_tool="$crane_root/tools/environment.py"
crane_venv="$crane_root/.venv"
crane_active="${VIRTUAL_ENV:-${CONDA_PREFIX:-}}"

crane_version() { # of a Python, such as "3.11"; nothing where it does not run
    "$1" -I -S -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true
}

if [ -n "${CRANE_PYTHON:-}" ]; then
    if [ -z "$(crane_version "$CRANE_PYTHON")" ]; then
        echo "crane: CRANE_PYTHON is '$CRANE_PYTHON', which does not run as a Python; correct or unset it" >&2
        exit 2
    fi
    crane_python="$(command -v -- "$CRANE_PYTHON")"
    [ "${crane_python#/}" != "$crane_python" ] || crane_python="$PWD/$crane_python"
    "$crane_python" -I "$crane_tool" matches "CRANE_PYTHON" "going on with it, as you asked" || true
elif [ -n "$crane_active" ] && [ ! "$crane_active" -ef "$crane_venv" ] && [ -x "$crane_active/bin/python" ]; then
    if [ "$(crane_version "$crane_active/bin/python")" != 3.11 ]; then
        echo "crane: the active environment $crane_active is not of Python 3.11; .venv is used instead" >&2
    elif "$crane_active/bin/python" -I "$crane_tool" matches "the active environment" ".venv is used instead"; then
        crane_python="$crane_active/bin/python"
    fi
fi

if [ -z "${crane_python:=}" ]; then
    crane_python="$crane_venv/bin/python"
    if [ ! -x "$crane_python" ] || ! "$crane_python" -I -S "$crane_tool" fresh; then
        crane_maker=""
        crane_seen=""
        for crane_candidate in python3.11 python3 python; do
            crane_found="$(crane_version "$crane_candidate")"
            if [ "$crane_found" = 3.11 ] && "$crane_candidate" -I -c 'import ensurepip, venv' 2>/dev/null; then
                crane_maker="$crane_candidate"
                break
            fi
            crane_seen="$crane_seen, $crane_candidate is ${crane_found:-not there}"
            [ "$crane_found" != 3.11 ] || crane_seen="$crane_seen without venv"
        done
        if [ -z "$crane_maker" ]; then
            echo "crane: needs Python 3.11 with venv to make .venv (seen: ${crane_seen#, }); install it," \
                "or set CRANE_PYTHON to the Python of an environment made from environment.yml" >&2
            exit 2
        fi
        "$crane_maker" -I "$crane_tool" install || exit $?
    fi
fi

export PYTHONPATH="$crane_root${PYTHONPATH:+:$PYTHONPATH}"
