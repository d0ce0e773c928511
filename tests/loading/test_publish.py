"""Models from the hub and from an address: what is asked, what is fetched, what is never handed on."""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import threading
import time
from pathlib import Path

import pytest

import storm
from storm.encoders import get_encoder, with_weights
from storm.encoders.vit import vit

REPO = "someone/storm-mine"


@pytest.fixture
def folder(tiny_model, tmp_path):
    tiny_model.save(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub, and a hub that must not be asked."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "hub"


def put_into_cache(cache: Path, folder: Path) -> None:
    """As the hub's client keeps a repository."""
    commit = "c" * 40
    snapshot = cache / "models--someone--storm-mine" / "snapshots" / commit
    shutil.copytree(folder, snapshot)
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text(commit)


def test_hub_name_is_looked_for_here_only(cache, folder, tiny_model) -> None:
    start = time.perf_counter()
    with pytest.raises(FileNotFoundError, match=r"(?s)not, or not wholly, on this machine.*download=True.*HF_HOME"):
        storm.load_model(REPO)
    with pytest.raises(ConnectionError, match="HF_HUB_OFFLINE is set"):
        storm.load_model(REPO, download=True)
    with pytest.raises(ConnectionError, match="HF_HUB_OFFLINE is set"):
        storm.StormModel.from_pretrained(REPO)
    assert time.perf_counter() - start < 5
    put_into_cache(cache, folder)
    assert storm.load_model(REPO).sha256 == tiny_model.sha256
    assert storm.StormModel.from_pretrained(REPO).name == REPO
    assert storm.StormModel.from_pretrained(folder, sha256=tiny_model.sha256).sha256 == tiny_model.sha256
    # half a download is not a model
    next(cache.glob("*/snapshots/*/network.safetensors")).unlink()
    with pytest.raises(FileNotFoundError, match="not wholly"):
        storm.load_model(REPO)


def test_download_and_refusal(cache, folder, tiny_model, monkeypatch) -> None:
    from huggingface_hub import errors

    asked = []

    def snapshot(repo, *, local_files_only=False, **options):
        asked.append((repo, local_files_only, options.get("token"), options["revision"]))
        if local_files_only:
            raise errors.LocalEntryNotFoundError("nothing here")
        assert "*.bin" not in options["allow_patterns"]
        return str(folder)

    monkeypatch.setattr("storm._loading.fetch.hub_answers", lambda: True)
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    model = storm.load_model(REPO, download=True, revision="v1", token="mine")
    assert model.sha256 == tiny_model.sha256
    assert asked == [(REPO, True, None, "v1"), (REPO, False, "mine", "v1")]

    def refuse(repo, *, local_files_only=False, **_):
        kind = errors.LocalEntryNotFoundError if local_files_only else errors.RepositoryNotFoundError
        raise kind.__new__(kind)

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(PermissionError, match="does not give it to you"):
        storm.load_model(REPO, download=True)


@pytest.fixture
def uploads(cache, monkeypatch, tmp_path):
    """A hub that copies what is uploaded to ``uploaded``; its calls."""
    calls = {}

    class Api:
        def __init__(self, token=None):
            calls["token"] = token

        def create_repo(self, repo_id, **options):
            calls["repo"] = (repo_id, options)

        def upload_folder(self, *, repo_id, folder_path, commit_message):
            shutil.copytree(folder_path, tmp_path / "uploaded", dirs_exist_ok=True)
            return f"https://huggingface.co/{repo_id}/commit/1"

    monkeypatch.setattr("storm._loading.hub.hub_answers", lambda: True)
    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    return calls


def test_no_upload_without_a_hub(cache, tiny_model) -> None:
    with pytest.raises(ConnectionError, match=r"HF_HUB_OFFLINE is set.*model.save\(folder\)"):
        tiny_model.push_to_hub(REPO)


def test_upload(uploads, tiny_model, tmp_path) -> None:
    assert tiny_model.push_to_hub(REPO, token="mine").startswith("https://huggingface.co/someone/storm-mine")
    assert uploads == {"token": "mine", "repo": (REPO, {"private": True, "exist_ok": True})}
    assert storm.load_model(tmp_path / "uploaded").sha256 == tiny_model.sha256
    card = (tmp_path / "uploaded" / "README.md").read_text()
    assert tiny_model.sha256 in card
    assert "not trained" in card


def test_weights_under_anothers_licence_stay_here(uploads, tmp_path, toy_once, toy, monkeypatch) -> None:
    from dataclasses import replace

    small = vit("vit_tiny_patch16_224", pooling="cls", img_size=28, patch_size=14, embed_dim=32, depth=1, num_heads=2)
    info = replace(get_encoder("uni"), dim=32, tile_px=28, architecture=small)
    monkeypatch.setitem(storm.encoders.registry._REGISTRY, "uni", info)
    genes = toy_once.tables["table"].var_names
    model = storm.build_model("storm-tiny", genes=genes, tile_encoder=with_weights(info, small()))
    model.save(tmp_path / "kept")
    model.push_to_hub(REPO)
    sent = tmp_path / "uploaded"
    assert not (sent / "tile_encoder.safetensors").exists()
    assert (sent / "TILE_ENCODER_LICENCE.txt").is_file()
    assert "its weights are not included" in (sent / "README.md").read_text()
    received = storm.load_model(sent)
    assert received.sha256 == model.sha256
    storm.tl.embed(toy, model=received, modality="st")
    with pytest.raises(
        FileNotFoundError, match=r"handed on without these weights \(licence CC-BY-NC-ND.*tile_encoder="
    ):
        storm.tl.embed(toy, model=received)
    model.push_to_hub(REPO, include_tile_encoder=True)
    assert (sent / "tile_encoder.safetensors").is_file()
    assert "weights in `tile_encoder.safetensors`" in (sent / "README.md").read_text()


class _Silent(http.server.SimpleHTTPRequestHandler):
    asked: list[str] = []  # noqa: RUF012  shared on purpose

    def do_GET(self):
        self.asked.append(self.path)
        super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def server(folder):
    """The model's folder on a web server of this machine."""
    _Silent.asked.clear()
    handler = functools.partial(_Silent, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


@pytest.fixture
def no_proxy(monkeypatch, tmp_path):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    storm.settings.cache_dir = tmp_path / "cache"


def test_address(server, no_proxy, folder, tiny_model) -> None:
    model = storm.load_model(server, sha256=tiny_model.sha256)
    assert model.sha256 == tiny_model.sha256
    assert "/network.safetensors" in _Silent.asked
    _Silent.asked.clear()
    storm.load_model(server + "/")
    assert not _Silent.asked  # kept
    # changed on the server: the old one stays what it was, a new one is checked
    (folder / "network.safetensors").write_bytes(b"0" * 100)
    assert storm.load_model(server).sha256 == tiny_model.sha256
    next(storm.settings.cache_dir.glob("models/*/network.safetensors")).unlink()
    with pytest.raises(ValueError, match=r"network.safetensors does not fit the checksum"):
        storm.load_model(server)


def test_address_that_lies_or_does_not_answer(server, no_proxy, folder) -> None:
    config = folder / "config.json"
    values = json.loads(config.read_text())
    values["sha256"]["../escape.txt"] = "0" * 64
    config.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"'../escape.txt' in field 'sha256' is not the name of a file in this folder"):
        storm.load_model(server)
    config.unlink()
    with pytest.raises(ConnectionError, match=r"config.json could not be fetched.*copy the folder"):
        storm.load_model(server)
    assert not list(storm.settings.cache_dir.rglob("config.json"))
    with pytest.raises(ConnectionError, match="could not be fetched"):
        storm.load_model("http://127.0.0.1:9/nothing")


def test_a_download_is_no_larger_than_declared(server, no_proxy, folder) -> None:
    config = folder / "config.json"
    values = json.loads(config.read_text())
    assert values["bytes"]["genes.tsv"] == (folder / "genes.tsv").stat().st_size
    config.write_text(json.dumps({**values, "bytes": {**values["bytes"], "genes.tsv": 10}}))
    with pytest.raises(ValueError, match=r"genes\.tsv is larger than the 10 bytes that it may have"):
        storm.load_model(server)
    # as storm 0.1.0 wrote it, without sizes
    del values["bytes"]
    config.write_text(json.dumps(values))
    assert storm.load_model(server).name == server
    config.write_text(json.dumps({**values, "card": {"text": "x" * 5_000_000}}))
    with pytest.raises(ValueError, match=r"config\.json is larger than the 4,194,304 bytes"):
        storm.load_model(server, download=True)
    # the model that was fetched before is still there
    config.unlink()
    assert storm.load_model(server).name == server


def test_a_damaged_copy_is_fetched_again(server, no_proxy, tiny_model) -> None:
    storm.load_model(server)
    copy = next(storm.settings.cache_dir.glob("models/*/config.json"))
    copy.write_text("[1]")
    assert storm.load_model(server).sha256 == tiny_model.sha256
