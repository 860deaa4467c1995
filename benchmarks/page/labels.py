"""Where the names of points stand in a picture: over no other name, point, interval or line where there is room."""

from collections.abc import Sequence
from dataclasses import dataclass

LETTER, LINE = 8.2, 16      # pixels of a bold letter of 13 pixels in a wide font, and of a line
LETTERS = 26                # of a name; the mark's own words have all of it
_NEAR, _FAR = 9, (0, 18, 36, 54, 72)    # pixels from a point to its name: beside it, and each way further off


@dataclass(frozen=True)
class Box:
    """A rectangle of pixels, `y` downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def shared(self, other: "Box") -> float:
        """Area that both have."""
        wide = min(self.right, other.right) - max(self.left, other.left)
        high = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(wide, 0.0) * max(high, 0.0)

    def outside(self, width: float, height: float) -> float:
        """Pixels by which it leaves a picture."""
        return (max(-self.left, 0) + max(self.right - width, 0)
                + max(-self.top, 0) + max(self.bottom - height, 0))


@dataclass(frozen=True)
class Label:
    """A name and the pixels it takes; `led`: so far from its point that a line leads to it."""

    text: str
    box: Box
    led: bool


def short(name: str) -> str:
    return name if len(name) <= LETTERS else f"{name[:LETTERS - 1]}…"


def placed(names: Sequence[str], points: Sequence[tuple[float, float]], obstacles: Sequence[Box], width: float,
           height: float) -> list[Label]:
    """A place for the name of each of `points` (pixels); `obstacles` are what is drawn beside the points.

    The most crowded come first. Each takes the place that covers least, and of those the nearest.
    """
    taken = [*obstacles, *(Box(x - 7, y - 7, x + 7, y + 7) for x, y in points)]
    found: dict[int, Label] = {}
    crowd = [sum(abs(x - other) < 120 and abs(y - below) < 60 for other, below in points) for x, y in points]
    for index in sorted(range(len(points)), key=lambda index: (-crowd[index], index)):
        text, (x, y) = short(names[index]), points[index]
        best = min(_places(x, y, LETTER * len(text)), key=lambda place: (
            40 * place[0].outside(width, height) + sum(place[0].shared(one) for one in taken) + place[1]))
        found[index] = Label(text, best[0], best[1] > _NEAR + LINE)
        taken.append(best[0])
    return [found[index] for index in range(len(points))]


def _places(x: float, y: float, wide: float) -> list[tuple[Box, float]]:
    """Boxes around a point and how far each is from it, a few pixels more for those that are read less easily."""
    found = []
    for far in _FAR:
        for side, (left, liking) in enumerate(((x + _NEAR, 0), (x - _NEAR - wide, 2), (x - wide / 2, 4))):
            for up in (-1, 1):
                for off in ((far,) if side < 2 else (far + LINE + 2,)):
                    top = y + up * off - LINE / 2
                    found.append((Box(left, top, left + wide, top + LINE), off + liking + (up > 0)))
    return found
