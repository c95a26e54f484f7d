// Location of the documents of a collection in bytes.

#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "hash.hpp"
#include "shape.hpp"

namespace godb {

enum class Scanned : uint8_t { Done, BadId, BadDocument, Invalid, TooDeep };

struct Skipped {
    size_t position;
    uint64_t items;
    uint64_t payload;  // bytes of a string or binary beyond the end
    bool invalid;
};

// Skip values of any depth, up to the end of the buffer.
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

constexpr uint64_t kFewKeys = 16;
constexpr size_t kUsualSize = 64;  // min bytes of most documents, for which memory is reserved

// Finder of the document of an entry. Ids mostly have the same size as the previous one.
class IdHeads {
  public:
    // Document after the id at `p`, or null: `token` tells an invalid id from an incomplete one.
    const uint8_t* pass(const uint8_t* p, const uint8_t* end, Token& token) {
        if (*p == first_ && size_ < size_t(end - p)) return p + size_;
        token = detail::kTable.at[*p].token;
        if (token != Token::String) return nullptr;
        const Head id = read_head(p, end);
        const uint8_t* const document = id.body + id.size;
        if (id.token == Token::Incomplete || document >= end) {
            token = Token::Incomplete;
            return nullptr;
        }
        if (short_string(p) >= 0) {
            first_ = *p;
            size_ = size_t(document - p);
        }
        return document;
    }

  private:
    uint8_t first_ = 0xc1;  // a byte that begins no id
    size_t size_ = 0;
};

// Finder of whole entries, each an id and a document.
class EntryScanner {
  public:
    explicit EntryScanner(const std::vector<std::string>& wanted)
        : wanted_(wanted), repeats_(wanted_), here_(wanted.size(), kUnknownPlace) {}
    EntryScanner(const EntryScanner&) = delete;

    // Find entries from `start` on. `bounds` gets the start of every id and document after the first
    // id, and the end. `at` gets the position of a problem. `places` gets the places of the wanted
    // fields of each document.
    template <typename Bounds>
    Scanned run(const uint8_t* data, size_t size, size_t start, size_t count, size_t max_bytes,
                Bounds& bounds, std::vector<uint32_t>& places, size_t& at) {
        const uint8_t* const end = data + size;
        const uint8_t* p = data + start;
        const size_t expected = std::min(count, (size - start) / kUsualSize);
        bounds.reserve(bounds.size() + 2 * expected);
        places.reserve(wanted_.size() * expected);
        for (size_t found = 0; found < count && size_t(p - data) - start < max_bytes && p < end;
             ++found) {
            at = size_t(p - data);
            Token token;
            const uint8_t* const document = ids_.pass(p, end, token);
            if (!document) {
                if (token != Token::Incomplete) return Scanned::BadId;
                break;
            }
            if (detail::kTable.at[*document].token != Token::Map) {
                at = size_t(document - data);
                return Scanned::BadDocument;
            }
            const uint8_t* next = repeats_.pass(document, end, data, here_.data());
            if (!next) {
                next = document;
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
                repeats_.learn(document, next);
                std::fill(here_.begin(), here_.end(), kUnknownPlace);
            }
            places.insert(places.end(), here_.begin(), here_.end());
            bounds.push_back(document - data);
            bounds.push_back(next - data);
            p = next;
        }
        return Scanned::Done;
    }

  private:
    const std::vector<std::string> wanted_;
    Repeats repeats_;
    IdHeads ids_;
    std::vector<uint32_t> here_;
};

// Number of bounds, and the last one.
struct LastBound {
    int64_t last;
    size_t count = 1;

    size_t size() const { return count; }
    void reserve(size_t) {}
    void push_back(int64_t bound) {
        last = bound;
        ++count;
    }
};

// Count entries from `start` on, and find their end.
inline Scanned scan_extent(const uint8_t* data, size_t size, size_t start, size_t count,
                           size_t max_bytes, size_t& found, size_t& end, size_t& at) {
    const std::vector<std::string> nothing;
    std::vector<uint32_t> places;
    LastBound bounds{int64_t(start)};
    EntryScanner scanner(nothing);
    const Scanned scanned = scanner.run(data, size, start, count, max_bytes, bounds, places, at);
    found = bounds.count / 2;
    end = size_t(bounds.last);
    return scanned;
}

// Find the wanted fields of entries that begin and end at `edges`, without reading the bytes after
// these fields. Returns false if anything is wrong; the entries must then be scanned. Documents
// with an unknown place were scanned. `bounds` gets 2 count + 1 offsets, and `places` the places
// of the fields, as in EntryScanner.
inline bool scan_fronts(const uint8_t* data, size_t size, const int64_t* edges, size_t count,
                        const std::vector<std::string>& wanted, int64_t* bounds,
                        uint32_t* places) {
    if (edges[0] < 0 || uint64_t(edges[count]) > size) return false;
    Repeats repeats(wanted, Look::Front);
    IdHeads ids;
    *bounds++ = edges[0];
    for (size_t i = 0; i < count; ++i) {
        if (edges[i + 1] <= edges[i]) return false;
        const uint8_t* const end = data + edges[i + 1];
        Token token;
        const uint8_t* const document = ids.pass(data + edges[i], end, token);
        if (!document || detail::kTable.at[*document].token != Token::Map) return false;
        *bounds++ = document - data;
        *bounds++ = edges[i + 1];
        uint32_t* const here = places + i * wanted.size();
        if (const uint8_t* const behind = repeats.pass(document, data + size, data, here)) {
            if (behind > end) return false;
            continue;
        }
        std::fill(here, here + wanted.size(), kUnknownPlace);
        const uint8_t* next = document;
        if (pass_over<false>(next, end, kMaxDepth) != Passed::Whole || next != end) return false;
        repeats.learn(document, next);
    }
    return true;
}

// Add sizes to the first edge, given as some bits each more than the min size.
inline void add_sizes(const uint8_t* packed, int bits, int64_t least, int64_t* edges,
                      size_t count) {
    int64_t edge = *edges;
    for (size_t i = 0; i < count; ++i) {
        edge += least;
        switch (bits) {
            case 4: edge += i & 1 ? *packed++ >> 4 : *packed & 0x0f; break;
            case 8: edge += *packed++; break;
            case 16: edge += packed[0] | packed[1] << 8; packed += 2; break;
            case 32:
                edge += packed[0] | packed[1] << 8 | packed[2] << 16 | int64_t(packed[3]) << 24;
                packed += 4;
                break;
            default: break;
        }
        *++edges = edge;
    }
}

// Whether a scanned document has a key twice, or a key that is no UTF-8 string.
inline bool has_odd_keys(const uint8_t* p, const uint8_t* end) {
    const Head head = read_head(p, end);
    p = head.body;
    std::unordered_set<std::string_view, SecretHash> seen;
    std::string_view few[kFewKeys];  // compared one by one, which takes less time than a set
    for (uint64_t i = 0; i < head.size; ++i) {
        const Head key = read_head(p, end);
        if (key.token != Token::String || !is_utf8(key.body, key.size)) return true;
        const std::string_view name(reinterpret_cast<const char*>(key.body), key.size);
        if (head.size > kFewKeys) {
            if (!seen.insert(name).second) return true;
        } else {
            if (std::find(few, few + i, name) != few + i) return true;
            few[i] = name;
        }
        p = key.body + key.size;
        if (pass_over<false>(p, end, kMaxDepth) != Passed::Whole) return true;
    }
    return false;
}

// Sizes of all entries. Returns false if an entry is damaged or has odd keys, because the leading
// fields of such a document may be changed by later ones.
inline bool measure_entries(const uint8_t* data, size_t size, size_t count,
                            std::vector<uint32_t>& sizes) {
    const uint8_t* const end = data + size;
    const uint8_t* p = data;
    const std::vector<std::string> nothing;
    Repeats repeats(nothing, Look::SameKeys);
    IdHeads ids;
    uint32_t none;  // no place is wanted
    sizes.reserve(count);
    for (size_t i = 0; i < count && p < end; ++i) {
        Token token;
        const uint8_t* const document = ids.pass(p, end, token);
        if (!document || detail::kTable.at[*document].token != Token::Map) return false;
        const uint8_t* next = repeats.pass(document, end, data, &none);
        if (!next) {
            next = document;
            if (pass_over<false>(next, end, kMaxDepth) != Passed::Whole) return false;
            if (has_odd_keys(document, next)) return false;
            repeats.learn(document, next);
        }
        sizes.push_back(uint32_t(next - p));
        p = next;
    }
    return p == end && sizes.size() == count;
}

// Index of the last entry with this id, or -1.
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
