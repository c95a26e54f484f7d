// Finding the documents of a collection in bytes.

#pragma once

#include <vector>

#include "bytes.hpp"

namespace godb {

enum class Scanned : uint8_t { Done, BadId, BadDocument, Invalid, TooDeep };

struct Skipped {
    size_t position;
    uint64_t items;
    uint64_t payload;  // bytes of a string or binary beyond the end
    bool invalid;
};

// Pass over values, however deep they nest, as far as the buffer goes.
inline Skipped skip_items(const uint8_t* data, size_t size, size_t position, uint64_t items) {
    while (items && position < size) {
        const uint8_t first = data[position];
        const detail::Entry entry = detail::kTable.at[first];
        if (entry.token == Token::Invalid) return {position, items, 0, true};
        if (size - position < size_t(1) + entry.width) break;
        const uint8_t* const p = data + position + 1;
        uint64_t payload = 0, children = 0;
        switch (entry.token) {
            case Token::String:
                payload = entry.width ? detail::load_width(p, entry.width) : first & 0x1f;
                break;
            case Token::Binary: payload = detail::load_width(p, entry.width); break;
            case Token::Extension:
                payload = 1 + (entry.width ? detail::load_width(p, entry.width)
                                           : uint64_t(1) << (first - 0xd4));
                break;
            case Token::Array:
            case Token::Map:
                children = entry.width ? detail::load_width(p, entry.width) : first & 0x0f;
                if (entry.token == Token::Map) children *= 2;
                break;
            default: break;
        }
        position += 1 + entry.width;
        items += children;
        --items;
        if (payload > size - position) {
            payload -= size - position;
            return {size, items, payload, false};
        }
        position += size_t(payload);
    }
    return {position, items, 0, false};
}

// Find whole entries: an id and a document each. `bounds` gets the start of every id and
// document behind the first id, and the end; `at` is where a problem is.
inline Scanned scan_entries(const uint8_t* data, size_t size, size_t start, size_t count,
                            size_t max_bytes, std::vector<int64_t>& bounds, size_t& at) {
    const uint8_t* const end = data + size;
    const uint8_t* p = data + start;
    for (size_t found = 0; found < count && size_t(p - data) - start < max_bytes && p < end;
         ++found) {
        at = size_t(p - data);
        const Token kind = detail::kTable.at[*p].token;
        if (kind != Token::String) return Scanned::BadId;
        const Head id = read_head(p, end);
        if (id.token == Token::Incomplete) break;
        const uint8_t* const document = id.body + id.size;
        if (document >= end) break;
        if (detail::kTable.at[*document].token != Token::Map) {
            at = size_t(document - data);
            return Scanned::BadDocument;
        }
        const uint8_t* next = document;
        const Passed passed = pass_over<false>(next, end, kMaxDepth);
        if (passed == Passed::Incomplete) break;
        if (passed == Passed::Invalid) return Scanned::Invalid;
        if (passed == Passed::TooDeep) {
            const Skipped rest = skip_items(data, size, size_t(document - data), 1);
            if (rest.invalid) return Scanned::Invalid;
            if (rest.items || rest.payload) break;
            at = size_t(document - data);
            return Scanned::TooDeep;
        }
        bounds.push_back(document - data);
        bounds.push_back(next - data);
        p = next;
    }
    return Scanned::Done;
}

// The last entry with this id, or -1.
inline int64_t find_entry(const uint8_t* data, const int64_t* bounds, size_t count,
                          const uint8_t* id, size_t size) {
    for (size_t i = count; i-- > 0;) {
        const uint8_t* const end = data + bounds[2 * i + 1];
        if (size_t(end - (data + bounds[2 * i])) < size) continue;
        if (std::memcmp(end - size, id, size) != 0) continue;
        const Head head = read_head(data + bounds[2 * i], end);
        if (head.size == size) return int64_t(i);
    }
    return -1;
}

}  // namespace godb
