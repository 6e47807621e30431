"""``mmedge export``: the stage, and what is done with a finished bundle: one file, a signature, a rebuild on the device."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from mmedge.cli.common import code_option, framed, out_option, print_json, progress, set_option, start_option
from mmedge.cli.models import (
    ModelArguments,
    folder_of,
    is_model,
    model_options,
    refuse_for_models,
    refuse_options,
    run_model,
)
from mmedge.cli.stages import RunOptions, run_stages
from mmedge.errors import UsageError


@dataclass(frozen=True)
class Finishing:
    """What is done with a finished bundle."""

    zipped: bool
    sign: Path | None
    encrypt: Path | None
    card: bool
    license: str | None
    repository: str | None
    public: bool
    update: bool

    @property
    def something(self) -> bool:
        return bool(self.zipped or self.sign or self.encrypt or self.card or self.repository)

    def check(self) -> None:
        """Raise what can be known before hours of building."""
        if (self.public or self.update) and not self.repository:
            raise UsageError("--public and --update say how --push-to-hub does it", todo="--push-to-hub OWNER/NAME")
        if self.encrypt is not None:
            from mmedge.encryption import read_key

            read_key(self.encrypt)
        if self.repository is not None:
            from mmedge.hub import check_repository

            check_repository(self.repository)


# Options of a model that no recipe heeds.
_OF_A_MODEL = ("backends", "dtype", "batch", "opset", "shapes")


@click.command(
    help="Build the engines and the bundle. RECIPE is a recipe file, or the artifact of an earlier stage, or a finished bundle"
    " that is only to be zipped, signed or encrypted; or a model of your own: an ONNX file, or module:factory with --weights. Its engines"
    " are compared with it on --data, and measured; without data on generated inputs, and nothing is measured."
    "\n\n\b\nExamples:\n  mmedge export recipes/avdigits.yaml --out runs/demo --zip\n  mmedge export model.onnx --backend tensorrt-rtx --dtype fp16\n  mmedge export runs/demo/bundle --sign KEY.pem"
    "\n  mmedge export runs/demo/bundle --encrypt KEYFILE"
    "\n  mmedge export --rebuild runs/demo/bundle"
)
@click.argument("recipe", type=click.Path(path_type=Path), required=False)
@out_option()
@start_option
@set_option
@code_option
@click.option("--zip", "zipped", is_flag=True, help="Write the bundle as one file, too: BUNDLE.zip.")
@click.option(
    "--sign", type=click.Path(path_type=Path), metavar="KEY", help="Sign the bundle with an Ed25519 key (PEM)."
)
@click.option(
    "--encrypt",
    type=click.Path(path_type=Path),
    metavar="KEYFILE",
    help="Write the bundle as one encrypted file, too: BUNDLE.enc. The key is 32 bytes, or 64 hexadecimal digits.",
)
@click.option(
    "--rebuild",
    type=click.Path(path_type=Path),
    metavar="BUNDLE",
    help="Build a bundle's engines again, for this device.",
)
@click.option("--card", is_flag=True, help="Write a model card into the bundle: README.md, with the Hub's metadata.")
@click.option("--license", "license_", metavar="NAME", help="What the card says of the license, as apache-2.0.")
@click.option(
    "--push-to-hub",
    "repository",
    metavar="OWNER/NAME",
    help="Upload the bundle and its card to the Hugging Face Hub, with the token of HF_TOKEN or hf auth login.",
)
@click.option("--public", is_flag=True, help="Of --push-to-hub: for everybody.  [default: private]")
@click.option("--update", is_flag=True, help="Of --push-to-hub: a commit to a repository that is there already.")
@model_options
@click.option("--backend", "backends", multiple=True, help="Of a model: what engines are built for. Repeatable.")
@click.option("--dtype", type=click.Choice(["fp32", "fp16", "int8"]), help="Of a model: the engines' precision.")
@click.option("--batch", type=click.IntRange(1), help="Of a model: the largest batch of its engines.  [default: 8]")
@click.option(
    "--opset",
    type=click.IntRange(18, 23),
    help="Of a model: the graph's opset.  [default: 20; an ONNX file keeps its own]",
)
@click.option(
    "--shape",
    "shapes",
    multiple=True,
    metavar="INPUT=N,N…",
    help="Of a model without data: an input's shape, no batch.",
)
@framed
def export(
    recipe: Path | None,
    out: Path | None,
    start: Path | None,
    overrides: tuple[str, ...],
    zipped: bool,
    sign: Path | None,
    encrypt: Path | None,
    rebuild: Path | None,
    card: bool,
    license_: str | None,
    repository: str | None,
    public: bool,
    update: bool,
    as_json: bool,
    **of_a_model: Any,
) -> int:
    finishing = Finishing(zipped, sign, encrypt, card or license_ is not None, license_, repository, public, update)
    if (recipe is None) == (rebuild is None):
        raise UsageError("name either a RECIPE to export, or a bundle with --rebuild BUNDLE")
    if rebuild is not None:
        with progress() as display:
            from mmedge.profiling.rebuild import rebuild as build

            built = build(rebuild, progress=display)
        _finish(rebuild, finishing)
        if as_json:
            print_json({name: engine.record() for name, engine in built.items()})
        return 0
    assert recipe is not None
    finishing.check()
    if is_model(recipe):
        refuse_for_models(RunOptions(recipe, out, start))
        out = out or folder_of(recipe, "exported")
        code = _of_a_model(recipe, out, of_a_model, overrides, as_json)
        _finish(out / "bundle", finishing)
        return code
    refuse_options(recipe, _OF_A_MODEL)
    if recipe.is_dir() and finishing.something and _is_bundle(recipe):
        if out or start or overrides:
            raise UsageError(
                "--out, --from and --set have no meaning for a finished bundle: it is signed and described where it is, and zipped beside it",
                where=str(recipe),
                todo=f"mmedge export {recipe} without them",
            )
        files = _finish(recipe, finishing)
        if as_json:
            print_json({"bundle": str(recipe), "files": files})
        return 0
    code, written = run_stages(RunOptions(recipe, out, start, overrides), "export", as_json)
    _finish(written / "bundle", finishing)
    return code


def _of_a_model(model: Path, out: Path, options: dict[str, Any], overrides: tuple[str, ...], as_json: bool) -> int:
    """The bundle of a model; returns the exit code."""
    from mmedge.api import export as of_model
    from mmedge.profiling.feeds import parsed_shapes

    more = {
        "dtype": options["dtype"],
        "batch": options["batch"],
        "opset": options["opset"],
        "backends": options["backends"],
    }
    if options["shapes"]:
        more["shapes"] = parsed_shapes(options["shapes"])
    if options["classes"] and options["data"] is None:
        more["classes"] = options["classes"].split(",")
    return run_model(
        "export", ModelArguments(str(model), options, overrides), out, as_json, of_model, path=out / "bundle", **more
    )


def _is_bundle(path: Path) -> bool:
    from mmedge import artifact

    return artifact.read(path).stage == "bundle"


def _finish(bundle: Path, wanted: Finishing) -> list[str]:
    """Describe and sign a bundle, then zip and encrypt it, so that the one file holds the signature, then share it."""
    from mmedge import bundle as bundles

    written = []
    if wanted.card or wanted.repository:
        written.append(str(_card(bundle, wanted)))
    if wanted.sign is not None:
        bundles.sign(bundle, wanted.sign)
        written.append(str(bundle / bundles.SIGNATURE))
    if wanted.zipped:
        target = bundle.with_name(f"{bundle.name}.zip")
        bundles.pack(bundle, target)
        written.append(str(target))
    if wanted.encrypt is not None:
        target = bundle.with_name(f"{bundle.name}.enc")
        bundles.encrypt(bundle, target, wanted.encrypt)
        written.append(str(target))
    for file in written:
        click.echo(f"written: {file}", err=True)
    if wanted.repository:
        from mmedge.hub import push

        address = push(bundle, wanted.repository, private=not wanted.public, update=wanted.update)
        click.echo(f"shared: {address}", err=True)
        written.append(address)
    return written


def _card(bundle: Path, wanted: Finishing) -> Path:
    from mmedge import artifact
    from mmedge.report.model_card import report_of, write_card

    found = artifact.read(bundle)
    return write_card(found, report_of(found), wanted.license, wanted.repository or "")
