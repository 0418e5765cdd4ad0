/* Products of a few tokens and a few panels of a bfloat16 weight, and the vectors that bfloat16.c is written in.

   A weight [out, in] lies in panels of 16 outputs, padded to whole groups of 64 outputs: [out / 16, in / 2, 16, 2], inputs
   padded with zeros to whole blocks of 32. One register holds two inputs' weights of some outputs, and a token's two inputs
   are broadcast to meet them.

   A token's sum of products has one order, whatever tokens and panels are multiplied beside it. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

typedef uint16_t bf16;
enum { PANEL = 16, BLOCK = 32, MOST_PANELS = 4, GROUP = MOST_PANELS * PANEL };

#if defined(__AVX512F__)
enum { LANES = 16 };
#elif defined(__AVX2__)
enum { LANES = 8 };
#else
enum { LANES = 4 };
#endif
enum { PARTS = PANEL / LANES };                                    /* vectors of a panel */

typedef float vector __attribute__((vector_size(4 * LANES)));
typedef int32_t integers __attribute__((vector_size(4 * LANES)));
typedef uint32_t words __attribute__((vector_size(4 * LANES)));
typedef bf16 halves __attribute__((vector_size(2 * LANES)));

#define INLINE static inline __attribute__((always_inline))
#define UNROLLED _Pragma("GCC unroll 16")

INLINE vector all(float value) { return value - (vector){0}; }

/* a b + c in this order and rounded once: nothing that -ffast-math may put elsewhere */
INLINE vector multiply_add(vector a, vector b, vector c) {
#if defined(__AVX512F__)
    return (vector)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
    return (vector)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}

INLINE float total(vector v) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)v);
#endif
    float held[LANES];
    memcpy(held, &v, sizeof v);
    UNROLLED for (int n = LANES / 2; n > 0; n /= 2)
        UNROLLED for (int i = 0; i < n; i++) held[i] += held[i + n];
    return held[0];
}

/* The first ``count`` of LANES numbers, zeros behind them */
INLINE vector some(const float *from, int64_t count) {
    vector held = {0};
    if (count >= LANES) memcpy(&held, from, sizeof held);
    else for (int64_t i = 0; i < count; i++) held[i] = from[i];
    return held;
}

INLINE vector widened(const bf16 *from, int64_t count) {
    halves held = {0};
    if (count >= LANES) memcpy(&held, from, sizeof held);
    else for (int64_t i = 0; i < count; i++) held[i] = from[i];
#if defined(__AVX512F__)
    const words wide = (words)_mm512_cvtepu16_epi32((__m256i)held);  /* one instruction, where compilers take several */
#elif defined(__AVX2__)
    const words wide = (words)_mm256_cvtepu16_epi32((__m128i)held);
#else
    const words wide = __builtin_convertvector(held, words);
#endif
    return (vector)(wide << 16);
}

/* Rounded to the nearest, to even between two. A processor's own NaN stays one. */
INLINE void keep(bf16 *to, int64_t count, vector values) {
#if defined(__AVX512BF16__)
    const halves held = (halves)_mm512_cvtneps_pbh((__m512)values);
#else
    const words bits = (words)values;
    const halves held = __builtin_convertvector((bits + 0x7fff + (bits >> 16 & 1)) >> 16, halves);
#endif
    if (count >= LANES) memcpy(to, &held, sizeof held);
    else for (int64_t i = 0; i < count; i++) to[i] = held[i];
}

/* Room that a thread keeps from call to call */
static void *scratch(size_t bytes) {
    static _Thread_local void *held;
    static _Thread_local size_t size;
    if (bytes > size) {
        free(held);
        size = (bytes + bytes / 2 + 63) / 64 * 64;
        held = aligned_alloc(64, size);
    }
    return held;
}

/* The inputs [tokens, in] of a product, as its tiles read them: bfloat16, or widened to float32; or for weights of int8
   in 16 bits, padded to whole blocks, with what 1 stands for by token. */
struct inputs { int64_t tokens, in; const void *x; const float *scales; };

/* Panels that are multiplied at once: as many as there are registers for their sums */
static int at_once(int tokens, int panels) {
    const int most = (tokens == 1 ? 4 : tokens == 2 ? 2 : 1) * (LANES == 16 ? 2 : 1);
    return most < panels ? most : panels;
}
#define SHAPES(CASE) CASE(1, 4) CASE(2, 4) CASE(1, 2) CASE(2, 2) CASE(3, 2) CASE(4, 2) CASE(5, 2) CASE(6, 2) \
    CASE(3, 1) CASE(4, 1) CASE(5, 1) CASE(6, 1)

#if defined(AMX) && defined(__AMX_BF16__)
#define IN_TILES
enum { ROWS = 16, MOST_TOKENS = 2 * ROWS, FEW = MOST_TOKENS };     /* a row of tile registers: 16 tokens */
typedef bf16 operand;

static int64_t row_of(int64_t in) { return (in + BLOCK - 1) / BLOCK * BLOCK; }

struct tile_shapes { uint8_t palette, start, reserved[14]; uint16_t bytes[16]; uint8_t rows[16]; };

/* Registers 4 to 7 hold sums: of a row of tokens and four panels, or of two rows and two panels. A row's inputs lie in 0,
   the second's in 1; the others hold a block of a panel. */
INLINE void shape_tiles(int first, int second) {
    struct tile_shapes made = {.palette = 1};
    for (int i = 0; i < 8; i++) made.bytes[i] = 64, made.rows[i] = ROWS;
    made.rows[0] = made.rows[4] = made.rows[5] = first;
    made.rows[6] = made.rows[7] = second ? second : first;
    if (second) made.rows[1] = second;
    __asm__ volatile("" : : "r"(&made) : "memory");                /* compilers do not know what tiles are loaded from */
    _tile_loadconfig(&made);
}

static void one_row(int tokens, int64_t in, const bf16 *x, const bf16 *const *w, float y[][GROUP]) {
    shape_tiles(tokens, 0);
    _tile_zero(4); _tile_zero(5); _tile_zero(6); _tile_zero(7);
    for (int64_t i = 0; i < in; i += BLOCK) {
        _tile_loadd(0, x + i, row_of(in) * sizeof *x);
        _tile_loadd(1, w[0] + i * PANEL, 64); _tile_dpbf16ps(4, 0, 1);
        _tile_loadd(2, w[1] + i * PANEL, 64); _tile_dpbf16ps(5, 0, 2);
        _tile_loadd(3, w[2] + i * PANEL, 64); _tile_dpbf16ps(6, 0, 3);
        _tile_loadd(1, w[3] + i * PANEL, 64); _tile_dpbf16ps(7, 0, 1);
    }
    _tile_stored(4, y[0], sizeof *y); _tile_stored(5, y[0] + PANEL, sizeof *y);
    _tile_stored(6, y[0] + 2 * PANEL, sizeof *y); _tile_stored(7, y[0] + 3 * PANEL, sizeof *y);
}

static void two_rows(int tokens, int64_t in, const bf16 *x, const bf16 *const *w, float y[][GROUP]) {
    const int64_t row = row_of(in);
    shape_tiles(ROWS, tokens - ROWS);
    for (int p = 0; p < MOST_PANELS; p += 2) {
        _tile_zero(4); _tile_zero(5); _tile_zero(6); _tile_zero(7);
        for (int64_t i = 0; i < in; i += BLOCK) {
            _tile_loadd(0, x + i, row * sizeof *x); _tile_loadd(1, x + i + ROWS * row, row * sizeof *x);
            _tile_loadd(2, w[p] + i * PANEL, 64); _tile_dpbf16ps(4, 0, 2); _tile_dpbf16ps(6, 1, 2);
            _tile_loadd(3, w[p + 1] + i * PANEL, 64); _tile_dpbf16ps(5, 0, 3); _tile_dpbf16ps(7, 1, 3);
        }
        float *first = y[0] + p * PANEL, *second = y[ROWS] + p * PANEL;
        _tile_stored(4, first, sizeof *y); _tile_stored(5, first + PANEL, sizeof *y);
        _tile_stored(6, second, sizeof *y); _tile_stored(7, second + PANEL, sizeof *y);
    }
}

static void tiles(int tokens, int panels, int64_t in, const bf16 *x, const bf16 *const *w, float y[][GROUP]) {
    (tokens > ROWS ? two_rows : one_row)(tokens, in, x, w, y);
    _tile_release();                                               /* or the system keeps 8 KB more of a thread */
}

static int together(int64_t tokens) { return MOST_PANELS; }

static struct inputs as_they_are(int64_t tokens, int64_t in, const bf16 *x) {
    const int64_t row = row_of(in);
    if (row == in) return (struct inputs){tokens, in, x, 0};
    bf16 *padded = scratch(tokens * row * sizeof(bf16));
    for (int64_t t = 0; t < tokens; t++) {
        memcpy(padded + t * row, x + t * in, in * sizeof(bf16));
        memset(padded + t * row + in, 0, (row - in) * sizeof(bf16));
    }
    return (struct inputs){tokens, in, padded, 0};
}
#elif defined(__AVX512BF16__)
enum { MOST_TOKENS = 12, FEW = 6 };                                /* 24 registers of sums, by 6 x 4 or by 12 x 2 */
typedef bf16 operand;

static int64_t row_of(int64_t in) { return in; }

INLINE void tile(const int tokens, const int panels, int64_t in, const bf16 *x, const bf16 *const *w,
                 float y[][GROUP]) {
    __m512 sum[MOST_TOKENS][MOST_PANELS];
    __m512bh of[MOST_PANELS];
    UNROLLED for (int t = 0; t < tokens; t++)
        UNROLLED for (int p = 0; p < panels; p++) sum[t][p] = _mm512_setzero_ps();
    for (int64_t i = 0; i < in; i += 2) {
        UNROLLED for (int p = 0; p < panels; p++) of[p] = (__m512bh)_mm512_loadu_si512(w[p] + i * PANEL);
        UNROLLED for (int t = 0; t < tokens; t++) {
            int32_t pair;
            memcpy(&pair, x + t * in + i, sizeof pair);
            const __m512bh both = (__m512bh)_mm512_set1_epi32(pair);
            UNROLLED for (int p = 0; p < panels; p++) sum[t][p] = _mm512_dpbf16_ps(sum[t][p], of[p], both);
        }
    }
    UNROLLED for (int t = 0; t < tokens; t++)
        UNROLLED for (int p = 0; p < panels; p++) _mm512_storeu_ps(y[t] + p * PANEL, sum[t][p]);
}

static void tiles(int tokens, int panels, int64_t in, const bf16 *x, const bf16 *const *w, float y[][GROUP]) {
#define CASE(t, p) case t + MOST_TOKENS * p: tile(t, p, in, x, w, y); break;
    switch (tokens + MOST_TOKENS * panels) {
        CASE(1, 4) CASE(2, 4) CASE(3, 4) CASE(4, 4) CASE(5, 4) CASE(6, 4)
        CASE(6, 2) CASE(7, 2) CASE(8, 2) CASE(9, 2) CASE(10, 2) CASE(11, 2) CASE(12, 2)
    }
#undef CASE
}

static int together(int64_t tokens) { return tokens <= FEW ? MOST_PANELS : MOST_PANELS / 2; }

static struct inputs as_they_are(int64_t tokens, int64_t in, const bf16 *x) {
    return (struct inputs){tokens, in, x, 0};
}
#else
enum { MOST_TOKENS = 6, FEW = 6 };                                 /* with AVX2, 12 registers of sums by 6 x 1 */
typedef float operand;

static int64_t row_of(int64_t in) { return in; }

/* A word holds a pair of inputs' weights, the first one in its lower half. */
INLINE void tile(const int tokens, const int panels, int64_t in, const float *x, const bf16 *const *w,
                 float y[][GROUP]) {
    vector sum[MOST_TOKENS][MOST_PANELS * PARTS], of[MOST_PANELS * PARTS];
    UNROLLED for (int t = 0; t < tokens; t++)
        UNROLLED for (int v = 0; v < panels * PARTS; v++) sum[t][v] = (vector){0};
    for (int64_t i = 0; i < in; i += 2) {
        if (tokens > 2)                                            /* fewer wait for nothing but memory */
            UNROLLED for (int p = 0; p < panels; p++) __builtin_prefetch(w[p] + i * PANEL + 512);
        UNROLLED for (int second = 0; second < 2; second++) {
            UNROLLED for (int v = 0; v < panels * PARTS; v++) {
                words pair;
                memcpy(&pair, w[v / PARTS] + i * PANEL + v % PARTS * 2 * LANES, sizeof pair);
                of[v] = (vector)(second ? pair & 0xffff0000 : pair << 16);
            }
            UNROLLED for (int t = 0; t < tokens; t++)
                UNROLLED for (int v = 0; v < panels * PARTS; v++)
                    sum[t][v] = multiply_add(of[v], all(x[t * in + i + second]), sum[t][v]);
        }
    }
    UNROLLED for (int t = 0; t < tokens; t++)
        UNROLLED for (int v = 0; v < panels * PARTS; v++)
            memcpy(y[t] + v / PARTS * PANEL + v % PARTS * LANES, &sum[t][v], sizeof(vector));
}

static void tiles(int tokens, int panels, int64_t in, const float *x, const bf16 *const *w, float y[][GROUP]) {
    const int some = at_once(tokens, panels);
#define CASE(t, n) case t + 8 * n: tile(t, n, in, x, w + p, (float (*)[GROUP])(y[0] + p * PANEL)); break;
    for (int p = 0; p < panels; p += some)
        switch (tokens + 8 * some) { SHAPES(CASE) }
#undef CASE
}

static int together(int64_t tokens) { return MOST_PANELS; }

static struct inputs as_they_are(int64_t tokens, int64_t in, const bf16 *x) {
    float *wide = scratch(tokens * in * sizeof(float));
    #pragma omp parallel for if (tokens > MOST_TOKENS)
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t i = 0; i < in; i += LANES) {
            const vector held = widened(x + t * in + i, in - i);
            memcpy(wide + t * in + i, &held, (in - i < LANES ? in - i : LANES) * sizeof(float));
        }
    return (struct inputs){tokens, in, wide, 0};
}
#endif
