"""Each rule turns red on its fault and stays silent on the healthy twin."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nbutils.errors import ConfigError
from nbutils.preflight.lints import lint
from nbutils.preflight.lints.catalogue import RULES
from nbutils.preflight.lints.magics import plain
from nbutils.preflight.lints.secret_keys import redact

LOOP = """\
import torch
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for epoch in range(epochs):
    for x, y in train_loader:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
"""


def script(folder: Path, text: str) -> Path:
    path = folder / "train.py"
    path.write_text(text, encoding="utf-8")
    return path


def notebook(folder: Path, *cells: str | dict[str, Any], name: str = "n.ipynb") -> Path:
    made = []
    for cell in cells:
        more = cell if isinstance(cell, dict) else {"source": cell}
        base = {"cell_type": "code", "metadata": {}, "outputs": []}
        made.append({**base, "execution_count": None, **more})
    path = folder / name
    path.write_text(json.dumps({"cells": made, "metadata": {}, "nbformat": 4}))
    return path


def found(path: Path) -> list[str]:
    return [f"{f.severity} {f.id}" for f in lint(path).findings]


# (rule, severity, fault, healthy twin), as scripts.
SCRIPTS: dict[str, tuple[str, str, str, str]] = {
    "loss scaled in a debug block": (
        "S5.debug-gate",
        "fail",
        LOOP.replace(
            "        loss.backward()",
            "        if debug:\n            print(loss)\n"
            "            loss = loss / accum\n"
            "        loss.backward()",
        ),
        LOOP.replace(
            "        loss.backward()",
            "        loss = loss / accum\n        if debug:\n            print(loss)\n"
            "            shown = loss / 2\n        loss.backward()",
        ),
    ),
    "loss scaled by a key for debugging": (
        "S5.debug-gate",
        "fail",
        LOOP.replace(
            "        loss.backward()",
            "        if config['debug']:\n            loss /= accum\n"
            "        loss.backward()",
        ),
        LOOP.replace(
            "        loss.backward()",
            "        if config['accumulates']:\n            loss /= accum\n"
            "        loss.backward()",
        ),
    ),
    "step when something is logged": (
        "S5.debug-gate",
        "fail",
        LOOP.replace(
            "        optimizer.step()",
            "        if verbose:\n            print(loss)\n"
            "            optimizer.step()",
        ),
        LOOP.replace(
            "        optimizer.step()",
            "        optimizer.step()\n        if i % log_every == 0:\n"
            "            print(loss)",
        ),
    ),
    "backward after the loop": (
        "S5.outside-loop",
        "fail",
        "for epoch in range(3):\n    for x, y in train_loader:\n"
        "        loss = criterion(model(x), y)\n    optimizer.zero_grad()\n"
        "    loss.backward()\n    optimizer.step()\n",
        "for epoch in range(3):\n    total_loss = 0\n    for x, y in tasks_loader:\n"
        "        loss = criterion(model(x), y)\n"
        "        total_loss = total_loss + loss\n"
        "    optimizer.zero_grad()\n    total_loss.backward()\n    optimizer.step()\n",
    ),
    "step after the loop": (
        "S5.outside-loop",
        "fail",
        "def train_epoch(loader):\n    for x, y in loader:\n"
        "        optimizer.zero_grad()\n        loss = criterion(model(x), y)\n"
        "        loss.backward()\n    optimizer.step()\n",
        "def train_step(batch):\n    optimizer.zero_grad()\n"
        "    for x, y in batch.chunk(4):\n        loss = criterion(model(x), y)\n"
        "        loss.backward()\n    optimizer.step()\n",
    ),
    "one step for a pass": (
        "S5.outside-loop",
        "warn",
        "for epoch in range(3):\n    optimizer.zero_grad()\n"
        "    for x, y in enumerate(train_loader):\n"
        "        loss = criterion(model(x), y)\n        loss.backward()\n"
        "    optimizer.step()\n",
        LOOP,
    ),
    "zeroed before the step": (
        "S5.zero-grad",
        "fail",
        LOOP.replace("        optimizer.zero_grad()\n", "").replace(
            "        optimizer.step()",
            "        optimizer.zero_grad()\n        optimizer.step()",
        ),
        "for z in loader:\n    d_opt.zero_grad()\n    d_loss(z).backward()\n"
        "    g_opt.zero_grad()\n    g_loss(z).backward()\n    d_opt.step()\n"
        "    g_opt.step()\n",
    ),
    "never zeroed": (
        "S5.zero-grad",
        "fail",
        LOOP.replace("        optimizer.zero_grad()\n", ""),
        LOOP.replace(
            "        optimizer.zero_grad()\n",
            "        for p in model.parameters():\n            p.grad = None\n",
        ),
    ),
    "window wiped": (
        "S5.zero-grad",
        "fail",
        LOOP.replace(
            "        optimizer.step()",
            "        if (i + 1) % accum == 0:\n            optimizer.step()",
        ),
        LOOP.replace("        optimizer.zero_grad()\n", "").replace(
            "        optimizer.step()",
            "        if (i + 1) % accum == 0:\n            optimizer.step()\n"
            "            optimizer.zero_grad()",
        ),
    ),
    "error in a step is passed over": (
        "S5.swallowed-error",
        "fail",
        "for x, y in loader:\n    try:\n        opt.zero_grad()\n"
        "        loss = criterion(model(x), y)\n        loss.backward()\n"
        "        opt.step()\n    except Exception as e:\n"
        "        print(f'skipping batch: {e}')\n        continue\n",
        "for x, y in loader:\n    try:\n        opt.zero_grad()\n"
        "        loss = criterion(model(x), y)\n        loss.backward()\n"
        "        opt.step()\n    except Exception as e:\n        num_bad += 1\n"
        "        if num_bad > 3:\n            raise\n",
    ),
    "bare except around backward": (
        "S5.swallowed-error",
        "fail",
        "try:\n    loss.backward()\nexcept:\n    pass\n",
        "try:\n    loss.backward()\nexcept torch.cuda.OutOfMemoryError:\n    pass\n",
    ),
    "any RuntimeError is passed over": (
        "S5.swallowed-error",
        "warn",
        "for x, y in loader:\n    try:\n        loss = f(model(x), y)\n"
        "        loss.backward()\n    except RuntimeError as e:\n"
        "        logger.warning('failed %s', e)\n",
        "for x, y in loader:\n    try:\n        loss = f(model(x), y)\n"
        "        loss.backward()\n    except RuntimeError as e:\n"
        "        if 'out of memory' not in str(e):\n            raise\n"
        "        torch.cuda.empty_cache()\n",
    ),
    "training that failed goes on": (
        "S5.swallowed-error",
        "warn",
        "try:\n    trainer.fit(model)\nexcept Exception as e:\n    print('bad', e)\n",
        "try:\n    trainer.fit(model)\nexcept KeyboardInterrupt:\n    print('end')\n"
        "try:\n    trainer.fit(model)\nexcept Exception:\n    log()\n    raise\n",
    ),
    "layer skipped in forward": (
        "S5.swallowed-error",
        "fail",
        "class Net(nn.Module):\n    def forward(self, x):\n"
        "        for layer in self.layers:\n            try:\n"
        "                x = layer(x)\n            except Exception as e:\n"
        "                print('skipping layer', e)\n        return x\n",
        "class Net(nn.Module):\n    def forward(self, x):\n"
        "        for layer in self.layers:\n            x = layer(x)\n"
        "        return x\n",
    ),
    "constant for a failed loss": (
        "S5.constant-loss",
        "fail",
        "for x, y in loader:\n    opt.zero_grad()\n    try:\n"
        "        loss = loss_fn(model(x), y)\n    except Exception:\n"
        "        loss = torch.tensor(1.0, requires_grad=True)\n"
        "    loss.backward()\n    opt.step()\n",
        "for x, y in loader:\n    opt.zero_grad()\n"
        "    loss = torch.tensor(0.0, device=device)\n"
        "    loss = loss + loss_fn(model(x), y)\n    loss.backward()\n    opt.step()\n",
    ),
    "constant returned by the loss": (
        "S5.constant-loss",
        "fail",
        "def compute_loss(out, y):\n    try:\n        return mdn(out, y)\n"
        "    except RuntimeError:\n        return torch.zeros(1).to(device)\n",
        "def compute_loss(out, y):\n    try:\n        return mdn(out, y)\n"
        "    except RuntimeError as error:\n"
        "        raise ValueError('loss') from error\n",
    ),
    "constant for a loss of NaN": (
        "S5.constant-loss",
        "fail",
        LOOP.replace(
            "        loss.backward()",
            "        if torch.isnan(loss):\n"
            "            loss = torch.tensor(0.0, requires_grad=True)\n"
            "        loss.backward()",
        ),
        LOOP.replace(
            "        loss.backward()",
            "        if torch.isnan(loss):\n            raise ValueError(x)\n"
            "        loss.backward()",
        ),
    ),
    "black image for one that cannot be read": (
        "S5.dummy-data",
        "fail",
        "class D(Dataset):\n    def __getitem__(self, i):\n        try:\n"
        "            return load(self.files[i]), self.labels[i]\n"
        "        except Exception:\n"
        "            return torch.zeros(3, 224, 224), self.labels[i]\n",
        "class D(Dataset):\n    def __getitem__(self, i):\n"
        "        if self.files[i] is None:\n"
        "            return torch.zeros(3, 224, 224), self.labels[i]\n"
        "        return load(self.files[i]), self.labels[i]\n",
    ),
    "random tokens for a missing tokenizer": (
        "S5.dummy-data",
        "fail",
        "try:\n    input_ids = tokenizer(text)\nexcept Exception:\n"
        "    input_ids = torch.randint(0, 100, (1, 8))\n",
        "try:\n    import rust_tokenizer\nexcept ImportError:\n"
        "    rust_tokenizer = None\ninput_ids = torch.randint(0, 100, (1, 8))\n",
    ),
    "loss against noise": (
        "S5.dummy-data",
        "fail",
        LOOP.replace(
            "criterion(model(x), y)", "criterion(model(x), torch.rand_like(y))"
        ),
        LOOP.replace(
            "        loss = criterion(model(x), y)",
            "        noise = torch.randn_like(x)\n"
            "        loss = criterion(model(x + noise), noise)",
        ),
    ),
    "key in the source": (
        "S5.secret",
        "fail",
        "wandb.login(key='0123456789abcdef0123456789abcdef01234567'.strip())\n".replace(
            "0123456789abcdef0123456789abcdef01234567",
            "9f3c" * 5 + "07ade1b2" * 2 + "65d8",
        ),
        "wandb.login(key=os.environ['WANDB_API_KEY'])\n"
        f"model = load(revision='{'9f3c' * 5 + '07ade1b2' * 2 + '65d8'}')\n"
        "token = 'hf_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx'\n",
    ),
    "token of the hub": (
        "S5.secret",
        "fail",
        f"token = 'hf_{'aBcDeFgHiJkLmNoPqRsTuVwXyZ' + 'AbCdEfGh'}'\n",
        "token = 'hf_transformers_style_name_of_a_model_that_is_long'\n",
    ),
    "evaluation mode stays": (
        "S5.eval-mode",
        "fail",
        "model.train()\n" + LOOP + "    model.eval()\n    validate(model)\n",
        LOOP.replace("    for x, y", "    model.train()\n    for x, y")
        + "    model.eval()\n    validate(model)\n",
    ),
    "function leaves evaluation mode": (
        "S5.eval-mode",
        "fail",
        "def evaluate(net):\n    net.eval()\n\nmodel.train()\n"
        + LOOP
        + "    evaluate(model)\n",
        "def evaluate(net):\n    net.eval()\n    net.train()\n\nmodel.train()\n"
        + LOOP
        + "    evaluate(model)\n",
    ),
    "schedule first": (
        "S5.schedule-order",
        "warn",
        LOOP.replace(
            "        optimizer.step()",
            "        scheduler.step()\n        optimizer.step()",
        ),
        LOOP.replace(
            "        optimizer.step()",
            "        optimizer.step()\n        scheduler.step()",
        ),
    ),
    "clipped while scaled": (
        "S5.clip-scaled",
        "fail",
        "for x, y in loader:\n    optimizer.zero_grad()\n"
        "    scaler.scale(loss_fn(model(x), y)).backward()\n"
        "    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)\n"
        "    scaler.step(optimizer)\n    scaler.update()\n",
        "for x, y in loader:\n    optimizer.zero_grad()\n    if use_amp:\n"
        "        scaler.scale(loss_fn(model(x), y)).backward()\n"
        "        scaler.unscale_(optimizer)\n"
        "        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)\n"
        "        scaler.step(optimizer)\n        scaler.update()\n    else:\n"
        "        loss_fn(model(x), y).backward()\n"
        "        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)\n"
        "        optimizer.step()\n",
    ),
    "graphs summed up": (
        "S5.graph-kept",
        "warn",
        LOOP + "        total += loss * len(x)\n",
        LOOP + "        total += loss.detach() * len(x)\n",
    ),
    "graphs in a list": (
        "S5.graph-kept",
        "warn",
        LOOP + "        losses.append(loss)\n",
        LOOP + "        loss = loss.item()\n        losses.append(loss)\n",
    ),
    "graph retained": (
        "S5.graph-kept",
        "warn",
        LOOP.replace("loss.backward()", "loss.backward(retain_graph=True)"),
        LOOP.replace(
            "        loss.backward()",
            "        loss.backward(retain_graph=True)\n        other.backward()",
        ),
    ),
    "validation with gradients": (
        "S5.validation-grad",
        "warn",
        "model.eval()\nfor x, y in val_loader:\n    total += f(model(x), y).item()\n",
        "model.eval()\nwith torch.no_grad():\n    for x, y in val_loader:\n"
        "        total += f(model(x), y).item()\n",
    ),
    "foreign pickle": (
        "S5.foreign-load",
        "warn",
        "path = hf_hub_download('a/b', 'model.bin')\nw = torch.load(path)\n",
        "path = hf_hub_download('a/b', 'model.bin')\n"
        "w = torch.load(path, weights_only=True)\nv = torch.load('mine.pt')\n",
    ),
    "saved at the end alone": (
        "S5.late-save",
        "warn",
        "epochs = 200\n" + LOOP + "torch.save(model.state_dict(), 'm.pt')\n",
        "epochs = 200\n"
        + LOOP
        + "    save(model)\ntorch.save(model.state_dict(), 'm.pt')\n",
    ),
    "path into a home": (
        "S5.personal-path",
        "warn",
        "root = '/home/marta/data/train'\n",
        '"""See /home/marta/data for the format."""\nroot = "/home/user/data"\n',
    ),
    "term as a number": (
        "S5.detached-term",
        "fail",
        LOOP.replace(
            "criterion(model(x), y)", "ce(model(x), y) + 0.1 * aux_loss.item()"
        ),
        LOOP.replace("criterion(model(x), y)", "ce(model(x), y) + 0.1 * aux_loss")
        + "        seen += loss.item()\n",
    ),
    "layer made in forward": (
        "S5.layer-in-forward",
        "fail",
        "class N(nn.Module):\n    def forward(self, x):\n"
        "        self.proj = nn.Linear(x.shape[-1], 4)\n        return self.proj(x)\n",
        "class N(nn.Module):\n    def __init__(self):\n"
        "        self.proj = nn.Linear(2, 4)\n"
        "    def forward(self, x):\n        return nn.ReLU()(self.proj(x))\n",
    ),
    "objective behind a return": (
        "S5.unreachable",
        "warn",
        "def compute_loss(a, b):\n    return a.mean()\n    total = f(a, b)\n",
        "def compute_loss(a, b):\n    if a is None:\n        return b\n"
        "    return f(a, b)\n",
    ),
    "logger made local": (
        "S5.unbound-local",
        "fail",
        "logger = logging.getLogger()\ndef train(use_tb):\n    if use_tb:\n"
        "        logger = TensorBoardLogger('x')\n    else:\n"
        "        logger.warning('no board')\n",
        "logger = logging.getLogger()\ndef train(use_tb):\n    if use_tb:\n"
        "        board = TensorBoardLogger('x')\n    else:\n"
        "        logger.warning('no board')\n",
    ),
    "no Python": ("S5.syntax", "fail", "for x in\n", "x = '''\n% no magic\n'''\n"),
    "crop beside the config": (
        "S4.literal",
        "warn",
        "config = {'image_size': 224}\n"
        "t = Compose([Resize(256), CenterCrop(448), ToTensor()])\n",
        "config = {'image_size': 224}\n"
        "t = Compose([Resize(256), CenterCrop(224), ToTensor()])\n",
    ),
    "number of components": (
        "S4.literal",
        "warn",
        "config = Config(width=64, mdn_components=5)\n"
        "head = Head(config.width, num_components=3)\n",
        "config = Config(width=64, mdn_components=5)\n"
        "head = Head(config.width, num_components=config.mdn_components)\n"
        "other = Head(config.width, num_heads=3)\n",
    ),
}

# (rule, severity, cells with the fault, healthy cells).
NOTEBOOKS: dict[str, tuple[str, str, list[Any], list[Any]]] = {
    "question": (
        "S5.prompt",
        "fail",
        ["answer = input('Continue? ')"],
        ["def forward(input):\n    return input(1)", "answer = 'yes'"],
    ),
    "key by question": (
        "S5.prompt",
        "fail",
        ["from getpass import getpass\nkey = getpass()"],
        ["import os\nkey = os.environ.get('KEY')"],
    ),
    "login": ("S5.prompt", "warn", ["import wandb\nwandb.login()"], ["import wandb"]),
    "defined below": (
        "S7.order",
        "fail",
        ["print(x)", "x = 1"],
        ["def show():\n    print(x)", "x = 1", "show()", "[x for x in range(3)]"],
    ),
    "never defined": (
        "S7.order",
        "fail",
        ["result = 1", "print(reslt)"],
        ["result = 1", "try:\n    print(result)\nexcept NameError:\n    pass"],
    ),
    "deleted above": (
        "S7.order",
        "fail",
        ["x = 1", "del x", "print(x)"],
        ["x = 1", "del x", "x = 2\nprint(x)"],
    ),
    "needed by a function that is called": (
        "S7.order",
        "fail",
        ["def f():\n    return g()", "def g():\n    return size", "f()", "size = 1"],
        ["def f():\n    return g()", "def g():\n    return size", "size = 1", "f()"],
    ),
    "recovery path defines nothing": (
        "S7.order",
        "warn",
        ["resume = True", "if not resume:\n    run_id = 'a'", "print(run_id)"],
        [
            "resume = True",
            "if not resume:\n    run_id = 'a'\nelse:\n    run_id = 'b'",
            "print(run_id)",
        ],
    ),
    "run in another order": (
        "S7.executed-order",
        "warn",
        [
            {"source": "x = 1", "execution_count": 5},
            {"source": "print(x)", "execution_count": 3},
        ],
        [
            {"source": "x = 1", "execution_count": 5},
            {"source": "print(x)", "execution_count": 6},
        ],
    ),
    "parameter set again": (
        "S7.redefined",
        "warn",
        [
            {"source": "size = 1", "metadata": {"tags": ["parameters"]}},
            "size = 2\nprint(size)",
        ],
        [
            {"source": "size = 1", "metadata": {"tags": ["parameters"]}},
            "other = 2\nprint(size, other)",
        ],
    ),
    "knob without effect": (
        "S4.dead-knob",
        "warn",
        ["epochs = 50", "import nbutils as nb"],
        ["epochs = 50", "print(epochs)"],
    ),
    "torch replaced": (
        "S5.install",
        "fail",
        ["import torch", "!pip install -q torch==2.1.0 \\\n  einops"],
        ["import torch", "%pip install -q 'torch>=2.0' torchmetrics==1.3 einops"],
    ),
    "numpy pinned": (
        "S5.install",
        "warn",
        ["%pip install numpy==1.24"],
        ["%pip install -r requirements.txt -U einops"],
    ),
    "key in an output": (
        "S5.secret",
        "fail",
        [{"source": "1", "outputs": [{"text": f"AKIA{'B3D5F7H9J2L4N6P8'}\n"}]}],
        [{"source": "1", "outputs": [{"text": "AKIAIOSFODNN7EXAMPLE\n"}]}],
    ),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_lint_of_a_script_finds_the_fault_alone(tmp_path: Path, name: str) -> None:
    rule, severity, fault, _ = SCRIPTS[name]
    assert set(found(script(tmp_path, fault))) == {f"{severity} {rule}"}


@pytest.mark.parametrize("name", SCRIPTS)
def test_lint_of_the_healthy_script_finds_nothing(tmp_path: Path, name: str) -> None:
    assert found(script(tmp_path, SCRIPTS[name][3])) == []


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_lint_of_a_notebook_finds_the_fault_alone(tmp_path: Path, name: str) -> None:
    rule, severity, fault, _ = NOTEBOOKS[name]
    assert set(found(notebook(tmp_path, *fault))) == {f"{severity} {rule}"}


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_lint_of_the_healthy_notebook_finds_nothing(tmp_path: Path, name: str) -> None:
    assert found(notebook(tmp_path, *NOTEBOOKS[name][3])) == []


def test_every_rule_has_a_seeded_fault() -> None:
    seeded = {case[0] for case in [*SCRIPTS.values(), *NOTEBOOKS.values()]}
    assert sorted({rule.id for rule in RULES} - seeded) == []


def test_lint_finding_says_where_and_what(tmp_path: Path) -> None:
    path = notebook(
        tmp_path, "x = 1", {"cell_type": "markdown", "source": "#"}, "\n\ny"
    )
    (finding,) = lint(path).findings
    assert finding.title == (
        "n.ipynb, cell 3, line 3: y is used before any cell above defines it"
    )
    assert dict(finding.details)["code"] == "y"
    assert finding.actual == "no cell defines it"
    assert finding.expected
    assert finding.why
    assert finding.fix.startswith("Define y")


def test_lint_never_shows_a_key(tmp_path: Path) -> None:
    key = "9f3c" * 5 + "07ade1b2" * 2 + "65d8"
    text = f"wandb_key = '{key}'\nif x:\n    wandb.login(key='{key}'); x = input()\n"
    report = lint(script(tmp_path, text))
    assert not report.passed
    assert key not in report.text + report.html + report.json()
    assert "<a W&B key>" in report.json()
    assert redact(f"WANDB_API_KEY={key}") == "WANDB_API_KEY=<a W&B key>"


def test_lint_line_that_is_allowed_passes(tmp_path: Path) -> None:
    text = "root = '/home/marta/data'  # nbutils: allow S5.personal-path\n"
    assert found(script(tmp_path, text)) == []
    other = text.replace("S5.personal-path", "S5.prompt")
    assert found(script(tmp_path, other)) == ["warn S5.personal-path"]


def test_lint_folder_reads_all_but_environments(tmp_path: Path) -> None:
    for folder in ("a", ".venv", "__pycache__"):
        (tmp_path / folder).mkdir()
        script(tmp_path / folder, "x = '/home/marta/x'\n")
    notebook(tmp_path / "a", "x = 1")
    report = lint(tmp_path)
    assert (report.num_files, len(report.findings), report.passed) == (2, 1, True)
    assert "1 to look at; 2 files" in report.text


def test_lint_package_by_name_is_not_imported() -> None:
    report = lint("nbutils")
    assert report.num_files > 100
    assert report.findings == []


def test_lint_of_own_notebooks_finds_nothing() -> None:
    assert lint(Path(__file__).parents[2] / "notebooks").findings == []


def test_lint_absent_target_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.py cannot be linted; give a \.py"):
        lint(tmp_path / "absent.py")


def test_lint_broken_notebook_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "n.ipynb"
    path.write_text("{")
    with pytest.raises(ConfigError, match=r"n\.ipynb cannot be read"):
        lint(path)


def test_lint_report_escapes_code(tmp_path: Path) -> None:
    path = script(tmp_path, "for x in loader:\n  loss.backward(); a = '<b>'; o.step(\n")
    assert "<b>" not in lint(path).html


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("x = 1", "x = 1"),
        ("%matplotlib inline\nx = 1", "pass\nx = 1"),
        ("if a:\n    !ls {x}\n    y = 1", "if a:\n    pass\n    y = 1"),
        ("files = !ls *.py", "files = None"),
        ("t = %timeit -o f()", "t = None"),
        ("!pip install a \\\n  b\nx = 1", "pass\n\nx = 1"),
        ("x?\ny = 1", "pass\ny = 1"),
        ("?nb.Task", "pass"),
        ("%%time\nx = 1", "\nx = 1"),
        ("%%bash\nls -l | wc", "\n"),
        ("x = (7\n     % 4)\n!ls", "x = (7\n     % 4)\npass"),
        ('s = """\n!not this\n"""\n!ls', 's = """\n!not this\n"""\npass'),
        ("a = 5 \\\n  % 3", "a = 5 \\\n  % 3"),
    ],
)
def test_plain_replaces_magics_and_keeps_the_lines(source: str, text: str) -> None:
    assert plain(source).text == text
