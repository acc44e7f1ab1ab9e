// The service, as this page asks it. A source is {file}, {url} or {path} of a picture in the index.

const SEARCH_SIZE = 1280;

export class ServiceError extends Error {
  constructor(sentence, status = 0, retryAfter = 0) {
    super(sentence);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

export async function readAbout() {
  return (await request("page/about.json")).json();
}

export function imageUrl(path, size) {
  return `images/${path.split("/").map(encodeURIComponent).join("/")}?size=${size}`;
}

// The answer's text and how long it took, with the picture sent on the way that its source needs.
export async function predict(source, k, n, signal) {
  const body = await bodyOf(source, k, n, signal);
  const begin = performance.now();
  const text = await (await request("predict/", { ...body, method: "POST", signal })).text();
  return { text, milliseconds: performance.now() - begin };
}

// A picture that the browser itself cannot show, or may not fetch, made small by the service.
export async function readPreview(source, signal) {
  const body = await bodyOf(source, "1", "1", signal);
  return (await request("page/preview", { ...body, method: "POST", signal })).blob();
}

async function bodyOf(source, k, n, signal) {
  if (source.url !== undefined) {
    const body = JSON.stringify({ url: source.url, k: numberOf(k), n: numberOf(n) });
    return { body, headers: { "content-type": "application/json" } };
  }
  source.file ??= await (await request(imageUrl(source.path, SEARCH_SIZE), { signal })).blob();
  const body = new FormData();
  body.append("file", source.file, source.name ?? "picture");
  body.append("k", k);
  body.append("n", n);
  return { body };
}

// What is not a number goes to the service as it was typed, because the service says best what is wrong with it.
function numberOf(text) {
  return text.trim() !== "" && Number.isFinite(Number(text)) ? Number(text) : text;
}

async function request(url, options) {
  let response;
  try {
    response = await fetch(url, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServiceError("the service cannot be reached: is it running, and are you online?");
  }
  if (response.ok) return response;
  const text = await response.text();
  throw new ServiceError(sentenceOf(text), response.status, Number(response.headers.get("retry-after")));
}

function sentenceOf(text) {
  try {
    const { error } = JSON.parse(text);
    if (typeof error === "string") return error;
  } catch {
    // a proxy's page and not the service's answer
  }
  return "the service did not answer in its own words: something in front of it refused or failed";
}

// The same request for a shell.
export function curlLine(source, k, n) {
  const service = quote(new URL("predict/", document.baseURI).href);
  if (source.url !== undefined) {
    const body = JSON.stringify({ url: source.url, k: numberOf(k), n: numberOf(n) });
    return `curl -s ${service} -H 'content-type: application/json' -d ${quote(body)}`;
  }
  const numbers = `-F ${quote(`k=${k}`)} -F ${quote(`n=${n}`)}`;
  if (source.path === undefined) return `curl -s ${service} -F ${quote(`file=@${fileName(source.name)}`)} ${numbers}`;
  const picture = quote(new URL(imageUrl(source.path, SEARCH_SIZE), document.baseURI).href);
  return `curl -s ${picture} | curl -s ${service} -F file=@- ${numbers}`;
}

function fileName(name) {
  return /^[\w.-]+$/.test(name) ? name : `"${name.replace(/["\\]/g, "\\$&")}"`;
}

function quote(text) {
  return /^[\w./:=@-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}
