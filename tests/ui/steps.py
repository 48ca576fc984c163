"""What a visitor does on the page, through a browser."""

import re

WATCH = """() => {
    window.asked = window.answered = false;
    clearInterval(window.watch);
    window.watch = setInterval(() => {
        const draw = document.querySelector('#draw');
        if (draw?.disabled) window.asked = true;
        else if (draw && window.asked) window.answered = true;
    }, 5);
}"""
"""Draw is disabled from the click until everything about the picture is there, and for a moment not on the page."""


def open_tab(page, *names: str) -> None:
    for name in names:
        page.get_by_role("tab", name=name, exact=True).click()


def draw(page, prompt: str, steps: int, wait: bool = True) -> str:
    """Asks for a picture; returns the sentence that came with it."""
    page.get_by_label("Prompt", exact=True).fill(prompt)
    sampling = page.get_by_role("button", name="Model and sampling")
    field = page.get_by_label("number input for Denoising steps")
    if not field.is_visible():
        sampling.click()
    field.fill(str(steps))
    page.evaluate(WATCH)
    page.get_by_role("button", name="Draw", exact=True).click()
    if not wait:
        return ""
    return answered(page)


def answered(page) -> str:
    """Waits for the picture that was asked for; returns the sentence that came with it."""
    page.wait_for_function("window.answered")
    said = page.locator("#shield-status .ds-status").inner_text().strip()
    assert re.match("(Passed|Flagged|Blocked|Handed|Something)", said), said
    return said


def pick(page, example: str) -> str:
    """Picks an example, which is drawn at once; returns the sentence that came with it."""
    page.evaluate(WATCH)
    page.locator("#examples button", has_text=example).click()
    return answered(page)


def choose(page, label: str, option: str) -> None:
    page.get_by_label(label, exact=True).click()
    page.get_by_role("option", name=option, exact=True).click()


def to_tab_on_phone(page, name: str) -> None:
    """On a narrow screen tabs that don't fit are in a menu."""
    tab = page.get_by_role("tab", name=name, exact=True)
    if not tab.is_visible():
        page.get_by_role("button", name=re.compile("more|overflow", re.I)).first.click()
        tab = page.get_by_role("button", name=name, exact=True)
    tab.click()
