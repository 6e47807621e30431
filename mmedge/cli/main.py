"""The command line: parse, one call, render, exit code. A verb's module is imported when the verb is named."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

import click

from mmedge import __version__

if TYPE_CHECKING:
    from mmedge.pipeline.stages import Stage

# verb -> (module of mmedge.cli, what it does). The module's function has the verb's name. Those of the stages come behind
# ``run``, from their table.
VERBS = {
    "init": ("init", "Write a recipe for a manifest of your own."),
    "check": ("check", "Look at a recipe's data and models before anything is trained."),
    "run": ("stages", "Run every stage of a recipe and judge the result."),
    "profile": ("profile", "Time bundles and ONNX graphs, interleaved."),
    "report": ("report", "Draw report.html from report.json."),
    "explain": ("explain", "Tell what each modality contributes, and where a model looks."),
    "predict": ("predict", "Predict from raw files with a bundle."),
    "evaluate": ("evaluate", "Judge a bundle by a table of labelled samples."),
    "doctor": ("doctor", "Tell what this machine can do."),
}
# Verbs of stages that take more than a recipe, each in a module of its name.
_OWN = ("prune", "quantize", "export")


def verbs() -> dict[str, str]:
    """{verb: what it does}, of the table of stages too, which imports nothing that takes time."""
    found = {}
    for verb, (_, text) in VERBS.items():
        found[verb] = text
        if verb == "run":
            found |= {row.verb: row.help for row in _stages()}
    return found


def _stages() -> tuple[Stage, ...]:
    from mmedge.pipeline import stages

    return stages.STAGES


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(verbs())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in VERBS or cmd_name in _OWN:
            module = importlib.import_module(f"mmedge.cli.{VERBS.get(cmd_name, (cmd_name,))[0]}")
            return getattr(module, cmd_name)
        row = next((row for row in _stages() if row.verb == cmd_name), None)
        if row is None:
            return None
        from mmedge.cli.stages import stage_verb

        return stage_verb(row)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):  # from the tables, so that help imports no verb
            formatter.write_dl(list(verbs().items()))

    def resolve_command(self, ctx: click.Context, args: list[str]):
        from mmedge.errors import did_you_mean

        if args and not args[0].startswith("-") and args[0] not in verbs():
            ctx.fail(f"no command {args[0]!r}{did_you_mean(args[0], verbs())}")
        return super().resolve_command(ctx, args)


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mmedge")
def cli() -> None:
    """Turn a large multimodal model into a small, verified engine for an edge device.

    \b
    With data of your own:
      mmedge init table.csv --out mine.yaml    a recipe that runs as it is
      mmedge check mine.yaml                   every fault, before anything is trained
      mmedge run mine.yaml --out runs/mine     teacher, student, engines, report
      mmedge predict runs/mine/bundle --photo a.jpg --clip a.wav

    \b
    With a model that you have:
      mmedge quantize model.onnx --data samples.npz
      mmedge export model.onnx --backend openvino-cpu

    \b
    A recipe's keys:   mmedge init --keys
    Shell completion:  eval "$(_MMEDGE_COMPLETE=bash_source mmedge)"
    In Python:         import mmedge; help(mmedge)
    """


def main() -> None:
    """Entry point of the ``mmedge`` command."""
    try:
        sys.exit(cli.main(standalone_mode=False) or 0)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.Abort:  # Ctrl-C before a verb began
        click.echo("error: interrupted\n  do: run the same command again", err=True)
        sys.exit(130)
    except click.ClickException as error:
        from mmedge.cli.common import print_error
        from mmedge.errors import UsageError

        verb = sys.argv[1] if len(sys.argv) > 1 else None
        usage = UsageError(
            " ".join(error.format_message().rstrip(".").split()),
            todo=f"mmedge {verb} --help" if verb in verbs() else "mmedge --help",
        )
        if "--json" in sys.argv[1:]:  # click parses before any verb runs; a caller waits for its document all the same
            print_error(usage.what, None, usage.todo, error.exit_code)
        click.echo(f"error: {usage}", err=True)
        sys.exit(error.exit_code)
