"""The tree of errors."""

from __future__ import annotations

import pickle
import re

import pytest

from godb_arrow import errors
from godb_arrow.errors import GodbError, error_context

PUBLIC = [getattr(errors, name) for name in errors.__all__]
KINDS = [kind for kind in PUBLIC if isinstance(kind, type) and issubclass(kind, Exception)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_is_a_godb_error_and_a_builtin_and_drawn_in_the_tree(
    kind: type[GodbError],
) -> None:
    assert issubclass(kind, GodbError)
    if kind is not GodbError:
        builtins = {base for base in kind.__mro__ if base.__module__ == "builtins"}
        assert builtins - {Exception, BaseException, object}
    assert errors.__doc__ is not None
    drawn = re.search(rf"(─ |^ *){kind.__name__}(?: \((\w+)\))?", errors.__doc__, re.MULTILINE)
    assert drawn, "draw it in the module's tree"
    if drawn[2]:
        assert drawn[2] in {base.__name__ for base in kind.__mro__}


def test_a_message_has_operation_place_problem_and_advice() -> None:
    with (
        pytest.raises(GodbError) as raised,
        error_context("read", "x.godb"),
        error_context(None, None, "users"),
    ):
        raise errors.CorruptFile("no map", offset=5, advice="mend it")
    assert str(raised.value) == (
        "read x.godb, collection 'users', byte 5 of the decompressed body: no map; mend it"
    )


def test_the_innermost_context_counts() -> None:
    with pytest.raises(GodbError) as raised, error_context("copy", "b"), error_context("read", "a"):
        raise errors.EmptyFile("empty")
    assert (raised.value.operation, raised.value.source) == ("read", "a")


def test_errors_survive_pickling() -> None:
    made: list[GodbError] = [
        errors.CorruptFile("no map", offset=5, where="file"),
        errors.DuplicateId(["a"]),
        errors.DiskFull("full"),
        errors.CollectionNotFound("gone", advice="look"),
    ]
    for error in made:
        error.source = "x.godb"
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is type(error)
        assert str(copy) == str(error)
        assert copy.__dict__ == error.__dict__


def test_errors_of_others_pass_through() -> None:
    with pytest.raises(ZeroDivisionError), error_context("read", "x"):
        raise ZeroDivisionError
