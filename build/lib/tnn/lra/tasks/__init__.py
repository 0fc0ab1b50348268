"""The six tasks of the Long Range Arena (Tay et al. 2021), a file each.

    listops.py                          nested lists; also the command that generates them
    imdb.py, aan.py                     characters of reviews; of pairs of papers
    cifar.py                            grey pixels
    pathfinder.py, pathfinder_growth.py two discs on one path?; also the command that draws them

task.py has what a task is, texts.py and images.py what those of one kind share; ../data.py loads a
task by its name. This file imports no torch: flags are parsed with it.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Defaults:
    """What the originals' YAML files set for a task, the size of the published set, what to do if
    the data are missing ({} is the folder), and where to look for them."""

    classes: int
    l_max: int
    sizes: tuple[int, int, int]  # train, val, test
    remedy: str
    folders: tuple[str, ...]  # below the data root; the first that exists
    min_freq: int = 1
    release: str | None = None  # the folder's name in the Arena's release
    has: str = ""  # a folder that must be in it


TASKS = {
    "listops": Defaults(
        10, 2048, (96_000, 2_000, 2_000),
        "./getdata.sh listops builds a small set, ./getdata.sh lra fetches the published one, "
        "python tnn/lra/tasks/listops.py --out {} generates one of that size", ("listops",),
        release="listops-1000"),
    # imdb-labelled holds the same 50,000 reviews in a smaller archive.
    "imdb": Defaults(2, 4096, (25_000, 25_000, 25_000), "./getdata.sh imdb fetches it",
                     ("imdb", "imdb-labelled"), min_freq=15),
    "aan": Defaults(
        2, 4000, (147_086, 18_090, 17_437), "./getdata.sh aan fetches it, ./getdata.sh aan-small "
        "builds a small set of that form (then --data-folder aan-small)", ("aan",),
        release="tsv_data"),
    "cifar": Defaults(10, 1024, (45_000, 5_000, 10_000), "./getdata.sh cifar10 fetches it",
                      ("cifar",)),
    "pathfinder": Defaults(
        2, 1024, (160_000, 20_000, 20_000),
        "./getdata.sh pathfinder builds a small set, python tnn/lra/tasks/pathfinder.py "
        "--resolution 32 --out {} generates one of the published size", ("pathfinder",),
        release="", has="pathfinder32"),
    "pathfinderx": Defaults(
        2, 16384, (160_000, 20_000, 20_000),
        "python tnn/lra/tasks/pathfinder.py --resolution 128 --out {} generates it",
        ("pathfinder",), release="", has="pathfinder128"),
}

# Where the Arena's release is in the folder that it was unpacked in. It holds listops-1000 and
# pathfinder128 twice; the inner ones come first, as in the Arena's own dataset_setup.sh.
RELEASE = ("lra_release/lra_release", "lra_release", ".")

# Pathfinder's sets by the dashes of a path; the published runs are on the hardest.
CONTOURS = {6: "curv_baseline", 9: "curv_contour_length_9", 14: "curv_contour_length_14"}
