// Documents in MessagePack as BSON.
//
// The writer defers what godb_arrow.connectors.etl.bson converts, or refuses: keys that begin with $,
// repeated keys, integers beyond 64 bits, moments finer than a millisecond, extensions, bytes that
// are no UTF-8, decimals, and documents whose own id differs from the id in the collection.

#pragma once

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <cstring>
#include <vector>

#include "bsonread.hpp"
#include "bytes.hpp"
#include "memory.hpp"

namespace godb {

class BsonWriter {
  public:
    // `paths` are the recorded types, and the first of them is the document itself.
    explicit BsonWriter(std::vector<BsonPath> paths) : paths_(std::move(paths)) {
        for (size_t i = 1; i < paths_.size(); ++i)
            paths_[size_t(paths_[i].parent)].children.push_back(int32_t(i));
    }

    Buffer& documents() { return out_; }

    // Write documents from `row` on, up to the end or a deferred one. `bounds` have `step` offsets for
    // each, 2 if the id of the collection precedes the document.
    void run(const uint8_t* data, const int64_t* bounds, size_t count, size_t step, size_t& row) {
        out_.truncate(0);
        for (; row < count; ++row) {
            const int64_t* const edges = bounds + step * row;
            const uint8_t* const begin = data + edges[step - 1];
            const uint8_t* const end = data + edges[step];
            Head id{Token::Invalid, 0, nullptr, 0, 0};
            if (step == 2) id = read_head(data + edges[0], begin);
            const size_t start = out_.size();
            if (document(begin, end, step == 2 ? &id : nullptr) != end) {
                out_.truncate(start);
                return;
            }
        }
    }

  private:
    static constexpr int kMaxLevels = 60;  // maps and lists; MongoDB reads 100 maps
    static constexpr int32_t kNoPath = -1;

    struct Key { uint64_t tag; const uint8_t* data; size_t size; };

    // Write a document with its field `_id` first; null if it is deferred.
    const uint8_t* document(const uint8_t* p, const uint8_t* end, const Head* id) {
        const Head head = read_head(p, end);
        if (head.token != Token::Map) return nullptr;
        const size_t start = out_.size();
        out_.push(int32_t(0));
        const uint8_t* at = head.body;
        const uint8_t* own = nullptr;  // value of `_id` if it is not the first field
        keys_.clear();
        if (head.size && !is_id(read_head(at, end))) {
            for (uint64_t i = 0; i < head.size && !own; ++i) {
                const Head key = read_head(at, end);
                if (key.token != Token::String) return nullptr;
                at = key.body + key.size;
                if (is_id(key)) own = at;
                else if (!skip(at, end, 0)) return nullptr;
            }
            at = head.body;
            if (own) {
                if (id && !equals(own, end, *id)) return nullptr;
                if (!element(own, end, reinterpret_cast<const uint8_t*>("_id"), 3, 0, 1)) return nullptr;
            }
        }
        bool has_id = own != nullptr;
        for (uint64_t i = 0; i < head.size; ++i) {
            const Head key = read_head(at, end);
            if (!is_usable(key, 0)) return nullptr;
            at = key.body + key.size;
            if (is_id(key)) {
                if (own) {
                    if (!skip(at, end, 0)) return nullptr;
                    continue;
                }
                has_id = true;
                if (id && !equals(at, end, *id)) return nullptr;
            }
            at = element(at, end, key.body, key.size, 0, 1);
            if (!at) return nullptr;
        }
        if (id && !has_id) return nullptr;
        return finish(start) ? at : nullptr;
    }

    static bool is_id(const Head& key) {
        return key.token == Token::String && key.size == 3 && std::memcmp(key.body, "_id", 3) == 0;
    }

    static bool equals(const uint8_t* value, const uint8_t* end, const Head& id) {
        const Head own = read_head(value, end);
        return own.token == Token::String && id.token == Token::String && own.size == id.size &&
               std::memcmp(own.body, id.body, id.size) == 0;
    }

    // Whether a key can be written, and is no key of the open map already.
    bool is_usable(const Head& key, size_t outer) {
        if (key.token != Token::String || (key.size && *key.body == '$')) return false;
        if (std::memchr(key.body, 0, key.size) || !is_utf8(key.body, key.size)) return false;
        uint64_t tag = 0;
        std::memcpy(&tag, key.body, std::min<size_t>(key.size, 8));
        tag ^= key.size << 56;
        if (keys_.size() - outer >= kComparedKeys) return false;
        for (size_t i = outer; i < keys_.size(); ++i)
            if (keys_[i].tag == tag && keys_[i].size == key.size &&
                std::memcmp(keys_[i].data, key.body, key.size) == 0)
                return false;
        keys_.push_back({tag, key.body, key.size});
        return true;
    }

    // Skip a value; null if that needs more care.
    static bool skip(const uint8_t*& p, const uint8_t* end, int level) {
        const Head head = read_head(p, end);
        if (level > kMaxLevels || head.token >= Token::Invalid) return false;
        p = head.body;
        if (head.token == Token::String || head.token == Token::Binary ||
            head.token == Token::Extension) {
            p += head.size;
        } else if (head.token == Token::Array || head.token == Token::Map) {
            const uint64_t count = head.token == Token::Map ? 2 * head.size : head.size;
            for (uint64_t i = 0; i < count; ++i)
                if (!skip(p, end, level + 1)) return false;
        }
        return true;
    }

    // Write an element with a key; null if the document is deferred.
    const uint8_t* element(
        const uint8_t* p, const uint8_t* end, const uint8_t* key, size_t size, int32_t parent,
        int level) {
        const int32_t path = child_of(parent, key, size);
        uint8_t* const front = out_.extend(size + 2);
        std::memcpy(front + 1, key, size);
        front[size + 1] = 0;
        const size_t type = out_.size() - size - 2;
        const Head head = read_head(p, end);
        p = head.body;
        uint8_t kind = 0;
        switch (head.token) {
            case Token::Nil: kind = 0x0a; break;
            case Token::False:
            case Token::True:
                kind = 0x08;
                out_.push_byte(head.token == Token::True);
                break;
            case Token::UInt:
                if (head.bits > uint64_t(INT64_MAX)) return nullptr;
                kind = integer(int64_t(head.bits));
                break;
            case Token::Positive:
            case Token::Negative:
            case Token::Int: kind = integer(int64_t(head.bits)); break;
            case Token::Float32:
            case Token::Float64:
                kind = 0x01;
                out_.push(as_double(head));
                break;
            case Token::String:
                kind = text(head, path);
                p += head.size;
                break;
            case Token::Binary:
                if (head.size > kMaxBytes) return nullptr;
                kind = 0x05;
                out_.push(int32_t(head.size));
                out_.push_byte(0);
                out_.append(head.body, head.size);
                p += head.size;
                break;
            case Token::Extension: {
                Timestamp stamp;
                int64_t milliseconds;
                if (head.ext_type != -1 || !read_timestamp(head, stamp) ||
                    stamp.nanoseconds % 1000000 || !ticks(stamp, 1000, milliseconds))
                    return nullptr;
                kind = 0x09;
                out_.push(milliseconds);
                p += head.size;
                break;
            }
            case Token::Array:
                kind = 0x04;
                p = array(head, end, path, level);
                break;
            case Token::Map:
                kind = 0x03;
                p = map(head, end, path, level);
                break;
            default: return nullptr;
        }
        if (!kind || !p) return nullptr;
        out_.data()[type] = kind;
        return p;
    }

    uint8_t integer(int64_t value) {
        if (value >= INT32_MIN && value <= INT32_MAX) {
            out_.push(int32_t(value));
            return 0x10;
        }
        out_.push(value);
        return 0x12;
    }

    // Write a text, or the value that it stands for; 0 if the document is deferred.
    uint8_t text(const Head& head, int32_t path) {
        if (head.size > kMaxBytes || !is_utf8(head.body, head.size)) return 0;
        if (path != kNoPath && paths_[size_t(path)].types) {
            BsonPath like{0, "", "", 0, 0, 0, {}};
            if (!BsonReader::see_text(like, head.body, head.size)) return 0;
            const uint8_t found = like.texts & paths_[size_t(path)].types;
            if (found & (found - 1) || found == kDecimal) return 0;
            if (found == kObjectId || found == kUuid) return bytes_of(head, found);
            if (found == kInteger) {
                int64_t value = 0;
                const char* const begin = reinterpret_cast<const char*>(head.body);
                std::from_chars(begin, begin + head.size, value);
                return integer(value);
            }
        }
        out_.push(int32_t(head.size + 1));
        out_.append(head.body, head.size);
        out_.push_byte(0);
        return 0x02;
    }

    // Write an object id or a UUID.
    uint8_t bytes_of(const Head& head, uint8_t type) {
        const auto digit = [](uint8_t c) { return uint8_t(c <= '9' ? c - '0' : c - 'a' + 10); };
        if (type == kUuid) {
            out_.push(int32_t(16));
            out_.push_byte(4);
        }
        for (size_t i = 0; i < head.size;) {
            if (head.body[i] == '-') { ++i; continue; }
            out_.push_byte(uint8_t(digit(head.body[i]) << 4 | digit(head.body[i + 1])));
            i += 2;
        }
        return type == kUuid ? 0x05 : 0x07;
    }

    const uint8_t* map(const Head& head, const uint8_t* end, int32_t path, int level) {
        if (level > kMaxLevels) return nullptr;
        const size_t start = out_.size(), outer = keys_.size();
        out_.push(int32_t(0));
        const uint8_t* p = head.body;
        for (uint64_t i = 0; i < head.size; ++i) {
            const Head key = read_head(p, end);
            if (!is_usable(key, outer)) return nullptr;
            p = element(key.body + key.size, end, key.body, key.size, path, level + 1);
            if (!p) return nullptr;
        }
        keys_.resize(outer);
        return finish(start) ? p : nullptr;
    }

    const uint8_t* array(const Head& head, const uint8_t* end, int32_t path, int level) {
        if (level > kMaxLevels) return nullptr;
        const size_t start = out_.size();
        out_.push(int32_t(0));
        const uint8_t* p = head.body;
        for (uint64_t i = 0; i < head.size; ++i) {
            char digits[24];
            const size_t size = size_t(std::to_chars(digits, digits + sizeof digits, i).ptr - digits);
            in_list_ = path;
            p = element(p, end, reinterpret_cast<uint8_t*>(digits), size, kInList, level + 1);
            if (!p) return nullptr;
        }
        return finish(start) ? p : nullptr;
    }

    // Write size and end of a document; false if it is too large.
    bool finish(size_t start) {
        out_.push_byte(0);
        const size_t size = out_.size() - start;
        if (size > kMaxBytes) return false;
        const int32_t written = int32_t(size);
        std::memcpy(out_.data() + start, &written, sizeof written);
        return true;
    }

    int32_t child_of(int32_t parent, const uint8_t* key, size_t size) {
        if (parent == kInList) return in_list_;  // Lists add no key.
        if (parent == kNoPath) return kNoPath;
        for (const int32_t child : paths_[size_t(parent)].children) {
            const std::string& own = paths_[size_t(child)].key;
            if (own.size() == size && std::memcmp(own.data(), key, size) == 0) return child;
        }
        return kNoPath;
    }

    static constexpr int32_t kInList = -2;
    static constexpr size_t kComparedKeys = 256;
    static constexpr size_t kMaxBytes = size_t(1) << 30;

    std::vector<BsonPath> paths_;
    std::vector<Key> keys_;  // of the open maps
    Buffer out_;
    int32_t in_list_ = kNoPath;
};

}  // namespace godb
