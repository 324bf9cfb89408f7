/* Products of two matrices, added to a third: a tile at a time, as many numbers as the registers hold. */

typedef REAL NAME(vector) __attribute__((vector_size(BYTES), aligned(sizeof(REAL)), may_alias));

/* A product's factors: element (i, p) of the left one at left[i * row + p * step]; the right one is `count` rows of a
   whole number of vectors. */
typedef struct {
    const REAL *left;
    long row, step;
    const REAL *right;
    long count;
} FACTORS;

/* result[i][j] = start[i][j] + sum_p left[i][p] right[p][j]; `width` numbers from row to row of right and result. */
INLINE void NAME(tile)(const int rows, const int vectors, FACTORS of, long width, const REAL *start, long start_row,
                       REAL *result)
{
    VECTOR sum[12][VECTORS];
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < vectors; j++)
            sum[i][j] = (VECTOR){0};
    for (long p = of.count; p > 0; p--, of.left += of.step, of.right += width) {
        VECTOR across[VECTORS];
        for (int j = 0; j < vectors; j++)
            across[j] = *(const VECTOR *)(of.right + j * LANES);
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < vectors; j++)
                sum[i][j] += of.left[i * of.row] * across[j];
    }
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < vectors; j++)
            *(VECTOR *)(result + i * width + j * LANES) =
                *(const VECTOR *)(start + i * start_row + j * LANES) + sum[i][j];
}

/* The same for any number of rows, `vectors` wide. */
INLINE void NAME(rows)(long rows, const int vectors, FACTORS of, long width, const REAL *start, long start_row,
                       REAL *result)
{
    while (rows > 0) {
        int taken;
#define TILE(n) (NAME(tile)(n, vectors, of, width, start, start_row, result), taken = n)
        if (rows >= 12 && 2 * vectors <= VECTORS)
            TILE(12);
        else if (rows >= 6)
            TILE(6);
        else if (rows >= 4)
            TILE(4);
        else if (rows >= 2)
            TILE(2);
        else
            TILE(1);
#undef TILE
        rows -= taken;
        start += taken * start_row;
        result += taken * width;
        of.left += taken * of.row;
    }
}

/* The same for any number of columns: `width` is a whole number of vectors. A few of them at a time, so that the right
   factor's stay in the first-level cache while the rows go by. */
static TARGET void NAME(multiply)(long rows, long width, FACTORS of, const REAL *start, long start_row, REAL *result)
{
    for (long left = width / LANES; left > 0; left -= VECTORS) {
        switch (left < VECTORS ? left : VECTORS) {
#define CASE(n)                                                                                                        \
    case n:                                                                                                            \
        NAME(rows)(rows, n, of, width, start, start_row, result);                                                      \
        break
            CASE(1);
            CASE(2);
#if VECTORS > 2
            CASE(3);
            CASE(4);
#endif
#undef CASE
        }
        start += VECTORS * LANES;
        result += VECTORS * LANES;
        of.right += VECTORS * LANES;
    }
}

INLINE long NAME(padded)(long count) { return (count + LANES - 1) / LANES * LANES; }

/* `panel` becomes `rows` rows of `width` numbers, of which the first `columns` are those of `source`; the others 0. */
INLINE void NAME(pack)(REAL *panel, long rows, long columns, long width, const REAL *source, long source_width)
{
    for (long i = 0; i < rows; i++) {
        memcpy(panel + i * width, source + i * source_width, columns * sizeof(REAL));
        memset(panel + i * width + columns, 0, (width - columns) * sizeof(REAL));
    }
}

/* The same of the transpose of `source`. */
INLINE void NAME(pack_transposed)(REAL *panel, long rows, long columns, long width, const REAL *source,
                                  long source_width)
{
    memset(panel, 0, rows * width * sizeof(REAL));
    for (long j = 0; j < columns; j++)
        for (long i = 0; i < rows; i++)
            panel[i * width + j] = source[j * source_width + i];
}
