"""What the sanity checks of other libraries say about one program.

    python -m benchmarks.peers.sanity NAME

NAME is a file of the gallery; each tool is used as its documentation shows. A tool has
caught a fault when it raises or warns with the fault and not without it.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import logging
import re
import sys
import tempfile
import warnings
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from nbutils.config import RunConfig
from nbutils.data.loaders import make_loader

__all__ = ["TOOLS"]

NUM_BATCHES = 4


class Batches(Dataset):
    """The program's own batches, read once: each tool gets the same."""

    def __init__(self, program: Any, split: str) -> None:
        config = RunConfig().replace(**program.settings)
        loader = make_loader(program.task, split, config)
        self.batches = list(islice(loader, NUM_BATCHES))

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Any:
        return self.batches[index]


class Wrapped(nn.Module):
    """Model and loss as one module, as the Trainer of Transformers wants it."""

    def __init__(self, program: Any) -> None:
        super().__init__()
        self.task, self.model = program.task, program.task.model

    def forward(self, batch: Any) -> dict[str, torch.Tensor]:
        """The loss of a batch."""
        outputs = self.task.forward(self.model, batch)
        return {"loss": self.task.total(self.task.loss_terms(outputs, batch))}


def lightning(program: Any, folder: str) -> None:
    """``fast_dev_run`` and the validation sanity check."""
    import lightning as pl
    from torch.utils.data import DataLoader

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.wrapped = Wrapped(program)

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            return self.wrapped(batch)["loss"]

        def validation_step(self, batch: Any, index: int) -> None:
            self.log("val_loss", self.wrapped(batch)["loss"], batch_size=1)

        def configure_optimizers(self) -> Any:
            return _optimizer(program)

    def loader(split: str) -> Any:
        return DataLoader(Batches(program, split), batch_size=None)

    val = loader("val") if program.task.val_data is not None else None
    quiet = {"logger": False, "enable_progress_bar": False, "accelerator": "cpu"}
    quiet |= {"enable_model_summary": False, "default_root_dir": folder}
    pl.Trainer(fast_dev_run=True, **quiet).fit(Module(), loader("train"), val)
    trainer = pl.Trainer(max_steps=1, num_sanity_val_steps=2, **quiet)
    trainer.fit(Module(), loader("train"), val)


def transformers(program: Any, folder: str) -> None:
    """``max_steps=1`` with ``eval_on_start``."""
    from transformers import Trainer, TrainingArguments

    has_val = program.task.val_data is not None
    options = TrainingArguments(
        output_dir=folder,
        max_steps=1,
        per_device_train_batch_size=1,
        per_device_eval_batch_size=1,
        eval_on_start=has_val,
        eval_strategy="steps" if has_val else "no",
        prediction_loss_only=True,
        remove_unused_columns=False,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(
        model=Wrapped(program),
        args=options,
        data_collator=lambda rows: {"batch": rows[0]},
        train_dataset=Batches(program, "train"),
        eval_dataset=Batches(program, "val") if has_val else None,
        optimizers=(_optimizer(program), None),
    )
    trainer.train()


def fastai(program: Any, folder: str) -> None:
    """``Learner.summary``, which runs the model and the loss on a batch."""
    import fastai.callback.hook  # noqa: F401  (adds Learner.summary)
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner

    # fastai's loss takes (outputs, target), so that only (x, y) batches fit.
    batches = Batches(program, "train").batches
    loaders = DataLoaders(batches, batches)
    task = program.task
    learner = Learner(
        loaders,
        task.model,
        loss_func=lambda outputs, y: task.total(
            task.loss_terms(outputs, (batches[0][0], y))
        ),
    )
    learner.summary()
    learner.loss_func(task.forward(task.model, batches[0]), batches[0][1])


def torchinfo(program: Any, folder: str) -> None:
    """``torchinfo.summary`` on the first batch."""
    from torchinfo import summary

    batch = Batches(program, "train").batches[0]
    given = batch[0] if isinstance(batch, (tuple, list)) else batch
    summary(program.task.model, input_data=[given], verbose=0)


def _optimizer(program: Any) -> torch.optim.Optimizer:
    if program.task.make_optimizer is not None:
        return program.task.make_optimizer(program.task.model)
    rate = RunConfig().replace(**program.settings).optim.lr
    return torch.optim.AdamW(program.task.model.parameters(), lr=rate)


TOOLS: dict[str, Callable[[Any, str], None]] = {
    "Lightning fast_dev_run + sanity check": lightning,
    "Transformers max_steps=1, eval_on_start": transformers,
    "fastai Learner.summary": fastai,
    "torchinfo summary": torchinfo,
}


def said(tool: Callable[[Any, str], None], program: Any) -> str:
    """What a tool raised or warned; empty if nothing."""
    heard: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    out = io.StringIO()
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(out),
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        try:
            tool(program, folder)
        except BaseException as error:  # SystemExit as well
            heard.append(f"{type(error).__name__}: {error}")
    heard += [str(warning.message) for warning in caught]
    logging.getLogger().removeHandler(handler)
    return "\n".join(sorted(set(heard)))


def main() -> None:
    """Each fault of one file with and without it, one JSON line a tool."""
    root = Path(__file__).resolve().parents[2]
    sys.path[:0] = [str(root / "tests")]
    from gallery.case import FAULTS, HEALTHY

    importlib.import_module(f"gallery.{sys.argv[1]}")
    for name, tool in TOOLS.items():
        for fault in FAULTS:
            faulty, twin = said(tool, fault.build(True)), said(tool, fault.build(False))
            named = _names(fault, faulty) and not _names(fault, twin)
            row = {"tool": name, "fault": fault.name, "is_named": named}
            row |= {"is_raised": _raised(faulty) and not _raised(twin)}
            print(json.dumps({**row, "said": faulty[:300]}), flush=True)
        for program in HEALTHY:
            row = {"tool": name, "healthy": program.name}
            words = said(tool, program.build())
            row |= {"is_raised": _raised(words)}
            print(json.dumps({**row, "said": words[:300]}), flush=True)


def _names(fault: Any, words: str) -> bool:
    return any(word.lower() in words.lower() for word in fault.told)


def _raised(words: str) -> bool:
    """Whether an exception is among what was said; notes of libraries do not count."""
    return bool(re.search(r"^\w*(Error|Exception|Exit)\b", words, re.MULTILINE))


if __name__ == "__main__":
    main()
