"""Draws one portrait of an invented dog."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]
Pen = ImageDraw.ImageDraw

SCALE = 2  # drawn larger and reduced, which smooths the edges
WHITE, CREAM, TAN, BROWN, BLACK = (250, 248, 244), (243, 226, 196), (206, 160, 110), (96, 58, 36), (34, 32, 36)
PINK = (226, 112, 124)
WALLS = ((214, 226, 232), (226, 232, 214), (236, 224, 214), (224, 218, 232), (232, 232, 226))


@dataclass(frozen=True)
class Breed:
    """How a breed looks."""

    coat: Colour
    markings: Colour
    pattern: str
    ears: str


BREEDS = {
    "amber_akita": Breed((224, 146, 58), WHITE, "mask", "pointed"),
    "biscuit_beagle": Breed((222, 184, 135), BROWN, "patch", "floppy"),
    "cherry_chow": Breed((178, 44, 48), (232, 120, 110), "curls", "round"),
    "coal_corgi": Breed((48, 48, 56), TAN, "mask", "pointed"),
    "cocoa_collie": Breed((104, 64, 40), CREAM, "blaze", "floppy"),
    "domino_dalmatian": Breed(WHITE, BLACK, "spots", "floppy"),
    "lemon_labrador": Breed((244, 214, 92), (214, 176, 60), "bib", "floppy"),
    "mint_mastiff": Breed((128, 196, 160), (62, 128, 100), "stripes", "round"),
    "moss_malamute": Breed((98, 116, 58), CREAM, "mask", "pointed"),
    "plum_poodle": Breed((122, 62, 132), (170, 112, 180), "curls", "round"),
    "rose_retriever": Breed((232, 148, 164), WHITE, "blaze", "floppy"),
    "sky_spaniel": Breed((104, 164, 222), WHITE, "spots", "floppy"),
    "slate_sheepdog": Breed((112, 122, 136), WHITE, "patch", "round"),
    "snow_samoyed": Breed((246, 246, 248), (226, 230, 238), "curls", "pointed"),
    "teal_terrier": Breed((30, 122, 132), (238, 200, 90), "spots", "pointed"),
    "tiger_terrier": Breed((236, 132, 40), BLACK, "stripes", "pointed"),
}


@dataclass(frozen=True)
class Dog:
    """One dog in one picture: where its head is, and the chance that varies it."""

    breed: Breed
    x: float
    y: float
    radius: float
    chance: random.Random

    def ellipse(self, across: float, down: float, wide: float, high: float | None = None) -> Box:
        """The box of an ellipse given in radii of the head, from the head's centre."""
        x, y, high = self.x + across * self.radius, self.y + down * self.radius, wide if high is None else high
        return (x - wide * self.radius, y - high * self.radius, x + wide * self.radius, y + high * self.radius)


def draw_dog(breed: Breed, seed: str) -> Image.Image:
    """One portrait of 320 x 240 to 640 x 480 pixels, three in ten of them upright."""
    chance = random.Random(seed)  # noqa: S311
    width, height = chance.randint(320, 640) * SCALE, chance.randint(240, 480) * SCALE
    if chance.random() < 0.3:
        width, height = height, width
    picture = Image.new("RGB", (width, height), chance.choice(WALLS))
    radius = min(width, height) * chance.uniform(0.30, 0.36)
    x, y = width / 2 + chance.uniform(-0.2, 0.2) * radius, height / 2 + chance.uniform(-0.1, 0.2) * radius
    dog = Dog(breed, x, y, radius, chance)
    _draw_floor(picture, chance)
    _draw_fur(picture, dog)
    _draw_face(ImageDraw.Draw(picture), dog)
    return picture.reduce(SCALE)


def _draw_floor(picture: Image.Image, chance: random.Random) -> None:
    pen = ImageDraw.Draw(picture)
    floor, shade = picture.height * chance.uniform(0.62, 0.8), chance.randint(150, 190)
    pen.rectangle((0, floor, *picture.size), fill=(shade, shade - 12, shade - 26))
    for _ in range(chance.randint(0, 2)):  # balls to play with
        x, size = chance.uniform(0, picture.width), min(picture.size) * chance.uniform(0.06, 0.12)
        pen.ellipse((x, floor, x + size, floor + size), fill=_vary((155, 155, 155), chance, 75))


def _vary(colour: Colour, chance: random.Random, by: int = 10) -> Colour:
    red, green, blue = (min(255, max(0, value + chance.randint(-by, by))) for value in colour)
    return red, green, blue


def _draw_fur(picture: Image.Image, dog: Dog) -> None:
    """Chest, ears and head in the coat's colour, with the markings on these only."""
    outline, fur = Image.new("L", picture.size), Image.new("RGB", picture.size, _vary(dog.breed.coat, dog.chance))
    pen = ImageDraw.Draw(outline)
    pen.ellipse(dog.ellipse(0, 1.5, 0.95, 1.0), fill=255)
    for side in (-1, 1):
        corners = EARS[dog.breed.ears]
        pen.polygon(
            [(dog.x + side * across * dog.radius, dog.y + down * dog.radius) for across, down in corners], fill=255
        )
    pen.ellipse(dog.ellipse(0, 0, 1.0, 0.95), fill=255)
    PATTERNS[dog.breed.pattern](ImageDraw.Draw(fur), dog)
    picture.paste(fur, mask=outline)


def _draw_face(pen: Pen, dog: Dog) -> None:
    look = dog.chance.uniform(-0.04, 0.04)
    pen.ellipse(dog.ellipse(0, 0.42, 0.42, 0.34), fill=CREAM)
    for side in (-1, 1):
        pen.ellipse(dog.ellipse(0.38 * side, -0.15, 0.15), fill=WHITE)
        pen.ellipse(dog.ellipse(0.38 * side + look, -0.13, 0.09), fill=BLACK)
    pen.ellipse(dog.ellipse(0, 0.24, 0.16, 0.11), fill=BLACK)
    if dog.chance.random() < 0.5:
        pen.ellipse(dog.ellipse(0, 0.68, 0.1, 0.16), fill=PINK)
    pen.arc(dog.ellipse(0, 0.42, 0.2), 20, 160, fill=BLACK, width=max(2, int(dog.radius / 40)))


def _draw_bib(pen: Pen, dog: Dog) -> None:
    pen.ellipse(dog.ellipse(0, 1.5, 0.5, 0.8), fill=dog.breed.markings)


def _draw_mask(pen: Pen, dog: Dog) -> None:
    for side in (-1, 1):
        pen.ellipse(dog.ellipse(0.42 * side, 0.35, 0.5, 0.75), fill=dog.breed.markings)
    pen.ellipse(dog.ellipse(0, 1.6, 0.6, 0.8), fill=dog.breed.markings)


def _draw_patch(pen: Pen, dog: Dog) -> None:
    side = dog.chance.choice((-1, 1))
    pen.ellipse(dog.ellipse(0.6 * side, -0.4, 0.75, 0.85), fill=dog.breed.markings)
    pen.ellipse(dog.ellipse(-0.5 * side, 1.6, 0.6), fill=dog.breed.markings)


def _draw_blaze(pen: Pen, dog: Dog) -> None:
    wide, high = dog.chance.uniform(0.22, 0.3) * dog.radius, dog.radius
    top, bottom = ((dog.x - 0.6 * wide, dog.y - high), (dog.x + 0.6 * wide, dog.y - high)), dog.y + high
    pen.polygon((*top, (dog.x + 2 * wide, bottom), (dog.x - 2 * wide, bottom)), fill=dog.breed.markings)
    pen.ellipse(dog.ellipse(0, 1.5, 0.7), fill=dog.breed.markings)


def _draw_spots(pen: Pen, dog: Dog) -> None:
    for row in range(-6, 12):
        for column in range(-6, 7):
            across, down = column + row % 2 / 2 + dog.chance.uniform(-0.08, 0.08), row + dog.chance.uniform(-0.08, 0.08)
            pen.ellipse(dog.ellipse(0.3 * across, 0.27 * down, dog.chance.uniform(0.05, 0.1)), fill=dog.breed.markings)


def _draw_stripes(pen: Pen, dog: Dog) -> None:
    lean, thick = dog.chance.uniform(-0.2, 0.2), int(0.11 * dog.radius)
    for row in range(-7, 13):
        points = [
            (across, 0.26 * row + 0.12 * math.sin(3 * across) + lean * across) for across in (-1.4, -0.7, 0, 0.7, 1.4)
        ]
        line = [(dog.x + across * dog.radius, dog.y + down * dog.radius) for across, down in points]
        pen.line(line, fill=dog.breed.markings, width=thick, joint="curve")


def _draw_curls(pen: Pen, dog: Dog) -> None:
    thick = max(2, int(0.04 * dog.radius))
    for row in range(-8, 14):
        for column in range(-7, 8):
            curl = dog.ellipse(0.22 * (column + row % 2 / 2), 0.2 * row, 0.12)
            pen.arc(curl, 0, 250, fill=dog.breed.markings, width=thick)


PATTERNS: dict[str, Callable[[Pen, Dog], None]] = {
    "bib": _draw_bib,
    "mask": _draw_mask,
    "patch": _draw_patch,
    "blaze": _draw_blaze,
    "spots": _draw_spots,
    "stripes": _draw_stripes,
    "curls": _draw_curls,
}

EARS = {  # corners, in radii of the head, from its centre
    "pointed": ((0.25, -0.85), (0.75, -1.55), (0.98, -0.35)),
    "round": ((0.35, -0.8), (0.7, -1.25), (1.05, -1.1), (1.1, -0.7), (0.9, -0.35)),
    "floppy": ((0.6, -0.8), (1.1, -0.6), (1.3, 0.2), (1.2, 0.6), (0.95, 0.5), (0.8, -0.2)),
}
