// Small things that every part of the page does.

import { Trouble } from "./trouble.js";

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

/**
 * Tell of an error; one of this page's own is thrown again, for the console.
 *
 * @param {HTMLElement} place of a note
 * @param {Error} error
 * @param {() => void} wantKey asks for a key
 */
export function tellTrouble(place, error, wantKey) {
  if (error.name === "AbortError") {
    note(place, "Stopped.", false);
  } else if (error.status === 401) {
    wantKey();
  } else if (error instanceof Trouble) {
    note(place, error.message);
  } else {
    note(place, "This page made a mistake: see the browser's console.");
    throw error;
  }
}

/** Refuse what a field holds: told, and the field is where it can be put right. */
export function refuse(place, field, text) {
  note(place, text);
  for (let parent = field.closest("details"); parent; parent = parent.parentElement.closest("details")) parent.open = true;
  field.focus();
  field.setAttribute("aria-invalid", "true");
  field.addEventListener("input", () => field.removeAttribute("aria-invalid"), { once: true });
}

/** Do something when a button is pressed; the second of two quick clicks was meant for what stood there. */
export function onPress(button, act) {
  button.onclick = (event) => {
    if (event.detail !== 2) act();
  };
}

/** Show a button where another was; the focus stays there. */
export function swap(hidden, shown) {
  const hadFocus = document.activeElement === hidden;
  [hidden.hidden, shown.hidden] = [true, false];
  if (hadFocus) shown.focus({ preventScroll: true });
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
    // 229: Safari's Enter that ends a word of an input method, which is told as none.
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
    event.preventDefault();
    if (!event.repeat) field.form.requestSubmit();
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
