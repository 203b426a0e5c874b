"""Law 4 under damage: the newest whole checkpoint is found, loudly, and it is exact."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import nbutils as nb
from nbutils.checkpoint.files import read_checkpoint
from nbutils.checkpoint.hashed import sha256_of
from nbutils.monitor.events import read_events
from nbutils.testing import assert_same, make_task, weights

SETTINGS: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 8,
    "preflight": "skip",
    "panel": "off",
    "save_every_steps": 2,
    "ema_decay": 0.9,
}
FILES = ("model.safetensors", "state.pt", "manifest.json")


class StopAt(nb.Callback):
    def on_step_end(self, state: Any) -> None:
        if state.step == 8:
            state.request_stop("enough")


def run(task: nb.Task, folder: str, *callbacks: Any, **more: Any) -> nb.TrainResult:
    return nb.TrainingCoordinator(
        task, run_dir=folder, callbacks=callbacks, **{**SETTINGS, **more}
    ).train()


@pytest.fixture
def stopped() -> Path:
    """The newest checkpoint, of step 8, of a run that was stopped; 6 is there too."""
    run(make_task(), "part", StopAt())
    newest = Path("part/checkpoints/step-00000008")
    assert newest.is_dir()
    return newest


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Weights of the run that nobody disturbed."""
    task = make_task()
    run(task, str(tmp_path_factory.mktemp("whole")))
    return weights(task)


def messages(folder: str) -> list[str]:
    events = read_events(Path(folder) / "events.jsonl")
    return [event["text"] for event in events if event["kind"] == "message"]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def remove(path: Path) -> None:
    path.unlink()


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def flip(share: float) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[int(share * (len(data) - 1))] ^= 0x04
        path.write_bytes(data)

    damage.__name__ = f"flip at {share}"
    return damage


DAMAGES = [truncate, empty, remove, replace_by_folder, *map(flip, (0.0, 0.37, 0.8, 1))]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda d: d.__name__)
@pytest.mark.parametrize("name", FILES)
def test_damaged_newest_falls_back_loudly_and_resumes_exactly(
    stopped: Path,
    expected: dict[str, torch.Tensor],
    name: str,
    damage: Callable[[Path], None],
) -> None:
    damage(stopped / name)
    resumed = make_task()
    assert run(resumed, "part").steps == 15
    assert_same(weights(resumed), expected)
    told = [text for text in messages("part") if "step-00000008 is broken" in text]
    assert len(told) == 1
    assert name in told[0]
    assert any("falling back to step-00000006" in text for text in messages("part"))


def test_undamaged_newest_is_taken_without_a_word(
    stopped: Path, expected: dict[str, torch.Tensor]
) -> None:
    resumed = make_task()
    run(resumed, "part")
    assert_same(weights(resumed), expected)
    assert not any("broken" in text for text in messages("part"))
    (resume,) = [e for e in read_events("part/events.jsonl") if e["kind"] == "resume"]
    assert resume["step"] == 8


@pytest.mark.parametrize("position", range(0, 900, 75))
def test_manifest_no_flipped_bit_passes(stopped: Path, position: int) -> None:
    path = stopped / "manifest.json"
    data = bytearray(path.read_bytes())
    data[position % len(data)] ^= 1 << position % 7
    path.write_bytes(data)
    with pytest.raises(nb.CheckpointError, match=r"damaged|no checkpoint of format"):
        read_checkpoint(stopped)


def seal(manifest: dict[str, Any]) -> str:
    """A manifest whose own hash fits, as a stranger could make it."""
    from nbutils.checkpoint.files import _own_hash

    manifest.pop("sha256", None)
    return json.dumps({**manifest, "sha256": _own_hash(manifest)})


@pytest.mark.parametrize(
    ("change", "expected_text"),
    [
        ({"format": 99}, "no checkpoint of format"),
        ({"files": {"../../run.json": {"bytes": 1, "sha256": ""}}}, "is foreign"),
        ({"files": {}}, "is foreign"),
    ],
)
def test_foreign_manifest_is_refused(
    stopped: Path, change: dict[str, Any], expected_text: str
) -> None:
    path = stopped / "manifest.json"
    path.write_text(seal({**json.loads(path.read_text()), **change}))
    with pytest.raises(nb.CheckpointError, match=expected_text):
        read_checkpoint(stopped)
    run(make_task(), "part")
    assert any("step-00000008 is broken" in text for text in messages("part"))


@pytest.mark.parametrize("content", ["[]", "null", "{}", '"text"', "{"])
def test_manifest_that_is_none_is_refused(stopped: Path, content: str) -> None:
    (stopped / "manifest.json").write_text(content)
    with pytest.raises(nb.CheckpointError, match=r"no checkpoint of|is damaged"):
        read_checkpoint(stopped)


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("executed"),))


@pytest.mark.parametrize("is_zip", [True, False])
def test_pickle_bomb_is_refused_and_not_executed(
    stopped: Path, expected: dict[str, torch.Tensor], is_zip: bool
) -> None:
    state = stopped / "state.pt"
    if is_zip:
        torch.save({"parts": Bomb()}, state)
    else:
        state.write_bytes(pickle.dumps({"parts": Bomb()}, protocol=2))
    path = stopped / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"]["state.pt"] = {
        "bytes": state.stat().st_size,
        "sha256": sha256_of(state),
    }
    path.write_text(seal(manifest))
    with pytest.raises(nb.CheckpointError, match=r"nothing but plain values is loaded"):
        read_checkpoint(stopped)
    resumed = make_task()
    run(resumed, "part")
    assert not Path("executed").exists()
    assert_same(weights(resumed), expected)


@pytest.mark.parametrize("content", [7, {"parts": {}}])
def test_state_of_another_form_falls_back(stopped: Path, content: Any) -> None:
    state = stopped / "state.pt"
    torch.save(content, state)
    path = stopped / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"]["state.pt"] = {
        "bytes": state.stat().st_size,
        "sha256": sha256_of(state),
    }
    path.write_text(seal(manifest))
    with pytest.raises(nb.CheckpointError, match="holds no state"):
        read_checkpoint(stopped)


def test_partial_folders_lying_around_are_removed(
    stopped: Path, expected: dict[str, torch.Tensor]
) -> None:
    shutil.copytree(stopped, stopped.with_name(".step-00000099.partial"))
    stopped.with_name(".best.partial").mkdir()
    resumed = make_task()
    run(resumed, "part")
    assert_same(weights(resumed), expected)
    assert not list(stopped.parent.glob(".*"))


def test_unfinished_folder_of_a_later_step_is_set_aside(
    stopped: Path, expected: dict[str, torch.Tensor]
) -> None:
    later = stopped.with_name("step-00000099")
    shutil.copytree(stopped, later)
    (later / "manifest.json").unlink()
    resumed = make_task()
    run(resumed, "part")
    assert_same(weights(resumed), expected)
    assert any("step-00000099 is broken" in text for text in messages("part"))
    assert (stopped.parent / "broken-step-00000099").is_dir()


def test_nothing_whole_says_so_and_trains_nothing(stopped: Path) -> None:
    for state in stopped.parent.glob("*/state.pt"):
        truncate(state)
    with pytest.raises(
        nb.CheckpointError, match=r"no checkpoint in .* is whole"
    ) as why:
        run(make_task(), "part")
    assert "step-00000006" in str(why.value)
    assert "mirror" in str(why.value)


def test_damaged_best_is_told_where_best_is_wanted(stopped: Path) -> None:
    coordinator = nb.TrainingCoordinator(make_task(), run_dir="part", **SETTINGS)
    assert coordinator.evaluate("val", weights="best")["loss"] > 0
    flip(0.9)(stopped.with_name("best") / "model.safetensors")
    with pytest.raises(nb.CheckpointError, match=r"best/model.safetensors is damaged"):
        coordinator.evaluate("val", weights="best")
    assert coordinator.evaluate("val", weights="last")["loss"] > 0


def test_best_is_a_copy_of_its_own(stopped: Path) -> None:
    best = stopped.with_name("best")
    step = read_checkpoint(best).step
    twin = stopped.with_name(f"step-{step:08d}")
    for name in FILES:
        if twin.exists():
            assert not (best / name).samefile(twin / name)
        assert (best / name).stat().st_nlink == 1
