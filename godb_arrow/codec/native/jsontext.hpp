// Writing of a MessagePack value as JSON text, exactly as godb_arrow.codec.jsontext does.

#pragma once

#include <charconv>
#include <cmath>
#include <cstdio>

#include "bytes.hpp"
#include "memory.hpp"

namespace godb {

class JsonWriter {
  public:
    explicit JsonWriter(Buffer& out) : out_(out) {}

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
                if (is_utf8(head.body, head.size)) quoted(head.body, head.size);
                else bytes(head.body, head.size);
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
        size_t plain = 0;  // bytes that are written unchanged
        for (size_t i = 0; i < size; ++i) {
            const uint8_t c = data[i];
            if (__builtin_expect(c >= 0x20 && c != '"' && c != '\\', 1)) continue;
            out_.append(data + plain, i - plain);
            plain = i + 1;
            switch (c) {
                case '"': text("\\\""); break;
                case '\\': text("\\\\"); break;
                case '\n': text("\\n"); break;
                case '\r': text("\\r"); break;
                case '\t': text("\\t"); break;
                case '\b': text("\\b"); break;
                case '\f': text("\\f"); break;
                default:
                    text("\\u00");
                    hex(&c, 1);
            }
        }
        out_.append(data + plain, size - plain);
        out_.push_byte('"');
    }

  private:
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
            if (std::isnan(value)) text("{\"$float\":\"NaN\"}");
            else if (value > 0) text("{\"$float\":\"Inf\"}");
            else text("{\"$float\":\"-Inf\"}");
            return;
        }
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

    void hex(const uint8_t* data, size_t size) {
        static const char digits[] = "0123456789abcdef";
        uint8_t* to = out_.extend(2 * size);
        for (size_t i = 0; i < size; ++i) {
            *to++ = uint8_t(digits[data[i] >> 4]);
            *to++ = uint8_t(digits[data[i] & 15]);
        }
    }

    void bytes(const uint8_t* data, size_t size) {
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
        text("{\"$time\":");
        if (stamp.seconds < first || stamp.seconds > last) {
            out_.push_byte('[');
            number(stamp.seconds);
            out_.push_byte(',');
            number(stamp.nanoseconds);
            text("]}");
            return;
        }
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
        char shown[48];
        int size = std::snprintf(shown, sizeof shown, "\"%04d-%02d-%02dT%02d:%02d:%02d", year, month,
                                 day, int(rest / 3600), int(rest / 60 % 60), int(rest % 60));
        out_.append(shown, size_t(size));
        if (stamp.nanoseconds) {
            size = std::snprintf(shown, sizeof shown, ".%09u", stamp.nanoseconds);
            while (shown[size - 1] == '0') --size;
            out_.append(shown, size_t(size));
        }
        text("Z\"}");
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
    static bool plain(uint64_t count, const uint8_t* p, const uint8_t* end) {
        for (uint64_t i = 0; i < count; ++i) {
            const Head key = read_head(p, end);
            if (key.token != Token::String || !is_utf8(key.body, key.size)) return false;
            if (count == 1 && reserved(key.body, key.size)) return false;
            p = key.body + key.size;
            pass_over<false>(p, end, kMaxDepth);
        }
        return true;
    }

    bool map(uint64_t count, const uint8_t*& p, const uint8_t* end) {
        const bool named = plain(count, p, end);
        if (named) out_.push_byte('{');
        else text("{\"$map\":[");
        for (uint64_t i = 0; i < count; ++i) {
            if (i) out_.push_byte(',');
            if (named) {
                const Head key = read_head(p, end);
                quoted(key.body, key.size);
                p = key.body + key.size;
                out_.push_byte(':');
                if (!value(p, end)) return false;
            } else {
                out_.push_byte('[');
                if (!value(p, end)) return false;
                out_.push_byte(',');
                if (!value(p, end)) return false;
                out_.push_byte(']');
            }
        }
        if (!named) out_.push_byte(']');
        out_.push_byte('}');
        return true;
    }

    Buffer& out_;
};

}  // namespace godb
