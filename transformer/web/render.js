// Elements for answers. Names and paths are anybody's text: they only ever become text, never markup or an address.

import { imageUrl } from "./api.js";

const FIRST_CHIPS = 12;

export function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

// Class names are often file names: spaces are easier to read, and the title keeps the exact name.
export function nameElement(name) {
  return element("span", { className: "name", title: name }, name.replace(/(?<=[^_])_(?=[^_])/g, " "));
}

export function percent(probability) {
  if (probability < 0.0005) return "<0.1%";
  return `${(probability * 100).toFixed(1)}%`;
}

export function barElement([name, probability]) {
  const fill = element("span", { className: "fill" });
  fill.style.width = `${probability * 100}%`;
  const track = element("span", { className: "track" }, fill);
  track.ariaHidden = "true";
  return element("li", {}, nameElement(name), track, element("span", { className: "number" }, percent(probability)));
}

// One toggle for each class; of very many only the first, and those that are off.
export function chipElements(names, off, toggle, all, showAll) {
  const first = names.filter((name, position) => all || position < FIRST_CHIPS || off.has(name));
  const chips = first.map((name) => {
    const chip = element("button", { type: "button", className: "chip" }, nameElement(name));
    chip.ariaPressed = String(!off.has(name));
    chip.addEventListener("click", () => toggle(name));
    return chip;
  });
  if (first.length === names.length) return chips;
  const rest = names.length - first.length;
  const more = element("button", { type: "button", className: "plain" }, `and ${rest.toLocaleString("en")} more`);
  more.addEventListener("click", showAll);
  return [...chips, more];
}

// A picture of the index as a tile; without `search` it cannot be clicked.
export function tileElement(match, about, search) {
  const frame = element("span", { className: "frame" });
  const tile = element(search ? "button" : "div", { className: "tile", title: match.path }, frame, nameElement(match.class));
  if (match.similarity !== undefined) {
    const label = element("span", { className: "hidden" }, "similarity ");
    tile.append(element("span", { className: "number" }, label, match.similarity.toFixed(3)));
  }
  if (search) {
    tile.type = "button";
    tile.append(element("span", { className: "hidden" }, "search by this picture"));
    tile.addEventListener("click", () => search(match));
  }
  frame.append(thumbnail(match, about) ?? missing(match));
  return element("li", {}, tile);
}

function thumbnail(match, about) {
  const image = element("img", { alt: "", loading: "lazy", decoding: "async", width: 320, height: 320 });
  image.addEventListener("error", () => {
    const tile = image.closest(".tile");
    if (about.images) tile.disabled = true; // there is nothing to search by
    image.replaceWith(missing(match));
  });
  if (about.images) {
    image.srcset = `${imageUrl(match.path, 320)} 1x, ${imageUrl(match.path, 640)} 2x`;
    image.src = imageUrl(match.path, 320);
  } else if (isWebAddress(match.url)) {
    image.src = match.url;
  } else {
    return null;
  }
  return image;
}

export function isWebAddress(url) {
  return /^https?:\/\//i.test(url ?? "");
}

function missing(match) {
  return element("span", { className: "missing" }, match.path);
}
