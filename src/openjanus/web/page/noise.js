// Counter-based Gumbel noise, the same as Python's engine/noise.py: what picture i is made of
// depends on (seed, i, position) alone, in a tab as on a server.
//
// Threefry-2x32 with 20 rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3").

const PARITY = 0x1bd11bda;
const ROTATIONS = [
  [13, 15, 26, 6],
  [17, 29, 16, 24],
];
const LOW = 0xffffffffn;

/** Threefry-2x32-20 of one counter: two 32-bit words of a key and two of a counter. */
export function threefry2x32(key0, key1, counter0, counter1) {
  const keys = [key0 >>> 0, key1 >>> 0, (key0 ^ key1 ^ PARITY) >>> 0];
  let x = (counter0 + keys[0]) >>> 0;
  let y = (counter1 + keys[1]) >>> 0;
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

/** The key of a stream under a seed, a BigInt in [0, 2**64). */
export function streamKey(seed, stream) {
  return threefry2x32(Number(seed & LOW), Number(seed >> 32n), stream, 0);
}

/** Standard Gumbel noise of one position of a stream: a Float32Array, an element for each id. */
export function gumbelNoise(key, position, size) {
  const noise = new Float32Array(size);
  for (let pair = 0; 2 * pair < size; pair++) {
    const words = threefry2x32(key[0], key[1], position, pair);
    for (let lane = 0; lane < 2 && 2 * pair + lane < size; lane++) {
      // The midpoint of one of 2**32 cells is never 0 or 1.
      const uniform = (words[lane] + 0.5) * 2 ** -32;
      noise[2 * pair + lane] = -Math.log(-Math.log(uniform));
    }
  }
  return noise;
}
