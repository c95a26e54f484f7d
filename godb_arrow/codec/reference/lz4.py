"""Decoding and encoding of one raw LZ4 block in pieces, on the ``lz4`` package.

A GODB body is a single LZ4 block of unknown length, which ``lz4.block`` can only take whole. But a
block is a row of sequences (literals, then a match that copies earlier output). Any run of whole
sequences is a block of its own. It must end properly and get the 64 KiB of output before it as a
dictionary. So the decoder cuts the block between sequences, and the encoder joins blocks at
their last literals.

The block format: https://github.com/lz4/lz4/blob/dev/doc/lz4_Block_format.md
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import NamedTuple

import lz4.block

from godb_arrow.codec.filling import FillingDecoder
from godb_arrow.errors import CorruptFile

__all__ = [
    "BlockDecoder",
    "Piece",
    "bad_distance",
    "compress_piece",
    "cut_off",
    "cut_out",
    "damaged_piece",
    "decode_pieces",
    "extension",
    "join",
    "put_in_front",
]

_HISTORY = 64 << 10
_MIN_MATCH = 4
_CONTINUED_LENGTH = 15  # a length nibble of 15 is continued in further bytes
_OUTPUT_BYTES = 256 << 10  # approximate bytes of output that are decoded at once
# A final sequence of 12 literals, because the format requires at least 12 bytes after the start
# of the last match. The decoder adds it to every piece and drops the 12 bytes of output.
_ENDING = bytes([12 << 4]) + bytes(12)


class _Stage(Enum):
    """Position of the decoder in the current sequence."""

    TOKEN = 0
    LITERAL_LENGTH = 1
    LITERALS = 2
    DISTANCE = 3
    MATCH_LENGTH = 4
    MATCH = 5


class BlockDecoder(FillingDecoder):
    """Decoder of one raw LZ4 block, fed in parts.

    Memory is limited to a part of the output and 64 KiB of history, whatever sizes the block has or
    claims.

    Examples
    --------
    >>> decoder = BlockDecoder()
    >>> decoder.decode(lz4.block.compress(b"abc" * 9, store_size=False))
    b'abcabcabcabcabcabcabcabcabc'
    >>> decoder.finish()
    """

    def __init__(self) -> None:
        super().__init__()
        self._input = b""
        self._position = 0  # bytes of the block before self._input
        self._history = b""
        self._stage = _Stage.TOKEN
        self._literals = 0  # bytes of the current sequence still to come
        self._match = 0  # bytes of the current sequence still to be copied
        self._distance = 0
        self._waiting: Iterator[bytes] = iter(())

    def decode(self, data: bytes) -> bytes:
        """Decode the next bytes of the block.

        Parameters
        ----------
        data : bytes
            Next bytes of the block.

        Returns
        -------
        bytes
            Next bytes of output, perhaps none.

        Raises
        ------
        CorruptFile
            A match refers to bytes before the start; ``offset`` counts from the block's start.
        """
        return b"".join(self.pieces(data))

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """Decode the next bytes of the block, in parts of about 256 KiB of output."""
        self._input = self._input + data if self._input else data
        while True:
            piece = self._whole_sequences() if self._stage is _Stage.TOKEN else b""
            if not piece:
                step = self._part_of_sequence()
                if step is None:
                    return
                piece = step
            if piece:
                yield piece

    def _next(self, fetch: Callable[[], bytes]) -> bytes:
        while True:
            piece = next(self._waiting, b"")
            if piece:
                return piece
            data = fetch()
            if not data:
                self.finish()
                return b""
            self._waiting = self.pieces(data)

    def finish(self) -> None:
        """Check that the block may end at the end of its bytes.

        Raises
        ------
        CorruptFile
            The block ends inside a sequence.
        """
        complete = self._stage is _Stage.TOKEN or (
            self._stage in (_Stage.LITERALS, _Stage.DISTANCE) and not self._literals
        )
        if self._input or not complete:
            raise cut_off(self._position + len(self._input))

    @property
    def at_token(self) -> bool:
        """Whether the input consists of whole sequences."""
        return self._stage is _Stage.TOKEN and not self._input

    def _whole_sequences(self) -> bytes:
        """Decode the sequences that are complete, some of them at once."""
        data = self._input
        size = len(data)
        position = output = 0
        reach = len(self._history)
        while output < _OUTPUT_BYTES and position < size:
            token = data[position]
            cursor = position + 1
            literals = token >> 4
            if literals == _CONTINUED_LENGTH:
                cursor, literals = _length(data, cursor)
            cursor += literals
            if cursor + 2 > size:
                break
            distance = data[cursor] | data[cursor + 1] << 8
            at = cursor
            cursor += 2
            match = token & 15
            if match == _CONTINUED_LENGTH:
                cursor, match = _length(data, cursor)
                if cursor > size or match > _OUTPUT_BYTES:
                    break
            output += literals
            if distance == 0 or distance > reach + output:
                raise bad_distance(distance, self._position + at)
            output += match + _MIN_MATCH
            position = cursor
        if not position:
            return b""
        piece = self._decompress(data[:position], output)
        self._consume(position)
        return piece

    def _part_of_sequence(self) -> bytes | None:
        """Continue a sequence that is long or incomplete; return None if it needs input."""
        data = self._input
        stage = self._stage
        if stage is _Stage.MATCH:
            return self._copy_match()
        if stage is _Stage.LITERALS and not self._literals:
            self._stage = _Stage.DISTANCE
            return b""
        if not data or (stage is _Stage.DISTANCE and len(data) < 2):
            return None
        if stage is _Stage.TOKEN:
            self._literals, self._match = data[0] >> 4, data[0] & 15
            long = self._literals == _CONTINUED_LENGTH
            self._stage = _Stage.LITERAL_LENGTH if long else _Stage.LITERALS
            self._consume(1)
        elif stage is _Stage.LITERAL_LENGTH:
            more, ended = self._read_length()
            self._literals += more
            self._stage = _Stage.LITERALS if ended else stage
        elif stage is _Stage.LITERALS:
            piece = data[: self._literals]
            self._literals -= len(piece)
            self._consume(len(piece))
            self._remember(piece)
            return piece
        elif stage is _Stage.DISTANCE:
            self._distance = data[0] | data[1] << 8
            if self._distance == 0 or self._distance > len(self._history):
                raise bad_distance(self._distance, self._position)
            self._stage = _Stage.MATCH_LENGTH if self._match == _CONTINUED_LENGTH else _Stage.MATCH
            self._match += _MIN_MATCH
            self._consume(2)
        else:
            more, ended = self._read_length()
            self._match += more
            self._stage = _Stage.MATCH if ended else stage
        return b""

    def _read_length(self) -> tuple[int, bool]:
        data = self._input
        full = len(data) - len(data.lstrip(b"\xff"))
        if full == len(data):
            self._consume(full)
            return 255 * full, False
        self._consume(full + 1)
        return 255 * full + data[full], True

    def _copy_match(self) -> bytes:
        """Copy a part of a match; a long match equals several with the same distance."""
        count = self._match
        if count > _OUTPUT_BYTES + _MIN_MATCH:
            count = _OUTPUT_BYTES
        sequence = bytearray(
            [_CONTINUED_LENGTH if count >= _CONTINUED_LENGTH + _MIN_MATCH else count - _MIN_MATCH]
        )
        sequence += self._distance.to_bytes(2, "little")
        sequence += extension(count - _MIN_MATCH)
        self._match -= count
        if not self._match:
            self._stage = _Stage.TOKEN
        return self._decompress(bytes(sequence), count)

    def _decompress(self, sequences: bytes, output: int) -> bytes:
        """Decode whole sequences whose output has a known size."""
        try:
            decoded: bytes = lz4.block.decompress(
                sequences + _ENDING,
                uncompressed_size=output + len(_ENDING) - 1,
                dict=self._history,
            )
        except lz4.block.LZ4BlockError as error:
            raise CorruptFile(
                "the LZ4 block is damaged", offset=self._position, where="file"
            ) from error
        piece = decoded[:output]
        self._remember(piece)
        return piece

    def _consume(self, count: int) -> None:
        self._input = self._input[count:]
        self._position += count

    def _remember(self, piece: bytes) -> None:
        if len(piece) >= _HISTORY:
            self._history = piece[-_HISTORY:]
        else:
            self._history = (self._history + piece)[-_HISTORY:]


def cut_off(offset: int) -> CorruptFile:
    """Return the error for a block that ends inside a sequence."""
    return CorruptFile(
        "the LZ4 block ends inside a sequence: the file is truncated or damaged",
        offset=offset,
        where="file",
    )


def bad_distance(distance: int, offset: int) -> CorruptFile:
    """Return the error for a match that copies bytes that do not exist."""
    return CorruptFile(
        f"an LZ4 match reaches back {distance} bytes, before the beginning"
        if distance
        else "an LZ4 match has the distance 0",
        offset=offset,
        where="file",
    )


def _length(data: bytes, cursor: int) -> tuple[int, int]:
    """Return the end and value of a length nibble of 15; beyond `data` if that ends first."""
    length = _CONTINUED_LENGTH
    size = len(data)
    while cursor < size:
        byte = data[cursor]
        cursor += 1
        length += byte
        if byte != 255:
            return cursor, length
    return size + 1, length


def compress_piece(
    content: bytes, max_ratio: int | None, high: bool, level: int = 0
) -> tuple[bytes, bytes]:
    """Compress a piece of a block; :mod:`godb_arrow.codec.blocks` joins the pieces.

    Parameters
    ----------
    content : bytes
        Piece to compress. The result does not refer to earlier bytes.
    max_ratio : int, optional
        Maximum ratio of the decoded and compressed sizes of the piece. Bytes are stored as
        literals to keep it.
    high : bool
        Whether to search longer for better matches (LZ4 HC).
    level : int
        Level of LZ4 HC from 1 to 12, or 0 for the default of its library.

    Returns
    -------
    sequences : bytes
        Whole sequences.
    literals : bytes
        Bytes after the last match.
    """
    stored = 0
    while True:
        data = content[stored:]
        block: bytes = lz4.block.compress(
            data,
            mode="high_compression" if high else "default",
            compression=level,
            store_size=False,
            dict=content[max(0, stored - _HISTORY) : stored],
        )
        sequences, literals = _split(block)
        if max_ratio is None:
            break
        # Joining pieces saves a few bytes, hence the reserve.
        needed = -(-(len(content) + 64) // max_ratio)
        lacking = min(needed - stored - len(sequences) - len(literals), len(data))
        if lacking <= 0:
            break
        stored += lacking
    return join(content[:stored], sequences, literals)


class Piece(NamedTuple):
    """Position of a piece in the bytes of a block.

    Attributes
    ----------
    at : int
        Offset of its first sequence.
    length : int
        Bytes of its sequences.
    skip : int
        Number of literals at the beginning of its sequences that belong to earlier pieces.
    tail : int
        Number of its literals after its sequences, at the beginning of the next sequence.
    size : int
        Bytes that it decodes to.
    """

    at: int
    length: int
    skip: int
    tail: int
    size: int


def decode_pieces(data: bytes | memoryview, pieces: Sequence[Piece]) -> bytes:
    """Decode pieces of a block that refer to no earlier bytes.

    Parameters
    ----------
    data : bytes or memoryview
        Bytes of the block.
    pieces : sequence of Piece
        Positions of the pieces.

    Returns
    -------
    bytes
        Decoded bytes of the pieces, one after the other.

    Raises
    ------
    CorruptFile
        A piece is incomplete, refers to earlier bytes, or has another size. ``offset`` counts from
        the beginning of `data`.

    Examples
    --------
    >>> sequences, literals = compress_piece(b"abc" * 99, None, False)
    >>> block = sequences + bytes([len(literals) << 4]) + literals
    >>> piece = Piece(0, len(sequences), 0, len(literals), 297)
    >>> decode_pieces(block, [piece]) == b"abc" * 99
    True
    """
    data = bytes(data)
    return b"".join(_decode_piece(data, piece) for piece in pieces)


def decode_pieces_into(data: bytes | memoryview, pieces: Sequence[Piece], into: memoryview) -> None:
    """Decode pieces of a block that refer to no earlier bytes, into existing memory.

    Parameters
    ----------
    data : bytes or memoryview
        Bytes of the block.
    pieces : sequence of Piece
        Positions of the pieces.
    into : memoryview
        Target, with as many bytes as the pieces decode to.

    Raises
    ------
    CorruptFile
        See :func:`decode_pieces`.
    """
    into[:] = decode_pieces(data, pieces)


def _decode_piece(data: bytes, piece: Piece) -> bytes:
    decoder = BlockDecoder()
    decoded = b""
    try:
        sequences, literals = cut_out(data, piece)
        for part in decoder.pieces(sequences):
            decoded += part
            if len(decoded) > piece.size:
                raise damaged_piece(piece)
    except CorruptFile as error:
        raise damaged_piece(piece) from error
    if not decoder.at_token or len(decoded) + len(literals) != piece.size:
        raise damaged_piece(piece)
    return decoded + literals


def cut_out(data: bytes, piece: Piece) -> tuple[bytes, bytes]:
    """Return a piece as it was compressed, before it was joined with its neighbours.

    Parameters
    ----------
    data : bytes
        Bytes of a block.
    piece : Piece
        Position of the piece.

    Returns
    -------
    sequences, literals : bytes
        Sequences and literals, as of :func:`compress_piece`.

    Raises
    ------
    CorruptFile
        The piece is incomplete.
    """
    sequences = data[piece.at : piece.at + piece.length]
    end = piece.at + piece.length
    skip = piece.skip
    if len(sequences) < piece.length:
        raise damaged_piece(piece)
    if sequences:
        cursor, count = _literals(sequences, 0)
        own = count - skip
        if own < 0 or cursor + count > len(sequences):
            raise damaged_piece(piece)
        head = bytes([min(own, _CONTINUED_LENGTH) << 4 | sequences[0] & 15]) + extension(own)
        sequences = head + sequences[cursor + skip :]
        skip = 0
    if not piece.tail:
        return sequences, b""
    if end >= len(data):
        raise damaged_piece(piece)
    cursor, count = _literals(data, end)
    literals = data[cursor + skip : cursor + skip + piece.tail]
    if skip + piece.tail > count or len(literals) < piece.tail:
        raise damaged_piece(piece)
    return sequences, literals


def damaged_piece(piece: Piece) -> CorruptFile:
    """Return the error for a piece that does not decode to its size."""
    return CorruptFile(
        f"a piece of the body does not decode to {piece.size} bytes by itself",
        offset=piece.at,
        where="file",
    )


def _split(block: bytes) -> tuple[bytes, bytes]:
    """Split a block into its sequences and its last literals."""
    last = _last_sequence(block)
    cursor, _ = _literals(block, last)
    return block[:last], block[cursor:]


def join(waiting: bytes, sequences: bytes, literals: bytes) -> tuple[bytes, bytes]:
    """Prepend literals to sequences that were compressed without them.

    Returns
    -------
    sequences : bytes
    literals : bytes
        Sequences and literals, as of :func:`compress_piece`.
    """
    if not sequences:
        return b"", waiting + literals
    return b"".join(put_in_front(waiting, sequences)), literals


def put_in_front(waiting: bytes, sequences: bytes) -> tuple[bytes, memoryview]:
    """Prepend literals to sequences; return the new beginning, and the unchanged rest."""
    if not waiting:
        return b"", memoryview(sequences)
    cursor, own = _literals(sequences, 0)
    count = len(waiting) + own
    head = bytes([min(count, _CONTINUED_LENGTH) << 4 | sequences[0] & 15]) + extension(count)
    return head + waiting, memoryview(sequences)[cursor:]


def extension(length: int) -> bytes:
    """Return the bytes that continue a length nibble."""
    if length < _CONTINUED_LENGTH:
        return b""
    full, rest = divmod(length - _CONTINUED_LENGTH, 255)
    return b"\xff" * full + bytes([rest])


def _literals(block: bytes, position: int) -> tuple[int, int]:
    """Return the start and number of the literals of the sequence at `position`."""
    literals = block[position] >> 4
    return (
        _length(block, position + 1) if literals == _CONTINUED_LENGTH else (position + 1, literals)
    )


def _last_sequence(block: bytes) -> int:
    """Return the start of the last sequence of a valid block."""
    position = 0
    size = len(block)
    while True:
        cursor, literals = _literals(block, position)
        cursor += literals + 2
        if cursor > size:
            return position
        if block[position] & 15 == _CONTINUED_LENGTH:
            cursor, _ = _length(block, cursor)
        position = cursor
