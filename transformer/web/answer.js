// An answer: classes as bars, and the pictures like the one asked about, of the classes that are on.

import { barElement, chipElements, percent, tileElement } from "./render.js";

const FIRST_BARS = 6;
const MANY_BARS = 12;
const MOST_MATCHES = 100; // of one request

const at = (id) => document.getElementById(id);

export class AnswerView {
  // `wanted()`: how many pictures; `widen(count)`: ask for more; `searchBy(match)`: what a click on it does, or null.
  constructor({ wanted, widen, searchBy }) {
    Object.assign(this, { wanted, widen, searchBy });
    this.forget();
    at("filter").addEventListener("input", () => this.#showBars());
    at("more").addEventListener("click", () => {
      this.allBars = !this.allBars;
      at("filter").value = "";
      this.#showBars();
    });
  }

  // Another picture: nothing is off any more.
  forget() {
    this.off = new Set();
    this.allBars = this.allChips = false;
    at("filter").value = "";
  }

  // The answer to a request for `asked` pictures of the `k` most probable classes.
  show({ probabilities, top_matches: matches }, k, asked, about) {
    this.classes = Object.entries(probabilities).sort((one, other) => other[1] - one[1]);
    this.searched = this.classes.slice(0, k).map(([name]) => name);
    Object.assign(this, { matches, asked, about });
    this.#showBars();
    this.#showMatches();
    const [best, probability] = this.classes[0];
    const found = `${this.#shown().length} similar pictures`;
    at("status").textContent = `Most probable: ${best}, ${percent(probability)}. ${found}.`;
    this.#fillUp();
  }

  #showBars() {
    const plain = (text) => text.trim().toLowerCase().replaceAll("_", " ");
    const wanted = plain(at("filter").value);
    const found = this.allBars
      ? this.classes.filter(([name]) => plain(name).includes(wanted))
      : this.classes.slice(0, FIRST_BARS);
    at("bars").replaceChildren(...found.map(barElement));
    at("bars").classList.toggle("scrolling", this.allBars);
    at("bars").tabIndex = this.allBars ? 0 : -1; // what scrolls must be reachable by keyboard
    at("find").hidden = !this.allBars || this.classes.length <= MANY_BARS;
    const more = at("more");
    more.hidden = this.classes.length <= FIRST_BARS;
    more.ariaExpanded = String(this.allBars);
    more.textContent = this.allBars
      ? "Show only the first"
      : `Show all ${this.classes.length.toLocaleString("en")} classes`;
  }

  #shown() {
    return this.matches.filter((match) => !this.off.has(match.class)).slice(0, this.wanted());
  }

  #showMatches() {
    const focused = document.activeElement?.closest(".chip")?.querySelector(".name").title;
    const showAll = () => {
      this.allChips = true;
      this.#showMatches();
    };
    const chips = chipElements(this.searched, this.off, (name) => this.#toggle(name), this.allChips, showAll);
    at("chips").replaceChildren(...chips);
    chips.find((chip) => chip.querySelector(".name")?.title === focused)?.focus();
    const found = this.#shown();
    at("matches").replaceChildren(...found.map((match) => tileElement(match, this.about, this.searchBy(match))));
    at("note").textContent = this.#describe(found.length);
  }

  #describe(count) {
    if (!this.matches.length) return "There are no pictures of these classes.";
    if (this.searched.every((name) => this.off.has(name))) return "All classes are off: click one to see its pictures.";
    if (this.off.size && count < this.wanted() && this.asked >= MOST_MATCHES) {
      return `Only these: the service looks no further than the ${MOST_MATCHES} most similar pictures.`;
    }
    return "Found among these classes: click one to leave it out. Click a picture to search by it.";
  }

  #toggle(name) {
    if (!this.off.delete(name)) this.off.add(name);
    this.#showMatches();
    this.#fillUp();
  }

  // A class that is off makes room for pictures of the others, which the service is asked for when it has more.
  #fillUp() {
    const hasMore = this.asked < MOST_MATCHES && this.matches.length === this.asked;
    if (this.off.size && this.#shown().length < this.wanted() && hasMore) this.widen(MOST_MATCHES);
  }
}
