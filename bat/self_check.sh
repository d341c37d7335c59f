#!/bin/sh
exec "$(dirname -- "$0")/in_venv.sh" tools/test_background_training.py "$@"
