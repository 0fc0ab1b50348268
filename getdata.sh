#!/bin/sh
# ./getdata.sh [NAME ...]   data sets, downloaded and checked; ./getdata.sh -h tells more
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd) || exit 1
python=$here/.venv/bin/python
[ -x "$python" ] || python=python3
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "getdata: $python is older than Python 3.11" >&2
    exit 2
}
# -P: nothing in the folder that this is called from can stand in for a module
PYTHONPATH=$here${PYTHONPATH:+:$PYTHONPATH} exec "$python" -P -m getdata "$@"
