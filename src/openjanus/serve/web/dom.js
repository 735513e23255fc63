// Small things that every part of the page does.

/** The element of an id. */
export const at = (id) => document.getElementById(id);

/**
 * A new element.
 *
 * @param {string} name of the tag
 * @param {object} properties set on it
 * @param {(Node | string)[]} children put into it
 */
export function make(name, properties = {}, children = []) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

/** Say something to whoever looks and whoever listens; null takes it back. */
export function note(element, text, isError = true) {
  element.hidden = text === null;
  element.textContent = text ?? "";
  element.classList.toggle("error", isError);
  if (text === null) element.removeAttribute("role");
  else element.setAttribute("role", isError ? "alert" : "status");
}

/** Buttons that fill in a text and are done with it. */
export function suggest(place, texts, onChoose) {
  place.replaceChildren(
    ...texts.map((text) => make("button", { type: "button", textContent: text, onclick: () => onChoose(text) })),
  );
}

/** Enter sends a form, Shift+Enter begins a line, and the field grows with its text. */
export function sendOnEnter(field) {
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    field.form.requestSubmit();
  });
  field.addEventListener("input", () => fit(field));
}

/** As high as its text. */
export function fit(field) {
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight}px`;
}

/** A text for the name of a file. */
export function slug(text) {
  const words = text.normalize("NFKD").toLowerCase().replace(/[^\p{Letter}\p{Number}]+/gu, "-");
  return words.replace(/^-+|-+$/g, "").slice(0, 60) || "drawing";
}

/** Bytes of base64 as a PNG. */
export async function png(base64) {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  return new Blob([bytes], { type: "image/png" });
}
