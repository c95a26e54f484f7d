// Document ids, before they are written: do two have the same, and which number comes next?

#pragma once

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

// Whether two of the hashes are equal.
inline bool has_equal(const uint64_t* hashes, size_t count) {
    size_t slots = 16;
    while (slots < count * 2) slots *= 2;
    std::vector<uint64_t> table(slots, 0);
    bool zero = false;
    for (size_t i = 0; i < count; ++i) {
        const uint64_t hash = hashes[i];
        if (hash == 0) {
            if (zero) return true;
            zero = true;
            continue;
        }
        size_t slot = hash & (slots - 1);
        while (table[slot] != 0) {
            if (table[slot] == hash) return true;
            slot = (slot + 1) & (slots - 1);
        }
        table[slot] = hash;
    }
    return false;
}

}  // namespace godb
