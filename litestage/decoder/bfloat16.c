/* A bfloat16 model's sub-layers on a CPU: products at the speed of memory for a few tokens, and of the multipliers for
   many. Streams are [tokens, width]; sums are float32. Compiled where it runs; see bfloat16.py. */

#include "int8.h"

struct part { const void *weight; const bf16 *bias; int64_t out, int8; };  /* bias: may be missing */

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

/* Token tiles of even size: which tokens the k-th has. */
static int64_t many(int64_t tokens) { return tokens <= FEW ? 1 : (tokens + MOST_TOKENS - 1) / MOST_TOKENS; }
static int64_t start(int64_t tokens, int64_t k) { return k * tokens / many(tokens); }

static const void *panel(const struct part *part, int64_t in, int64_t index) {
    const int64_t blocks = (in + BLOCK - 1) / BLOCK, bytes = part->int8 ? OF_BLOCK : BLOCK * PANEL * sizeof(bf16);
    return (const char *)part->weight + index * blocks * bytes;
}

static struct inputs prepared(const struct part *part, int64_t tokens, int64_t in, const bf16 *x) {
    return part->int8 ? for_int8(tokens, in, x) : as_they_are(tokens, in, x);
}

/* y [tokens][panels * 16] of a few of the tokens and as many panels of a part, which lie at w */
static void multiplied(const struct part *part, const struct inputs *x, int64_t from, int64_t to, int panels,
                       const void *const *w, float y[][GROUP]) {
    if (part->int8) int8_tiles(x, from, to, panels, (const uint8_t *const *)w, y);
    else tiles(to - from, panels, x->in, (const operand *)x->x + from * row_of(x->in), (const bf16 *const *)w, y);
}

/* One part's group of panels for all tokens: y [tokens, row] = add + bias + x w, where there is a bias, and an add */
static void grouped(const struct inputs *x, const struct part *part, int64_t group, const bf16 *add, int64_t row,
                    bf16 *y) {
    const int panels = together(x->tokens);
    const void *of[MOST_PANELS];
    float made[MOST_TOKENS][GROUP];
    for (int p = 0; p < panels; p++) of[p] = panel(part, x->in, group * panels + p);
    for (int64_t k = 0; k < many(x->tokens); k++) {
        const int64_t from = start(x->tokens, k), to = start(x->tokens, k + 1);
        multiplied(part, x, from, to, panels, of, made);
        for (int64_t t = from; t < to; t++)
            for (int i = 0; i < panels * PANEL; i += LANES) {
                const int64_t at = group * panels * PANEL + i, left = part->out - at;
                vector sum = some(made[t - from] + i, LANES);
                if (part->bias) sum += widened(part->bias + at, left);
                if (add) sum += widened(add + t * row + at, left);
                keep(y + t * row + at, left, sum);
            }
    }
}

static int64_t groups(const struct part *part, int panels) {
    return part ? (part->out + GROUP - 1) / GROUP * (MOST_PANELS / panels) : 0;
}

/* Up to three maps of the same x, their outputs side by side in y [tokens, row] */
static void products(int64_t tokens, int64_t in, const bf16 *x, const struct part *one, const struct part *two,
                     const struct part *three, const bf16 *add, int64_t row, bf16 *y) {
    const int64_t ones = groups(one, together(tokens)), twos = groups(two, together(tokens));
    const int64_t every = ones + twos + groups(three, together(tokens));
    const struct inputs held = prepared(one, tokens, in, x);
    #pragma omp parallel for schedule(dynamic)
    for (int64_t g = 0; g < every; g++)
        if (g < ones) grouped(&held, one, g, add, row, y);
        else if (g < ones + twos) grouped(&held, two, g - ones, add, row, y + one->out);
        else grouped(&held, three, g - ones - twos, add, row, y + one->out + two->out);
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
        bf16 *to = room + t * norm->width;
        vector sum = {0};
        for (int64_t i = 0; i < norm->width; i += LANES) {
            const vector few = widened(from + i, norm->width - i);
            sum = multiply_add(few, few, sum);
        }
        const vector by = all(1 / sqrtf(total(sum) / norm->width + norm->epsilon));
        for (int64_t i = 0; i < norm->width; i += LANES) {
            const int64_t left = norm->width - i;
            keep(to + i, left, widened(from + i, left) * by * some(norm->weight + i, left));
        }
    }
    return room;
}

/* y = x + (silu(gate) up) down; room [tokens, width + inner] */
void feed_forward(const struct feed_forward *f, int64_t tokens, const bf16 *x, bf16 *room, bf16 *y) {
    const int64_t in = f->norm.width, inner = f->gate.out;
    const int half = together(tokens) / 2;
    const bf16 *unit = normed(&f->norm, tokens, x, room);
    const struct inputs held = prepared(&f->gate, tokens, in, unit);
    bf16 *between = room + tokens * in;
    #pragma omp parallel for schedule(dynamic)
    for (int64_t g = 0; g < groups(&f->gate, half); g++) {
        const void *of[MOST_PANELS];
        float made[MOST_TOKENS][GROUP];
        for (int p = 0; p < half; p++) {
            of[p] = panel(&f->gate, in, g * half + p);
            of[half + p] = panel(&f->up, in, g * half + p);
        }
        for (int64_t k = 0; k < many(tokens); k++) {
            const int64_t from = start(tokens, k), to = start(tokens, k + 1);
            multiplied(&f->gate, &held, from, to, 2 * half, of, made);
            for (int64_t t = from; t < to; t++) {
                float *gate = made[t - from], *up = gate + half * PANEL;
                for (int i = 0; i < half * PANEL; i++) gate[i] = gate[i] / (1 + expf(-gate[i])) * up[i];
                for (int i = 0; i < half * PANEL; i += LANES) {
                    const int64_t at = g * half * PANEL + i;
                    keep(between + t * inner + at, inner - at, some(gate + i, LANES));
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
                for (int64_t i = 0; i < half; i += LANES)
                    keep(of + part * half + i, half - i, some(turned[part] + i, half - i));
        }
}

/* Query heads [n, width] of one key head over the chosen slots of their lane's keys and values: to [n, width] */
INLINE void heads(const int n, const struct attention *a, const bf16 *queries, const bf16 *keys, const bf16 *values,
                  int64_t count, const int64_t *chosen, float *scores, bf16 *to) {
    float wide[n * a->width];
    for (int64_t i = 0; i < n * a->width; i += LANES) {
        const vector held = widened(queries + i, LANES);
        memcpy(wide + i, &held, sizeof held);
    }
    for (int64_t s = 0; s < count; s++) {
        vector score[4];
        UNROLLED for (int q = 0; q < n; q++) score[q] = (vector){0};
        for (int64_t i = 0; i < a->width; i += LANES) {
            const vector key = widened(keys + chosen[s] * a->width + i, LANES);
            UNROLLED for (int q = 0; q < n; q++)
                score[q] = multiply_add(some(wide + q * a->width + i, LANES), key, score[q]);
        }
        UNROLLED for (int q = 0; q < n; q++) scores[q * count + s] = total(score[q]) * a->scale;
    }
    float sums[4];
    for (int q = 0; q < n; q++) {
        float *of = scores + q * count, most = -3e38f, sum = 0;
        for (int64_t s = 0; s < count; s++) most = of[s] > most ? of[s] : most;
        for (int64_t s = 0; s < count; s++) of[s] = expf(of[s] - most);
        for (int64_t s = 0; s < count; s++) sum += of[s];
        sums[q] = sum;
    }
    for (int64_t i = 0; i < a->width; i += LANES) {
        vector mixed[4];
        UNROLLED for (int q = 0; q < n; q++) mixed[q] = (vector){0};
        for (int64_t s = 0; s < count; s++) {
            const vector value = widened(values + chosen[s] * a->width + i, LANES);
            UNROLLED for (int q = 0; q < n; q++) mixed[q] = multiply_add(all(scores[q * count + s]), value, mixed[q]);
        }
        UNROLLED for (int q = 0; q < n; q++) keep(to + q * a->width + i, LANES, mixed[q] * all(1 / sums[q]));
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
        float scores[4 * p->seen];
        int64_t chosen[p->seen], count = 0;
        for (int64_t s = 0; s < p->seen; s++) {
            const int64_t held = p->held[lane + s], branch = p->branches ? p->branches[lane + s] : -1;
            if (held <= at && (branch == -1 || branch == p->branch[t]) && (!a->window || held > at - a->window))
                chosen[count++] = lane + s;
        }
        for (int64_t q = k * group, n; q < (k + 1) * group; q += n) {
            n = (k + 1) * group - q < 4 ? (k + 1) * group - q : 4;
            const bf16 *of = made + t * row + q * width;
            bf16 *to = outputs + t * inner + q * width;
#define CASE(some) case some: heads(some, a, of, keys, values, count, chosen, scores, to); break;
            switch (n) { CASE(1) CASE(2) CASE(3) CASE(4) }
#undef CASE
        }
    }
    product(&a->out, p->tokens, inner, outputs, x, y);
}

/* How many inputs of an output lie side by side in 8 bits */
int64_t int8_run(void) { return RUN; }
