// Document ids, before they are written: do two have the same, and which number comes next?

#pragma once

#include <algorithm>

#include "encode.hpp"

namespace godb {

// A hash that finds equal ids; they are compared before anybody says so.
inline uint64_t hash_id(const uint8_t* data, size_t size) {
    uint64_t hash = 0x9e3779b97f4a7c15ull * (uint64_t(size) + 1);
    for (; size >= 8; data += 8, size -= 8) {
        uint64_t word;
        std::memcpy(&word, data, 8);
        hash = (hash ^ word) * 0xff51afd7ed558ccdull;
        hash ^= hash >> 32;
    }
    uint64_t word = 0;
    if (size) std::memcpy(&word, data, size);
    hash = (hash ^ word) * 0xc4ceb9fe1a85ec53ull;
    hash ^= hash >> 29;
    hash *= 0x9e3779b97f4a7c15ull;
    return hash ^ (hash >> 32);
}

// Appends a hash of each id; returns the greatest that is a number of at most 18 digits.
inline uint64_t survey_ids(const ArrowArray* ids, Buffer& hashes) {
    const auto* offsets = static_cast<const int32_t*>(ids->buffers[1]) + ids->offset;
    const auto* text = static_cast<const uint8_t*>(ids->buffers[2]);
    uint64_t greatest = 0;
    hashes.reserve(size_t(ids->length) * 8);
    for (int64_t row = 0; row < ids->length; ++row) {
        const uint8_t* id = text + offsets[row];
        const size_t size = size_t(offsets[row + 1] - offsets[row]);
        hashes.push(hash_id(id, size));
        if (size == 0 || size > 18) continue;
        uint64_t number = 0;
        size_t digits = 0;
        while (digits < size && id[digits] >= '0' && id[digits] <= '9')
            number = number * 10 + (id[digits++] - '0');
        if (digits == size && number > greatest) greatest = number;
    }
    return greatest;
}

// Whether two of the hashes are equal. A bit for each hash, several times as many as there are,
// tells most of them apart without leaving the cache; the few that meet another one are counted.
inline bool has_equal(const uint64_t* hashes, size_t count) {
    unsigned width = 10;
    while ((size_t(1) << width) < count * 8 && width < 30) ++width;
    const unsigned shift = 64 - width;
    std::vector<uint64_t> seen(size_t(1) << (width - 6), 0);
    std::vector<uint64_t> met;
    for (size_t i = 0; i < count; ++i) {
        const size_t slot = size_t(hashes[i] >> shift);
        const uint64_t bit = uint64_t(1) << (slot & 63);
        if (seen[slot >> 6] & bit) met.push_back(hashes[i]);
        seen[slot >> 6] |= bit;
    }
    if (met.empty()) return false;
    std::sort(met.begin(), met.end());
    if (std::adjacent_find(met.begin(), met.end()) != met.end()) return true;
    // Each is here once; it has an equal if all the hashes have it twice.
    std::fill(seen.begin(), seen.end(), 0);
    for (const uint64_t hash : met) {
        const size_t slot = size_t(hash >> shift);
        seen[slot >> 6] |= uint64_t(1) << (slot & 63);
    }
    std::vector<bool> found(met.size(), false);
    for (size_t i = 0; i < count; ++i) {
        const size_t slot = size_t(hashes[i] >> shift);
        if (!(seen[slot >> 6] >> (slot & 63) & 1)) continue;
        const auto at = std::lower_bound(met.begin(), met.end(), hashes[i]);
        if (at == met.end() || *at != hashes[i]) continue;
        const size_t index = size_t(at - met.begin());
        if (found[index]) return true;
        found[index] = true;
    }
    return false;
}

}  // namespace godb
