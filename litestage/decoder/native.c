/* A small float32 model's sub-layers for a few tokens: what lean.py says in PyTorch, without the dispatch between.
   Matrices are [in, out], streams [tokens, width]. Compiled where it runs; see native.py. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct pass {
    int64_t tokens, each, slots, lanes, seen;     /* each: tokens of a lane; slots of a lane, and how many are read */
    const int64_t *held, *branches;               /* [lanes, slots] positions and branches; no branches: all shared */
    const int64_t *position, *branch, *slot;      /* [tokens] the tokens' own; slots of all lanes in a row */
};

struct heads {
    int64_t queries, keys, width, window;         /* window 0: none */
    float scale, softcap;                         /* softcap 0: none */
};

/* y += x w */
static void add_product(int64_t tokens, int64_t in, int64_t out, const float *restrict x, const float *restrict w,
                        float *restrict y) {
    int64_t i = 0;
    for (; i + 4 <= in; i += 4) {
        const float *restrict a = w + i * out, *restrict b = a + out, *restrict c = b + out, *restrict d = c + out;
        for (int64_t t = 0; t < tokens; t++) {
            const float *from = x + t * in + i;
            const float p = from[0], q = from[1], r = from[2], s = from[3];
            float *restrict to = y + t * out;
            for (int64_t o = 0; o < out; o++) to[o] += p * a[o] + q * b[o] + r * c[o] + s * d[o];
        }
    }
    for (; i < in; i++)
        for (int64_t t = 0; t < tokens; t++)
            for (int64_t o = 0; o < out; o++) y[t * out + o] += x[t * in + i] * w[i * out + o];
}

/* The stream over its norm, times a matrix, plus a bias if there is one; unit [tokens, in] is room to work in. */
void project(int64_t tokens, int64_t in, int64_t out, float floor, const float *x, const float *w, const float *bias,
             float *unit, float *y) {
    for (int64_t t = 0; t < tokens; t++) {
        const float *from = x + t * in;
        float sum = floor * floor;
        for (int64_t i = 0; i < in; i++) sum += from[i] * from[i];
        const float by = 1.0f / sqrtf(sum);
        for (int64_t i = 0; i < in; i++) unit[t * in + i] = from[i] * by;
        if (bias) memcpy(y + t * out, bias, out * sizeof(float));
        else memset(y + t * out, 0, out * sizeof(float));
    }
    add_product(tokens, in, out, unit, w, y);
}

/* y = x + (silu(gate) up) down; room [tokens, in + 2 inner] */
void feed_forward(int64_t tokens, int64_t in, int64_t inner, float floor, const float *x, const float *gate_up,
                  const float *bias, const float *down, float *room, float *y) {
    float *made = room + tokens * in;
    project(tokens, in, 2 * inner, floor, x, gate_up, bias, room, made);
    for (int64_t t = 0; t < tokens; t++) {
        const float *gate = made + 2 * t * inner, *up = gate + inner;
        float *to = made + t * inner;             /* never beyond the gates that are still to be read */
        for (int64_t i = 0; i < inner; i++) to[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
    }
    memcpy(y, x, tokens * in * sizeof(float));
    add_product(tokens, inner, in, made, down, y);
}

/* Turns queries and keys, keeps keys and values, attends, and adds what comes out to the stream.
   made [tokens, (queries + 2 keys) width]; turns of the same shape, pairs of cosine and sine, or none;
   cache [2, keys, lanes, slots, width]; room [tokens queries width + seen]; chosen [seen]. */
void attend(const struct pass *p, const struct heads *h, int64_t stream, float *made, const float *turns, float *cache,
            const float *x, const float *out, float *room, int64_t *chosen, float *y) {
    const int64_t width = h->width, row = (h->queries + 2 * h->keys) * width, all = p->lanes * p->slots;
    const int64_t group = h->queries / h->keys, inner = h->queries * width;
    float *scores = room + p->tokens * inner;
    for (int64_t t = 0; t < p->tokens; t++) {
        float *of = made + t * row;
        if (turns)
            for (int64_t i = 0; i < inner + h->keys * width; i += 2) {
                const float cos = turns[t * row + i], sin = turns[t * row + i + 1], re = of[i], im = of[i + 1];
                of[i] = re * cos - im * sin;
                of[i + 1] = re * sin + im * cos;
            }
        for (int64_t k = 0; k < 2 * h->keys; k++)
            memcpy(cache + (k * all + p->slot[t]) * width, of + inner + k * width, width * sizeof(float));
    }
    for (int64_t t = 0; t < p->tokens; t++) {
        const int64_t lane = t / p->each * p->slots, at = p->position[t];
        int64_t count = 0;
        for (int64_t s = 0; s < p->seen; s++) {
            const int64_t held = p->held[lane + s];
            const int64_t branch = p->branches ? p->branches[lane + s] : -1;
            if (held <= at && (branch == -1 || branch == p->branch[t]) && (!h->window || held > at - h->window))
                chosen[count++] = lane + s;
        }
        for (int64_t q = 0; q < h->queries; q++) {
            const float *query = made + t * row + q * width;
            const float *keys = cache + q / group * all * width, *values = keys + h->keys * all * width;
            float *to = room + t * inner + q * width, most = -3e38f, sum = 0;
            for (int64_t s = 0; s < count; s++) {
                const float *key = keys + chosen[s] * width;
                float score = 0;
                for (int64_t i = 0; i < width; i++) score += query[i] * key[i];
                score *= h->scale;
                if (h->softcap != 0) score = tanhf(score / h->softcap) * h->softcap;
                scores[s] = score;
                most = score > most ? score : most;
            }
            for (int64_t s = 0; s < count; s++) sum += scores[s] = expf(scores[s] - most);
            memset(to, 0, width * sizeof(float));
            for (int64_t s = 0; s < count; s++) {
                const float *value = values + chosen[s] * width, share = scores[s] / sum;
                for (int64_t i = 0; i < width; i++) to[i] += share * value[i];
            }
        }
    }
    memcpy(y, x, p->tokens * stream * sizeof(float));
    add_product(p->tokens, inner, stream, room, out, y);
}
