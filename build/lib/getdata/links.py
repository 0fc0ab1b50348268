"""Links from where the scripts look to the data."""

import os
import sys


def make_link(link, target, data):
    """Make a relative link, unless something else is there, which is left alone.

    A dangling link into the data folder is one of ours; any other may lead to a disk that is not
    there at the moment.
    """
    if os.path.realpath(link) == os.path.realpath(target):
        return
    ours = link.is_symlink() and not link.exists() and is_below(link, data)
    if os.path.lexists(link) and not ours:
        print(f"{link} exists and is no link to {target}: left alone")
        return
    try:
        link.parent.mkdir(parents=True, exist_ok=True)
        if ours:
            link.unlink()
        link.symlink_to(os.path.relpath(target, link.parent.resolve()))
    except OSError as error:  # another user's clone, or a disk without links
        print(f"{link}: no link can be made ({error.strerror}): give the script {target}",
              file=sys.stderr)


def is_below(link, folder):
    """Tell whether what a link points to is in folder."""
    target, folder = os.path.realpath(link), os.path.realpath(folder)
    return target == folder or target.startswith(os.path.join(folder, ""))
