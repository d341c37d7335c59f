#!/bin/sh
# Set up what is missing, then play and train: bat/start_model_training.sh [options of run_with_training.py]
# Needs Python 3.10 or newer. Everything that is installed goes into the folder .venv of the checkout.

checkout=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd) || exit 1
venv="$checkout/.venv"
installed="$venv/installed_pyproject.toml"

say() { printf '%s\n' "$*"; }
fail() { printf '[ERROR] %s\n' "$*" >&2; exit 1; }
is_new_enough() { "$@" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; }

find_python() {
    too_old=
    for python in python3 python python3.14 python3.13 python3.12 python3.11 python3.10; do
        is_new_enough "$python" && return 0
        version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) && too_old="$version"
    done
    [ -z "$too_old" ] || fail "Python $too_old is too old; 3.10 or newer is needed: https://www.python.org/downloads/"
    fail "no Python was found; 3.10 or newer is needed: https://www.python.org/downloads/"
}

# A virtual environment whose Python is gone, or that was cut short, is made anew.
if ! is_new_enough "$venv/bin/python" || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    find_python
    say "[INFO] Making a virtual environment in $venv"
    "$python" -m venv --clear "$venv" || fail "no virtual environment could be made; on Debian and Ubuntu: sudo apt install python3-venv"
fi

# The copy of pyproject.toml tells what the last complete installation was for.
if ! cmp -s "$checkout/pyproject.toml" "$installed"; then
    say "[INFO] Installing what is needed; this happens once and takes about a minute"
    (cd "$checkout" && "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -e ".[games]") ||
        fail "the installation failed, see above; start this again once the cause is gone"
    cp "$checkout/pyproject.toml" "$installed" || fail "$installed can't be written"
fi

exec "$venv/bin/python" "$checkout/run_with_training.py" "$@"
