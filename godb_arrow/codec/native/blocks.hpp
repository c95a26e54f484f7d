// Decoding of documents into columns, in blocks.
//
// The values of a block are decoded column by column. Each loop then does the same thing again and
// again, where decoding document by document would change the column with each value.

#pragma once

#include "decode.hpp"

namespace godb {

class Decoder : public ValueDecoder {
  public:
    using ValueDecoder::ValueDecoder;

    // Decode documents into the root's children; false if there is a failure. `places`, if given,
    // has the places of the values of `width` fields of each document. `order` maps them to the
    // children (-1 for the id). Documents of which only the front was scanned are not `whole`.
    bool run(const uint8_t* data, const int64_t* bounds, size_t count, bool whole,
             const uint32_t* places = nullptr, size_t width = 0, const int* order = nullptr) {
        begin(data, data + bounds[2 * count], size_t(bounds[2 * count] - bounds[0]), count);
        const bool is_given = places != nullptr;
        if (!is_given && whole && has_few_fields()) repeats_.reset(new Repeats(names_));
        if (!is_given) width = names_.size();
        return add({bounds, places, width, order}, count, whole) && finish();
    }

    // Decode whole entries that are not scanned; false if there is a failure, of any kind.
    bool run_entries(const uint8_t* data, size_t size, size_t count) {
        begin(data, data + size, size, count);
        if (!has_few_fields()) return false;
        EntryScanner scanner(names_);
        std::vector<int64_t> bounds;
        std::vector<uint32_t> places;
        size_t start = 0, at;
        while (count) {
            bounds.assign(1, int64_t(start));
            places.clear();
            const Scanned scanned = scanner.run(data, size, start, std::min(count, kBlock),
                                                kBlockBytes, bounds, places, at);
            const size_t found = bounds.size() / 2;
            if (scanned != Scanned::Done || found == 0) return false;
            if (!add({bounds.data(), places.data(), names_.size(), nullptr}, found, true)) return false;
            start = size_t(bounds.back());
            count -= found;
        }
        return start == size && finish();
    }

  private:
    static constexpr size_t kBlock = 512;  // max documents of a block
    static constexpr ptrdiff_t kBlockBytes = 64 << 10;  // with more, a block has no further document
    static constexpr ptrdiff_t kMargin = 64;  // bytes that can be read after each document of a block
    static constexpr size_t kDisorder = 4;  // structs in another order, after which none is expected
    static constexpr size_t kElements = 1024;  // elements of lists that are decoded together

    // Documents and the places of their fields. Without places, these are found block by block.
    struct Documents {
        const int64_t* bounds;
        const uint32_t* places;
        size_t width;
        const int* order;  // the field of each child; null if they are the same
    };

    // The bytes of a value that is null.
    static const uint8_t* nil() {
        alignas(64) static constexpr uint8_t bytes[kMargin] = {0xc0};
        return bytes;
    }

    // Values at places, `stride` places apart; null where there are none.
    struct Placed {
        const uint8_t* data;
        const uint32_t* places;
        size_t stride;

        const uint8_t* operator()(size_t i) const {
            const uint32_t place = places[i * stride];
            const uint8_t* const p = data + place;
            return place > kBelowNull && place != kNoPlace ? p : nil();
        }
        bool is_below_null(size_t i) const { return places[i * stride] == kBelowNull; }
    };

    // Ids of documents.
    struct Ids {
        const uint8_t* data;
        const int64_t* bounds;

        const uint8_t* operator()(size_t i) const { return data + bounds[2 * i]; }
        bool is_below_null(size_t) const { return false; }
    };

    void begin(const uint8_t* data, const uint8_t* limit, size_t size, size_t count) {
        data_ = data;
        limit_ = limit;
        max_cells_ = size / kMaxCells > kMaxCellsPerByte
                         ? SIZE_MAX
                         : std::max(kMaxCells, kMaxCellsPerByte * size);
        measure(root_);
        root_.reserve(count);
        if (const size_t texts = root_.count_text()) root_.reserve_text(size / texts * 3 / 2);
        names_.clear();
        for (auto& child : root_.children) names_.push_back(child->name);
        if (std::find(names_.begin(), names_.end(), "_id") == names_.end()) names_.push_back("_id");
    }

    // Whether the fields of documents can be found by their keys.
    bool has_few_fields() const {
        return names_.size() <= FieldFinder::kMaxFields && size_t(limit_ - data_) < kNoPlace;
    }

    bool finish() {
        for (auto& child : root_.children)
            if (oversized(*child)) {
                failure_.problem = Problem::TooLarge;
                return false;
            }
        return true;
    }

    bool add(const Documents& documents, size_t count, bool whole) {
        for (size_t i = 0; i < count;) {
            const size_t known = find_block(documents, i, count);
            if (known && values_of(documents, i, i, known)) {
                i += known;
                continue;
            }
            const size_t first = i;
            for (const size_t last = i + std::max(known, size_t(1)); i < last; ++i) {
                if (known > 1 && values_of(documents, first, i, 1)) continue;
                if (!single(documents.bounds + 2 * i, i, whole)) return false;
            }
        }
        return true;
    }

    // Decode a document as a whole.
    bool single(const int64_t* bounds, size_t i, bool whole) {
        const uint8_t* const start = data_ + bounds[1];
        const uint8_t* const end = data_ + bounds[2];
        const bool readable = whole || is_whole(start, end);
        if (readable && document(data_ + bounds[0], start, end)) return true;
        failure_.document = i;
        // Report corruption in preference to any other error.
        const uint8_t* p = start;
        if (!readable || pass_over<true>(p, end, kMaxDepth) != Passed::Whole)
            failure_.problem = Problem::Corrupt;
        return false;
    }

    static bool is_whole(const uint8_t* p, const uint8_t* end) {
        return pass_over<false>(p, end, kMaxDepth) == Passed::Whole && p == end;
    }

    // The number of documents of the next block, whose fields have known places.
    size_t find_block(const Documents& documents, size_t first, size_t count) {
        if (!documents.places && !repeats_) return 0;
        if (!documents.places) found_.resize(kBlock * documents.width);
        const int64_t* const bounds = documents.bounds;
        count = std::min(count, first + kBlock);
        const int64_t last = bounds[2 * first] + kBlockBytes;
        size_t i = first;
        for (; i < count && bounds[2 * i] < last; ++i) {
            if (limit_ - (data_ + bounds[2 * i + 2]) < kMargin) break;
            const uint8_t* const document = data_ + bounds[2 * i + 1];
            const uint32_t* places = nullptr;
            if (documents.places) {
                places = documents.places + i * documents.width;
            } else {
                uint32_t* const found = found_.data() + (i - first) * documents.width;
                places = found;
                if (!repeats_->pass(document, limit_, data_, found)) {
                    repeats_->learn(document, data_ + bounds[2 * i + 2]);
                    break;
                }
            }
            if (places[0] == kUnknownPlace) break;
            if (strict_ && !has_no_other(document, places, documents.width)) break;
        }
        return i - first;
    }

    bool has_no_other(const uint8_t* document, const uint32_t* places, size_t width) const {
        size_t present = 0;
        for (size_t k = 0; k < width; ++k) present += places[k] != kNoPlace;
        uint64_t fields = *document & 0x0f;
        if ((*document & 0xf0) != 0x80) fields = read_head(document, limit_).size;
        return fields == present;
    }

    // Decode documents of the block that begins at `start`, column by column. Returns false, and
    // adds nothing, if a value does not fit.
    bool values_of(const Documents& documents, size_t start, size_t first, size_t count) {
        const size_t row = root_.length, cells = cells_, width = documents.width;
        const uint32_t* const places = documents.places ? documents.places + first * width
                                                        : found_.data() + (first - start) * width;
        for (size_t i = 0; i < root_.children.size(); ++i) {
            Column& child = *root_.children[i];
            const size_t field = documents.order ? size_t(documents.order[i]) : i;
            const bool fit = &child == id_
                                 ? values(child, Ids{data_, documents.bounds + 2 * first}, count)
                                 : values(child, Placed{data_, places + field, width}, count);
            if (!fit) return take_back(row, cells);
        }
        root_.length += count;
        return true;
    }

    bool take_back(size_t row, size_t cells) {
        failure_ = Failure();
        cells_ = cells;
        for (auto& child : root_.children) child->truncate(row);
        return false;
    }

    // Decode values into a column; false if one does not fit.
    template <typename At>
    bool values(Column& column, const At& at, size_t count) {
        for (size_t i = 0; i < count;) {
            size_t done = 0;
            bool fits = true;
            switch (column.core) {
                case Core::Int64: done = numbers(column, kPlainIntegers, at, i, count); break;
                case Core::Float64: done = numbers(column, kPlainReals, at, i, count); break;
                case Core::String: done = texts(column, at, i, count); break;
                case Core::Bool: done = bools(column, at, i, count); break;
                case Core::Timestamp: done = timestamps(column, at, i, count); break;
                case Core::List: done = lists(column, at, i, count, fits); break;
                case Core::Struct: done = structs(column, at, i, count, fits); break;
                default: break;
            }
            if (!fits) return false;
            i += done;
            if (i == count) break;
            const uint8_t* p = at(i);
            if (column.width && at.is_below_null(i)) column.push_null();
            else if (!convert(column, p, limit_)) return false;
            ++i;
        }
        return true;
    }

    // Each of the following functions decodes values from `first` on, up to one that needs more
    // care, and returns how many there were.

    template <typename At>
    __attribute__((noinline)) size_t numbers(Column& column, const PlainNumbers& plain, const At& at, size_t first,
                   size_t last) {
        uint8_t present[kElements];
        const size_t count = last - first;
        uint8_t* const to = column.values.extend(count * 8);
        size_t i = 0;
        for (; i < count; ++i) {
            const uint8_t* const p = at(first + i);
            const PlainNumbers::Form form = plain.at[*p];
            if (form.kind == PlainNumbers::kOther) break;
            const uint64_t number = uint64_t(int64_t(load64(p + form.skip)) >> form.shift) & form.mask;
            std::memcpy(to + 8 * i, &number, 8);
            present[i] = form.kind == PlainNumbers::kNumber;
        }
        column.values.truncate(column.values.size() - (count - i) * 8);
        column.mark(present, i);
        return i;
    }

    template <typename At>
    __attribute__((noinline)) size_t texts(Column& column, const At& at, size_t first, size_t last) {
        constexpr size_t longest = 32;  // of a short string, with what is copied in vain
        uint8_t present[kElements];
        Buffer& text = column.values;
        const size_t count = last - first;
        uint8_t* const ends = column.room_for_offsets(count);
        size_t size = text.size(), room = text.capacity(), i = 0;
        for (; i < count; ++i) {
            const uint8_t* const p = at(first + i);
            const bool is_text = (*p & 0xe0) == 0xa0;
            if (!is_text && *p != 0xc0) break;
            if (room - size < longest) {
                text.extend(size - text.size());
                text.reserve(longest);
                room = text.capacity();
            }
            const size_t length = *p & 0x1f;  // of nil, 0
            std::memcpy(text.data() + size, p + 1, longest);
            if (!is_short_ascii32(p + 1, length) && !is_utf8(p + 1, length)) break;
            size += length;
            const int32_t end = int32_t(size);
            std::memcpy(ends + 4 * i, &end, 4);
            present[i] = is_text;
        }
        text.extend(size - text.size());
        column.offsets.extend(4 * i);
        column.mark(present, i);
        return i;
    }

    template <typename At>
    __attribute__((noinline)) size_t bools(Column& column, const At& at, size_t first, size_t last) {
        uint8_t present[kElements], bits[kElements];
        size_t i = 0;
        for (; i < last - first; ++i) {
            const uint8_t head = *at(first + i);
            present[i] = (head & 0xfe) == 0xc2;
            if (!present[i] && head != 0xc0) break;
            bits[i] = head == 0xc3;
        }
        column.bits.push_each(bits, i);
        column.mark(present, i);
        return i;
    }

    template <typename At>
    __attribute__((noinline)) size_t timestamps(Column& column, const At& at, size_t first,
                                                size_t last) {
        constexpr uint32_t second = 1000000000;
        if (column.unit == 1000000) return timestamps(column, at, first, last, second / 1000000);
        return timestamps(column, at, first, last, second / uint32_t(column.unit));
    }

    template <typename At>
    __attribute__((always_inline)) size_t timestamps(Column& column, const At& at, size_t first,
                                                     size_t last, uint32_t nanoseconds) {
        uint8_t present[kElements];
        const size_t count = last - first;
        uint8_t* const to = column.values.extend(count * 8);
        size_t i = 0;
        for (; i < count; ++i) {
            const uint8_t* const p = at(first + i);
            int64_t value = 0;
            present[i] = *p != 0xc0;
            if (p[0] == 0xd7 && p[1] == 0xff) {
                const uint64_t word = load64(p + 2);
                const auto fraction = uint32_t(word >> 34);
                if (fraction >= 1000000000 || (column.exact && fraction % nanoseconds)) break;
                if (__builtin_mul_overflow(int64_t(word & 0x3ffffffff), column.unit, &value)) break;
                if (__builtin_add_overflow(value, int64_t(fraction / nanoseconds), &value)) break;
            } else if (p[0] == 0xd6 && p[1] == 0xff) {
                value = int64_t(load32(p + 2)) * column.unit;
            } else if (present[i]) {
                break;
            }
            std::memcpy(to + 8 * i, &value, 8);
        }
        column.values.truncate(column.values.size() - (count - i) * 8);
        column.mark(present, i);
        return i;
    }

    template <typename At>
    __attribute__((noinline)) size_t lists(Column& column, const At& at, size_t first, size_t last, bool& fits) {
        uint8_t present[kElements];
        std::vector<uint32_t> elements;
        Column& item = *column.children[0];
        const size_t count = last - first;
        uint8_t* const ends = column.room_for_offsets(count);
        size_t i = 0;
        for (; fits && i < count; ++i) {
            const uint8_t* p = at(first + i);
            if ((present[i] = *p != 0xc0)) {
                const Head head = container_head(p);
                if (head.token != Token::Array) break;
                p = head.body;
                for (uint64_t left = head.size; fits && left; --left) {
                    elements.push_back(uint32_t(p - data_));
                    if (const uint8_t size = kScalarSizes.at[*p]) p += size;
                    else if (!(p = FieldFinder::after(p, limit_))) return fits = false;
                    if (elements.size() == kElements) fits = add_elements(item, elements);
                }
            }
            const auto end = int32_t(item.length + elements.size());
            std::memcpy(ends + 4 * i, &end, 4);
        }
        fits = fits && add_elements(item, elements);
        column.offsets.extend(4 * i);
        column.mark(present, i);
        return i;
    }

    bool add_elements(Column& item, std::vector<uint32_t>& elements) {
        const bool fit = values(item, Placed{data_, elements.data(), 1}, elements.size());
        elements.clear();
        return fit;
    }

    template <typename At>
    __attribute__((noinline)) size_t structs(Column& column, const At& at, size_t first, size_t last, bool& fits) {
        const FieldFinder* const finder = finder_of(column);
        if (!finder) return 0;
        uint8_t present[kElements];
        const size_t width = column.children.size(), count = last - first;
        std::vector<uint32_t> places(count * width);
        size_t i = 0, disorder = 0;
        for (; i < count; ++i) {
            const uint8_t* const p = at(first + i);
            uint32_t* const here = places.data() + i * width;
            if (!(present[i] = *p != 0xc0)) {
                std::fill(here, here + width, kBelowNull);
                if (!at.is_below_null(first + i) && !has_room_for(column.width)) return fits = false;
                continue;
            }
            const Head head = container_head(p);
            if (head.token != Token::Map) break;
            if (disorder > kDisorder ||
                !finder->find_in_order(head.size, head.body, limit_, data_, here)) {
                ++disorder;
                if (!finder->find(head.size, head.body, limit_, data_, here, strict_)) break;
            }
            if (!has_room_for(width)) return fits = false;
        }
        if (std::find(present, present + i, 1) == present + i) {
            // Schemas nest deeper than documents: do not follow them.
            for (size_t k = 0; k < i; ++k)
                for (auto& child : column.children) child->push_null();
        } else {
            for (size_t k = 0; fits && k < width; ++k)
                fits = values(*column.children[k], Placed{data_, places.data() + k, width}, i);
        }
        column.mark(present, i);
        return i;
    }

    // Head of a value that is mostly a short container.
    Head container_head(const uint8_t* p) const {
        if ((*p & 0xe0) != 0x80) return read_head(p, limit_);
        return {*p & 0x10 ? Token::Array : Token::Map, 0, p + 1, uint64_t(*p & 0x0f), 0};
    }

    const FieldFinder* finder_of(Column& column) {
        if (!column.finder) {
            std::vector<std::string> names;
            for (auto& child : column.children) names.push_back(child->name);
            column.finder.reset(new FieldFinder(names));
        }
        return column.finder->usable() ? column.finder.get() : nullptr;
    }

    const uint8_t* data_ = nullptr;
    std::vector<std::string> names_;    // of the root's fields, with the id among them
    std::unique_ptr<Repeats> repeats_;  // finds places where none are given
    std::vector<uint32_t> found_;       // these places, of one block
};

}  // namespace godb
