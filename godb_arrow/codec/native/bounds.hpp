// Min, max and number of the values of one field, by kind.

#pragma once

#include "extremes.hpp"

namespace godb {

// Min and max of values that `Less` orders; of equal ones, the first.
template <class Value, class Less = std::less<Value>>
struct Extent {
    uint32_t count = 0;
    Value low{};
    Value high{};

    void see(const Value& value) {
        if (__builtin_expect(count++ == 0, 0)) {
            low = high = value;
        } else if (Less()(value, low)) {
            low = value;
        } else if (Less()(high, value)) {
            high = value;
        }
    }
};

struct TextBefore {
    bool operator()(const OrderedText& a, const OrderedText& b) const { return a.before(b); }
};

struct StampBefore {
    bool operator()(const Timestamp& a, const Timestamp& b) const {
        return a.seconds != b.seconds ? a.seconds < b.seconds : a.nanoseconds < b.nanoseconds;
    }
};

struct Texts {
    Extent<OrderedText, TextBefore> extent;
    size_t longest = 0;

    void see(const uint8_t* data, size_t size, const uint8_t* limit) {
        extent.see(OrderedText::of(data, size, limit));
        longest = std::max(longest, size);
    }
};

// The texts point into the documents.
struct ValueBounds {
    uint32_t values = 0;
    uint32_t documents = 0;         // with the field; fewer than `values` where a key is repeated
    uint32_t nulls = 0;
    uint32_t trues = 0;
    uint32_t falses = 0;
    uint32_t nans = 0;
    uint32_t others = 0;            // lists, maps and extensions
    Extent<int64_t> integers;
    Extent<uint64_t> above_int64;
    Extent<double> floats;          // that are not NaN
    Extent<Timestamp, StampBefore> moments;
    Texts strings;                  // that are UTF-8
    Texts binaries;

    void begin(uint32_t document) {
        documents += values++ == 0 || document != last_;
        last_ = document;
    }

    void see(double value) {
        if (value != value) ++nans;
        else floats.see(value);
    }

  private:
    uint32_t last_ = 0;
};

}  // namespace godb
