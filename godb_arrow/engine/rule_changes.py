"""Changes of the rules of a collection."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from godb_arrow.engine.rules import Rules
from godb_arrow.engine.store import CollectionStore
from godb_arrow.engine.validation import Validator, stored_validator, validator_of

__all__ = ["set_expiry", "set_validation"]


def set_validation(store: CollectionStore, schema: Any, *, allow_extra: bool) -> None:
    """Set or remove the validation of a collection; see :meth:`Collection.set_validation`."""
    validator = None if schema is None else validator_of(schema, allow_extra=allow_extra)
    stored = None if validator is None else stored_validator(validator)
    with store.lock:
        _set(store, replace(Rules.unpack(store.rules()), validation=stored), validator)


def set_expiry(store: CollectionStore, field: str, seconds: float | None) -> None:
    """Set the time after which documents expire, and index the field; None removes the time."""
    with store.lock:
        rules, indexes = Rules.unpack(store.rules()), store.indexes()
        expiry = {name: after for name, after in rules.expiry.items() if name != field}
        if seconds is not None:
            expiry[field] = seconds
            indexes = tuple(dict.fromkeys([*indexes, field]))
        if expiry != rules.expiry or indexes != store.indexes():
            _set(store, replace(rules, expiry=expiry), store.validator(), indexes)


def _set(
    store: CollectionStore,
    rules: Rules,
    validator: Validator | None,
    indexes: tuple[str, ...] | None = None,
) -> None:
    store.check_present()
    meta: dict[str, Any] = {"op": "rules", "r": rules.pack()}
    if indexes is not None:
        meta["i"] = [*indexes]
    store.change_setting(meta, validator)
