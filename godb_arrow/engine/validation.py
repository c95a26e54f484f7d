"""Validators of documents: an Arrow schema, a JSON Schema, or a model of pydantic."""

from __future__ import annotations

import base64
import datetime as dt
import json
import math
from collections.abc import Container, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import msgpack
import pyarrow as pa

from godb_arrow import codec
from godb_arrow.documents.fitting import Misfit, Path, fitting, shown_path
from godb_arrow.documents.loading import load_chunks
from godb_arrow.errors import (
    CorruptFile,
    GodbError,
    InvalidOption,
    MissingDependency,
    MissingValidator,
    SchemaViolation,
)
from godb_arrow.recorded_schema import describe_schema, restore_schema
from godb_arrow.schema import ID_FIELD

__all__ = [
    "Validation",
    "Validator",
    "check_document",
    "check_run",
    "restored_validator",
    "stored_validator",
    "validator_of",
    "violations",
]

ValidationKind: TypeAlias = Literal["arrow", "json_schema", "pydantic"]

_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
"""Keywords of a JSON Schema that name another schema."""
_NAMES = ("$id", "id")
"""Keywords of a JSON Schema that name it."""
_SCHEMAS = frozenset((
    "additionalItems", "additionalProperties", "allOf", "anyOf", "contains", "contentSchema",
    "disallow", "else", "extends", "if", "items", "not", "oneOf", "prefixItems", "propertyNames",
    "then", "type", "unevaluatedItems", "unevaluatedProperties",
))  # fmt: skip
"""Keywords of a JSON Schema with a schema or a list of schemas, in any of the dialects."""
_SCHEMAS_BY_NAME = frozenset((
    "$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties",
))  # fmt: skip
"""Keywords of a JSON Schema that map names to schemas."""


@dataclass(frozen=True, slots=True)
class Validation:
    """Validation of the documents of a collection.

    Attributes
    ----------
    kind : {"arrow", "json_schema", "pydantic"}
        Kind of the schema.
    schema : pyarrow.Schema or dict
        The schema; the JSON Schema of a model.
    name : str
        Module and name of a model, else empty.
    allow_extra : bool
        Whether documents may have fields that an Arrow schema does not have.

    Examples
    --------
    >>> import tempfile, godb_arrow, pyarrow as pa
    >>> with godb_arrow.StorageEngine(tempfile.mkdtemp()) as engine:
    ...     users = engine.create_collection("users")
    ...     users.set_validation(pa.schema({"name": pa.string()}))
    ...     users.validation.kind
    'arrow'
    """

    kind: ValidationKind
    schema: pa.Schema | dict[str, Any]
    name: str = ""
    allow_extra: bool = False


class Validator(Protocol):
    """Validator of documents.

    Attributes
    ----------
    info : Validation
        What it is.
    runs_code : bool
        Whether it runs code of the caller, which must not run under a lock.
    """

    info: Validation
    runs_code: bool

    def check(self, document: Mapping[Any, Any]) -> None:
        """Raise :class:`~godb_arrow.documents.fitting.Misfit` for a document that does not fit."""


class _ArrowValidator:
    runs_code = False

    def __init__(self, schema: pa.Schema, allow_extra: bool) -> None:
        self.info = Validation("arrow", schema, allow_extra=allow_extra)
        self._check = fitting(schema, allow_extra=allow_extra)

    def check(self, document: Mapping[Any, Any]) -> None:
        self._check(document, ())


class _JsonSchemaValidator:
    runs_code = False

    def __init__(self, schema: dict[str, Any]) -> None:
        self.info = Validation("json_schema", schema)
        self._validator: Any = None
        self._has_id = _has_id(schema)

    def prepared(self) -> Any:
        """Return the validator of the package jsonschema, made at the first use."""
        if self._validator is None:
            self._validator = _json_schema_validator(self.info.schema)
        return self._validator

    def check(self, document: Mapping[Any, Any]) -> None:
        validator = self.prepared()
        instance = _json_of(document, keep_id=self._has_id)
        from jsonschema.exceptions import best_match

        try:
            error = best_match(validator.iter_errors(instance))
        except Exception as failure:  # such as a reference that leads nowhere
            raise InvalidOption(
                f"the JSON Schema cannot be applied: {failure}",
                advice="set another one with set_validation()",
            ) from failure
        if error is not None:
            raise Misfit(_path_of(error), error.message)


def _has_id(schema: Mapping[str, Any]) -> bool:
    """Return whether a JSON Schema names the id of documents."""
    properties = schema.get("properties")
    return isinstance(properties, dict) and ID_FIELD in properties


def _path_of(error: Any) -> Path:
    path = tuple(error.absolute_path)
    if error.validator == "required" and isinstance(error.validator_value, list):
        lacking = [name for name in error.validator_value if name not in error.instance]
        path = (*path, *lacking[:1])
    return path


class _ModelValidator:
    runs_code = True

    def __init__(self, model: Any) -> None:
        try:
            schema = model.model_json_schema()
        except Exception as failure:  # such as a field that JSON lacks
            raise InvalidOption(
                f"the model {model.__qualname__} has no JSON Schema: {failure}",
                advice="give a model of values that JSON has",
            ) from failure
        self.info = Validation("pydantic", schema, f"{model.__module__}.{model.__qualname__}")
        self._model = model
        self._has_id = _has_id(schema)

    def check(self, document: Mapping[Any, Any]) -> None:
        text = json.dumps(_json_of(document, keep_id=self._has_id))
        try:
            self._model.model_validate_json(text, strict=True)
        except ValueError as failure:
            if not hasattr(failure, "errors"):
                raise Misfit((), str(failure)) from failure
            (first, *_) = failure.errors(include_url=False)
            raise Misfit(tuple(first["loc"]), first["msg"]) from None


class _StoredModel:
    """Model of which only name and JSON Schema are stored: it refuses all documents."""

    runs_code = False

    def __init__(self, name: str, schema: dict[str, Any]) -> None:
        self.info = Validation("pydantic", schema, name)

    def check(self, document: Mapping[Any, Any]) -> None:
        del document
        raise MissingValidator(
            f"the model {self.info.name} validates the documents, and it is not stored",
            advice="give it again with set_validation(), or the JSON Schema that is stored: "
            "set_validation(collection.validation.schema)",
        )


def validator_of(schema: Any, *, allow_extra: bool) -> Validator:
    """Return a validator.

    Parameters
    ----------
    schema : pyarrow.Schema, mapping or type
        An Arrow schema, a JSON Schema, or a model of pydantic.
    allow_extra : bool
        Whether documents may have fields that an Arrow schema does not have.

    Raises
    ------
    InvalidOption, MissingDependency, UnsupportedType
    """
    if isinstance(schema, pa.Schema):
        return _ArrowValidator(schema, allow_extra)
    if allow_extra:
        raise InvalidOption(
            "allow_extra is for Arrow schemas",
            advice="say additionalProperties in a JSON Schema, or extra in a model",
        )
    if isinstance(schema, type) and hasattr(schema, "model_validate_json"):
        return _ModelValidator(schema)
    if isinstance(schema, Mapping):
        try:
            found = json.loads(json.dumps(dict(schema), allow_nan=False))
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidOption(f"the JSON Schema is no JSON: {error}") from error
        validator = _JsonSchemaValidator(found)
        validator.prepared()
        with suppress(Misfit):
            validator.check({})  # a schema that only refers to itself fits and refuses nothing
        return validator
    raise InvalidOption(
        f"{schema!r} validates nothing",
        advice="give a pyarrow.Schema, a JSON Schema as a dict, or a class of pydantic",
    )


def stored_validator(validator: Validator) -> dict[str, Any]:
    """Return a validator as plain values, for files and the journal."""
    info = validator.info
    if isinstance(info.schema, pa.Schema):
        described: Any = describe_schema(info.schema)
    else:
        described = json.dumps(info.schema)
    return {
        "kind": info.kind,
        "schema": described,
        "name": info.name,
        "extra": info.allow_extra,
    }


def restored_validator(stored: Mapping[str, Any]) -> Validator:
    """Return a validator from plain values, which may be damaged.

    Raises
    ------
    CorruptFile
    """
    try:
        kind, schema = stored["kind"], stored["schema"]
        if kind == "arrow":
            return _ArrowValidator(restore_schema(schema), bool(stored["extra"]))
        found = json.loads(schema)
        if not isinstance(found, dict) or kind not in ("json_schema", "pydantic"):
            raise TypeError(f"a validator of the kind {kind!r}")
        if kind == "json_schema":
            return _JsonSchemaValidator(found)
        return _StoredModel(str(stored["name"]), found)
    except (KeyError, TypeError, ValueError, AttributeError, pa.ArrowException) as error:
        raise CorruptFile(
            f"what validates the documents is damaged: {error!r}",
            offset=0,
            where="file",
            advice="set it again with set_validation()",
        ) from error


def check_document(validator: Validator, identity: str, document: Mapping[Any, Any]) -> None:
    """Check one document.

    Raises
    ------
    SchemaViolation
        It does not fit.
    """
    try:
        validator.check(document)
    except Misfit as misfit:
        raise SchemaViolation(identity, shown_path(misfit.path), misfit.problem) from None


def check_run(validator: Validator, entries: codec.Entries) -> None:
    """Check the documents of a run.

    Raises
    ------
    SchemaViolation
        One of the documents does not fit.
    """
    for violation in violations(validator, entries):
        raise violation


def violations(validator: Validator, entries: codec.Entries) -> Iterator[SchemaViolation]:
    """Yield an error for each document of a run that does not fit."""
    for documents in load_chunks(entries, None):
        for document in documents:
            try:
                check_document(validator, document[ID_FIELD], document)
            except SchemaViolation as violation:
                yield violation


# --- JSON ---------------------------------------------------------------------------------------


def _json_schema_validator(schema: Any) -> Any:
    try:
        import jsonschema
        import referencing.jsonschema
    except ImportError as error:
        raise MissingDependency(
            "jsonschema is not installed, and a JSON Schema validates the documents",
            advice='install it with pip install "godb-arrow[validation]"',
        ) from error
    registry = referencing.Registry()
    try:
        kind = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
        kind.check_schema(schema)
        checker = kind.FORMAT_CHECKER
        rules = referencing.jsonschema.specification_with(kind.META_SCHEMA["$schema"])
        resolver = registry.resolver_with_root(rules.create_resource(schema))
        _check_keywords(schema, rules, resolver, checker.checkers.keys())
    except GodbError:
        raise
    except Exception as error:  # jsonschema and referencing also raise errors of Python
        at = shown_path(tuple(getattr(error, "absolute_path", ()))) or "its top"
        raise InvalidOption(
            f"the JSON Schema is invalid at {at}: {getattr(error, 'message', error)}",
            advice="see the specification of JSON Schema",
        ) from error
    return kind(schema, format_checker=checker, registry=registry)


def _check_keywords(schema: Any, rules: Any, resolver: Any, formats: Container[str]) -> None:
    """Raise for what jsonschema would ignore or fetch: unknown formats, and other documents.

    Parameters
    ----------
    schema : object
        JSON Schema, of which no two parts are the same object.
    rules : referencing.Specification
        Rules of its dialect for references.
    resolver : referencing.Resolver
        Resolver of references in the schema.
    formats : container of str
        Formats that can be checked.
    """
    found = [(schema, resolver)]
    seen: set[int] = set()
    while found:
        part, resolver = found.pop()
        if isinstance(part, list):
            found += ((inner, resolver) for inner in part)
        if not isinstance(part, dict) or id(part) in seen:
            continue
        seen.add(id(part))
        if part is not schema and all(isinstance(part.get(key, ""), str) for key in _NAMES):
            resolver = resolver.in_subresource(rules.create_resource(part))
        found += [(inner, resolver) for inner in _parts(part)]
        for reference in filter(None, map(part.get, _REFERENCES)):
            if isinstance(reference, str):
                found.append(_referred(reference, resolver))
        format = part.get("format")
        if isinstance(format, str) and format not in formats:
            raise InvalidOption(
                f"the format {format!r} of the JSON Schema cannot be checked here",
                advice='install "jsonschema[format]", or say it with "pattern"',
            )


def _parts(schema: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the inner schemas; other values, such as examples, are none."""
    for keyword, value in schema.items():
        if keyword in _SCHEMAS_BY_NAME and isinstance(value, dict):
            yield from value.values()
        elif keyword in _SCHEMAS:
            yield value


def _referred(reference: str, resolver: Any) -> tuple[Any, Any]:
    """Return the schema to which a reference leads, and the resolver there."""
    try:
        referred = resolver.lookup(reference)
    except Exception as error:  # referencing also raises errors of Python
        raise InvalidOption(
            f"the JSON Schema refers to {reference!r}, which is not part of it",
            advice='copy it to "$defs", and refer to "#/$defs/…"',
        ) from error
    return referred.contents, referred.resolver


def _json_of(document: Mapping[Any, Any], *, keep_id: bool) -> dict[str, Any]:
    """Return a document as JSON values.

    Raises
    ------
    Misfit
        JSON has no such value.
    """
    found: dict[str, Any] = _json_value(document, ())
    if not keep_id:
        found.pop(ID_FIELD, None)
    return found


def _json_value(value: Any, path: Path) -> Any:
    kind = type(value)
    if kind is dict:
        for name in value:
            if type(name) is not str:
                raise Misfit(path, f"JSON has no key {name!r}")
        return {name: _json_value(inner, (*path, name)) for name, inner in value.items()}
    if kind is list:
        return [_json_value(inner, (*path, number)) for number, inner in enumerate(value)]
    if kind is bytes:
        return base64.b64encode(value).decode()
    if isinstance(value, dt.datetime):
        return value.isoformat().replace("+00:00", "Z")
    if kind is msgpack.Timestamp:
        return _moment_text(value, path)
    if kind is float and not math.isfinite(value):
        raise Misfit(path, f"JSON has no number {value!r}")
    if value is None or kind in (bool, int, float, str):
        return value
    raise Misfit(path, f"JSON has no value like {value!r}")


def _moment_text(moment: msgpack.Timestamp, path: Path) -> str:
    try:
        seconds = dt.datetime.fromtimestamp(moment.seconds, dt.UTC)
    except (OverflowError, ValueError, OSError):
        raise Misfit(path, f"JSON has no moment {moment!r}") from None
    return f"{seconds.replace(tzinfo=None).isoformat()}.{moment.nanoseconds:09}Z"
