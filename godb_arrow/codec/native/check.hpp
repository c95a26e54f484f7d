// Checks of whole entries: whether each value can be decoded, whether documents have their ids, and
// whether their sizes may be recorded. The ids are hashed.

#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "bytes.hpp"
#include "ids.hpp"
#include "memory.hpp"
#include "scan.hpp"

namespace godb {

// Result of the checks of entries.
struct Checked {
    std::vector<uint32_t> damaged;    // rows of documents with a value that cannot be decoded
    std::vector<uint32_t> differing;  // rows of the others that have another id in the field "_id"
    Buffer hashes;                    // of the ids, as survey_ids computes them
    uint64_t greatest = 0;            // max number of the ids
    bool has_odd_keys = false;        // whether a document that is not damaged has any
};

class EntryChecker {
  public:
    EntryChecker(const uint8_t* data, const int64_t* bounds, size_t count)
        : data_(data), bounds_(bounds), count_(count), limit_(data + bounds[2 * count]),
          wanted_{"_id"}, repeats_(wanted_, Look::SameKeys) {}
    EntryChecker(const EntryChecker&) = delete;

    void run(Checked& found) {
        found.hashes.reserve(8 * count_);
        for (size_t row = 0; row < count_; ++row) {
            const uint8_t* const document = data_ + bounds_[2 * row + 1];
            const uint8_t* const end = data_ + bounds_[2 * row + 2];
            const Head id = read_head(data_ + bounds_[2 * row], document);
            const size_t readable = size_t(limit_ - id.body);
            found.hashes.push(hash_id(id.body, id.size, readable));
            found.greatest = std::max(found.greatest, number_of(id.body, id.size, readable));
            bool differs = false;
            if (!repeated(document, end, id, differs)) {
                differs = false;
                if (!check_document(document, end, id, differs)) {
                    found.damaged.push_back(uint32_t(row));
                    continue;
                }
                if (godb::has_odd_keys(document, end)) found.has_odd_keys = true;
                else repeats_.learn(document, end);
            }
            if (differs) found.differing.push_back(uint32_t(row));
        }
    }

  private:
    // Check a document that repeats an earlier layout, whose keys are not odd; false for others.
    bool repeated(const uint8_t* document, const uint8_t* end, const Head& id, bool& differs) {
        uint32_t place = kUnknownPlace;
        if (repeats_.pass(document, limit_, data_, &place) != end || place == kUnknownPlace)
            return false;
        if (place != kNoPlace) differs = !has_id(data_ + place, end, id);
        return true;
    }

    static bool has_id(const uint8_t* value, const uint8_t* end, const Head& id) {
        const Head own = read_head(value, end);
        return own.token == Token::String && own.size == id.size &&
               std::memcmp(own.body, id.body, id.size) == 0;
    }

    // Check a scanned document: false if a value cannot be decoded. `differs` tells whether the
    // document has another id in a field of that name.
    static bool check_document(const uint8_t* p, const uint8_t* end, const Head& id,
                               bool& differs) {
        const Head head = read_head(p, end);
        if (head.token != Token::Map) return false;
        p = head.body;
        for (uint64_t i = 0; i < head.size; ++i) {
            const Head key = read_head(p, end);
            if (pass_over<true>(p, end, kMaxDepth) != Passed::Whole) return false;
            const uint8_t* const value = p;
            if (pass_over<true>(p, end, kMaxDepth) != Passed::Whole) return false;
            if (key.token == Token::String && key.size == 3 &&
                std::memcmp(key.body, "_id", 3) == 0 && !has_id(value, end, id))
                differs = true;
        }
        return p == end;
    }

    const uint8_t* const data_;
    const int64_t* const bounds_;
    const size_t count_;
    const uint8_t* const limit_;
    const std::vector<std::string> wanted_;
    Repeats repeats_;
};

}  // namespace godb
