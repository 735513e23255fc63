// Pictures to numbers, as Python's processor/image.py makes them: bicubic as Pillow rounds it, so
// that the model sees the same pixels here as there.

import { Mistake } from "./prompts.js";

const BITS = 22; // of the fixed point that weights are rounded to

/**
 * A file as RGB, upright, on white.
 *
 * @param {Blob} file
 * @returns {Promise<{data: Uint8ClampedArray, width: number, height: number}>} three numbers a pixel
 */
export async function openPicture(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
  } catch {
    throw new Mistake("This file is no picture that your browser can open.");
  }
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d", { alpha: false });
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const rgba = context.getImageData(0, 0, width, height).data;
  const data = new Uint8ClampedArray(3 * width * height);
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < 3; c++) data[3 * i + c] = rgba[4 * i + c];
  }
  return { data, width, height };
}

/** Resize by bicubic interpolation that looks at all pixels of a large picture. */
export function resize(picture, width, height) {
  let { data } = picture;
  if (width !== picture.width) {
    data = along(data, picture.height, 3 * picture.width, 3, picture.width, width, 3 * width, 3);
  }
  if (height !== picture.height) {
    data = along(data, width, 3, 3 * width, picture.height, height, 3, 3 * width);
  }
  return { data, width, height };
}

/** Each of `lines` lines anew: where lines and their pixels begin, in what is read and written. */
function along(data, lines, lineStep, step, size, newSize, newLineStep, newStep) {
  const result = new Uint8ClampedArray(3 * lines * newSize);
  const places = weightsOf(size, newSize);
  for (let line = 0; line < lines; line++) {
    for (let i = 0; i < newSize; i++) {
      const { first, weights } = places[i];
      for (let c = 0; c < 3; c++) {
        let sum = 1 << (BITS - 1);
        let at = line * lineStep + first * step + c;
        for (let k = 0; k < weights.length; k++, at += step) sum += data[at] * weights[k];
        result[line * newLineStep + i * newStep + c] = sum >> BITS; // clamped as it is stored
      }
    }
  }
  return result;
}

/** For each new pixel of a line the old ones that it is made of, and how much of each. */
function weightsOf(size, newSize) {
  const scale = size / newSize;
  const reach = Math.max(scale, 1);
  return Array.from({ length: newSize }, (_, i) => {
    const centre = (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - 2 * reach + 0.5));
    const end = Math.min(size, Math.trunc(centre + 2 * reach + 0.5));
    const shares = Array.from({ length: end - first }, (_, k) =>
      bicubic((first + k - centre + 0.5) * (1 / reach)));
    const sum = shares.reduce((a, b) => a + b, 0);
    const weights = shares.map((share) => {
      const exact = (share / sum) * (1 << BITS);
      return Math.trunc(exact + (exact < 0 ? -0.5 : 0.5));
    });
    return { first, weights };
  });
}

function bicubic(x) {
  const a = -0.5;
  const d = Math.abs(x);
  if (d < 1) return ((a + 2) * d - (a + 3)) * d * d + 1;
  return d < 2 ? (((d - 5) * d + 8) * d - 4) * a : 0;
}

/**
 * What the understanding encoder takes: the longer side resized, centred on a square, normalised.
 *
 * @param picture of `openPicture`
 * @param {{size: number, min_size: number, mean: number[], std: number[]}} rules
 * @returns {Float32Array} (3, size, size)
 */
export function pixelValues(picture, { size, min_size: least, mean, std }) {
  const longest = Math.max(picture.width, picture.height);
  const width = Math.max(Math.trunc((picture.width / longest) * size), least);
  const height = Math.max(Math.trunc((picture.height / longest) * size), least);
  const { data } = resize(picture, width, height);
  const left = Math.floor((size - width) / 2);
  const top = Math.floor((size - height) / 2);
  const values = new Float32Array(3 * size * size);
  for (let c = 0; c < 3; c++) {
    const [m, s] = [Math.fround(mean[c]), Math.fround(std[c])];
    const normalised = (byte) => Math.fround(Math.fround(Math.fround(byte / 255) - m) / s);
    values.fill(normalised(Math.trunc(mean[c] * 255)), c * size * size, (c + 1) * size * size);
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        values[(c * size + top + y) * size + left + x] = normalised(data[3 * (y * width + x) + c]);
      }
    }
  }
  return values;
}

/** (3, h, w) values in [-1, 1] as a picture; truncated to 8 bits. */
export function toImageData(values, width, height) {
  const image = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < 3; c++) {
      const share = Math.fround(Math.fround(values[c * width * height + i] + 1) / 2);
      image.data[4 * i + c] = Math.trunc(Math.fround(share * 255));
    }
    image.data[4 * i + 3] = 255;
  }
  return image;
}
