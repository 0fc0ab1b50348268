"""python -m getdata, which ./getdata.sh calls."""

import sys

from getdata.cli import main

if __name__ == "__main__":
    sys.exit(main())
