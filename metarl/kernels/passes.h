/* Passes of a network through all of its layers, for a strip of states at a time: what one layer writes the next one
   reads from the cache, and the kept activations come from memory once.

   `sizes` are the states, the depth, whether the activation is tanh (else relu), and the sizes of the layers: depth + 1
   of them. Inputs, their derivatives (moved) and deltas are [states, size]; matrices, tangents and what is shaped like
   them [out, in + 1], the bias last. */

/* result = a'(z) given, with a'(z) read off `output` = a(z), in rows of `width` numbers of which `size` count. */
static TARGET void NAME(slope)(long count, long size, long width, int tanh, const REAL *given, const REAL *output,
                               REAL *result)
{
    /* Without padding a strip is one line. */
    const long lines = width == size ? 1 : count, length = width == size ? count * size : size;
    for (long line = 0; line < lines; line++, given += width, output += size, result += size)
        if (tanh)
            for (long j = 0; j < length; j++)
                result[j] = given[j] * (1 - output[j] * output[j]);
        else
            for (long j = 0; j < length; j++)
                result[j] = output[j] <= 0 ? 0 : given[j];
}

/* result = given, or its relu, as above. */
static TARGET void NAME(unpad)(long count, long size, long width, int relu, const REAL *given, REAL *result)
{
    const long lines = width == size ? 1 : count, length = width == size ? count * size : size;
    for (long line = 0; line < lines; line++, given += width, result += size)
        if (relu)
            for (long j = 0; j < length; j++)
                result[j] = given[j] < 0 ? 0 : given[j];
        else
            memcpy(result, given, length * sizeof(REAL));
}

/* The sums over the states of left right^T, and of left alone, which become one layer's gradient. The vectors run along
   the side that fills them better. */
typedef struct {
    long out, in, rows, columns, width;
    int along_out;
    REAL *sum, *bias;
} SUMS;

static TARGET SUMS NAME(sums_of)(long out, long in, REAL *memory)
{
    const int along_out = NAME(padded)(out) * in < NAME(padded)(in) * out;
    const long columns = along_out ? out : in, rows = along_out ? in : out, width = NAME(padded)(columns);
    memset(memory, 0, (rows * width + out) * sizeof(REAL));
    return (SUMS){out, in, rows, columns, width, along_out, memory, memory + rows * width};
}

/* How many numbers the memory of sums_of has at most. */
static TARGET long NAME(sums_size)(long out, long in)
{
    return NAME(padded)(out) * NAME(padded)(in) + out;
}

/* Adds a strip, and `more_left` `more_right`^T where they are; `panel` is room for a strip. */
static TARGET void NAME(add)(SUMS *to, long count, const REAL *left, const REAL *right, const REAL *more_left,
                             const REAL *more_right, REAL *panel)
{
    const REAL *along[2] = {to->along_out ? left : right, to->along_out ? more_left : more_right};
    const REAL *across[2] = {to->along_out ? right : left, to->along_out ? more_right : more_left};
    for (int i = 0; i < 2 && along[i]; i++) {
        const REAL *source = along[i];
        if (to->width != to->columns) {
            NAME(pack)(panel, count, to->columns, to->width, source, to->columns);
            source = panel;
        }
        const FACTORS of = {across[i], 1, to->rows, source, count};
        NAME(multiply)(to->rows, to->width, of, to->sum, to->width, to->sum);
    }
    REAL bias[to->out];
    memset(bias, 0, sizeof(bias));
    for (long s = 0; s < count; s++)
        for (long i = 0; i < to->out; i++)
            bias[i] += left[s * to->out + i];
    for (long i = 0; i < to->out; i++)
        to->bias[i] += bias[i];
}

static TARGET void NAME(write)(const SUMS *from, REAL *result)
{
    for (long i = 0; i < from->out; i++) {
        REAL *row = result + i * (from->in + 1);
        for (long j = 0; j < from->in; j++)
            row[j] = from->along_out ? from->sum[j * from->width + i] : from->sum[i * from->width + j];
        row[from->in] = from->bias[i];
    }
}

/* sizes: states, in, out, relu or nothing. tensors: x, M, result = a(W x + b). */
TARGET int NAME(layer)(const long *sizes, REAL *const *tensors)
{
    const long states = sizes[0], in = sizes[1], out = sizes[2], width = NAME(padded)(out);
    const REAL *x = tensors[0], *matrix = tensors[1];
    REAL *panel = malloc((in + 1 + STRIP) * width * sizeof(REAL));
    if (!panel)
        return 1;
    REAL *start = panel + in * width, *made = start + width;
    NAME(pack_transposed)(panel, in, out, width, matrix, in + 1);
    NAME(pack_transposed)(start, 1, out, width, matrix + in, in + 1);
    for (long s = 0; s < states; s += STRIP) {
        const long count = states - s < STRIP ? states - s : STRIP;
        const FACTORS of = {x + s * in, in, 1, panel, in};
        NAME(multiply)(count, width, of, start, 0, made);
        NAME(unpad)(count, out, width, (int)sizes[3], made, tensors[2] + s * out);
    }
    free(panel);
    return 0;
}

/* The widest layer, in whole vectors. */
static TARGET long NAME(widest)(const long *sizes)
{
    long most = 0;
    for (long i = 0; i <= sizes[1]; i++)
        most = sizes[3 + i] > most ? sizes[3 + i] : most;
    return NAME(padded)(most);
}

/* tensors: inputs, matrices, tangents, moved. The derivative of every layer's output:
   moved[i] = a'(z_i) (T_i x_i + W_i moved[i - 1]), without a' at the top. */
TARGET int NAME(forward_moved)(const long *sizes, REAL *const *tensors)
{
    const long states = sizes[0], depth = sizes[1], *size = sizes + 3, widest = NAME(widest)(sizes);
    REAL *const *inputs = tensors, *const *matrices = inputs + depth, *const *tangents = matrices + depth;
    REAL *const *moved = tangents + depth;
    const int tanh = (int)sizes[2];
    long numbers = STRIP * widest;
    for (long i = 0; i < depth; i++)
        numbers += (2 * size[i] + 1) * NAME(padded)(size[i + 1]);
    REAL *made = malloc(numbers * sizeof(REAL));
    if (!made)
        return 1;
    REAL *panel = made + STRIP * widest;
    const REAL *starts[depth], *first[depth], *second[depth];
    for (long i = 0; i < depth; i++) {
        const long in = size[i], out = size[i + 1], width = NAME(padded)(out);
        starts[i] = panel;
        NAME(pack_transposed)(panel, 1, out, width, tangents[i] + in, in + 1);
        first[i] = panel += width;
        NAME(pack_transposed)(panel, in, out, width, tangents[i], in + 1);
        second[i] = panel += in * width;
        if (i)
            NAME(pack_transposed)(panel, in, out, width, matrices[i], in + 1);
        panel += in * width;
    }
    for (long s = 0; s < states; s += STRIP) {
        const long count = states - s < STRIP ? states - s : STRIP;
        for (long i = 0; i < depth; i++) {
            const long in = size[i], out = size[i + 1], width = NAME(padded)(out);
            const FACTORS direct = {inputs[i] + s * in, in, 1, first[i], in};
            NAME(multiply)(count, width, direct, starts[i], 0, made);
            if (i) {
                const FACTORS carried = {moved[i - 1] + s * in, in, 1, second[i], in};
                NAME(multiply)(count, width, carried, made, width, made);
            }
            if (i + 1 < depth)
                NAME(slope)(count, out, width, tanh, made, inputs[i + 1] + s * out, moved[i] + s * out);
            else
                NAME(unpad)(count, out, width, 0, made, moved[i] + s * out);
        }
    }
    free(made);
    return 0;
}

/* The memory of a pass backwards, and what it begins with. */
typedef struct {
    void *all;
    SUMS *sums;
    REAL *zeros, *made, *delta, *delta_moved, *strip, *panels;
} BACKWARD;

/* Of so many products a layer; `all` is NULL where there is no memory. */
static TARGET BACKWARD NAME(begin)(const long *sizes, int products)
{
    const long depth = sizes[1], *size = sizes + 3, widest = NAME(widest)(sizes);
    long numbers = (4 * STRIP + 1) * widest;
    for (long i = 0; i < depth; i++)
        numbers += products * size[i + 1] * NAME(padded)(size[i]) + NAME(sums_size)(size[i + 1], size[i]);
    BACKWARD result = {.all = malloc(depth * sizeof(SUMS) + numbers * sizeof(REAL))};
    if (!result.all)
        return result;
    result.sums = result.all;
    result.zeros = (REAL *)(result.sums + depth);
    result.made = result.zeros + widest;
    result.delta = result.made + STRIP * widest;
    result.delta_moved = result.delta + STRIP * widest;
    result.strip = result.delta_moved + STRIP * widest;
    REAL *next = result.strip + STRIP * widest;
    memset(result.zeros, 0, widest * sizeof(REAL));
    for (long i = 0; i < depth; i++) {
        result.sums[i] = NAME(sums_of)(size[i + 1], size[i], next);
        next += NAME(sums_size)(size[i + 1], size[i]);
    }
    result.panels = next;
    return result;
}

static TARGET int NAME(end)(BACKWARD *pass, long depth, REAL *const *results)
{
    for (long i = 0; i < depth; i++)
        NAME(write)(&pass->sums[i], results[i]);
    free(pass->all);
    return 0;
}

/* tensors: inputs, matrices, the top delta; carried, gradients.
   carried[i - 1] = W_i^T delta[i], delta[i - 1] = a'(z) carried[i - 1], and gradient[i] = the sum of delta[i] [x_i 1]^T.
   Where carried is NULL it is not kept. */
TARGET int NAME(backward)(const long *sizes, REAL *const *tensors)
{
    const long states = sizes[0], depth = sizes[1], *size = sizes + 3;
    REAL *const *inputs = tensors, *const *matrices = inputs + depth, *const *top = matrices + depth;
    REAL *const *carried = top + 1, *const *gradients = carried + depth - 1;
    const int tanh = (int)sizes[2];
    BACKWARD pass = NAME(begin)(sizes, 1);
    if (!pass.all)
        return 1;
    REAL *panels[depth], *next = pass.panels;
    for (long i = 1; i < depth; i++) {
        panels[i] = next;
        NAME(pack)(next, size[i + 1], size[i], NAME(padded)(size[i]), matrices[i], size[i] + 1);
        next += size[i + 1] * NAME(padded)(size[i]);
    }
    for (long s = 0; s < states; s += STRIP) {
        const long count = states - s < STRIP ? states - s : STRIP;
        const REAL *delta = *top + s * size[depth];
        for (long i = depth - 1; i > 0; i--) {
            const long in = size[i], out = size[i + 1], width = NAME(padded)(in);
            const REAL *x = inputs[i] + s * in;
            NAME(add)(&pass.sums[i], count, delta, x, 0, 0, pass.strip);
            const FACTORS of = {delta, out, 1, panels[i], out};
            NAME(multiply)(count, width, of, pass.zeros, 0, pass.made);
            if (carried[i - 1])
                NAME(unpad)(count, in, width, 0, pass.made, carried[i - 1] + s * in);
            NAME(slope)(count, in, width, tanh, pass.made, x, pass.delta);
            delta = pass.delta;
        }
        NAME(add)(&pass.sums[0], count, delta, inputs[0] + s * size[0], 0, 0, pass.strip);
    }
    return NAME(end)(&pass, depth, gradients);
}

/* tensors: inputs, matrices, the top delta, carried, tangents, moved, the top delta's derivative; products.
   The derivative of backward along the tangents: delta_moved[i - 1] = a'(z) (T_i^T delta[i] + W_i^T delta_moved[i])
   + a''(z) z_moved carried[i - 1], where for tanh a''(z) z_moved = -2 x_i moved[i - 1] and for relu 0, and
   product[i] = the sum of delta_moved[i] [x_i 1]^T + delta[i] [moved[i - 1] 0]^T. */
TARGET int NAME(backward_moved)(const long *sizes, REAL *const *tensors)
{
    const long states = sizes[0], depth = sizes[1], *size = sizes + 3;
    REAL *const *inputs = tensors, *const *matrices = inputs + depth, *const *top = matrices + depth;
    REAL *const *carried = top + 1, *const *tangents = carried + depth - 1, *const *moved = tangents + depth;
    REAL *const *top_moved = moved + depth - 1, *const *products = top_moved + 1;
    const int tanh = (int)sizes[2];
    BACKWARD pass = NAME(begin)(sizes, 2);
    if (!pass.all)
        return 1;
    REAL *panels[depth], *next = pass.panels;
    for (long i = 1; i < depth; i++) {
        const long in = size[i], out = size[i + 1], width = NAME(padded)(in);
        panels[i] = next;
        NAME(pack)(next, out, in, width, tangents[i], in + 1);
        NAME(pack)(next + out * width, out, in, width, matrices[i], in + 1);
        next += 2 * out * width;
    }
    for (long s = 0; s < states; s += STRIP) {
        const long count = states - s < STRIP ? states - s : STRIP;
        const REAL *delta = *top + s * size[depth], *delta_moved = *top_moved + s * size[depth];
        for (long i = depth - 1; i > 0; i--) {
            const long in = size[i], out = size[i + 1], width = NAME(padded)(in);
            const REAL *x = inputs[i] + s * in, *x_moved = moved[i - 1] + s * in, *back = carried[i - 1] + s * in;
            NAME(add)(&pass.sums[i], count, delta_moved, x, delta, x_moved, pass.strip);
            const FACTORS direct = {delta, out, 1, panels[i], out};
            const FACTORS through = {delta_moved, out, 1, panels[i] + out * width, out};
            NAME(multiply)(count, width, direct, pass.zeros, 0, pass.made);
            NAME(multiply)(count, width, through, pass.made, width, pass.made);
            NAME(slope)(count, in, width, tanh, pass.made, x, pass.delta_moved);
            for (long j = 0; tanh && j < count * in; j++)
                pass.delta_moved[j] -= 2 * x[j] * back[j] * x_moved[j];
            if (i > 1) /* below, the delta itself is not asked for */
                NAME(slope)(count, in, in, tanh, back, x, pass.delta);
            delta = pass.delta;
            delta_moved = pass.delta_moved;
        }
        NAME(add)(&pass.sums[0], count, delta_moved, inputs[0] + s * size[0], 0, 0, pass.strip);
    }
    return NAME(end)(&pass, depth, products);
}
