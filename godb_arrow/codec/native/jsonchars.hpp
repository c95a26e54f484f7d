// Characters of JSON strings that need care, sixteen at a time.

#pragma once

#include <cstddef>
#include <cstdint>

namespace godb {

// Number of line feeds. The inner loop has no branches, so that it takes many bytes at a time.
inline size_t count_line_feeds(const uint8_t* text, size_t size) {
    constexpr size_t lanes = 64;
    size_t found = 0;
    while (size >= lanes) {
        uint8_t counts[lanes] = {};
        for (int round = 0; round < 255 && size >= lanes; ++round) {
            for (size_t i = 0; i < lanes; ++i) counts[i] += text[i] == '\n';
            text += lanes;
            size -= lanes;
        }
        for (const uint8_t count : counts) found += count;
    }
    for (size_t i = 0; i < size; ++i) found += text[i] == '\n';
    return found;
}

// Whether a text has DEL, or a byte that begins a control character above ASCII in UTF-8. The inner
// loop has no branches, so that it takes many bytes at a time.
inline bool may_have_controls(const uint8_t* text, size_t size) {
    constexpr size_t step = 4096;
    for (size_t at = 0; at < size; at += step) {
        const size_t end = at + step < size ? at + step : size;
        uint8_t found = 0;
        for (size_t i = at; i < end; ++i)
            found |= uint8_t((text[i] == 0x7f) | (text[i] == 0xc2) | (text[i] == 0xd8) |
                             (text[i] == 0xe2));
        if (found) return true;
    }
    return false;
}

}  // namespace godb

#if defined(__SSE2__)
#include <emmintrin.h>

namespace godb {

// Bits of the quotes, backslashes and control characters.
inline unsigned json_stops(__m128i bytes) {
    const __m128i quotes = _mm_cmpeq_epi8(bytes, _mm_set1_epi8('"'));
    const __m128i escapes = _mm_cmpeq_epi8(bytes, _mm_set1_epi8('\\'));
    const __m128i limit = _mm_set1_epi8(0x1f);
    const __m128i controls = _mm_cmpeq_epi8(_mm_max_epu8(bytes, limit), limit);
    return unsigned(_mm_movemask_epi8(_mm_or_si128(_mm_or_si128(quotes, escapes), controls)));
}

}  // namespace godb
#endif
