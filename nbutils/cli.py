"""The ``nbutils`` command: the same parts as in a notebook, from a shell."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nbutils.errors import NbutilsError, PreflightError

# Packages are imported inside the commands, so that --help answers at once.
if TYPE_CHECKING:
    from nbutils.config import RunConfig

__all__ = ["main"]

_SETTINGS = "A parameter or a setting, such as -p epochs=3; may be repeated."
_CONFIG = "CONFIG is a saved config.yaml or the name of a preset."


class _Group(click.Group):
    """Commands whose expected errors are sentences, not tracebacks."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an error of this package ends it with exit status 1."""
        try:
            return super().invoke(ctx)
        except NbutilsError as error:
            if isinstance(error, PreflightError) and error.report is not None:
                click.echo(str(error.report))
            click.echo(f"{type(error).__name__}: {error}", err=True)
            ctx.exit(1)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="nbutils")
def main() -> None:
    """Prove a training run in seconds, then run it, from a shell."""


@main.command()
@click.option("--strict", is_flag=True, help="Fail if a run could not start here.")
@click.option("--json", "is_json", is_flag=True, help="Print it as JSON.")
def doctor(*, strict: bool, is_json: bool) -> None:
    """Show facts about this machine and advice on it."""
    from nbutils.environment import doctor as examine

    report = examine()
    click.echo(report.to_json() if is_json else str(report))
    if strict and not report.ok:
        raise click.exceptions.Exit(1)


@main.command()
def presets() -> None:
    """List the named starting points."""
    from nbutils.config import presets as names

    click.echo("\n".join(names()))


@main.command(epilog=_CONFIG)
@click.argument("config")
@click.option("-p", "pairs", multiple=True, metavar="KEY=VALUE", help=_SETTINGS)
@click.option(
    "--depth",
    type=click.Choice(["static", "standard", "rehearsal"]),
    default="standard",
    show_default=True,
    help="How much is proven.",
)
def preflight(config: str, pairs: tuple[str, ...], depth: str) -> None:
    """Prove that the run of CONFIG would work, without training."""
    from nbutils.preflight import preflight as prove
    from nbutils.recipes import build_task

    settings = _config(config, _parsed(pairs))
    report = prove(build_task(settings), settings, depth=depth, on_failure="raise")
    click.echo(str(report))


@main.command(epilog=_CONFIG)
@click.argument("target", metavar="NOTEBOOK|CONFIG")
@click.option("-p", "pairs", multiple=True, metavar="KEY=VALUE", help=_SETTINGS)
@click.option(
    "--output-dir",
    default="runs/notebooks",
    show_default=True,
    help="Folder of the executed notebook.",
)
def run(target: str, pairs: tuple[str, ...], output_dir: str) -> None:
    """Run a notebook, or train what a config describes."""
    if target.endswith((".ipynb", ".py")):
        from nbutils.launch.notebook import NotebookInterrupted, run_notebook

        try:
            executed = run_notebook(target, _parsed(pairs), output_dir)
        except NotebookInterrupted as error:
            click.echo(f"{type(error).__name__}: {error}", err=True)
            raise click.exceptions.Exit(130) from error
        click.echo(f"notebook  {executed}")
        click.echo(f"page      {executed.with_suffix('.html')}")
    else:
        _train(_config(target, _parsed(pairs)))


@main.command()
@click.argument("target", metavar="FILE|PACKAGE|NOTEBOOK")
@click.option("--json", "is_json", is_flag=True, help="Print the findings as JSON.")
def lint(target: str, *, is_json: bool) -> None:
    """Read training code, without running it, for what would go wrong."""
    from nbutils.preflight.lints import lint as read

    report = read(target)
    click.echo(report.json() if is_json else report.text)
    if not report.passed:
        raise click.exceptions.Exit(1)


@main.command()
@click.argument("notebook")
@click.option("-p", "pairs", multiple=True, metavar="KEY=VALUE", help=_SETTINGS)
@click.option("--lint", "is_lint", is_flag=True, help="Only read it; run nothing.")
@click.option("--steps", default=4, show_default=True, help="Windows of each run.")
@click.option(
    "--timeout", default=600, show_default=True, help="Seconds that a cell may take."
)
@click.option(
    "--output-dir",
    default="runs/rehearsals",
    show_default=True,
    help="Folder of the report.",
)
@click.pass_context
def rehearse(
    ctx: click.Context,
    notebook: str,
    pairs: tuple[str, ...],
    *,
    is_lint: bool,
    steps: int,
    timeout: int,
    output_dir: str,
) -> None:
    """Execute every cell in miniature, and name each that would fail."""
    if is_lint:
        ctx.invoke(lint, target=notebook, is_json=False)
        return
    from nbutils.launch.rehearse import rehearse as execute

    rehearsal = execute(
        notebook,
        _parsed(pairs),
        num_steps=steps,
        timeout_s=timeout,
        output_dir=output_dir,
    )
    click.echo(rehearsal.text)
    click.echo(f"report  {rehearsal.page}")
    if not rehearsal.passed:
        raise click.exceptions.Exit(1)


@main.command()
@click.argument("run_dir")
@click.option("--price", default="", help="Of an hour of the machine, for the cost.")
def report(run_dir: str, *, price: str) -> None:
    """Write report.html of a run from what lies in its folder."""
    from nbutils.environment.price import parse_price, price_per_hour
    from nbutils.monitor.report import write_report

    known = parse_price(price) if price else price_per_hour()
    click.echo(write_report(run_dir, price_per_hour=known))


@main.command()
@click.argument("run_dir", required=False)
@click.option(
    "--follow/--once", default=None, help="Go on until the run ends, or show it once."
)
@click.option("-n", "num_epochs", default=12, show_default=True, help="Epochs to show.")
def watch(run_dir: str | None, *, follow: bool | None, num_epochs: int) -> None:
    """Show how a run stands, from any terminal; by default the newest run.

    In a terminal it is redrawn until the run ends; elsewhere it is shown once.
    """
    from nbutils.launch.watch import watch_run

    watch_run(run_dir, follow=follow, num_epochs=num_epochs)


@main.command()
@click.argument("run_dir")
@click.option(
    "--to",
    multiple=True,
    type=click.Choice(["wandb", "tensorboard"]),
    help="Where to; by default where its config says. May be repeated.",
)
def sync(run_dir: str, to: tuple[str, ...]) -> None:
    """Send the events of a run to W&B or TensorBoard, after the fact.

    Also of a run that was killed; called again, it sends only what is missing.
    """
    from nbutils.monitor.events import read_events
    from nbutils.monitor.rundir import RunDirectory
    from nbutils.tracking.sync import sync_run

    num_events = len(read_events(RunDirectory(run_dir).events_path))
    with click.progressbar(length=num_events, label="events", file=sys.stderr) as bar:
        done = sync_run(run_dir, to, tick=lambda: bar.update(1), tell=click.echo)
    for service in done:
        click.echo(str(service))


@main.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN RUN ...")
@click.option("--metric", help="Compare by this; by default what the runs monitor.")
@click.option("--html", "page", metavar="FILE", help="Write a page with curves, too.")
@click.option("--json", "is_json", is_flag=True, help="Print everything as JSON.")
def compare(
    runs: tuple[str, ...], metric: str | None, page: str | None, *, is_json: bool
) -> None:
    """Show runs side by side: settings, numbers, and how sure a difference is.

    Runs that differ in their seed alone are one group.
    """
    from nbutils.monitor.comparison import compare_runs

    found = compare_runs(runs, metric)
    click.echo(found.to_json() if is_json else str(found))
    if page is not None:
        click.echo(f"page  {found.save(page)}", err=is_json)


@main.command()
@click.argument("folder", required=False, metavar="[DIR]")
@click.option(
    "--sort",
    default="started",
    show_default=True,
    help="started, best, name, duration_s, size_bytes, or a metric; the best first.",
)
@click.option("--json", "is_json", is_flag=True, help="Print the rows as JSON.")
def runs(folder: str | None, sort: str, *, is_json: bool) -> None:
    """List the runs in DIR: how each stands and what it reached."""
    from nbutils.monitor.jsontext import dumps
    from nbutils.monitor.runs_list import run_rows, runs_text

    rows = run_rows(folder, sort)
    click.echo(dumps(rows, indent=2) if is_json else runs_text(rows))


@main.command(
    epilog=f"{_CONFIG} What stands after SCRIPT is given to it.",
    context_settings={"ignore_unknown_options": True},
)
@click.argument("target", metavar="CONFIG|SCRIPT.py")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.option("-p", "pairs", multiple=True, metavar="KEY=VALUE", help=_SETTINGS)
def launch(target: str, arguments: tuple[str, ...], pairs: tuple[str, ...]) -> None:
    """Train in a process that outlives this terminal.

    Of a config, the run is proven here first; a script does that itself.
    """
    if target.endswith(".py"):
        from nbutils.launch.script import launch_script

        pid, log = launch_script(target, arguments)
        click.echo(f"process  {pid}")
        click.echo(f"log      {log}")
        click.echo("watch    nbutils watch  (the newest run, once it trains)")
        return
    from nbutils.coordinator import TrainingCoordinator
    from nbutils.recipes import build_task

    if arguments:
        raise click.UsageError(f"a config takes -p key=value, not {arguments[0]!r}.")
    config = _config(target, _parsed(pairs))
    detached = TrainingCoordinator(build_task(config), config).train(background=True)
    click.echo(f"watch    nbutils watch {detached.run_dir}")
    click.echo(f"stop     touch {detached.run_dir / 'STOP'}")


def _train(config: RunConfig) -> None:
    """Train and test, and say where everything lies."""
    from nbutils.coordinator import TrainingCoordinator
    from nbutils.recipes import build_task

    task = build_task(config)
    coordinator = TrainingCoordinator(task, config)
    result = coordinator.train()
    click.echo(f"stopped  {result.stop_reason}")
    metrics = dict(result.metrics)
    if task.test_data is not None:
        metrics |= {f"test_{k}": v for k, v in coordinator.evaluate("test").items()}
    for name, value in metrics.items():
        if isinstance(value, (int, float)):
            click.echo(f"{name}  {value:.4g}")
    click.echo(f"run      {result.run_dir}")
    click.echo(f"report   {coordinator.report()}")


def _config(name: str, given: dict[str, str]) -> RunConfig:
    """The config of a file or a preset, the environment and ``-p`` included."""
    from nbutils.config import presets, resolve
    from nbutils.config.leaves import leaf_of, parse_text

    overrides: dict[str, Any] = {}
    for key, text in given.items():
        leaf = leaf_of(key)
        overrides[key] = text if leaf is None else parse_text(leaf, text)
    is_preset = name in presets() or not (
        name.endswith((".yaml", ".yml")) or Path(name).exists()
    )
    if is_preset:
        return resolve(preset=name, overrides=overrides)
    return resolve(path=name, overrides=overrides)


def _parsed(pairs: tuple[str, ...]) -> dict[str, str]:
    """``key=value`` texts as a mapping; the last of equal keys counts."""
    given: dict[str, str] = {}
    for pair in pairs:
        key, sign, text = pair.partition("=")
        if not sign or not key.strip():
            raise click.BadParameter(f"{pair!r} must be key=value, such as epochs=3.")
        given[key.strip()] = text
    return given
