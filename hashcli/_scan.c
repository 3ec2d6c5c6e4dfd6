/* The inner loop of hashcli.scan: the same answers as the numpy kernel there, at the speed of memory.

A block is taken in tiles of one word per checksum lane. A tile is added to the lanes and then, while it lies in the
first-level cache, compared with every query. What depends on the processor is only `below`, which marks the slots
of a tile nearer than a limit; everything else is plain C. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#define X86 1
#include <immintrin.h>
#endif

enum { MOST_LANES = 4096, MOST_WORDS = 16 };

/* In LMDB's map a word may start at any even address. */
typedef uint64_t __attribute__((aligned(1), may_alias)) word;

/* Bit i of marks: the code of slot i differs from the query in fewer than `limit` bits. Whole bytes only: n is a
   multiple of 8. `stride` words lie between the planes. */
typedef void below_function(const word *words, Py_ssize_t stride, int n_words, const word *query, Py_ssize_t n,
                            int64_t limit, uint8_t *marks);
typedef void add_function(uint64_t *restrict lanes, const word *restrict words, Py_ssize_t n);

static inline int distance(const word *words, Py_ssize_t stride, int n_words, const word *query)
{
    int sum = 0;
    for (int w = 0; w < n_words; w++)
        sum += __builtin_popcountll(words[w * stride] ^ query[w]);
    return sum;
}

#define DEFINE_ADD(name, attribute)                                                                   \
    attribute static void name(uint64_t *restrict lanes, const word *restrict words, Py_ssize_t n)    \
    {                                                                                                 \
        for (Py_ssize_t i = 0; i < n; i++)                                                            \
            lanes[i] += words[i];                                                                     \
    }

#define DEFINE_BELOW_SCALAR(name, attribute)                                                                     \
    attribute static void name(const word *words, Py_ssize_t stride, int n_words, const word *query,             \
                               Py_ssize_t n, int64_t limit, uint8_t *marks)                                      \
    {                                                                                                            \
        for (Py_ssize_t i = 0; i < n; i += 8) {                                                                  \
            unsigned byte = 0;                                                                                   \
            for (int j = 0; j < 8; j++) {                                                                        \
                int sum = 0;                                                                                     \
                for (int w = 0; w < n_words; w++)                                                                \
                    sum += __builtin_popcountll(words[w * stride + i + j] ^ query[w]);                           \
                byte |= (unsigned)(sum < limit) << j;                                                            \
            }                                                                                                    \
            marks[i / 8] = (uint8_t)byte;                                                                        \
        }                                                                                                        \
    }

DEFINE_ADD(add_plain, )
DEFINE_BELOW_SCALAR(below_plain, )

#if X86
DEFINE_BELOW_SCALAR(below_popcnt, __attribute__((target("popcnt"))))

#define AVX2 __attribute__((target("avx2")))
#define AVX512 __attribute__((target("avx512f,avx512bw")))
#define VPOPCNT __attribute__((target("avx512f,avx512bw,avx512vpopcntdq")))

DEFINE_ADD(add_avx2, AVX2)
DEFINE_ADD(add_avx512, AVX512)

/* Ones per byte, by a table of the ones in each half byte (Mula, Kurz and Lemire, "Faster population counts using
   AVX2 instructions", 2018). 16 words give at most 128 per byte, so bytes are summed only once, at the end. */
AVX2 static inline __m256i byte_ones_avx2(__m256i v)
{
    const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3, 1,
                                           2, 2, 3, 2, 3, 3, 4);
    const __m256i half = _mm256_set1_epi8(15);
    __m256i low = _mm256_shuffle_epi8(table, _mm256_and_si256(v, half));
    __m256i high = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(v, 4), half));
    return _mm256_add_epi8(low, high);
}

AVX2 static inline unsigned four_avx2(const word *words, Py_ssize_t stride, int n_words, const word *query,
                                      __m256i limit)
{
    __m256i ones = _mm256_setzero_si256();
    for (int w = 0; w < n_words; w++) {
        __m256i v = _mm256_loadu_si256((const __m256i *)(words + w * stride));
        v = _mm256_xor_si256(v, _mm256_set1_epi64x((long long)query[w]));
        ones = _mm256_add_epi8(ones, byte_ones_avx2(v));
    }
    __m256i sum = _mm256_sad_epu8(ones, _mm256_setzero_si256());
    return (unsigned)_mm256_movemask_pd(_mm256_castsi256_pd(_mm256_cmpgt_epi64(limit, sum)));
}

AVX2 static void below_avx2(const word *words, Py_ssize_t stride, int n_words, const word *query, Py_ssize_t n,
                            int64_t limit, uint8_t *marks)
{
    __m256i bound = _mm256_set1_epi64x(limit);
    if (n_words == 1) /* a constant lets the compiler drop the inner loop */
        for (Py_ssize_t i = 0; i < n; i += 8)
            marks[i / 8] = (uint8_t)(four_avx2(words + i, stride, 1, query, bound) |
                                     four_avx2(words + i + 4, stride, 1, query, bound) << 4);
    else
        for (Py_ssize_t i = 0; i < n; i += 8)
            marks[i / 8] = (uint8_t)(four_avx2(words + i, stride, n_words, query, bound) |
                                     four_avx2(words + i + 4, stride, n_words, query, bound) << 4);
}

AVX512 static inline __m512i byte_ones_avx512(__m512i v)
{
    const __m512i table = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
    const __m512i half = _mm512_set1_epi8(15);
    __m512i low = _mm512_shuffle_epi8(table, _mm512_and_si512(v, half));
    __m512i high = _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(v, 4), half));
    return _mm512_add_epi8(low, high);
}

AVX512 static inline uint8_t eight_avx512(const word *words, Py_ssize_t stride, int n_words, const word *query,
                                          __m512i limit)
{
    __m512i ones = _mm512_setzero_si512();
    for (int w = 0; w < n_words; w++) {
        __m512i v = _mm512_loadu_si512(words + w * stride);
        v = _mm512_xor_si512(v, _mm512_set1_epi64((long long)query[w]));
        ones = _mm512_add_epi8(ones, byte_ones_avx512(v));
    }
    return _mm512_cmplt_epi64_mask(_mm512_sad_epu8(ones, _mm512_setzero_si512()), limit);
}

AVX512 static void below_avx512(const word *words, Py_ssize_t stride, int n_words, const word *query, Py_ssize_t n,
                                int64_t limit, uint8_t *marks)
{
    __m512i bound = _mm512_set1_epi64(limit);
    if (n_words == 1)
        for (Py_ssize_t i = 0; i < n; i += 8)
            marks[i / 8] = eight_avx512(words + i, stride, 1, query, bound);
    else
        for (Py_ssize_t i = 0; i < n; i += 8)
            marks[i / 8] = eight_avx512(words + i, stride, n_words, query, bound);
}

VPOPCNT static inline uint8_t eight_vpopcnt(const word *words, Py_ssize_t stride, int n_words, const word *query,
                                            __m512i limit)
{
    __m512i sum = _mm512_setzero_si512();
    for (int w = 0; w < n_words; w++) {
        __m512i v = _mm512_loadu_si512(words + w * stride);
        v = _mm512_xor_si512(v, _mm512_set1_epi64((long long)query[w]));
        sum = _mm512_add_epi64(sum, _mm512_popcnt_epi64(v));
    }
    return _mm512_cmplt_epi64_mask(sum, limit);
}

VPOPCNT static void below_vpopcnt(const word *words, Py_ssize_t stride, int n_words, const word *query, Py_ssize_t n,
                                  int64_t limit, uint8_t *marks)
{
    __m512i bound = _mm512_set1_epi64(limit);
    if (n_words == 1)
        for (Py_ssize_t i = 0; i < n; i += 8)
            marks[i / 8] = eight_vpopcnt(words + i, stride, 1, query, bound);
    else
        for (Py_ssize_t i = 0; i < n; i += 8)
            marks[i / 8] = eight_vpopcnt(words + i, stride, n_words, query, bound);
}
#endif

static const struct kernel {
    const char *name;
    below_function *below;
    add_function *add;
} kernels[] = {
#if X86
    {"c-avx512-vpopcnt", below_vpopcnt, add_avx512},
    {"c-avx512", below_avx512, add_avx512},
    {"c-avx2", below_avx2, add_avx2},
    {"c-popcount", below_popcnt, add_plain},
#endif
    {"c-plain", below_plain, add_plain},
};
enum { N_KERNELS = sizeof kernels / sizeof *kernels };

static int supported(const struct kernel *kernel)
{
#if X86
    __builtin_cpu_init();
    if (kernel->below == below_vpopcnt)
        return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vpopcntdq");
    if (kernel->below == below_avx512)
        return __builtin_cpu_supports("avx512bw");
    if (kernel->below == below_avx2)
        return __builtin_cpu_supports("avx2");
    if (kernel->below == below_popcnt)
        return __builtin_cpu_supports("popcnt");
#endif
    return 1;
}

struct search {
    const struct kernel *kernel;
    const word *words, *queries; /* planes of n words; rows of n_words words */
    Py_ssize_t n, n_words, n_queries, n_lanes, n_bins, k, capacity;
    int64_t *limits, *histogram;
    const uint8_t *live; /* NULL: all are */
    const uint64_t *multipliers;
    uint64_t *lanes, *sums;
    int64_t *found_query, *found_slot, *found_distance;
};

/* Note slot `slot` at distance d; returns the query's limit, lowered to the k-th distance once k slots are known.
   *inside counts those found below the limit. */
static int64_t note(struct search *s, Py_ssize_t q, Py_ssize_t slot, int d, Py_ssize_t *n_found, int64_t *inside)
{
    int64_t limit = s->limits[q], *histogram = s->histogram + q * s->n_bins;
    s->found_query[*n_found] = q;
    s->found_slot[*n_found] = slot;
    s->found_distance[(*n_found)++] = d;
    if (!s->k)
        return limit;
    histogram[d]++;
    for (++*inside; *inside >= s->k; *inside -= histogram[limit])
        limit--;
    return s->limits[q] = limit;
}

static void compare(struct search *s, Py_ssize_t q, Py_ssize_t start, Py_ssize_t n, Py_ssize_t *n_found)
{
    uint64_t marks[MOST_LANES / 64];
    const word *words = s->words + start, *query = s->queries + q * s->n_words;
    int n_words = (int)s->n_words;
    Py_ssize_t whole = n - n % 8;
    int64_t limit = s->limits[q], inside = -1;

    memset(marks, 0, (size_t)(n / 64 + 1) * 8);
    s->kernel->below(words, s->n, n_words, query, whole, limit, (uint8_t *)marks);
    for (Py_ssize_t i = whole; i < n; i++)
        if (distance(words + i, s->n, n_words, query) < limit)
            ((uint8_t *)marks)[i / 8] |= (uint8_t)(1 << i % 8);
    for (Py_ssize_t m = 0; m <= (n - 1) / 64; m++)
        for (uint64_t left = marks[m]; left; left &= left - 1) {
            Py_ssize_t i = m * 64 + __builtin_ctzll(left);
            int d = distance(words + i, s->n, n_words, query);
            if (d >= limit || (s->live && !s->live[start + i]))
                continue;
            if (inside < 0) { /* summed up only where a tile has something near */
                inside = 0;
                for (int64_t below = 0; below < limit; below++)
                    inside += s->histogram[q * s->n_bins + below];
            }
            limit = note(s, q, start + i, d, n_found, &inside);
        }
}

/* Go on from step `step` = tile * n_queries + query while there is room for one more tile's finds; the next step,
   or -1 when the block is done and its sums are written. */
static Py_ssize_t run(struct search *s, Py_ssize_t step, Py_ssize_t *n_found)
{
    Py_ssize_t n_tiles = (s->n + s->n_lanes - 1) / s->n_lanes;
    Py_ssize_t per_tile = s->n_queries ? s->n_queries : 1;
    if (step == 0)
        memset(s->lanes, 0, (size_t)(s->n_words * s->n_lanes) * sizeof *s->lanes);
    for (; step < n_tiles * per_tile; step++) {
        Py_ssize_t start = step / per_tile * s->n_lanes, q = step % per_tile;
        Py_ssize_t n = s->n - start < s->n_lanes ? s->n - start : s->n_lanes;
        if (*n_found + n > s->capacity)
            return step;
        if (q == 0)
            for (Py_ssize_t w = 0; w < s->n_words; w++)
                s->kernel->add(s->lanes + w * s->n_lanes, s->words + w * s->n + start, n);
        if (q < s->n_queries)
            compare(s, q, start, n, n_found);
    }
    for (Py_ssize_t w = 0; w < s->n_words; w++) {
        uint64_t all = 0, upper = 0;
        for (Py_ssize_t i = 0; i < s->n_lanes; i++) {
            uint64_t lane = s->lanes[w * s->n_lanes + i];
            all += lane * s->multipliers[i];
            upper += (lane >> 32) * s->multipliers[i];
        }
        s->sums[2 * w] = all;
        s->sums[2 * w + 1] = upper;
    }
    return -1;
}

enum { WORDS, QUERIES, LIMITS, HISTOGRAM, LIVE, MULTIPLIERS, LANES, SUMS, QUERY, SLOT, DISTANCE, N_BUFFERS };

static int fits(const Py_buffer *b, const struct search *s)
{
    Py_ssize_t size = 8;
    return s->n_words > 0 && s->n_words <= MOST_WORDS && s->n_lanes > 0 && s->n_lanes < MOST_LANES && s->k >= 0 &&
           b[WORDS].len == s->n_words * s->n * size && b[QUERIES].len == s->n_queries * s->n_words * size &&
           b[HISTOGRAM].len == s->n_queries * s->n_bins * size && (!s->live || b[LIVE].len == s->n) &&
           b[LANES].len == s->n_words * s->n_lanes * size && b[SUMS].len == s->n_words * 2 * size &&
           b[SLOT].len == s->capacity * size && b[DISTANCE].len == s->capacity * size && s->capacity >= s->n_lanes;
}

static PyObject *block(PyObject *module, PyObject *args)
{
    (void)module;
    Py_buffer b[N_BUFFERS] = {{0}};
    PyObject *result = NULL, *live;
    const char *name;
    struct search s = {0};
    Py_ssize_t step, n_found = 0;
    if (!PyArg_ParseTuple(args, "sny*y*w*w*Ony*w*w*w*w*w*n", &name, &s.n_words, &b[WORDS], &b[QUERIES], &b[LIMITS],
                          &b[HISTOGRAM], &live, &s.k, &b[MULTIPLIERS], &b[LANES], &b[SUMS], &b[QUERY], &b[SLOT],
                          &b[DISTANCE], &step))
        return NULL;
    if (live != Py_None && PyObject_GetBuffer(live, &b[LIVE], PyBUF_SIMPLE) < 0)
        goto done;
    for (int i = 0; i < N_KERNELS; i++)
        if (!strcmp(name, kernels[i].name) && supported(&kernels[i]))
            s.kernel = &kernels[i];
    s.words = b[WORDS].buf, s.queries = b[QUERIES].buf;
    s.limits = b[LIMITS].buf, s.histogram = b[HISTOGRAM].buf, s.live = b[LIVE].buf;
    s.multipliers = b[MULTIPLIERS].buf, s.lanes = b[LANES].buf, s.sums = b[SUMS].buf;
    s.found_query = b[QUERY].buf, s.found_slot = b[SLOT].buf, s.found_distance = b[DISTANCE].buf;
    s.n = s.n_words > 0 ? b[WORDS].len / 8 / s.n_words : 0;
    s.n_queries = b[LIMITS].len / 8;
    s.n_bins = 64 * s.n_words + 1;
    s.n_lanes = b[MULTIPLIERS].len / 8;
    s.capacity = b[QUERY].len / 8;
    if (!s.kernel || step < 0 || !fits(b, &s)) {
        PyErr_Format(PyExc_ValueError, "no such kernel here, or arrays that do not fit together: %s", name);
        goto done;
    }
    Py_BEGIN_ALLOW_THREADS
    step = run(&s, step, &n_found);
    Py_END_ALLOW_THREADS
    result = Py_BuildValue("nn", n_found, step);
done:
    for (int i = 0; i < N_BUFFERS; i++)
        if (b[i].obj)
            PyBuffer_Release(&b[i]);
    return result;
}

static PyObject *names(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    PyObject *list = PyList_New(0);
    for (int i = 0; list && i < N_KERNELS; i++) {
        if (!supported(&kernels[i]))
            continue;
        PyObject *name = PyUnicode_FromString(kernels[i].name);
        if (!name || PyList_Append(list, name) < 0)
            Py_CLEAR(list);
        Py_XDECREF(name);
    }
    return list;
}

static PyMethodDef methods[] = {
    {"names", names, METH_NOARGS, "The kernels that this processor runs, fastest first."},
    {"block", block, METH_VARARGS, "One block for all queries -> (finds written, step to go on with or -1)."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "hashcli._scan", NULL, 0, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__scan(void) { return PyModule_Create(&module); }
