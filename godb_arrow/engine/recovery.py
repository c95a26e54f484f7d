"""Recovery: the collections of a directory that this engine writes, from files and journal."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass

from godb_arrow.engine.catalog import Catalog
from godb_arrow.engine.context import EngineContext
from godb_arrow.engine.former_files import FormerFiles, remove_replaced
from godb_arrow.engine.replay import Replay, collection_of_file
from godb_arrow.errors import GodbError

__all__ = ["Recovered", "recover"]


logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Recovered:
    """Collections of a directory that an engine opened.

    Attributes
    ----------
    catalog : Catalog
        The collections.
    former_files : FormerFiles
        Files of dropped and of renamed collections.
    records : int
        Number of journal records that were replayed.
    """

    catalog: Catalog
    former_files: FormerFiles
    records: int


def recover(context: EngineContext) -> Recovered:
    """Recover the collections of a directory, and make its journal ready for records.

    Parameters
    ----------
    context : EngineContext
        Context of an engine that writes the directory.

    Raises
    ------
    CorruptFile
        The journal is damaged.
    """
    directory = context.directory
    files = directory.files()
    directory.remove_older(files)
    with directory.recovering() as records:
        replay = Replay(context, Catalog(files, collection_of_file(context)), records)
    catalog = replay.catalog
    former_files = FormerFiles(directory, catalog, replay.dropped_files)
    for collection in replay.moved:
        if catalog.get(collection.name) is collection:  # no later record dropped it
            former_files.note_renamed(collection)
    for collection, number in replay.needs.items():
        directory.journal.release(collection.store, number)
        # An error is raised at the first use of the collection.
        with suppress(GodbError), collection.store.pinned_base() as base:
            directory.restrict(base.access())
    former_files.remove_all()
    for collection in catalog.used():
        if collection.store.attached:
            remove_replaced(collection)
    directory.attached_files.remove_unused(
        {path for collection in catalog.used() for path in collection.store.paths}
    )
    logger.debug(
        "recovered %s: %d collections, %d journal records",
        directory.path, len(catalog), replay.count,
    )  # fmt: skip
    return Recovered(catalog, former_files, replay.count)
