// Checks of whole entries: whether each value can be decoded, and whether documents have their ids.

#pragma once

#include <vector>

#include "bytes.hpp"

namespace godb {

// Check a scanned document: false if a value cannot be decoded. `differs` tells whether the document
// has another id in a field of that name.
inline bool check_document(const uint8_t* p, const uint8_t* end, const Head& id, bool& differs) {
    const Head head = read_head(p, end);
    if (head.token != Token::Map) return false;
    p = head.body;
    for (uint64_t i = 0; i < head.size; ++i) {
        const Head key = read_head(p, end);
        if (pass_over<true>(p, end, kMaxDepth) != Passed::Whole) return false;
        const uint8_t* const value = p;
        if (pass_over<true>(p, end, kMaxDepth) != Passed::Whole) return false;
        if (key.token != Token::String || key.size != 3 || std::memcmp(key.body, "_id", 3) != 0)
            continue;
        const Head own = read_head(value, end);
        if (own.token != Token::String || own.size != id.size ||
            std::memcmp(own.body, id.body, id.size) != 0)
            differs = true;
    }
    return p == end;
}

// Check entries; `damaged` and `differing` get the rows of documents.
inline void check_entries(const uint8_t* data, const int64_t* bounds, size_t count,
                          std::vector<uint32_t>& damaged, std::vector<uint32_t>& differing) {
    for (size_t row = 0; row < count; ++row) {
        const uint8_t* const document = data + bounds[2 * row + 1];
        const Head id = read_head(data + bounds[2 * row], document);
        bool differs = false;
        if (!check_document(document, data + bounds[2 * row + 2], id, differs))
            damaged.push_back(uint32_t(row));
        else if (differs)
            differing.push_back(uint32_t(row));
    }
}

}  // namespace godb
