/* A bfloat16 model's sub-layers on a CPU with AVX512-BF16: products at the speed of memory for a few tokens, and of the
   dot-product units for many. Streams are [tokens, width]; sums are float32. Compiled where it runs; see bfloat16.py.

   A weight [out, in] lies in panels of 16 outputs, [out / 16, in / 2, 16, 2], padded to whole groups of 64 outputs: one
   register holds two inputs' weights of a panel, and a token's two inputs are broadcast to meet them. */

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

typedef uint16_t bf16;
enum { PANEL = 16, MOST_PANELS = 4, MOST_TOKENS = 12, FEW = 6 };   /* 24 registers of sums, by 6 x 4 or by 12 x 2 */

struct part { const bf16 *weight, *bias; int64_t out; };           /* bias: may be missing */

struct norm { int64_t width; float epsilon; const float *weight; }; /* no weight: none */

struct attention {
    struct norm norm;
    struct part query, key, value, out;
    int64_t queries, keys, width, window, turned;                  /* window 0: none */
    float scale;
};

struct feed_forward { struct norm norm; struct part gate, up, down; };

struct pass {                                                      /* as in native.c */
    int64_t tokens, each, slots, lanes, seen;
    const int64_t *held, *branches, *position, *branch, *slot;
};

static inline __m512 widened(const bf16 *from, __mmask16 which) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(which, from)), 16));
}

static inline void keep(bf16 *to, __mmask16 which, __m512 values) {
    _mm256_mask_storeu_epi16(to, which, (__m256i)_mm512_cvtneps_pbh(values));
}

static inline __mmask16 first(int64_t count) { return count >= PANEL ? 0xffff : count <= 0 ? 0 : (1u << count) - 1; }

/* y [tokens][panels * 16] of a few tokens x [tokens, in] and as many panels; both counts known to the compiler */
static inline __attribute__((always_inline)) void tile(const int tokens, const int panels, int64_t in, const bf16 *x,
                                                       const bf16 *const *w, float y[][MOST_PANELS * PANEL]) {
    __m512 sum[MOST_TOKENS][MOST_PANELS];
    __m512bh of[MOST_PANELS];
    _Pragma("GCC unroll 12") for (int t = 0; t < tokens; t++)
        _Pragma("GCC unroll 4") for (int p = 0; p < panels; p++) sum[t][p] = _mm512_setzero_ps();
    for (int64_t i = 0; i < in; i += 2) {
        _Pragma("GCC unroll 4") for (int p = 0; p < panels; p++)
            of[p] = (__m512bh)_mm512_loadu_si512(w[p] + i * PANEL);
        _Pragma("GCC unroll 12") for (int t = 0; t < tokens; t++) {
            int32_t pair;
            memcpy(&pair, x + t * in + i, sizeof pair);
            const __m512bh both = (__m512bh)_mm512_set1_epi32(pair);
            _Pragma("GCC unroll 4") for (int p = 0; p < panels; p++)
                sum[t][p] = _mm512_dpbf16_ps(sum[t][p], of[p], both);
        }
    }
    _Pragma("GCC unroll 12") for (int t = 0; t < tokens; t++)
        _Pragma("GCC unroll 4") for (int p = 0; p < panels; p++) _mm512_storeu_ps(y[t] + p * PANEL, sum[t][p]);
}

static void tiles(int tokens, int panels, int64_t in, const bf16 *x, const bf16 *const *w,
                  float y[][MOST_PANELS * PANEL]) {
#define CASE(t, p) case t + MOST_TOKENS * p: tile(t, p, in, x, w, y); break;
    switch (tokens + MOST_TOKENS * panels) {
        CASE(1, 4) CASE(2, 4) CASE(3, 4) CASE(4, 4) CASE(5, 4) CASE(6, 4)
        CASE(6, 2) CASE(7, 2) CASE(8, 2) CASE(9, 2) CASE(10, 2) CASE(11, 2) CASE(12, 2)
    }
#undef CASE
}

static int together(int64_t tokens) { return tokens <= FEW ? MOST_PANELS : MOST_PANELS / 2; }

/* Token tiles of even size: which tokens the k-th has. */
static int64_t many(int64_t tokens) { return tokens <= FEW ? 1 : (tokens + MOST_TOKENS - 1) / MOST_TOKENS; }
static int64_t start(int64_t tokens, int64_t k) { return k * tokens / many(tokens); }

static const bf16 *panel(const struct part *part, int64_t in, int64_t index) {
    return part->weight + index * in * PANEL;
}

/* One part's group of panels for all tokens: y [tokens, row] = add + bias + x w, where there is a bias, and an add */
static void grouped(int64_t tokens, int64_t in, const bf16 *x, const struct part *part, int64_t group, const bf16 *add,
                    int64_t row, bf16 *y) {
    const int panels = together(tokens);
    const bf16 *of[MOST_PANELS];
    float made[MOST_TOKENS][MOST_PANELS * PANEL];
    for (int p = 0; p < panels; p++) of[p] = panel(part, in, group * panels + p);
    for (int64_t k = 0; k < many(tokens); k++) {
        const int64_t from = start(tokens, k), to = start(tokens, k + 1);
        tiles(to - from, panels, in, x + from * in, of, made);
        for (int64_t t = from; t < to; t++)
            for (int p = 0; p < panels; p++) {
                const int64_t at = (group * panels + p) * PANEL;
                const __mmask16 which = first(part->out - at);
                __m512 sum = _mm512_loadu_ps(made[t - from] + p * PANEL);
                if (part->bias) sum = _mm512_add_ps(sum, widened(part->bias + at, which));
                if (add) sum = _mm512_add_ps(sum, widened(add + t * row + at, which));
                keep(y + t * row + at, which, sum);
            }
    }
}

static int64_t groups(const struct part *part, int panels) {
    const int64_t whole = MOST_PANELS * PANEL;
    return part ? (part->out + whole - 1) / whole * (MOST_PANELS / panels) : 0;
}

/* Up to three maps of the same x, their outputs side by side in y [tokens, row] */
static void products(int64_t tokens, int64_t in, const bf16 *x, const struct part *one, const struct part *two,
                     const struct part *three, const bf16 *add, int64_t row, bf16 *y) {
    const int64_t ones = groups(one, together(tokens)), twos = groups(two, together(tokens));
    const int64_t all = ones + twos + groups(three, together(tokens));
    #pragma omp parallel for schedule(dynamic)
    for (int64_t g = 0; g < all; g++)
        if (g < ones) grouped(tokens, in, x, one, g, add, row, y);
        else if (g < ones + twos) grouped(tokens, in, x, two, g - ones, add, row, y + one->out);
        else grouped(tokens, in, x, three, g - ones - twos, add, row, y + one->out + two->out);
}

/* y [tokens, out] = x w, plus its bias, plus ``add`` [tokens, out] */
void product(const struct part *part, int64_t tokens, int64_t in, const bf16 *x, const bf16 *add, bf16 *y) {
    products(tokens, in, x, part, 0, 0, add, part->out, y);
}

/* x over its root mean square, times the weight; x itself where there is no norm */
static const bf16 *normed(const struct norm *norm, int64_t tokens, const bf16 *x, bf16 *room) {
    if (!norm->weight) return x;
    #pragma omp parallel for if (tokens > MOST_TOKENS)
    for (int64_t t = 0; t < tokens; t++) {
        const bf16 *from = x + t * norm->width;
        __m512 sum = _mm512_setzero_ps();
        for (int64_t i = 0; i < norm->width; i += PANEL) {
            const __m512 some = widened(from + i, first(norm->width - i));
            sum = _mm512_fmadd_ps(some, some, sum);
        }
        const __m512 by = _mm512_set1_ps(1 / sqrtf(_mm512_reduce_add_ps(sum) / norm->width + norm->epsilon));
        for (int64_t i = 0; i < norm->width; i += PANEL) {
            const __mmask16 which = first(norm->width - i);
            const __m512 weight = _mm512_maskz_loadu_ps(which, norm->weight + i);
            keep(room + t * norm->width + i, which, _mm512_mul_ps(_mm512_mul_ps(widened(from + i, which), by), weight));
        }
    }
    return room;
}

/* y = x + (silu(gate) up) down; room [tokens, width + inner] */
void feed_forward(const struct feed_forward *f, int64_t tokens, const bf16 *x, bf16 *room, bf16 *y) {
    const int64_t in = f->norm.width, inner = f->gate.out;
    const int half = together(tokens) / 2;
    const bf16 *unit = normed(&f->norm, tokens, x, room);
    bf16 *between = room + tokens * in;
    #pragma omp parallel for schedule(dynamic)
    for (int64_t g = 0; g < groups(&f->gate, half); g++) {
        const bf16 *of[MOST_PANELS];
        float made[MOST_TOKENS][MOST_PANELS * PANEL];
        for (int p = 0; p < half; p++) {
            of[p] = panel(&f->gate, in, g * half + p);
            of[half + p] = panel(&f->up, in, g * half + p);
        }
        for (int64_t k = 0; k < many(tokens); k++) {
            const int64_t from = start(tokens, k), to = start(tokens, k + 1);
            tiles(to - from, 2 * half, in, unit + from * in, of, made);
            for (int64_t t = from; t < to; t++) {
                float *gate = made[t - from], *up = gate + half * PANEL;
                for (int i = 0; i < half * PANEL; i++) gate[i] = gate[i] / (1 + expf(-gate[i])) * up[i];
                for (int p = 0; p < half; p++) {
                    const int64_t at = (g * half + p) * PANEL;
                    keep(between + t * inner + at, first(inner - at), _mm512_loadu_ps(gate + p * PANEL));
                }
            }
        }
    }
    product(&f->down, tokens, inner, between, x, y);
}

/* Queries, keys and values side by side, the first two turned: made [tokens, (queries + 2 keys) width].
   turns [tokens, width / 2]: cosine and sine, for channels i and i + width / 2; room [tokens, stream's width] */
void project(const struct attention *a, int64_t tokens, const bf16 *x, const float *turns, bf16 *room, bf16 *made) {
    const int64_t half = a->width / 2, row = (a->queries + 2 * a->keys) * a->width;
    const bf16 *unit = normed(&a->norm, tokens, x, room);
    products(tokens, a->norm.width, unit, &a->query, &a->key, &a->value, 0, row, made);
    if (!a->turned) return;
    #pragma omp parallel for if (tokens > MOST_TOKENS)
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t h = 0; h < a->queries + a->keys; h++) {
            bf16 *of = made + t * row + h * a->width;
            float turned[2][half];
            for (int64_t i = 0; i < half; i++) {
                const float cos = turns[2 * (t * half + i)], sin = turns[2 * (t * half + i) + 1];
                const uint32_t low = (uint32_t)of[i] << 16, high = (uint32_t)of[half + i] << 16;
                float re, im;
                memcpy(&re, &low, sizeof re);
                memcpy(&im, &high, sizeof im);
                turned[0][i] = re * cos - im * sin;
                turned[1][i] = re * sin + im * cos;
            }
            for (int part = 0; part < 2; part++)
                for (int64_t i = 0; i < half; i += PANEL)
                    keep(of + part * half + i, first(half - i), _mm512_maskz_loadu_ps(first(half - i), turned[part] + i));
        }
}

/* One query head [width] over the chosen slots of its lane's keys and values: to [width] */
static void head(const struct attention *a, const bf16 *query, const bf16 *keys, const bf16 *values, int64_t count,
                 const int64_t *chosen, float *scores, bf16 *to) {
    float most = -3e38f, total = 0;
    for (int64_t s = 0; s < count; s++) {
        __m512 sum = _mm512_setzero_ps();
        for (int64_t i = 0; i < a->width; i += PANEL)
            sum = _mm512_fmadd_ps(widened(query + i, 0xffff), widened(keys + chosen[s] * a->width + i, 0xffff), sum);
        scores[s] = _mm512_reduce_add_ps(sum) * a->scale;
        most = scores[s] > most ? scores[s] : most;
    }
    for (int64_t s = 0; s < count; s++) scores[s] = expf(scores[s] - most);
    for (int64_t s = 0; s < count; s++) total += scores[s];
    for (int64_t i = 0; i < a->width; i += PANEL) {
        __m512 sum = _mm512_setzero_ps();
        for (int64_t s = 0; s < count; s++)
            sum = _mm512_fmadd_ps(_mm512_set1_ps(scores[s]), widened(values + chosen[s] * a->width + i, 0xffff), sum);
        keep(to + i, 0xffff, _mm512_mul_ps(sum, _mm512_set1_ps(1 / total)));
    }
}

/* The attention sub-layer of a few tokens; cache [2, keys, lanes, slots, width], its width a multiple of 16.
   room [tokens, stream's width + (2 queries + 2 keys) width] */
void mhsa(const struct attention *a, const struct pass *p, const bf16 *x, const float *turns, bf16 *cache, bf16 *room,
          bf16 *y) {
    const int64_t width = a->width, row = (a->queries + 2 * a->keys) * width, all = p->lanes * p->slots;
    const int64_t inner = a->queries * width, group = a->queries / a->keys;
    bf16 *made = room + p->tokens * a->norm.width, *outputs = made + p->tokens * row;
    project(a, p->tokens, x, turns, room, made);
    for (int64_t t = 0; t < p->tokens; t++)
        for (int64_t k = 0; k < 2 * a->keys; k++)
            memcpy(cache + (k * all + p->slot[t]) * width, made + t * row + inner + k * width, width * sizeof(bf16));
    #pragma omp parallel for
    for (int64_t both = 0; both < p->tokens * a->keys; both++) {
        const int64_t t = both / a->keys, k = both % a->keys, lane = t / p->each * p->slots, at = p->position[t];
        const bf16 *keys = cache + k * all * width, *values = keys + a->keys * all * width;
        float scores[p->seen];
        int64_t chosen[p->seen], count = 0;
        for (int64_t s = 0; s < p->seen; s++) {
            const int64_t held = p->held[lane + s], branch = p->branches ? p->branches[lane + s] : -1;
            if (held <= at && (branch == -1 || branch == p->branch[t]) && (!a->window || held > at - a->window))
                chosen[count++] = lane + s;
        }
        for (int64_t q = k * group; q < (k + 1) * group; q++)
            head(a, made + t * row + q * width, keys, values, count, chosen, scores, outputs + t * inner + q * width);
    }
    product(&a->out, p->tokens, inner, outputs, x, y);
}
