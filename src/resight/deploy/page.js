"use strict";
// Pictures go to the server of this page; what comes back is written as text, never as HTML.
const byId = id => document.getElementById(id);
const percent = share => `${(100 * share).toFixed(1)} %`;

function element(name, text = "", attributes = {}) {
  const made = document.createElement(name);
  made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function image(source, alt) {
  const made = element("img", "", { alt });
  made.addEventListener("load", () => made.classList.toggle("pixels", made.naturalWidth < 112));
  made.src = source;
  return made;
}

function showProblem(line) {
  byId("status").textContent = "";
  byId("problem").textContent = line;
  byId("problem").hidden = false;
  byId("result").hidden = true;
}

function showClasses(classes) {
  byId("classes").replaceChildren(...classes.map(({ name, probability }) => {
    const row = element("div", "", { role: "listitem" });
    const meter = element("span", "", { class: "meter", "aria-hidden": "true" });
    const bar = element("i");
    bar.style.setProperty("--share", probability);
    meter.append(bar);
    row.append(element("span", name, { class: "name" }), meter, element("span", percent(probability)));
    return row;
  }));
}

function showMaps({ rows, layers, method }) {
  byId("maps-note").textContent = layers.length === 0
    ? "The network has no layer whose output is a map."
    : `${method}: the brighter a place, the more it speaks for the class. Both classes of a layer share one scale.`;
  const head = element("tr");
  head.append(element("td"));
  for (const layer of layers) {
    const cell = element("th", "", { scope: "col" });
    cell.append(element("b", layer.name));
    if (layer.coarse) cell.append("too coarse to say where");
    head.append(cell);
  }
  const body = rows.map(({ name, probability }, row) => {
    const line = element("tr");
    const title = element("th", name, { scope: "row" });
    title.append(element("small", percent(probability)));
    line.append(title);
    for (const layer of layers) {
      const cell = element("td");
      cell.append(image(layer.maps[row], `Heat map of ${name} at ${layer.name}`));
      line.append(cell);
    }
    return line;
  });
  byId("strip").replaceChildren(...(layers.length ? [head, ...body] : []));
}

function showNeighbors({ neighbors, among }) {
  byId("among").textContent = among;
  byId("neighbors").replaceChildren(...neighbors.map(({ picture, name, id, cosine }) => {
    const item = element("li");
    item.append(image(picture, `${name}, ${id}`), element("b", name));
    item.append(element("span", `similarity ${cosine.toFixed(2)}`), element("span", id));
    return item;
  }));
}

function show(result, name) {
  const [best] = result.classes;
  byId("prediction").textContent = `${best.name}, ${percent(best.probability)}`;
  const same = result.picture === result.seen; // there are no more pixels than the network saw
  byId("picture").src = result.picture;
  byId("picture").classList.toggle("pixels", same);
  byId("file-name").textContent = name;
  byId("seen").src = result.seen;
  byId("seen-figure").hidden = same;
  showClasses(result.classes);
  showMaps(result);
  showNeighbors(result);
  byId("problem").hidden = true;
  byId("result").hidden = false;
  byId("status").textContent = `Predicted: ${best.name}, ${percent(best.probability)}`;
}

let latest = 0; // a picture that comes later takes the place of one that is still computed

async function send(file) {
  if (!file) {
    showProblem("That holds no picture file. A picture of another page is often only a link: save it first.");
    return;
  }
  const limit = Number(document.body.dataset.maxBytes);
  if (file.size > limit) {
    showProblem(`This file is too large; a picture may have up to ${Math.floor(limit / 2 ** 20)} MB.`);
    return;
  }
  const mine = ++latest;
  byId("problem").hidden = true;
  byId("status").textContent = "Computing …";
  byId("result").classList.add("waiting");
  try {
    const response = await fetch("/inspect", { method: "POST", body: file });
    const result = await response.json();
    if (mine !== latest) return;
    if (response.ok) show(result, file.name);
    else showProblem(result.error);
  } catch {
    if (mine === latest) showProblem("The server of this page does not respond; start resight serve again.");
  } finally {
    if (mine === latest) byId("result").classList.remove("waiting");
  }
}

byId("choose").addEventListener("click", () => byId("file").click());
byId("file").addEventListener("change", event => {
  if (event.target.files.length) send(event.target.files[0]);
  event.target.value = ""; // so that the same file can be chosen again
});
document.addEventListener("paste", event => send(event.clipboardData.files[0]));
document.addEventListener("dragover", event => {
  event.preventDefault();
  byId("drop").classList.add("dragged");
});
document.addEventListener("dragleave", event => {
  if (!event.relatedTarget) byId("drop").classList.remove("dragged");
});
document.addEventListener("drop", event => {
  event.preventDefault();
  byId("drop").classList.remove("dragged");
  send(event.dataTransfer.files[0]);
});
