// What the page shows, and when.

import { AnswerView } from "./answer.js";
import { ServiceError, curlLine, imageUrl, predict, readAbout, readPreview } from "./api.js";
import { takePictures } from "./intake.js";
import { isWebAddress, tileElement } from "./render.js";

const LOAD_AGAIN = 5; // seconds

const at = (id) => document.getElementById(id);
const k = at("k");
const n = at("n");
const defaults = { k: k.value, n: n.value };
const entries = new Map(); // history entry -> source, because a file cannot be in an address
const view = new AnswerView({ wanted: () => Number(n.value), widen: (count) => lookAgain(String(count)), searchBy });

let about = { images: false, examples: [] };
let source = null; // the picture that is asked about
let running = null; // AbortController of the request under way
let again = null; // what "Try again" does

// --- asking ---

function look(next, { remember = true } = {}) {
  source = next;
  view.forget();
  if (remember) pushEntry();
  const signal = start();
  showPicture(signal);
  at("answer").hidden = true;
  ask(k.value, n.value, signal);
}

// The same picture with other numbers; what is there stays until the new answer comes.
function lookAgain(count = n.value) {
  if (source) ask(k.value, count, start());
}

function start() {
  running?.abort();
  running = new AbortController();
  return running.signal;
}

async function ask(classes, count, signal) {
  again = () => ask(classes, count, start());
  at("welcome").hidden = at("error").hidden = true;
  at("answer").classList.add("old");
  const clock = startClock();
  try {
    const { text, milliseconds } = await predict(source, classes, count, signal);
    await ready;
    if (!signal.aborted) show(JSON.parse(text), classes, count, milliseconds);
  } catch (error) {
    if (!signal.aborted) showError(error);
  } finally {
    clearInterval(clock);
    if (signal === running.signal) at("progress").hidden = true;
  }
}

function show(answer, classes, count, milliseconds) {
  at("answer").classList.remove("old");
  at("answer").hidden = false;
  at("time").textContent = `answered in ${Math.round(milliseconds).toLocaleString("en")} ms`;
  at("copy-link").hidden = source.url === undefined && source.path === undefined;
  at("curl-text").textContent = curlLine(source, classes, count);
  at("json-text").textContent = JSON.stringify(answer, null, 2);
  at("progress").hidden = true;
  view.show(answer, Number(classes), Number(count), about);
}

function startClock() {
  const begin = performance.now();
  const tick = () => (at("elapsed").textContent = `${((performance.now() - begin) / 1000).toFixed(1)} s`);
  tick();
  at("progress").hidden = false;
  at("status").textContent = "Asking the service";
  return setInterval(tick, 100);
}

function cancel() {
  running.abort();
  at("progress").hidden = true;
  showError(new ServiceError("you cancelled this request"));
}

function showError(error) {
  const known = error instanceof ServiceError;
  if (!known) console.error(error);
  at("answer").hidden = true;
  at("sentence").textContent = known ? error.message : "the page failed; load it again";
  at("code").textContent = error.status ? `HTTP ${error.status}` : "";
  at("status").textContent = "";
  at("error").hidden = false;
}

// --- the picture that is asked about ---

async function showPicture(signal) {
  const image = at("shown");
  at("caption").textContent = source.url ?? source.path ?? source.name;
  at("caption").hidden = at("another").hidden = false;
  at("drop").hidden = image.hidden = true;
  at("url").value = source.url?.startsWith("data:") ? "" : (source.url ?? "");
  URL.revokeObjectURL(image.src);
  image.onload = () => (image.hidden = false);
  image.onerror = () => preview(image, signal);
  if (source.path !== undefined) image.src = imageUrl(source.path, 640);
  else if (source.file) image.src = URL.createObjectURL(source.file);
  else preview(image, signal);
}

// From another host, which the page must not ask, or of a kind that the browser does not know.
async function preview(image, signal) {
  image.onerror = null;
  try {
    image.src = URL.createObjectURL(await readPreview(source, signal));
  } catch {
    if (signal.aborted) return;
    image.removeAttribute("src"); // the reason is said where the answer would be
    at("drop").hidden = false;
    at("another").hidden = true;
  }
}

function searchBy(match) {
  const url = isWebAddress(match.url) ? match.url : null;
  const next = about.images ? { path: match.path, name: match.path } : url && { url };
  if (!next) return null;
  return () => {
    look(next);
    at("picture").focus({ preventScroll: true });
    at("picture").scrollIntoView({ block: "nearest" });
  };
}

// --- addresses: /?url=... and /?picture=... can be sent to somebody ---

function address() {
  const query = new URLSearchParams();
  if (source.url !== undefined) query.set("url", source.url);
  if (source.path !== undefined) query.set("picture", source.path);
  if (!query.size) return location.pathname;
  if (k.value !== defaults.k) query.set("k", k.value);
  if (n.value !== defaults.n) query.set("n", n.value);
  return `?${query}`;
}

function pushEntry() {
  const entry = performance.timeOrigin + entries.size; // another after a reload
  entries.set(entry, source);
  history.pushState({ entry }, "", address());
}

function readAddress() {
  const query = new URLSearchParams(location.search);
  k.value = query.get("k") ?? defaults.k;
  n.value = query.get("n") ?? defaults.n;
  const [url, path] = [query.get("url"), query.get("picture")];
  const linked = url !== null ? { url } : path !== null ? { path, name: path } : null;
  const there = entries.get(history.state?.entry) ?? linked;
  if (there) look(there, { remember: false });
  else showWelcome();
}

// --- the welcome ---

function showWelcome() {
  running?.abort();
  source = null;
  for (const id of ["progress", "error", "answer", "shown", "caption", "another"]) at(id).hidden = true;
  at("drop").hidden = at("welcome").hidden = false;
  at("url").value = "";
}

async function showAbout() {
  try {
    about = await readAbout();
  } catch (error) {
    again = showAbout;
    if (!source) showError(error);
    if (error.status === 503) setTimeout(showAbout, 1000 * (error.retryAfter || LOAD_AGAIN));
    return;
  }
  if (!source) at("error").hidden = true;
  at("model").textContent = document.title = about.model;
  k.max = about.classes;
  const [pictures, classes] = [about.pictures, about.classes].map((count) => count.toLocaleString("en"));
  at("about").textContent = `Knows ${pictures} pictures of ${classes} classes.`;
  const examples = about.examples.filter((match) => searchBy(match));
  at("example-list").replaceChildren(...examples.map((match) => tileElement(match, about, searchBy(match))));
  at("examples").hidden = !examples.length;
}

// --- what people do ---

function copyFrom(button, text, instead) {
  const label = button.textContent;
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text());
      button.textContent = "Copied";
    } catch {
      button.textContent = instead(); // without https a page has no clipboard
    }
    setTimeout(() => (button.textContent = label), 2000);
  });
}

takePictures((next) => {
  if (next.file?.size > about.max_bytes) {
    // The service refuses such a body before all of it has come, and a browser cannot read an answer as early as that.
    showError(new ServiceError(`the picture has more than ${about.max_bytes} bytes`, 413));
  } else {
    look(next);
  }
});
for (const input of [k, n]) {
  input.addEventListener("change", () => {
    if (!source) return;
    history.replaceState(history.state, "", address());
    lookAgain();
  });
}
// An example whose picture is missing is none. Such events do not rise, so they are caught on their way down.
at("example-list").addEventListener("error", (event) => {
  event.target.closest("li").remove();
  at("examples").hidden = !at("example-list").children.length;
}, true);
at("cancel").addEventListener("click", cancel);
at("retry").addEventListener("click", () => again());
copyFrom(at("copy-link"), () => location.href, () => "It is in the address bar");
copyFrom(at("copy-curl"), () => at("curl-text").textContent, () => {
  getSelection().selectAllChildren(at("curl-text"));
  return "Press Ctrl+C";
});
addEventListener("popstate", readAddress);
const ready = showAbout();
readAddress();
