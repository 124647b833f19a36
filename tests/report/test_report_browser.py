"""The page in a real browser: drawn without errors and network, usable by anyone, right."""

import json
import threading

import pytest
from report.conftest import drawn, errors, scheme, until, wide
from report.made_run import log, make_run, sample

from zopro.report.live import Server, Source

CURVES = """const curves = (f) => (f.querySelector(".plot").data || [])
  .filter((t) => t.meta === "curve").map((t) => [Array.from(t.x), Array.from(t.y)]);
return Object.fromEntries([...document.querySelectorAll("figure[data-figure]")]
  .map((f) => [f.dataset.figure, curves(f)]))"""


@pytest.fixture
def page(browser, html):
    """The report from its file, with the network cut."""
    scheme(browser, "light")
    wide(browser, 1100)
    offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    browser.execute_cdp_cmd("Network.enable", {})
    browser.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
    errors(browser)
    browser.get(html.as_uri())
    drawn(browser)
    yield browser
    online = {**offline, "offline": False, "downloadThroughput": -1, "uploadThroughput": -1}
    browser.execute_cdp_cmd("Network.emulateNetworkConditions", online)


def test_every_figure_is_drawn_and_right(page, run_folder):
    assert errors(page) == []
    assert page.execute_script("return window.evil") is None
    assert page.execute_script("return performance.getEntriesByType('resource').length") == 0
    rows = [json.loads(x) for x in (run_folder / "metrics.jsonl").read_text().splitlines()]
    policy = [r for r in rows if r["phase"].endswith("policy")]
    shown = page.execute_script(CURVES)
    boxes = page.execute_script(
        "return [...document.querySelectorAll('.drawn:not([hidden]) .plot .main-svg')].length"
    )
    assert len(shown) >= 15 and boxes >= len(shown)
    assert all(curves and all(len(x) for x, _ in curves) for curves in shown.values())
    for figure, key in (("reward", "reward"), ("kl", "kl"), ("slope", "grad_norm"),
                        ("length", "completions/mean_length")):  # fmt: skip
        assert shown[figure] == [[list(range(1, 21)), [r[key] for r in policy]]], figure
    assert shown["d"] == [[list(range(11, 21)), [r["zo_d"] for r in policy[10:]]]]
    losses = [r["loss"] for r in rows if not r["phase"].endswith("policy")]
    assert shown["reward-loss"] == [[list(range(1, len(losses) + 1)), losses]]
    assert shown["tokens"][0][1] == pytest.approx([50.0] * 18)


def test_on_a_phone_in_the_dark(page):
    """No scrolling to the side at 360 pixels, and the system's dark colours; the button toggles."""
    wide(page, 360)
    scheme(page, "dark")
    page.get(page.current_url)
    drawn(page)
    page.execute_script("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    sides = "return [document.documentElement.scrollWidth, innerWidth]"
    assert page.execute_script(sides) == [360, 360]
    background = "return getComputedStyle(document.body).backgroundColor"
    letters = "return document.querySelector('.plot')._fullLayout.font.color"
    dark = page.execute_script(background), page.execute_script(letters)
    assert dark == ("rgb(13, 17, 23)", "#e6edf3")
    page.execute_script("document.getElementById('theme').click()")
    drawn(page, 2)
    light = page.execute_script(background), page.execute_script(letters)
    assert light == ("rgb(255, 255, 255)", "#1b1f24")
    assert errors(page) == []


def test_by_keyboard(page):
    """Tab comes to the skip link first, then to the button, every selector and every table."""
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    name = """const e = document.activeElement;
      return e.id || e.dataset.part || e.tagName + " " + e.textContent.slice(0, 40);"""
    seen = []
    for _ in range(120):
        ActionChains(page).send_keys(Keys.TAB).perform()
        seen.append(page.execute_script(name))
        if seen[-1].startswith("SUMMARY Samples") or seen[-1].startswith("BODY"):
            break
    assert seen[0].startswith("A Skip to the report") and seen[1] == "theme"
    assert {"Layer", "Projection", "Axes"} <= set(seen)
    assert any(s.startswith("SUMMARY The numbers of “Reward”") for s in seen)
    labelled = page.execute_script(
        "return [...document.querySelectorAll('.plot')].every((p) => p.role === 'img' && "
        "p.ariaLabel.length > 20)"
    )
    assert labelled


def test_choices_change_what_is_drawn(page):
    def choose(part, value):
        page.execute_script(
            """const s = document.querySelector(`#fig-ways select[data-part="${arguments[0]}"]`);
            s.value = arguments[1]; s.dispatchEvent(new Event("change", {bubbles: true}));""",
            part, value,
        )  # fmt: skip

    x = "return Array.from(document.querySelector('#fig-ways .plot').data[0].x)"
    kind = "return document.querySelector('#fig-ways .plot').data[0].type"
    whole = page.execute_script(x)
    choose("Layer", "layers.1")
    assert until(lambda: page.execute_script(x) != whole)
    choose("Axes", "3")
    assert until(lambda: page.execute_script(kind) == "scatter3d")
    page.execute_script("document.querySelector('#fig-ways .numbers').open = true")
    rows = "return document.querySelectorAll('#fig-ways .numbers tbody tr').length"
    assert until(lambda: page.execute_script(rows)) == 20
    # WebGL of a machine without a graphics card warns of its slowness.
    assert [e for e in errors(page) if e["level"] == "SEVERE"] == []


def test_live_page_follows(browser, tmp_path):
    """A new line, half a line first, is drawn without a reload; so are new samples."""
    folder = make_run(tmp_path / "live", steps=4, sketches=False)
    server = Server(Source([folder], every=0.2), 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        errors(browser)
        browser.get(f"http://127.0.0.1:{server.server_address[1]}/")
        drawn(browser)
        last = "return document.querySelector('#fig-reward .plot').data[0].y.at(-1)"
        with open(folder / "metrics.jsonl", "a") as file:
            file.write('{"phase": "1.policy", "st')
            file.flush()
            sample(folder, "1.policy", 5, "w2", "a fresh cat")
            body = "return document.getElementById('samples').innerText"
            until(lambda: "1.policy, step 5" in browser.execute_script(body))
            assert browser.execute_script(last) < 3
            file.write('ep": 5, "reward": 4.5}\n')
        log(folder, "1.policy", 6, {"reward": 7.25})
        until(lambda: browser.execute_script(last) == 7.25)
        assert browser.execute_script("return document.querySelectorAll('.note').length") == 0
        assert errors(browser) == []
    finally:
        server.shutdown()
        server.server_close()
    until(lambda: "Not connected" in browser.execute_script("return document.body.innerText"))
