// The values of one field, wherever its dotted name leads to in a document.

#pragma once

#include <string>
#include <vector>

#include "keys.hpp"

namespace godb {

// Kind of a value, with the numbers of ValueKind in Python.
enum class ValueKind : uint8_t {
    Absent, Null, False, True, Int, AboveInt64, Float, String, Binary, Moment, Array, Map, Extension,
};

// Values in columns: the row, the kind, a word and a size of each.
struct ValueColumns {
    Buffer rows;   // uint32
    Buffer kinds;  // uint8
    Buffer words;  // uint64: a number's bits; seconds; where text begins
    Buffer sizes;  // uint32: bytes of text; nanoseconds

    void add(uint32_t row, ValueKind kind, uint64_t word, uint32_t size) {
        rows.push(row);
        kinds.push(uint8_t(kind));
        words.push(word);
        sizes.push(size);
    }
};

// Finds all that a name may lead to. A part of the name may itself have dots, maps within a list
// are searched each, and of equal keys none is preferred: more may be found than a filter means,
// never less.
class ValueFinder {
  public:
    explicit ValueFinder(const std::vector<std::string>& parts) : parts_(parts.size()) {
        joined_.resize(parts_);
        for (size_t first = 0; first < parts_; ++first) {
            std::string name;
            for (size_t last = first; last < parts_; ++last) {
                name += (last > first ? "." : "") + parts[last];
                joined_[first].push_back(name);
            }
        }
        is_id_ = parts_ == 1 && parts[0] == "_id";
    }

    // False for a document that is damaged.
    bool run(const uint8_t* data, const int64_t* bounds, size_t count, ValueColumns& out) {
        data_ = data;
        out_ = &out;
        for (size_t i = 0; i < count; ++i) {
            row_ = uint32_t(i);
            const uint8_t* p = data + bounds[2 * i + (is_id_ ? 0 : 1)];
            const uint8_t* const end = data + bounds[2 * i + 2];
            if (is_id_ ? !add(p, end) : !map(p, end, 0)) return false;
        }
        return true;
    }

  private:
    // Searches a map for the parts of the name from `first` on.
    bool map(const uint8_t*& p, const uint8_t* end, size_t first) {
        const Head head = read_head(p, end);
        if (head.token != Token::Map) return false;
        p = head.body;
        bool found = false;
        for (uint64_t i = 0; i < head.size; ++i) {
            KeyName name;
            if (!read_key(p, end, scratch_, name)) return false;
            size_t match = parts_;
            for (size_t last = first; last < parts_; ++last) {
                const std::string& wanted = joined_[first][last - first];
                if (wanted.size() == name.size &&
                    std::memcmp(wanted.data(), name.data, name.size) == 0)
                    match = last;
            }
            if (match == parts_) {
                if (!skip(p, end)) return false;
                continue;
            }
            found = true;
            if (match + 1 == parts_ ? !value(p, end) : !descend(p, end, match + 1)) return false;
        }
        if (!found) out_->add(row_, ValueKind::Absent, 0, 0);
        return true;
    }

    bool descend(const uint8_t*& p, const uint8_t* end, size_t part) {
        const Head head = read_head(p, end);
        if (head.token == Token::Map) return map(p, end, part);
        if (head.token != Token::Array || head.size == 0) {
            out_->add(row_, ValueKind::Absent, 0, 0);
            return skip(p, end);
        }
        p = head.body;
        for (uint64_t i = 0; i < head.size; ++i) {
            if (read_head(p, end).token == Token::Map) {
                if (!map(p, end, part)) return false;
            } else {
                out_->add(row_, ValueKind::Absent, 0, 0);
                if (!skip(p, end)) return false;
            }
        }
        return true;
    }

    // The value that the whole name leads to, the elements of a list, and the elements of lists in
    // it: a condition on an element may hold for what that element contains.
    bool value(const uint8_t*& p, const uint8_t* end, int levels = 2) {
        const Head head = read_head(p, end);
        if (head.token != Token::Array || levels == 0) return add(p, end);
        out_->add(row_, ValueKind::Array, 0, 0);
        p = head.body;
        for (uint64_t i = 0; i < head.size; ++i)
            if (!value(p, end, levels - 1)) return false;
        return true;
    }

    bool add(const uint8_t*& p, const uint8_t* end) {
        const Head head = read_head(p, end);
        ValueKind kind = ValueKind::Null;
        uint64_t word = head.bits;
        uint32_t size = 0;
        switch (head.token) {
            case Token::Nil: break;
            case Token::False: kind = ValueKind::False; break;
            case Token::True: kind = ValueKind::True; break;
            case Token::Positive:
            case Token::Negative:
            case Token::Int: kind = ValueKind::Int; break;
            case Token::UInt: kind = word >> 63 ? ValueKind::AboveInt64 : ValueKind::Int; break;
            case Token::Float32:
            case Token::Float64: {
                const double number = as_double(head);
                std::memcpy(&word, &number, 8);
                kind = ValueKind::Float;
                break;
            }
            case Token::String:
            case Token::Binary:
                kind = head.token == Token::String && is_utf8(head.body, size_t(head.size))
                           ? ValueKind::String : ValueKind::Binary;
                word = uint64_t(head.body - data_);
                size = uint32_t(head.size);
                break;
            case Token::Extension: {
                Timestamp stamp;
                word = 0;
                kind = ValueKind::Extension;
                if (head.ext_type == -1 && read_timestamp(head, stamp)) {
                    kind = ValueKind::Moment;
                    word = uint64_t(stamp.seconds);
                    size = stamp.nanoseconds;
                }
                break;
            }
            case Token::Array: kind = ValueKind::Array; break;
            case Token::Map: kind = ValueKind::Map; break;
            default: return false;
        }
        if (kind == ValueKind::Null || kind == ValueKind::False || kind == ValueKind::True ||
            kind == ValueKind::Array || kind == ValueKind::Map)
            word = 0;
        out_->add(row_, kind, word, size);
        return skip(p, end);
    }

    static bool skip(const uint8_t*& p, const uint8_t* end) {
        return pass_over<true>(p, end, kMaxDepth) == Passed::Whole;
    }

    size_t parts_;
    std::vector<std::vector<std::string>> joined_;  // by the first part: names of more and more
    bool is_id_;
    Buffer scratch_;
    const uint8_t* data_ = nullptr;
    ValueColumns* out_ = nullptr;
    uint32_t row_ = 0;
};

}  // namespace godb
