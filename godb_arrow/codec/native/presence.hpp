// Number of documents that have a field, which columns cannot distinguish from null.

#pragma once

#include <vector>

#include "keys.hpp"

namespace godb {

// Count the documents that have each of the names; the first of equal keys in a document counts.
inline void count_present(const uint8_t* data, const int64_t* bounds, size_t count, Keys& names,
                          std::vector<int64_t>& counts) {
    counts.assign(names.size(), 0);
    std::vector<size_t> seen(names.size(), SIZE_MAX);
    for (size_t i = 0; i < count; ++i) {
        const uint8_t* const end = data + bounds[2 * i + 2];
        const Head document = read_head(data + bounds[2 * i + 1], end);
        const uint8_t* p = document.body;
        for (uint64_t place = 0; place < document.size; ++place) {
            const Head key = read_head(p, end);
            if (key.token == Token::String) {
                const int found = names.find(key.body, size_t(key.size), size_t(place));
                if (found != Keys::kNone && seen[size_t(found)] != i) {
                    seen[size_t(found)] = i;
                    ++counts[size_t(found)];
                }
                p = key.body + key.size;
            } else if (pass_over<false>(p, end, kMaxDepth) != Passed::Whole) {
                break;
            }
            if (const uint8_t* const behind = behind_scalar(p)) p = behind;
            else if (pass_over<false>(p, end, kMaxDepth) != Passed::Whole) break;
        }
    }
}

}  // namespace godb
