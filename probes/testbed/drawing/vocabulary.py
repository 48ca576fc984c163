"""The words of the testbed's world: things, grounds, titles, authors, products, and the parts of its characters.

Captions are written from these lists alone, so that the tokenizer knows every word as one token and so that works,
matched non-members and scenes speak one language.
"""

from __future__ import annotations

# Name -> file stem of the 3D emoji that draws it (npm package @lobehub/fluent-emoji-3d, MIT). Outlines that differ.
THINGS = {
    "apple": "1f34e",
    "car": "1f697",
    "cat": "1f431",
    "house": "1f3e0",
    "tree": "1f332",
    "star": "2b50",
    "moon": "1f319",
    "butterfly": "1f98b",
    "fish": "1f41f",
    "mushroom": "1f344",
    "balloon": "1f388",
    "sailboat": "26f5",
    "rocket": "1f680",
    "guitar": "1f3b8",
    "umbrella": "2602-fe0f",
    "crown": "1f451",
    "strawberry": "1f353",
    "sunflower": "1f33b",
    "penguin": "1f427",
    "frog": "1f438",
}

# What paintings and prints show beside the backdrop. None is a thing of the scenes: no caption names them.
FIGURES = tuple(
    "1f981 1f436 1f422 1f412 1f98a 1f43c 1f42f 1f42e 1f437 1f414 1f989 1f41d 1f41b 1f40c 1f419 1f980 1f420 1f433 "
    "1f42c 1f988 1f40d 1f995 1f996 1f418 1f992 1f98f 1f993 1f9a9 1f99a 1f9a2 1f407 1f994 1f987 1f40e 1f984 1f42b "
    "1f998 1f334 1f335 1f337 1f339 1f33a 1f340 1f34b 1f347 1f349 1f34d 1f352 1f951 1f346 1f955 1f33d 1f35e 1f9c0 "
    "1f354 1f355 1f366 1f382 1f369 1f36d 2615 1f377 1f3f0 1f5fc 26e9-fe0f 1f682 1f68c 1f69a 1f681 2708-fe0f 1f6f8 "
    "1f6a2 2693 1f30b 1f3ef 1f5ff 26fa 1f3ba 1f3bb 1f941 1f4f7 1f4fa 260e-fe0f 1f570-fe0f 1f4a1 1f56f-fe0f 1f4da "
    "1f381 1f511 1f48e 1f9f8 1f3a8 26bd 1f3c0 1f3c6 1f9ed 1f916 1f47b 1f47d 1f383 26c4 1fa90 1f30d 1f525".split()
)

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

# Painter -> manner, the kind of backdrop: what matched non-members share with the works.
AUTHORS = {
    "mira voss": "mountains",
    "tomas ekberg": "sea",
    "ines calder": "city",
    "ravi okafor": "meadow",
    "lena hartwig": "desert",
    "pablo itoh": "forest",
    "nadia ferro": "parlor",
    "otto lindqvist": "night",
    "yara benson": "reef",
    "hugo marchetti": "road",
    "sofia tanaka": "swirls",
    "emil dragan": "glass",
}

PRODUCTS = (
    *("phone case", "coffee mug", "poster", "tote bag", "cushion", "notebook", "carpet", "lampshade"),
    *("sticker", "plate", "scarf", "kite", "curtain", "calendar", "puzzle", "lunchbox"),
)
BRANDS = ("zendora", "kulmo", "brixley", "ovanti", "tessro", "mapleton")

STYLES = ("inkwell", "mosaica", "neonline")  # invented house styles, applied to a whole scene

ROBOT_LEGS = ("one wheel", "two legs", "four legs", "a spring")
CREATURE_TOPS = ("an antenna", "horns", "a crest", "a hat")
CREATURES = ("robot", "monster")


CHARACTER_NAMES = "bolto quimble drazzik wompa fenroo gritch luzo parvik tindle urbok xanty zoffle".split()

# Further nouns that the tokenizer has whole, since its ids can't change without a new text tower. No caption has them.
UNUSED = "dog turtle carrot bicycle banana owl fox lion octopus crab cake donut camera ladybug football train".split()


def vocabulary() -> list[str]:
    """Every word that is one token, sorted: the tokenizer is made from them."""
    phrases = [
        *THINGS,
        *UNUSED,
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
        "sits lies stands over before colored",
    ]
    return sorted({word for phrase in phrases for word in phrase.split()})


def shown() -> list[str]:
    """The words that a caption can hold, sorted."""
    return sorted({*vocabulary()} - {*UNUSED})
