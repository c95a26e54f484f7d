// Writing of MessagePack values and documents as JSON text, exactly as godb_arrow.codec.jsontext.

#pragma once

#include <charconv>
#include <cmath>

#include "bytes.hpp"
#include "calendar.hpp"
#include "jsonchars.hpp"
#include "memory.hpp"

namespace godb {

class JsonWriter {
  public:
    // With `simple`, timestamps are strings, binary is base64, and NaN and infinities are null.
    explicit JsonWriter(Buffer& out, bool simple = false) : out_(out), simple_(simple) {}

    // Write a scanned document and a line feed; false at an invalid extension. The document is
    // written with its id in the collection, unless that is null.
    bool line(const uint8_t* id, const uint8_t* document, const uint8_t* end) {
        At at;
        if (!id || has_id(document, end, id)) {
            at = top(document, end);
        } else {
            is_careful_ = true;
            at = with_id(id, {document, begin()}, end);
            is_careful_ = false;
        }
        if (!at.from) return false;
        at.to = room(at.to, 1);
        *at.to++ = '\n';
        finish(at.to);
        return true;
    }

    // Write one value of a scanned document; false at an invalid extension.
    bool value(const uint8_t*& p, const uint8_t* end) {
        const At at = top(p, end);
        if (!at.from) return false;
        p = at.from;
        finish(at.to);
        return true;
    }

  private:
    // Where values are read and text is written; `from` is null after an invalid extension.
    struct At { const uint8_t* from; uint8_t* to; };

    static constexpr size_t kMostScalar = 64;  // bytes of the text of a number or a time
    static constexpr size_t kVector = 16;

    // Write a value at the end of the text. Maps are at first taken for maps with plain keys. If one
    // is not, all keys of each map are read before it is written.
    At top(const uint8_t* p, const uint8_t* end) {
        const size_t start = out_.size();
        At at = write({p, begin()}, end);
        if (!at.from) {
            out_.truncate(start);  // Text is kept where the memory grew.
            is_careful_ = true;
            at = write({p, begin()}, end);
            is_careful_ = false;
        }
        return at;
    }

    uint8_t* begin() {
        out_.reserve(kMostScalar);
        limit_ = out_.data() + out_.capacity();
        return out_.data() + out_.size();
    }

    void finish(const uint8_t* to) { out_.truncate(size_t(to - out_.data())); }

    // The same place with room for more bytes after it.
    uint8_t* room(uint8_t* to, size_t more) {
        return __builtin_expect(size_t(limit_ - to) >= more, 1) ? to : grow(to, more);
    }

    __attribute__((noinline)) uint8_t* grow(uint8_t* to, size_t more) {
        finish(to);
        out_.reserve(more);
        return begin();
    }


    template <size_t N>
    static uint8_t* text(uint8_t* to, const char (&literal)[N]) {
        std::memcpy(to, literal, N - 1);
        return to + N - 1;
    }

    template <typename T>
    static uint8_t* number(uint8_t* to, T value) {
        char* const digits = reinterpret_cast<char*>(to);
        return reinterpret_cast<uint8_t*>(std::to_chars(digits, digits + 24, value).ptr);
    }

    At write(At at, const uint8_t* end) {
        if ((*at.from & 0xe0) == 0xa0) {
            const At next = short_text(at, end);
            if (__builtin_expect(next.from != nullptr, 1)) return next;
        }
        const Head head = read_head(at.from, end);
        at.from = head.body;
        at.to = room(at.to, kMostScalar);
        switch (head.token) {
            case Token::Nil: at.to = text(at.to, "null"); return at;
            case Token::False: at.to = text(at.to, "false"); return at;
            case Token::True: at.to = text(at.to, "true"); return at;
            case Token::Positive:
            case Token::UInt: at.to = number(at.to, head.bits); return at;
            case Token::Negative:
            case Token::Int: at.to = number(at.to, int64_t(head.bits)); return at;
            case Token::Float32:
            case Token::Float64: at.to = floating(at.to, as_double(head)); return at;
            case Token::String: return {head.body + head.size, string(at.to, head)};
            case Token::Binary:
                return {head.body + head.size, bytes(at.to, head.body, head.size)};
            case Token::Extension: {
                uint8_t* const to = extension(at.to, head);
                return {to ? head.body + head.size : nullptr, to};
            }
            case Token::Array: return array(head.size, at, end);
            case Token::Map: return map(head.size, at, end);
            default: return {nullptr, nullptr};
        }
    }

    // --- Text -----------------------------------------------------------------------------

    // Write a string of a few plain ASCII characters, or return null.
    At short_text(At at, const uint8_t* end) {
#if defined(__SSE2__)
        const int size = short_string(at.from);
        const uint8_t* const data = at.from + 1;
        if (__builtin_expect(size >= 0 && size <= int(kVector) && end - data >= int(kVector), 1)) {
            const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(data));
            const unsigned odd = json_stops(bytes) | unsigned(_mm_movemask_epi8(bytes));
            if (__builtin_expect((odd & ((1u << size) - 1)) == 0, 1)) {
                uint8_t* const to = room(at.to, kVector + 2);
                *to = '"';
                _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 1), bytes);
                to[1 + size] = '"';
                return {data + size, to + size + 2};
            }
        }
#else
        (void)end;
#endif
        return {nullptr, at.to};
    }

    uint8_t* string(uint8_t* to, const Head& head) {
        return is_utf8(head.body, head.size) ? quoted(to, head.body, head.size)
                                             : bytes(to, head.body, head.size);
    }

    uint8_t* quoted(uint8_t* to, const uint8_t* data, size_t size) {
        const uint8_t* const end = data + size;
        to = room(to, size + 2);
        *to++ = '"';
        for (;;) {
            const uint8_t* const plain = data;
            data = skip_plain(data, end);
            std::memcpy(to, plain, size_t(data - plain));
            to += data - plain;
            if (data == end) break;
            to = escaped(room(to, size_t(end - data) + 7), *data);
            ++data;
        }
        *to++ = '"';
        return to;
    }

    static const uint8_t* skip_plain(const uint8_t* p, const uint8_t* end) {
#if defined(__SSE2__)
        while (size_t(end - p) >= kVector) {
            const unsigned stops = json_stops(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
            if (stops) return p + __builtin_ctz(stops);
            p += kVector;
        }
#endif
        while (p < end && *p >= 0x20 && *p != '"' && *p != '\\') ++p;
        return p;
    }

    static uint8_t* escaped(uint8_t* to, uint8_t c) {
        switch (c) {
            case '"': return text(to, "\\\"");
            case '\\': return text(to, "\\\\");
            case '\n': return text(to, "\\n");
            case '\r': return text(to, "\\r");
            case '\t': return text(to, "\\t");
            case '\b': return text(to, "\\b");
            case '\f': return text(to, "\\f");
            default: return hex(text(to, "\\u00"), &c, 1);
        }
    }

    static uint8_t* hex(uint8_t* to, const uint8_t* data, size_t size) {
        static const char digits[] = "0123456789abcdef";
        for (size_t i = 0; i < size; ++i) {
            *to++ = uint8_t(digits[data[i] >> 4]);
            *to++ = uint8_t(digits[data[i] & 15]);
        }
        return to;
    }

    static uint8_t* base64(uint8_t* to, const uint8_t* data, size_t size) {
        static const char digits[] =
            "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        for (size_t i = 0; i < size; i += 3) {
            const uint32_t bits = uint32_t(data[i]) << 16 |
                                  (i + 1 < size ? uint32_t(data[i + 1]) << 8 : 0) |
                                  (i + 2 < size ? data[i + 2] : 0);
            *to++ = uint8_t(digits[bits >> 18]);
            *to++ = uint8_t(digits[bits >> 12 & 63]);
            *to++ = i + 1 < size ? uint8_t(digits[bits >> 6 & 63]) : '=';
            *to++ = i + 2 < size ? uint8_t(digits[bits & 63]) : '=';
        }
        return to;
    }

    uint8_t* bytes(uint8_t* to, const uint8_t* data, size_t size) {
        to = room(to, 2 * size + kMostScalar);
        if (simple_) {
            *to++ = '"';
            to = base64(to, data, size);
            *to++ = '"';
            return to;
        }
        return text(hex(text(to, "{\"$bytes\":\""), data, size), "\"}");
    }

    // Write an extension; null if it is invalid.
    uint8_t* extension(uint8_t* to, const Head& head) {
        if (head.ext_type < -1) return nullptr;
        if (head.ext_type == -1) {
            Timestamp stamp;
            return read_timestamp(head, stamp) ? time(to, stamp) : nullptr;
        }
        to = room(to, 2 * head.size + kMostScalar);
        to = text(number(text(to, "{\"$ext\":["), int(head.ext_type)), ",\"");
        return text(hex(to, head.body, head.size), "\"]}");
    }

    // --- Numbers and times, for which there is room -----------------------------------------

    // Like Python's repr: the shortest digits, with an exponent below 1e-4 and from 1e16.
    uint8_t* floating(uint8_t* to, double value) const {
        if (!std::isfinite(value)) {
            if (simple_) return text(to, "null");
            if (std::isnan(value)) return text(to, "{\"$float\":\"NaN\"}");
            return value > 0 ? text(to, "{\"$float\":\"Inf\"}") : text(to, "{\"$float\":\"-Inf\"}");
        }
        if (uint8_t* const done = short_decimal(to, value)) return done;
        char raw[40];
        const auto done =
            std::to_chars(raw, raw + sizeof raw, value, std::chars_format::scientific);
        const char* at = raw;
        if (*at == '-') { *to++ = '-'; ++at; }
        char digits[24];
        int count = 0;
        for (; *at != 'e'; ++at)
            if (*at != '.') digits[count++] = *at;
        int exponent = 0;
        std::from_chars(at[1] == '+' ? at + 2 : at + 1, done.ptr, exponent);
        while (count > 1 && digits[count - 1] == '0') --count;
        if (exponent < -4 || exponent >= 16) {
            *to++ = uint8_t(digits[0]);
            if (count > 1) {
                *to++ = '.';
                to = copied(to, digits + 1, count - 1);
            }
            *to++ = 'e';
            *to++ = exponent < 0 ? '-' : '+';
            const int size = exponent < 0 ? -exponent : exponent;
            if (size < 10) *to++ = '0';
            return number(to, size);
        }
        if (exponent < 0) {
            to = text(to, "0.");
            for (int i = -1; i > exponent; --i) *to++ = '0';
            return copied(to, digits, count);
        }
        for (int i = 0; i <= exponent; ++i) *to++ = uint8_t(i < count ? digits[i] : '0');
        *to++ = '.';
        if (count > exponent + 1) return copied(to, digits + exponent + 1, count - exponent - 1);
        *to++ = '0';
        return to;
    }

    static uint8_t* copied(uint8_t* to, const char* digits, int count) {
        std::memcpy(to, digits, size_t(count));
        return to + count;
    }

    // Write a number that is an integer of 15 digits divided by a power of ten, or return null. No
    // two decimals of 15 digits are the same number, so none has fewer digits.
    static uint8_t* short_decimal(uint8_t* to, double value) {
        static constexpr double powers[] = {1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6};
        static constexpr uint64_t divisors[] = {1, 10, 100, 1000, 10000, 100000, 1000000};
        const double size = std::fabs(value);
        if (!(size >= 1e-3 && size < 1e9)) return nullptr;
        for (int places = 1; places <= 6; ++places) {
            const uint64_t scaled = uint64_t(size * powers[places] + 0.5);
            if (double(scaled) / powers[places] != size) continue;
            if (value < 0) *to++ = '-';
            to = number(to, scaled / divisors[places]);
            *to = '.';
            uint64_t rest = scaled % divisors[places];
            for (int i = places; i > 0; --i) {
                to[i] = uint8_t('0' + rest % 10);
                rest /= 10;
            }
            return to + places + 1;
        }
        return nullptr;
    }

    uint8_t* time(uint8_t* to, const Timestamp& stamp) const {
        constexpr int64_t first = -62135596800, last = 253402300799;  // years 1 to 9999
        if (stamp.seconds < first || stamp.seconds > last) {
            to = number(text(to, "{\"$time\":["), stamp.seconds);
            *to++ = ',';
            return text(number(to, stamp.nanoseconds), "]}");
        }
        if (!simple_) to = text(to, "{\"$time\":");
        int64_t days = stamp.seconds / 86400, rest = stamp.seconds % 86400;
        if (rest < 0) { rest += 86400; --days; }
        const Date date = date_of(days);
        std::memcpy(to, "\"YYYY-MM-DDThh:mm:ss.nnnnnnnnn", 30);
        two_digits(to + 1, date.year / 100);
        two_digits(to + 3, date.year % 100);
        two_digits(to + 6, date.month);
        two_digits(to + 9, date.day);
        two_digits(to + 12, int(rest / 3600));
        two_digits(to + 15, int(rest / 60 % 60));
        two_digits(to + 18, int(rest % 60));
        size_t size = 20;
        if (stamp.nanoseconds) {
            uint32_t nanoseconds = stamp.nanoseconds;
            for (int i = 29; i > 20; --i) {
                to[i] = uint8_t('0' + nanoseconds % 10);
                nanoseconds /= 10;
            }
            size = 30;
            while (to[size - 1] == '0') --size;
        }
        return simple_ ? text(to + size, "Z\"") : text(to + size, "Z\"}");
    }

    static void two_digits(uint8_t* to, int value) {
        to[0] = uint8_t('0' + value / 10);
        to[1] = uint8_t('0' + value % 10);
    }

    // --- Containers -----------------------------------------------------------------------

    At array(uint64_t count, At at, const uint8_t* end) {
        *at.to++ = '[';
        for (uint64_t i = 0; i < count; ++i) {
            if (i) *at.to++ = ',';
            at = write(at, end);
            if (!at.from) return at;
            at.to = room(at.to, 2);
        }
        *at.to++ = ']';
        return at;
    }

    At map(uint64_t count, At at, const uint8_t* end) {
        const bool named = !is_careful_ || plain(count, at.from, end, count == 1);
        if (!is_careful_ && count == 1 && !plain(count, at.from, end, true)) return {nullptr, at.to};
        at.to = named ? text(at.to, "{") : text(at.to, "{\"$map\":[");
        for (uint64_t i = 0; i < count; ++i) {
            if (i) *at.to++ = ',';
            at = pair(at, end, named);
            if (!at.from) return at;
        }
        at.to = named ? text(at.to, "}") : text(at.to, "]}");
        return at;
    }

    // Write a key and its value, with room for two bytes after them.
    At pair(At at, const uint8_t* end, bool named) {
        if (named) {
            const At next = short_text(at, end);
            if (__builtin_expect(next.from != nullptr, 1)) {
                at = next;
            } else {
                const Head key = read_head(at.from, end);
                if (key.token != Token::String || !is_utf8(key.body, key.size))
                    return {nullptr, at.to};
                at = {key.body + key.size, quoted(at.to, key.body, key.size)};
            }
            at.to = room(at.to, 1);
            *at.to++ = ':';
        } else {
            at.to = room(at.to, 1);
            *at.to++ = '[';
            at = write(at, end);
            if (!at.from) return at;
            at.to = room(at.to, 1);
            *at.to++ = ',';
        }
        at = write(at, end);
        if (!at.from) return at;
        at.to = room(at.to, 4);
        if (!named) *at.to++ = ']';
        return at;
    }

    // Whether all keys are UTF-8 strings, and a map alone would not be mistaken for another form.
    bool plain(uint64_t count, const uint8_t* p, const uint8_t* end, bool is_alone) const {
        for (uint64_t i = 0; i < count; ++i) {
            const Head key = read_head(p, end);
            if (key.token != Token::String || !is_utf8(key.body, key.size)) return false;
            if (is_alone && !simple_ && reserved(key.body, key.size)) return false;
            p = key.body + key.size;
            skip(p, end);
        }
        return true;
    }

    static bool reserved(const uint8_t* data, size_t size) {
        static const char* const names[] = {"$bytes", "$time", "$float", "$ext", "$map"};
        for (const char* name : names)
            if (std::strlen(name) == size && std::memcmp(name, data, size) == 0) return true;
        return false;
    }

    // Skip a value of a scanned document.
    static void skip(const uint8_t*& p, const uint8_t* end) {
        const uint8_t* const next = behind_scalar(p);
        if (next) p = next;
        else pass_over<false>(p, end, kMaxDepth);
    }

    // --- Ids ------------------------------------------------------------------------------

    static bool is_id(const Head& key) {
        return key.token == Token::String && key.size == 3 && std::memcmp(key.body, "_id", 3) == 0;
    }

    // Whether the document repeats its id in its first field of that name. The id precedes it.
    static bool has_id(const uint8_t* document, const uint8_t* end, const uint8_t* id) {
        static const uint8_t name[] = {0xa3, '_', 'i', 'd'};
        const Head head = read_head(document, end);
        const uint8_t* p = head.body;
        const size_t size = size_t(document - id);
        if (head.size && size_t(end - p) >= sizeof name + size &&
            std::memcmp(p, name, sizeof name) == 0 && std::memcmp(p + sizeof name, id, size) == 0)
            return true;
        const Head wanted = read_head(id, document);
        for (uint64_t i = 0; i < head.size; ++i) {
            const bool named = is_id(read_head(p, end));
            skip(p, end);
            if (named) {
                const Head value = read_head(p, end);
                return value.token == Token::String && value.size == wanted.size &&
                       std::memcmp(value.body, wanted.body, wanted.size) == 0;
            }
            skip(p, end);
        }
        return false;
    }

    // Write a document with an id in front, and without its own fields of that name.
    At with_id(const uint8_t* id, At at, const uint8_t* end) {
        const uint8_t* const document = at.from;
        const Head head = read_head(document, end);
        const bool named = plain(head.size, head.body, end, false);
        at.to = named ? text(at.to, "{\"_id\":") : text(at.to, "{\"$map\":[[\"_id\",");
        at.to = room(write({id, at.to}, document).to, 4);
        if (!named) *at.to++ = ']';
        at.from = head.body;
        for (uint64_t i = 0; i < head.size; ++i) {
            if (is_id(read_head(at.from, end))) {
                skip(at.from, end);
                skip(at.from, end);
                continue;
            }
            *at.to++ = ',';
            at = pair(at, end, named);
            if (!at.from) return at;
        }
        at.to = named ? text(at.to, "}") : text(at.to, "]}");
        return at;
    }

    Buffer& out_;
    const bool simple_;
    bool is_careful_ = false;  // whether the keys of a map are read before it is written
    uint8_t* limit_ = nullptr;  // end of the memory of `out_`
};

}  // namespace godb
