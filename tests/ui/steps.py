"""What a visitor does on the page, through a browser."""

import re


def open_tab(page, *names: str) -> None:
    for name in names:
        page.get_by_role("tab", name=name, exact=True).click()


def draw(page, prompt: str, steps: int, wait: bool = True) -> str:
    """Asks for a picture; returns the sentence that came with it."""
    page.get_by_label("Prompt", exact=True).fill(prompt)
    sampling = page.get_by_role("button", name="Model and sampling")
    if not page.get_by_label("Seed").is_visible():
        sampling.click()
    page.get_by_label("number input for Denoising steps").fill(str(steps))
    page.evaluate("document.querySelector('#shield-status .ds-status').dataset.old = 1")
    page.get_by_role("button", name="Draw", exact=True).click()
    if not wait:
        return ""
    new = page.locator("#shield-status .ds-status:not([data-old])")
    done = new.get_by_text(re.compile("^(Passed|Flagged|Blocked|Handed|Something)"))
    done.wait_for()
    return done.inner_text().strip()


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
