"""Docstrings, comments, messages and documentation follow the project's rules for prose."""

from __future__ import annotations

import ast
import inspect
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "godb_arrow"

MAX_WORDS = 25
MAX_COLONS = 1

OUTSIDE = ["connectors", "tests/support", "tests/benchmarks", "tests/fuzz", "tools"]
"""Folders outside of the package that follow the rules."""

_VERBS = """
abandon accept acknowledge acquire add adjust advance advise align allocate allow announce
answer append apply archive arrange ask assemble assert assign attach await backfill batch
back begin bind block borrow bound break bring buffer build bump bundle cache calculate call cancel
capture cast catch change check checkpoint choose claim clamp classify clean clear close
collapse collect combine commit compact compare compile complete compress compute concatenate
configure confirm connect consume continue convert copy count create cut decide declare decode
decompress dedupe deduplicate deepen defer define delete deliver derive describe deserialize
detach detect determine diff disable discard disconnect discover display distribute divide do
double download drain draw drop dump duplicate emit enable encode end enforce enqueue ensure
enter escape estimate evaluate evict examine exchange exclude execute exit expand expect
explain export expose express extend extract fail feed fetch fill filter find finish fit fix
flatten flush fold follow force forget fork format forward free freeze gather generate get
group grow guard guess handle hash hide hold identify ignore import include increase increment
index infer inform inherit initialize insert inspect install instantiate intern interpret
interrupt invalidate invoke issue iterate join journal keep kill label launch leave let limit
link list listen load locate lock log lower make map mark match materialize measure merge
migrate mirror mix modify move multiply name narrow negotiate normalize note notify number
observe obtain offer open order overwrite pack pad page parse pass patch pause peek perform
persist pick pin place plan plot point poll pop populate post prefix prepare prepend prevent print
probe process produce profile project promote propagate protect prove provide prune publish
pull purge push put quantize query queue quote raise rank re-raise read rebase rebuild
receive reclaim recognize recompute reconnect record recover redirect reduce refer refine
refresh refuse register reject relabel relax release reload remember remove rename render
reopen repair repeat replace replay replicate reply report represent request require reraise
rerun resample reserve reset resize resolve respect respond restart restore restrict result
resume retain retrieve retry return reuse reverse revert rewind rewrite rotate round route run
sample save scan schedule score seal search seek select send separate serialize serve set
shift shorten show shrink simulate shut shutdown sign signal simplify skip sleep slice sort spawn
specify spill split stage start state stop store stream strip submit subscribe subtract
suggest sum summarize supply suspend swap switch sync synchronize take tell terminate test
throttle time touch trace track train transfer transform translate traverse trim truncate try
turn unlink unlock unpack unregister unwrap unzip update upgrade upload use validate verify
view visit wait wake walk warn watch weigh widen wrap write yield zip
"""
VERBS = frozenset(_VERBS.split())
"""Verbs in base form that a summary may begin with."""

_NO_BEGINNING = """
all any anything both each every everything he how it its many more most no nobody none
nothing one others she so some somebody someone something such that the their there these
they this those we what when where whereas which who whoever whose why you
"""
NO_BEGINNING = frozenset(_NO_BEGINNING.split())
"""Words that no summary begins with."""

BANNED = [
    r"anew",
    r"mend(?:s|ed|ing)?",
    r"(?:give|gives|given|giving|gave)(?: (?:it|them))? (?:back|up)",
    r"(?:let|lets|letting) go",
    r"(?:lend|lends|lent|lending|loan|loans)",
    r"(?:passes|passed|passing|(?<!one )(?<!a )(?<!single )pass) over",
    r"(?:look|looks|looked|looking) (?:at|over|into)",
    r"(?:is|are|was|were|be) no more",
    r"gone",
    r"dead",
    r"(?:leave|leaves|left|leaving)(?: (?:it|them))? out",
    r"nobody|somebody|everybody|anybody|someone|anyone|everyone|whoever|who|whom",
    r"what is (?:there|under|done)",
    r"as (?:it is|it was|they are|they were)(?= *[.,;:)]| *$)",
    r"shadow(?:s|ed|ing)?",
    r"(?:take|takes|taking|took|taken) (?:the|its|their) place",
    r"greatest|(?<!at )least(?! (?:recently|frequently))",
    r"in front of",
    r"(?:that|those) of|one of them",
    r"getting on",
]
"""Words and phrases that style replaces by the field's words, as regular expressions."""

_BANNED = re.compile(rf"(?<![\w-])(?:{'|'.join(BANNED)})(?![\w-])", re.IGNORECASE)
_CODE = re.compile(r"``.*?``|`[^`]*`|:\w+:`[^`]*`|\"[^\"\n]*\"|https?://\S+", re.DOTALL)
_TABLE = re.compile(r"^\s*(?:\||[=-]{3,}|[│├└┌]|\S.*\s{3,}\S)")
_BULLET = re.compile(r"^\s*(?:[-*+]|\d+\.)\s+")
_SENTENCE_END = re.compile(r"(?<=[.!?])[)\"'*]*\s+(?=[\"'(*\[]*[A-Z0-9`])")
_ABBREVIATIONS = re.compile(r"\b(?:e\.g|i\.e|etc|vs|cf)\.")
_SECTION_NAMES = """
Parameters Returns Yields Raises Warns Attributes Examples Notes See Other Receives Methods
References Warnings
"""
_SECTIONS = frozenset(_SECTION_NAMES.split())

Fault = str
Numbered = tuple[int, str]


def areas() -> list[str]:
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")} - {
        "connectors",
        "samples",
    }
    pages = [str(page.relative_to(ROOT)) for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"))]
    return sorted(["root", *OUTSIDE, *folders, *pages])


def files(area: str) -> list[Path]:
    if area.endswith(".md"):
        return [ROOT / area]
    if area == "root":
        return sorted([*PACKAGE.glob("*.py"), *PACKAGE.glob("samples/*.py")])
    folder = ROOT / area if area in OUTSIDE else PACKAGE / area
    return sorted(path for end in ("py", "pyx", "hpp") for path in folder.rglob(f"*.{end}"))


def faults(path: Path) -> list[Fault]:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        found = [*_faults_of_docstrings(text), *_banned(_comments(text)), *_banned(_messages(text))]
    elif path.suffix == ".md":
        found = [*_faults_of_prose(text, 1), *_banned(_paragraphs(text, 1))]
    else:
        found = [*_native_summaries(text), *_banned(_native_comments(text))]
    return [f"{path.relative_to(ROOT)}:{fault}" for fault in found]


def _faults_of_docstrings(text: str) -> Iterator[Fault]:
    tree = ast.parse(text)
    for node, kind in _documented(tree):
        value = node.value if isinstance(node, ast.Expr) else node.body[0].value
        assert isinstance(value, ast.Constant)
        body = inspect.cleandoc(str(value.value))
        yield from (f"{value.lineno}: {fault}" for fault in _faults_of_summary(body, kind))
        yield from _faults_of_prose(body, value.lineno)
        yield from _banned(_paragraphs(body, value.lineno))


def _documented(tree: ast.Module) -> Iterator[tuple[ast.AST, str]]:
    """Return the nodes that have a docstring, each with the kind of thing that it documents."""
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            continue
        if ast.get_docstring(node) is not None:
            is_property = isinstance(node, ast.FunctionDef) and any(
                "property" in ast.unparse(decorator) for decorator in node.decorator_list
            )
            callable_ = isinstance(node, ast.FunctionDef) and not is_property
            yield node, "callable" if callable_ else "thing"
        if not isinstance(node, ast.FunctionDef):
            for before, after in zip(node.body, node.body[1:], strict=False):
                if isinstance(before, (ast.Assign, ast.AnnAssign)) and _is_text(after):
                    yield after, "thing"


def _is_text(node: ast.AST) -> bool:
    value = node.value if isinstance(node, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def _faults_of_summary(docstring: str, kind: str) -> Iterator[Fault]:
    paragraph = docstring.partition("\n\n")[0]
    first = re.match(r"[\w'-]*", paragraph)
    word = first.group().lower() if first else ""
    if kind == "callable" and word not in VERBS:
        yield f"begins with {word!r}, and not with a verb in base form (VERBS lists them)"
    elif word in NO_BEGINNING:
        yield f"begins with {word!r}, and not with a noun that names the thing"
    if kind == "callable" and len(_sentences(paragraph)) > 1:
        yield "has more than one sentence as its summary"


def _faults_of_prose(text: str, line: int) -> Iterator[Fault]:
    for number, paragraph in _paragraphs(text, line):
        for sentence in _sentences(paragraph):
            if len(sentence.split()) > MAX_WORDS:
                count = len(sentence.split())
                yield f"{number}: a sentence of {count} words: {sentence[:60]}..."
        if len(re.findall(r"[:;](?=\s|$)", _plain(paragraph))) > MAX_COLONS:
            yield f"{number}: several colons or semicolons in a paragraph: {paragraph[:60]}..."


def _sentences(paragraph: str) -> list[str]:
    plain = _ABBREVIATIONS.sub("etc", _plain(paragraph))
    return [sentence for sentence in _SENTENCE_END.split(plain) if sentence.strip()]


def _plain(text: str) -> str:
    """Replace each piece of code by one word, and a link by its text."""
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return _CODE.sub("CODE", re.sub(r":\w+:`", "`", text))


def _paragraphs(text: str, line: int) -> Iterator[Numbered]:
    """Yield the paragraphs of a docstring or page, without examples, tables and headings."""
    lines: list[str] = []
    fenced = example = verbatim = table = False
    code_indent: int | None = None
    start = line
    source = [*text.split("\n"), ""]
    for number, row in enumerate(source, line):
        stripped = row.strip()
        indent = len(row) - len(row.lstrip())
        if stripped.startswith("```"):
            fenced = not fenced
        example = bool(stripped) and (example or stripped.startswith(">>>"))
        verbatim = bool(stripped) and (verbatim or stripped == "\b")  # not wrapped by click
        table = bool(stripped) and (table or re.match(r"=+ +=+", stripped) is not None)
        if code_indent is not None and stripped and indent <= code_indent:
            code_indent = None
        following = source[number - line + 1].strip() if number - line + 1 < len(source) else ""
        underlined = len(following) > 2 and not following.strip("-")
        is_prose = stripped and not (
            fenced
            or example
            or verbatim
            or table
            or code_indent is not None
            or underlined
            or stripped.startswith(("```", "#", "<", ".. ", ":::"))
            or _TABLE.match(row)
            or _is_entry(source, number - line)
        )
        begins = not lines or _BULLET.match(row) is not None
        if lines and (not is_prose or begins):
            yield start, " ".join(lines)
            lines = []
        if is_prose:
            start = start if lines else number
            lines.append(_BULLET.sub("", stripped))
        if stripped.endswith("::"):
            code_indent = indent


def _is_entry(lines: list[str], index: int) -> bool:
    """Return whether a line of a docstring is the name or type of a numpydoc entry."""
    row = lines[index]
    if row.startswith(" ") or not row.strip():
        return False
    for before in range(index - 1, 0, -1):
        text = lines[before]
        if text and not text.strip("-") and len(text) > 2:
            section = lines[before - 1].split(" ")[0]
            return section in _SECTIONS - {"Notes", "Examples"}
    return False


def _banned(texts: Iterator[Numbered]) -> Iterator[Fault]:
    for number, text in texts:
        for match in _BANNED.finditer(_plain(text)):
            yield f"{number}: {match.group()!r} in {text[:70]!r}"


def _comments(text: str) -> Iterator[Numbered]:
    """Yield the comments of Python source, each line on its own."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string.lstrip("# ")


def _messages(text: str) -> Iterator[Numbered]:
    """Yield the text of raised errors, warnings, log lines, options and output of commands."""
    for node in ast.walk(ast.parse(text)):
        call = node.exc if isinstance(node, ast.Raise) else None
        if isinstance(node, ast.Call):
            advised = any(keyword.arg in ("advice", "help") for keyword in node.keywords)
            if advised or ast.unparse(node.func).startswith(
                ("warnings.", "_log.", "logger.", "_logger.", "log.", "click.echo")
            ):
                call = node
        for part in ast.walk(call) if call is not None else ():
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                yield part.lineno, part.value


def _native_comments(text: str) -> Iterator[Numbered]:
    """Yield the comments of C++ and Cython source, and the docstrings of Cython, by line."""
    directive = r"(?!\s*(?:include|if|endif|define|pragma|else)\b)"
    in_docstring = False
    for number, row in enumerate(text.split("\n"), 1):
        comment = re.search(rf"(?://|^\s*#{directive}|\s#\s)(.*)", row)
        if in_docstring or row.lstrip().startswith('"""'):
            yield number, row.strip()
        elif comment:
            yield number, comment.group(1)
        in_docstring ^= row.count('"""') % 2 == 1


def _native_summaries(text: str) -> Iterator[Fault]:
    """Yield the faults of the summaries of Cython functions."""
    for match in re.finditer(
        r'^ *def (?!__)[^"#]*?:\n\s+"""(.*?)"""', text, re.MULTILINE | re.DOTALL
    ):
        line = text.count("\n", 0, match.start(1)) + 1
        for fault in _faults_of_summary(inspect.cleandoc(match.group(1)), "callable"):
            yield f"{line}: {fault}"


@pytest.mark.parametrize("area", areas())
def test_prose_follows_the_rules(area: str) -> None:
    assert [fault for path in files(area) for fault in faults(path)] == []


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ('def f():\n    """The rows."""', "begins with 'the'"),
        ('def f():\n    """Whether it is open."""', "begins with 'whether'"),
        ('def f():\n    """Read rows. Close the file."""', "more than one sentence"),
        ('class C:\n    """What a writer needs."""', "begins with 'what'"),
        ('def f():\n    """Read the file anew."""', "'anew'"),
        ("x = 1  # what nobody reads", "'nobody'"),
        ('raise ValueError("it is gone")', "'gone'"),
        (f'def f():\n    """Read {"a " * 25}file."""', "a sentence of"),
        ('def f():\n    """Read: this; that."""', "several colons"),
    ],
)
def test_faults_are_found(source: str, fault: str) -> None:
    found = [
        *_faults_of_docstrings(source),
        *_banned(_comments(source)),
        *_banned(_messages(source)),
    ]
    assert fault in "\n".join(found)


def test_faults_of_cython_and_cpp_are_found() -> None:
    source = 'def f(bytes data):\n    """The sizes.\n\n    Of nobody."""\n// that is gone\n'
    faults = "\n".join([*_native_summaries(source), *_banned(_native_comments(source))])
    assert all(fault in faults for fault in ("begins with 'the'", "'nobody'", "'gone'"))


@pytest.mark.parametrize(
    "source",
    [
        'def f():\n    """Return at least ``n`` rows (e.g. the first)."""',
        '@property\ndef f():\n    """Bytes in use."""',
        'class C:\n    """Peak memory use in MiB."""',
        '"""Errors.\n\nExamples\n--------\n>>> f("gone")\ngone\n"""',
    ],
)
def test_prose_that_follows_the_rules_passes(source: str) -> None:
    assert [*_faults_of_docstrings(source)] == []
