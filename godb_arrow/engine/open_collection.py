"""Components of one collection, created together when the collection is first used."""

from __future__ import annotations

from typing import Any, TypedDict, Unpack

from godb_arrow.engine.checkpointer import Checkpointer
from godb_arrow.engine.context import EngineContext
from godb_arrow.engine.maintainer import Maintainer
from godb_arrow.engine.pending import Settings
from godb_arrow.engine.store import CollectionStore
from godb_arrow.file.hints import JournalPosition
from godb_arrow.snapshots.base import Base

__all__ = ["OpenCollection"]


class StoreOptions(TypedDict, total=False):
    """Optional parameters of :class:`CollectionStore`."""

    settings: Settings | None
    position: JournalPosition
    stale: bool
    attached: bool


class OpenCollection:
    """Store, checkpointer and maintainer of a collection.

    Parameters
    ----------
    context : EngineContext
        Context of the engine.
    name : str
        Name of the collection.
    base : Base
        Its saved documents.
    **options
        See :class:`CollectionStore`.

    Attributes
    ----------
    store : CollectionStore
        State of the collection.
    checkpointer : Checkpointer
        Its checkpoints.
    maintainer : Maintainer
        Compaction, growth and versions.
    handle : Collection or None
        What the engine returns to callers, once it was created.
    """

    __slots__ = ("checkpointer", "handle", "maintainer", "store")

    def __init__(
        self, context: EngineContext, name: str, base: Base, **options: Unpack[StoreOptions]
    ) -> None:
        self.store = CollectionStore(context, name, base, **options)
        self.checkpointer = Checkpointer(self.store)
        self.maintainer = Maintainer(self.store, self.checkpointer)
        self.handle: Any = None

    @property
    def name(self) -> str:
        """Name of the collection."""
        return self.store.name

    @property
    def path(self) -> str | None:
        """File or folder of the collection."""
        return self.store.base.path
