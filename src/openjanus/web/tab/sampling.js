// Logits to ids, as Python's engine/sampling.py has it: guidance, then temperature, top-k and top-p,
// then the Gumbel-max trick. Each operation is rounded to 32 bits, as it is there.

const f32 = Math.fround;

/** Classifier-free guidance, l_u + s (l_c - l_u); exactly l_c where s is 1. */
export function guide(cond, uncond, scale) {
  if (scale === 1) return cond;
  const s = f32(scale);
  return cond.map((value, i) => uncond[i] + f32(s * f32(value - uncond[i])));
}

/**
 * Logits over the temperature, their maximum 0; what top-k and then top-p leave out is -Infinity.
 *
 * @param {Float32Array} logits
 * @param {{temperature: number, topK?: number | null, topP?: number | null}} options
 */
export function cut(logits, { temperature, topK = null, topP = null }) {
  const most = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  const t = temperature === 0 ? 1 : f32(temperature);
  const scaled = logits.map((value) => f32(value - most) / t);
  if (topK === null && topP === null) return scaled;
  let ranked = scaled.slice().sort().reverse(); // typed arrays are sorted as numbers
  if (topK !== null) {
    const least = ranked[Math.min(topK, ranked.length) - 1];
    ranked = ranked.filter((value) => value >= least); // ids tied with the last one stay
  }
  if (topP !== null && f32(topP) < 1) ranked = ranked.slice(0, countWithin(ranked, f32(topP)));
  const least = ranked[ranked.length - 1];
  return scaled.map((value) => (value < least ? -Infinity : value));
}

/** How many of the likeliest reach a probability together; the first stays whatever it is. */
function countWithin(ranked, probability) {
  const weights = ranked.map((value) => Math.exp(value));
  // Sums have 64 bits: torch's along a row, too, and what it adds up in many lanes errs as little.
  const sum = f32(weights.reduce((a, b) => a + b, 0));
  let together = 0;
  let count = 0;
  for (; count < ranked.length; count++) {
    const share = f32(weights[count] / sum);
    together += share;
    if (count > 0 && f32(f32(together) - share) >= probability) break;
  }
  return count;
}

/** An id, argmax(logits / T + noise); where T is 0 noise is not read. */
export function sample(logits, noise, options) {
  const scaled = cut(logits, options);
  const isGreedy = options.temperature === 0;
  let best = 0;
  let most = -Infinity;
  for (let i = 0; i < scaled.length; i++) {
    const value = isGreedy ? scaled[i] : f32(scaled[i] + noise[i]);
    if (value > most) {
      best = i;
      most = value;
    }
  }
  return best;
}
