"""The page in a real browser, over a fleet that works."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, Route, expect
from up import Up

from tandem.cli.flags import GatewayFlags
from tandem.cli.workers import drain_worker, undrain_worker

# The lanes' names stand to the left of it, with the colours of their roles.
LANES_LEFT = 104
# Whether all of some of the style sheet's colours are on the lanes.
HAS_COLOURS = """([names, left]) => {
  const canvas = document.getElementById("gantt");
  const { width, height } = canvas;
  const { data } = canvas.getContext("2d").getImageData(left, 0, width - left, height);
  const found = new Set();
  for (let i = 0; i < data.length; i += 4) {
    if (data[i + 3] === 255) found.add(`rgb(${data[i]}, ${data[i + 1]}, ${data[i + 2]})`);
  }
  const probe = document.createElement("span");
  document.body.append(probe);
  const colours = names.map((name) => {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color;
  });
  probe.remove();
  return colours.every((colour) => found.has(colour));
}"""
# By how much a cell's text stands out from its card: WCAG's contrast, of which 4.5 is enough.
CONTRAST = """(cell) => {
  const luminance = (colour) => {
    const [r, g, b] = colour.match(/\\d+/g).slice(0, 3).map((each) => {
      const part = each / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const text = luminance(getComputedStyle(cell).color);
  const card = luminance(getComputedStyle(cell.closest(".card")).backgroundColor);
  return (Math.max(text, card) + 0.05) / (Math.min(text, card) + 0.05);
}"""
PIXELS = """() => document.getElementById("gantt").toDataURL()"""
NUM_LOOKS = 200
LOOK_MS = 100


def wait_for_colours(page: Page, *names: str) -> None:
    """Wait until they are drawn. (Playwright's own way of waiting for a function needs what the
    page's policy forbids.)"""
    for _ in range(NUM_LOOKS):
        if page.evaluate(HAS_COLOURS, [names, LANES_LEFT]):
            return
        page.wait_for_timeout(LOOK_MS)
    raise AssertionError(f"not on the lanes: {names}")


def hover_last_lane(page: Page, until: float) -> bool:
    """Go along the lane of the last worker, to a share of its width. Whether a step is there."""
    box = page.locator("#gantt").bounding_box()
    assert box
    for x in range(LANES_LEFT, int(box["width"] * until), 10):
        page.mouse.move(box["x"] + x, box["y"] + box["height"] - 25)
        if page.locator("#tip").is_visible():
            return True
    return False


def ask(page: Page, text: str) -> None:
    page.fill("#max-tokens", "40")
    page.fill("#prompt", text)
    page.press("#prompt", "Enter")


@pytest.mark.usefixtures("load")
def test_lanes_are_drawn_and_figures_are_shown(page: Page, complaints: list[str]) -> None:
    wait_for_colours(page, "prefill", "decode")
    expect(page.locator("#worker-rows tr")).to_have_count(4)
    expect(page.locator("#model")).to_have_text("mock, 2p2d")
    for figure in ("#tokens-per-s", "#first-token", "#between-tokens", "#efficiency"):
        expect(page.locator(figure)).to_have_text(re.compile(r"\d"))
    expect(page.locator("#bottleneck")).to_have_text(re.compile(r"^[A-Z][a-z ]+: \w"))
    expect(page.locator(".chip").first).to_be_visible()
    expect(page.locator("#empty")).to_be_hidden()
    assert complaints == []


@pytest.mark.usefixtures("load")
def test_a_chat_is_answered_and_lights_up(page: Page, complaints: list[str]) -> None:
    ask(page, "What is a KV cache?")
    wait_for_colours(page, "own")
    answer = page.locator(".message.assistant")
    expect(answer.locator("footer")).to_have_text(
        re.compile(r"40 tokens, first after .*\n.*decode-\d.*\n\d+ prompt tokens", re.DOTALL),
        timeout=30_000,
    )
    expect(page.locator("#send")).to_have_text("Send")
    assert answer.locator("span").inner_text()
    assert complaints == []


def test_a_chat_can_be_stopped(page: Page, complaints: list[str]) -> None:
    page.fill("#max-tokens", "2000")
    page.fill("#prompt", "Say much")
    page.press("#prompt", "Enter")
    expect(page.locator(".message.assistant footer")).to_have_text(re.compile("tok/s"))
    page.click("#send")
    expect(page.locator(".message.assistant footer")).to_have_text(re.compile("stopped"))
    expect(page.locator("#send")).to_have_text("Send")
    # The gateway has let go of it.
    expect(page.locator(".chip")).to_have_count(0)
    assert complaints == []


@pytest.mark.usefixtures("load")
def test_it_can_be_paused_zoomed_and_hovered(page: Page) -> None:
    # A step has to have come so far that it is still seen when what is seen becomes less.
    for _ in range(NUM_LOOKS):
        if hover_last_lane(page, until=0.7):
            break
        page.wait_for_timeout(LOOK_MS)
    lanes = page.locator("#gantt")
    lanes.focus()
    lanes.press("Space")
    expect(page.locator("#pause")).to_have_attribute("aria-pressed", "true")
    still = page.evaluate(PIXELS)
    page.wait_for_timeout(3 * LOOK_MS)
    assert page.evaluate(PIXELS) == still
    lanes.press("+")
    expect(page.locator("#span")).to_have_text("3.2 s across")
    assert page.evaluate(PIXELS) != still

    assert hover_last_lane(page, until=1)
    expect(page.locator("#tip")).to_have_text(re.compile(r"^Step \d+ of decode-1\n\d+ sequence"))

    lanes.press("End")
    expect(page.locator("#pause")).to_have_attribute("aria-pressed", "false")
    moving = page.evaluate(PIXELS)
    page.wait_for_timeout(3 * LOOK_MS)
    assert page.evaluate(PIXELS) != moving


def test_light_or_dark_is_kept(page: Page) -> None:
    ground = "() => getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    page.click("#theme")
    light = page.evaluate(ground)
    assert light != dark
    page.reload()
    assert page.evaluate(ground) == light


def test_who_drains_is_shown(page: Page, fleet: Up) -> None:
    gateway = GatewayFlags(f"127.0.0.1:{fleet.grpc_port}")
    for worker_id in ("decode-0", "decode-1"):
        drain_worker(gateway, worker_id, 0.0, wait=False)
    try:
        drained = page.locator("td.drained")
        expect(drained).to_have_text(["drained", "drained"])
        expect(page.locator("#bottleneck")).to_have_text("Workers: no decode worker serves")
        for _ in range(2):
            assert drained.first.evaluate(CONTRAST) >= 4.5
            page.click("#theme")
    finally:
        for worker_id in ("decode-0", "decode-1"):
            undrain_worker(gateway, worker_id)
    expect(page.locator("td.serving")).to_have_count(4)


def test_a_key_that_is_wanted_is_asked_for_and_sent(page: Page) -> None:
    sent = []

    def want_key(route: Route) -> None:
        sent.append(route.request.headers.get("authorization"))
        error = {"message": "a key is wanted"}
        route.fulfill(status=401, json={"error": error})

    page.route("**/v1/chat/completions", want_key)
    ask(page, "Hello")
    expect(page.locator(".message.failed footer")).to_have_text("a key is wanted")
    page.fill("#key", "secret")
    page.press("#key", "Enter")
    expect(page.locator("#key-form")).to_be_hidden()
    ask(page, "Hello")
    expect(page.locator(".message.failed")).to_have_count(2)
    assert sent == [None, "Bearer secret"]


def test_who_may_not_watch_is_asked_for_another_key_and_asks_no_more(page: Page) -> None:
    num_asked = 0

    def forbid(route: Route) -> None:
        nonlocal num_asked
        num_asked += 1
        error = {"message": "this takes an API key of the tenant default"}
        route.fulfill(status=403, json={"error": error})

    page.route("**/page/events", forbid)
    page.reload()
    expect(page.locator("#key-form")).to_be_visible()
    expect(page.locator("#connection")).to_contain_text("of the tenant default")
    page.wait_for_timeout(25 * LOOK_MS)
    assert num_asked == 1
    page.unroute("**/page/events")
    page.fill("#key", "another")
    page.press("#key", "Enter")
    expect(page.locator("#connection.good")).to_be_visible()


def test_on_a_phone_only_the_table_of_workers_is_wider(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    expect(page.locator("#worker-rows tr")).to_have_count(4)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.evaluate("document.querySelector('#workers').scrollWidth") > 390
