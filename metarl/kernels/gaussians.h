/* What the Gaussians of a policy add to the passes. Sizes are the states and the actions; actions, means and their
   derivatives are [states, actions], weights of the states [states], what belongs to sigma [actions]. */

/* tensors: actions, mean, 1 / sigma, weights w; delta, log_std_gradient; score, excess, precision, spread, or NULL.
   With e = (a - mean) / sigma: score = e / sigma, excess = e^2 - 1, delta = w score, precision = w / sigma^2, and the
   sums over the states log_std_gradient = sum w excess and spread = 2 sum w e^2. */
TARGET int NAME(likelihood)(const long *sizes, REAL *const *tensors)
{
    const long states = sizes[0], actions = sizes[1];
    const REAL *taken = tensors[0], *mean = tensors[1], *inverse_std = tensors[2], *weights = tensors[3];
    REAL *delta = tensors[4], *log_std_gradient = tensors[5];
    REAL *score = tensors[6], *excess = tensors[7], *precision = tensors[8], *spread = tensors[9];
    double gradient_sum[actions], spread_sum[actions];
    for (long a = 0; a < actions; a++)
        gradient_sum[a] = spread_sum[a] = 0;
    for (long s = 0; s < states; s++) {
        const REAL w = weights[s];
        for (long a = 0; a < actions; a++) {
            const long at = s * actions + a;
            const REAL e = (taken[at] - mean[at]) * inverse_std[a], g = e * inverse_std[a], x = e * e - 1;
            delta[at] = w * g;
            gradient_sum[a] += w * x;
            if (score) {
                score[at] = g;
                excess[at] = x;
                precision[at] = w * inverse_std[a] * inverse_std[a];
                spread_sum[a] += 2 * w * e * e;
            }
        }
    }
    for (long a = 0; a < actions; a++) {
        log_std_gradient[a] = (REAL)gradient_sum[a];
        if (score)
            spread[a] = (REAL)spread_sum[a];
    }
    return 0;
}

/* tensors: score, excess, mean_moved, log_std_moved; result = score . mean_moved + excess . log_std_moved at every
   state: how log pi moves. */
TARGET int NAME(log_prob_moved)(const long *sizes, REAL *const *tensors)
{
    const long states = sizes[0], actions = sizes[1];
    const REAL *score = tensors[0], *excess = tensors[1], *mean_moved = tensors[2], *log_std_moved = tensors[3];
    REAL *result = tensors[4];
    for (long s = 0; s < states; s++) {
        REAL sum = 0;
        for (long a = 0; a < actions; a++) {
            const long at = s * actions + a;
            sum += score[at] * mean_moved[at] + excess[at] * log_std_moved[a];
        }
        result[s] = sum;
    }
    return 0;
}

/* tensors: score, excess, precision, spread, delta, weights_moved, mean_moved, log_std_moved; delta_moved,
   log_std_product. How delta and the gradient in log sigma move with the mean, log sigma and the weights:
   delta_moved = weights_moved score - 2 delta log_std_moved - precision mean_moved,
   log_std_product = sum (weights_moved excess - 2 delta mean_moved) - spread log_std_moved. */
TARGET int NAME(likelihood_moved)(const long *sizes, REAL *const *tensors)
{
    const long states = sizes[0], actions = sizes[1];
    const REAL *score = tensors[0], *excess = tensors[1], *precision = tensors[2], *spread = tensors[3];
    const REAL *delta = tensors[4], *weights_moved = tensors[5], *mean_moved = tensors[6], *log_std_moved = tensors[7];
    REAL *delta_moved = tensors[8], *log_std_product = tensors[9];
    double sum[actions];
    for (long a = 0; a < actions; a++)
        sum[a] = -spread[a] * log_std_moved[a];
    for (long s = 0; s < states; s++) {
        const REAL w = weights_moved[s];
        for (long a = 0; a < actions; a++) {
            const long at = s * actions + a;
            delta_moved[at] = w * score[at] - 2 * delta[at] * log_std_moved[a] - precision[at] * mean_moved[at];
            sum[a] += w * excess[at] - 2 * delta[at] * mean_moved[at];
        }
    }
    for (long a = 0; a < actions; a++)
        log_std_product[a] = (REAL)sum[a];
    return 0;
}

/* tensors: actions; mean and 1 / sigma of the old policy, then of the new one; log sigma_old - log sigma_new;
   log_ratio, shift. At every state log_ratio = log pi_new - log pi_old of the actions taken, and
   shift = sum ((mean_old - mean_new) / sigma_new)^2 / 2, the part of their KL divergence that depends on the state. Of
   equal policies both are 0. */
TARGET UNFUSED int NAME(compared)(const long *sizes, REAL *const *tensors)
{
    const long states = sizes[0], actions = sizes[1];
    const REAL *taken = tensors[0], *old_mean = tensors[1], *old_inverse_std = tensors[2];
    const REAL *mean = tensors[3], *inverse_std = tensors[4], *log_spread = tensors[5];
    REAL *log_ratio = tensors[6], *shift = tensors[7];
    for (long s = 0; s < states; s++) {
        REAL ratio = 0, half = 0;
        for (long a = 0; a < actions; a++) {
            const long at = s * actions + a;
            const REAL e = (taken[at] - mean[at]) * inverse_std[a];
            const REAL old = (taken[at] - old_mean[at]) * old_inverse_std[a];
            const REAL moved = (old_mean[at] - mean[at]) * inverse_std[a];
            ratio += (old - e) * (old + e) * (REAL)0.5 + log_spread[a];
            half += moved * moved * (REAL)0.5;
        }
        log_ratio[s] = ratio;
        shift[s] = half;
    }
    return 0;
}
