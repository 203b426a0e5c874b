"""Publishing: a folder with weights, config and card, and its upload to the Hub."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from nbutils.checkpoint.card import model_card
from nbutils.checkpoint.export import Exported
from nbutils.checkpoint.hub_problems import explained, find_token, import_hub
from nbutils.errors import CheckpointError, ConfigError
from nbutils.monitor.events import EventLog
from nbutils.monitor.record import RunRecord
from nbutils.monitor.rundir import RunDirectory

__all__ = ["Destination", "Published", "Source", "publish"]

_NAME = r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9_])?"
_REPO_ID = re.compile(rf"{_NAME}/{_NAME}", re.ASCII)
_MAX_REPO_ID = 96
_LOCAL = re.compile(r"^(  (data_dir|runs_dir|mirror): )(?!null$)(.*)$", re.MULTILINE)
_LEFT_OUT = "null  # not published: a place on the machine that trained"


@dataclass(frozen=True)
class Destination:
    """Where a run is published, and as whom.

    Args:
        repo_id: ``"owner/name"``.
        private: Of a repository that is made now; one that is public is refused.
        revision: Branch; none: the main one.
        message: Title of the commit; none: which weights they are.
        token: None: the one that is found on this machine.

    Raises:
        ConfigError: ``repo_id`` is not of this form.
    """

    repo_id: str
    private: bool = True
    revision: str | None = None
    message: str | None = None
    token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        name = self.repo_id
        is_odd = not isinstance(name, str) or not _REPO_ID.fullmatch(name)
        if is_odd or len(name) > _MAX_REPO_ID or "--" in name or ".." in name:
            raise ConfigError(
                [
                    f"repo_id is {name!r}; it must be 'owner/name', such as "
                    "'ada/digits': letters, digits, '-', '_' and '.', at most "
                    f"{_MAX_REPO_ID} characters."
                ]
            )


@dataclass(frozen=True)
class Source:
    """What is published.

    Args:
        task: What was trained.
        run_dir: Where its run lies.
        weights: ``"last"`` or ``"best"``.
        steps: Checkpoints on disk, by step.
    """

    task: Any
    run_dir: Path
    weights: str
    steps: Sequence[Path]

    def step(self, record: RunRecord) -> int | None:
        """Step that the weights are of; none where that is not recorded."""
        if self.weights == "best":
            return record.best.get("step")
        return int(self.steps[-1].name.split("-")[1])


class Published(str):
    """Address of the commit.

    Attributes:
        repo_id: Where.
        folder: What was uploaded, as it lies here.
        files: Names and sizes in bytes.
        notes: What else is to be known, in a sentence each.
    """

    __slots__ = ("files", "folder", "notes", "repo_id")

    def __new__(
        cls, url: str, repo_id: str, folder: Path, files: Sequence[str]
    ) -> Published:
        """The address, with what was uploaded to it."""
        made = super().__new__(cls, url)
        made.repo_id = repo_id
        made.folder = folder
        made.files = {name: (folder / name).stat().st_size for name in files}
        made.notes = []
        return made

    def summary(self) -> str:
        """The upload as a few lines of text."""
        lines = [f"published {self.repo_id}: {self!s}"]
        lines += [f"  {name:<18} {size:,} bytes" for name, size in self.files.items()]
        return "\n".join([*lines, f"  copy in {self.folder}", *self.notes])

    def __repr__(self) -> str:
        return self.summary()

    def _repr_html_(self) -> str:
        return f"<pre>{escape(self.summary())}</pre>"


def publish(
    to: Destination, source: Source, export: Callable[[Path], Exported]
) -> Published:
    """Export into ``<run_dir>/hub``, write config and card beside it, upload all.

    Args:
        export: Writes the formats into a folder.

    Raises:
        CheckpointError: The run has saved no weights.
        ConfigError: The repository is public, and a private one was asked for.
        EnvironmentProblem: No package, no token, no network, or the Hub refused.
    """
    if not source.steps:
        raise CheckpointError(
            f"{source.run_dir} holds no checkpoint: nothing was trained that could be "
            "published. Call train() first, or pass the run_dir of a trained run."
        )
    import_hub()
    token, token_source = find_token(to.token)
    folder = source.run_dir / "hub"
    record = RunRecord.read(source.run_dir)
    step = source.step(record)
    names = _prepare(folder, to, source, record, step, export(folder))
    with explained(to.repo_id, folder, token_source, is_private=to.private):
        done = _upload(to, token, folder, names, to.message or _title(source, step))
    events = RunDirectory(source.run_dir).events_path
    with EventLog(events) as log:
        log.write(
            "published",
            url=str(done),
            repo_id=to.repo_id,
            revision=to.revision,
            weights=source.weights,
            step=step,
            files=done.files,
        )
    return done


def _prepare(
    folder: Path,
    to: Destination,
    source: Source,
    record: RunRecord,
    step: int | None,
    exported: Exported,
) -> list[str]:
    """Names of what is uploaded; anything else goes from the folder."""
    inside = RunDirectory(folder)
    card = model_card(to.repo_id, record, source.task, exported, source.weights, step)
    config = RunDirectory(source.run_dir).config_path.read_text(encoding="utf-8")
    inside.write_text("README.md", card)
    inside.write_text("config.yaml", _LOCAL.sub(_without_place, config))
    names = {"README.md", "config.yaml"} | {path.name for path in exported.values()}
    names |= {f"{name}.data" for name in names if (folder / f"{name}.data").exists()}
    for path in folder.iterdir():
        if path.name not in names and path.is_file():
            path.unlink()  # of an earlier publication: other weights
    return sorted(names)


def _without_place(line: re.Match[str]) -> str:
    start, leaf, value = line.groups()
    place = value.split("  #")[0].strip("'\"")
    if leaf != "mirror" and not Path(place).expanduser().is_absolute():
        return line[0]
    return start + (_LEFT_OUT if leaf != "runs_dir" else "runs" + _LEFT_OUT[4:])


def _title(source: Source, step: int | None) -> str:
    at = "" if step is None else f" at step {step}"
    return f"{source.weights.capitalize()} weights of {source.run_dir.name}{at}"


def _upload(
    to: Destination, token: str, folder: Path, names: Sequence[str], message: str
) -> Published:
    """One commit with exactly these files."""
    from huggingface_hub import CommitOperationAdd, HfApi

    # read now, not at import: a notebook sets it after the first import
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, token=token)
    api.create_repo(to.repo_id, private=to.private, exist_ok=True)
    there = api.model_info(to.repo_id)
    if to.private and there.private is False:
        raise ConfigError(
            [
                f"repo_id {to.repo_id!r} is a public repository, and private=True (the "
                "default) was asked for. Nothing was uploaded. Pass private=False to "
                "publish there, or choose another name."
            ]
        )
    is_branch = to.revision and not to.revision.startswith("refs/")
    if is_branch and to.revision != "main":
        api.create_branch(to.repo_id, branch=str(to.revision), exist_ok=True)
    commit = api.create_commit(
        to.repo_id,
        operations=[CommitOperationAdd(name, str(folder / name)) for name in names],
        commit_message=message,
        revision=to.revision,
    )
    done = Published(commit.commit_url, to.repo_id, folder, names)
    done.notes += _left_there(there, names)
    if not to.private and there.private:
        done.notes.append(
            f"{to.repo_id} is private, as it was made; change that in its settings."
        )
    return done


def _left_there(there: Any, names: Sequence[str]) -> list[str]:
    """Models of an earlier publication: they hold other weights than the card says."""
    known = {sibling.rfilename for sibling in there.siblings or ()}
    old = sorted(
        n for n in known - set(names) if re.fullmatch(r"model\.\w+(\.data)?", n)
    )
    if not old:
        return []
    return [
        f"The repository also holds {', '.join(old)} of an earlier commit; publish "
        "that format again, or delete it there."
    ]
