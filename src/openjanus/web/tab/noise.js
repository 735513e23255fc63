// Counter-based Gumbel noise, the same as Python's engine/noise.py: what picture i is made of
// depends on (seed, i, position) alone, in a tab as elsewhere.
//
// Threefry-2x32 with 20 rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3").

const PARITY = 0x1bd11bda;
const ROTATIONS = [
  [13, 15, 26, 6],
  [17, 29, 16, 24],
];
const LOW = 0xffffffffn;

/** Threefry-2x32-20 of one counter; keys and counters are 32-bit words, and so is what comes out. */
export function threefry2x32(key, first, second) {
  const keys = [key[0] >>> 0, key[1] >>> 0, (key[0] ^ key[1] ^ PARITY) >>> 0];
  let x = (first + keys[0]) >>> 0;
  let y = (second + keys[1]) >>> 0;
  for (let step = 0; step < 5; step++) {
    for (const rotation of ROTATIONS[step % 2]) {
      x = (x + y) >>> 0;
      y = (((y << rotation) | (y >>> (32 - rotation))) ^ x) >>> 0;
    }
    x = (x + keys[(step + 1) % 3]) >>> 0;
    y = (y + keys[(step + 2) % 3] + step + 1) >>> 0;
  }
  return [x, y];
}

/**
 * The key of a stream.
 *
 * @param {bigint} seed in [0, 2**64)
 * @param {number} stream which picture
 */
export function streamKey(seed, stream) {
  return threefry2x32([Number(seed & LOW), Number(seed >> 32n)], stream, 0);
}

/** Standard Gumbel noise of a position of a stream, a number for each id. @returns {Float32Array} */
export function gumbelNoise(key, position, size) {
  const noise = new Float32Array(size);
  for (let lane = 0; lane < size; lane += 2) {
    const words = threefry2x32(key, position, lane / 2);
    noise[lane] = gumbel(words[0]);
    if (lane + 1 < size) noise[lane + 1] = gumbel(words[1]);
  }
  return noise;
}

function gumbel(word) {
  // The midpoint of one of 2**32 cells is never 0 or 1.
  return -Math.log(-Math.log((word + 0.5) * 2 ** -32));
}
