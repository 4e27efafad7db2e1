#!/bin/sh
# Print the first Python of 3.11 or newer among $PYTHON, python3, python3.13, python3.12 and python3.11.
for candidate in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11; do
    # Ask for its path: a version manager's shim may be on the PATH and run nothing.
    found=$("$candidate" -c 'import sys; print(sys.executable if sys.version_info >= (3, 11) else "")' 2>/dev/null)
    if [ -n "$found" ]; then
        printf '%s\n' "$found"
        exit 0
    fi
done
echo "vmlab needs Python 3.11 or newer; found $(python3 --version 2>&1 | head -n 1)." \
    "Install one (Debian: apt-get install python3 python3-venv) or name it: make PYTHON=/path/to/python3 ..." >&2
exit 1
