// Decoding and encoding of one raw LZ4 block in pieces.
//
// The decoder writes after the history that it copies from, and checks every length and distance.
// It can stop and continue at any byte of the input and of the output. The compressor writes the sequences of a piece,
// which godb_arrow.codec.blocks joins to one block of any length. It keeps the ratio below a limit
// by storing literals where the data are too regular.
// The format: https://github.com/lz4/lz4/blob/dev/doc/lz4_Block_format.md

#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "memory.hpp"
#include "words.hpp"

namespace godb {

constexpr size_t kMinMatch = 4;
constexpr unsigned kRun = 15;

inline void copy16(uint8_t* to, const uint8_t* from) { std::memcpy(to, from, 16); }
inline void copy8(uint8_t* to, const uint8_t* from) { std::memcpy(to, from, 8); }

// Copy earlier output, which may overlap the target, without writing beyond it.
inline uint8_t* copy_match(uint8_t* to, uint32_t distance, size_t count) {
    uint8_t* const end = to + count;
    size_t period = distance;
    // Each round doubles what can be copied at once without overlapping.
    while (size_t(end - to) > period) {
        std::memcpy(to, to - period, period);
        to += period;
        if (period < 4096) period *= 2;
    }
    std::memcpy(to, to - period, size_t(end - to));
    return end;
}

// Decode sequences that are complete, with room for copying too much. Stops before any other
// sequence. Returns false if a distance is bad, with `in` at its bytes.
inline bool decode_sequences(const uint8_t*& in, const uint8_t* in_end, const uint8_t* base,
                             uint8_t*& output, uint8_t* limit, uint32_t& bad_distance) {
    const uint8_t* p = in;
    uint8_t* out = output;
    // A sequence of short literals takes at most 1 + 14 + 2 bytes, and reads 16 too many.
    const uint8_t* const in_safe = in_end - 48;
    uint8_t* const out_safe = limit - 64;
    if (in_end - in < 64 || limit - out < 64) return true;
    while (p < in_safe && out < out_safe) {
        const uint8_t* const begin = p;
        const unsigned token = *p++;
        size_t literals = token >> 4;
        const uint8_t* text;
        if (literals != kRun) {
            copy16(out, p);
            text = p;
            p += literals;
        } else {
            unsigned byte;
            do {
                if (p >= in_safe) { p = begin; goto done; }
                byte = *p++;
                literals += byte;
            } while (byte == 255);
            if (literals > size_t(in_safe - p) || literals > size_t(out_safe - out)) {
                p = begin;
                break;
            }
            text = p;
            uint8_t* to = out;
            uint8_t* const to_end = out + literals;
            do {
                copy16(to, text);
                to += 16;
                text += 16;
            } while (to < to_end);
            p += literals;
        }
        {
            uint8_t* const after = out + literals;
            const size_t distance = size_t(p[0]) | size_t(p[1]) << 8;
            size_t match = token & 15;
            const uint8_t* q = p + 2;
            if (match == kRun) {
                unsigned byte;
                do {
                    if (q >= in_safe) { p = begin; goto done; }
                    byte = *q++;
                    match += byte;
                } while (byte == 255);
            }
            match += kMinMatch;
            if (__builtin_expect(distance == 0 || distance > size_t(after - base), 0)) {
                bad_distance = uint32_t(distance);
                in = p;
                output = after;
                return false;
            }
            if (__builtin_expect(after >= out_safe || match > size_t(out_safe - after), 0)) {
                p = begin;
                break;
            }
            const uint8_t* from = after - distance;
            if (distance >= 16) {
                uint8_t* to = after;
                uint8_t* const to_end = after + match;
                do {
                    copy16(to, from);
                    to += 16;
                    from += 16;
                } while (to < to_end);
                out = to_end;
            } else {
                out = copy_match(after, uint32_t(distance), match);
            }
            p = q;
        }
    }
done:
    in = p;
    output = out;
    return true;
}

class Lz4Decoder {
  public:
    enum class Status { NeedInput, HaveOutput, BadDistance };

    uint64_t position() const { return position_; }   // number of bytes of the block used
    uint32_t bad_distance() const { return distance_; }

    // Whether the block may end at the end of its bytes.
    bool complete() const {
        return stage_ == Stage::Token ||
               ((stage_ == Stage::Literals || stage_ == Stage::Distance) && literals_ == 0 &&
                !half_distance_);
    }

    // Decode until the input is exhausted or `out` is at `limit`. Advances `in` and `out`. Before
    // `out`, from `base` on, are the last 64 KiB of output, or all of it.
    Status run(const uint8_t*& in, const uint8_t* in_end, const uint8_t* base, uint8_t*& out,
               uint8_t* limit) {
        const uint8_t* const from = in;
        const Status status = decode(in, in_end, base, out, limit);
        position_ += size_t(in - from);
        return status;
    }

  private:
    enum class Stage : uint8_t { Token, LiteralLength, Literals, Distance, MatchLength, Match };

    Status decode(const uint8_t*& in, const uint8_t* in_end, const uint8_t* base, uint8_t*& out,
                  uint8_t* limit) {
        for (;;) {
            if (stage_ == Stage::Token &&
                !decode_sequences(in, in_end, base, out, limit, distance_))
                return Status::BadDistance;
            if (out >= limit) return Status::HaveOutput;
            if (stage_ == Stage::Match) {
                const size_t count = std::min<uint64_t>(match_, size_t(limit - out));
                out = copy_match(out, distance_, count);
                match_ -= count;
                if (match_ == 0) stage_ = Stage::Token;
                continue;
            }
            if (stage_ == Stage::Literals && literals_ == 0) { stage_ = Stage::Distance; continue; }
            if (in >= in_end) return Status::NeedInput;
            switch (stage_) {
                case Stage::Token:
                    literals_ = *in >> 4;
                    match_ = (*in & 15) + kMinMatch;
                    long_match_ = (*in & 15) == kRun;
                    stage_ = literals_ == kRun ? Stage::LiteralLength : Stage::Literals;
                    ++in;
                    break;
                case Stage::LiteralLength:
                    literals_ += *in;
                    if (*in++ != 255) stage_ = Stage::Literals;
                    break;
                case Stage::Literals: {
                    const size_t room = std::min(size_t(in_end - in), size_t(limit - out));
                    const size_t count = size_t(std::min<uint64_t>(literals_, room));
                    std::memcpy(out, in, count);
                    out += count;
                    in += count;
                    literals_ -= count;
                    break;
                }
                case Stage::Distance:
                    if (!half_distance_) {
                        distance_ = *in++;
                        half_distance_ = true;
                        break;
                    }
                    distance_ |= uint32_t(*in++) << 8;
                    half_distance_ = false;
                    if (distance_ == 0 || distance_ > size_t(out - base)) {
                        in -= 2;  // to the distance, for the message
                        return Status::BadDistance;
                    }
                    stage_ = long_match_ ? Stage::MatchLength : Stage::Match;
                    break;
                case Stage::MatchLength:
                    match_ += *in;
                    if (*in++ != 255) stage_ = Stage::Match;
                    break;
                default: break;
            }
        }
    }

    uint64_t position_ = 0;
    Stage stage_ = Stage::Token;
    uint64_t literals_ = 0;
    uint64_t match_ = 0;
    uint32_t distance_ = 0;
    bool half_distance_ = false;
    bool long_match_ = false;
};

// Piece of a block, which refers to no earlier bytes. It has whole sequences, without the first
// literals, and then the first literals of the next sequence.
struct Piece {
    size_t at;      // offset of its first sequence
    size_t length;  // bytes of its sequences
    size_t skip;    // number of literals at the beginning that belong to earlier pieces
    size_t tail;    // number of literals after the sequences
    size_t size;    // bytes that it decodes to
};

// Decode one piece; false if it does not decode to exactly its size.
class PieceDecoder {
  public:
    PieceDecoder(const uint8_t* data, size_t size) : data_(data), end_(data + size) {}

    bool run(const Piece& piece, uint8_t* out) {
        const size_t size = size_t(end_ - data_);
        if (piece.at > size || piece.length > size - piece.at) return false;
        base_ = out_ = out;
        limit_ = out + piece.size;
        const uint8_t* p = data_ + piece.at;
        const uint8_t* const sequences_end = p + piece.length;
        size_t skip = piece.skip;
        while (p < sequences_end) {
            if (skip == 0) {
                uint32_t distance;
                if (!decode_sequences(p, sequences_end, base_, out_, limit_, distance)) return false;
                if (p == sequences_end) break;
            }
            if (!sequence(p, sequences_end, skip)) return false;
            skip = 0;
        }
        return tail(p, skip, piece.tail) && out_ == limit_;
    }

  private:
    // Length that a nibble of 15 begins; false if the bytes end first.
    static bool extend(const uint8_t*& p, const uint8_t* end, size_t& length) {
        unsigned byte;
        do {
            if (p >= end) return false;
            byte = *p++;
            length += byte;
        } while (byte == 255);
        return true;
    }

    bool copy_literals(const uint8_t*& p, const uint8_t* end, size_t count) {
        if (count > size_t(end - p) || count > size_t(limit_ - out_)) return false;
        std::memcpy(out_, p, count);
        out_ += count;
        p += count;
        return true;
    }

    bool sequence(const uint8_t*& p, const uint8_t* end, size_t skip) {
        const unsigned token = *p++;
        size_t literals = token >> 4;
        if (literals == kRun && !extend(p, end, literals)) return false;
        if (skip > literals || skip > size_t(end - p)) return false;
        p += skip;
        if (!copy_literals(p, end, literals - skip) || end - p < 2) return false;
        const size_t distance = size_t(p[0]) | size_t(p[1]) << 8;
        p += 2;
        size_t match = token & 15;
        if (match == kRun && !extend(p, end, match)) return false;
        match += kMinMatch;
        if (distance == 0 || distance > size_t(out_ - base_) || match > size_t(limit_ - out_)) {
            return false;
        }
        out_ = copy_match(out_, uint32_t(distance), match);
        return true;
    }

    bool tail(const uint8_t* p, size_t skip, size_t count) {
        if (count == 0) return true;
        if (p >= end_) return false;
        size_t literals = *p++ >> 4;
        if (literals == kRun && !extend(p, end_, literals)) return false;
        if (skip > literals || count > literals - skip || skip > size_t(end_ - p)) return false;
        p += skip;
        return copy_literals(p, end_, count);
    }

    const uint8_t* const data_;
    const uint8_t* const end_;
    uint8_t* base_ = nullptr;
    uint8_t* out_ = nullptr;
    uint8_t* limit_ = nullptr;
};

// Compressor of one piece of a block, which refers to no earlier bytes.
class Lz4Compressor {
  public:
    explicit Lz4Compressor(uint64_t max_ratio) : max_ratio_(max_ratio), table_(kTableSize, 0) {}

    // Append the piece's sequences to `out`, and return the number of literals left at its end.
    size_t run(const uint8_t* data, size_t size, Buffer& out) {
        const uint8_t* const base = data;
        const uint8_t* const end = data + size;
        const uint8_t* const last_match = size > 16 ? end - 16 : data;
        const uint8_t* anchor = base;           // literals begin here
        const uint8_t* p = anchor;
        const uint8_t* floor = anchor;          // earlier bytes must not go into a match
        size_t misses = 0;
        uint16_t* const table = table_.data();
        out.reserve(size + size / 255 + 64);    // no block has more
        uint8_t* const begin = out.data() + out.size();
        uint8_t* to = begin;
        while (p < last_match) {
            const size_t here = size_t(p - base);
            const uint32_t h = hash(p);
            // The table only holds a guess, which the distance and the bytes must confirm.
            const size_t back = uint16_t(here - table[h]);
            table[h] = uint16_t(here);
            if (back == 0 || back > here || first_bytes(p - back) != first_bytes(p)) {
                p += 1 + (misses++ >> 6);
                continue;
            }
            const uint8_t* match = p - back;
            while (p > floor && match > base && p[-1] == match[-1]) { --p; --match; }
            const size_t run = size_t(p - anchor);
            const size_t length = kMinMatch + common(p + kMinMatch, match + kMinMatch, end - 5);
            misses = 0;
            if (max_ratio_) {
                // Store part of a long match as literals, to keep the ratio below the limit.
                const size_t taken = size_t(p - base) + length + kReserve;
                const size_t written = size_t(to - begin) + run + 3;
                if (__builtin_expect(written * max_ratio_ < taken, 0)) {
                    const size_t needed = (taken + max_ratio_ - 1) / max_ratio_;
                    p += std::min(needed - written, size_t(last_match - p) + 1);
                    floor = p;
                    continue;
                }
            }
            to = sequence(anchor, run, size_t(p - match), length, to);
            p += length;
            anchor = floor = p;
        }
        out.extend(size_t(to - begin));
        return size_t(end - anchor);
    }

  private:
    static constexpr uint64_t kReserve = 64;  // joining pieces saves a few bytes
    static constexpr unsigned kHashBits = 14;
    static constexpr size_t kTableSize = size_t(1) << kHashBits;

    // LZ4 allows matches of four bytes. MessagePack's keys give longer matches. These are found
    // sooner and make fewer sequences if short matches are ignored.
    static uint64_t first_bytes(const uint8_t* p) { return word_at(p) << 8; }
    static uint32_t hash(const uint8_t* p) {
        return uint32_t((first_bytes(p) * 58295818150454627ull) >> (64 - kHashBits));
    }

    // Bytes that continue a length nibble.
    static uint8_t* extend(size_t length, uint8_t* to) {
        if (length < kRun) return to;
        for (length -= kRun; length >= 255; length -= 255) *to++ = 255;
        *to++ = uint8_t(length);
        return to;
    }

    static size_t common(const uint8_t* p, const uint8_t* q, const uint8_t* end) {
        const uint8_t* const start = p;
        while (p + 8 <= end) {
            const uint64_t difference = word_at(p) ^ word_at(q);
            if (difference) return size_t(p - start) + size_t(__builtin_ctzll(difference) >> 3);
            p += 8;
            q += 8;
        }
        while (p < end && *p == *q) { ++p; ++q; }
        return size_t(p - start);
    }

    // Write a sequence before a match; `text` has at least 16 readable bytes after its run.
    static uint8_t* sequence(const uint8_t* text, size_t run, size_t distance, size_t match,
                             uint8_t* to) {
        const size_t more = match - kMinMatch;
        *to++ = uint8_t(std::min<size_t>(run, kRun) << 4 | std::min<size_t>(more, kRun));
        if (__builtin_expect(run < kRun, 1)) {
            copy8(to, text);
            copy8(to + 8, text + 8);
        } else {
            to = extend(run, to);
            std::memcpy(to, text, run);
        }
        to += run;
        *to++ = uint8_t(distance);
        *to++ = uint8_t(distance >> 8);
        return extend(more, to);
    }

    uint64_t max_ratio_;
    std::vector<uint16_t> table_;  // last position of seven bytes by their hash, modulo 64 KiB
};

}  // namespace godb
