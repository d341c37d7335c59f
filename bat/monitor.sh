#!/bin/sh
exec "$(dirname -- "$0")/in_venv.sh" tools/monitor_background_training.py "$@"
