/* Products of a few tokens and a few panels of a weight in 8 bits.

   Panels are as in panels.h: [out / 16, in / 32, (16 bfloat16, [32 / RUN, 16, RUN] int8)], blocks of 32 inputs, the last
   padded with zeros, each behind its outputs' scales. In AMX's tiles inputs are bfloat16, as they are; else they have 16
   bits, and sums are exact within a block. From block to block sums are float32. */

#include "panels.h"

enum { OF_BLOCK = PANEL * (sizeof(bf16) + BLOCK) };                /* bytes of a panel's block */

#if defined(IN_TILES)
enum { RUN = 1, AT_ONCE = 6 };                                     /* inputs of an output side by side; blocks */

static struct inputs for_int8(int64_t tokens, int64_t in, const bf16 *x) { return as_they_are(tokens, in, x); }

/* A panel's block in bfloat16, without its scales: [16, 16, 2] */
INLINE void widened_block(const uint8_t *block, bf16 *to) {
    const __m128i *held = (const __m128i *)(block + PANEL * sizeof(bf16));
    UNROLLED for (int i = 0; i < BLOCK; i += 2) {                  /* a float of few bits is bfloat16, and zeros behind */
        const __m512i even = (__m512i)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(held + i)));
        const __m512i odd = (__m512i)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(held + i + 1)));
        _mm512_store_si512(to + i * PANEL, _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(even, 16), odd));
    }
}

/* A few blocks are widened, then multiplied, then added: tiles wait for what has just been stored. */
static void int8_panel(int tokens, int64_t blocks, const bf16 *x, const uint8_t *w, float y[][GROUP]) {
    const int64_t row = blocks * BLOCK;
    bf16 wide[AT_ONCE][BLOCK * PANEL] __attribute__((aligned(64)));
    float sums[AT_ONCE][MOST_TOKENS][PANEL] __attribute__((aligned(64)));
    for (int t = 0; t < tokens; t++) memset(y[t], 0, PANEL * sizeof(float));
    for (int64_t from = 0; from < blocks; from += AT_ONCE, w += AT_ONCE * OF_BLOCK, x += AT_ONCE * BLOCK) {
        const int some_blocks = blocks - from < AT_ONCE ? blocks - from : AT_ONCE;
        vector scales[AT_ONCE];
        for (int b = 0; b < some_blocks; b++) {
            scales[b] = widened((const bf16 *)(w + b * OF_BLOCK), LANES);
            UNROLLED for (int at = 0; at < OF_BLOCK; at += 64) __builtin_prefetch(w + (b + AT_ONCE) * OF_BLOCK + at);
            widened_block(w + b * OF_BLOCK, wide[b]);
        }
        for (int b = 0; b < some_blocks; b++) {
            _tile_loadd(2, wide[b], 64);
            _tile_loadd(0, x + b * BLOCK, row * sizeof *x);
            _tile_zero(4); _tile_dpbf16ps(4, 0, 2); _tile_stored(4, sums[b], 64);
            if (tokens <= ROWS) continue;
            _tile_loadd(1, x + b * BLOCK + ROWS * row, row * sizeof *x);
            _tile_zero(6); _tile_dpbf16ps(6, 1, 2); _tile_stored(6, sums[b][ROWS], 64);
        }
        for (int t = 0; t < tokens; t++) {
            vector made = some(y[t], LANES);
            for (int b = 0; b < some_blocks; b++) made = multiply_add(scales[b], some(sums[b][t], LANES), made);
            memcpy(y[t], &made, sizeof made);
        }
    }
}

static void int8_tiles(const struct inputs *x, int64_t from, int64_t to, int panels, const uint8_t *const *w,
                       float y[][GROUP]) {
    const int64_t blocks = row_of(x->in) / BLOCK;
    const int tokens = to - from;
    shape_tiles(tokens < ROWS ? tokens : ROWS, tokens > ROWS ? tokens - ROWS : 0);
    for (int p = 0; p < panels; p++)
        int8_panel(tokens, blocks, (const bf16 *)x->x + from * blocks * BLOCK, w[p], (float (*)[GROUP])(y[0] + p * PANEL));
    _tile_release();
}
#else
enum { RUN = 2, AT_ONCE = 6 };                                     /* tokens */
typedef int8_t bytes __attribute__((vector_size(2 * LANES)));
typedef int16_t shorts __attribute__((vector_size(2 * LANES))), pairs __attribute__((vector_size(4 * LANES)));

/* To the nearest whole numbers */
INLINE integers rounded(vector values) {
#if defined(__AVX512F__)
    return (integers)_mm512_cvtps_epi32((__m512)values);
#elif defined(__AVX2__)
    return (integers)_mm256_cvtps_epi32((__m256)values);
#else
    integers made;
    UNROLLED for (int i = 0; i < LANES; i++) made[i] = (int32_t)rintf(values[i]);
    return made;
#endif
}

INLINE integers widened_pairs(const uint8_t *from) {
    bytes held;
    memcpy(&held, from, sizeof held);
#if defined(__AVX512BW__)
    return (integers)_mm512_cvtepi8_epi16((__m256i)held);
#elif defined(__AVX2__) && !defined(__AVX512F__)
    return (integers)_mm256_cvtepi8_epi16((__m128i)held);
#else
    return (integers)__builtin_convertvector(held, pairs);
#endif
}

/* Products of two int16 each, added to an int32 */
INLINE integers dot(integers sum, integers a, integers b) {
#if defined(__AVX512VNNI__)
    return (integers)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)a, (__m512i)b);
#elif defined(__AVX512BW__)
    return sum + (integers)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif defined(__AVX2__) && !defined(__AVX512F__)
    return sum + (integers)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#else
    return sum + (a << 16 >> 16) * (b << 16 >> 16) + (a >> 16) * (b >> 16);
#endif
}

INLINE void int8_tile(const int tokens, const int panels, int64_t blocks, const int16_t *x, const float *scales,
                      const uint8_t *const *w, float y[][GROUP]) {
    vector made[AT_ONCE][MOST_PANELS * PARTS];
    UNROLLED for (int t = 0; t < tokens; t++)
        UNROLLED for (int v = 0; v < panels * PARTS; v++) made[t][v] = (vector){0};
    for (int64_t b = 0; b < blocks; b++) {
        integers sum[AT_ONCE][MOST_PANELS * PARTS] = {0}, of[MOST_PANELS * PARTS];
        if (tokens > 1)
            UNROLLED for (int p = 0; p < panels; p++)
                UNROLLED for (int at = 0; at < OF_BLOCK; at += 64)
                    __builtin_prefetch(w[p] + (b + 2) * OF_BLOCK + at);
        for (int i = 0; i < BLOCK; i += 2) {
            UNROLLED for (int v = 0; v < panels * PARTS; v++)
                of[v] = widened_pairs(w[v / PARTS] + b * OF_BLOCK + PANEL * (sizeof(bf16) + i) + v % PARTS * 2 * LANES);
            UNROLLED for (int t = 0; t < tokens; t++) {
                int32_t pair;
                memcpy(&pair, x + (t * blocks + b) * BLOCK + i, sizeof pair);
                UNROLLED for (int v = 0; v < panels * PARTS; v++)
                    sum[t][v] = dot(sum[t][v], of[v], pair - (integers){0});
            }
        }
        UNROLLED for (int v = 0; v < panels * PARTS; v++) {
            const vector scale = widened((const bf16 *)(w[v / PARTS] + b * OF_BLOCK) + v % PARTS * LANES, LANES);
            UNROLLED for (int t = 0; t < tokens; t++)
                made[t][v] = multiply_add(scale, __builtin_convertvector(sum[t][v], vector), made[t][v]);
        }
    }
    UNROLLED for (int t = 0; t < tokens; t++)
        UNROLLED for (int v = 0; v < panels * PARTS; v++) {
            made[t][v] *= all(scales[t]);
            memcpy(y[t] + v / PARTS * PANEL + v % PARTS * LANES, &made[t][v], sizeof(vector));
        }
}

static void int8_vectors(int tokens, int panels, int64_t blocks, const int16_t *x, const float *scales,
                         const uint8_t *const *w, float y[][GROUP]) {
    if (tokens > AT_ONCE) {                                        /* where tiles of bfloat16 are larger */
        const int half = tokens / 2;
        int8_vectors(half, panels, blocks, x, scales, w, y);
        int8_vectors(tokens - half, panels, blocks, x + half * blocks * BLOCK, scales + half, w, y + half);
        return;
    }
    const int some = at_once(tokens, panels);
#define CASE(t, n) case t + 8 * n: \
    int8_tile(t, n, blocks, x, scales, w + p, (float (*)[GROUP])(y[0] + p * PANEL)); break;
    for (int p = 0; p < panels; p += some)
        switch (tokens + 8 * some) { SHAPES(CASE) }
#undef CASE
}

/* The largest magnitude; NaN where one is */
static float largest_of(int64_t count, const bf16 *x) {
    integers most = {0};                                           /* as bits, whose order is that of magnitudes */
    for (int64_t i = 0; i < count; i += LANES) {
        const integers bits = (integers)widened(x + i, count - i) & 0x7fffffff, larger = bits > most;
        most = (bits & larger) | (most & ~larger);
    }
    int32_t held[LANES], one = 0;
    memcpy(held, &most, sizeof held);
    for (int i = 0; i < LANES; i++) one = held[i] > one ? held[i] : one;
    float largest;
    memcpy(&largest, &one, sizeof largest);
    return largest;
}

/* Each token's largest input becomes 32767. What is no number makes its token's scale, and so its products, none. */
static struct inputs for_int8(int64_t tokens, int64_t in, const bf16 *x) {
    const int64_t row = (in + BLOCK - 1) / BLOCK * BLOCK;
    int16_t *made = scratch(tokens * (row * sizeof(int16_t) + sizeof(float)));
    float *scales = (float *)(made + tokens * row);
    #pragma omp parallel for if (tokens > MOST_TOKENS)
    for (int64_t t = 0; t < tokens; t++) {
        const bf16 *from = x + t * in;
        const float largest = largest_of(in, from), by = largest > 0 ? 32767 / largest : 0;
        scales[t] = largest / 32767;
        for (int64_t i = 0; i < row; i += LANES) {
            const integers whole = rounded(widened(from + i, i < in ? in - i : 0) * by);
            const shorts held = __builtin_convertvector(whole, shorts);
            memcpy(made + t * row + i, &held, sizeof held);
        }
    }
    return (struct inputs){tokens, in, made, scales};
}

static void int8_tiles(const struct inputs *x, int64_t from, int64_t to, int panels, const uint8_t *const *w,
                       float y[][GROUP]) {
    const int64_t blocks = (x->in + BLOCK - 1) / BLOCK;
    int8_vectors(to - from, panels, blocks, (const int16_t *)x->x + from * blocks * BLOCK, x->scales + from, w, y);
}
#endif
