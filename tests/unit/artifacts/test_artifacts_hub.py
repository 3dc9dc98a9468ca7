"""Pulling from a hub, with everything that goes wrong on the way."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import tiny_gguf
from fake_hub import COMMIT, FakeHub, running_hub
from huggingface_hub import close_session
from safetensors.numpy import save

from tandem.artifacts.cache import downloads_dir, models_dir
from tandem.artifacts.catalog import BrokenModel, list_models, remove_model
from tandem.artifacts.hub_reference import HubReference
from tandem.artifacts.provenance import Provenance
from tandem.artifacts.resolve import MOCK_FOLDER, pull_model, resolve
from tandem.core.errors import ConfigError

REPO = "Acme/Tiny-Llama"
WEIGHTS = "model.safetensors"
NOT_WANTED = {".gitattributes", "README.md", "pytorch_model.bin"}
PIECE = 10_000


@pytest.fixture(scope="module")
def server() -> Iterator[FakeHub]:
    with running_hub() as hub:
        yield hub


@pytest.fixture
def hub(
    server: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, llama: dict[str, object]
) -> FakeHub:
    monkeypatch.setenv("TANDEM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    # Of the files here each is to come in several pieces.
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", PIECE)
    server.__dict__.update(FakeHub(server.endpoint).__dict__)
    server.repos[REPO] = repository(llama)
    return server


def repository(config: dict[str, object]) -> dict[str, bytes]:
    tensors = {"a": np.arange(25_000, dtype=np.float32)}
    return {
        ".gitattributes": b"*.safetensors filter=lfs",
        "README.md": b"# Tiny",
        "config.json": json.dumps(config).encode(),
        "tokenizer.json": (MOCK_FOLDER / "tokenizer.json").read_bytes(),
        "tokenizer_config.json": b'{"chat_template": "hi"}',
        "special_tokens_map.json": b'{"eos_token": "<|im_end|>"}',
        "pytorch_model.bin": b"a pickle",
        WEIGHTS: save(tensors),
    }


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_what_makes_the_model_is_fetched_once(hub: FakeHub) -> None:
    stages: list[tuple[str, int, int | None]] = []
    folder = resolve(REPO, lambda *stage: stages.append(stage))
    assert folder.name == REPO
    assert names_in(folder.path) == sorted(hub.repos[REPO].keys() - NOT_WANTED | {"tandem.json"})
    assert (folder.path / WEIGHTS).read_bytes() == hub.repos[REPO][WEIGHTS]
    assert Provenance.read(folder.path) == Provenance(REPO, "hub", COMMIT)
    size = len(hub.repos[REPO][WEIGHTS])
    assert stages[-1] == ("downloading", size, size)
    assert ("downloading", PIECE, size) in stages
    assert resolve(REPO) == folder
    assert (hub.listed, len(hub.seen)) == (1, 5)
    assert names_in(downloads_dir()) == ["Acme--Tiny-Llama.lock"]


def test_shards(hub: FakeHub) -> None:
    files = hub.repos[REPO]
    del files[WEIGHTS]
    parts = {f"model-0000{i}-of-00002.safetensors": f"t{i}" for i in (1, 2)}
    for name, tensor in parts.items():
        files[name] = save({tensor: np.zeros(9000, np.float32)})
    weight_map = {tensor: name for name, tensor in parts.items()}
    files["model.safetensors.index.json"] = json.dumps({"weight_map": weight_map}).encode()
    files["other.safetensors"] = b"not asked for"
    assert [file.name for file in resolve(REPO).weight_files] == list(parts)
    assert "other.safetensors" not in {each.name for each in hub.seen}


def test_an_index_cannot_name_files_elsewhere(hub: FakeHub) -> None:
    del hub.repos[REPO][WEIGHTS]
    index = {"weight_map": {"a": "../../../etc/passwd"}}
    hub.repos[REPO]["model.safetensors.index.json"] = json.dumps(index).encode()
    with pytest.raises(ConfigError, match="must be the name of a file here"):
        resolve(REPO)


def test_a_broken_connection_is_taken_up_where_it_broke(hub: FakeHub) -> None:
    hub.cut_after = [35_000]
    folder = resolve(REPO)
    assert hub.ranges(WEIGHTS) == [None, f"bytes={3 * PIECE}-"]
    assert (folder.path / WEIGHTS).read_bytes() == hub.repos[REPO][WEIGHTS]


def test_an_interrupted_pull_goes_on_where_it_stopped(hub: FakeHub) -> None:
    def interrupt(stage: str, done: int, total: int | None) -> None:
        if stage == "downloading" and total == len(hub.repos[REPO][WEIGHTS]) and done > 4 * PIECE:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        resolve(REPO, interrupt)
    assert names_in(models_dir() / "hub") == []
    assert [path.stat().st_size for path in downloads_dir().glob("*/*/*.part")] == [4 * PIECE]
    (unfinished,) = list_models()
    assert isinstance(unfinished, BrokenModel)
    assert (unfinished.name, f"`tandem pull {REPO}`" in unfinished.problem) == (REPO, True)
    hub.seen.clear()
    stages: list[tuple[str, int, int | None]] = []
    folder = resolve(REPO, lambda *stage: stages.append(stage))
    assert [(each.name, each.range) for each in hub.seen] == [(WEIGHTS, f"bytes={4 * PIECE}-")]
    assert ("downloading", 4 * PIECE, len(hub.repos[REPO][WEIGHTS])) in stages
    assert (folder.path / WEIGHTS).read_bytes() == hub.repos[REPO][WEIGHTS]


def test_a_hub_that_starts_over_is_followed(hub: FakeHub) -> None:
    hub.has_ranges = False
    hub.cut_after = [35_000]
    folder = resolve(REPO)
    assert (folder.path / WEIGHTS).read_bytes() == hub.repos[REPO][WEIGHTS]


def test_an_unfinished_download_can_be_dropped(hub: FakeHub) -> None:
    hub.wrong = {WEIGHTS}
    with pytest.raises(ConfigError):
        resolve(REPO)
    remove_model(REPO)
    assert list_models() == []
    assert names_in(downloads_dir()) == ["Acme--Tiny-Llama.lock"]


def test_a_pull_of_another_commit_starts_anew(hub: FakeHub) -> None:
    hub.wrong = {WEIGHTS}
    with pytest.raises(ConfigError):
        resolve(REPO)
    hub.wrong, hub.commit = set(), "d" * 40
    hub.seen.clear()
    assert Provenance.read(resolve(REPO).path) == Provenance(REPO, "hub", "d" * 40)
    assert len(hub.seen) == 5


@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
def test_a_wrong_hash_is_refused_and_not_kept(hub: FakeHub, name: str) -> None:
    hub.wrong = {name}
    with pytest.raises(ConfigError, match=f"{name} of {REPO} is not what the hub has"):
        resolve(REPO)
    assert names_in(models_dir() / "hub") == []
    hub.wrong = set()
    assert resolve(REPO).name == REPO
    assert hub.ranges(name) == [None, None]


def test_a_hub_without_hashes_is_trusted(hub: FakeHub) -> None:
    hub.has_hashes = False
    assert (resolve(REPO).path / WEIGHTS).read_bytes() == hub.repos[REPO][WEIGHTS]


def test_a_damaged_part_is_found(hub: FakeHub) -> None:
    folder = downloads_dir() / "Acme--Tiny-Llama" / COMMIT
    folder.mkdir(parents=True)
    (folder / f"{WEIGHTS}.part").write_bytes(b"?" * 1000)
    with pytest.raises(ConfigError, match="is not what the hub has"):
        resolve(REPO)
    assert resolve(REPO).name == REPO


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:-100] + bytes(100)])
def test_a_damaged_file_of_an_interrupted_pull_is_fetched_again(
    hub: FakeHub, damage: Callable[[bytes], bytes]
) -> None:
    files = hub.repos[REPO]
    folder = downloads_dir() / "Acme--Tiny-Llama" / COMMIT
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes(files["config.json"])
    (folder / WEIGHTS).write_bytes(damage(files[WEIGHTS]))
    assert (resolve(REPO).path / WEIGHTS).read_bytes() == files[WEIGHTS]
    names = {each.name for each in hub.seen}
    assert names == files.keys() - NOT_WANTED - {"config.json"}


@pytest.mark.parametrize("model", [REPO, "Acme/Tiny-GGUF:Q8_0"])
def test_a_model_appears_when_its_files_are_on_the_disk(
    gguf_repo: str, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    synced = set()

    def sync(descriptor: int) -> None:
        assert names_in(models_dir() / "hub") == []
        synced.add(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fsync", sync)
    folder = resolve(model).path
    assert {path.stat().st_ino for path in (folder, *folder.iterdir())} <= synced


def test_one_of_many_pulls_and_the_others_wait(hub: FakeHub) -> None:
    with ThreadPoolExecutor(4) as pool:
        folders = list(pool.map(resolve, [REPO] * 4))
    assert folders == folders[:1] * 4
    assert len(hub.seen) == 5
    assert names_in(downloads_dir()) == ["Acme--Tiny-Llama.lock"]


def test_another_model_does_not_wait(hub: FakeHub, llama: dict[str, object]) -> None:
    hub.repos["Acme/Other"] = repository(llama)
    pulled = threading.Event()

    def pull_other(stage: str, done: int, total: int | None) -> None:
        if stage == "downloading" and not pulled.is_set():
            with ThreadPoolExecutor(1) as pool:
                assert pool.submit(resolve, "Acme/Other").result(60).name == "Acme/Other"
            pulled.set()

    resolve(REPO, pull_other)
    assert pulled.is_set()


def test_the_token_goes_to_the_hub_alone(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.gated, hub.token = {REPO}, "hf_secret"
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    resolve(REPO)
    by_name = {each.name: each.token for each in hub.seen}
    assert by_name["config.json"] == "hf_secret"
    assert by_name[WEIGHTS] is None, "large files are another server's"


def gated(hub: FakeHub) -> None:
    hub.gated = {REPO}


def private(hub: FakeHub) -> None:
    hub.token = "hf_secret"


def unknown(hub: FakeHub) -> None:
    del hub.repos[REPO]


def forbidden(hub: FakeHub) -> None:
    hub.status = 403


def hostile_commit(hub: FakeHub) -> None:
    hub.commit = "../../../../etc"


def no_files(hub: FakeHub) -> None:
    hub.repos[REPO] = {}


def only_pickle(hub: FakeHub) -> None:
    del hub.repos[REPO][WEIGHTS]


def no_weights(hub: FakeHub) -> None:
    only_pickle(hub)
    del hub.repos[REPO]["pytorch_model.bin"]


def no_tokenizer(hub: FakeHub) -> None:
    del hub.repos[REPO]["tokenizer.json"]


def no_json_tokenizer(hub: FakeHub) -> None:
    hub.repos[REPO]["tokenizer.json"] = b"{}"


def other_architecture(hub: FakeHub) -> None:
    hub.repos[REPO]["config.json"] = b'{"architectures": ["GPT2LMHeadModel"]}'


def missing_shard(hub: FakeHub) -> None:
    only_pickle(hub)
    index = {"weight_map": {"a": "gone.safetensors"}}
    hub.repos[REPO]["model.safetensors.index.json"] = json.dumps(index).encode()


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        (gated, "is gated: accept its terms .* set HF_TOKEN"),
        (private, "if it is private, set HF_TOKEN"),
        (unknown, f"neither a folder '{REPO}' here nor such a model at http"),
        (forbidden, r"refuses .* \(status 403\): set HF_TOKEN"),
        (hostile_commit, "does not say which commit"),
        (no_files, "has no config.json"),
        (only_pickle, r"only as pytorch_model\.bin: such files \(pickle\) can run code"),
        (no_weights, "holds no safetensors"),
        (no_tokenizer, "has no tokenizer.json"),
        (no_json_tokenizer, "tokenizer.json is not a valid tokenizer"),
        (other_architecture, "'GPT2LMHeadModel' is not supported; supported are Llama"),
        (missing_shard, "lacks 'gone.safetensors'"),
    ],
)
def test_what_cannot_be_had_is_told_before_the_weights(
    hub: FakeHub, fault: object, what: str
) -> None:
    assert callable(fault)
    fault(hub)
    with pytest.raises(ConfigError, match=what) as caught:
        resolve(REPO)
    assert caught.value.param in ("model", None)
    assert WEIGHTS not in {each.name for each in hub.seen}
    assert names_in(models_dir() / "hub") == []


def test_an_unknown_revision(hub: FakeHub) -> None:
    with pytest.raises(ConfigError, match=f"{REPO} has no revision 'v9'"):
        resolve(f"{REPO}@v9")
    hub.revisions.add("v9")
    assert resolve(f"{REPO}@v9").name == f"{REPO}@v9"


def test_without_a_network(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    no_folder = f"there is no folder {REPO!r} here"
    with pytest.raises(ConfigError, match=rf"{no_folder}, and http://127\.0\.0\.1:9 .*\.gguf file"):
        resolve(REPO)


@pytest.mark.parametrize(
    ("proxy", "why"),
    [("socks5h://127.0.0.1:9", "socksio"), ("socks://127.0.0.1:9", "socks://127.0.0.1:9")],
)
def test_by_a_proxy_that_is_of_no_use(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, proxy: str, why: str
) -> None:
    monkeypatch.setenv("all_proxy", proxy)
    monkeypatch.setitem(sys.modules, "socksio", None)
    close_session()
    with pytest.raises(ConfigError, match=rf"proxy of the environment .*{why}"):
        resolve(REPO)


def test_something_that_is_no_hub(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeHub, "listing", lambda self, repo: "welcome to our network")
    with pytest.raises(ConfigError, match="does not answer as the hub does"):
        resolve(REPO)
    monkeypatch.setenv("HF_ENDPOINT", "no url")
    with pytest.raises(ConfigError, match="no url"):
        resolve(REPO)


def test_offline_only_the_cache_is_used(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = resolve(REPO)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert resolve(REPO) == folder
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE forbids"):
        resolve("Acme/Other")


def test_a_full_disk_is_found_before_the_download(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=50_000))
    with pytest.raises(ConfigError, match=r"takes 0\.0001 GB more, .* room for 5e-05 GB"):
        resolve(REPO)
    assert WEIGHTS not in {each.name for each in hub.seen}


def test_a_disk_that_fills_up_meanwhile_is_not_the_hubs_fault(hub: FakeHub) -> None:
    folder = downloads_dir() / "Acme--Tiny-Llama" / COMMIT
    folder.mkdir(parents=True)
    (folder / f"{WEIGHTS}.part").symlink_to("/dev/full")
    with pytest.raises(ConfigError, match=r"the cache .*No space left .*TANDEM_CACHE") as caught:
        resolve(REPO)
    assert caught.value.param is None


@pytest.fixture
def gguf_repo(hub: FakeHub, tmp_path: Path) -> str:
    data = tiny_gguf.write(tmp_path / "x.gguf").read_bytes()
    names = ("tiny-Q4_K_M.gguf", "tiny-Q4_K_M_L.gguf", "tiny.q8_0.gguf")
    hub.repos["Acme/Tiny-GGUF"] = {"README.md": b""} | dict.fromkeys(names, data)
    return "Acme/Tiny-GGUF"


@pytest.mark.parametrize(
    ("wanted", "file"),
    [
        ("Q4_K_M", "tiny-Q4_K_M.gguf"),
        ("q4_k_m", "tiny-Q4_K_M.gguf"),
        ("Q8_0", "tiny.q8_0.gguf"),
        ("tiny-Q4_K_M_L.gguf", "tiny-Q4_K_M_L.gguf"),
    ],
)
def test_a_gguf_file_by_quantisation_or_name(
    hub: FakeHub, gguf_repo: str, wanted: str, file: str
) -> None:
    folder = resolve(f"{gguf_repo}:{wanted}")
    assert folder.name == f"{gguf_repo}:{wanted}"
    assert folder.config.num_layers == tiny_gguf.LAYERS
    assert [each.name for each in hub.seen] == [file]
    assert names_in(downloads_dir()) == [f"Acme--Tiny-GGUF+{wanted}.lock"]


@pytest.mark.parametrize("wanted", ["", ":Q2_K", ":K_M"])
def test_an_unclear_gguf_file_is_told_the_choice(gguf_repo: str, wanted: str) -> None:
    with pytest.raises(ConfigError, match=r":FILE with one of tiny-Q4_K_M\.gguf, .*q8_0\.gguf"):
        resolve(f"{gguf_repo}{wanted}")


def test_a_part_of_a_gguf_file_is_refused(hub: FakeHub, gguf_repo: str) -> None:
    files = hub.repos[gguf_repo]
    files |= {f"tiny-F16-0000{i}-of-00002.gguf": b"" for i in (1, 2)}
    for wanted in ("F16", "tiny-F16-00001-of-00002.gguf"):
        with pytest.raises(ConfigError, match=r"means a part of a GGUF file .* --merge"):
            resolve(f"{gguf_repo}:{wanted}")
    assert hub.seen == []


def test_a_gguf_file_that_another_version_imported_is_pulled_anew_if_one_pulls(
    hub: FakeHub, gguf_repo: str
) -> None:
    model = f"{gguf_repo}:Q4_K_M"
    path = resolve(model).path
    replace(Provenance.read(path), import_version=0).write(path)
    assert resolve(model).path == path
    assert len(hub.seen) == 1
    assert pull_model(model).path == pull_model(model).path == path
    assert len(hub.seen) == 2
    assert names_in(downloads_dir()) == ["Acme--Tiny-GGUF+Q4_K_M.lock"]


def test_the_only_gguf_file_needs_no_name(hub: FakeHub, gguf_repo: str) -> None:
    del hub.repos[gguf_repo]["tiny-Q4_K_M.gguf"], hub.repos[gguf_repo]["tiny-Q4_K_M_L.gguf"]
    assert resolve(gguf_repo).name == gguf_repo


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("org/name", HubReference("org/name")),
        ("org/name@v1.0", HubReference("org/name", "v1.0")),
        ("org/name@refs/pr/1", HubReference("org/name", "refs/pr/1")),
        ("org/name:Q4_K_M", HubReference("org/name", gguf="Q4_K_M")),
        ("org/name@main:a.gguf", HubReference("org/name", gguf="a.gguf")),
        *((text, None) for text in ("name", "a/b/c", "../b", "a/..", "/a/b", "a/b@", "a/b:", "")),
        *(
            (text, None)
            for text in ("a/b@../x", "a /b", "a/b\n", "a/é", "a--b/c", "a/x.gguf", "a" * 99 + "/b")
        ),
    ],
)
def test_references(text: str, reference: HubReference | None) -> None:
    assert HubReference.parse(text) == reference
    if reference is not None:
        assert HubReference.parse(str(reference)) == reference
        assert "/" not in reference.folder_name
        assert HubReference.parse_folder_name(reference.folder_name) == reference
