// Writing of a MessagePack value as JSON text, exactly as godb_arrow.codec.jsontext does.

#pragma once

#include <charconv>
#include <cmath>
#include <cstdio>

#include "bytes.hpp"
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
        if (!id || has_id(document, end, read_head(id, document))) {
            if (!value(document, end)) return false;
        } else if (!with_id(id, document, end)) {
            return false;
        }
        out_.push_byte('\n');
        return true;
    }

    // Write one value of a scanned document; false at an invalid extension.
    bool value(const uint8_t*& p, const uint8_t* end) {
        const Head head = read_head(p, end);
        p = head.body;
        switch (head.token) {
            case Token::Nil: text("null"); return true;
            case Token::False: text("false"); return true;
            case Token::True: text("true"); return true;
            case Token::Positive:
            case Token::UInt: number(head.bits); return true;
            case Token::Negative:
            case Token::Int: number(int64_t(head.bits)); return true;
            case Token::Float32:
            case Token::Float64: floating(as_double(head)); return true;
            case Token::String:
                p += head.size;
                string(head, end);
                return true;
            case Token::Binary: p += head.size; bytes(head.body, head.size); return true;
            case Token::Extension: p += head.size; return extension(head);
            case Token::Array: return array(head.size, p, end);
            case Token::Map: return map(head.size, p, end);
            default: return false;
        }
    }

    void quoted(const uint8_t* data, size_t size) {
        out_.push_byte('"');
        const uint8_t* const end = data + size;
        for (;;) {
            const uint8_t* const plain = data;
            data = skip_plain(data, end);
            out_.append(plain, size_t(data - plain));
            if (data == end) break;
            switch (*data) {
                case '"': text("\\\""); break;
                case '\\': text("\\\\"); break;
                case '\n': text("\\n"); break;
                case '\r': text("\\r"); break;
                case '\t': text("\\t"); break;
                case '\b': text("\\b"); break;
                case '\f': text("\\f"); break;
                default:
                    text("\\u00");
                    hex(data, 1);
            }
            ++data;
        }
        out_.push_byte('"');
    }

  private:
    static const uint8_t* skip_plain(const uint8_t* p, const uint8_t* end) {
#if defined(__SSE2__)
        while (end - p >= 16) {
            const unsigned stops =
                json_stops(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
            if (stops) return p + __builtin_ctz(stops);
            p += 16;
        }
#endif
        while (p < end && *p >= 0x20 && *p != '"' && *p != '\\') ++p;
        return p;
    }

    // Write a string; the bytes up to `end` can be read.
    void string(const Head& head, const uint8_t* end) {
#if defined(__SSE2__)
        if (__builtin_expect(head.size <= 16 && end - head.body >= 16, 1)) {
            const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(head.body));
            const unsigned odd = json_stops(bytes) | unsigned(_mm_movemask_epi8(bytes));
            if (__builtin_expect((odd & ((1u << head.size) - 1)) == 0, 1)) {
                out_.reserve(18);
                uint8_t* const to = out_.data() + out_.size();
                *to = '"';
                _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 1), bytes);
                to[1 + head.size] = '"';
                out_.extend(head.size + 2);
                return;
            }
        }
#endif
        (void)end;
        if (is_utf8(head.body, head.size)) quoted(head.body, head.size);
        else bytes(head.body, head.size);
    }

    template <size_t N>
    void text(const char (&literal)[N]) { out_.append(literal, N - 1); }

    template <typename T>
    void number(T value) {
        char digits[24];
        const auto done = std::to_chars(digits, digits + sizeof digits, value);
        out_.append(digits, size_t(done.ptr - digits));
    }

    // Like Python's repr: the shortest digits, with an exponent below 1e-4 and from 1e16.
    void floating(double value) {
        if (!std::isfinite(value)) {
            if (simple_) text("null");
            else if (std::isnan(value)) text("{\"$float\":\"NaN\"}");
            else if (value > 0) text("{\"$float\":\"Inf\"}");
            else text("{\"$float\":\"-Inf\"}");
            return;
        }
        if (short_decimal(value)) return;
        char raw[40];
        const auto done =
            std::to_chars(raw, raw + sizeof raw, value, std::chars_format::scientific);
        const char* at = raw;
        if (*at == '-') { out_.push_byte('-'); ++at; }
        char digits[24];
        int count = 0;
        for (; *at != 'e'; ++at)
            if (*at != '.') digits[count++] = *at;
        int exponent = 0;
        std::from_chars(at[1] == '+' ? at + 2 : at + 1, done.ptr, exponent);
        while (count > 1 && digits[count - 1] == '0') --count;
        if (exponent < -4 || exponent >= 16) {
            out_.push_byte(uint8_t(digits[0]));
            if (count > 1) {
                out_.push_byte('.');
                out_.append(digits + 1, size_t(count - 1));
            }
            char tail[8];
            const int size = std::snprintf(tail, sizeof tail, "e%c%02d", exponent < 0 ? '-' : '+',
                                           exponent < 0 ? -exponent : exponent);
            out_.append(tail, size_t(size));
        } else if (exponent < 0) {
            text("0.");
            for (int i = -1; i > exponent; --i) out_.push_byte('0');
            out_.append(digits, size_t(count));
        } else {
            for (int i = 0; i <= exponent; ++i) out_.push_byte(uint8_t(i < count ? digits[i] : '0'));
            out_.push_byte('.');
            if (count > exponent + 1) out_.append(digits + exponent + 1, size_t(count - exponent - 1));
            else out_.push_byte('0');
        }
    }

    // Write a number that is an integer of 15 digits divided by a power of ten, if it is one. No two
    // decimals of 15 digits are the same number, so none has fewer digits.
    bool short_decimal(double value) {
        static constexpr double powers[] = {1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6};
        static constexpr uint64_t divisors[] = {1, 10, 100, 1000, 10000, 100000, 1000000};
        const double size = std::fabs(value);
        if (!(size >= 1e-3 && size < 1e9)) return false;
        for (int places = 1; places <= 6; ++places) {
            const uint64_t scaled = uint64_t(size * powers[places] + 0.5);
            if (double(scaled) / powers[places] != size) continue;
            if (value < 0) out_.push_byte('-');
            number(scaled / divisors[places]);
            char digits[8];
            digits[0] = '.';
            uint64_t rest = scaled % divisors[places];
            for (int i = places; i > 0; --i) {
                digits[i] = char('0' + rest % 10);
                rest /= 10;
            }
            out_.append(digits, size_t(places) + 1);
            return true;
        }
        return false;
    }

    void base64(const uint8_t* data, size_t size) {
        static const char digits[] =
            "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        for (size_t i = 0; i < size; i += 3) {
            const uint32_t bits = uint32_t(data[i]) << 16 |
                                  (i + 1 < size ? uint32_t(data[i + 1]) << 8 : 0) |
                                  (i + 2 < size ? data[i + 2] : 0);
            uint8_t* const to = out_.extend(4);
            to[0] = uint8_t(digits[bits >> 18]);
            to[1] = uint8_t(digits[bits >> 12 & 63]);
            to[2] = i + 1 < size ? uint8_t(digits[bits >> 6 & 63]) : '=';
            to[3] = i + 2 < size ? uint8_t(digits[bits & 63]) : '=';
        }
    }

    void hex(const uint8_t* data, size_t size) {
        static const char digits[] = "0123456789abcdef";
        uint8_t* to = out_.extend(2 * size);
        for (size_t i = 0; i < size; ++i) {
            *to++ = uint8_t(digits[data[i] >> 4]);
            *to++ = uint8_t(digits[data[i] & 15]);
        }
    }

    void bytes(const uint8_t* data, size_t size) {
        if (simple_) {
            out_.push_byte('"');
            base64(data, size);
            out_.push_byte('"');
            return;
        }
        text("{\"$bytes\":\"");
        hex(data, size);
        text("\"}");
    }

    bool extension(const Head& head) {
        if (head.ext_type < -1) return false;
        if (head.ext_type == -1) {
            Timestamp stamp;
            if (!read_timestamp(head, stamp)) return false;
            time(stamp);
            return true;
        }
        text("{\"$ext\":[");
        number(int(head.ext_type));
        text(",\"");
        hex(head.body, head.size);
        text("\"]}");
        return true;
    }

    void time(const Timestamp& stamp) {
        constexpr int64_t first = -62135596800, last = 253402300799;  // years 1 to 9999
        if (stamp.seconds < first || stamp.seconds > last) {
            text("{\"$time\":[");
            number(stamp.seconds);
            out_.push_byte(',');
            number(stamp.nanoseconds);
            text("]}");
            return;
        }
        if (!simple_) text("{\"$time\":");
        int64_t days = stamp.seconds / 86400, rest = stamp.seconds % 86400;
        if (rest < 0) { rest += 86400; --days; }
        // Days since 0000-03-01, in eras of 400 years.
        const int64_t shifted = days + 719468;
        const int64_t era = (shifted >= 0 ? shifted : shifted - 146096) / 146097;
        const int64_t day_of_era = shifted - era * 146097;
        const int64_t year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
        const int64_t day_of_year =
            day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        const int64_t shifted_month = (5 * day_of_year + 2) / 153;
        const int day = int(day_of_year - (153 * shifted_month + 2) / 5 + 1);
        const int month = int(shifted_month < 10 ? shifted_month + 3 : shifted_month - 9);
        const int year = int(year_of_era + era * 400 + (month <= 2));
        char shown[] = "\"YYYY-MM-DDThh:mm:ss.nnnnnnnnn";
        two_digits(shown + 1, year / 100);
        two_digits(shown + 3, year % 100);
        two_digits(shown + 6, month);
        two_digits(shown + 9, day);
        two_digits(shown + 12, int(rest / 3600));
        two_digits(shown + 15, int(rest / 60 % 60));
        two_digits(shown + 18, int(rest % 60));
        size_t size = 20;
        if (stamp.nanoseconds) {
            uint32_t nanoseconds = stamp.nanoseconds;
            for (int i = 29; i > 20; --i) {
                shown[i] = char('0' + nanoseconds % 10);
                nanoseconds /= 10;
            }
            size = 30;
            while (shown[size - 1] == '0') --size;
        }
        out_.append(shown, size);
        if (simple_) text("Z\"");
        else text("Z\"}");
    }

    static void two_digits(char* to, int value) {
        to[0] = char('0' + value / 10);
        to[1] = char('0' + value % 10);
    }

    bool array(uint64_t count, const uint8_t*& p, const uint8_t* end) {
        out_.push_byte('[');
        for (uint64_t i = 0; i < count; ++i) {
            if (i) out_.push_byte(',');
            if (!value(p, end)) return false;
        }
        out_.push_byte(']');
        return true;
    }

    static bool reserved(const uint8_t* data, size_t size) {
        static const char* const names[] = {"$bytes", "$time", "$float", "$ext", "$map"};
        for (const char* name : names)
            if (std::strlen(name) == size && std::memcmp(name, data, size) == 0) return true;
        return false;
    }

    // Whether all keys are UTF-8 strings, and the map would not be mistaken for another form.
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

    bool map(uint64_t count, const uint8_t*& p, const uint8_t* end) {
        const bool named = plain(count, p, end, count == 1);
        if (named) out_.push_byte('{');
        else text("{\"$map\":[");
        for (uint64_t i = 0; i < count; ++i) {
            if (i) out_.push_byte(',');
            if (!pair(p, end, named)) return false;
        }
        if (!named) out_.push_byte(']');
        out_.push_byte('}');
        return true;
    }

    bool pair(const uint8_t*& p, const uint8_t* end, bool named) {
        if (named) {
            const Head key = read_head(p, end);
            string(key, end);
            p = key.body + key.size;
            out_.push_byte(':');
            return value(p, end);
        }
        out_.push_byte('[');
        if (!value(p, end)) return false;
        out_.push_byte(',');
        if (!value(p, end)) return false;
        out_.push_byte(']');
        return true;
    }

    // Skip a value of a scanned document.
    static void skip(const uint8_t*& p, const uint8_t* end) {
        const uint8_t* const next = behind_scalar(p);
        if (next) p = next;
        else pass_over<false>(p, end, kMaxDepth);
    }

    static bool is_id(const Head& key) {
        return key.token == Token::String && key.size == 3 && std::memcmp(key.body, "_id", 3) == 0;
    }

    // Whether the document repeats its id in its first field of that name.
    static bool has_id(const uint8_t* p, const uint8_t* end, const Head& id) {
        const Head head = read_head(p, end);
        p = head.body;
        for (uint64_t i = 0; i < head.size; ++i) {
            const bool named = is_id(read_head(p, end));
            skip(p, end);
            if (named) {
                const Head value = read_head(p, end);
                return value.token == Token::String && value.size == id.size &&
                       std::memcmp(value.body, id.body, id.size) == 0;
            }
            skip(p, end);
        }
        return false;
    }

    // Write a document with an id in front, and without its own fields of that name.
    bool with_id(const uint8_t* id, const uint8_t* document, const uint8_t* end) {
        const Head head = read_head(document, end);
        const bool named = plain(head.size, head.body, end, false);
        if (named) text("{\"_id\":");
        else text("{\"$map\":[[\"_id\",");
        if (!value(id, document)) return false;
        if (!named) out_.push_byte(']');
        const uint8_t* p = head.body;
        for (uint64_t i = 0; i < head.size; ++i) {
            if (is_id(read_head(p, end))) {
                skip(p, end);
                skip(p, end);
                continue;
            }
            out_.push_byte(',');
            if (!pair(p, end, named)) return false;
        }
        if (!named) out_.push_byte(']');
        out_.push_byte('}');
        return true;
    }

    Buffer& out_;
    const bool simple_;
};

}  // namespace godb
