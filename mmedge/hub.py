"""The Hugging Face Hub: a bundle is shared in one commit of its files and its card, and a pretrained model is fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmedge import artifact
from mmedge.bundle import SIGNATURE
from mmedge.errors import MissingDependency, MmedgeError, UsageError, first_line

# What a bundle's model card is called: the Hub shows it.
CARD = "README.md"
# Of a pretrained model: weights that need no unpickling, and what says how it is built and fed.
_FETCHED = ("*.safetensors", "*.json", "*.txt", "*.model")
_NAMED = "name it as hf: ./FOLDER"


def check_repository(repository: str) -> None:
    """Raise what would stop ``push`` and can be known before hours of building: the package, the name, a token."""
    hub = _hub()
    try:
        hub.utils.validate_repo_id(repository)
    except hub.errors.HFValidationError as error:
        raise UsageError(
            f"this is no name of a repository: {first_line(error)}", where=repository, todo="owner/name, or name"
        ) from None
    if hub.get_token() is None:
        raise UsageError("there is no token for the Hub", todo="hf auth login, or set HF_TOKEN to one that may write")


def push(folder: Path, repository: str, *, private: bool = True, update: bool = False) -> str:
    """Upload a bundle to ``repository``, ``owner/name``, which is made, private unless ``private`` is False; returns its address.

    The token is that of ``HF_TOKEN`` or ``hf auth login``, the Hub that of ``HF_ENDPOINT``. ``update``: a repository that
    is there already gets a commit. Raises UsageError for a name that is none, one that is taken, and where there is no
    token; MissingDependency without huggingface_hub; MmedgeError for what the Hub answers otherwise.
    """
    check_repository(repository)
    hub = _hub()
    listed = artifact.read(folder)
    names = [artifact.MANIFEST, *sorted(listed.files)]
    names += [name for name in (SIGNATURE, CARD) if (folder / name).is_file()]
    api = hub.HfApi(library_name="mmedge")
    try:
        repository = api.create_repo(repository, private=private, exist_ok=update).repo_id
        api.create_commit(
            repository,
            [hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(folder / name)) for name in names],
            commit_message=f"mmedge bundle {listed.sha256[:12]}",
        )
    except hub.errors.HfHubHTTPError as error:
        raise _refused(error, repository) from error
    except Exception as error:
        # Its library of connections is not the same in all versions.
        if not isinstance(error, OSError) and not type(error).__module__.startswith(("httpx", "requests")):
            raise
        raise MmedgeError(
            f"the Hub cannot be reached: {type(error).__name__}: {first_line(error)}",
            where=api.endpoint,
            todo="look at the network, HF_ENDPOINT and HF_HUB_OFFLINE; the bundle is written, and can be pushed later",
        ) from error
    return f"{api.endpoint}/{repository}"


def folder_of(model: Path | str) -> Path:
    """The folder of a pretrained model's files: the one that is named, or ``fetched`` by its name on the Hub."""
    return fetched(model) if isinstance(model, str) else model


def fetched(name: str) -> Path:
    """The local folder of a model, ``owner/name``: the copy that is there, else downloaded, without anything pickled.

    Raises UsageError where neither can be had, MissingDependency without huggingface_hub.
    """
    hub = _hub()
    try:
        return Path(hub.snapshot_download(name, allow_patterns=list(_FETCHED), local_files_only=True))
    except hub.errors.HFValidationError as error:
        raise UsageError(f"this is no name of a model: {first_line(error)}", where=name, todo=_NAMED) from None
    except Exception:  # not there yet, or not wholly
        pass
    try:
        return Path(hub.snapshot_download(name, allow_patterns=list(_FETCHED)))
    except Exception as error:  # of its library of connections, which is not the same in all versions
        raise UsageError(
            f"the Hub cannot be reached or has no such model: {type(error).__name__}: {first_line(error)}",
            where=name,
            todo=f"where there is a network: hf download {name} --local-dir FOLDER; then copy the folder here, and {_NAMED}",
        ) from error


def _refused(error: Any, repository: str) -> MmedgeError:
    """What the Hub answered, as an error of ours."""
    status = getattr(error.response, "status_code", None)
    if status == 409:
        return UsageError(
            "the repository exists already",
            where=repository,
            todo="name another, or say that it is to be updated: --update",
        )
    if status in (401, 403):
        return UsageError(
            f"the Hub refuses the token ({status}): it may not write to this repository",
            where=repository,
            todo="hf auth login with a token that may write there, or set HF_TOKEN to one",
        )
    return MmedgeError(f"the Hub answers {status}: {first_line(error)}", where=repository, todo="try again later")


def _hub() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.errors
        import huggingface_hub.utils
    except ImportError:
        raise MissingDependency(
            "the Hub needs huggingface_hub, which is not installed", todo="pip install 'mmedge[hub]'"
        ) from None
    return huggingface_hub
