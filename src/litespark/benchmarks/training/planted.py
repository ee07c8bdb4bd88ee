"""What is planted among clean documents: junk of several kinds, copies, and nearly copies; all from a seed."""

import string
from collections.abc import Callable, Sequence
from random import Random
from typing import NamedTuple

CLEAN = "clean"
EXACT_COPY = "exact_copy"
NEAR_COPY = "near_copy"
# of what is planted, in bytes
_SHARES = {EXACT_COPY: 0.25, NEAR_COPY: 0.25}
# one document in so many is copied over and over, as boilerplate is
_COPIED = 20
# of the words of a near copy are others
_CHANGED = 0.01
_MENU = (
    "Home|About us|Contact|Sign in|Register|Shopping cart|Next page|Previous page|Read more|Share this|Follow us|"
    "Privacy|Terms|Site map|Help|Search|Newsletter|Subscribe|Jobs|Press|Archive|Top|Print|Download|Comments (0)"
).split("|")
_SPAM = "Buy cheap|Best price for|Order now|Free shipping on|Limited offer for|Click here for|Review of".split("|")
_GOODS = "watches shoes loans tickets phones pills bags casino hotels insurance".split()


class Text(NamedTuple):
    """A document and what it is: clean, a copy, or a kind of junk."""

    kind: str
    text: str


def plant(clean: Sequence[str], share: float, seed: int) -> list[Text]:
    """Clean documents with junk and copies among them, in an order that the seed decides.

    A quarter of what is planted are exact copies, a quarter near copies with one word in a hundred changed, both of one
    document in twenty and always behind it; the rest is junk, the same share of every kind. `share` is the bytes to
    plant for each clean byte.
    """
    random = Random(seed)
    size = sum(len(text.encode()) for text in clean) * share
    places = [(random.random(), Text(CLEAN, text)) for text in clean]
    copied = random.sample(range(len(clean)), max(1, len(clean) // _COPIED))
    junk = dict.fromkeys(JUNK, (1 - sum(_SHARES.values())) / len(JUNK))
    for kind, part in (_SHARES | junk).items():
        left = size * part
        while left > 0:
            if kind in junk:
                behind, text = 0.0, JUNK[kind](random)
            else:
                behind, original = places[random.choice(copied)]
                text = original.text if kind == EXACT_COPY else _nearly(original.text, random)
            places.append((random.uniform(behind, 1), Text(kind, text)))
            left -= len(text.encode())
    return [text for _, text in sorted(places, key=lambda entry: entry[0])]


def _nearly(text: str, random: Random) -> str:
    words = text.split(" ")
    for place in random.sample(range(len(words)), max(1, round(_CHANGED * len(words)))):
        words[place] = _letters(random)
    return " ".join(words)


def _letters(random: Random) -> str:
    return "".join(random.choices(string.ascii_lowercase, k=random.randint(3, 9)))


def _noise(random: Random) -> str:
    return "\n".join(" ".join(_letters(random) for _ in range(12)) + "." for _ in range(random.randint(10, 40)))


def _numbers(random: Random) -> str:
    rows = (" ".join(f"{random.uniform(-1e3, 1e3):.3f}" for _ in range(8)) for _ in range(random.randint(10, 40)))
    return "\n".join(rows)


def _menu(random: Random) -> str:
    return "\n".join(random.choice(_MENU) for _ in range(random.randint(60, 200)))


def _spam(random: Random) -> str:
    phrase = f"{random.choice(_SPAM)} {random.choice(_GOODS)} and {random.choice(_GOODS)} here today."
    return " ".join([phrase] * random.randint(30, 100))


def _script(random: Random) -> str:
    letters = [chr(code) for code in range(ord("а"), ord("я") + 1)]
    words = ["".join(random.choices(letters, k=random.randint(2, 9))) for _ in range(random.randint(100, 300))]
    return " ".join(words) + "."


def _markup(random: Random) -> str:
    lines = (
        f"  {_letters(random)}: function() {{ return {random.randint(0, 999)}; }},"
        for _ in range(random.randint(20, 80))
    )
    return "\n".join(["var page = {", *lines, "};"])


JUNK: dict[str, Callable[[Random], str]] = {
    "junk_noise": _noise,
    "junk_numbers": _numbers,
    "junk_menu": _menu,
    "junk_spam": _spam,
    "junk_script": _script,
    "junk_markup": _markup,
}
