"""Workers that are drained and put back on the page."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect
from up import Up

from tandem.cli.flags import GatewayFlags
from tandem.cli.workers import undrain_worker

ORDERS = "**/admin/workers/**"
# A page of another origin that tries to drain a worker, in each way that a page has.
FORGERY = """async (url) => {
  const tried = [];
  const attempt = async (options) => {
    try {
      tried.push((await fetch(url, { method: "POST", ...options })).status);
    } catch {
      tried.push("stopped");
    }
  };
  await attempt({ body: "{}", mode: "no-cors", headers: { "Content-Type": "text/plain" } });
  await attempt({ body: new URLSearchParams({ timeout_s: "0" }), mode: "no-cors" });
  await attempt({
    body: "{}", headers: { "Content-Type": "application/json", "X-Tandem-Operator": "page" },
  });
  navigator.sendBeacon(url, new Blob(["{}"], { type: "text/plain" }));
  const form = document.createElement("form");
  form.method = "POST";
  form.action = url;
  form.target = "frame";
  const frame = document.createElement("iframe");
  frame.name = "frame";
  document.body.append(form, frame);
  const loaded = new Promise((resolve) => { frame.addEventListener("load", resolve); });
  form.submit();
  await loaded;
  return tried;
}"""


def row(page: Page, worker_id: str) -> Locator:
    return page.locator("#worker-rows tr").filter(has_text=worker_id)


@pytest.fixture(autouse=True)
def all_serve_again(fleet: Up) -> Iterator[None]:
    yield
    for worker_id in ("decode-0", "decode-1"):
        undrain_worker(GatewayFlags(f"127.0.0.1:{fleet.grpc_port}"), worker_id)


@pytest.mark.usefixtures("load")
def test_a_worker_is_drained_and_put_back(page: Page, complaints: list[str]) -> None:
    first, second = row(page, "decode-0"), row(page, "decode-1")
    first.get_by_role("button", name="Drain").click()
    expect(first.get_by_role("alert")).to_have_text(re.compile("goes on elsewhere"))
    expect(first.get_by_role("button", name="Keep")).to_be_focused()
    page.keyboard.press("Escape")
    expect(first.get_by_role("button", name="Keep")).to_be_hidden()
    expect(first.locator("td.serving")).to_be_visible()

    first.get_by_role("button", name="Drain").click()
    first.get_by_role("button", name="Drain").click()
    expect(first.locator("td.draining, td.drained")).to_be_visible()
    expect(first.locator("td.drained")).to_be_visible(timeout=40_000)
    second.get_by_role("button", name="Drain").click()
    expect(second.get_by_role("alert")).to_have_text(
        "No other decode worker serves: new requests would be refused."
    )
    second.get_by_role("button", name="Keep").click()

    first.get_by_role("button", name="Undrain").click()
    expect(first.locator("td.serving")).to_be_visible()
    expect(first.get_by_role("button", name="Drain")).to_be_visible()
    assert complaints == []


def test_a_question_outlasts_ticks_and_no_row_is_lost(page: Page) -> None:
    keep = row(page, "decode-0").get_by_role("button", name="Keep")
    row(page, "decode-0").get_by_role("button", name="Drain").click()
    page.wait_for_timeout(1000)
    expect(keep).to_be_focused()
    expect(page.locator("#worker-rows tr")).to_have_count(4)
    keep.click()


def test_why_an_order_is_refused_is_said(page: Page) -> None:
    def refuse(route: Route) -> None:
        route.fulfill(status=403, json={"error": {"message": "this takes an operator's key"}})

    page.route(ORDERS, refuse)
    there = row(page, "decode-0")
    there.get_by_role("button", name="Drain").click()
    there.get_by_role("button", name="Drain").click()
    expect(there.get_by_role("alert")).to_have_text("this takes an operator's key")
    expect(there.get_by_role("button", name="Drain")).to_be_enabled()


class Elsewhere(BaseHTTPRequestHandler):
    """A server of somebody else's."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><p>Look here")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[int]:
    """Its port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        threading.Thread(target=server.serve_forever).start()
        yield server.server_port
        server.shutdown()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_page_of_another_origin_drains_nobody(
    chromium: Browser, fleet: Up, page: Page, elsewhere: int, host: str
) -> None:
    forger = chromium.new_context().new_page()
    forger.goto(f"http://{host}:{elsewhere}/")
    url = f"{fleet.url}/admin/workers/decode-0/drain"
    # What was let through says nothing to it; what would have been an order was not.
    assert forger.evaluate(FORGERY, url) == [0, 0, "stopped"]
    forger.context.close()
    page.wait_for_timeout(500)
    expect(row(page, "decode-0").locator("td.serving")).to_be_visible()


def test_a_name_that_was_made_to_lead_here_drains_nobody(
    chromium: Browser, fleet: Up, rebound_name: str
) -> None:
    rebound = chromium.new_context().new_page()
    rebound.goto(f"http://{rebound_name}:{fleet.http_port}/")
    there = row(rebound, "decode-0")
    there.get_by_role("button", name="Drain").click()
    there.get_by_role("button", name="Drain").click()
    expect(there.get_by_role("alert")).to_have_text(re.compile("not at a name"))
    expect(there.locator("td.serving")).to_be_visible()
    rebound.context.close()
