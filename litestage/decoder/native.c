/* A small float32 model's sub-layers, as many as follow one another in one call: what lean.py says in PyTorch, without
   the dispatch between. Matrices are [in, out], streams [tokens, width]. Compiled where it runs; see native.py. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef __AVX512F__
enum { LANES = 16 };
#else
enum { LANES = 8 };
#endif
enum { MOST_TOKENS = 6, MOST_VECTORS = 8, EIGHT = 8, MOST_EIGHTS = 32 };
typedef float vector __attribute__((vector_size(LANES * sizeof(float)), aligned(4), may_alias));
typedef float eight __attribute__((vector_size(EIGHT * sizeof(float)), aligned(4), may_alias));

struct pass {
    int64_t tokens, each, slots, lanes, seen;     /* each: tokens of a lane; slots of a lane, and how many are read */
    const int64_t *held, *branches;               /* [lanes, slots] positions and branches; no branches: all shared */
    const int64_t *position, *branch, *slot;      /* [tokens] the tokens' own; slots of all lanes in a row */
    const float *const *turns;                    /* by rope [positions, half a head's width], pairs of cosine and sine */
};

struct product { int64_t in, out; const float *matrix, *bias; };  /* no bias: none */

struct norm { const float *weight; float floor; };                /* no weight: no norm; its root of the width within */

struct heads {
    int64_t queries, keys, width, window, rope, gated, together;  /* window 0: none; rope -1: none; see unit_heads */
    float scale, softcap;                                         /* softcap 0: none */
    struct norm query, key;
};

struct sublayer {
    struct product into, back;
    float floor;                                                  /* of the norm before, its weight within; below 0: none */
    struct norm post;
    int64_t gelu;                                                 /* a feed-forward's activation; else it is SiLU */
    struct heads heads;                                           /* no queries: a feed-forward */
};

/* --- products --- */

/* Sums over the inputs in their order, whatever runs beside: a token's are the same in any batch. */
static inline __attribute__((always_inline)) void tile(const int tokens, const int vectors, int64_t in, int64_t out,
                                                       const float *x, const float *w, const float *base,
                                                       int64_t stride, float *y) {
    vector sum[MOST_TOKENS][MOST_VECTORS], of[MOST_VECTORS];
    _Pragma("GCC unroll 8") for (int t = 0; t < tokens; t++)
        _Pragma("GCC unroll 8") for (int v = 0; v < vectors; v++)
            sum[t][v] = base ? *(const vector *)(base + t * stride + v * LANES) : (vector){0};
    for (int64_t i = 0; i < in; i++) {
        _Pragma("GCC unroll 8") for (int v = 0; v < vectors; v++) of[v] = *(const vector *)(w + i * out + v * LANES);
        _Pragma("GCC unroll 8") for (int t = 0; t < tokens; t++)
            _Pragma("GCC unroll 8") for (int v = 0; v < vectors; v++) sum[t][v] += of[v] * x[t * in + i];
    }
    _Pragma("GCC unroll 8") for (int t = 0; t < tokens; t++)
        _Pragma("GCC unroll 8") for (int v = 0; v < vectors; v++) *(vector *)(y + t * out + v * LANES) = sum[t][v];
}

#define TILE(T, V) case 16 * T + V: tile(T, V, in, out, x + t * in, w + o, at, stride, y + t * out + o); break;

/* y = base + x w; base [tokens, out] with a stride of out, or one row for all with 0, or none */
static void multiply(int64_t tokens, int64_t in, int64_t out, const float *x, const float *w, const float *base,
                     int64_t stride, float *y) {
    int64_t wide = tokens == 1 ? 8 : tokens == 2 ? 4 : 2, o = 0;
    for (; o + LANES <= out; o += wide * LANES) {
        while (o + wide * LANES > out) wide /= 2;
        const int64_t most = wide <= 2 ? MOST_TOKENS : tokens;
        for (int64_t t = 0; t < tokens; t += most) {
            const float *at = base ? base + t * stride + o : 0;
            switch (16 * (tokens - t < most ? tokens - t : most) + wide) {
                TILE(1, 1) TILE(2, 1) TILE(3, 1) TILE(4, 1) TILE(5, 1) TILE(6, 1)
                TILE(1, 2) TILE(2, 2) TILE(3, 2) TILE(4, 2) TILE(5, 2) TILE(6, 2)
                TILE(1, 4) TILE(2, 4) TILE(1, 8)
            }
        }
    }
    for (; o < out; o++)
        for (int64_t t = 0; t < tokens; t++) {
            float sum = base ? base[t * stride + o] : 0;
            for (int64_t i = 0; i < in; i++) sum += x[t * in + i] * w[i * out + o];
            y[t * out + o] = sum;
        }
}

static float over_norm(int64_t width, const float *x, float floor) {
    float sum = floor * floor;
    for (int64_t i = 0; i < width; i++) sum += x[i] * x[i];
    return 1.0f / sqrtf(sum);
}

/* y = the stream over its norm, times a matrix, plus a bias if there is one; unit [tokens, in] is room to work in */
void project(int64_t tokens, const struct product *by, float floor, const float *x, float *unit, float *y) {
    if (floor >= 0)
        for (int64_t t = 0; t < tokens; t++) {
            const float *from = x + t * by->in, scale = over_norm(by->in, from, floor);
            for (int64_t i = 0; i < by->in; i++) unit[t * by->in + i] = from[i] * scale;
        }
    multiply(tokens, by->in, by->out, floor >= 0 ? unit : x, by->matrix, by->bias, 0, y);
}

/* Adds what a sub-layer has made of its inside [tokens, in] to the stream; room [tokens, out]. */
static void add(int64_t tokens, const struct sublayer *s, const float *inside, float *room, float *stream) {
    const struct product *by = &s->back;
    if (!s->post.weight && !by->bias) {
        multiply(tokens, by->in, by->out, inside, by->matrix, stream, by->out, stream);
        return;
    }
    multiply(tokens, by->in, by->out, inside, by->matrix, by->bias, 0, room);
    for (int64_t t = 0; t < tokens; t++) {
        const float *from = room + t * by->out, scale = s->post.weight ? over_norm(by->out, from, s->post.floor) : 1;
        float *to = stream + t * by->out;
        for (int64_t i = 0; i < by->out; i++) to[i] += s->post.weight ? from[i] * scale * s->post.weight[i] : from[i];
    }
}

/* --- sub-layers --- */

/* (activation(gate) up) down; room [tokens, in + 2 inner] */
static void feed_forward(int64_t tokens, const struct sublayer *s, float *room, float *stream) {
    const int64_t inner = s->back.in;
    float *made = room + tokens * s->into.in;
    project(tokens, &s->into, s->floor, stream, room, made);
    for (int64_t t = 0; t < tokens; t++) {
        const float *gate = made + 2 * t * inner, *up = gate + inner;
        float *to = made + t * inner;             /* never beyond the gates that are still to be read */
        if (s->gelu)                              /* (1 + tanh z) / 2 is 1 / (1 + exp(-2 z)) */
            for (int64_t i = 0; i < inner; i++)
                to[i] = gate[i] / (1 + expf(-1.5957691f * (gate[i] + 0.044715f * gate[i] * gate[i] * gate[i]))) * up[i];
        else
            for (int64_t i = 0; i < inner; i++) to[i] = gate[i] / (1 + expf(-gate[i])) * up[i];
    }
    add(tokens, s, made, room, stream);
}

/* Normalises each head by itself, or all of a token's together. */
static void unit_heads(int64_t count, int64_t width, int64_t together, const struct norm *norm, float *x) {
    const int64_t size = together ? count * width : width;
    for (int64_t at = 0; norm->weight && at < count * width; at += size) {
        const float scale = over_norm(size, x + at, norm->floor);
        for (int64_t i = 0; i < size; i++) x[at + i] *= scale * norm->weight[together ? at + i : i];
    }
}

static void turn(int64_t count, int64_t half, const float *by, float *x) {
    for (int64_t h = 0; h < count; h++, x += 2 * half)
        for (int64_t i = 0; i < 2 * half; i += 2) {
            const float re = x[i], im = x[i + 1];
            x[i] = re * by[i] - im * by[i + 1];
            x[i + 1] = re * by[i + 1] + im * by[i];
        }
}

/* One query over its slots; a head is so many eights wide, best known to the compiler. */
static inline __attribute__((always_inline)) void attend(const int64_t eights, const struct heads *h, int64_t count,
                                                         const int64_t *chosen, const float *query, const float *keys,
                                                         const float *values, float *scores, float *to) {
    const eight *q = (const eight *)query;
    float most = -3e38f, total = 0;
    for (int64_t s = 0; s < count; s++) {
        const eight *key = (const eight *)(keys + chosen[s] * eights * EIGHT);
        eight sum = q[0] * key[0];
        for (int64_t j = 1; j < eights; j++) sum += q[j] * key[j];
        scores[s] = ((sum[0] + sum[4]) + (sum[1] + sum[5])) + ((sum[2] + sum[6]) + (sum[3] + sum[7]));
    }
    for (int64_t s = 0; s < count; s++) scores[s] *= h->scale;
    if (h->softcap != 0)
        for (int64_t s = 0; s < count; s++) scores[s] = tanhf(scores[s] / h->softcap) * h->softcap;
    for (int64_t s = 0; s < count; s++) most = scores[s] > most ? scores[s] : most;
    for (int64_t s = 0; s < count; s++) total += scores[s] = expf(scores[s] - most);
    eight sum[MOST_EIGHTS];
    for (int64_t j = 0; j < eights; j++) sum[j] = (eight){0};
    for (int64_t s = 0; s < count; s++) {
        const eight *value = (const eight *)(values + chosen[s] * eights * EIGHT);
        for (int64_t j = 0; j < eights; j++) sum[j] += scores[s] * value[j];
    }
    for (int64_t j = 0; j < eights; j++) ((eight *)to)[j] = sum[j] / total;
}

/* The slots that a token sees, in their order; returns how many. */
static int64_t choose(const struct pass *p, int64_t window, int64_t t, int64_t *chosen) {
    const int64_t first = p->slot[t] / p->slots * p->slots, at = p->position[t];
    int64_t count = 0;
    for (int64_t s = first; s < first + p->seen; s++) {
        const int64_t branch = p->branches ? p->branches[s] : -1;
        chosen[count] = s;
        count += p->held[s] <= at && (branch == -1 || branch == p->branch[t]) && (!window || p->held[s] > at - window);
    }
    return count;
}

/* Turns queries and keys, keeps keys and values, attends.
   cache [2, keys, lanes, slots, width]; room [tokens, in + made + inner] and [2 seen + 2] */
static void attention(const struct pass *p, const struct sublayer *s, float *cache, float *room, float *stream) {
    const struct heads *h = &s->heads;
    const int64_t width = h->width, row = s->into.out, all = p->lanes * p->slots, inner = h->queries * width;
    float *made = room + p->tokens * s->into.in, *inside = made + p->tokens * row;
    float *scores = inside + p->tokens * inner;
    int64_t *chosen = (int64_t *)(((uintptr_t)(scores + p->seen) + 7) & ~(uintptr_t)7);
    project(p->tokens, &s->into, s->floor, stream, room, made);
    for (int64_t t = 0; t < p->tokens; t++) {
        float *of = made + t * row;
        unit_heads(h->queries, width, h->together, &h->query, of);
        unit_heads(h->keys, width, h->together, &h->key, of + inner);
        if (h->rope >= 0) turn(h->queries + h->keys, width / 2, p->turns[h->rope] + p->position[t] * width, of);
        for (int64_t k = 0; k < 2 * h->keys; k++)
            memcpy(cache + (k * all + p->slot[t]) * width, of + inner + k * width, width * sizeof(float));
    }
    for (int64_t t = 0; t < p->tokens; t++) {
        const int64_t count = choose(p, h->window, t, chosen);
        for (int64_t q = 0; q < h->queries; q++) {
            const float *query = made + t * row + q * width;
            const float *keys = cache + q / (h->queries / h->keys) * all * width, *values = keys + h->keys * all * width;
            float *to = inside + t * inner + q * width;
            switch (width / EIGHT) {
                case 4: attend(4, h, count, chosen, query, keys, values, scores, to); break;
                case 8: attend(8, h, count, chosen, query, keys, values, scores, to); break;
                default: attend(width / EIGHT, h, count, chosen, query, keys, values, scores, to);
            }
        }
        if (h->gated) {
            const float *gate = made + t * row + row - inner;
            for (int64_t i = 0; i < inner; i++) inside[t * inner + i] /= 1 + expf(-gate[i]);
        }
    }
    add(p->tokens, s, inside, room, stream);
}

/* Sub-layers in place, one after another; a cache for each attention. */
void walk(const struct pass *p, int64_t count, const struct sublayer *sublayers, int64_t tokens, float *const *caches,
          float *room, float *stream) {
    for (const struct sublayer *s = sublayers; s < sublayers + count; s++)
        if (s->heads.queries) attention(p, s, *caches++, room, stream);
        else feed_forward(tokens, s, room, stream);
}
