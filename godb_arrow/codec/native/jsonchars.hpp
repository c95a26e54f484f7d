// Characters of JSON strings that need care, sixteen at a time.

#pragma once

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
