// Records of the journal: heads, checksums and blocks of zeros, as in reference/records.py.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "words.hpp"

namespace godb {

namespace detail {

constexpr uint64_t kPrime32[] = {0x9e3779b1, 0x85ebca77, 0xc2b2ae3d, 0x27d4eb2f, 0x165667b1};
constexpr uint64_t kPrime64[] = {
    0x9e3779b185ebca87ull, 0xc2b2ae3d27d4eb4full, 0x165667b19e3779f9ull, 0x85ebca77c2b2ae63ull,
    0x27d4eb2f165667c5ull};
constexpr size_t kSecretBytes = 192;
constexpr uint8_t kSecret[kSecretBytes] = {
    0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad, 0x1c,
    0xde, 0xd4, 0x6d, 0xe9, 0x83, 0x90, 0x97, 0xdb, 0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3, 0x67, 0x1f,
    0xcb, 0x79, 0xe6, 0x4e, 0xcc, 0xc0, 0xe5, 0x78, 0x82, 0x5a, 0xd0, 0x7d, 0xcc, 0xff, 0x72, 0x21,
    0xb8, 0x08, 0x46, 0x74, 0xf7, 0x43, 0x24, 0x8e, 0xe0, 0x35, 0x90, 0xe6, 0x81, 0x3a, 0x26, 0x4c,
    0x3c, 0x28, 0x52, 0xbb, 0x91, 0xc3, 0x00, 0xcb, 0x88, 0xd0, 0x65, 0x8b, 0x1b, 0x53, 0x2e, 0xa3,
    0x71, 0x64, 0x48, 0x97, 0xa2, 0x0d, 0xf9, 0x4e, 0x38, 0x19, 0xef, 0x46, 0xa9, 0xde, 0xac, 0xd8,
    0xa8, 0xfa, 0x76, 0x3f, 0xe3, 0x9c, 0x34, 0x3f, 0xf9, 0xdc, 0xbb, 0xc7, 0xc7, 0x0b, 0x4f, 0x1d,
    0x8a, 0x51, 0xe0, 0x4b, 0xcd, 0xb4, 0x59, 0x31, 0xc8, 0x9f, 0x7e, 0xc9, 0xd9, 0x78, 0x73, 0x64,
    0xea, 0xc5, 0xac, 0x83, 0x34, 0xd3, 0xeb, 0xc3, 0xc5, 0x81, 0xa0, 0xff, 0xfa, 0x13, 0x63, 0xeb,
    0x17, 0x0d, 0xdd, 0x51, 0xb7, 0xf0, 0xda, 0x49, 0xd3, 0x16, 0x55, 0x26, 0x29, 0xd4, 0x68, 0x9e,
    0x2b, 0x16, 0xbe, 0x58, 0x7d, 0x47, 0xa1, 0xfc, 0x8f, 0xf8, 0xb8, 0xd1, 0x7a, 0xd0, 0x31, 0xce,
    0x45, 0xcb, 0x3a, 0x8f, 0x95, 0x16, 0x04, 0x28, 0xaf, 0xd7, 0xfb, 0xca, 0xbb, 0x4b, 0x40, 0x7e,
};
constexpr size_t kStripeBytes = 64;
constexpr size_t kStripesPerBlock = (kSecretBytes - kStripeBytes) / 8;

inline uint64_t fold(uint64_t a, uint64_t b) {
#if defined(__SIZEOF_INT128__)
    const unsigned __int128 product = static_cast<unsigned __int128>(a) * b;
    return uint64_t(product) ^ uint64_t(product >> 64);
#else
    const uint64_t low = (a & 0xffffffff) * (b & 0xffffffff);
    const uint64_t left = (a >> 32) * (b & 0xffffffff), right = (a & 0xffffffff) * (b >> 32);
    const uint64_t cross = (low >> 32) + (left & 0xffffffff) + right;
    const uint64_t high = (left >> 32) + (cross >> 32) + (a >> 32) * (b >> 32);
    return ((cross << 32) | (low & 0xffffffff)) ^ high;
#endif
}

inline uint64_t mix16(const uint8_t* data, const uint8_t* secret) {
    return fold(
        word_at<uint64_t>(data) ^ word_at<uint64_t>(secret),
        word_at<uint64_t>(data + 8) ^ word_at<uint64_t>(secret + 8));
}

inline uint64_t avalanche(uint64_t hash) {
    hash ^= hash >> 37;
    hash *= 0x165667919e3779f9ull;
    return hash ^ (hash >> 32);
}

inline void accumulate(uint64_t* sums, const uint8_t* stripe, const uint8_t* secret) {
    for (size_t i = 0; i < 8; ++i) {
        const uint64_t value = word_at<uint64_t>(stripe + 8 * i);
        const uint64_t key = value ^ word_at<uint64_t>(secret + 8 * i);
        sums[i ^ 1] += value;
        sums[i] += (key & 0xffffffff) * (key >> 32);
    }
}

inline uint64_t xxh3_long(const uint8_t* data, size_t size) {
    uint64_t sums[8] = {
        kPrime32[2], kPrime64[0], kPrime64[1], kPrime64[2],
        kPrime64[3], kPrime32[1], kPrime64[4], kPrime32[0]};
    const size_t stripes = (size - 1) / kStripeBytes;
    for (size_t i = 0; i < stripes; ++i) {
        accumulate(sums, data + i * kStripeBytes, kSecret + 8 * (i % kStripesPerBlock));
        if ((i + 1) % kStripesPerBlock) continue;
        for (size_t lane = 0; lane < 8; ++lane) {
            const uint8_t* const secret = kSecret + kSecretBytes - kStripeBytes + 8 * lane;
            sums[lane] ^= sums[lane] >> 47;
            sums[lane] = (sums[lane] ^ word_at<uint64_t>(secret)) * kPrime32[0];
        }
    }
    accumulate(sums, data + size - kStripeBytes, kSecret + kSecretBytes - kStripeBytes - 7);
    uint64_t hash = uint64_t(size) * kPrime64[0];
    for (size_t i = 0; i < 4; ++i) {
        hash += fold(
            sums[2 * i] ^ word_at<uint64_t>(kSecret + 11 + 16 * i),
            sums[2 * i + 1] ^ word_at<uint64_t>(kSecret + 19 + 16 * i));
    }
    return avalanche(hash);
}

}  // namespace detail

// XXH3-64 of at least 17 bytes.
inline uint64_t xxh3(const uint8_t* data, size_t size) {
    using namespace detail;
    if (size > 240) return xxh3_long(data, size);
    uint64_t hash = uint64_t(size) * kPrime64[0];
    if (size <= 128) {
        for (size_t i = (size - 1) / 32 + 1; i-- > 0;) {
            hash += mix16(data + 16 * i, kSecret + 32 * i);
            hash += mix16(data + size - 16 * (i + 1), kSecret + 32 * i + 16);
        }
        return avalanche(hash);
    }
    for (size_t i = 0; i < 8; ++i) hash += mix16(data + 16 * i, kSecret + 16 * i);
    hash = avalanche(hash);
    for (size_t i = 8; i < size / 16; ++i) hash += mix16(data + 16 * i, kSecret + 16 * (i - 8) + 3);
    return avalanche(hash + mix16(data + size - 16, kSecret + 136 - 17));
}

// XXH32 of at least 16 bytes, whose number is a multiple of 4.
inline uint32_t xxh32(const uint8_t* data, size_t size) {
    constexpr uint32_t p1 = 0x9e3779b1, p2 = 0x85ebca77, p3 = 0xc2b2ae3d, p4 = 0x27d4eb2f;
    const auto turn = [](uint32_t word, int bits) { return word << bits | word >> (32 - bits); };
    uint32_t lanes[4] = {p1 + p2, p2, 0, 0u - p1};
    size_t at = 0;
    for (; at + 16 <= size; at += 16) {
        for (size_t i = 0; i < 4; ++i) {
            lanes[i] += word_at<uint32_t>(data + at + 4 * i) * p2;
            lanes[i] = turn(lanes[i], 13) * p1;
        }
    }
    uint32_t hash = turn(lanes[0], 1) + turn(lanes[1], 7) + turn(lanes[2], 12) + turn(lanes[3], 18);
    hash += uint32_t(size);
    for (; at + 4 <= size; at += 4) {
        hash += word_at<uint32_t>(data + at) * p3;
        hash = turn(hash, 17) * p4;
    }
    hash = (hash ^ hash >> 15) * p2;
    hash = (hash ^ hash >> 13) * p3;
    return hash ^ hash >> 16;
}

constexpr size_t kRecordHead = 40;
constexpr size_t kRecordAlignment = 16;
constexpr size_t kMinPadding = 2;
constexpr size_t kSector = 512;

// Size of a record with a payload of some bytes.
inline size_t record_size(size_t length) {
    return (kRecordHead + length + kMinPadding + kRecordAlignment - 1) / kRecordAlignment *
           kRecordAlignment;
}

// Whether 127 bytes of zero follow each other. A sector with one other byte has such a run.
inline bool has_zeros(const uint8_t* data, size_t size) {
    constexpr size_t run = kSector / 4 - 1;
    for (size_t start = 0; start + run <= size;) {
        size_t last = start + run;
        while (last > start && data[last - 1] == 0) --last;
        if (last == start) return true;
        start = last;
    }
    return false;
}

// Count sectors of the file, and sectors of the write, with at most one byte other than zero.
inline uint32_t count_sparse(const uint8_t* record, size_t size, uint64_t offset) {
    const auto sparse = [record](size_t from, size_t to) {
        return to - from - size_t(std::count(record + from, record + to, uint8_t(0))) <= 1;
    };
    const size_t first = size_t((kSector - offset % kSector) % kSector);
    uint32_t count = 0;
    for (const size_t start : {first, size_t(0)}) {
        const size_t front = std::min(start, size);
        if (front >= kRecordAlignment) count += sparse(0, front);
        size_t at = front;
        for (; at + kSector <= size; at += kSector) count += sparse(at, at + kSector);
        if (size - at >= kRecordAlignment) count += sparse(at, size);
        if (!first) break;
    }
    return count;
}

// Complete a record whose payload was written after the head.
inline void frame_record(
    uint8_t* record, size_t length, uint64_t number, uint64_t durable, uint64_t offset) {
    const size_t size = record_size(length);
    std::memset(record + kRecordHead + length, 0xff, size - kRecordHead - length);
    uint32_t sparse = 0;
    if (has_zeros(record + kRecordHead, size - kRecordHead)) {
        std::memset(record, 0xff, kRecordHead);
        sparse = count_sparse(record, size, offset);
    }
    const uint64_t words[] = {length, number, durable};
    std::memcpy(record, words, 24);
    std::memcpy(record + 24, &sparse, 4);
    const uint32_t check = xxh32(record, 28);
    std::memcpy(record + 28, &check, 4);
    // The checksum covers the head before it and what follows it, as if they were adjacent.
    uint8_t* const joined = record + 8;
    std::memmove(joined, record, 32);
    const uint64_t digest = xxh3(joined, size - 8);
    std::memmove(record, joined, 32);
    std::memcpy(record + 32, &digest, 8);
}

}  // namespace godb
