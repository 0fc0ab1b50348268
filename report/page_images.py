"""The page's picture of test images with what a model said of them."""

from pathlib import Path
from typing import TYPE_CHECKING

from report import plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS, ROWS = 8, 2


def predictions_of(path: Path) -> list[tuple[int, int]]:
    """[(label, prediction)] of a file with a line `label prediction` for each test image; empty if
    it is none."""
    try:
        pairs = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
        return [(int(label), int(said)) for label, said in pairs]
    except (OSError, ValueError):
        return []


def of_digits(folder: Path | None, path: Path) -> dict[str, str] | None:
    """{figure, caption} of the first test images of digits.npz in `folder`, each under what the
    model said; None without both."""
    said = predictions_of(path)
    archive = folder / "digits.npz" if folder else None
    if not said or archive is None or not archive.is_file():
        return None
    import numpy as np

    with np.load(archive, allow_pickle=False) as arrays:
        images = arrays["test_images"][:COLUMNS * ROWS]
    if len(images) > len(said):
        return None
    wrong = sum(label != prediction for label, prediction in said)
    return {"figure": plots.svg_address(lambda: montage(images, said)),
            "caption": f"The first {len(images)} test images, above each what the model says; "
                       f"{wrong} of all {len(said)} are wrong."}


def montage(images, said: list[tuple[int, int]]) -> "Figure":
    """The images in a grid; where the model is wrong, in the colour of a warning, what it is."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 2.1), layout="constrained")
    grid = figure.subplots(ROWS, COLUMNS).flat
    for axes, image, (label, prediction) in zip(grid, images, said, strict=False):
        axes.imshow(image, cmap="gray_r", interpolation="nearest")
        right = label == prediction
        axes.set_title(f"{prediction}" if right else f"{prediction}, is {label}",
                       fontsize=10, color=plots.GREY if right else plots.COLORS[1])
    for axes in figure.axes:
        axes.set_axis_off()
    return figure
