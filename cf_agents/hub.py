"""Fetching a checkpoint folder from the Hugging Face hub into its cache.

The hub library owns the cache, the resuming of broken transfers, tokens and its environment (`HF_HOME`, `HF_HUB_OFFLINE`,
`HF_ENDPOINT`); this file only says which files, and turns what goes wrong into this package's errors. Knows nothing of tensors.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from cf_agents.errors import CheckpointNotFound, DownloadError

_REPOSITORY = re.compile(r"[A-Za-z0-9_][\w.-]*/[\w.-]+")


def is_repository(source: str) -> bool:
    """Whether `source` has the form of a hub id: owner/name."""
    return _REPOSITORY.fullmatch(source) is not None


def download(
    repository: str,
    patterns: Sequence[str],
    *,
    revision: str | None = None,
    local_files_only: bool = False,
    progress: bool = True,
) -> Path:
    """Return the folder of the hub's cache that holds the files of `repository` matching `patterns`, fetching what is missing.

    Files that are complete are not fetched again, and a connection that drops is resumed where it stopped. `revision` is a
    branch, a tag or a commit; a commit that is cached needs no network. `local_files_only` never connects. `progress` draws the
    hub library's bars on the standard error of a terminal.

    Raises `CheckpointNotFound` for a repository or revision that does not exist or is private, `DownloadError` when the hub
    cannot be reached (or must not be) and the cache lacks a file, and when it refuses.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import tqdm

    class Silent(tqdm):
        def __init__(self, *args, **kwargs) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})

    try:
        folder = snapshot_download(
            repository,
            revision=revision,
            allow_patterns=list(patterns),
            local_files_only=local_files_only,
            library_name="cf_agents",
            tqdm_class=None if progress else Silent,
        )
    except Exception as error:
        _explain(error, repository, revision, local_files_only)
    return Path(folder)


def _explain(error: Exception, repository: str, revision: str | None, local_files_only: bool) -> NoReturn:
    """Raise this package's error for what the hub library raised."""
    from huggingface_hub.constants import ENDPOINT
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    page = f"{ENDPOINT}/{repository}"
    if isinstance(error, HFValidationError):
        raise CheckpointNotFound(f"{repository!r} is not a hub id; write it as owner/name.") from error
    if isinstance(error, GatedRepoError):
        raise DownloadError(
            f"The hub keeps {repository} behind terms that this account has not accepted (HTTP {_status(error)}). "
            f"Accept them at {page}, then run `hf auth login`."
        ) from error
    if isinstance(error, RepositoryNotFoundError):
        raise CheckpointNotFound(
            f"The hub has no repository {repository}, or it is private (HTTP {_status(error)}). "
            "Check the spelling; for a private one run `hf auth login` with an account that may read it."
        ) from error
    if isinstance(error, RevisionNotFoundError):
        raise CheckpointNotFound(
            f"{repository} has no revision {revision!r}. Give a branch, tag or commit listed at {page}/commits/main."
        ) from error
    refused = error if isinstance(error, HfHubHTTPError) else error.__cause__
    if isinstance(refused, HfHubHTTPError) and _status(refused) in (401, 403):
        raise DownloadError(
            f"The hub refused {repository} (HTTP {_status(refused)}). Run `hf auth login` with a token that may read it."
        ) from error
    if isinstance(error, LocalEntryNotFoundError):
        why = "only local files were asked for" if local_files_only else "the hub could not be reached, or offline mode is on"
        raise DownloadError(
            f"{repository} is not complete in the local cache, and {why}. Connect once, or run "
            f"`hf download {repository}{f' --revision {revision}' if revision else ''}` where there is a connection and give "
            "the folder it prints."
        ) from error
    raise DownloadError(
        f"Fetching {repository} failed: {type(error).__name__}: {str(error).strip()}. "
        "What was complete is kept: try again, and check the disk's free space and the connection if it persists."
    ) from error


def _status(error: object) -> int | None:
    from huggingface_hub.errors import HfHubHTTPError

    response = error.response if isinstance(error, HfHubHTTPError) else None
    return None if response is None else response.status_code
