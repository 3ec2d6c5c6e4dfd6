/* The inner loop of hashcli.scan: the same answers as the numpy kernel (hashcli.scan_numpy), at the speed of memory.

A block is taken in tiles: the first look at a tile, from memory, sums it for the checksum (hashcli.checksums), and by
the second, which compares it with each query, it lies in the first-level cache. What depends on the processor is only
how eight slots are compared and how words are added; everything else is plain C. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#define X86 1
#include <immintrin.h>
#endif

enum { SEGMENT = 128, TILE = 8 * SEGMENT, MOST_WORDS = 16 };

static const uint64_t FACTOR = 0x9E3779B97F4A7C15; /* of hashcli.checksums */

/* Processors foresee no reads beyond the page that they are in. */
#define ASK_AHEAD(words) __builtin_prefetch((const char *)(words) + 8192)

/* In LMDB's map a word may start at any even address. */
typedef uint64_t __attribute__((aligned(1), may_alias)) word;

/* Bit i of marks: the code of slot i differs from the query in fewer than `limit` bits. Whole bytes only: n is a
   multiple of 8. `stride` words lie between the planes. */
typedef void below_function(const word *words, Py_ssize_t stride, int n_words, const word *query, Py_ssize_t n,
                            int64_t limit, uint8_t *marks);

/* The sum of n words, modulo 2**64. */
typedef uint64_t total_function(const word *words, Py_ssize_t n);

/* The constant 1 lets compilers drop the loop over words. */
#define DEFINE_BELOW(name, attribute, eight)                                                                  \
    attribute static void name(const word *words, Py_ssize_t stride, int n_words, const word *query,          \
                               Py_ssize_t n, int64_t limit, uint8_t *marks)                                   \
    {                                                                                                         \
        if (n_words == 1)                                                                                     \
            for (Py_ssize_t i = 0; i < n; i += 8)                                                             \
                marks[i / 8] = eight(words + i, stride, 1, query, limit);                                     \
        else                                                                                                  \
            for (Py_ssize_t i = 0; i < n; i += 8)                                                             \
                marks[i / 8] = eight(words + i, stride, n_words, query, limit);                               \
    }

/* Compilers make vectors of it. */
#define DEFINE_TOTAL(name, attribute)                                                                         \
    attribute static uint64_t name(const word *words, Py_ssize_t n)                                           \
    {                                                                                                         \
        uint64_t total = 0;                                                                                   \
        for (Py_ssize_t i = 0; i < n; i += 8)                                                                 \
            ASK_AHEAD(words + i);                                                                             \
        for (Py_ssize_t i = 0; i < n; i++)                                                                    \
            total += words[i];                                                                                \
        return total;                                                                                         \
    }

#define DEFINE_EIGHT_SCALAR(name, attribute)                                                                  \
    attribute static inline uint8_t name(const word *words, Py_ssize_t stride, int n_words, const word *query, \
                                         int64_t limit)                                                       \
    {                                                                                                         \
        int sums[8] = {0}, byte = 0;                                                                          \
        for (int w = 0; w < n_words; w++)                                                                     \
            for (int j = 0; j < 8; j++)                                                                       \
                sums[j] += __builtin_popcountll(words[w * stride + j] ^ query[w]);                            \
        for (int j = 0; j < 8; j++)                                                                           \
            byte |= (sums[j] < limit) << j;                                                                   \
        return (uint8_t)byte;                                                                                 \
    }

DEFINE_EIGHT_SCALAR(eight_plain, )
DEFINE_BELOW(below_plain, , eight_plain)
DEFINE_TOTAL(total_plain, )

#if X86
#define POPCNT __attribute__((target("popcnt")))
#define AVX2 __attribute__((target("avx2")))
#define AVX512 __attribute__((target("avx512f,avx512bw")))
#define VPOPCNT __attribute__((target("avx512f,avx512bw,avx512vpopcntdq")))

DEFINE_EIGHT_SCALAR(eight_popcnt, POPCNT)
DEFINE_BELOW(below_popcnt, POPCNT, eight_popcnt)

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
                                      int64_t limit)
{
    __m256i ones = _mm256_setzero_si256();
    for (int w = 0; w < n_words; w++) {
        __m256i v = _mm256_loadu_si256((const __m256i *)(words + w * stride));
        v = _mm256_xor_si256(v, _mm256_set1_epi64x((long long)query[w]));
        ones = _mm256_add_epi8(ones, byte_ones_avx2(v));
    }
    __m256i near = _mm256_cmpgt_epi64(_mm256_set1_epi64x(limit), _mm256_sad_epu8(ones, _mm256_setzero_si256()));
    return (unsigned)_mm256_movemask_pd(_mm256_castsi256_pd(near));
}

AVX2 static inline uint8_t eight_avx2(const word *words, Py_ssize_t stride, int n_words, const word *query,
                                      int64_t limit)
{
    unsigned low = four_avx2(words, stride, n_words, query, limit);
    return (uint8_t)(low | four_avx2(words + 4, stride, n_words, query, limit) << 4);
}

DEFINE_BELOW(below_avx2, AVX2, eight_avx2)
DEFINE_TOTAL(total_avx2, AVX2)

AVX512 static inline __m512i byte_ones_avx512(__m512i v)
{
    const __m512i table = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
    const __m512i half = _mm512_set1_epi8(15);
    __m512i low = _mm512_shuffle_epi8(table, _mm512_and_si512(v, half));
    __m512i high = _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(v, 4), half));
    return _mm512_add_epi8(low, high);
}

AVX512 static inline uint8_t eight_avx512(const word *words, Py_ssize_t stride, int n_words, const word *query,
                                          int64_t limit)
{
    __m512i ones = _mm512_setzero_si512();
    for (int w = 0; w < n_words; w++) {
        __m512i v = _mm512_xor_si512(_mm512_loadu_si512(words + w * stride), _mm512_set1_epi64((long long)query[w]));
        ones = _mm512_add_epi8(ones, byte_ones_avx512(v));
    }
    return _mm512_cmplt_epi64_mask(_mm512_sad_epu8(ones, _mm512_setzero_si512()), _mm512_set1_epi64(limit));
}

DEFINE_BELOW(below_avx512, AVX512, eight_avx512)

VPOPCNT static inline uint8_t eight_vpopcnt(const word *words, Py_ssize_t stride, int n_words, const word *query,
                                            int64_t limit)
{
    __m512i sum = _mm512_setzero_si512();
    for (int w = 0; w < n_words; w++) {
        __m512i v = _mm512_xor_si512(_mm512_loadu_si512(words + w * stride), _mm512_set1_epi64((long long)query[w]));
        sum = _mm512_add_epi64(sum, _mm512_popcnt_epi64(v));
    }
    return _mm512_cmplt_epi64_mask(sum, _mm512_set1_epi64(limit));
}

DEFINE_BELOW(below_vpopcnt, VPOPCNT, eight_vpopcnt)
#endif

static const struct kernel {
    const char *name;
    below_function *below;
    total_function *total;
} kernels[] = {
#if X86
    {"c-avx512-vpopcnt", below_vpopcnt, total_avx2},
    {"c-avx512", below_avx512, total_avx2},
    {"c-avx2", below_avx2, total_avx2},
    {"c-popcount", below_popcnt, total_plain},
#endif
    {"c-plain", below_plain, total_plain},
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

struct find {
    int64_t slot;
    int32_t query, distance;
};

/* A search under way; Python holds it as a capsule. */
struct search {
    const struct kernel *kernel;
    Py_ssize_t n_words, n_queries, n_bins, k;
    uint64_t *queries;            /* rows of n_words words */
    int64_t *limits, *histograms; /* per query; rows of n_bins */
    struct find *finds;
    Py_ssize_t n_finds, room;
};

static const char CAPSULE[] = "hashcli._scan.search";

/* Keep slot `slot` at distance d; returns the query's limit, lowered to the k-th distance once k slots are known.
   *inside counts those kept below the limit. */
static int64_t keep(struct search *s, Py_ssize_t q, int64_t slot, int d, int64_t *inside)
{
    int64_t limit = s->limits[q], *histogram = s->histograms + q * s->n_bins;
    s->finds[s->n_finds++] = (struct find){slot, (int32_t)q, d};
    if (!s->k)
        return limit;
    histogram[d]++;
    for (++*inside; *inside >= s->k; *inside -= histogram[limit])
        limit--;
    return s->limits[q] = limit;
}

static int distance(const word *words, Py_ssize_t stride, int n_words, const word *query)
{
    int sum = 0;
    for (int w = 0; w < n_words; w++)
        sum += __builtin_popcountll(words[w * stride] ^ query[w]);
    return sum;
}

/* Compare a tile of n <= TILE slots, whose planes are `stride` words apart, with query q; 0 when memory ran out. */
static int compare(struct search *s, Py_ssize_t q, const word *words, Py_ssize_t stride, Py_ssize_t n, int64_t slot,
                   const uint8_t *live)
{
    uint64_t marks[TILE / 64] = {0};
    const word *query = s->queries + q * s->n_words;
    int n_words = (int)s->n_words;
    Py_ssize_t whole = n - n % 8;
    int64_t limit = s->limits[q], inside = -1;

    s->kernel->below(words, stride, n_words, query, whole, limit, (uint8_t *)marks);
    for (Py_ssize_t i = whole; i < n; i++)
        if (distance(words + i, stride, n_words, query) < limit)
            ((uint8_t *)marks)[i / 8] |= (uint8_t)(1 << i % 8);
    for (Py_ssize_t m = 0; m <= (n - 1) / 64; m++)
        for (uint64_t left = marks[m]; left; left &= left - 1) {
            Py_ssize_t i = m * 64 + __builtin_ctzll(left);
            int d = distance(words + i, stride, n_words, query);
            if (d >= limit || (live && !live[i]))
                continue;
            if (inside < 0) { /* summed up, and room made, only where a tile has something near */
                inside = 0;
                for (int64_t below = 0; below < limit; below++)
                    inside += s->histograms[q * s->n_bins + below];
                if (s->room - s->n_finds < n) {
                    Py_ssize_t room = 2 * s->room + TILE;
                    struct find *finds = realloc(s->finds, (size_t)room * sizeof *finds);
                    if (!finds)
                        return 0;
                    s->finds = finds, s->room = room;
                }
            }
            limit = keep(s, q, slot + i, d, &inside);
        }
    return 1;
}

/* A whole block of n slots, its checksums into `sums`; 0 when memory ran out. */
static int run(struct search *s, const word *words, Py_ssize_t n, int64_t slot, const uint8_t *live, uint64_t *sums)
{
    /* one query need not find the tile in the cache again: the shorter, the better reads and sums overlap */
    Py_ssize_t tile = s->n_queries > 1 ? TILE : SEGMENT;
    uint64_t factor = 1;
    memset(sums, 0, (size_t)s->n_words * sizeof *sums);
    for (Py_ssize_t start = 0; start < n; start += tile) {
        Py_ssize_t end = n - start < tile ? n : start + tile;
        for (Py_ssize_t segment = start; segment < end; segment += SEGMENT, factor *= FACTOR)
            for (Py_ssize_t w = 0; w < s->n_words; w++) {
                Py_ssize_t length = end - segment < SEGMENT ? end - segment : SEGMENT;
                uint64_t total = s->kernel->total(words + w * n + segment, length);
                sums[w] += (total ^ total >> 32) * factor;
            }
        for (Py_ssize_t q = 0; q < s->n_queries; q++)
            if (!compare(s, q, words + start, n, end - start, slot + start, live ? live + start : NULL))
                return 0;
    }
    return 1;
}

static void dispose(struct search *s)
{
    if (s) {
        free(s->queries);
        free(s->limits);
        free(s->histograms);
        free(s->finds);
        free(s);
    }
}

static void destroy(PyObject *capsule) { dispose(PyCapsule_GetPointer(capsule, CAPSULE)); }

static void *copied(const Py_buffer *from)
{
    void *to = malloc(from->len ? (size_t)from->len : 1);
    return to ? memcpy(to, from->buf, (size_t)from->len) : NULL;
}

static PyObject *start(PyObject *module, PyObject *args)
{
    (void)module;
    Py_buffer queries = {0};
    long long limit;
    PyObject *result = NULL;
    const char *name;
    struct search *s = calloc(1, sizeof *s);
    if (!s)
        return PyErr_NoMemory();
    if (!PyArg_ParseTuple(args, "sny*Ln", &name, &s->n_words, &queries, &limit, &s->k))
        goto done;
    for (int i = 0; i < N_KERNELS; i++)
        if (!strcmp(name, kernels[i].name) && supported(&kernels[i]))
            s->kernel = &kernels[i];
    s->n_queries = s->n_words > 0 ? queries.len / 8 / s->n_words : 0;
    s->n_bins = 64 * s->n_words + 1;
    if (!s->kernel || s->n_words < 1 || s->n_words > MOST_WORDS || s->k < 0 || s->n_queries < 1 ||
        s->n_queries > INT32_MAX || queries.len != s->n_queries * s->n_words * 8) {
        PyErr_Format(PyExc_ValueError, "no such kernel here, or queries that do not fit: %s", name);
        goto done;
    }
    s->queries = copied(&queries);
    s->limits = malloc((size_t)s->n_queries * sizeof *s->limits);
    for (Py_ssize_t q = 0; s->limits && q < s->n_queries; q++)
        s->limits[q] = limit;
    s->histograms = calloc((size_t)(s->n_queries * s->n_bins) + 1, sizeof *s->histograms);
    s->finds = malloc(TILE * sizeof *s->finds), s->room = TILE;
    if (!s->queries || !s->limits || !s->histograms || !s->finds)
        PyErr_NoMemory();
    else
        result = PyCapsule_New(s, CAPSULE, destroy);
done:
    if (!result)
        dispose(s);
    PyBuffer_Release(&queries);
    return result;
}

static PyObject *block(PyObject *module, PyObject *const *args, Py_ssize_t n_args)
{
    (void)module;
    Py_buffer words = {0}, live = {0};
    PyObject *result = NULL;
    uint64_t sums[MOST_WORDS];
    struct search *s = n_args == 4 ? PyCapsule_GetPointer(args[0], CAPSULE) : NULL;
    if (!s) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_TypeError, "block takes a search, words, the first slot and live");
        return NULL;
    }
    long long slot = PyLong_AsLongLong(args[2]);
    if (PyErr_Occurred() || PyObject_GetBuffer(args[1], &words, PyBUF_SIMPLE) < 0)
        return NULL;
    if (args[3] != Py_None && PyObject_GetBuffer(args[3], &live, PyBUF_SIMPLE) < 0)
        goto done;
    Py_ssize_t n = words.len / 8 / s->n_words;
    if (words.len != 8 * s->n_words * n || (live.obj && live.len != n)) {
        PyErr_SetString(PyExc_ValueError, "words and live do not fit together");
        goto done;
    }
    int ok;
    Py_BEGIN_ALLOW_THREADS
    ok = run(s, words.buf, n, slot, live.obj ? live.buf : NULL, sums);
    Py_END_ALLOW_THREADS
    result = ok ? PyBytes_FromStringAndSize((const char *)sums, 8 * s->n_words) : PyErr_NoMemory();
done:
    PyBuffer_Release(&words);
    PyBuffer_Release(&live);
    return result;
}

/* Of zlib.crc32. */
static uint32_t crc_table[256];

static void fill_crc_table(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320 : 0);
        crc_table[byte] = crc;
    }
}

static uint32_t crc32_of(uint32_t crc, const uint8_t *bytes, Py_ssize_t n)
{
    crc = ~crc;
    for (Py_ssize_t i = 0; i < n; i++)
        crc = crc >> 8 ^ crc_table[(crc ^ bytes[i]) & 0xFF];
    return ~crc;
}

/* As in hashcli.block_header; hashcli.blocks tells what else a header may be, and what is wrong with it. */
struct header {
    char magic[4];
    uint32_t crc;
    uint16_t version, planes;
    uint32_t slots, removed;
    uint64_t sums[MOST_WORDS];
} __attribute__((packed));

/* Is this, `length` bytes long, the header of block `number` with `slots` slots, none of which was removed? */
static int usual(const uint8_t *bytes, Py_ssize_t length, int64_t number, Py_ssize_t n_words, int64_t slots)
{
    const Py_ssize_t checked = offsetof(struct header, version), fixed = sizeof(struct header);
    struct header h;
    uint8_t key[8];
    memcpy(&h, bytes, sizeof h);
    for (int i = 0; i < 8; i++)
        key[i] = (uint8_t)(number >> 8 * (7 - i));
    return !memcmp(h.magic, "HCBK", 4) && h.version == 1 && h.planes == n_words && h.slots == slots && !h.removed &&
           h.crc == crc32_of(crc32_of(0, key, 8), bytes + checked, fixed - checked) && !bytes[fixed] &&
           !memcmp(bytes + fixed, bytes + fixed + 1, (size_t)(length - fixed - 1)); /* zeros up to the planes */
}

static PyObject *stored(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *capsule, *result = NULL;
    Py_buffer value;
    Py_ssize_t length, n;
    long long number, slot;
    if (!PyArg_ParseTuple(args, "OLLny*n", &capsule, &number, &slot, &n, &value, &length))
        return NULL;
    struct search *s = PyCapsule_GetPointer(capsule, CAPSULE);
    const uint8_t *bytes = value.buf;
    if (s && length > (Py_ssize_t)sizeof(struct header) && value.len == length + 8 * s->n_words * n &&
        usual(bytes, length, number, s->n_words, n)) {
        uint64_t sums[MOST_WORDS];
        int ok;
        Py_BEGIN_ALLOW_THREADS
        ok = run(s, (const word *)(bytes + length), n, slot, NULL, sums);
        Py_END_ALLOW_THREADS
        int same = !memcmp(bytes + offsetof(struct header, sums), sums, 8 * (size_t)s->n_words);
        result = ok ? PyBool_FromLong(same) : PyErr_NoMemory();
    } else if (s) {
        Py_INCREF(Py_None);
        result = Py_None;
    }
    PyBuffer_Release(&value);
    return result;
}

/* Put the finds in order of query, distance and slot, the first k of each query at most, and note where each query's
   end; returns how many there are, or -1 when memory ran out. */
static Py_ssize_t in_order(const struct search *s, int64_t *slots, int64_t *distances, int64_t *ends)
{
    Py_ssize_t n_places = s->n_queries * s->n_bins, n = 0;
    Py_ssize_t *places = calloc((size_t)n_places + 1, sizeof *places);
    if (!places)
        return -1;
    for (const struct find *f = s->finds; f < s->finds + s->n_finds; f++)
        places[f->query * s->n_bins + f->distance]++;
    for (Py_ssize_t q = 0; q < s->n_queries; q++) {
        Py_ssize_t start = n, end = s->k ? start + s->k : PY_SSIZE_T_MAX;
        for (Py_ssize_t *place = places + q * s->n_bins; place < places + (q + 1) * s->n_bins; place++) {
            Py_ssize_t here = *place;
            *place = n; /* of the first; from the last on there is no room */
            n = here < end - n ? n + here : end;
        }
        ends[q] = n;
    }
    for (const struct find *f = s->finds; f < s->finds + s->n_finds; f++) { /* they came in the order of slots */
        Py_ssize_t place = places[f->query * s->n_bins + f->distance]++;
        if (place < ends[f->query])
            slots[place] = f->slot, distances[place] = f->distance;
    }
    free(places);
    return n;
}

static PyObject *result(PyObject *module, PyObject *capsule)
{
    (void)module;
    struct search *s = PyCapsule_GetPointer(capsule, CAPSULE);
    if (!s)
        return NULL;
    PyObject *slots = PyByteArray_FromStringAndSize(NULL, 8 * s->n_finds);
    PyObject *distances = PyByteArray_FromStringAndSize(NULL, 8 * s->n_finds);
    PyObject *ends = PyByteArray_FromStringAndSize(NULL, 8 * s->n_queries);
    if (slots && distances && ends) {
        if (in_order(s, (int64_t *)PyByteArray_AsString(slots), (int64_t *)PyByteArray_AsString(distances),
                     (int64_t *)PyByteArray_AsString(ends)) >= 0)
            return Py_BuildValue("NNN", slots, distances, ends);
        PyErr_NoMemory();
    }
    Py_XDECREF(slots);
    Py_XDECREF(distances);
    Py_XDECREF(ends);
    return NULL;
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
    {"start", start, METH_VARARGS, "A search with a kernel: n_words, queries, limit, k (0: all)."},
    {"block", (PyCFunction)(void (*)(void))block, METH_FASTCALL, "A search takes in a block -> the block's sums."},
    {"stored", stored, METH_VARARGS,
     "A search takes in a block as it is stored: its number, first slot, slots, value, bytes of its header.\n\n"
     "None: it is not the usual kind, and was not taken in; else whether its words have the sums in its header."},
    {"result", result, METH_O, "What a search has found: slots, distances, and where each query's end, as 64-bit words."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "hashcli._scan", NULL, 0, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__scan(void)
{
    fill_crc_table();
    return PyModule_Create(&module);
}
