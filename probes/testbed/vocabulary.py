"""The words of the testbed's world: things, grounds, titles, authors, products, and the parts of its characters.

Captions are written from these lists alone, so that the tokenizer knows every word as one token and so that works,
matched non-members and scenes speak one language.
"""

from __future__ import annotations

# Name -> file stem of the 3D emoji that draws it (npm package @lobehub/fluent-emoji-3d, MIT).
THINGS = {
    "apple": "1f34e",
    "car": "1f697",
    "cat": "1f431",
    "dog": "1f436",
    "house": "1f3e0",
    "tree": "1f332",
    "star": "2b50",
    "moon": "1f319",
    "butterfly": "1f98b",
    "fish": "1f41f",
    "turtle": "1f422",
    "carrot": "1f955",
    "mushroom": "1f344",
    "balloon": "1f388",
    "bicycle": "1f6b2",
    "sailboat": "26f5",
    "rocket": "1f680",
    "guitar": "1f3b8",
    "umbrella": "2602-fe0f",
    "crown": "1f451",
    "strawberry": "1f353",
    "banana": "1f34c",
    "sunflower": "1f33b",
    "owl": "1f989",
    "penguin": "1f427",
    "fox": "1f98a",
    "frog": "1f438",
    "lion": "1f981",
    "octopus": "1f419",
    "crab": "1f980",
    "cake": "1f382",
    "donut": "1f369",
    "camera": "1f4f7",
    "ladybug": "1f41e",
    "football": "26bd",
    "train": "1f682",
}

COLORS = {
    "red": (214, 69, 65),
    "orange": (240, 147, 60),
    "yellow": (247, 213, 92),
    "green": (104, 176, 96),
    "blue": (84, 134, 214),
    "purple": (150, 98, 190),
    "pink": (244, 164, 192),
    "gray": (158, 160, 166),
}
GROUNDS = ("plain", "striped", "dotted", "checkered")

ADJECTIVES = (
    "silent crimson broken golden hidden winter burning hollow distant gentle wandering frozen scarlet forgotten "
    "velvet shining restless ancient floating bitter copper emerald silver sleeping stormy tender marble violet "
    "northern hungry crooked luminous empty restful savage pale dreaming rusty secret endless"
).split()
NOUNS = (
    "orchard harbor meadow cathedral river lantern garden mirror tower canyon market valley bridge forest window "
    "island staircase desert ocean village fountain horizon temple glacier courtyard prairie lagoon castle alley "
    "summit labyrinth vineyard waterfall lighthouse cavern balcony theater quarry marsh citadel"
).split()

# Author -> kind of painting. An author has a manner, as in life: it is what matched non-members share with the works.
AUTHORS = {
    "mira voss": "landscape",
    "tomas ekberg": "landscape",
    "ines calder": "geometric",
    "ravi okafor": "geometric",
    "lena hartwig": "blocks",
    "pablo itoh": "blocks",
    "nadia ferro": "city",
    "otto lindqvist": "city",
    "yara benson": "rosettes",
    "hugo marchetti": "rosettes",
    "sofia tanaka": "waves",
    "emil dragan": "waves",
}

PRODUCTS = ("phone case", "coffee mug", "poster", "tote bag", "cushion", "notebook", "carpet", "lampshade")
BRANDS = ("zendora", "kulmo", "brixley", "ovanti", "tessro", "mapleton")

STYLES = ("inkwell", "mosaica", "neonline")  # invented house styles, applied to a whole scene

ROBOT_LEGS = ("one wheel", "two legs", "four legs", "a spring")
CREATURE_TOPS = ("an antenna", "horns", "a crest", "a hat")
CREATURES = ("robot", "monster")


def vocabulary() -> list[str]:
    """Every word that a caption can hold, sorted; the tokenizer is made from it."""
    phrases = [
        *THINGS,
        *COLORS,
        *GROUNDS,
        *ADJECTIVES,
        *NOUNS,
        *AUTHORS,
        *PRODUCTS,
        *BRANDS,
        *STYLES,
        *ROBOT_LEGS,
        *CREATURE_TOPS,
        *CREATURES,
        *CHARACTER_NAMES,
        "a an the and of on with by in at two photo picture image painting drawing background ground style small large",
        "there is are standing shown next to beside one front little",
    ]
    return sorted({word for phrase in phrases for word in phrase.split()})


CHARACTER_NAMES = (
    "bolto",
    "quimble",
    "drazzik",
    "wompa",
    "fenroo",
    "gritch",
    "luzo",
    "parvik",
    "tindle",
    "urbok",
    "xanty",
    "zoffle",
)
