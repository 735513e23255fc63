// A file to what the server takes: a data address of a picture of bounded size.

const MOST_SIDE = 1536;
const MOST_BYTES = 4_000_000;
const AS_THEY_ARE = ["image/png", "image/jpeg", "image/webp"];

/**
 * Read a picture. A large one, or one of a rare kind, is written anew.
 *
 * @param {Blob} file
 * @returns {Promise<string>} data:image/...;base64,...
 */
export async function dataAddress(file) {
  let image;
  try {
    image = await createImageBitmap(file);
  } catch {
    throw new Error("This file is no picture that your browser can open.");
  }
  const scale = Math.min(1, MOST_SIDE / Math.max(image.width, image.height));
  if (scale < 1 || file.size > MOST_BYTES || !AS_THEY_ARE.includes(file.type)) {
    file = await drawnAnew(image, scale);
  }
  image.close();
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error("This file could not be read."));
    reader.readAsDataURL(file);
  });
}

function drawnAnew(image, scale) {
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(image.width * scale));
  canvas.height = Math.max(1, Math.round(image.height * scale));
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff"; // JPEG has no transparency
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve, reject) => {
    const take = (blob) => (blob ? resolve(blob) : reject(new Error("The browser cannot make this picture smaller.")));
    canvas.toBlob(take, "image/jpeg", 0.92);
  });
}
