/* Products of two matrices, and sums of two products: a tile at a time, as many numbers as the registers hold. */

typedef REAL NAME(vector) __attribute__((vector_size(BYTES), aligned(sizeof(REAL)), may_alias));

/* A product's factors: element (i, p) of the left one at left[i * row + p * step], row p of the right one, which is a
   whole number of vectors wide, at right[p * width]. */
typedef struct {
    const REAL *left;
    long row, step;
    const REAL *right;
    long width, count;
} NAME(term);

/* result[i][j] = start[i][j] + the sum of the terms, for a tile that the registers hold. */
INLINE void NAME(tile)(const int rows, const int vectors, const TERM *terms, const int count, const REAL *start,
                       long start_row, REAL *result, long result_row)
{
    VECTOR sum[12][VECTORS];
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < vectors; j++)
            sum[i][j] = (VECTOR){0};
    for (int t = 0; t < count; t++) {
        const REAL *left = terms[t].left, *right = terms[t].right;
        const long row = terms[t].row, step = terms[t].step, width = terms[t].width;
        for (long p = terms[t].count; p > 0; p--, left += step, right += width) {
            VECTOR across[VECTORS];
            for (int j = 0; j < vectors; j++)
                across[j] = *(const VECTOR *)(right + j * LANES);
            for (int i = 0; i < rows; i++)
                for (int j = 0; j < vectors; j++)
                    sum[i][j] += left[i * row] * across[j];
        }
    }
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < vectors; j++)
            *(VECTOR *)(result + i * result_row + j * LANES) =
                *(const VECTOR *)(start + i * start_row + j * LANES) + sum[i][j];
}

/* The same for any number of rows, `vectors` wide. */
INLINE void NAME(rows)(long rows, const int vectors, const TERM *terms, const int count, const REAL *start,
                       long start_row, REAL *result, long result_row)
{
    TERM now[2] = {terms[0], terms[count - 1]};
    while (rows > 0) {
        int taken;
#define TILE(n)                                                                                                        \
    (NAME(tile)(n, vectors, now, count, start, start_row, result, result_row), taken = n)
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
        result += taken * result_row;
        for (int t = 0; t < count; t++)
            now[t].left += taken * now[t].row;
    }
}

/* The same for any number of columns: `width` is a whole number of vectors. */
INLINE void NAME(columns)(long rows, long width, const TERM *terms, const int count, const REAL *start, long start_row,
                          REAL *result, long result_row)
{
    TERM now[2] = {terms[0], terms[count - 1]};
    for (long left = width / LANES; left > 0; left -= VECTORS) {
        switch (left < VECTORS ? left : VECTORS) {
#define CASE(n)                                                                                                        \
    case n:                                                                                                            \
        NAME(rows)(rows, n, now, count, start, start_row, result, result_row);                                        \
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
        for (int t = 0; t < count; t++)
            now[t].right += VECTORS * LANES;
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
INLINE void NAME(pack_turned)(REAL *panel, long rows, long columns, long width, const REAL *source, long source_width)
{
    memset(panel, 0, rows * width * sizeof(REAL));
    for (long j = 0; j < columns; j++)
        for (long i = 0; i < rows; i++)
            panel[i * width + j] = source[j * source_width + i];
}
