"""Models of known families under names that tell nothing."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Alpha(nn.Module):
    """Self-attention by hand."""

    def __init__(self, d: int, heads: int, *, ahead: bool, fused: bool = False) -> None:
        super().__init__()
        self.h, self.ahead, self.fused = heads, ahead, fused
        self.a, self.b = nn.Linear(d, 3 * d), nn.Linear(d, d)

    def forward(self, x: Tensor, pad: Tensor | None = None) -> Tensor:
        b, n, d = x.shape
        q, k, v = (
            t.view(b, n, self.h, d // self.h).transpose(1, 2)
            for t in self.a(x).chunk(3, -1)
        )
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=not self.ahead)
        else:
            s = q @ k.transpose(-1, -2) / math.sqrt(d // self.h)
            if not self.ahead:
                hidden = torch.ones(n, n, dtype=torch.bool, device=x.device).triu(1)
                s = s.masked_fill(hidden, float("-inf"))
            if pad is not None:
                s = s.masked_fill(~pad[:, None, None].bool(), -1e9)
            y = s.softmax(-1) @ v
        return self.b(y.transpose(1, 2).reshape(b, n, d))


class Beta(nn.Module):
    """A block."""

    def __init__(self, d: int, heads: int, *, ahead: bool, fused: bool = False) -> None:
        super().__init__()
        self.n1, self.n2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.m1 = Alpha(d, heads, ahead=ahead, fused=fused)
        self.m2 = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))

    def forward(self, x: Tensor, pad: Tensor | None = None) -> Tensor:
        x = x + self.m1(self.n1(x), pad)
        return x + self.m2(self.n2(x))


class Gamma(nn.Module):
    """Like nanoGPT: targets give a loss, positions are a short table."""

    def __init__(self, *, ahead: bool = False, fused: bool = False) -> None:
        super().__init__()
        self.e, self.p = nn.Embedding(50, 32), nn.Embedding(16, 32)
        self.bs = nn.ModuleList(Beta(32, 4, ahead=ahead, fused=fused) for _ in range(2))
        self.out = nn.Linear(32, 50, bias=False)
        self.out.weight = self.e.weight

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> Any:
        x = self.e(idx) + self.p(torch.arange(idx.shape[1], device=idx.device))
        for block in self.bs:
            x = block(x)
        logits = self.out(x)
        if targets is None:
            return logits, None
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten())


class Delta(nn.Module):
    """Like Llama: RMS norm, rotary positions, grouped keys, gated feed-forward."""

    def __init__(self) -> None:
        super().__init__()
        self.e = nn.Embedding(64, 32)
        self.q, self.k = nn.Linear(32, 32, bias=False), nn.Linear(32, 16, bias=False)
        self.v, self.o = nn.Linear(32, 16, bias=False), nn.Linear(32, 32, bias=False)
        self.g, self.u = nn.Linear(32, 64, bias=False), nn.Linear(32, 64, bias=False)
        self.d, self.h = nn.Linear(64, 32, bias=False), nn.Linear(32, 64, bias=False)
        self.w = nn.Parameter(torch.ones(32))

    def norm(self, x: Tensor) -> Tensor:
        return self.w * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)

    def turn(self, x: Tensor) -> Tensor:
        n, d = x.shape[-2:]
        f = 10000 ** (-torch.arange(0, d, 2) / d)
        angle = torch.outer(torch.arange(n).float(), f)
        a, b = x[..., ::2], x[..., 1::2]
        turned = [a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()]
        return torch.stack(turned, -1).flatten(-2)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> dict[str, Tensor]:
        if input_ids is None:
            raise ValueError("no ids")
        x = self.e(input_ids)
        b, n, _ = x.shape
        y = self.norm(x)
        q = self.turn(self.q(y).view(b, n, 4, 8).transpose(1, 2))
        k = self.turn(self.k(y).view(b, n, 2, 8).transpose(1, 2)).repeat_interleave(
            2, 1
        )
        v = self.v(y).view(b, n, 2, 8).transpose(1, 2).repeat_interleave(2, 1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(y.transpose(1, 2).reshape(b, n, 32))
        y = self.norm(x)
        x = x + self.d(F.silu(self.g(y)) * self.u(y))
        return {"logits": self.h(self.norm(x))}


class Epsilon(nn.Module):
    """Like BERT, with a pooled answer and a required mask."""

    def __init__(self) -> None:
        super().__init__()
        self.e, self.p = nn.Embedding(80, 32, padding_idx=0), nn.Embedding(40, 32)
        self.t = nn.Embedding(2, 32)
        self.encoder = nn.ModuleList(Beta(32, 4, ahead=True) for _ in range(2))
        self.decoder = nn.Linear(32, 3)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
    ) -> Tensor:
        kinds = (
            torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        )
        x = self.e(input_ids) + self.t(kinds)
        x = x + self.p(torch.arange(input_ids.shape[1]))
        for block in self.encoder:
            x = block(x, attention_mask)
        return self.decoder(x[:, 0].tanh())


class Zeta(nn.Module):
    """Like T5 and BART: two stacks; ``shifts``: it makes the second input itself."""

    def __init__(self, *, shifts: bool = False) -> None:
        super().__init__()
        self.shifts = shifts
        self.e = nn.Embedding(60, 32)
        self.s1 = nn.ModuleList(Beta(32, 4, ahead=True) for _ in range(2))
        self.s2 = nn.ModuleList(Beta(32, 4, ahead=False) for _ in range(2))
        self.c = nn.ModuleList(
            nn.MultiheadAttention(32, 4, batch_first=True) for _ in range(2)
        )
        self.h = nn.Linear(32, 60)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        if input_ids is None:
            raise ValueError("no ids")
        if decoder_input_ids is None and labels is not None:
            decoder_input_ids = labels.roll(1, 1)
        if decoder_input_ids is None and self.shifts:
            decoder_input_ids = input_ids.roll(1, 1)
        if decoder_input_ids is None:
            raise ValueError("You have to specify decoder_input_ids")
        memory = self.e(input_ids)
        for block in self.s1:
            memory = block(memory)
        x = self.e(decoder_input_ids)
        for block, cross in zip(self.s2, self.c, strict=True):
            x = block(x)
            x = x + cross(x, memory, memory, need_weights=False)[0]
        return self.h(x)


class Eta(nn.Module):
    """``nn.Transformer``, sequence first, with a vocabulary for each side."""

    def __init__(self, *, batch_first: bool = False) -> None:
        super().__init__()
        self.a, self.b = nn.Embedding(70, 16), nn.Embedding(30, 16)
        self.t = nn.Transformer(16, 2, 1, 1, 32, batch_first=batch_first)
        self.at = 1 if batch_first else 0
        self.h = nn.Linear(16, 30)

    def forward(self, src: Tensor, tgt: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(tgt.shape[self.at])
        return self.h(self.t(self.a(src), self.b(tgt), tgt_mask=mask))


class Theta(nn.Module):
    """Encoder layers of torch; ``looks_back`` gives them a causal mask."""

    def __init__(self, *, looks_back: bool, batch_first: bool = True) -> None:
        super().__init__()
        self.e = nn.Embedding(40, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=batch_first)
        self.t = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.h = nn.Linear(16, 40)
        self.looks_back, self.at = looks_back, 1 if batch_first else 0

    def forward(self, x: Tensor) -> Tensor:
        mask = None
        if self.looks_back:
            mask = nn.Transformer.generate_square_subsequent_mask(x.shape[self.at])
        return self.h(self.t(self.e(x), mask=mask))


class Iota(nn.Module):
    """Reads a batch as a mapping, with a causal mask kept as a buffer."""

    def __init__(self, *, key: str = "input_ids") -> None:
        super().__init__()
        self.key = key
        self.e, self.q, self.h = (
            nn.Embedding(33, 16),
            nn.Linear(16, 48),
            nn.Linear(16, 33),
        )
        self.register_buffer("m", torch.tril(torch.ones(24, 24)).view(1, 24, 24))

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        x = self.e(batch[self.key])
        q, k, v = self.q(x).chunk(3, -1)
        n = x.shape[1]
        s = (q @ k.transpose(1, 2)).masked_fill(self.m[:, :n, :n] == 0, -1e9)
        return self.h(s.softmax(-1) @ v)


class Kappa(nn.Module):
    """A recurrent language model."""

    def __init__(self) -> None:
        super().__init__()
        self.e, self.r = nn.Embedding(40, 16), nn.LSTM(16, 16, batch_first=True)
        self.h = nn.Linear(16, 40)

    def forward(self, x: Tensor) -> Tensor:
        return self.h(self.r(self.e(x))[0])


class Lambda(nn.Module):
    """A table: an embedding for each category, numbers beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.es = nn.ModuleList(nn.Embedding(n, 4) for n in (12, 7, 3))
        self.net = nn.Sequential(nn.Linear(12 + 5, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, categories: Tensor, numbers: Tensor) -> Tensor:
        columns = [e(categories[:, i]) for i, e in enumerate(self.es)]
        return self.net(torch.cat([*columns, numbers], 1))


class Mu(nn.Module):
    """A ViT whose patches are a linear layer."""

    def __init__(self, size: int = 32, patch: int = 8) -> None:
        super().__init__()
        self.k = patch
        num = (size // patch) ** 2
        self.a = nn.Linear(3 * patch * patch, 32)
        self.p = nn.Parameter(torch.zeros(1, num + 1, 32))
        self.c = nn.Parameter(torch.zeros(1, 1, 32))
        self.b = Beta(32, 4, ahead=True)
        self.h = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        b, k = x.shape[0], self.k
        x = (
            x.unfold(2, k, k)
            .unfold(3, k, k)
            .permute(0, 2, 3, 1, 4, 5)
            .reshape(b, -1, 3 * k * k)
        )
        x = torch.cat([self.c.expand(b, -1, -1), self.a(x)], 1) + self.p
        return self.h(self.b(x)[:, 0])


class Nu(nn.Module):
    """A ViT that embeds its positions."""

    def __init__(self, size: int = 32, patch: int = 8) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 32, patch, patch)
        self.p = nn.Embedding((size // patch) ** 2, 32)
        self.b, self.h = Beta(32, 4, ahead=True), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).flatten(2).transpose(1, 2)
        return self.h(self.b(x + self.p(torch.arange(self.p.num_embeddings))).mean(1))


class Xi(nn.Module):
    """Images with text."""

    def __init__(self) -> None:
        super().__init__()
        self.i, self.t = nn.Conv2d(3, 32, 8, 8), Theta(looks_back=False)

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        return self.i(image).mean((2, 3)) @ self.t(text).mean(1)[:, :32].T


class Omicron(nn.Module):
    """A text classifier of 2-D convolutions over embedded words."""

    def __init__(self) -> None:
        super().__init__()
        self.e, self.c = nn.Embedding(40, 16), nn.Conv2d(1, 8, (3, 16))
        self.h = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.h(self.c(self.e(x)[:, None]).squeeze(-1).amax(-1))


class Pi(nn.Module):
    """A graph network by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor, adj: Tensor) -> Tensor:
        return self.b(adj @ torch.relu(adj @ self.a(x)))


class Rho(nn.Module):
    """Series of numbers, with attention."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 16)
        self.t = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.t(self.a(x)).mean(1)


class Sigma(nn.Module):
    """Fixed length: positions are added whole."""

    def __init__(self, length: int = 24) -> None:
        super().__init__()
        self.e, self.p = nn.Embedding(40, 16), nn.Parameter(torch.zeros(1, length, 16))
        self.b, self.h = Beta(16, 2, ahead=False, fused=True), nn.Linear(16, 40)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.h(self.b(self.e(tokens) + self.p))


class Tau(nn.Module):
    """Users and items."""

    def __init__(self) -> None:
        super().__init__()
        self.u, self.i = nn.Embedding(100, 8), nn.Embedding(50, 8)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        return (self.u(user) * self.i(item)).sum(-1)


class Upsilon(nn.Module):
    """A wrapper like those of data parallelism."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **more: Any) -> Any:
        return self.module(*args, **more)


class Phi(nn.Module):
    """Takes what no probe can guess."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.e = inner, nn.Embedding(10, 4)

    def forward(self, a: Any, b: Any, c: Any) -> Any:
        raise NotImplementedError
