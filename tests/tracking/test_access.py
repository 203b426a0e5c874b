"""How W&B is reached: with a key, without, and with a server that gives no answer."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest
from tracking.wandb_server import WandbServer

from nbutils.environment.secrets import use_secret
from nbutils.tracking.access import choose_access, unreachable

KEY = "fade" * 10


@pytest.mark.parametrize(
    ("variable", "mode"),
    [("Disabled", "disabled"), ("offline", "offline"), ("dryrun", "offline")],
)
def test_choose_access_honours_wandb_mode(
    variable: str, mode: str, no_keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_MODE", variable)
    assert choose_access().mode == mode
    assert choose_access("online").mode == "online"


def test_choose_access_of_a_setting_goes_before_all_else(
    no_keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    found = choose_access("offline")
    assert (found.mode, found.reason) == ("offline", "wandb_mode is 'offline'")
    assert choose_access("disabled").mode == "disabled"


def test_choose_access_takes_a_key_handed_in(no_keys: Path) -> None:
    use_secret("WANDB_API_KEY", KEY)
    found = choose_access()
    assert (found.mode, found.key.value) == ("online", KEY)
    assert KEY not in repr(found)


def test_choose_access_with_a_netrc_entry_is_online(
    tmp_path: Path, no_keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "keys"
    path.write_text(f"machine api.wandb.ai login user password {KEY}\n")
    path.chmod(0o600)
    monkeypatch.setenv("NETRC", str(path))
    found = choose_access()
    assert found.mode == "online"
    assert KEY not in found.reason


def test_choose_access_with_a_broken_netrc_says_so(
    tmp_path: Path, no_keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "keys"
    path.write_text("nonsense here\n")
    monkeypatch.setenv("NETRC", str(path))
    found = choose_access()
    assert (found.mode, found.needs_key) == ("offline", True)
    assert f"{path} cannot be read" in found.reason


def test_choose_access_with_another_host_in_netrc_is_offline(no_keys: Path) -> None:
    (no_keys / ".netrc").write_text("machine x.y login u password p\n")
    (no_keys / ".netrc").chmod(0o600)
    assert choose_access().mode == "offline"
    assert choose_access("online").mode == "offline"  # never a question


def test_choose_access_with_an_identity_token_needs_no_key(
    no_keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_IDENTITY_TOKEN_FILE", "/run/token")
    found = choose_access()
    assert (found.mode, bool(found.key)) == ("online", False)


def test_unreachable_is_empty_for_a_server_that_answers() -> None:
    with WandbServer().serving() as server:
        assert unreachable(server.url) == ""
    assert "refused" in unreachable(server.url)


def test_unreachable_gives_up_on_a_server_that_says_nothing() -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen(1)
        started = time.monotonic()
        reason = unreachable(f"http://u:{KEY}@127.0.0.1:{mute.getsockname()[1]}", 0.2)
    assert "timed out" in reason
    assert KEY not in reason
    assert time.monotonic() - started < 5


def test_unreachable_of_no_address_says_so() -> None:
    assert unreachable("file:///etc/passwd") == (
        "file:///etc/passwd is no address of a server"
    )
