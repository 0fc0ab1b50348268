"""Snakes of dashes for Pathfinder's images (Linsley et al. 2018), grown many attempts at a time.

Most attempts run into the border or into one another and are given up: few succeed at
32 x 32 pixels, hardly any at 128 x 128. Shapes are therefore tables over whole
degrees, pixels are indices into flattened arrays, and numpy grows all attempts of a batch in step.

Notation: n attempts, S side of the arrays (the image and `edge` pixels on every side of it), P
pixels of a square around a paddle's head, R pixels of the circle on which the next head may lie.
"""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

PADDLE_RETRIALS = 2
SCALE = 2  # antialiasing: paddles are drawn this much larger and reduced
FULL = 255  # masks are bytes
TOUCHING = 1.8 * FULL  # sum of two masks from which on paddles overlap
SEED_TRIALS = 30  # places tried for a distractor's first paddle


@dataclass(frozen=True)
class Settings:
    """Lengths in pixels. Contrasts multiply the brightness of snakes and of single paddles."""

    side: int
    padding: int  # heads and tails keep off the border by this
    margins: tuple[int, ...]  # of which an image draws one: half the gap between paddles
    paddle_length: int
    thickness: float
    marker_radius: float
    seed_distance: int  # between the tails of the two target snakes
    continuity: float  # the larger, the straighter
    distractors: int
    snake_contrast: float
    paddle_contrast: float
    attempts: int  # grown at a time: affects the speed, and which images a seed gives
    contour_length: int = 14  # paddles of a target snake; a distractor has a third of them
    single_paddles: bool = False

    @property
    def distractor_length(self) -> int:
        return self.contour_length // 3


SETTINGS = {
    32: Settings(32, 1, (1,), 2, 0.5, 1.5, 7, 1.0, 5, 2.0, 0.75, attempts=32),
    128: Settings(128, 1, (2, 3), 5, 1.5, 3, 20, 1.8, 8, 0.9, 1.0, attempts=128),
}


# ------------------------------------------------------------------------------------------------
# Tables


def paddle(degrees: int, length: int, thickness: float, margin: int) -> tuple[np.ndarray, ...]:
    """Brightness and mask, float32 (2r + 1, 2r + 1) from 0 to 1, of a line that comes from the
    direction opposite to `degrees` and ends at the centre.

    Drawn SCALE times larger, antialiased, and reduced by Lanczos' filter. The mask is the line
    widened by a disc of radius `margin`.
    """
    radius = length + margin + math.ceil(thickness)
    side, angle = (2 * radius + 1) * SCALE, math.radians(degrees)
    y, x = (np.mgrid[:side, :side] - (side - 1) / 2) / SCALE
    along = x * math.cos(angle) + y * math.sin(angle) + length / 2
    across = y * math.cos(angle) - x * math.sin(angle)

    def coverage(inner_distance):  # of a pixel of the larger image
        return (inner_distance * SCALE + 0.5).clip(0, 1)

    beyond = np.maximum(np.abs(along) - length / 2, 0)
    half = (length + 1 / SCALE) / 2  # both end pixels included
    line = coverage(thickness / 2 - np.abs(across)) * coverage(half - np.abs(along))
    wide = coverage(thickness / 2 + margin - np.hypot(beyond, across))
    size = (2 * radius + 1, 2 * radius + 1)
    return tuple(np.asarray(Image.fromarray(image.astype(np.float32))
                            .resize(size, Image.Resampling.LANCZOS)).clip(0, 1)
                 for image in (line, wide))


class Tables:
    """What depends on the settings and the margin alone. Angles are whole degrees, 0 to 359."""

    def __init__(self, s: Settings, margin: int):
        reach = s.paddle_length + margin
        self.radius = reach + math.ceil(s.thickness)
        self.edge = 2 * reach + math.ceil(s.thickness) + 1
        self.side = s.side + 2 * self.edge  # S
        pairs = [paddle(d, s.paddle_length, s.thickness, margin) for d in range(360)]
        self.image = np.stack([image.ravel() for image, _ in pairs])  # (360, P) float32
        self.mask = np.stack([np.rint(mask.ravel() * FULL).astype(np.uint8) for _, mask in pairs])
        square = np.mgrid[-self.radius:self.radius + 1, -self.radius:self.radius + 1]
        self.patch = self.flat(*square.reshape(2, -1))  # (P,)
        y, x = np.mgrid[-reach:reach + 1, -reach:reach + 1].reshape(2, -1)
        y, x = np.array([y, x])[:, np.abs(np.hypot(y, x) - reach) < 0.5]
        self.ring = self.flat(y, x)  # (R,)
        self.ring_degrees = np.rint(np.degrees(np.arctan2(y, x))).astype(int) % 360
        turn = np.radians(np.abs((self.ring_degrees - np.arange(360)[:, None] + 180) % 360 - 180))
        self.straightness = np.cos(np.minimum(s.continuity * turn, math.pi / 2)) ** 2  # (360, R)
        self.to_head = self.vector(s.paddle_length)  # from a paddle's tail
        self.to_pivot = self.vector(margin)  # from a paddle's head
        self.to_second = self.vector(s.seed_distance)  # from the first snake's tail
        inside, border = np.zeros((self.side, self.side), np.uint8), self.edge + s.padding
        inside[border:-border, border:-border] = 1
        self.inside = inside.ravel()  # where heads and tails may be; margins may leave the image

    def flat(self, y, x):
        """Index, or difference of indices, into a flattened array."""
        return y * self.side + x

    def vector(self, length: float) -> np.ndarray:
        """(360,) differences of indices: a step of that length in each direction."""
        angles = np.radians(np.arange(360))
        y, x = (np.rint(length * part).astype(int) for part in (np.sin(angles), np.cos(angles)))
        return self.flat(y, x)


tables = cache(Tables)


# ------------------------------------------------------------------------------------------------
# Growing


class Snakes:
    """n snakes, each an attempt of its own; `rows` name those that are still growing.

    A snake's last paddle is not yet in its own mask, because the next one follows closely, but at
    once in that of its rival, which grows in turns with it.
    """

    def __init__(self, table: Tables, masks: np.ndarray, rng: np.random.Generator):
        """masks (n, S * S) uint8: what must not be touched; changed from now on."""
        self.table, self.masks, self.rng = table, masks, rng
        self.rival: Snakes | None = None
        self.head, self.degrees = np.zeros((2, len(masks)), int)
        self.paddles: list[tuple[np.ndarray, np.ndarray]] = []  # head and degrees, (n,) each

    def fit(self, rows: np.ndarray, heads: np.ndarray, degrees: np.ndarray) -> np.ndarray:
        """Whether paddles with these heads, (rows,), lie inside and touch nothing."""
        near = self.masks[rows[:, None], heads[:, None] + self.table.patch].astype(np.int16)
        touching = (near + self.table.mask[degrees]).max(1) >= TOUCHING
        return ~touching & (self.table.inside[heads] > 0)

    def place(self, rows: np.ndarray, heads: np.ndarray, degrees: np.ndarray) -> np.ndarray:
        """Places the paddles that fit and returns which, (rows,) bool."""
        fits = self.fit(rows, heads, degrees)
        rows, heads, degrees = rows[fits], heads[fits], degrees[fits]
        self.cover(rows)
        if self.rival:
            self.rival.raise_masks(rows, heads, degrees)
        self.head[rows], self.degrees[rows] = heads, degrees
        return fits

    def cover(self, rows: np.ndarray) -> None:
        """Takes the last paddles into the snakes' own masks."""
        if self.paddles:
            self.raise_masks(rows, self.head[rows], self.degrees[rows])

    def raise_masks(self, rows: np.ndarray, heads: np.ndarray, degrees: np.ndarray) -> None:
        cells = rows[:, None], heads[:, None] + self.table.patch
        self.masks[cells] = np.maximum(self.masks[cells], self.table.mask[degrees])

    def start(self, rows: np.ndarray, tails: np.ndarray, degrees: np.ndarray) -> np.ndarray:
        """The first paddles; returns which, (rows,) bool, could be placed."""
        return self.place(rows, tails + self.table.to_head[degrees], degrees)

    def note(self) -> None:
        """Ends a turn: the paddles just placed are the next ones of their snakes."""
        self.paddles.append((self.head.copy(), self.degrees.copy()))

    def extend(self, rows: np.ndarray) -> np.ndarray:
        """Grows each snake by a paddle; returns the rows where that was possible.

        The next head lies on the circle around the pivot, a point `margin` beyond the last head;
        a pixel's weight falls with the turn it means and with what the mask has there.
        """
        table, degrees = self.table, self.degrees[rows]
        cells = (self.head[rows] + table.to_pivot[degrees])[:, None] + table.ring
        free = (FULL - self.masks[rows[:, None], cells]) * table.inside[cells]
        total = (table.straightness[degrees] * free).cumsum(1)
        waiting = np.flatnonzero(total[:, -1] > 0.5)
        grown = np.zeros(len(rows), bool)
        for _ in range(1 + PADDLE_RETRIALS):
            drawn = self.rng.random(len(waiting)) * total[waiting, -1]
            i = (total[waiting] <= drawn[:, None]).sum(1).clip(max=len(table.ring) - 1)
            fits = self.place(rows[waiting], cells[waiting, i], table.ring_degrees[i])
            grown[waiting[fits]] = True
            waiting = waiting[~fits]
            if not len(waiting):
                break
        self.note()
        return rows[grown]

    def of(self, row: int) -> list[tuple[int, int]]:
        """Head and degrees of each paddle of one snake."""
        return [(int(head[row]), int(degrees[row])) for head, degrees in self.paddles]


def random_degrees(rng: np.random.Generator, count: int) -> np.ndarray:
    return (rng.random(count) * 360).astype(int)


def target_snakes(s: Settings, table: Tables, rng: np.random.Generator) -> tuple[list, ...]:
    """Two snakes of contour_length paddles (head, degrees), from the first successful attempt.

    The first tail keeps 2 * seed_distance from every border, the second is seed_distance away.
    """
    room = s.side - 4 * s.seed_distance
    low = table.edge + 2 * s.seed_distance
    while True:
        first, second = (Snakes(table, np.zeros((s.attempts, table.side ** 2), np.uint8), rng)
                         for _ in range(2))
        first.rival, second.rival = second, first
        y, x = low + (rng.random((2, s.attempts)) * room).astype(int)
        tails, rows = table.flat(y, x), np.arange(s.attempts)
        rows = rows[first.start(rows, tails, random_degrees(rng, len(rows)))]
        first.note()
        waiting = rows
        for _ in range(1 + PADDLE_RETRIALS):
            near = tails[waiting] + table.to_second[random_degrees(rng, len(waiting))]
            waiting = waiting[~second.start(waiting, near, random_degrees(rng, len(waiting)))]
        second.note()
        rows = np.setdiff1d(rows, waiting)
        for _ in range(s.contour_length - 1):
            rows = second.extend(first.extend(rows))
        if len(rows):
            return first.of(rows[0]), second.of(rows[0])


def distractor(table: Tables, mask: np.ndarray, length: int,
               rng: np.random.Generator) -> list[tuple[int, int]] | None:
    """A snake that touches nothing in mask (S * S,), to which it is added; None if it got stuck."""
    snake = Snakes(table, mask[None].copy(), rng)
    free = np.flatnonzero((mask < FULL / 2) & (table.inside > 0))
    tails = free[(rng.random(SEED_TRIALS) * len(free)).astype(int)]
    degrees, row = random_degrees(rng, SEED_TRIALS), np.zeros(1, int)
    heads = tails + table.to_head[degrees]
    fits = np.flatnonzero(snake.fit(np.zeros(SEED_TRIALS, int), heads, degrees))[:1]
    if not len(fits):
        return None
    snake.place(row, heads[fits], degrees[fits])
    snake.note()
    for _ in range(length - 1):
        row = snake.extend(row)
        if not len(row):
            return None
    snake.cover(row)
    np.maximum(mask, snake.masks[0], out=mask)
    return snake.of(0)
