#!/bin/sh
# ./getdata.sh [NAME ...]   data sets, downloaded and checked; ./getdata.sh -h tells more
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd) || exit 1
python=${VENV:-$here/.venv}/bin/python  # as the Makefile has it
[ -x "$python" ] || python=python3
command -v "$python" >/dev/null || {
    echo "getdata: no python3 here: install Python 3.11 or later, then \`make setup\`" >&2
    exit 2
}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "getdata: $python is older than Python 3.11: \`make setup PYTHON=python3.11\`" >&2
    exit 2
}
# -P: nothing in the folder that this is called from can stand in for a module
PYTHONPATH=$here${PYTHONPATH:+:$PYTHONPATH} exec "$python" -P -m getdata "$@"
