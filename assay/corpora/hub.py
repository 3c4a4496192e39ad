"""Hugging Face datasets: from the hub, streamed or downloaded, or a local copy (save_to_disk, or a folder laid out as on the hub)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from assay.corpora.base import Document
from assay.errors import BadInput, MissingFile, Unavailable, UnknownName
from assay.store import digest, file_hash


class HubCorpus:
    """One split of a dataset, a row a document.

    `name` is ORG/NAME or a folder. `column` defaults to `text`, else the first column of strings; `split` to `train`, else the
    only one. `label` names a column of classes (`ClassLabel` or whole numbers). `streaming=False` downloads the whole dataset
    first, into the cache of `datasets`, and works offline from then on. `revision` (a commit, tag or branch) pins the data.
    """

    def __init__(
        self, name: str, *, config: str | None = None, split: str | None = None, column: str | None = None,
        label: str | None = None, streaming: bool = True, revision: str | None = None,
    ):  # fmt: skip
        self.ref, self.config, self.split, self.column, self.label = name, config, split, column, label
        self.streaming, self.revision = streaming, revision
        self.name = "hub:" + ":".join([name, config or "", split or "", column or "", label or ""]).rstrip(":")
        self.path = Path(name).expanduser()
        if not self.path.exists() and (name.count("/") > 1 or name.startswith((".", "/", "~"))):
            raise MissingFile(f"The folder {name} does not exist. Give hub:ORG/NAME, or a folder with a local copy.")

    @classmethod
    def parse(
        cls, ref: str, *, config: str | None = None, split: str | None = None, column: str | None = None,
        label: str | None = None, streaming: bool = True, revision: str | None = None,
    ) -> HubCorpus:  # fmt: skip
        """From ORG/NAME[:config[:split[:column[:label]]]]; an empty part means the default, a setting fills it."""
        parts = ref.split(":")
        if not parts[0] or len(parts) > 5:
            raise BadInput(
                f"{ref!r} names no dataset. Write hub:ORG/NAME[:config[:split[:column[:label]]]], e.g. hub:ORG/NAME::train:text."
            )
        name, *given = parts + [""] * (5 - len(parts))
        of = dict(zip(("config", "split", "column", "label"), (part or None for part in given)))
        return cls(
            name, config=of["config"] or config, split=of["split"] or split, column=of["column"] or column,
            label=of["label"] or label, streaming=streaming, revision=revision,
        )  # fmt: skip

    @cached_property
    def fingerprint(self) -> str:
        """Over the hub's commit, the dataset's own fingerprint (downloads, save_to_disk), or the files of a local folder."""
        what: Any
        if _saved(self.path) or (not self.path.exists() and not self.streaming):
            what = self._dataset._fingerprint
        elif self.path.exists():
            inside = sorted(p for p in self.path.rglob("*") if p.is_file() and not p.name.startswith("."))
            what = [[p.relative_to(self.path).as_posix(), file_hash(p)] for p in inside]
        else:
            what = [self.ref, self._commit]
        return digest({"dataset": what, "config": self.config, "split": self.split, "columns": [self.column, self.label]})[:16]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, where the dataset has them."""
        feature = (self._dataset.features or {}).get(self.label) if self.label else None
        return tuple(getattr(feature, "names", None) or ())

    def documents(self) -> Iterator[Document]:
        """Each row in turn; rows without text are passed over. Bounded memory."""
        for text, label in self._rows():
            if label is not None and (not isinstance(label, int) or label < 0):
                raise BadInput(
                    f"{self.name}: column {self.label!r} holds {label!r}, expected class numbers 0, 1, … (cast it to ClassLabel, or "
                    f"name classes: {self.name}[A/B])."
                )
            yield Document(text, label)

    def named(self) -> Iterator[tuple[str, str]]:
        """Each labelled text with the name of its class, or whatever stands in the column of labels."""
        names = self.classes
        for text, label in self._rows():
            if label is not None:
                yield text, names[label] if names else str(label)

    def _rows(self) -> Iterator[tuple[str, Any]]:
        column = None
        rows = iter(self._dataset)
        while True:
            with _hub(self.ref):
                row = next(rows, None)
            if row is None:
                return
            column = column or self._text_column(row)
            text, label = row[column], row[self.label] if self.label else None
            if text is not None and not isinstance(text, str):
                raise BadInput(
                    f"{self.name}: column {column!r} holds {type(text).__name__}, expected text. Its columns: {', '.join(row)}."
                )
            if text and not text.isspace():
                yield text, label

    def _text_column(self, row: dict[str, Any]) -> str:
        for wanted in filter(None, (self.column, self.label)):
            if wanted not in row:
                raise BadInput(f"{self.name} has no column {wanted!r}. Its columns: {', '.join(row)}.")
        texts = [name for name, value in row.items() if isinstance(value, str)]
        column = self.column or ("text" if "text" in row else next(iter(texts), None))
        if column is None:
            raise BadInput(f"{self.name} has no column of text. Its columns: {', '.join(row)}.")
        return column

    @cached_property
    def _commit(self) -> str | None:
        from huggingface_hub import HfApi

        with _hub(self.ref):
            return HfApi().dataset_info(self.ref, revision=self.revision, timeout=20).sha

    @cached_property
    def _dataset(self) -> Any:
        """The split, opened: an iterable of rows."""
        datasets = _datasets()
        if _saved(self.path):
            return self._one_split(datasets.load_from_disk(str(self.path)))
        local = self.path.exists()
        # the commit is asked for first: without a network that fails at once, where `datasets` would retry for half a minute
        revision = self._commit if self.streaming and not local else self.revision
        name = str(self.path) if local else self.ref
        with _hub(self.ref):
            found = datasets.load_dataset(name, self.config, split=self.split, streaming=self.streaming, revision=revision)
        return self._one_split(found)

    def _one_split(self, found: Any) -> Any:
        if not isinstance(found, dict):
            if _saved(self.path) and self.split is not None:
                raise BadInput(
                    f"{self.ref} was saved as a single split and has none named {self.split!r}. Leave the split out."
                )
            return found
        split = self.split or ("train" if "train" in found else next(iter(found)) if len(found) == 1 else None)
        if split is None:
            raise BadInput(f"{self.ref} has several splits, none called train. Choose one: {', '.join(found)}.")
        if split not in found:
            raise UnknownName.among(f"split of {self.ref}", split, found)
        return found[split]


def _saved(path: Path) -> bool:
    """Whether a folder was written by `save_to_disk`."""
    return (path / "state.json").exists() or (path / "dataset_dict.json").exists()


def _datasets() -> Any:
    try:
        import datasets
    except ImportError:
        raise Unavailable("Hugging Face datasets need one more package: pip install 'assay-sae[hub]'.") from None
    return datasets


@contextmanager
def _hub(ref: str) -> Iterator[None]:
    """Says what goes wrong on the way to the data in our terms."""
    try:
        yield
    except Exception as error:  # each version of the hub's library brings another HTTP client, with exceptions of its own
        raise _explained(ref, error) from error


def _explained(ref: str, error: Exception) -> Exception:
    from huggingface_hub.errors import RepositoryNotFoundError

    if Path(ref).expanduser().exists():
        return BadInput(f"The folder {ref} cannot be read as a dataset ({type(error).__name__}: {error}).")
    if isinstance(error, RepositoryNotFoundError) or type(error).__name__ == "DatasetNotFoundError":
        return BadInput(
            f"The hub shows no dataset {ref!r}. Check the name; if it is private or gated, log in first (hf auth login)."
        )
    if isinstance(error, ValueError) and not isinstance(error, OSError):  # an unknown configuration, split or revision
        return BadInput(f"{ref}: {error} Write hub:ORG/NAME[:config[:split[:column[:label]]]].")
    return Unavailable(
        f"The dataset {ref!r} cannot be had from the Hugging Face hub ({type(error).__name__}: {error}). "
        "Check the network and HF_HUB_OFFLINE, or give a local copy: hub:FOLDER, or a text file."
    )
