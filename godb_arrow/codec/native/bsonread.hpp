// Reading of BSON as documents in MessagePack.
//
// The reader accepts what godb_arrow.connectors.etl.bson stores without a conversion by a library,
// and defers every other document: invalid BSON, repeated keys, keys that begin with $, rare types,
// and texts of which only a library says whether they are decimals of MongoDB.

#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "bytes.hpp"
#include "dictencode.hpp"
#include "memory.hpp"
#include "words.hpp"

namespace godb {

// Types of MongoDB whose values become text or integers, as bits.
enum BsonType : uint8_t { kObjectId = 1, kUuid = 2, kDecimal = 4, kInteger = 8 };

// Path from a document to some of its values, and what these values were. Lists add no key.
struct BsonPath {
    int32_t parent;
    std::string key;
    std::string packed;  // the key in MessagePack
    uint8_t types = 0;   // of values that became text or another type
    uint8_t texts = 0;   // types that texts look like
    uint64_t seen_in = 0;  // map that had the key last
    std::vector<int32_t> children;
};

class BsonReader {
  public:
    static constexpr int64_t kMinDocument = 5;
    static constexpr int64_t kMaxDocument = int64_t(64) << 20;

    BsonReader(const uint8_t* data, size_t size) : data_(data), end_(data + size), pack_(out_) {
        paths_.push_back({-1, "", "", 0, 0, 0, {}});
    }

    Buffer& documents() { return out_; }
    std::vector<int64_t>& bounds() { return bounds_; }
    std::vector<BsonPath>& paths() { return paths_; }

    // Read documents from `at` on, up to the end or a deferred document.
    void run(size_t& at) {
        out_.truncate(0);
        out_.reserve(size_t(end_ - data_) - at + 64);
        bounds_.assign(1, 0);
        while (data_ + at < end_) {
            const uint8_t* const next = map(data_ + at, end_, 0, 0);
            if (!next) {
                out_.truncate(size_t(bounds_.back()));
                return;
            }
            at = size_t(next - data_);
            bounds_.push_back(int64_t(out_.size()));
        }
    }

    // End of the last whole document, or of all bytes if one has an impossible size.
    static size_t cut(const uint8_t* data, size_t size) {
        size_t at = 0;
        while (size - at >= 4) {
            const int64_t length = word_at<int32_t>(data + at);
            if (length < kMinDocument || length > kMaxDocument) return size;
            if (uint64_t(length) > size - at) break;
            at += size_t(length);
        }
        return at;
    }

    // Note the types that a text looks like; false if only a library knows.
    static bool see_text(BsonPath& path, const uint8_t* p, size_t size) {
        if (size == 24) {
            size_t i = 0;
            while (i < size && is_hex(p[i])) ++i;
            if (i == size) path.texts |= kObjectId;
        } else if (size == 36) {
            size_t i = 0;
            while (i < size && (i == 8 || i == 13 || i == 18 || i == 23 ? p[i] == '-' : is_hex(p[i])))
                ++i;
            if (i == size) path.texts |= kUuid;
        }
        const bool is_negative = size && *p == '-';
        const uint8_t* const digits = p + is_negative;
        const uint8_t* const end = p + size;
        if (digits == end) return true;
        const bool is_known = path.texts & kDecimal;
        if (!is_digit(*digits)) return is_known || !is_word(digits, end);
        const uint8_t* point = nullptr;
        for (const uint8_t* at = digits; at < end; ++at) {
            if (is_digit(*at)) continue;
            if (*at == 'E') return is_known;
            if (*at != '.') return true;
            if (point) {  // Two points, unless the text is no number at all.
                return true;
            }
            point = at;
        }
        const size_t whole = size_t((point ? point : end) - digits);
        const size_t fraction = point ? size_t(end - point - 1) : 0;
        if (!point && (*digits != '0' || (whole == 1 && !is_negative)) && whole <= 19 &&
            fits(digits, whole, is_negative))
            path.texts |= kInteger;
        if (whole + fraction > kMaxDigits) return is_known;
        if ((point && !fraction) || (whole > 1 && *digits == '0')) return true;
        size_t zeros = 0;  // at the front of the digits, which do not count
        for (const uint8_t* at = digits; at < end; ++at) {
            if (*at == '.') continue;
            if (*at != '0') break;
            ++zeros;
        }
        const size_t all = whole + fraction;
        const size_t counted = zeros == all ? 1 : all - zeros;
        if (int64_t(counted) - int64_t(fraction) > kMinAdjusted) path.texts |= kDecimal;
        return true;
    }

    // Whether a text is one of the words for decimals without a value, perhaps with digits.
    static bool is_word(const uint8_t* p, const uint8_t* end) {
        for (const char* const word : {"Infinity", "NaN", "sNaN"}) {
            const size_t size = std::strlen(word);
            if (size_t(end - p) >= size && std::memcmp(p, word, size) == 0) return true;
        }
        return false;
    }

    // Whether decimal digits, at most 19, are an integer of 64 bits.
    static bool fits(const uint8_t* digits, size_t size, bool is_negative) {
        uint64_t number = 0;
        for (size_t i = 0; i < size; ++i) number = 10 * number + uint64_t(digits[i] - '0');
        return number <= uint64_t(INT64_MAX) + is_negative;
    }

  private:
    static bool is_digit(uint8_t c) { return uint8_t(c - '0') < 10; }
    static bool is_hex(uint8_t c) { return is_digit(c) || uint8_t(c - 'a') < 6; }

    static constexpr int kMaxLevels = 100;  // below the depth that the package allows
    static constexpr size_t kMaxPaths = 5000;

    // Read a document; null if it is deferred.
    const uint8_t* map(const uint8_t* p, const uint8_t* limit, int32_t path, int level) {
        const uint8_t* const end = end_of(p, limit);
        if (!end || level > kMaxLevels) return nullptr;
        const size_t head = out_.size();
        out_.push_byte(0x80);
        const uint64_t self = ++maps_;
        size_t count = 0;
        for (p += 4; p < end; ++count) {
            const uint8_t type = *p++;
            const uint8_t* const key_end = key_of(p, end);
            if (!key_end) return nullptr;
            const int32_t child = child_of(path, p, size_t(key_end - p), count);
            if (child < 0 || paths_[child].seen_in == self) return nullptr;
            paths_[child].seen_in = self;
            out_.append(paths_[child].packed.data(), paths_[child].packed.size());
            p = value(type, key_end + 1, end, child, level);
            if (!p) return nullptr;
            if (level == 0 && (type == 0x10 || type == 0x12) && paths_[child].key == "_id")
                paths_[child].types |= kInteger;
        }
        set_head(head, count, 0x80, 0xde);
        return end + 1;
    }

    const uint8_t* array(const uint8_t* p, const uint8_t* limit, int32_t path, int level) {
        const uint8_t* const end = end_of(p, limit);
        if (!end || level > kMaxLevels) return nullptr;
        const size_t head = out_.size();
        out_.push_byte(0x90);
        size_t count = 0;
        for (p += 4; p < end; ++count) {
            const uint8_t type = *p++;
            const uint8_t* const key_end = key_of(p, end);
            if (!key_end) return nullptr;
            p = value(type, key_end + 1, end, path, level);
            if (!p) return nullptr;
        }
        set_head(head, count, 0x90, 0xdc);
        return end + 1;
    }

    // The zero at the end of a document; null if the document is invalid.
    static const uint8_t* end_of(const uint8_t* p, const uint8_t* limit) {
        if (limit - p < kMinDocument) return nullptr;
        const int64_t size = word_at<int32_t>(p);
        if (size < kMinDocument || size > kMaxDocument || size > limit - p) return nullptr;
        return p[size - 1] == 0 ? p + size - 1 : nullptr;
    }

    static const uint8_t* key_of(const uint8_t* p, const uint8_t* end) {
        return static_cast<const uint8_t*>(std::memchr(p, 0, size_t(end - p)));
    }

    // Read a value; null if the document is deferred.
    const uint8_t* value(
        uint8_t type, const uint8_t* p, const uint8_t* end, int32_t path, int level) {
        const int64_t left = end - p;
        switch (type) {
            case 0x01:
                if (left < 8) return nullptr;
                pack_.real(word_at<double>(p));
                return p + 8;
            case 0x02: return text(p, end, path);
            case 0x03: return map(p, end, path, level + 1);
            case 0x04: return array(p, end, path, level + 1);
            case 0x05: return binary(p, end, path);
            case 0x07:
                if (left < 12) return nullptr;
                paths_[path].types |= kObjectId;
                pack_.text_head(24);
                hex(out_.extend(24), p, 12);
                return p + 12;
            case 0x08:
                if (left < 1 || *p > 1) return nullptr;
                pack_.boolean(*p == 1);
                return p + 1;
            case 0x09: {
                if (left < 8) return nullptr;
                const int64_t total = word_at<int64_t>(p);
                int64_t seconds = total / 1000, rest = total % 1000;
                if (rest < 0) rest += 1000, --seconds;
                pack_.timestamp(seconds, uint32_t(rest) * 1000000);
                return p + 8;
            }
            case 0x0a: pack_.nil(); return p;
            case 0x10:
                if (left < 4) return nullptr;
                pack_.integer(word_at<int32_t>(p));
                return p + 4;
            case 0x12:
                if (left < 8) return nullptr;
                pack_.integer(word_at<int64_t>(p));
                return p + 8;
            default: return nullptr;
        }
    }

    const uint8_t* text(const uint8_t* p, const uint8_t* end, int32_t path) {
        if (end - p < 5) return nullptr;
        const int64_t size = int64_t(word_at<int32_t>(p)) - 1;
        p += 4;
        if (size < 0 || size >= end - p || p[size] != 0) return nullptr;
        if (!is_utf8(p, size_t(size)) || !see_text(paths_[path], p, size_t(size))) return nullptr;
        pack_.text(reinterpret_cast<const char*>(p), size_t(size));
        return p + size + 1;
    }

    const uint8_t* binary(const uint8_t* p, const uint8_t* end, int32_t path) {
        if (end - p < 5) return nullptr;
        const int64_t size = word_at<int32_t>(p);
        const uint8_t kind = p[4];
        p += 5;
        if (size < 0 || size > end - p) return nullptr;
        if (kind == 0) {
            pack_.binary(reinterpret_cast<const char*>(p), size_t(size));
        } else if (kind == 4 && size == 16) {
            paths_[path].types |= kUuid;
            pack_.text_head(36);
            uint8_t* to = out_.extend(36);
            int done = 0;
            for (const int part : {4, 2, 2, 2, 6}) {
                if (done) *to++ = '-';
                hex(to, p + done, size_t(part));
                to += 2 * part;
                done += part;
            }
        } else {
            return nullptr;
        }
        return p + size;
    }

    static void hex(uint8_t* to, const uint8_t* from, size_t size) {
        constexpr char digits[] = "0123456789abcdef";
        for (size_t i = 0; i < size; ++i) {
            to[2 * i] = uint8_t(digits[from[i] >> 4]);
            to[2 * i + 1] = uint8_t(digits[from[i] & 15]);
        }
    }

    // Write the head of a map or array whose content follows a first byte.
    void set_head(size_t at, size_t count, uint8_t small, uint8_t large) {
        if (count < 16) {
            out_.data()[at] = uint8_t(small | count);
            return;
        }
        const size_t width = count <= 0xffff ? 2 : 4, size = out_.size() - at - 1;
        out_.extend(width);
        uint8_t* const head = out_.data() + at;
        std::memmove(head + 1 + width, head + 1, size);
        *head = uint8_t(large + (width == 4));
        for (size_t i = 0; i < width; ++i) head[1 + i] = uint8_t(count >> 8 * (width - 1 - i));
    }

    // Path with one more key, the `index`-th of a map; -1 if the document is deferred.
    int32_t child_of(int32_t path, const uint8_t* key, size_t size, size_t index) {
        const auto is_key = [&](int32_t child) {
            const std::string& own = paths_[child].key;
            return own.size() == size && std::memcmp(own.data(), key, size) == 0;
        };
        const std::vector<int32_t>& children = paths_[path].children;
        if (index < children.size() && is_key(children[index])) return children[index];
        for (const int32_t child : children)
            if (is_key(child)) return child;
        if ((size && *key == '$') || !is_utf8(key, size)) return -1;
        if (paths_.size() >= kMaxPaths || children.size() >= kMaxChildren) return -1;
        const auto child = int32_t(paths_.size());
        std::string name(reinterpret_cast<const char*>(key), size);
        Buffer packed;
        Packer(packed).text(name.data(), size);
        const auto* const raw = reinterpret_cast<const char*>(packed.data());
        paths_.push_back({path, name, std::string(raw, packed.size()), 0, 0, 0, {}});
        paths_[path].children.push_back(child);
        return child;
    }

    static constexpr size_t kMaxDigits = 34;     // of a decimal of MongoDB
    static constexpr int64_t kMinAdjusted = -6;  // below, Python writes an exponent
    static constexpr size_t kMaxChildren = 1000;

    const uint8_t* const data_;
    const uint8_t* const end_;
    Buffer out_;
    Packer pack_;
    std::vector<int64_t> bounds_;
    std::vector<BsonPath> paths_;
    uint64_t maps_ = 0;
};

}  // namespace godb
