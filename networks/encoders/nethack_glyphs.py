"""What NetHack's glyphs have in common: kinds, classes and species.

NLE numbers 5,976 glyphs: each monster six times (as such, as a pet, detected, as a corpse, ridden,
as a statue), objects, the symbols of the map, and effects. The numbers here are those of NetHack
3.6; a test compares them with the package.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

from firstlight.networks.encoders.nethack_parts import STONE

NO_GLYPH = 5976  # of an empty inventory slot
NUM_GLYPHS = NO_GLYPH + 1
PET, INVISIBLE, DETECTED, CORPSE, RIDDEN, OBJECT, SYMBOL = 381, 762, 763, 1144, 1525, 1906, STONE
EXPLOSION, WARNING, STATUE = 2446, 5589, 5595
"""First glyph of each range; that of monsters is 0."""
NUM_MONSTERS, NUM_OBJECTS = PET, SYMBOL - OBJECT

# first symbols of each kind: stone, walls, doorway, open door, closed door, iron bars, tree, floor,
# dark floor, corridor, lit corridor, stairs up, stairs down, ladder up, ladder down, altar, grave,
# throne, sink, fountain, water, ice, lava, bridges lowered and raised, air, cloud, water, traps,
# effects of spells and breath
_SYMBOLS = (
    *(0, 1, 12, 13, 15, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34),
    *(35, 37, 39, 40, 41, 42, 65),
)
_TRAPS = 42, 65
# first monsters of each class (ants, blobs, cockatrices, …, humans, golems, unique monsters)
_MONSTERS = (
    *(0, 6, 9, 12, 27, 32, 39, 42, 49, 55, 58, 62, 63, 66, 69, 77, 80, 87, 93, 97, 99, 105, 111),
    *(115, 117, 119, 120, 125, 129, 132, 150, 155, 162, 166, 175, 176, 180, 184, 192, 200, 203),
    *(207, 208, 210, 216, 221, 222, 225, 228, 229, 235, 245, 256, 283, 285, 312, 318, 326, 327),
    *(355, 356, 357, 358, 359, 360, 361, 362, 363, 365, 366),
)
# first objects of each class (weapons, armour, rings, …)
_OBJECTS = 0, 1, 71, 150, 178, 189, 239, 272, 298, 340, 383, 410, 411, 413, 447, 449, 450, 451
_FOOD = 239


class GlyphKinds(NamedTuple):
    """Numbers of each glyph, [NUM_GLYPHS] int16 from 0 on; -1 for none.

    Args:
        kind: what it is: a monster, a pet, an object, a wall, stairs down, …; none for `STONE` and
            `NO_GLYPH`, which show nothing.
        group: class of a monster or an object, such as dogs or potions.
        species: the monster, the object or the trap itself, in whatever form.
    """

    kind: np.ndarray
    group: np.ndarray
    species: np.ndarray

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Numbers of kinds, groups and species."""
        kind, group, species = (int(numbers.max()) + 1 for numbers in self)
        return kind, group, species


def glyph_kinds() -> GlyphKinds:
    """Assign numbers to all glyphs."""
    kind, group, species = (np.full(NUM_GLYPHS, -1, np.int16) for _ in range(3))
    symbols = [SYMBOL + first for first in _SYMBOLS]
    starts = [0, PET, INVISIBLE, DETECTED, CORPSE, RIDDEN, OBJECT, *symbols]
    starts += [EXPLOSION, WARNING, STATUE, NO_GLYPH]
    number = itertools.count()
    for first, end in itertools.pairwise(starts):
        if first != STONE:
            kind[first:end] = next(number)

    monsters = np.arange(NUM_MONSTERS)
    classes = np.searchsorted(_MONSTERS, monsters, side="right") - 1
    for first in (0, PET, DETECTED, RIDDEN, CORPSE, STATUE):
        group[first + monsters], species[first + monsters] = classes, monsters
    objects = np.arange(NUM_OBJECTS)
    object_classes = len(_MONSTERS) + np.searchsorted(_OBJECTS, objects, side="right") - 1
    group[OBJECT + objects], species[OBJECT + objects] = (
        object_classes,
        NUM_MONSTERS + objects,
    )
    group[CORPSE + monsters] = object_classes[_FOOD]
    traps = np.arange(*_TRAPS)
    species[SYMBOL + traps] = NUM_MONSTERS + NUM_OBJECTS + traps - _TRAPS[0]
    return GlyphKinds(kind, group, species)
