"""What the catalogue's `prepare` names: functions that take a data set's new folder and fill it."""

from getdata.embedded.digits import digits
from getdata.embedded.long_range_arena import aan_small, listops, pathfinder
from getdata.embedded.pydoc_text import pydoc, pydoc_char
from getdata.embedded.tagging import tagging
from getdata.enwik8 import enwik8

BUILDERS = {
    "pydoc": pydoc,
    "pydoc_char": pydoc_char,
    "tagging": tagging,
    "digits": digits,
    "listops": listops,
    "pathfinder": pathfinder,
    "aan_small": aan_small,
    "enwik8": enwik8,
}
