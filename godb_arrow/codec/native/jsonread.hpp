// Reading of JSON text as documents in MessagePack.
//
// The reader accepts what it can store exactly and defers everything else: invalid text, numbers
// beyond 64 bits, lone surrogates, repeated keys, and unusual reserved forms. The caller reads a
// deferred document with godb_arrow.codec.jsontext, which stores it or raises the error.
//
// The reader predicts that a map has the keys of the map that was last at its place, with the same
// separators and spaces. It compares their bytes, and copies what they became.

#pragma once

#include <algorithm>
#include <charconv>
#include <deque>
#include <vector>

#include "bytes.hpp"
#include "calendar.hpp"
#include "jsonchars.hpp"
#include "memory.hpp"
#include "words.hpp"

namespace godb {

// Reasons why the reader stopped.
enum class JsonStop : uint8_t { End, Document, Separator };

class JsonReader {
  public:
    // The byte `*end` can be read and is 0, as after the bytes of a Python object.
    // With `is_dialect`, documents with keys that begin with $ are deferred. The documents are
    // written to `to`, which has room for the text that is to be read.
    JsonReader(const uint8_t* begin, const uint8_t* end, bool is_dialect, uint8_t* to, size_t room)
        : begin_(begin), end_(end), is_dialect_(is_dialect), out_(to, room) {}

    // Bytes that suffice for the documents of a text: a value of JSON takes at most nine bytes for
    // four characters in MessagePack.
    static size_t room_for(size_t text) { return 3 * text + kSlack; }

    // MessagePack of the documents that were read, and where each of them begins and ends.
    Buffer& documents() { return out_; }
    std::vector<int64_t>& bounds() { return bounds_; }

    // Read documents from `at` on. In an array, a comma precedes each document but the first.
    JsonStop run(size_t& at, bool in_array, bool& is_first) {
        out_.reserve(room_for(size_t(end_ - begin_) - at));
        bounds_.push_back(0);
        At here{begin_ + at, out_.data()};
        JsonStop stop = JsonStop::End;
        for (;;) {
            here.from = skip_space(here.from);
            if (here.from == end_) break;
            if (in_array && !is_first) {
                if (*here.from != ',') { stop = JsonStop::Separator; break; }
                here.from = skip_space(here.from + 1);
            }
            stop = JsonStop::Document;
            if (*here.from != '{') break;
            keys_.clear();
            const At next = map(here, 1, 0);
            // A document whose only field has a reserved name may be some other value.
            if (!next.from || detail::kTable.at[*here.to].token != Token::Map) break;
            stop = JsonStop::End;
            is_first = false;
            here = next;
            bounds_.push_back(here.to - out_.data());
        }
        at = size_t(here.from - begin_);
        out_.extend(size_t(bounds_.back()));
        return stop;
    }

  private:
    // Where the reader reads and writes; `from` is null if the document is deferred.
    struct At { const uint8_t* from; uint8_t* to; };
    // Key of an open map: a tag that differs if the keys differ, mostly, and its bytes.
    struct Key { uint64_t tag; const uint8_t* data; size_t size; };
    // Text of a key, from the end of the value before it to its own value, and its MessagePack.
    struct Expected {
        uint8_t text_size, packed_size;
        int8_t place;  // of maps in its value; kNoPlace for none
        uint8_t text[32], packed[32];
    };
    // Keys of the map that was last at a place, which all differ.
    struct Place {
        std::vector<Expected> keys;
        uint32_t hits = 0, misses = 0;

        // Whether it pays to remember the keys of a map that had others.
        bool learns() const { return misses < 16 || hits / 8 > misses; }
    };

    static constexpr size_t kTextBytes = sizeof(Expected::text);
    static constexpr size_t kExpectedKeys = 64;  // of a place, a bit for each
    static constexpr size_t kSkippedKeys = 4;    // that a map may lack before its next key
    static constexpr int kPlaces = 64;
    static constexpr int8_t kNoPlace = -1;
    static constexpr size_t kSlack = 64;       // bytes that may be written after the last value
    static constexpr size_t kComparedKeys = 64;  // keys of a map that are compared in pairs
    static constexpr At kDeferred{nullptr, nullptr};

    static const uint8_t* skip_space(const uint8_t* p) {
        while (__builtin_expect(*p <= ' ', 0)) {
            if (*p != ' ' && *p != '\n' && *p != '\r' && *p != '\t') break;
            ++p;
        }
        return p;
    }

    static bool is_digit(uint8_t c) { return uint8_t(c - '0') < 10; }

    At value(At at, int depth, int8_t place) {
        const uint8_t* p = at.from;
        switch (*p) {
            case '"': return string(at);
            case '{': return map(at, depth, place);
            case '[': return array(at, depth, place);
            case 't':
                if (p[1] != 'r' || p[2] != 'u' || p[3] != 'e') return kDeferred;
                *at.to = 0xc3;
                return {p + 4, at.to + 1};
            case 'f':
                if (p[1] != 'a' || p[2] != 'l' || p[3] != 's' || p[4] != 'e') return kDeferred;
                *at.to = 0xc2;
                return {p + 5, at.to + 1};
            case 'n':
                if (p[1] != 'u' || p[2] != 'l' || p[3] != 'l') return kDeferred;
                *at.to = 0xc0;
                return {p + 4, at.to + 1};
            default: return number(at);
        }
    }

    At map(At at, int depth, int8_t place) {
        if (depth > kMaxDepth) return kDeferred;
        uint8_t* const head = at.to++;
        ++at.from;
        uint64_t found = 0;  // a bit for each expected key
        size_t count = 0;
        if (place != kNoPlace && !expected_fields(at, depth, places_[place], found, count))
            return kDeferred;
        if ((count == 0 || *at.from != '}') && !other_fields(at, depth, place, found, count))
            return kDeferred;
        ++at.from;
        if (count == 1 && is_reserved(head + 1)) return reserved(head, at);
        return {at.from, close(head, at.to, count, 0x80, 0xde)};
    }

    // Read fields with expected keys, in their order. A map may lack some.
    bool expected_fields(At& at, int depth, Place& place, uint64_t& found, size_t& count) {
        size_t next = 0;
        while (size_t(end_ - at.from) >= kTextBytes) {
            size_t index = next;
            // The text of each key but the first has a comma.
            const size_t last = count ? next + 1 + kSkippedKeys : 1;
            const size_t end = std::min(place.keys.size(), last);
            while (index < end && !is_expected(at.from, place.keys[index])) ++index;
            if (index == end) break;
            Expected& key = place.keys[index];
            found |= uint64_t(1) << index;
            next = index + 1;
            ++count;
            std::memcpy(at.to, key.packed, sizeof key.packed);
            const uint8_t* const p = skip_space(at.from + key.text_size);
            if (key.place == kNoPlace && (*p == '{' || *p == '[')) key.place = new_place();
            at = value({p, at.to + key.packed_size}, depth + 1, key.place);
            if (!at.from) return false;
            if (*at.from == '}') break;
        }
        const uint8_t* const p = skip_space(at.from);
        if (count && *p == '}') {
            at.from = p;
            ++place.hits;
        }
        return true;
    }

    static bool is_expected(const uint8_t* p, const Expected& key) {
        return equal_bytes(p, key.text, key.text_size);
    }

    // A place for maps that have none, while there is one.
    int8_t new_place() { return places_.size() < kPlaces ? add_place() : kNoPlace; }

    int8_t add_place() {
        places_.emplace_back();
        return int8_t(places_.size() - 1);
    }

    // Read the rest of a map, up to its end, and remember its keys.
    bool other_fields(At& at, int depth, int8_t place, uint64_t found, size_t& count) {
        const size_t outer = keys_.size();
        uint64_t seen = 0;  // a bit for the tag of each key
        std::vector<Expected> learned;
        bool learns = place != kNoPlace && places_[place].learns();
        for (uint64_t left = found; left; left &= left - 1) {
            const Expected& key = places_[place].keys[size_t(__builtin_ctzll(left))];
            add_key(key.packed, key.packed_size, outer, seen);
            if (learns) learned.push_back(key);
        }
        const uint8_t* p = skip_space(at.from);
        while (*p != '}') {
            if (count) {
                if (*p != ',') return false;
                p = skip_space(p + 1);
            }
            if (*p != '"') return false;
            const uint8_t *const from = at.from, *const key = at.to;
            at = string({p, at.to});
            if (!at.from || (is_dialect_ && key[1] == '$')) return false;
            if (!add_key(key, size_t(at.to - key), outer, seen)) return false;
            ++count;
            p = skip_space(at.from);
            if (*p != ':') return false;
            p = skip_space(p + 1);
            learns = learns && learn(learned, from, p, key, at.to);
            at = value({p, at.to}, depth + 1, kNoPlace);
            if (!at.from) return false;
            p = skip_space(at.from);
        }
        if (count > kComparedKeys && has_repeated_key(outer)) return false;
        keys_.resize(outer);
        at.from = p;
        if (place != kNoPlace && count) {
            ++places_[place].misses;
            if (!learned.empty()) places_[place].keys = std::move(learned);
        }
        return true;
    }

    // Remember a key, if it is short; false if no more are remembered.
    static bool learn(std::vector<Expected>& learned, const uint8_t* from, const uint8_t* text_end,
                      const uint8_t* key, const uint8_t* key_end) {
        const size_t text_size = size_t(text_end - from), packed_size = size_t(key_end - key);
        if (learned.size() == kExpectedKeys || text_size > kTextBytes || packed_size > kTextBytes)
            return false;
        Expected& made = learned.emplace_back();
        made.text_size = uint8_t(text_size);
        made.packed_size = uint8_t(packed_size);
        made.place = kNoPlace;
        std::memcpy(made.text, from, text_size);
        std::memcpy(made.packed, key, packed_size);
        return true;
    }

    At array(At at, int depth, int8_t place) {
        if (depth > kMaxDepth) return kDeferred;
        uint8_t* const head = at.to++;
        size_t count = 0;
        const uint8_t* p = skip_space(at.from + 1);
        if (*p != ']') for (;;) {
            at = value({p, at.to}, depth + 1, place);
            if (!at.from) return kDeferred;
            ++count;
            p = skip_space(at.from);
            if (*p == ']') break;
            if (*p != ',') return kDeferred;
            p = skip_space(p + 1);
        }
        return {p + 1, close(head, at.to, count, 0x90, 0xdc)};
    }

    // Complete a container whose head has one byte so far; return its end.
    static uint8_t* close(uint8_t* head, uint8_t* end, size_t count, uint8_t small, uint8_t large) {
        if (__builtin_expect(count < 16, 1)) {
            *head = uint8_t(small | count);
            return end;
        }
        const size_t width = count < 65536 ? 2 : 4;
        std::memmove(head + 1 + width, head + 1, size_t(end - head) - 1);
        *head = uint8_t(large + (width == 4));
        for (size_t i = 0; i < width; ++i)
            head[1 + i] = uint8_t(count >> 8 * (width - 1 - i));
        return end + width;
    }

    // Note a key, with its head in MessagePack; false if the map has it already.
    bool add_key(const uint8_t* key, size_t size, size_t outer, uint64_t& seen) {
        uint64_t first = word_at(key), last;  // the output has room after the key
        if (size >= 8) {
            last = word_at(key + size - 8);
        } else {
            first &= (uint64_t(1) << (8 * size)) - 1;
            last = size;
        }
        const uint64_t tag = (first ^ (last << 23 | last >> 41)) * 0x9e3779b97f4a7c15ull;
        const uint64_t bit = uint64_t(1) << (tag >> 58);
        if (__builtin_expect((seen & bit) != 0, 0) && keys_.size() - outer <= kComparedKeys)
            for (size_t i = outer; i < keys_.size(); ++i)
                if (keys_[i].tag == tag && keys_[i].size == size &&
                    std::memcmp(keys_[i].data, key, size) == 0)
                    return false;
        seen |= bit;
        keys_.push_back({tag, key, size});
        return true;
    }

    bool has_repeated_key(size_t outer) {
        const auto compare = [](const Key& a, const Key& b) {
            if (a.tag != b.tag) return a.tag < b.tag ? -1 : 1;
            if (a.size != b.size) return a.size < b.size ? -1 : 1;
            return std::memcmp(a.data, b.data, a.size);
        };
        const auto first = keys_.begin() + std::ptrdiff_t(outer);
        std::sort(first, keys_.end(),
                  [&](const Key& a, const Key& b) { return compare(a, b) < 0; });
        return std::adjacent_find(first, keys_.end(), [&](const Key& a, const Key& b) {
            return compare(a, b) == 0;
        }) != keys_.end();
    }

    // --- Strings --------------------------------------------------------------------------

    At string(At at) {
        const uint8_t* const text = at.from + 1;
#if defined(__SSE2__)
        if (__builtin_expect(end_ - text >= 16, 1)) {
            const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(text));
            const unsigned stops = json_stops(bytes);
            const unsigned size = stops ? unsigned(__builtin_ctz(stops)) : 16;
            const unsigned high = unsigned(_mm_movemask_epi8(bytes)) & ((1u << size) - 1);
            if (__builtin_expect(size < 16 && text[size] == '"' && high == 0, 1)) {
                *at.to = uint8_t(0xa0 | size);
                _mm_storeu_si128(reinterpret_cast<__m128i*>(at.to + 1), bytes);
                return {text + size + 1, at.to + 1 + size};
            }
        }
#endif
        return long_string(text, at.to);
    }

    // Skip plain characters; `bits` gets the bits of all bytes.
    const uint8_t* skip_plain(const uint8_t* p, uint8_t& bits) const {
#if defined(__SSE2__)
        while (end_ - p >= 16) {
            const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
            const unsigned stops = json_stops(bytes);
            const unsigned high = unsigned(_mm_movemask_epi8(bytes));
            if (stops) {
                const unsigned size = unsigned(__builtin_ctz(stops));
                if (high & ((1u << size) - 1)) bits |= 0x80;
                return p + size;
            }
            if (high) bits |= 0x80;
            p += 16;
        }
#endif
        for (; *p >= 0x20 && *p != '"' && *p != '\\'; ++p) bits |= *p;
        return p;  // the 0 after the end is no plain character
    }

    At long_string(const uint8_t* text, uint8_t* to) {
        uint8_t bits = 0;
        const uint8_t* p = skip_plain(text, bits);
        if (__builtin_expect(*p == '"', 1)) {
            const size_t size = size_t(p - text);
            if (bits >= 0x80 && !is_utf8_slow(text, p)) return kDeferred;
            to = head_of_bytes(to, size, 0xa0, 32, 0xd9);
            std::memcpy(to, text, size);
            return {p + 1, to + size};
        }
        uint8_t* const content = to + 5;  // after the largest head
        uint8_t* w = content;
        for (;;) {
            std::memcpy(w, text, size_t(p - text));
            w += p - text;
            if (*p == '"') break;
            if (*p != '\\') return kDeferred;
            p = unescape(p + 1, w);
            if (!p) return kDeferred;
            text = p;
            p = skip_plain(p, bits);
        }
        if (bits >= 0x80 && !is_utf8_slow(content, w)) return kDeferred;
        const size_t size = size_t(w - content);
        to = head_of_bytes(to, size, 0xa0, 32, 0xd9);
        std::memmove(to, content, size);
        return {p + 1, to + size};
    }

    // Write the head of a string (or of binary, which has no small form); return its end.
    static uint8_t* head_of_bytes(
        uint8_t* to, size_t size, uint8_t small, size_t below, uint8_t large) {
        if (size < below) {
            *to = uint8_t(small | size);
            return to + 1;
        }
        const size_t width = size < 256 ? 1 : size < 65536 ? 2 : 4;
        *to = uint8_t(large + (width == 4 ? 2 : width - 1));
        for (size_t i = 0; i < width; ++i) to[1 + i] = uint8_t(size >> 8 * (width - 1 - i));
        return to + 1 + width;
    }

    // Write an escaped character; return the end of the escape, or null.
    const uint8_t* unescape(const uint8_t* p, uint8_t*& w) const {
        switch (*p) {
            case '"': case '\\': case '/': *w++ = *p; return p + 1;
            case 'b': *w++ = '\b'; return p + 1;
            case 'f': *w++ = '\f'; return p + 1;
            case 'n': *w++ = '\n'; return p + 1;
            case 'r': *w++ = '\r'; return p + 1;
            case 't': *w++ = '\t'; return p + 1;
            case 'u': break;
            default: return nullptr;
        }
        int64_t code = hex_digits(p + 1, 4);
        p += 5;
        if (code < 0) return nullptr;
        if (code >= 0xd800 && code < 0xe000) {
            if (code >= 0xdc00 || p[0] != '\\' || p[1] != 'u') return nullptr;
            const int64_t low = hex_digits(p + 2, 4);
            if (low < 0xdc00 || low >= 0xe000) return nullptr;
            code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
            p += 6;
        }
        if (code < 0x80) {
            *w++ = uint8_t(code);
        } else if (code < 0x800) {
            *w++ = uint8_t(0xc0 | code >> 6);
            *w++ = uint8_t(0x80 | (code & 0x3f));
        } else if (code < 0x10000) {
            *w++ = uint8_t(0xe0 | code >> 12);
            *w++ = uint8_t(0x80 | (code >> 6 & 0x3f));
            *w++ = uint8_t(0x80 | (code & 0x3f));
        } else {
            *w++ = uint8_t(0xf0 | code >> 18);
            *w++ = uint8_t(0x80 | (code >> 12 & 0x3f));
            *w++ = uint8_t(0x80 | (code >> 6 & 0x3f));
            *w++ = uint8_t(0x80 | (code & 0x3f));
        }
        return p;
    }

    // Value of hexadecimal digits, or -1; it reads none after another character.
    static int64_t hex_digits(const uint8_t* p, size_t count) {
        int64_t found = 0;
        for (size_t i = 0; i < count; ++i) {
            const int digit = hex_digit(p[i]);
            if (digit < 0) return -1;
            found = found << 4 | digit;
        }
        return found;
    }

    static int hex_digit(uint8_t c) {
        if (is_digit(c)) return c - '0';
        const uint8_t letter = c | 0x20;
        return letter >= 'a' && letter <= 'f' ? letter - 'a' + 10 : -1;
    }

    // --- Numbers --------------------------------------------------------------------------

    static At number(At at) {
        const uint8_t* p = at.from;
        const bool negative = *p == '-';
        p += negative;
        const uint8_t* const digits = p;
        uint64_t mantissa = 0;
        if (*p == '0') {
            ++p;
        } else {
            if (!is_digit(*p)) return kDeferred;
            do mantissa = mantissa * 10 + (*p++ - '0');
            while (is_digit(*p));
        }
        size_t count = size_t(p - digits);
        if (*p != '.' && (*p | 0x20) != 'e') {
            if (count > 19 && !parse_integer(digits, count, mantissa)) return kDeferred;
            if (negative && mantissa > uint64_t(1) << 63) return kDeferred;
            return {p, negative ? negative_integer(at.to, -mantissa) : integer(at.to, mantissa)};
        }
        int exponent = 0;
        if (*p == '.') {
            const uint8_t* const fraction = ++p;
            if (!is_digit(*p)) return kDeferred;
            do mantissa = mantissa * 10 + (*p++ - '0');
            while (is_digit(*p));
            if (p - fraction > kMaxExponent) return kDeferred;
            exponent = -int(p - fraction);
            count += size_t(p - fraction);
        }
        if ((*p | 0x20) == 'e') {
            ++p;
            const bool below = *p == '-';
            if (*p == '-' || *p == '+') ++p;
            if (!is_digit(*p)) return kDeferred;
            int more = 0;
            for (; is_digit(*p); ++p)
                if (more < kMaxExponent) more = more * 10 + (*p - '0');
            exponent += below ? -more : more;
        }
        double value;
        // Both operands of one operation are exact, so its result is rounded correctly.
        if (count <= 19 && mantissa <= uint64_t(1) << 53 && exponent >= -22 && exponent <= 22) {
            value = double(mantissa);
            if (exponent < 0) value /= kPowers[-exponent];
            else value *= kPowers[exponent];
            if (negative) value = -value;
        } else {
#if defined(__cpp_lib_to_chars)
            const char* const text = reinterpret_cast<const char*>(at.from);
            const char* const end = reinterpret_cast<const char*>(p);
            const auto done = std::from_chars(text, end, value);
            if (done.ec != std::errc() || done.ptr != end) return kDeferred;
#else
            return kDeferred;  // Some standard libraries read integers only.
#endif
        }
        uint64_t bits;
        std::memcpy(&bits, &value, 8);
        return {p, word(at.to, 0xcb, bits)};
    }

    static constexpr int kMaxExponent = 100000;  // more digits mean infinity or zero
    static constexpr double kPowers[] = {
        1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
        1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

    static bool parse_integer(const uint8_t* digits, size_t count, uint64_t& found) {
        if (count > 20) return false;
        found = 0;
        for (size_t i = 0; i < count; ++i)
            if (__builtin_mul_overflow(found, uint64_t(10), &found) ||
                __builtin_add_overflow(found, uint64_t(digits[i] - '0'), &found))
                return false;
        return true;
    }

    static uint8_t* word(uint8_t* to, uint8_t first, uint64_t bits) {
        *to = first;
        bits = __builtin_bswap64(bits);
        std::memcpy(to + 1, &bits, 8);
        return to + 9;
    }

    static uint8_t* integer(uint8_t* to, uint64_t value) {
        if (value < 128) { *to = uint8_t(value); return to + 1; }
        if (value < 256) { to[0] = 0xcc; to[1] = uint8_t(value); return to + 2; }
        if (value < 65536) {
            to[0] = 0xcd; to[1] = uint8_t(value >> 8); to[2] = uint8_t(value);
            return to + 3;
        }
        if (value >> 32) return word(to, 0xcf, value);
        *to = 0xce;
        const uint32_t bits = __builtin_bswap32(uint32_t(value));
        std::memcpy(to + 1, &bits, 4);
        return to + 5;
    }

    // Write the two's complement of a negative integer, or 0.
    static uint8_t* negative_integer(uint8_t* to, uint64_t bits) {
        const int64_t value = int64_t(bits);
        if (value >= -32) { *to = uint8_t(value); return to + 1; }
        if (value >= INT8_MIN) { to[0] = 0xd0; to[1] = uint8_t(value); return to + 2; }
        if (value >= INT16_MIN) {
            to[0] = 0xd1; to[1] = uint8_t(bits >> 8); to[2] = uint8_t(bits);
            return to + 3;
        }
        if (value < INT32_MIN) return word(to, 0xd3, bits);
        *to = 0xd2;
        const uint32_t low = __builtin_bswap32(uint32_t(bits));
        std::memcpy(to + 1, &low, 4);
        return to + 5;
    }

    // --- Reserved forms -------------------------------------------------------------------

    static bool is_key(const uint8_t* key, const char* name) {
        const size_t size = std::strlen(name);
        return *key == (0xa0 | size) && std::memcmp(key + 1, name, size) == 0;
    }

    static bool is_reserved(const uint8_t* key) {
        return key[1] == '$' && (is_key(key, "$time") || is_key(key, "$bytes") ||
                                 is_key(key, "$float") || is_key(key, "$ext") ||
                                 is_key(key, "$map"));
    }

    // Replace a map with one reserved key, which was written from `head` on, by its value.
    static At reserved(uint8_t* head, At at) {
        const uint8_t* const key = head + 1;
        const uint8_t* const end = at.to;
        const Head value = read_head(key + 1 + (*key & 0x1f), end);
        const bool is_text = value.token == Token::String;
        uint8_t* to = nullptr;
        if (is_key(key, "$bytes") && is_text) {
            to = binary(head, value.body, value.size);
        } else if (is_key(key, "$float") && is_text) {
            to = special_float(head, value);
        } else if (is_key(key, "$time")) {
            Timestamp stamp;
            const bool is_time = is_text ? parse_time(value.body, value.size, stamp)
                                         : parse_pair(value, end, stamp);
            if (is_time) to = timestamp(head, stamp);
        } else if (is_key(key, "$ext") && value.token == Token::Array && value.size == 2) {
            to = extension(head, value.body, end);
        }
        return to ? At{at.from, to} : kDeferred;
    }

    static bool decode_hex(const uint8_t* text, size_t size, uint8_t* to) {
        if (size % 2) return false;
        for (size_t i = 0; i < size; i += 2) {
            const int64_t byte = hex_digits(text + i, 2);
            if (byte < 0) return false;
            to[i / 2] = uint8_t(byte);
        }
        return true;
    }

    static uint8_t* binary(uint8_t* to, const uint8_t* text, size_t size) {
        // The head and each byte end before the digits that they are made of.
        if (size % 2) return nullptr;
        to = head_of_bytes(to, size / 2, 0, 0, 0xc4);
        return decode_hex(text, size, to) ? to + size / 2 : nullptr;
    }

    static uint8_t* special_float(uint8_t* to, const Head& text) {
        const auto is = [&](const char* name) {
            return text.size == std::strlen(name) && std::memcmp(text.body, name, text.size) == 0;
        };
        if (is("NaN")) return word(to, 0xcb, 0x7ff8000000000000ull);
        if (is("Inf") || is("Infinity")) return word(to, 0xcb, 0x7ff0000000000000ull);
        if (is("-Inf") || is("-Infinity")) return word(to, 0xcb, 0xfff0000000000000ull);
        return nullptr;
    }

    static uint8_t* extension(uint8_t* to, const uint8_t* pair, const uint8_t* end) {
        const Head code = read_head(pair, end);
        const Head text = read_head(code.body, end);
        if (code.token != Token::Positive || text.token != Token::String || text.size % 2)
            return nullptr;
        const size_t size = text.size / 2;
        if (size && size <= 16 && (size & (size - 1)) == 0) {
            *to++ = uint8_t(0xd4 + __builtin_ctz(unsigned(size)));
        } else {
            to = head_of_bytes(to, size, 0, 0, 0xc7);
        }
        *to++ = uint8_t(code.bits);
        return decode_hex(text.body, text.size, to) ? to + size : nullptr;
    }

    // Read a time of the form "2024-02-29T06:30:00.25Z".
    static bool parse_time(const uint8_t* text, size_t size, Timestamp& stamp) {
        if (size && text[size - 1] == 'Z') --size;
        if (size < 19 || text[4] != '-' || text[7] != '-' || text[10] != 'T' || text[13] != ':' ||
            text[16] != ':')
            return false;
        const int year = two(text) * 100 + two(text + 2), month = two(text + 5);
        const int day = two(text + 8), hour = two(text + 11), minute = two(text + 14);
        const int second = two(text + 17);
        if (two(text) < 0 || two(text + 2) < 0 || year < 1 || month < 1 || month > 12 || day < 1 ||
            hour < 0 || hour > 23 || minute < 0 || minute > 59 || second < 0 || second > 59)
            return false;
        static constexpr uint8_t days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
        const bool leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        if (day > days[month - 1] + (leap && month == 2)) return false;
        uint32_t nanoseconds = 0;
        if (size > 19) {
            if (text[19] != '.' || size == 20 || size > 29) return false;
            for (size_t i = 20; i < 29; ++i) {
                if (i < size && !is_digit(text[i])) return false;
                nanoseconds = nanoseconds * 10 + (i < size ? text[i] - '0' : 0);
            }
        }
        stamp.seconds = days_of(year, month, day) * 86400 + hour * 3600 + minute * 60 + second;
        stamp.nanoseconds = nanoseconds;
        return true;
    }

    static int two(const uint8_t* text) {
        return is_digit(text[0]) && is_digit(text[1]) ? (text[0] - '0') * 10 + text[1] - '0' : -1;
    }

    // Read a time of the form [seconds, nanoseconds].
    static bool parse_pair(const Head& value, const uint8_t* end, Timestamp& stamp) {
        if (value.token != Token::Array || value.size != 2) return false;
        const Head seconds = read_head(value.body, end);
        const Head rest = read_head(seconds.body, end);
        const bool is_positive = seconds.token == Token::Positive || seconds.token == Token::UInt;
        const bool is_negative = seconds.token == Token::Negative || seconds.token == Token::Int;
        if (!is_negative && !(is_positive && seconds.bits <= uint64_t(INT64_MAX))) return false;
        if (rest.token != Token::Positive && rest.token != Token::UInt) return false;
        if (rest.bits >= 1000000000) return false;
        stamp = {int64_t(seconds.bits), uint32_t(rest.bits)};
        return true;
    }

    static uint8_t* timestamp(uint8_t* to, const Timestamp& stamp) {
        const uint64_t seconds = uint64_t(stamp.seconds);
        if (seconds >> 34) {
            to[0] = 0xc7; to[1] = 12; to[2] = 0xff;
            const uint32_t rest = __builtin_bswap32(stamp.nanoseconds);
            std::memcpy(to + 3, &rest, 4);
            const uint64_t bits = __builtin_bswap64(seconds);
            std::memcpy(to + 7, &bits, 8);
            return to + 15;
        }
        const uint64_t packed = uint64_t(stamp.nanoseconds) << 34 | seconds;
        to[1] = 0xff;
        if (packed >> 32 == 0) {
            to[0] = 0xd6;
            const uint32_t bits = __builtin_bswap32(uint32_t(packed));
            std::memcpy(to + 2, &bits, 4);
            return to + 6;
        }
        to[0] = 0xd7;
        const uint64_t bits = __builtin_bswap64(packed);
        std::memcpy(to + 2, &bits, 8);
        return to + 10;
    }

    const uint8_t* const begin_;
    const uint8_t* const end_;
    const bool is_dialect_;
    Buffer out_;
    std::vector<int64_t> bounds_;
    std::vector<Key> keys_;
    std::deque<Place> places_ = std::deque<Place>(1);  // the first has whole documents
};

// Ends of documents in JSON text that arrives in blocks. Only brackets and quotes are read, so the
// ends are right up to the first error of the text.
class JsonScanner {
  public:
    // Scan a block; return the end of the last document of `level` open brackets, or -1.
    int64_t run(const uint8_t* data, size_t size, int64_t level) {
        int64_t last = -1;
        for (size_t i = 0; i < size; ++i) {
            const uint8_t c = data[i];
            if (in_string_) {
                if (escaped_) { escaped_ = false; continue; }
                if (c == '\\') { escaped_ = true; continue; }
                if (c == '"') { in_string_ = false; continue; }
#if defined(__SSE2__)
                while (size - i > 16 && !quotes_at(data + i + 1)) i += 16;
#endif
            } else if (c == '"') {
                in_string_ = true;
            } else if (c == '{' || c == '[') {
                ++depth_;
            } else if (c == '}' || c == ']') {
                if (--depth_ == level && c == '}') last = int64_t(i) + 1;
            }
        }
        return last;
    }

  private:
#if defined(__SSE2__)
    static bool quotes_at(const uint8_t* p) {
        const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
        const __m128i quotes = _mm_cmpeq_epi8(bytes, _mm_set1_epi8('"'));
        const __m128i escapes = _mm_cmpeq_epi8(bytes, _mm_set1_epi8('\\'));
        return _mm_movemask_epi8(_mm_or_si128(quotes, escapes)) != 0;
    }
#endif

    int64_t depth_ = 0;
    bool in_string_ = false;
    bool escaped_ = false;
};

}  // namespace godb
