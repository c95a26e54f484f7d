// Reading MessagePack: heads of values, skipping of values, and checks of untrusted bytes.
//
// Nothing here trusts a length: every read is checked against the end of the buffer.
// The format: https://github.com/msgpack/msgpack/blob/master/spec.md

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "words.hpp"

namespace godb {

constexpr int kMaxDepth = 128;

inline uint16_t load16(const uint8_t* p) { return uint16_t(p[0] << 8 | p[1]); }
inline uint32_t load32(const uint8_t* p) {
    return __builtin_bswap32(word_at<uint32_t>(p));
}
inline uint64_t load64(const uint8_t* p) {
    return __builtin_bswap64(word_at(p));
}

// Token of a value's first byte. Up to Float64, only the bytes of a number follow.
enum class Token : uint8_t {
    Nil, False, True, Positive, Negative, UInt, Int, Float32, Float64,
    String, Binary, Extension, Array, Map, Invalid, Incomplete,
};

// A value's head: its kind, and either the number or the size of what follows.
struct Head {
    Token token;
    int8_t ext_type;       // of an extension
    const uint8_t* body;   // after the head
    uint64_t size;         // bytes of a string, binary or extension; elements; pairs
    uint64_t bits;         // a number, sign-extended where it is signed
};

namespace detail {
// Token and number of bytes of the size or number that follow, for each first byte.
struct Entry { Token token; uint8_t width; };
struct Table {
    Entry at[256];
    constexpr Table() : at{} {
        for (int i = 0; i < 256; ++i) at[i] = {Token::Invalid, 0};
        for (int i = 0; i < 0x80; ++i) at[i] = {Token::Positive, 0};
        for (int i = 0x80; i < 0x90; ++i) at[i] = {Token::Map, 0};
        for (int i = 0x90; i < 0xa0; ++i) at[i] = {Token::Array, 0};
        for (int i = 0xa0; i < 0xc0; ++i) at[i] = {Token::String, 0};
        for (int i = 0xe0; i < 0x100; ++i) at[i] = {Token::Negative, 0};
        at[0xc0] = {Token::Nil, 0};
        at[0xc2] = {Token::False, 0};
        at[0xc3] = {Token::True, 0};
        at[0xc4] = {Token::Binary, 1}; at[0xc5] = {Token::Binary, 2}; at[0xc6] = {Token::Binary, 4};
        at[0xc7] = {Token::Extension, 1}; at[0xc8] = {Token::Extension, 2};
        at[0xc9] = {Token::Extension, 4};
        at[0xca] = {Token::Float32, 4}; at[0xcb] = {Token::Float64, 8};
        at[0xcc] = {Token::UInt, 1}; at[0xcd] = {Token::UInt, 2}; at[0xce] = {Token::UInt, 4};
        at[0xcf] = {Token::UInt, 8};
        at[0xd0] = {Token::Int, 1}; at[0xd1] = {Token::Int, 2}; at[0xd2] = {Token::Int, 4};
        at[0xd3] = {Token::Int, 8};
        for (int i = 0xd4; i < 0xd9; ++i) at[i] = {Token::Extension, 0};
        at[0xd9] = {Token::String, 1}; at[0xda] = {Token::String, 2}; at[0xdb] = {Token::String, 4};
        at[0xdc] = {Token::Array, 2}; at[0xdd] = {Token::Array, 4};
        at[0xde] = {Token::Map, 2}; at[0xdf] = {Token::Map, 4};
    }
};
inline constexpr Table kTable{};

inline uint64_t load_width(const uint8_t* p, int width) {
    switch (width) {
        case 1: return p[0];
        case 2: return load16(p);
        case 4: return load32(p);
        default: return load64(p);
    }
}
}  // namespace detail

// Sizes of values without others inside, if the first byte determines them; else 0.
struct ScalarSizes {
    uint8_t at[256];
    constexpr explicit ScalarSizes(bool extensions) : at{} {
        for (int i = 0; i < 256; ++i) {
            const detail::Entry entry = detail::kTable.at[i];
            if (entry.token <= Token::Float64) at[i] = uint8_t(1 + entry.width);
            else if (entry.token == Token::String && entry.width == 0)
                at[i] = uint8_t(1 + (i & 0x1f));
        }
        for (int i = 0xd4; extensions && i < 0xd9; ++i) at[i] = uint8_t(2 + (1 << (i - 0xd4)));
    }
};
inline constexpr ScalarSizes kScalarSizes{false};
inline constexpr ScalarSizes kValueSizes{true};  // with the extensions of a fixed size

// Prediction of the size of a value from values at the same place in other documents. The processor
// predicts that a first byte is the same and continues after the value, where otherwise it would
// wait for that byte. The prediction stops where first bytes differ often.
class SizeGuess {
  public:
    // The size of the value with this first byte; 0 if it needs more than that byte.
    uint8_t size_of(uint8_t first) {
        if (first == first_) return size_;
        const uint8_t size = kScalarSizes.at[first];
        if (size == 0) return 0;
        if (misses_ < kMisses) {
            first_ = ++misses_ == kMisses ? kNone : first;
            size_ = size;
        }
        return size;
    }

  private:
    static constexpr uint8_t kMisses = 8;
    static constexpr uint16_t kNone = 256;

    uint16_t first_ = kNone;
    uint8_t size_ = 0;
    uint8_t misses_ = 0;
};

// Conversion of numbers to 64 bits that depends only on their first byte. The number begins `skip`
// bytes after it, and is shifted to the right with its sign and masked.
struct PlainNumbers {
    enum Kind : uint8_t { kOther, kNumber, kNil };
    struct Form { uint64_t mask; uint8_t skip, shift; Kind kind; };
    Form at[256];  // the mask is 0 for everything but numbers
    constexpr explicit PlainNumbers(bool integers) : at{} {
        for (int i = 0; i < 256; ++i) {
            const detail::Entry entry = detail::kTable.at[i];
            const int bits = entry.width ? 8 * entry.width : 8;
            const Form form{~uint64_t(0), uint8_t(entry.width != 0), uint8_t(64 - bits), kNumber};
            const bool is_signed = entry.token == Token::Negative || entry.token == Token::Int;
            const bool is_unsigned = entry.token == Token::Positive ||
                                     (entry.token == Token::UInt && entry.width < 8);
            if (integers ? is_signed : entry.token == Token::Float64) at[i] = form;
            if (integers && is_unsigned)
                at[i] = {form.mask >> form.shift, form.skip, form.shift, kNumber};
        }
        at[0xc0].kind = kNil;
    }
};
inline constexpr PlainNumbers kPlainIntegers{true};
inline constexpr PlainNumbers kPlainReals{false};

// Size of a string of fewer than 32 bytes, as most keys and many values are. It is -1 for anything
// else, which needs read_head. The bytes must belong to a document that was scanned.
inline int short_string(const uint8_t* p) {
    return (*p & 0xe0) == 0xa0 ? *p & 0x1f : -1;
}

// Read a head. The token is Incomplete when the buffer ends inside the head or the bytes of a
// string, binary or extension; containers may still lack elements.
inline Head read_head(const uint8_t* p, const uint8_t* end) {
    Head head{Token::Incomplete, 0, p, 0, 0};
    if (__builtin_expect(p >= end, 0)) return head;
    const uint8_t first = *p++;
    const detail::Entry entry = detail::kTable.at[first];
    if (__builtin_expect(size_t(end - p) < entry.width, 0)) return head;
    switch (entry.token) {
        case Token::Positive: head.bits = first; break;
        case Token::Negative: head.bits = uint64_t(int64_t(int8_t(first))); break;
        case Token::UInt:
        case Token::Float32:
        case Token::Float64:
            head.bits = detail::load_width(p, entry.width);
            p += entry.width;
            break;
        case Token::Int: {
            const uint64_t raw = detail::load_width(p, entry.width);
            const int shift = 64 - 8 * entry.width;
            head.bits = uint64_t(int64_t(raw << shift) >> shift);
            p += entry.width;
            break;
        }
        case Token::String:
            head.size = entry.width ? detail::load_width(p, entry.width) : first & 0x1f;
            p += entry.width;
            if (__builtin_expect(size_t(end - p) < head.size, 0)) return head;
            break;
        case Token::Binary:
            head.size = detail::load_width(p, entry.width);
            p += entry.width;
            if (size_t(end - p) < head.size) return head;
            break;
        case Token::Extension:
            if (entry.width) {
                head.size = detail::load_width(p, entry.width);
                p += entry.width;
            } else {
                head.size = size_t(1) << (first - 0xd4);
            }
            if (size_t(end - p) < head.size + 1) return head;
            head.ext_type = int8_t(*p++);
            break;
        case Token::Array:
        case Token::Map:
            head.size = entry.width ? detail::load_width(p, entry.width) : first & 0x0f;
            p += entry.width;
            break;
        default: break;
    }
    head.body = p;
    head.token = entry.token;
    return head;
}

inline double as_double(const Head& head) {
    if (head.token == Token::Float32) {
        const uint32_t bits = uint32_t(head.bits);
        float value;
        std::memcpy(&value, &bits, 4);
        return double(value);
    }
    double value;
    std::memcpy(&value, &head.bits, 8);
    return value;
}

struct Timestamp { int64_t seconds; uint32_t nanoseconds; };

// Read the timestamp extension; false if its size or its nanoseconds are invalid.
inline bool read_timestamp(const Head& head, Timestamp& stamp) {
    if (head.size == 4) {
        stamp = {int64_t(load32(head.body)), 0};
    } else if (head.size == 8) {
        const uint64_t value = load64(head.body);
        stamp = {int64_t(value & 0x3ffffffffull), uint32_t(value >> 34)};
    } else if (head.size == 12) {
        stamp = {int64_t(load64(head.body + 4)), load32(head.body)};
    } else {
        return false;
    }
    return stamp.nanoseconds < 1000000000u;
}

// Whether an extension is valid: a type of the application's own, or a timestamp. The specification
// reserves the other negative types.
inline bool is_extension(const Head& head) {
    Timestamp unused;
    return head.ext_type >= 0 || (head.ext_type == -1 && read_timestamp(head, unused));
}

// Units of 1/unit seconds since 1970, rounded towards the past; false if they overflow an int64.
inline bool ticks(const Timestamp& stamp, int64_t unit, int64_t& result) {
    int64_t whole;
    if (__builtin_mul_overflow(stamp.seconds, unit, &whole)) {
        // Just below the lowest second that fits, the fraction can still make the sum fit.
        const __int128 exact = __int128(stamp.seconds) * unit +
                               __int128(stamp.nanoseconds) * unit / 1000000000;
        if (exact < INT64_MIN || exact > INT64_MAX) return false;
        result = int64_t(exact);
        return true;
    }
    const int64_t fraction = int64_t(__int128(stamp.nanoseconds) * unit / 1000000000);
    return !__builtin_add_overflow(whole, fraction, &result);
}

// Skip a value of a scanned document that is no container or extension; null for these, which need
// more care.
inline const uint8_t* behind_scalar(const uint8_t* p) {
    const uint8_t first = *p;
    const detail::Entry entry = detail::kTable.at[first];
    if (entry.token <= Token::Float64) return p + 1 + entry.width;
    if (entry.token != Token::String) return nullptr;
    return p + 1 + entry.width +
           (entry.width ? detail::load_width(p + 1, entry.width) : first & 0x1f);
}

// Whether bytes are UTF-8 (RFC 3629: no surrogates, no overlong forms, nothing above U+10FFFF).
inline bool is_utf8_slow(const uint8_t* p, const uint8_t* end) {
    while (p < end) {
        const uint8_t c = *p;
        if (c < 0x80) { ++p; continue; }
        size_t more;
        uint8_t low = 0x80, high = 0xbf;
        if (c >= 0xc2 && c <= 0xdf) more = 1;
        else if (c >= 0xe0 && c <= 0xef) {
            more = 2;
            if (c == 0xe0) low = 0xa0;
            if (c == 0xed) high = 0x9f;
        } else if (c >= 0xf0 && c <= 0xf4) {
            more = 3;
            if (c == 0xf0) low = 0x90;
            if (c == 0xf4) high = 0x8f;
        } else return false;
        if (size_t(end - p) <= more) return false;
        if (p[1] < low || p[1] > high) return false;
        for (size_t i = 2; i <= more; ++i)
            if ((p[i] & 0xc0) != 0x80) return false;
        p += more + 1;
    }
    return true;
}

// Masks of the high bits of the first bytes of 32.
struct HighBits {
    uint8_t bytes[64];
    constexpr HighBits() : bytes{} {
        for (int i = 0; i < 32; ++i) bytes[i] = 0x80;
    }
    const uint8_t* of(size_t size) const { return bytes + 32 - size; }
};

// Whether the first `size` bytes, at most 16, are ASCII; 16 bytes can be read.
inline bool is_short_ascii(const uint8_t* p, size_t size) {
    uint64_t low = word_at(p), high = word_at(p + 8);
    const size_t in_low = size < 8 ? size : 8, in_high = size - in_low;
    low &= in_low ? ~uint64_t(0) >> (64 - 8 * in_low) : 0;
    high &= in_high ? ~uint64_t(0) >> (64 - 8 * in_high) : 0;
    return ((low | high) & 0x8080808080808080ull) == 0;
}

// Whether the first `size` bytes, fewer than 32, are ASCII; 32 bytes can be read.
inline bool is_short_ascii32(const uint8_t* p, size_t size) {
    static constexpr HighBits high;
    uint64_t found = 0;
    for (int i = 0; i < 4; ++i) found |= word_at(p + 8 * i) & word_at(high.of(size) + 8 * i);
    return found == 0;
}

inline bool is_utf8(const uint8_t* p, size_t size) {
    const uint8_t* end = p + size;
    while (end - p >= 8) {
        const uint64_t word = word_at(p);
        if (word & 0x8080808080808080ull) return is_utf8_slow(p, end);
        p += 8;
    }
    uint8_t bits = 0;
    for (const uint8_t* q = p; q < end; ++q) bits |= *q;
    return bits < 0x80 || is_utf8_slow(p, end);
}

// Result of skipping a document.
enum class Passed : uint8_t { Whole, Incomplete, Invalid, TooDeep, BadExtension };

// Skip one value with at most `depth` further levels. Nothing is decoded. With `strict`, extensions
// are checked, as they are where values are decoded.
template <bool strict>
Passed pass_over(const uint8_t*& p, const uint8_t* end, int depth) {
    // Number of remaining elements of each open container.
    uint64_t open[kMaxDepth + 2];
    int level = 0;
    open[0] = 1;
    const uint8_t* at = p;
    for (;;) {
        if (at >= end) return Passed::Incomplete;
        const uint8_t first = *at;
        --open[level];
        if (first < 0x80 || first >= 0xe0) {
            ++at;
        } else if (first >= 0xa0 && first < 0xc0) {
            const size_t size = 1 + (first & 0x1f);
            if (size_t(end - at) < size) return Passed::Incomplete;
            at += size;
        } else if (const detail::Entry entry = detail::kTable.at[first];
                   entry.token <= Token::Float64) {
            if (size_t(end - at) <= entry.width) return Passed::Incomplete;
            at += 1 + entry.width;
        } else {
            const Head head = read_head(at, end);
            switch (head.token) {
                case Token::Incomplete: return Passed::Incomplete;
                case Token::Invalid: return Passed::Invalid;
                case Token::Extension:
                    if (strict && !is_extension(head)) return Passed::BadExtension;
                    at = head.body + head.size;
                    break;
                case Token::String:
                case Token::Binary: at = head.body + head.size; break;
                case Token::Array:
                case Token::Map:
                    at = head.body;
                    if (level >= depth) return Passed::TooDeep;
                    open[++level] = head.token == Token::Map ? 2 * head.size : head.size;
                    break;
                default: at = head.body; break;
            }
        }
        while (open[level] == 0) {
            if (level == 0) {
                p = at;
                return Passed::Whole;
            }
            --level;
        }
    }
}

}  // namespace godb
