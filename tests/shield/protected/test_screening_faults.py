"""Prompts that once stopped the screen, slowed it down, hid a name from it or were taken for one, by their kind."""

import time
import unicodedata

import pytest

from shield.protected.concepts import Concept, Concepts
from shield.protected.folding import folded, without_markup
from shield.protected.vocabulary import parts, stem


@pytest.fixture(scope="module")
def shipped():
    screen = Concepts.load()
    screen.found("warm up the barman")
    return screen


@pytest.mark.parametrize(
    "text", ["7" * 5_000, "0" * 5_000, "٣" * 5_000, "a " + "9" * 9_999 + " b", "\ud800 bolto \udfff\0"]
)
def test_any_text_is_screened(shipped, text):
    assert shipped.found(text) == []


@pytest.mark.parametrize(("word", "said"), [("2", "two"), ("007", "seven"), ("012", "twelve"), ("13", "13")])
def test_small_numbers_are_read_as_words_however_many_digits_others_have(word, said):
    assert stem(word) == said
    assert stem("1" + "0" * 5_000) == "1" + "0" * 5_000


LONG = {
    "ordinary words": "a quiet street with tall old trees and small shops ",
    "one long word": "mickeymouse",
    "a name again and again": "Mickey Mouse, ",
    "a name letter by letter": "m i c k e y m o u s e ",
    "a name of ordinary words": "a big bird. ",
    "names across clauses": "than, os ",
    "no spaces": "米老鼠在街上",
    "separators": "-",
    "digits": "7",
    "digits of a weight": ":1" + "1" * 60_000,
    "marks": "\u0301",
}


@pytest.mark.parametrize("kind", LONG)
def test_time_grows_with_a_prompts_length_and_not_with_its_square(shipped, kind):
    """Sixteen times the length took 256 times as long, minutes for 100,000 characters."""

    def seconds(length):
        prompt = (LONG[kind] * (length // len(LONG[kind]) + 1))[:length]
        started = time.process_time()
        shipped.found(prompt)
        return time.process_time() - started

    assert seconds(32_000) < 64 * min(seconds(2_000) for _ in range(3)) + 0.2


@pytest.mark.parametrize(
    ("text", "left"), [("(a:1.3)", "(a    )"), ("(a:2 )", "(a   )"), ("(a:.5)", "(a   )"), ("a:1.", "a:1.")]
)
def test_weights_are_markup(text, left):
    assert without_markup(text) == left


@pytest.mark.parametrize(
    "name",
    [
        "b%6Flto",
        "%62%6f%6c%74%6f",
        "b%256Flto",
        "b%25256Flto",
        "b&#111;lto",
        "b&#x6F;lto",
        "b&amp;#111;lto",
        "&#98;&#111;&#108;&#116;&#111;",
        "b&omicron;lto",
        "b%D0%BElto",
        "(b%6Flto:1.2)",
    ],
)
def test_escapes_hide_no_name(name):
    """PixArt's and OpenCLIP's own cleaning reads them before the text encoder does."""
    prompt = f"a picture of {name} at 100% of 50%25 size"
    assert [(m.concept, m.text) for m in SCREEN.found(prompt)] == [("Bolto", name.strip("()").removesuffix(":1.2"))]


def test_an_ampersand_may_be_escaped():
    screen = Concepts([Concept("Tom & Jerry")])
    for between in ("&amp;", "%26", "&#38;"):
        assert screen.found(f"tom {between} jerry, a drawing"), between
    assert not screen.found("tom &amp; bob, AT&T; jer%20")


SCREEN = Concepts(
    [
        Concept("Bolto"),
        Concept("Luzo"),
        Concept("Grumble and Fizz"),
        Concept("M&Q's"),
        Concept("مدينة كوفي"),
        Concept("미키 마우스"),
        Concept("ミッドナイト"),
        Concept("គុកគីម៉នស្ទើ"),
        Concept("ມິກກີເມົາ"),
        Concept("မစ်ကီမောက်"),
        Concept("มิกกี้เมาส์"),
        Concept("ปลา"),
        Concept("मिकी"),
    ]
)
NFD = unicodedata.normalize("NFD", "미키 마우스를 그린 그림")
IGNORED = "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180e\u180f\u200b\u200c\u200d\u2060\u2064\u3164"
IGNORED += (
    "\ufe0e\ufe0f\ufeff\uffa0\ufff0\U0001d173\U000e0001\U000e0062\U000e007f\U000e0100\U000e0fff\u0640\u07fa\u180a"
)


@pytest.mark.parametrize("name", ["bolto", "luzo"])
@pytest.mark.parametrize("hidden", IGNORED, ids=ascii)
def test_what_shows_nothing_hides_no_name(name, hidden):
    prompt = f"a picture of {name[:2]}{hidden}{name[2:]}, {hidden.join(name)}"
    assert len(SCREEN.found(prompt)) == 2


@pytest.mark.parametrize("blank", "\u115f\u1160\u200b\u2800\u3164\uffa0", ids=ascii)
def test_a_blank_that_is_no_space_parts_a_name_from_other_words(blank):
    assert [m.text for m in SCREEN.found(f"red{blank}luzo{blank}on{blank}a hill")] == ["luzo"]


def letters_from(first):
    return lambda name: "".join(chr(first + ord(c) - ord("a")) for c in name)


SQUARES = {f"{first:x}": letters_from(first) for first in (0x1F130, 0x1F150, 0x1F170, 0x1F1E6, 0x24D0)}


@pytest.mark.parametrize("squared", SQUARES.values(), ids=SQUARES)
def test_letters_in_squares_and_circles_and_of_flags_are_letters(squared):
    for prompt in (squared("bolto"), "b" + squared("o") + "lto", squared("luzo"), squared("luz") + "o"):
        assert [m.text for m in SCREEN.found(f"a {prompt} here")] == [prompt]


@pytest.mark.parametrize("sign", ["™", "®", "℠", "🇮🇹", "🅿", "②", "²"])
def test_a_symbol_beside_a_name_hides_it_not(sign):
    assert [m.text for m in SCREEN.found(f"Bolto{sign} and Luzo{sign}")] == ["Bolto", "Luzo"]


@pytest.mark.parametrize(
    "prompt",
    [
        "مدینة کوفي",  # Persian yeh and kaf
        "مدينه كوفى",  # heh, alef maksura
        "مديـــنة كوفي",
        NFD,
        unicodedata.normalize("NFD", "그미키마우스와"),
        "ﾐｯﾄﾞﾅｲﾄの絵",
        "ｱﾐｯﾄﾞﾅｲﾄﾉｴ",
        unicodedata.normalize("NFD", "ミッドナイトの絵"),
        "រូបគុកគីម៉នស្ទើនៅ",
        "ຮູບມິກກີເມົາຢູ່",
        "ပုံမစ်ကီမောက်နှင့်",
        "รูปมิกกี้เมาส์ที่ทะเล",
        "มิกกี้เมาส์2",
        "ภาพ ปลา ที่",
        "मिकी2 घर",
        "Grumble & Fizz",
        "grumble&fizz",
        "GRUMBLE ＆ FIZZ at night",
        "Fizz & Grumble",
        "grumbel & fizz",
        "m and q's",
        "m&q's",
        "bolto2",
        "BOLTO2000",
        "2bolto",
        "b0lto2",
        "bolto² and a cat",
        "boltoⅡ",
        "luzo3",
    ],
)
def test_a_name_is_found(prompt):
    assert len(SCREEN.found(prompt)) == 1


@pytest.mark.parametrize(
    "prompt",
    [
        "bolton",
        "b0lt0n",
        "bolton2",
        "bolt2",
        "kabolto2",
        "bolto2n",
        "boltro 2",
        "luzon3",
        "bo\u00adlt\u00adon",
        "grumble fizz",
        "grumble, fizz",
        "grumble & a fizz",
        "🇧🇴 🇱🇹",
        "ﾄ",
        "แปลากร",
        "मीका",
    ],
)
def test_another_word_is_no_name(prompt):
    assert SCREEN.found(prompt) == []


# Pairs of words that differ in vowel signs, viramas, tones or voicing alone.
OTHER_WORDS = [
    ("दिन", "दान"),
    ("दिनकर", "दानकार"),
    ("कमल", "कामिल"),
    ("पानी", "पुनः"),
    ("বালি", "বেলা"),
    ("দিন", "দান"),
    ("কলম", "কালিমা"),
    ("பாடல்", "பேடிலு"),
    ("கலை", "காலி"),
    ("ನಾಡು", "ನೋಡಿ"),
    ("കാട്", "കൂട്ടി"),
    ("မိကီ", "မောကူ"),
    ("ဝိုလို", "ဝါလေ"),
    ("นา", "นำ"),
    ("ข้าว", "ข่าว"),
    ("គីមី", "គុមុ"),
    ("バス", "パス"),
    ("ハト", "バド"),
]


@pytest.mark.parametrize(("one", "other"), OTHER_WORDS)
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_words_that_differ_in_vowel_signs_are_different(one, other, form):
    one, other = unicodedata.normalize(form, one), unicodedata.normalize(form, other)
    screen = Concepts([Concept(one, descriptions=(f"{one} x77",))])
    assert [m.concept for m in screen.found(f"a {one}, b")] == [one]
    assert screen.found(f"a {other}, b") == screen.found(f"x77 {other}") == []


def test_a_word_with_marks_is_one_word():
    assert [(0, 6)] == list(parts("मिकीमे")) and list(parts("cafe\u0301s noirs")) == [(0, 6), (7, 12)]
    assert list(parts("mon\u00adster\u200bhat")) == [(0, 8), (9, 12)]


@pytest.mark.parametrize("text", ["ဝို", "aำb", "b\u093flt\u0e34o", "ﾐｯﾄﾞﾅ", "ﾞa", "🇧🅾"])
def test_a_folded_text_stays_as_it_is(text):
    for reading in ("looks", "signs", "written"):
        assert folded(folded(text, reading).text, reading).text == folded(text, reading).text


def test_a_sign_of_another_script_is_a_decoration():
    assert [m.text for m in SCREEN.found("a bo\u093flt\u0e34o")] == ["bo\u093flt\u0e34o"]


@pytest.mark.parametrize("sign", ["\u02c9", "\u02c8", "\u02bc"], ids=ascii)
def test_modifier_letters_hide_no_name(sign):
    assert [m.concept for m in Concepts([Concept("Bolto")]).found(f"a picture of Bol{sign}to here")] == ["Bolto"]


@pytest.mark.parametrize("sign", ["\u200b", "\u2060", "\u3164", "\u034f", "\ufe0f"], ids=ascii)
def test_what_no_one_sees_hides_no_description(sign):
    screen = Concepts([Concept("Zed", descriptions=("orange monster with two legs and a hat",))])
    prompt = "the orange monster with two legs and a hat"
    assert screen.found(prompt.replace("mons", f"mons{sign}")) and screen.found(prompt.replace(" ", sign))


AND_FORMS = {
    "Tom and Jerry": ("Tom + Jerry", "TOM+JERRY", "Tom n Jerry", "Tom 'n' Jerry", "Tom & Jerry"),
    "Salt & Pepper Twins": ("Salt n Pepper Twins", "salt and pepper twins"),
    "Guns N' Roses": ("Guns and Roses", "Guns & Roses", "guns n roses"),
}


@pytest.mark.parametrize("name, said", [(name, said) for name, some in AND_FORMS.items() for said in some])
def test_and_has_many_forms(name, said):
    assert [m.concept for m in Concepts([Concept(name)]).found(f"a poster of {said} at night")] == [name]


def test_a_form_of_one_name_takes_none_from_another():
    names = ("Rick and Morty", "Rick & Morty Fans", "Rick n Morty")
    screen = Concepts(list(map(Concept, names)))
    assert [[m.concept for m in screen.found(f"a drawing of {name}")] for name in names] == [[name] for name in names]


@pytest.mark.parametrize(
    "name, other", [("Mac", "mac10"), ("Mac", "9mac"), ("バットマン", "ハットマン"), ("バットマン", "パットマン")]
)
def test_a_neighbor_of_a_name_is_none(name, other):
    screen = Concepts([Concept(name)])
    assert screen.found(f"a picture of {name}") and not screen.found(f"a picture of {other}")
