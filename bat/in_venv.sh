#!/bin/sh
# Run a script of this checkout in its virtual environment: bat/in_venv.sh SCRIPT [options]
checkout=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd) || exit 1
if [ ! -x "$checkout/.venv/bin/python" ]; then
    printf '[ERROR] there is no virtual environment yet; run bat/start_model_training.sh --games 1 first\n' >&2
    exit 1
fi
script=$1
shift
exec "$checkout/.venv/bin/python" "$checkout/$script" "$@"
