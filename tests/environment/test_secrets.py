"""Secrets are found by place; their values never appear."""

import dataclasses
import sys
import threading
import types

import pytest

from nbutils.environment import secrets
from nbutils.environment.platform import current_platform
from nbutils.environment.secrets import find_secret, secret_source, use_secret
from nbutils.errors import EnvironmentProblem

KEY = "0123456789abcdef"


def test_secret_in_the_environment_is_found(tmp_path):
    found = secret_source("WANDB_API_KEY", {"WANDB_API_KEY": KEY}, tmp_path)
    assert found == "environment variable WANDB_API_KEY"


@pytest.mark.parametrize("name", ["WANDB_API_KEY", "HF_TOKEN"])
def test_secret_absent_or_blank_is_empty(tmp_path, name):
    assert secret_source(name, {}, tmp_path) == ""
    assert secret_source(name, {name: " "}, tmp_path) == ""


def test_secret_in_netrc_is_found_by_its_host(tmp_path):
    path = tmp_path / ".netrc"
    path.write_text(f"machine api.wandb.ai login user password {KEY}\n")
    path.chmod(0o600)
    assert secret_source("WANDB_API_KEY", {}, tmp_path) == str(path)


def test_secret_in_netrc_of_another_host_counts_only_with_its_base_url(tmp_path):
    path = tmp_path / "mine"
    path.write_text(f"machine wandb.example.org login user password {KEY}\n")
    path.chmod(0o600)
    environ = {"NETRC": str(path)}
    assert secret_source("WANDB_API_KEY", environ, tmp_path) == ""
    environ["WANDB_BASE_URL"] = "https://wandb.example.org"
    assert secret_source("WANDB_API_KEY", environ, tmp_path) == str(path)


def test_secret_in_a_broken_netrc_is_an_error_that_keeps_it_secret(tmp_path):
    path = tmp_path / ".netrc"
    path.write_text(f"machine api.wandb.ai password {KEY} {KEY}\n")
    path.chmod(0o600)
    with pytest.raises(EnvironmentProblem, match=r"cannot be read at line \d") as info:
        secret_source("WANDB_API_KEY", {}, tmp_path)
    assert KEY not in str(info.value)
    assert info.value.__cause__ is None


def test_secret_in_the_hub_token_file_is_found(tmp_path):
    token = tmp_path / ".cache" / "huggingface" / "token"
    token.parent.mkdir(parents=True)
    token.write_text("")
    assert secret_source("HF_TOKEN", {}, tmp_path) == ""
    token.write_text(KEY)
    assert secret_source("HF_TOKEN", {}, tmp_path) == str(token)


def test_find_secret_prefers_what_was_handed_in_then_environment_then_files(
    tmp_path, fresh
):
    path = tmp_path / ".netrc"
    path.write_text(f"machine api.wandb.ai login user password {KEY}-file\n")
    path.chmod(0o600)
    environ = {"WANDB_API_KEY": f"{KEY}-env"}
    use_secret("WANDB_API_KEY", f" {KEY}-arg ")
    assert find_secret("WANDB_API_KEY", environ, tmp_path).value == f"{KEY}-arg"
    use_secret("WANDB_API_KEY", "")
    found = find_secret("WANDB_API_KEY", environ, tmp_path)
    assert (found.value, found.source) == (
        f"{KEY}-env",
        "environment variable WANDB_API_KEY",
    )
    found = find_secret("WANDB_API_KEY", {}, tmp_path)
    assert (found.value, found.source) == (f"{KEY}-file", str(path))
    assert KEY not in repr(found)
    assert not find_secret("WANDB_API_KEY", {}, tmp_path / "nobody")


def test_find_secret_in_a_broken_netrc_says_so_and_keeps_it_secret(tmp_path, fresh):
    path = tmp_path / ".netrc"
    path.write_text(f"machine api.wandb.ai password {KEY} {KEY}\n")
    path.chmod(0o600)
    found = find_secret("WANDB_API_KEY", {}, tmp_path)
    assert not found
    assert "cannot be read at line" in found.why_not
    assert KEY not in found.why_not


def test_find_secret_never_gives_a_server_the_key_of_another(tmp_path, fresh):
    path = tmp_path / ".netrc"
    path.write_text(f"machine api.wandb.ai login user password {KEY}\n")
    path.chmod(0o600)
    environ = {"WANDB_BASE_URL": "https://wandb.example.org"}
    assert not find_secret("WANDB_API_KEY", environ, tmp_path)
    environ = {"WANDB_BASE_URL": "https://api.forge.coreweave.com"}
    assert find_secret("WANDB_API_KEY", environ, tmp_path).value == KEY


def test_find_secret_reads_the_hub_token_file(tmp_path, fresh):
    token = tmp_path / ".cache" / "huggingface" / "token"
    token.parent.mkdir(parents=True)
    token.write_text(f"{KEY}\n")
    assert find_secret("HF_TOKEN", {}, tmp_path).value == KEY
    token.write_bytes(b"\xff\xfe\xff")
    found = find_secret("HF_TOKEN", {}, tmp_path)
    assert not found
    assert "cannot be read" in found.why_not


def test_use_secret_of_an_unknown_name_raises():
    with pytest.raises(EnvironmentProblem, match="'MY_KEY' is no credential that is"):
        use_secret("MY_KEY", KEY)


class Vault:
    """Stands in for the platform's module; counts how often it is asked."""

    def __init__(self, answer):
        self.answer, self.num_asked = answer, 0

    def get(self, name):
        self.num_asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    get_secret = get

    def UserSecretsClient(self):
        return self


@pytest.fixture
def fresh(monkeypatch):
    """Nothing handed in, no vault read, no platform."""
    monkeypatch.setattr(secrets, "_given", {})
    monkeypatch.setattr(secrets, "_from_vault", {})
    monkeypatch.setenv("NBUTILS_PLATFORM", "local")


def on(platform, vault, monkeypatch, *, is_headless=False):
    names = {"colab": "google.colab.userdata", "kaggle": "kaggle_secrets"}
    monkeypatch.setenv("NBUTILS_PLATFORM", platform)
    monkeypatch.setitem(sys.modules, "google", types.ModuleType("google"))
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    monkeypatch.setitem(sys.modules, names[platform], vault)
    here = dataclasses.replace(current_platform(), is_headless=is_headless)
    monkeypatch.setattr(secrets, "current_platform", lambda: here)
    return vault


@pytest.mark.parametrize("platform", ["colab", "kaggle"])
def test_vault_is_read_once_after_the_environment(
    platform, tmp_path, fresh, monkeypatch
):
    vault = on(platform, Vault(KEY), monkeypatch)
    assert find_secret("WANDB_API_KEY", {"WANDB_API_KEY": "e"}, tmp_path).value == "e"
    assert vault.num_asked == 0
    for _ in range(3):
        found = find_secret("WANDB_API_KEY", {}, tmp_path)
    assert (found.value, vault.num_asked) == (KEY, 1)
    assert platform in found.source.lower()
    assert secret_source("WANDB_API_KEY", {}, tmp_path) == ""


def test_colab_vault_is_not_asked_when_nobody_can_consent(tmp_path, fresh, monkeypatch):
    vault = on("colab", Vault(KEY), monkeypatch, is_headless=True)
    found = find_secret("WANDB_API_KEY", {}, tmp_path)
    assert not found
    assert vault.num_asked == 0
    assert "nobody is there to answer" in found.why_not


def test_vault_is_not_asked_in_another_thread(tmp_path, fresh, monkeypatch):
    vault = on("kaggle", Vault(KEY), monkeypatch)
    found = []
    ask = lambda: found.append(find_secret("WANDB_API_KEY", {}, tmp_path))  # noqa: E731
    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert not found[0]
    assert vault.num_asked == 0
    assert "main thread" in found[0].why_not


class NotebookAccessError(Exception):
    """As Colab raises it when the user says no."""


class SecretNotFoundError(Exception):
    """As Colab raises it when there is no such secret."""


def test_colab_vault_takes_no_for_an_answer(tmp_path, fresh, monkeypatch):
    vault = on("colab", Vault(NotebookAccessError(KEY)), monkeypatch)
    for _ in range(2):
        found = find_secret("WANDB_API_KEY", {}, tmp_path)
    assert vault.num_asked == 1
    assert "switch it on under the key icon" in found.why_not
    assert KEY not in found.why_not


def test_vault_without_the_secret_may_get_it_later(tmp_path, fresh, monkeypatch):
    vault = on("colab", Vault(SecretNotFoundError("x")), monkeypatch)
    assert "no secret named" in find_secret("WANDB_API_KEY", {}, tmp_path).why_not
    vault.answer = KEY
    assert find_secret("WANDB_API_KEY", {}, tmp_path).value == KEY


def test_kaggle_vault_without_network_says_what_to_do(tmp_path, fresh, monkeypatch):
    on("kaggle", Vault(ConnectionError("no route")), monkeypatch)
    found = find_secret("WANDB_API_KEY", {}, tmp_path)
    assert "attach it under Add-ons, Secrets" in found.why_not
