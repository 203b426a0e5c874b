"""Secrets are found by place; their values never appear."""

import pytest

from nbutils.environment.secrets import secret_source
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
