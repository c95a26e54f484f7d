// Min and max text of a column, by bytes.

#pragma once

#include "encode.hpp"
#include "words.hpp"

namespace godb {

// Text with its first eight bytes as a number; the text decides where these are equal.
struct OrderedText {
    uint64_t head;
    const uint8_t* data;
    size_t size;

    static OrderedText of(const uint8_t* data, size_t size, const uint8_t* end) {
        uint64_t word = 0;
        if (size_t(end - data) >= 8) {
            word = __builtin_bswap64(word_at(data));
            if (size < 8) word &= size ? ~uint64_t(0) << (64 - 8 * size) : 0;
        } else {
            for (size_t i = 0; i < 8; ++i) word = word << 8 | (i < size ? data[i] : 0);
        }
        return {word, data, size};
    }

    bool before(const OrderedText& other) const {
        if (head != other.head) return head < other.head;
        if (std::max(size, other.size) <= 8) return size < other.size;
        const int order = std::memcmp(data, other.data, std::min(size, other.size));
        return order ? order < 0 : size < other.size;
    }
};

// Rows of the min and max text that is not null; -1 where all are null.
inline void text_extremes(const ArrowArray* texts, int64_t& least, int64_t& greatest) {
    const auto* valid = static_cast<const uint8_t*>(texts->buffers[0]);
    const auto* offsets = static_cast<const int32_t*>(texts->buffers[1]) + texts->offset;
    const auto* text = static_cast<const uint8_t*>(texts->buffers[2]);
    least = greatest = -1;
    if (texts->length == 0) return;
    const uint8_t* const end = text + offsets[texts->length];
    OrderedText low{}, high{};
    for (int64_t row = 0; row < texts->length; ++row) {
        const int64_t bit = texts->offset + row;
        if (valid && !(valid[bit >> 3] >> (bit & 7) & 1)) continue;
        const size_t size = size_t(offsets[row + 1] - offsets[row]);
        const OrderedText here = OrderedText::of(text + offsets[row], size, end);
        if (least < 0) {
            low = high = here;
            least = greatest = row;
        } else if (here.before(low)) {
            low = here;
            least = row;
        } else if (high.before(here)) {
            high = here;
            greatest = row;
        }
    }
}

}  // namespace godb
