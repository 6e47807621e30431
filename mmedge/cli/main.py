"""The command line: parse, one call, render, exit code. A verb's module is imported when the verb is named."""

from __future__ import annotations

import importlib
import sys

import click

from mmedge import __version__

# verb -> (module of mmedge.cli, what it does). The module's function has the verb's name.
VERBS = {
    "init": ("init", "Write a recipe for a manifest of your own."),
    "check": ("check", "Look at a recipe's data and models before anything is trained."),
    "run": ("stages", "Run every stage of a recipe and judge the result."),
    "train": ("stages", "Train the teacher."),
    "distill": ("stages", "Distil the teacher into a student, and train its control."),
    "prune": ("stages", "Prune the student and recover it with the teacher."),
    "quantize": ("quantize", "Make candidate precisions and keep the best."),
    "export": ("export", "Build the engines and the bundle."),
    "profile": ("profile", "Time bundles and ONNX graphs, interleaved."),
    "report": ("report", "Draw report.html from report.json."),
    "predict": ("predict", "Predict from raw files with a bundle."),
    "evaluate": ("evaluate", "Judge a bundle by a table of labelled samples."),
    "doctor": ("doctor", "Tell what this machine can do."),
}


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return _of_the_table(cmd_name)
        module = importlib.import_module(f"mmedge.cli.{VERBS[cmd_name][0]}")
        return getattr(module, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):  # from the table, so that help imports no verb
            formatter.write_dl([(verb, help_text) for verb, (_, help_text) in VERBS.items()])

    def resolve_command(self, ctx: click.Context, args: list[str]):
        from mmedge.errors import did_you_mean

        known = not args or args[0] in VERBS or args[0].startswith("-") or _of_the_table(args[0]) is not None
        if not known:
            ctx.fail(f"no command {args[0]!r}{did_you_mean(args[0], VERBS)}")
        return super().resolve_command(ctx, args)


def _of_the_table(verb: str) -> click.Command | None:
    """The verb of a stage that has no words of its own here: the table of stages says what it is."""
    from mmedge.cli.stages import stage_verb
    from mmedge.pipeline.stages import STAGES

    row = next((row for row in STAGES if row.verb == verb), None)
    if row is None:
        return None
    return stage_verb(verb, row.name, f"Run the stage {row.name}.", f"mmedge {verb} recipe.yaml --out runs/NAME")


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mmedge")
def cli() -> None:
    """Distil a multimodal fusion model into a small, verified engine for an edge device.

    \b
    Example:
      mmedge run recipes/avdigits.yaml --out runs/demo
      mmedge predict runs/demo/bundle --image digit.png --audio digit.wav
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
        said = UsageError(
            " ".join(error.format_message().rstrip(".").split()),
            todo=f"mmedge {verb} --help" if verb in VERBS else "mmedge --help",
        )
        if "--json" in sys.argv[1:]:  # click parses before any verb runs; a caller waits for its document all the same
            print_error(said.what, None, said.todo, error.exit_code)
        click.echo(f"error: {said}", err=True)
        sys.exit(error.exit_code)
