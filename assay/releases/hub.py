"""hub: files of a repository, from the Hugging Face hub and its cache, or from a local mirror of it: DIRECTORY/owner/name/….

Only the files that are asked for are fetched, all of one commit. Names that lead out of the repository are refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from assay.errors import BadInput, MissingFile, Unavailable, UnknownName

REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
MIRROR = "ASSAY_MIRROR"
MOST = 100_000  # files that one listing may name


class Source(Protocol):
    """Where the files of one repository come from."""

    repo: str
    revision: str | None
    """The commit, once a file is there."""

    def listing(self, path: str) -> list[str]:
        """Files below a path, from the root; the file itself where the path is one."""
        ...

    def get(self, needed: Sequence[str], beside: Sequence[str] = ()) -> list[Path]:
        """Local paths of all `needed` files, then of those `beside` them that exist."""
        ...


def source(repo: str, revision: str | None = None, mirror: str | Path | None = None, url: str | None = None) -> Source:
    """The mirror, where one is given or named by ASSAY_MIRROR; else the hub."""
    if not REPO.fullmatch(repo) or ".." in repo:
        raise BadInput(f"{repo!r} names no repository. Write owner/name.")
    where = mirror or os.environ.get(MIRROR)
    if where:
        return Mirror(Path(where).expanduser(), repo, revision)
    if url is not None:
        raise Unavailable(f"{repo} is not on the hub: fetch {url}. Then{_mirrored(repo).removeprefix('Or')}")
    return Hub(repo, revision)


def endpoint() -> str | None:
    """HF_ENDPOINT as it is now; the hub's client reads it once, when it is imported."""
    return os.environ.get("HF_ENDPOINT") or None


def safe(name: str) -> str:
    """A file's name inside a repository, as it is. `BadInput` where it could lead out of it."""
    parts = name.split("/")
    if not name.isprintable() or len(name) > 1000 or "\\" in name or any(part in ("", ".", "..") for part in parts):
        raise BadInput(f"{name[:80]!r} is no path inside a repository.")
    return name


class Mirror:
    """A directory that holds owner/name/… as the hub does."""

    def __init__(self, root: Path, repo: str, revision: str | None = None):
        self.repo, self.revision, self.here = repo, revision, root / repo
        if not self.here.is_dir():
            raise MissingFile(
                f"The mirror {root} has no {repo}. Put its files into {self.here}, or unset {MIRROR} to ask the hub."
            )

    def listing(self, path: str) -> list[str]:
        here = self.here / safe(path) if path else self.here
        found = [here] if here.is_file() else sorted(p for p in here.rglob("*") if p.is_file())
        return [p.relative_to(self.here).as_posix() for p in found[:MOST]]

    def get(self, needed: Sequence[str], beside: Sequence[str] = ()) -> list[Path]:
        paths = {name: self.here / safe(name) for name in (*needed, *beside)}
        if missing := [name for name in needed if not paths[name].is_file()]:
            raise MissingFile(f"{self.here} has no {', '.join(missing)}. Copy it there from {self.repo}.")
        return [path for path in paths.values() if path.is_file()]


class Hub:
    """A repository on the hub, through its cache."""

    def __init__(self, repo: str, revision: str | None = None):
        self.repo, self.revision = repo, revision

    def listing(self, path: str) -> list[str]:
        from huggingface_hub import HfApi
        from huggingface_hub.hf_api import RepoFile

        try:
            with hub_errors(self.repo, self.revision, path):
                tree = HfApi(endpoint=endpoint()).list_repo_tree(
                    self.repo, path or None, recursive=True, revision=self.revision
                )
                found = [safe(item.path) for item, _ in zip(tree, range(MOST)) if isinstance(item, RepoFile)]
        except Unavailable:
            if (cached := self._cached()) is None:
                raise
            return [name for name in cached if not path or name == path or name.startswith(f"{path}/")]
        except MissingFile:
            if "." not in path.rpartition("/")[2]:
                raise
            return [path]  # the hub lists directories alone
        return found

    def get(self, needed: Sequence[str], beside: Sequence[str] = ()) -> list[Path]:
        from huggingface_hub import constants

        found, missing = [], []
        for name in needed:
            path = self._get(safe(name))
            found, missing = (found, [*missing, name]) if path is None else ([*found, path], missing)
        if missing:
            raise Unavailable(
                f"{', '.join(missing)} of {self.repo} {'is' if len(missing) == 1 else 'are'} not in the cache {constants.HF_HUB_CACHE}, "
                f"and the hub cannot be reached (no network, or HF_HUB_OFFLINE is set). Fetch once with a network. {_mirrored(self.repo)}"
            )
        for name in beside:
            try:
                found += [path] if (path := self._get(safe(name))) else []
            except MissingFile:
                continue
        return found

    def _get(self, name: str) -> Path | None:
        """A file, all of one commit; None where it is not cached and the hub is out of reach."""
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        with hub_errors(self.repo, self.revision, name):
            try:
                path = Path(str(hf_hub_download(self.repo, name, revision=self.revision, endpoint=endpoint())))
            except LocalEntryNotFoundError:
                return None
        parts = path.parts
        self.revision = parts[parts.index("snapshots") + 1] if "snapshots" in parts else self.revision
        return path

    def _cached(self) -> list[str] | None:
        """Files of this revision in the cache."""
        from huggingface_hub import constants

        home = Path(constants.HF_HUB_CACHE) / f"models--{self.repo.replace('/', '--')}"
        named = home / "refs" / (self.revision or "main")
        commit = named.read_text().strip() if named.is_file() else self.revision
        here = home / "snapshots" / commit if commit else None
        if here is None or not here.is_dir():
            return None
        return [p.relative_to(here).as_posix() for p in sorted(here.rglob("*")) if p.is_file()]


def _mirrored(repo: str) -> str:
    return f"Or put its files into a directory DIR/{repo}/…, laid out as there, and say --mirror DIR or {MIRROR}=DIR."


@contextmanager
def hub_errors(repo: str, revision: str | None = None, name: str = "") -> Iterator[None]:
    """Says what the hub's client raises in our terms. `LocalEntryNotFoundError` passes: its caller knows what is missing."""
    from huggingface_hub import errors

    at = f" at {revision}" if revision else ""
    try:
        yield
    except (errors.LocalEntryNotFoundError, BadInput, MissingFile):
        raise
    except errors.GatedRepoError as error:
        raise Unavailable(f"{repo} is gated: accept its terms on the hub, and log in (hf auth login, or HF_TOKEN).") from error
    except errors.RepositoryNotFoundError as error:
        raise UnknownName(f"The hub has no repository {repo!r}, or it is private and you are not logged in.") from error
    except errors.RevisionNotFoundError as error:
        raise UnknownName(f"{repo} has no revision {revision!r}.") from error
    except errors.EntryNotFoundError as error:
        raise MissingFile(f"{repo}{at} has no {name or 'such file'}.") from error
    except errors.HFValidationError as error:
        raise BadInput(f"{repo}: {error}") from error
    except Exception as error:  # each version of the client brings another HTTP library, with errors of its own
        said = str(error).strip().split("\n")[0][:200]
        raise Unavailable(
            f"{repo} cannot be had from the hub ({type(error).__name__}: {said}). Check the network and HF_HUB_OFFLINE. {_mirrored(repo)}"
        ) from error
