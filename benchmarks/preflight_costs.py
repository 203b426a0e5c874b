"""What preflight costs by size of the model."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import nn

import nbutils as nb

__all__ = ["cost_table"]


def _mlp() -> nb.Task:
    model = nn.Sequential(nn.Linear(20, 128), nn.ReLU(), nn.Linear(128, 10))
    x = torch.randn(512, 20)
    return nb.Task(model, nn.CrossEntropyLoss(), (x, x[:, :10].argmax(1)))


def _timm(name: str, size: int) -> nb.Task:
    import timm

    torch.manual_seed(0)
    model = (
        timm.create_model(name, num_classes=10, img_size=size)
        if "vit" in name
        else (timm.create_model(name, num_classes=10))
    )
    x = torch.randn(64, 3, size, size)
    y = torch.arange(64) % 10
    return nb.Task(model, nn.CrossEntropyLoss(), (x, y), (x[:16], y[:16]))


def _language() -> nb.Task:
    """A causal transformer of about 100 million parameters."""
    layer = nn.TransformerEncoderLayer(
        768, 12, 3072, dropout=0.0, batch_first=True, norm_first=True
    )

    class Language(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens = nn.Embedding(20_000, 768)
            self.places = nn.Parameter(torch.randn(64, 768) * 0.02)
            self.layers = nn.TransformerEncoder(layer, 12, enable_nested_tensor=False)
            self.head = nn.Linear(768, 20_000, bias=False)
            self.head.weight = self.tokens.weight
            nn.init.normal_(self.tokens.weight, std=0.02)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            mask = nn.Transformer.generate_square_subsequent_mask(ids.shape[1])
            hidden = self.tokens(ids) + self.places[: ids.shape[1]]
            return self.head(self.layers(hidden, mask=mask, is_causal=True))

    def loss(outputs: torch.Tensor, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return nn.functional.cross_entropy(outputs.flatten(0, 1), batch[1].flatten())

    ids = torch.randint(20_000, (32, 65))
    return nb.Task(Language(), loss, (ids[:, :-1], ids[:, 1:]))


MODELS: dict[str, Callable[[], nb.Task]] = {
    "MLP": _mlp,
    "ResNet-18, 64 px": lambda: _timm("resnet18", 64),
    "ViT-base, 224 px": lambda: _timm("vit_base_patch16_224", 224),
    "causal transformer, 64 tokens": _language,
}


def cost_table(is_wanted: bool) -> list[tuple[str, ...]]:
    """Rows: model, parameters, seconds, checks that ran, checks that were skipped."""
    rows = []
    for name, make in MODELS.items() if is_wanted else ():
        torch.manual_seed(0)
        task = make()
        size = sum(p.numel() for p in task.model.parameters())
        start = time.perf_counter()
        report = nb.preflight(task, on_failure="return", batch_size=8)
        seconds = time.perf_counter() - start
        skipped = [f.id for f in report.findings if f.severity == "skip"]
        ran = len(report.findings) - len(skipped)
        cells = (f"{size:,}", f"{seconds:.1f}", str(ran), ", ".join(skipped))
        rows.append((name, *cells))
    return rows
