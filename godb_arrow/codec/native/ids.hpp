// Document ids before they are written: duplicates and the max number.

#pragma once

#include <algorithm>
#include <functional>
#include <tuple>
#include <utility>
#include <vector>

#include "encode.hpp"
#include "extremes.hpp"
#include "steps.hpp"
#include "words.hpp"

namespace godb {

// A hash that finds candidates for equal ids; the caller compares the ids themselves.
// Id files store it, so the reference codec computes the same hash (reference/documents.py).
// `readable` bytes may be read.
inline uint64_t hash_id(const uint8_t* data, size_t size, size_t readable = 0) {
    const uint8_t* const readable_end = data + std::max(size, readable);
    uint64_t hash = 0x9e3779b97f4a7c15ull * (uint64_t(size) + 1);
    for (; size >= 8; data += 8, size -= 8) {
        hash = (hash ^ word_at(data)) * 0xff51afd7ed558ccdull;
        hash ^= hash >> 32;
    }
    uint64_t word = 0;
    if (__builtin_expect(readable_end - data >= 8, 1)) {
        word = word_at(data);
        word &= (uint64_t(1) << (8 * size)) - 1;
    } else if (size) {
        std::memcpy(&word, data, size);
    }
    hash = (hash ^ word) * 0xc4ceb9fe1a85ec53ull;
    hash ^= hash >> 29;
    hash *= 0x9e3779b97f4a7c15ull;
    return hash ^ (hash >> 32);
}

// Bound of generated ids, so that a first number and a count never overflow 64 bits.
constexpr uint64_t max_number = uint64_t(1) << 62;

// Number of an id: decimal digits without leading zeros, below `max_number`; else 0.
inline uint64_t number_of(const uint8_t* id, size_t size, size_t readable) {
    if (size == 0 || size > 19 || *id == '0') return 0;
    if (size <= 8 && readable >= 8) {
        // Eight digits at once, padded with zeros.
        constexpr uint64_t zeros = 0x3030303030303030ull;
        uint64_t word = word_at(id);
        if (size < 8) word = word << (64 - 8 * size) | zeros >> (8 * size);
        word -= zeros;
        if ((word | (word + 0x7676767676767676ull)) & 0x8080808080808080ull) return 0;
        word = word * 10 + (word >> 8);
        constexpr uint64_t mask = 0x000000ff000000ffull;
        return (((word & mask) * 0x000f424000000064ull) +
                ((word >> 16 & mask) * 0x0000271000000001ull)) >> 32;
    }
    uint64_t number = 0;
    for (size_t i = 0; i < size; ++i) {
        if (id[i] < '0' || id[i] > '9') return 0;
        number = number * 10 + (id[i] - '0');
    }
    return number < max_number ? number : 0;
}

// Ids of a binary array, one after the other.
struct Ids {
    explicit Ids(const ArrowArray* ids)
        : offsets(static_cast<const int32_t*>(ids->buffers[1]) + ids->offset),
          text(static_cast<const uint8_t*>(ids->buffers[2])),
          end(text + (ids->length ? offsets[ids->length] : 0)),
          count(ids->length) {}

    const uint8_t* data(int64_t row) const { return text + offsets[row]; }
    size_t size(int64_t row) const { return size_t(offsets[row + 1] - offsets[row]); }
    size_t readable(int64_t row) const { return size_t(end - data(row)); }

    const int32_t* offsets;
    const uint8_t* text;
    const uint8_t* end;
    int64_t count;
};

// Append a hash of each id, and return the max number among the ids.
inline uint64_t survey_ids(const ArrowArray* array, Buffer& hashes) {
    const Ids ids(array);
    uint64_t greatest = 0;
    hashes.reserve(size_t(ids.count) * 8);
    for (int64_t row = 0; row < ids.count; ++row) {
        const uint8_t* id = ids.data(row);
        hashes.push(hash_id(id, ids.size(row), ids.readable(row)));
        greatest = std::max(greatest, number_of(id, ids.size(row), ids.readable(row)));
    }
    return greatest;
}

// Whether ids ascend, by size and then by bytes; `greatest` gets the max number.
inline bool ids_ascend(const ArrowArray* array, uint64_t& greatest) {
    const Ids ids(array);
    greatest = 0;
    OrderedText before{};
    for (int64_t row = 0; row < ids.count; ++row) {
        const OrderedText here = OrderedText::of(ids.data(row), ids.size(row), ids.end);
        if (row && (here.size < before.size || (here.size == before.size && !before.before(here))))
            return false;
        before = here;
    }
    for (int64_t row = ids.count - 1; row >= 0; --row) {
        const uint8_t* id = ids.data(row);
        const uint64_t number = number_of(id, ids.size(row), ids.readable(row));
        greatest = std::max(greatest, number);
        // Earlier ids have fewer digits, or smaller ones.
        if (number) break;
    }
    return true;
}

// Sort hashes, equal ones by their places. Throws Interrupted.
inline void sort_hashes(uint64_t* hashes, uint64_t* rows, size_t count) {
    std::vector<std::pair<uint64_t, uint64_t>> pairs(count);
    for (size_t i = 0; i < count; ++i) pairs[i] = {hashes[i], i};
    Steps steps;
    sort_in_steps(pairs.begin(), pairs.end(), std::less<>(), steps);
    for (size_t i = 0; i < count; ++i) std::tie(hashes[i], rows[i]) = pairs[i];
}

// Whether two of the hashes are equal. A bitmap with several bits for each hash tells most of them
// apart without leaving the cache. Only the few hashes whose bit is set already are counted.
inline bool has_equal(const uint64_t* hashes, size_t count) {
    unsigned width = 10;
    while ((size_t(1) << width) < count * 32 && width < 30) ++width;
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
    // Each is listed once; it has an equal if all the hashes have it twice.
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
