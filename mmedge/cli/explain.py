"""``mmedge explain``."""

from __future__ import annotations

from pathlib import Path

import click

from mmedge.cli.common import code_option, framed, print_json, progress


@click.command(
    help="Explain what a model does on samples of its own kind: what each modality contributes (exact Shapley values and"
    " ablation, for each label and each sample), where in pictures and spectrograms the evidence lies (integrated"
    " gradients and Grad-CAM), what attends to what, and its features before and after fusion. The artifact of teacher, distill or prune has it all; an engine"
    " or a bundle the first. Writes explanation.json and explanation.html."
    "\n\n\b\nExample:\n  mmedge explain runs/demo/distill --samples runs/demo/data/test.csv"
)
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option(
    "--samples",
    "table",
    type=click.Path(path_type=Path),
    required=True,
    help="A table of samples, as of mmedge evaluate; a run's data/test.csv is one.",
)
@click.option(
    "--truth", metavar="COLUMN", help="The column that says what is right.  [default: label, or each head's name]"
)
@click.option("--limit", type=click.IntRange(1), default=200, show_default=True, help="Rows that are taken.")
@click.option("--pictures", type=click.IntRange(0), default=6, show_default=True, help="Rows whose evidence is drawn.")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="Folder to write to.  [default: ARTIFACT-explained]"
)
@code_option
@framed
def explain(
    artifact: Path, table: Path, truth: str | None, limit: int, pictures: int, out: Path | None, as_json: bool
) -> None:
    with progress() as shown:
        from mmedge.artifact import write_json
        from mmedge.pipeline.explaining import Wanted
        from mmedge.pipeline.explaining import explain as explained
        from mmedge.report.html import write_explanation

        found = explained(artifact, Wanted(table, limit, pictures, truth), shown)
    folder = out or artifact.with_name(f"{artifact.name}-explained")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "explanation.json", found.record())
    write_explanation(found, folder / "explanation.html")
    for part in found.contributions:
        shares = ", ".join(f"{share.modality} {share.shapley:+.3f}" for share in part.modalities)
        click.echo(
            f"{part.head}: {shares}; {part.whole:.3f} with everything, {part.nothing:.3f} by a constant", err=True
        )
    for note in found.notes:
        click.echo(note, err=True)
    click.echo(f"explanation: {folder / 'explanation.html'}", err=True)
    if as_json:
        print_json(found.record())
