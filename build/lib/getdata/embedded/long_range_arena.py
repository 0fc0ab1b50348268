"""Small sets in the formats of the Long Range Arena; never to be reported as its own.

listops     2,400 trees by tnn/lra/tasks/listops.py
pathfinder  2,000 images by tnn/lra/tasks/pathfinder.py, 32 x 32 pixels
aan_small   pairs of passages of docstrings, of one module or of two
"""

import pathlib
import random
import subprocess
import sys

from getdata.embedded.docstrings import stdlib_docstrings

LRA = pathlib.Path(__file__).resolve().parents[2] / "tnn" / "lra" / "tasks"


def run_generator(script, *flags):
    """Run a generator below tnn/lra. Raises OSError if it fails; it has said why."""
    command = [sys.executable, str(LRA / script), *flags]
    if code := subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
        raise OSError(f"{script} ended with status {code}")


def listops(folder):
    """Write basic_{train,val,test}.tsv with 2000, 200 and 200 trees."""
    run_generator("listops.py", f"--out={folder}", "--train=2000", "--val=200", "--test=200")


def pathfinder(folder):
    """Write pathfinder32/ with 2,000 images in 20 folders."""
    run_generator("pathfinder.py", f"--out={folder}", "--images=2000", "--per-folder=100")


PASSAGE = 1500  # characters, at least
PAIRS = {"train": 2000, "eval": 200, "test": 200}


def passages(texts):
    """Return docstrings joined to passages of at least PASSAGE characters, blanks made single."""
    found, waiting = [], ""
    for text in texts:
        waiting = f"{waiting} {' '.join(text.split())}".lstrip()
        if len(waiting) >= PASSAGE:
            found.append(waiting)
            waiting = ""
    return found


def aan_small(folder):
    """Write new_aan_pairs.{train,eval,test}.tsv: label, two ids, two texts as Python writes bytes.

    Half of the pairs are of one module (1.0), half of two (0.0). Every passage belongs to one
    split; modules with fewer than 20 passages are left out.
    """
    modules = {name: passages(texts) for name, texts in stdlib_docstrings().items()}
    modules = {name: found for name, found in modules.items() if len(found) >= 20}
    rng = random.Random(0)
    for place, (split, count) in enumerate(PAIRS.items()):
        # Of ten passages in a row the ninth is for eval, the tenth for test.
        own = {
            name: [(f"{name}{i}", text) for i, text in enumerate(found)
                   if max(i % 10 - 7, 0) == place]
            for name, found in modules.items()
        }  # fmt: skip
        path = folder / f"new_aan_pairs.{split}.tsv"
        with open(path, "w", encoding="utf-8", newline="\n") as file:
            for i in range(count):
                one, two = rng.sample(sorted(own), 2)
                pair = rng.sample(own[one], 2) if i % 2 else map(rng.choice, (own[one], own[two]))
                (id1, text1), (id2, text2) = pair
                fields = (float(i % 2), id1, id2, text1.encode(), text2.encode())
                file.write("\t".join(map(str, fields)) + "\n")
