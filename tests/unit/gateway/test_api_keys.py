"""Keys: the file of them, and who gets in by HTTP."""

from __future__ import annotations

import re
import stat
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import httpx
import openai
import pytest
from http_client import CHAT, CHAT_PATH, TEXT, TEXT_PATH, serving

from gateway.access import Access
from gateway.frontend import Frontend
from gateway.http.access import OPEN_PATHS
from gateway.http.app import create_app
from gateway.http.page import page_router
from gateway.page.viewers import Viewers
from gateway.refusals import Refusals
from gateway.settings import GatewaySettings
from gateway.tenants import DEFAULT_TENANT, ONE_TENANT, Tenant
from tandem.core.errors import ConfigError
from tandem.process.api_keys import ApiKeys, add_api_key, digest_of, read_api_keys
from tandem.process.flags import flag_of, with_flag
from tandem.process.metrics import MetricsPage
from tandem.process.settings import read_settings

KEY, OTHER_KEY = "tandem-of-team-a", "tandem-of-team-b"
ACCESS = Access(
    {**ONE_TENANT, "team-a": Tenant(), "team-b": Tenant()},
    ApiKeys({digest_of(KEY): "team-a", digest_of(OTHER_KEY): "team-b"}),
)
GOOD = {"authorization": f"Bearer {KEY}"}


@pytest.fixture
def access() -> Access:
    return ACCESS


# The file


def test_a_key_is_its_tenants_and_stands_nowhere(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text("# ours")  # no line's end: what is added must not become part of it
    mine, other = add_api_key(path, "team-a"), add_api_key(path, "team-b")
    keys = ApiKeys(read_api_keys(path))
    assert (keys.tenant_of(mine), keys.tenant_of(other)) == ("team-a", "team-b")
    assert keys.tenant_of(mine[:-1]) is None
    assert keys.tenant_of(digest_of(mine)) is None
    assert mine not in path.read_text()
    assert len(mine) > 40 and mine != other


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a", "is not TOML"),
        ("a = 'b'", "no SHA-256"),
        (f"{'A' * 64} = 'b'", "no SHA-256"),
        (f"{'a' * 64} = 'b c'", "tenant's name"),
        (f"{'a' * 64} = 5", "tenant's name"),
        (f"{'a' * 64} = 'b'\n{'a' * 64} = 'c'", "is not TOML"),
    ],
)
def test_what_is_wrong_with_the_file_is_said(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(text)
    for read in (read_api_keys, lambda path: add_api_key(path, "team-a")):
        with pytest.raises(ConfigError, match=message):
            read(path)
    assert path.read_text() == text


@pytest.mark.parametrize("read", [read_api_keys, lambda path: add_api_key(path, "team-a")])
def test_what_is_no_text_is_no_file_of_keys(
    tmp_path: Path, read: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read(tmp_path)
    path = tmp_path / "keys.toml"
    path.write_bytes(b"# \xe9\n")
    with pytest.raises(ConfigError, match=r"keys\.toml is not UTF-8"):
        read(path)
    monkeypatch.setattr(Path, "read_text", Mock(side_effect=PermissionError(13, "denied")))
    with pytest.raises(ConfigError, match="cannot be read: denied"):
        read(path)


def test_a_file_that_cannot_be_read_or_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nonesuch.*No such file"):
        read_api_keys(tmp_path / "nonesuch")
    with pytest.raises(ConfigError, match=r"nonesuch.*No such file"):
        add_api_key(tmp_path / "nonesuch" / "keys.toml", "team-a")
    with pytest.raises(ConfigError, match="a name has"):
        add_api_key(tmp_path / "keys.toml", "team a")
    assert stat.S_ISDIR(tmp_path.stat().st_mode) and not list(tmp_path.iterdir())


# The settings


def test_without_keys_all_may_ask() -> None:
    assert GatewaySettings().read_access().is_open


def test_one_key_is_the_default_tenants(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_API_KEY", KEY)
    settings = GatewaySettings()
    assert KEY not in repr(settings)
    access = settings.read_access()
    assert not access.is_open
    assert access.tenant_of(GOOD) == DEFAULT_TENANT


@pytest.mark.parametrize("name", ["api_key", "api_keys", "tenants", "tls_dir"])
def test_who_gets_in_is_never_left_open_by_a_twin_that_is_empty(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"TANDEM_{name.upper()}", "")
    with pytest.raises(ConfigError) as caught:
        settings = read_settings(GatewaySettings, "tandem gateway", [])
        settings.read_access()
    assert with_flag(caught.value).startswith(f"{flag_of(name)}: ")


@pytest.mark.parametrize("key", ["", " ", "a b", "\u00e9", "a\n", "x" * 513])
def test_a_key_that_nobody_can_send_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match="printable ASCII"):
        GatewaySettings(api_key=key).read_access()


def test_names_in_the_keys_file_are_tenants_unless_there_is_a_file_of_these(tmp_path: Path) -> None:
    keys, tenants = tmp_path / "keys.toml", tmp_path / "tenants.toml"
    key = add_api_key(keys, "team-a")
    access = GatewaySettings(api_keys=keys, api_key=KEY).read_access()
    assert access.tenants == {DEFAULT_TENANT: Tenant(), "team-a": Tenant()}
    assert access.tenant_of({"authorization": f"Bearer {key}"}) == "team-a"
    assert access.tenant_of(GOOD) == DEFAULT_TENANT
    tenants.write_text("[team-a]\nweight = 2")
    access = GatewaySettings(api_keys=keys, tenants=tenants).read_access()
    assert access.tenants["team-a"] == Tenant(weight=2)
    tenants.write_text("[team-b]")
    with pytest.raises(ConfigError, match="team-a is no tenant of"):
        GatewaySettings(api_keys=keys, tenants=tenants).read_access()


def test_a_file_without_keys_lets_nobody_in(tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.touch()
    assert not GatewaySettings(api_keys=keys).read_access().is_open


# HTTP


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Bearer "},
        {"authorization": KEY},
        {"authorization": f"Basic {KEY}"},
        {"authorization": f"Bearer {KEY}x"},
        {"authorization": f"Bearer {KEY[:-1]}"},
        {"authorization": f"Bearer {KEY.upper()}"},
        {"authorization": f"Bearer {digest_of(KEY)}"},
        {"authorization": "Bearer " + "x" * 10_000},
        {"authorization": b"Bearer \xff\xfe"},
        {"x-tandem-tenant": "team-a"},
        {"api-key": KEY},
    ],
)
@pytest.mark.parametrize("path", [CHAT_PATH, TEXT_PATH])
async def test_who_has_no_key_is_refused_as_openai_would(client, service, path, headers):
    response = await client.post(path, json=CHAT | TEXT, headers=headers)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    error = response.json()["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")
    assert KEY not in response.text
    assert not service.requests


async def test_all_that_is_not_open_needs_a_key_whether_or_not_it_is_there(app, client, service):
    paths = {re.sub(r"{.*}", "default", path) for path in app.openapi()["paths"]}
    assert {"/v1/models/default", "/tokenize", "/version", "/metrics"} <= paths
    not_there = {"/openapi.json", "/", "/nope", "/health/", "/health//", "/Health"}
    for path in sorted(paths | not_there):
        for method in ("GET", "POST", "OPTIONS", "HEAD", "PUT"):
            response = await client.request(method, path)
            assert (response.status_code == 401) is (path not in OPEN_PATHS), (method, path)
    assert (await client.get("/v1/models", headers=GOOD)).status_code == 200
    assert (await client.get("/nope", headers=GOOD)).status_code == 404


KEY_OF = {DEFAULT_TENANT: "tandem-of-operators", "team-a": KEY, "team-b": OTHER_KEY}


@pytest.mark.parametrize("path", ["/metrics", "/metrics%0A", "/page/events", "/page/events%0A"])
@pytest.mark.parametrize(
    ("owners", "watchers"),
    [
        ((DEFAULT_TENANT,), {DEFAULT_TENANT}),
        (("team-a",), {"team-a"}),
        ((DEFAULT_TENANT, "team-a"), {DEFAULT_TENANT}),
        (("team-a", "team-b"), set()),
    ],
)
async def test_where_several_have_keys_operators_alone_watch_all(
    service, tokenizer, grammars, path, owners, watchers
):
    keys = ApiKeys({digest_of(KEY_OF[each]): each for each in owners})
    access = Access({name: Tenant() for name in KEY_OF}, keys)
    frontend, refused = Frontend(service, tokenizer, grammars, access=access), Counter[str]()
    app = create_app(frontend, service, MetricsPage(), Refusals(refused))
    app.include_router(page_router(Viewers(Mock(), lambda: True), Refusals()))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        assert (await client.get(path)).status_code == 401
        for tenant in owners:
            headers = {"authorization": f"Bearer {KEY_OF[tenant]}"}
            response = await client.get(path, headers=headers)
            assert response.status_code == (200 if tenant in watchers else 403), response.text
            # What is not about others is theirs as before.
            assert (await client.get("/v1/models", headers=headers)).status_code == 200
    assert refused["PERMISSION_DENIED"] == len(set(owners) - watchers)
    frontend.close()


async def test_a_body_is_not_read_of_who_has_no_key(client):
    async def body():
        raise AssertionError("it was read")
        yield b""

    headers = {"content-type": "application/json"}
    response = await client.post(TEXT_PATH, content=body(), headers=headers)
    assert response.status_code == 401


@pytest.mark.parametrize(
    "headers", [GOOD, {"authorization": f"bEARER  {KEY} "}, {**GOOD, "x-tandem-tenant": "team-a"}]
)
async def test_a_key_is_its_tenant(client, service, headers):
    response = await client.post(TEXT_PATH, json=TEXT, headers=headers)
    assert response.status_code == 200
    assert service.requests[0].tenant == "team-a"


@pytest.mark.parametrize("name", ["team-b", "default", "nobody", ""])
async def test_a_key_cannot_be_used_for_another_tenant(client, service, name):
    response = await client.post(TEXT_PATH, json=TEXT, headers={**GOOD, "x-tandem-tenant": name})
    assert response.status_code == 403
    assert response.json()["error"]["code"] == "permission_denied"
    assert not service.requests


async def test_openais_client(frontend, service):
    refused = Counter[str]()
    refusals = Refusals(refused)
    app = create_app(frontend, service, MetricsPage(), refusals)
    async with serving(app, refusals=refusals, access=ACCESS) as port:
        url = f"http://127.0.0.1:{port}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
            completion = await client.completions.create(model="default", prompt="Hi")
            assert completion.choices[0].text == "Hello, world"
            with pytest.raises(openai.AuthenticationError):
                await client.with_options(api_key="none").models.list()
        # Who is refused may come again, with a key.
        async with httpx.AsyncClient(base_url=url) as client:
            assert (await client.post("/completions", content=b"x" * 10**6)).status_code == 401
            assert (await client.post("/completions", json=TEXT, headers=GOOD)).status_code == 200
    assert refused == {"UNAUTHENTICATED": 2}
