"""A headless Chromium, and a fleet of mock workers under load for it to look at."""

from __future__ import annotations

import shutil
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright
from up import Up, running_up

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
# A name that, in this browser, leads to this machine.
REBOUND = "rebound.test"
# It runs as whoever runs the tests, and asks nothing of the network.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    f"--host-resolver-rules=MAP {REBOUND} 127.0.0.1",
)
VIEWPORT = {"width": 1366, "height": 768}
# The mock's published figures are a GPU's; so many times slower, lanes of it can be followed.
DEVICE = "mock:h100x20"
NUM_CLIENTS = 6


# Of a module, and no longer: while it is there, an event loop runs in this thread, and tests that
# have one of their own cannot.
@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        reason = f"the page is not tested: no {', '.join(PROGRAMS)} is installed"
        warnings.warn(reason, stacklevel=1)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """Two prefill and two decode workers."""
    folder = tmp_path_factory.mktemp("fleet")
    flags = ("--topology", "2p2d", "--device", DEVICE, "--num-blocks", "1000")
    with running_up(folder, *flags) as up:
        yield up


@pytest.fixture
def rebound_name() -> str:
    return REBOUND


@pytest.fixture
def load(fleet: Up) -> Iterator[None]:
    """Clients that ask again as soon as they are answered."""
    done = threading.Event()

    def ask(number: int) -> None:
        with httpx.Client(base_url=fleet.url, timeout=60) as client:
            while not done.is_set():
                prompt = f"{number} cranes over the old harbour " * 10
                body = {"prompt": prompt, "max_tokens": 24, "ignore_eos": True}
                client.post("/v1/completions", json=body).raise_for_status()

    with ThreadPoolExecutor(NUM_CLIENTS) as clients:
        asking = [clients.submit(ask, number) for number in range(NUM_CLIENTS)]
        yield
        done.set()
    for each in asking:
        each.result()


@pytest.fixture
def complaints() -> list[str]:
    """What the browser has to say against the page: errors, and what its policy forbids."""
    return []


@pytest.fixture
def page(chromium: Browser, fleet: Up, complaints: list[str]) -> Iterator[Page]:
    """The page, live."""
    context = chromium.new_context(viewport=VIEWPORT, color_scheme="dark")
    page = context.new_page()

    def on_console(message: ConsoleMessage) -> None:
        if message.type == "error":
            complaints.append(message.text)

    page.on("console", on_console)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(f"{fleet.url}/")
    page.locator("#connection.good").wait_for()
    yield page
    context.close()
