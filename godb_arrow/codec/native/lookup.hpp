// Sorted keys of one field, and the documents that they lead to.
//
// codec/reference/lookup.py is the same, written to be read. Keys may be coarser than values: they
// name candidates, and a predicate decides.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <queue>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ids.hpp"
#include "predicate.hpp"
#include "steps.hpp"
#include "values.hpp"

namespace godb {

constexpr size_t kKeyBytes = 64;  // max bytes of a text that count
constexpr uint64_t kSign = uint64_t(1) << 63;

// An integer with the order of a number; both zeros have one.
inline uint64_t number_key(double number) {
    number += 0.0;
    uint64_t bits;
    std::memcpy(&bits, &number, 8);
    return bits & kSign ? ~bits : bits | kSign;
}

// Kinds of keys in the order of a run's arrays; the first four are sorted by key.
enum KeyKind : size_t { kNumbers, kMoments, kStrings, kBinaries, kFalse, kTrue, kNaNs, kNulls, kOthers };
constexpr size_t kSortedKinds = 4, kKeyKinds = 9;

// Values between two literals of one kind, or all values of a kind.
struct KeyRange {
    enum Type : uint8_t { All, Number, Moment, Text, Binary, Flag } type = All;
    size_t flag = kNulls;
    bool has_low = false, has_high = false;
    uint64_t low = 0, high = 0;
    std::string low_text, high_text;
};

// Min of each 16 rows, of each 16 of these, and so on.
class MinTree {
  public:
    static constexpr size_t kFan = 16;

    void build(const std::vector<uint32_t>& rows) {
        levels_.clear();
        const std::vector<uint32_t>* below = &rows;
        while (below->size() > kFan) {
            std::vector<uint32_t> level((below->size() + kFan - 1) / kFan);
            for (size_t i = 0; i < level.size(); ++i) {
                const auto first = below->begin() + ptrdiff_t(i * kFan);
                const auto last = below->begin() +
                                  ptrdiff_t(std::min((i + 1) * kFan, below->size()));
                level[i] = *std::min_element(first, last);
            }
            levels_.push_back(std::move(level));
            below = &levels_.back();
        }
    }
    size_t levels() const { return levels_.size(); }
    uint32_t at(size_t level, size_t index) const { return levels_[level - 1][index]; }
    size_t bytes() const {
        size_t total = 0;
        for (const auto& level : levels_) total += level.size() * 4;
        return total;
    }

  private:
    std::vector<std::vector<uint32_t>> levels_;
};

// The edges of a number of whole entries, one after the other; false if the bytes are others.
inline bool entry_edges(const uint8_t* data, size_t size, size_t count,
                        std::vector<int64_t>& edges) {
    const uint8_t* p = data;
    const uint8_t* const end = data + size;
    edges.reserve(2 * count + 1);
    for (size_t i = 0; i < count; ++i) {
        for (int part = 0; part < 2; ++part) {
            edges.push_back(p - data);
            if (pass_over<true>(p, end, kMaxDepth) != Passed::Whole) return false;
        }
    }
    edges.push_back(p - data);
    return p == end;
}

constexpr size_t kFence = 64;  // sorted keys between two that are kept apart

// Rows of one kind, from one place to another.
struct Span {
    size_t kind, first, last;
};

// Sorted keys of a field in a number of documents, and the row of each.
struct FieldKeys {
    uint64_t documents = 0;
    bool has_lists = false;
    std::vector<uint64_t> keys[2];  // of numbers and moments
    std::vector<uint32_t> ends[2];  // of strings and binaries: offsets, one more than texts
    std::vector<uint8_t> texts[2];
    std::vector<uint32_t> rows[kKeyKinds];
    MinTree trees[kKeyKinds];
    // Each 64th key. A search looks there first, where it stays in the processor's cache.
    std::vector<uint64_t> key_fences[2];
    std::vector<uint32_t> text_fence_ends[2];
    std::vector<uint8_t> text_fences[2];

    FieldKeys() {
        for (auto& offsets : ends) offsets.push_back(0);
    }

    void finish() {
        shrink();
        for (size_t kind = 0; kind < kKeyKinds; ++kind) trees[kind].build(rows[kind]);
        for (size_t which = 0; which < 2; ++which) {
            key_fences[which].clear();
            for (size_t i = 0; i < keys[which].size(); i += kFence)
                key_fences[which].push_back(keys[which][i]);
            auto& fences = text_fences[which];
            fences.clear();
            text_fence_ends[which].assign(1, 0);
            for (size_t i = 0; i + 1 < ends[which].size(); i += kFence) {
                const std::string_view one = text(which, i);
                fences.insert(fences.end(), one.begin(), one.end());
                text_fence_ends[which].push_back(uint32_t(fences.size()));
            }
        }
    }

    // Whether texts are in their order, as they are in an honest run.
    bool has_order() const {
        for (size_t which = 0; which < 2; ++which)
            for (size_t i = 1; i + 1 < ends[which].size(); ++i)
                if (text(which, i) < text(which, i - 1)) return false;
        return true;
    }

    size_t bytes() const {
        size_t total = 0;
        for (const auto& found : keys) total += found.capacity() * 8;
        for (const auto& found : ends) total += found.capacity() * 4;
        for (const auto& found : texts) total += found.capacity();
        for (const auto& found : rows) total += found.capacity() * 4;
        for (const auto& tree : trees) total += tree.bytes();
        for (const auto& found : key_fences) total += found.capacity() * 8;
        for (const auto& found : text_fence_ends) total += found.capacity() * 4;
        for (const auto& found : text_fences) total += found.capacity();
        return total;
    }

    // Release the memory that growing arrays reserved: keys stay for long.
    void shrink() {
        for (auto& found : keys) found.shrink_to_fit();
        for (auto& found : ends) found.shrink_to_fit();
        for (auto& found : texts) found.shrink_to_fit();
        for (auto& found : rows) found.shrink_to_fit();
    }

    std::string_view text(size_t which, size_t index) const {
        return text_at(ends[which], texts[which], index);
    }

    void add_text(size_t which, std::string_view text, uint32_t row) {
        texts[which].insert(texts[which].end(), text.begin(), text.end());
        ends[which].push_back(uint32_t(texts[which].size()));
        rows[kStrings + which].push_back(row);
    }

    void spans(const KeyRange& range, std::vector<Span>& found) const {
        switch (range.type) {
            case KeyRange::All:
                for (size_t kind = 0; kind < kKeyKinds; ++kind)
                    found.push_back({kind, 0, rows[kind].size()});
                break;
            case KeyRange::Flag:
                found.push_back({range.flag, 0, rows[range.flag].size()});
                break;
            case KeyRange::Number: found.push_back(between(0, range)); break;
            case KeyRange::Moment: found.push_back(between(1, range)); break;
            case KeyRange::Text:
                found.push_back(texts_between(0, range));
                // A string that is no UTF-8 is among the binary values.
                [[fallthrough]];
            case KeyRange::Binary: found.push_back(texts_between(1, range)); break;
        }
    }

  private:
    Span between(size_t which, const KeyRange& range) const {
        const size_t first = range.has_low ? bound(which, range.low, false) : 0;
        const size_t last = range.has_high ? bound(which, range.high, true) : keys[which].size();
        return {which, first, std::max(first, last)};
    }

    // First key that is not below another; with `after`, the first one above it.
    size_t bound(size_t which, uint64_t key, bool after) const {
        const auto search = [key, after](const std::vector<uint64_t>& sorted, size_t from, size_t to) {
            const auto first = sorted.begin() + ptrdiff_t(from), last = sorted.begin() + ptrdiff_t(to);
            return size_t((after ? std::upper_bound(first, last, key)
                                 : std::lower_bound(first, last, key)) - sorted.begin());
        };
        const size_t fence = search(key_fences[which], 0, key_fences[which].size());
        const size_t from = fence ? (fence - 1) * kFence : 0;
        return search(keys[which], from, std::min(keys[which].size(), fence * kFence));
    }

    Span texts_between(size_t which, const KeyRange& range) const {
        const size_t count = ends[which].size() - 1;
        const size_t first = range.has_low ? text_bound(which, range.low_text, false) : 0;
        const size_t last = range.has_high ? text_bound(which, range.high_text, true) : count;
        return {kStrings + which, first, std::max(first, last)};
    }

    size_t text_bound(size_t which, std::string_view key, bool after) const {
        const size_t fences = text_fence_ends[which].size() - 1;
        const size_t fence = text_bound(
            text_fence_ends[which], text_fences[which], 0, fences, key, after);
        const size_t from = fence ? (fence - 1) * kFence : 0;
        const size_t to = std::min(ends[which].size() - 1, fence * kFence);
        return text_bound(ends[which], texts[which], from, to, key, after);
    }

    static std::string_view text_at(const std::vector<uint32_t>& ends,
                                    const std::vector<uint8_t>& texts, size_t index) {
        const uint32_t first = ends[index];
        return {reinterpret_cast<const char*>(texts.data()) + first, ends[index + 1] - first};
    }

    static size_t text_bound(const std::vector<uint32_t>& ends, const std::vector<uint8_t>& texts,
                             size_t first, size_t last, std::string_view key, bool after) {
        while (first < last) {
            const size_t middle = first + (last - first) / 2;
            const int order = text_at(ends, texts, middle).compare(key);
            if (order < 0 || (after && order == 0)) first = middle + 1;
            else last = middle;
        }
        return first;
    }
};

// Builds the keys of a field from documents, given in order.
class KeyBuilder {
  public:
    explicit KeyBuilder(const std::vector<std::string>& parts) : finder_(parts) {}

    // Add the next documents; false if one is damaged.
    bool add(const uint8_t* data, const int64_t* bounds, size_t count) {
        ValueColumns found;
        if (!finder_.run(data, bounds, count, found)) return false;
        const size_t values = found.kinds.size();
        const auto* rows = reinterpret_cast<const uint32_t*>(found.rows.data());
        const auto* words = reinterpret_cast<const uint64_t*>(found.words.data());
        const auto* sizes = reinterpret_cast<const uint32_t*>(found.sizes.data());
        if (values > count) keys_.has_lists = true;
        for (size_t i = 0; i < values; ++i) {
            const uint32_t row = uint32_t(keys_.documents) + rows[i];
            const uint64_t word = words[i];
            switch (ValueKind(found.kinds.data()[i])) {
                case ValueKind::Absent:
                case ValueKind::Null: flag(kNulls, row); break;
                case ValueKind::False: flag(kFalse, row); break;
                case ValueKind::True: flag(kTrue, row); break;
                case ValueKind::Int: number(double(int64_t(word)), row); break;
                case ValueKind::AboveInt64: number(double(word), row); break;
                case ValueKind::Float: {
                    double real;
                    std::memcpy(&real, &word, 8);
                    if (std::isnan(real)) flag(kNaNs, row);
                    else number(real, row);
                    break;
                }
                case ValueKind::String: text(0, data + word, sizes[i], row); break;
                case ValueKind::Binary: text(1, data + word, sizes[i], row); break;
                case ValueKind::Moment: pairs_[1].push_back({word ^ kSign, row}); break;
                case ValueKind::Array:
                case ValueKind::Map:
                case ValueKind::Extension: flag(kOthers, row); break;
            }
        }
        keys_.documents += count;
        return true;
    }

    // Throws Interrupted.
    void finish(FieldKeys& out) {
        Steps steps;
        for (size_t which = 0; which < 2; ++which) {
            const auto pairs = sorted(std::move(pairs_[which]), std::less<>(), steps);
            keys_.keys[which].reserve(pairs.size());
            keys_.rows[kNumbers + which].reserve(pairs.size());
            for (const auto& [key, row] : pairs) {
                keys_.keys[which].push_back(key);
                keys_.rows[kNumbers + which].push_back(row);
                steps.count();
            }
        }
        for (size_t which = 0; which < 2; ++which) {
            const uint8_t* const blob = blob_[which].data();
            const auto less = [blob](const Text& a, const Text& b) {
                if (a.head != b.head) return a.head < b.head;
                const size_t common = std::min(a.size, b.size);
                const int order = common ? std::memcmp(blob + a.at, blob + b.at, common) : 0;
                if (order) return order < 0;
                return a.size != b.size ? a.size < b.size : a.row < b.row;
            };
            for (const Text& one : sorted(std::move(texts_[which]), less, steps)) {
                keys_.add_text(which, {reinterpret_cast<const char*>(blob) + one.at, one.size},
                               one.row);
                steps.count();
            }
        }
        keys_.finish();
        out = std::move(keys_);
    }

  private:
    struct Text {
        uint64_t head;  // first eight bytes, in the order of texts
        size_t at;
        uint32_t size, row;
    };

    template <typename T, typename Less>
    static std::vector<T> sorted(std::vector<T> values, const Less& less, Steps& steps) {
        sort_in_steps(values.begin(), values.end(), less, steps);
        return values;
    }
    void flag(size_t kind, uint32_t row) {
        auto& rows = keys_.rows[kind];
        if (rows.empty() || rows.back() != row) rows.push_back(row);
    }
    void number(double value, uint32_t row) { pairs_[0].push_back({number_key(value), row}); }
    void text(size_t which, const uint8_t* data, size_t size, uint32_t row) {
        size = std::min(size, kKeyBytes);
        uint8_t head[8] = {};
        if (size) std::memcpy(head, data, std::min<size_t>(size, 8));
        auto& blob = blob_[which];
        texts_[which].push_back({load64(head), blob.size(), uint32_t(size), row});
        blob.insert(blob.end(), data, data + size);
    }

    ValueFinder finder_;
    FieldKeys keys_;
    std::vector<std::pair<uint64_t, uint32_t>> pairs_[2];
    std::vector<Text> texts_[2];
    std::vector<uint8_t> blob_[2];
};

// Merge the keys of several files into one set of keys. The new row of each document is given, or -1
// where the new file does not have it; new rows ascend within a file. Throws Interrupted.
inline void merge_keys(const std::vector<const FieldKeys*>& files,
                       const std::vector<const int64_t*>& places, uint64_t documents,
                       FieldKeys& out) {
    struct Source {
        size_t file, at;
    };
    Steps steps;
    out.documents = documents;
    for (const FieldKeys* const file : files) out.has_lists = out.has_lists || file->has_lists;
    const auto place = [&](const Source& one, size_t kind) {
        return places[one.file][files[one.file]->rows[kind][one.at]];
    };
    // Visits the entries of one kind in the order of keys, then of rows.
    const auto visit = [&](size_t kind, const auto& before, const auto& add) {
        std::vector<Source> heap;
        const auto after = [&](const Source& a, const Source& b) {
            const int order = before(a, b);
            return order ? order > 0 : place(a, kind) > place(b, kind);
        };
        const auto push = [&](Source one) {
            const size_t count = files[one.file]->rows[kind].size();
            while (one.at < count && place(one, kind) < 0) ++one.at;
            if (one.at == count) return;
            heap.push_back(one);
            std::push_heap(heap.begin(), heap.end(), after);
        };
        for (size_t file = 0; file < files.size(); ++file) push({file, 0});
        while (!heap.empty()) {
            std::pop_heap(heap.begin(), heap.end(), after);
            const Source one = heap.back();
            heap.pop_back();
            add(one, uint32_t(place(one, kind)));
            push({one.file, one.at + 1});
            steps.count();
        }
    };
    for (size_t which = 0; which < 2; ++which) {
        const auto key = [&](const Source& one) { return files[one.file]->keys[which][one.at]; };
        visit(kNumbers + which,
              [&](const Source& a, const Source& b) {
                  return key(a) < key(b) ? -1 : int(key(a) > key(b));
              },
              [&](const Source& one, uint32_t row) {
                  out.keys[which].push_back(key(one));
                  out.rows[kNumbers + which].push_back(row);
              });
        const auto text = [&](const Source& one) { return files[one.file]->text(which, one.at); };
        visit(kStrings + which,
              [&](const Source& a, const Source& b) { return text(a).compare(text(b)); },
              [&](const Source& one, uint32_t row) { out.add_text(which, text(one), row); });
    }
    for (size_t kind = kSortedKinds; kind < kKeyKinds; ++kind)
        visit(kind, [](const Source&, const Source&) { return 0; },
              [&](const Source&, uint32_t row) { out.rows[kind].push_back(row); });
    out.finish();
}

// Rows of some spans in order, each once. Few rows are sorted; of many, the next one is searched
// for, since the caller may need few. The constructor throws Interrupted.
class RowStream {
  public:
    static constexpr size_t kSorted = 2048;  // max rows that are sorted where few are needed

    RowStream(const FieldKeys& keys, const std::vector<Span>& spans, bool needs_all) : keys_(keys) {
        size_t total = 0;
        for (const Span& span : spans) total += span.last - span.first;
        sorted_ = needs_all || total <= kSorted;
        if (sorted_) {
            rows_.reserve(total);
            for (const Span& span : spans) {
                const auto rows = keys.rows[span.kind].begin();
                rows_.insert(rows_.end(), rows + ptrdiff_t(span.first), rows + ptrdiff_t(span.last));
            }
            Steps steps;
            sort_in_steps(rows_.begin(), rows_.end(), std::less<>(), steps);
            rows_.erase(std::unique(rows_.begin(), rows_.end()), rows_.end());
            return;
        }
        for (const Span& span : spans) add(span);
        std::make_heap(heap_.begin(), heap_.end(), Later());
    }

    bool next(int64_t& row) {
        if (sorted_) {
            if (at_ == rows_.size()) return false;
            row = rows_[at_++];
            return true;
        }
        while (!heap_.empty()) {
            std::pop_heap(heap_.begin(), heap_.end(), Later());
            const Node node = heap_.back();
            heap_.pop_back();
            if (node.level) {
                open(node);
            } else if (int64_t(node.row) != last_) {
                row = last_ = node.row;
                return true;
            }
        }
        return false;
    }

  private:
    struct Node {
        uint32_t row;  // the min one in it
        uint32_t kind : 8, level : 24;
        size_t index;
    };
    struct Later {
        bool operator()(const Node& a, const Node& b) const { return a.row > b.row; }
    };

    uint32_t row_at(size_t kind, size_t level, size_t index) const {
        return level ? keys_.trees[kind].at(level, index) : keys_.rows[kind][index];
    }
    void push(size_t kind, size_t level, size_t index) {
        heap_.push_back({row_at(kind, level, index), uint32_t(kind), uint32_t(level), index});
    }
    // Divide a span into the fewest nodes.
    void add(const Span& span) {
        constexpr size_t fan = MinTree::kFan;
        size_t first = span.first, last = span.last, level = 0;
        const size_t levels = keys_.trees[span.kind].levels();
        while (first < last) {
            if (level == levels || last - first <= fan) {
                while (first < last) push(span.kind, level, first++);
                break;
            }
            while (first % fan) push(span.kind, level, first++);
            while (last % fan) push(span.kind, level, --last);
            first /= fan, last /= fan, ++level;
        }
    }
    void open(const Node& node) {
        const size_t level = node.level - 1;
        const size_t first = node.index * MinTree::kFan;
        for (size_t i = first; i < first + MinTree::kFan; ++i) {
            push(node.kind, level, i);
            std::push_heap(heap_.begin(), heap_.end(), Later());
        }
    }

    const FieldKeys& keys_;
    bool sorted_;
    std::vector<uint32_t> rows_;
    size_t at_ = 0;
    std::vector<Node> heap_;
    int64_t last_ = -1;
};

// One condition of a query: a value within one of some ranges.
struct Alternatives {
    std::vector<KeyRange> ranges;
    int other = -1;  // condition with the opposite bound of the same field

    void spans(const FieldKeys& keys, std::vector<Span>& found) const {
        for (const KeyRange& range : ranges) keys.spans(range, found);
    }
};

inline size_t rows_in(const std::vector<Span>& spans) {
    size_t total = 0;
    for (const Span& span : spans) total += span.last - span.first;
    return total;
}

// The spans of the condition with the fewest rows, by the keys of each; null if there are no keys.
inline const FieldKeys* fewest(const std::vector<Alternatives>& conditions,
                               const std::vector<const FieldKeys*>& keys,
                               std::vector<Span>& best) {
    const FieldKeys* chosen = nullptr;
    std::vector<Span> spans, others;
    for (size_t i = 0; i < conditions.size(); ++i) {
        if (!keys[i]) continue;
        spans.clear();
        conditions[i].spans(*keys[i], spans);
        const int other = conditions[i].other;
        if (other >= 0 && !keys[i]->has_lists) {  // The one value is within both bounds.
            others.clear();
            conditions[size_t(other)].spans(*keys[i], others);
            for (Span& span : spans) {
                const auto same = [&span](const Span& one) { return one.kind == span.kind; };
                const auto found = std::find_if(others.begin(), others.end(), same);
                if (found == others.end()) {
                    span.last = span.first;
                } else {
                    span.first = std::max(span.first, found->first);
                    span.last = std::max(span.first, std::min(span.last, found->last));
                }
            }
        }
        if (!chosen || rows_in(spans) < rows_in(best)) {
            chosen = keys[i];
            best.swap(spans);
        }
    }
    return chosen;
}

// Documents in memory, in runs.
struct Documents {
    std::vector<const uint8_t*> data;
    std::vector<size_t> sizes;
    std::vector<const int64_t*> bounds;
    std::vector<int64_t> starts{0};  // row of each run's first document, and the number of rows

    void add(const uint8_t* bytes, size_t size, const int64_t* edges, size_t count) {
        if (!count) return;
        data.push_back(bytes);
        sizes.push_back(size);
        bounds.push_back(edges);
        starts.push_back(starts.back() + int64_t(count));
    }
    int64_t count() const { return starts.back(); }
    // The run of a row, which must exist, and the row's bounds in it.
    size_t locate(int64_t row, const int64_t*& edges) const {
        const auto after = std::upper_bound(starts.begin(), starts.end(), row);
        const size_t run = size_t(after - starts.begin()) - 1;
        edges = bounds[run] + 2 * (row - starts[run]);
        return run;
    }
};

// Sorted hashes of ids, and the row of each.
struct IdRows {
    const uint64_t* hashes;
    const void* rows;
    size_t count;
    bool is_wide;  // rows of 64 bits rather than 32

    int64_t row(size_t index) const {
        return is_wide ? static_cast<const int64_t*>(rows)[index]
                       : int64_t(static_cast<const uint32_t*>(rows)[index]);
    }
    // First place with a hash, or where it would be. Hashes are spread evenly, mostly.
    size_t find(uint64_t hash) const {
        size_t first = 0, last = count;
        const size_t guess = size_t((unsigned __int128)(hash) * count >> 64);
        if (guess < count) {
            size_t step = 32;
            if (hashes[guess] < hash) {
                first = guess + 1;
                while (first + step < count && hashes[first + step] < hash) {
                    first += step;
                    step *= 2;
                }
                last = std::min(count, first + step + 1);
            } else {
                last = guess;
                while (last > step && hashes[last - step] >= hash) {
                    last -= step;
                    step *= 2;
                }
                first = last > step ? last - step : 0;
            }
        }
        return size_t(std::lower_bound(hashes + first, hashes + last, hash) - hashes);
    }
};

}  // namespace godb
