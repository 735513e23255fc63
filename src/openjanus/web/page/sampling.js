// Logits to ids, as Python's engine/sampling.py defines it: guidance, then temperature, top-k and
// top-p, then the Gumbel-max trick. Each operation is rounded to 32 bits, as it is there.

const f32 = Math.fround;

/** Classifier-free guidance: l_u + s (l_c - l_u); exactly l_c where s is 1. */
export function guide(cond, uncond, scale) {
  if (scale === 1) return cond;
  const s = f32(scale);
  return cond.map((value, i) => uncond[i] + f32(s * f32(value - uncond[i])));
}

/** The logits over the temperature, their maximum 0; what top-k and then top-p cut is -Infinity. */
export function cut(logits, { temperature, topK = null, topP = null }) {
  const most = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  const t = temperature === 0 ? 1 : f32(temperature);
  const kept = logits.map((value) => f32(value - most) / t);
  if (topK === null && topP === null) return kept;
  let ranked = kept.slice().sort().reverse(); // typed arrays sort by number
  if (topK !== null) {
    const least = ranked[Math.min(topK, ranked.length) - 1];
    ranked = ranked.filter((value) => value >= least);
  }
  if (topP !== null && f32(topP) < 1) {
    const weights = ranked.map((value) => Math.exp(value));
    const sum = weights.reduce((a, b) => f32(a + b), 0);
    let before = 0;
    let count = 0;
    // The likeliest stays, whatever top-p is.
    while (count < ranked.length && (count === 0 || before < f32(topP))) {
      before = f32(before + f32(weights[count] / sum));
      count++;
    }
    ranked = ranked.slice(0, count);
  }
  const least = ranked[ranked.length - 1];
  return kept.map((value) => (value < least ? -Infinity : value));
}

/** An id: argmax(logits / T + noise). Of temperature 0 the noise is not read. */
export function sample(logits, noise, options) {
  const values = cut(logits, options);
  let best = 0;
  let most = -Infinity;
  for (let i = 0; i < values.length; i++) {
    const value = options.temperature === 0 ? values[i] : f32(values[i] + noise[i]);
    if (value > most) [best, most] = [i, value];
  }
  return best;
}
