"""The hub: ask it once, so that a dead network fails in seconds and with one paragraph."""

from __future__ import annotations

from edgelib.errors import EdgelibError

SECONDS = 5.0  # how long the hub may take to answer the first request


def ask_hub(repo: str, kind: str) -> None:
    """Ask the hub for a repository of the kind "model" or "dataset" once, before a library retries for minutes.

    Raises EdgelibError when the hub cannot be reached, has no such repository, or wants a log-in for it.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        HfApi().repo_info(repo, repo_type=kind, timeout=SECONDS)
    except GatedRepoError as error:
        raise EdgelibError(
            f"{kind} {repo!r} is gated: accept its terms on its hub page and log in with `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise EdgelibError(
            f"the hub has no public {kind} {repo!r}; check the spelling, or pass a local folder"
        ) from error
    except Exception as error:  # connection, name lookup, time-out, proxy: each has its own type
        raise EdgelibError(
            f"{kind} {repo!r} could not be reached on the hub ({first_line(error)}), and no local folder has that "
            f"name; if it was fetched before, use the cache (local_files_only, offline); or {local_hint(repo, kind)}"
        ) from error


def local_hint(repo: str, kind: str) -> str:
    """How to bring a repository to a machine without the hub."""
    folder = f"./{repo.split('/')[-1]}"
    return (
        f"download it on a connected machine (hf download --repo-type {kind} {repo} --local-dir {folder}) and give the "
        f"path of that folder in place of its name"
    )


def first_line(error: Exception) -> str:
    """The type of an error and the first line of its text."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else 'no details'}"
