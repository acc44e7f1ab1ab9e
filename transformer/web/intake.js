// The ways in: choose, drop, paste, link. Each gives a source.

export function takePictures(take) {
  const file = document.getElementById("file");
  file.addEventListener("change", () => {
    if (file.files.length) take(fromFile(file.files[0]));
    file.value = ""; // so that choosing the same file again is noticed
  });

  document.getElementById("link").addEventListener("submit", (event) => {
    event.preventDefault();
    take({ url: document.getElementById("url").value.trim() });
  });

  document.addEventListener("paste", (event) => {
    const source = fromTransfer(event.clipboardData);
    const typing = event.target instanceof Element && event.target.matches("input");
    if (!source || (typing && !source.file)) return;
    event.preventDefault();
    take(source);
  });

  listenToDrops(take);
}

function listenToDrops(take) {
  const root = document.documentElement;
  const carries = (event) => ["Files", "text/uri-list"].some((type) => event.dataTransfer.types.includes(type));
  document.addEventListener("dragover", (event) => {
    if (!carries(event)) return;
    event.preventDefault();
    event.dataTransfer.dropEffect = "copy";
    root.classList.add("dragging");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) root.classList.remove("dragging");
  });
  document.addEventListener("drop", (event) => {
    root.classList.remove("dragging");
    if (!carries(event)) return;
    event.preventDefault();
    const source = fromTransfer(event.dataTransfer);
    if (source) take(source);
  });
}

function fromTransfer(transfer) {
  if (transfer.files.length) return fromFile(transfer.files[0]);
  const text = (transfer.getData("text/uri-list") || transfer.getData("text/plain")).trim().split("\n")[0].trim();
  return /^(https?:\/\/|data:image\/)/i.test(text) ? { url: text } : null;
}

function fromFile(file) {
  return { file, name: file.name || "picture" };
}
