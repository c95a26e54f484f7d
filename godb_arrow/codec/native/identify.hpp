// Documents with their ids: the entries of a collection.

#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bytes.hpp"
#include "ids.hpp"
#include "memory.hpp"

namespace godb {

// Value of the field that gives a document its id.
enum class IdSource : uint8_t { Absent, Text, Integer, Other };

struct LocatedId {
    IdSource source;
    int64_t key;    // offset of the field with the id, or -1
    int64_t value;
    int64_t end;
};

// Find a field of a scanned document.
inline LocatedId locate_id(const uint8_t* data, int64_t begin, int64_t end, const std::string& name) {
    const uint8_t* const limit = data + end;
    const Head head = read_head(data + begin, limit);
    const uint8_t* p = head.body;
    const auto skip = [&] {
        const uint8_t* const next = behind_scalar(p);
        if (next) p = next;
        else pass_over<false>(p, limit, kMaxDepth);
    };
    for (uint64_t i = 0; i < head.size; ++i) {
        const uint8_t* const key = p;
        const Head found = read_head(p, limit);
        const bool is_named = found.token == Token::String && found.size == name.size() &&
                              std::memcmp(found.body, name.data(), name.size()) == 0;
        skip();
        const uint8_t* const value = p;
        skip();
        if (!is_named) continue;
        const Token token = read_head(value, limit).token;
        const bool is_integer = token == Token::Positive || token == Token::Negative ||
                                token == Token::UInt || token == Token::Int;
        const IdSource source = token == Token::String ? IdSource::Text
                                : is_integer           ? IdSource::Integer
                                                       : IdSource::Other;
        return {source, key - data, value - data, p - data};
    }
    return {IdSource::Absent, -1, -1, -1};
}

// Maker of entries from documents, `bounds` of which say where each begins and ends.
class Identifier {
  public:
    Identifier(const uint8_t* data, const int64_t* bounds, size_t count, std::string field)
        : data_(data), bounds_(bounds), count_(count), field_(std::move(field)) {}

    // Find the ids that documents have. `rows` gets the rows without an id.
    void locate(std::vector<uint32_t>& rows) {
        located_.reserve(count_);
        for (size_t row = 0; row < count_; ++row) {
            located_.push_back(locate_id(data_, bounds_[row], bounds_[row + 1], field_));
            if (located_.back().source == IdSource::Absent) rows.push_back(uint32_t(row));
        }
    }

    // Row of the first document whose id is no string or integer, or -1.
    int64_t invalid() const {
        for (size_t row = 0; row < count_; ++row)
            if (located_[row].source == IdSource::Other) return int64_t(row);
        return -1;
    }

    // Bytes that suffice for the entries. A document gets its id twice, and a longer head.
    size_t room() const {
        size_t room = size_t(bounds_[count_] - bounds_[0]);
        for (size_t row = 0; row < count_; ++row) {
            const LocatedId& located = located_[row];
            const bool is_text = located.source == IdSource::Text;
            room += 2 * (kHeadBytes + (is_text ? size_t(located.end - located.value) : kDigits)) +
                    kHeadBytes + kIdField.size();
        }
        return room;
    }

    // Write the entries to `to`, with `numbers` as the ids of the rows without one.
    void run(const int64_t* numbers, uint8_t* to, size_t room) {
        for (Buffer* buffer : {&edges_, &ids_, &offsets_}) buffer->truncate(0);
        entries_ = Buffer(to, room);
        edges_.push(int64_t(0));
        offsets_.push(int32_t(0));
        for (size_t row = 0; row < count_; ++row) {
            const LocatedId& located = located_[row];
            const uint8_t* const end = data_ + bounds_[row + 1];
            if (located.source == IdSource::Text) {
                const Head text = read_head(data_ + located.value, end);
                add(row, text.body, text.size);
            } else {
                char digits[kDigits];
                const auto done = located.source == IdSource::Absent
                                      ? std::to_chars(digits, digits + sizeof digits, *numbers++)
                                      : integer_text(digits, data_ + located.value, end);
                add(row, reinterpret_cast<uint8_t*>(digits), size_t(done.ptr - digits));
            }
            edges_.push(int64_t(entries_.size()));
        }
    }

    Buffer& entries() { return entries_; }
    Buffer& edges() { return edges_; }      // 64 bits for the start of each id and document
    Buffer& ids() { return ids_; }          // text of the ids
    Buffer& offsets() { return offsets_; }  // 32 bits for the end of each id

  private:
    static constexpr size_t kDigits = 24;    // of a number of 64 bits, at most
    static constexpr size_t kHeadBytes = 5;  // of a text or map, at most
    static constexpr std::string_view kIdField = "\xa3_id";

    static std::to_chars_result integer_text(char (&digits)[kDigits], const uint8_t* p,
                                             const uint8_t* end) {
        const Head head = read_head(p, end);
        const bool is_negative = head.token == Token::Negative || head.token == Token::Int;
        return is_negative ? std::to_chars(digits, digits + sizeof digits, int64_t(head.bits))
                           : std::to_chars(digits, digits + sizeof digits, head.bits);
    }

    void add(size_t row, const uint8_t* id, size_t size) {
        const size_t at = entries_.size();
        push_text(id, size);
        const size_t packed = entries_.size() - at;
        edges_.push(int64_t(entries_.size()));
        ids_.append(id, size);
        offsets_.push(int32_t(ids_.size()));
        const int64_t begin = bounds_[row], end = bounds_[row + 1];
        const LocatedId own = field_ == "_id" ? located_[row] : locate_id(data_, begin, end, "_id");
        if (own.source == IdSource::Text && equals(own, id, size)) {
            entries_.append(data_ + begin, size_t(end - begin));
            return;
        }
        const Head head = read_head(data_ + begin, data_ + end);
        push_map_head(head.size + (own.key < 0));
        entries_.append(kIdField.data(), kIdField.size());
        entries_.reserve(packed);
        entries_.append(entries_.data() + at, packed);
        const int64_t first = head.body - data_;
        if (own.key < 0) {
            entries_.append(data_ + first, size_t(end - first));
        } else {
            entries_.append(data_ + first, size_t(own.key - first));
            entries_.append(data_ + own.end, size_t(end - own.end));
        }
    }

    bool equals(const LocatedId& own, const uint8_t* id, size_t size) const {
        const Head text = read_head(data_ + own.value, data_ + own.end);
        return text.size == size && std::memcmp(text.body, id, size) == 0;
    }

    void push_text(const uint8_t* text, size_t size) {
        if (size < 32) {
            entries_.push_byte(uint8_t(0xa0 | size));
        } else {
            const int width = size < 256 ? 1 : size < 65536 ? 2 : 4;
            entries_.push_byte(uint8_t(width == 4 ? 0xdb : 0xd8 + width));
            push_big_endian(size, width);
        }
        entries_.append(text, size);
    }

    void push_map_head(uint64_t count) {
        if (count < 16) {
            entries_.push_byte(uint8_t(0x80 | count));
        } else {
            const int width = count < 65536 ? 2 : 4;
            entries_.push_byte(uint8_t(width == 2 ? 0xde : 0xdf));
            push_big_endian(count, width);
        }
    }

    void push_big_endian(uint64_t value, int width) {
        for (int i = width - 1; i >= 0; --i) entries_.push_byte(uint8_t(value >> 8 * i));
    }

    const uint8_t* const data_;
    const int64_t* const bounds_;
    const size_t count_;
    const std::string field_;
    std::vector<LocatedId> located_;
    Buffer entries_, edges_, ids_, offsets_;
};

}  // namespace godb
