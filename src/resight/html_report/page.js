"use strict";
// Filter, look, mark and download. Text from outside is set as text, never as HTML; nothing is loaded.
(() => {
  const PAGE = window.innerWidth < 600 ? 36 : 60; // images that are shown at once
  const MATRIX = 100; // classes up to which the matrix is drawn
  const LEVEL = 17; // gray value of one level of a heat map

  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent);
  const { classes, count, gallery, neighbors, sets } = data;

  // --- the numbers of the images ---------------------------------------------------------------

  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;
  const whole = data.wide ? Uint16Array : Uint8Array;
  const labels = new whole(bytes(data.labels));
  const preds = new whole(bytes(data.preds));
  const confidence = new Float32Array(bytes(data.confidence));
  const losses = new Float32Array(bytes(data.losses));
  const place = gallery ? new Uint8Array(bytes(gallery.place)) : new Uint8Array(count);
  const idOf = (row) => data.idPrefix + data.ids[row];
  const shared = data.idPrefix.replace(/[\p{L}\p{N}.]*$/u, "").length; // cut at a separator
  const right = (row) => labels[row] === preds[row];
  const sheetOf = (row) => (place[row] & 63) - 1; // -1: no picture
  const hasMaps = (row) => (place[row] & 128) !== 0;
  const isPhoto = Boolean(gallery?.seen); // some pictures have more pixels than the network saw
  const hasTrueMap = (row) => (place[row] & 64) !== 0; // where the maps' own prediction was wrong

  // Tiles lie in the order of the data: count them to find each.
  const tileOf = new Int32Array(count);
  const mapOf = new Int32Array(count).fill(-1); // map for the predicted class
  const trueMapOf = new Int32Array(count).fill(-1); // for the true class
  {
    const next = gallery ? gallery.sheets.map(() => 0) : [];
    let mapped = 0;
    let both = 0;
    for (let row = 0; row < count; row++) {
      if (sheetOf(row) >= 0) tileOf[row] = next[sheetOf(row)]++;
      if (!hasMaps(row)) continue;
      mapOf[row] = mapped++;
      if (hasTrueMap(row)) trueMapOf[row] = gallery.mapped + both++;
    }
  }

  // Places of the training images that are nearest to a mistake: of the predicted class, then of the
  // true one. 0 is none, n the n-th tile.
  const near = neighbors && {
    at: new Map([...new Uint32Array(bytes(neighbors.rows))].map((row, i) => [row, i])),
    places: new Uint16Array(bytes(neighbors.places)),
    percents: new Uint8Array(bytes(neighbors.percents)),
  };
  const causeOf = new Map(); // row -> number of its cause; the causes are the first sets
  sets.slice(0, data.causes).forEach(({ rows }, k) => rows.forEach((row) => causeOf.set(row, k)));
  const suggested = new Map(data.issues); // row -> the class that its label should perhaps be

  const number = (n) => n.toLocaleString("en");
  const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)} %`;
  const make = (tag, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };

  // --- filters ---------------------------------------------------------------------------------

  const controls = ["true", "pred", "verdict", "low", "high", "text", "sort", "mapped", "set", "beside"].map($);
  const [trueClass, predClass, verdict, low, high, text, sort, mapped, part, beside] = controls;
  const keys = {
    loss: (row) => -losses[row],
    "loss-up": (row) => losses[row],
    sure: (row) => -confidence[row],
    unsure: (row) => confidence[row],
    order: (row) => row,
  };
  const firstVerdict = preds.some((pred, row) => pred !== labels[row]) ? "wrong" : "all";
  let selection = new Int32Array(0); // rows, sorted
  let shown = 0;

  function select() {
    const t = Number(trueClass.value);
    const p = Number(predClass.value);
    const least = Number(low.value || 0) / 100 - 1e-6; // what is shown is rounded to float32
    const most = Number(high.value || 100) / 100 + 1e-6;
    const word = text.value.trim().toLowerCase();
    const rows = [];
    const among = rowsOf(part.value);
    for (let row = 0; row < count; row++) {
      if (among && !among.has(row)) continue;
      if (t >= 0 && labels[row] !== t) continue;
      if (p >= 0 && preds[row] !== p) continue;
      if (verdict.value !== "all" && right(row) !== (verdict.value === "right")) continue;
      if (confidence[row] < least || confidence[row] > most) continue;
      if (mapped.checked && !hasMaps(row)) continue;
      if (word && !idOf(row).toLowerCase().includes(word)) continue;
      rows.push(row);
    }
    const key = keys[sort.value];
    selection = Int32Array.from(rows).sort((a, b) => key(a) - key(b) || a - b);
    showSelection();
    markMatrix(t, p);
  }

  function rowsOf(value) {
    if (value === "all") return null;
    if (value === "issues") return new Set(suggested.keys());
    if (value === "marked") return new Set(marks.keys());
    return new Set(sets[value].rows);
  }

  // All images of a cause, of a group or of the marks, and no other filter.
  function chooseSet(value) {
    clear();
    verdict.value = "all";
    part.value = value;
    select();
  }

  function choose(t, p) {
    const same = Number(trueClass.value) === t && Number(predClass.value) === p;
    trueClass.value = same ? -1 : t;
    predClass.value = same ? -1 : p;
    if (same) verdict.value = firstVerdict;
    else if (t >= 0 && p >= 0) verdict.value = "all";
    select();
  }

  function reset() {
    clear();
    select();
  }

  function clear() {
    part.value = "all";
    trueClass.value = predClass.value = -1;
    verdict.value = firstVerdict;
    low.value = 0;
    high.value = 100;
    text.value = "";
    sort.value = "loss";
    mapped.checked = false;
  }

  // --- the images of the selection -------------------------------------------------------------

  function showSelection() {
    const n = selection.length;
    $("count").replaceChildren(
      `${number(n)} image${n === 1 ? "" : "s"} `,
      make("span", { textContent: `of ${number(count)}, ${percent(n / count, 1)}` }),
    );
    $("csv").disabled = n === 0;
    shown = 0;
    $("cards").replaceChildren();
    $("cards").classList.toggle("beside", beside.checked);
    if (n === 0) $("cards").append(make("li", { className: "empty", textContent: "No image is like that." }));
    showMore();
  }

  function showMore() {
    const from = shown;
    shown = Math.min(shown + PAGE, selection.length);
    const made = document.createDocumentFragment();
    for (let at = from; at < shown; at++) made.append(card(selection[at]));
    $("cards").append(made);
    const left = selection.length - shown;
    $("more").hidden = left === 0;
    $("more").textContent = `Show ${Math.min(PAGE, left)} more of ${number(left)}`;
    return $("cards").children[from];
  }

  function card(row) {
    const [label, prediction] = [classes[labels[row]], classes[preds[row]]];
    const sure = percent(confidence[row]);
    const sign = right(row) ? "✓" : "✗";
    const button = make(
      "button",
      { type: "button", className: "card", title: idOf(row) },
      make("span", { className: "tile" }, thumbnail(row), badge(row)),
      make("span", { className: "prediction" }, make("i", { textContent: sure }), `${sign} ${prediction}`),
      make("span", { className: "truth", textContent: right(row) ? "as labeled" : `is ${label}` }),
      make("span", { className: "id" }, make("bdi", { textContent: idOf(row).slice(shared) })),
    );
    if (beside.checked && near?.at.has(row)) button.append(nearest(row));
    button.dataset.row = row;
    button.ariaLabel = `${idOf(row)}: ${label}, predicted ${prediction} at ${sure}, loss ${losses[row].toFixed(2)}`;
    return make("li", {}, button);
  }

  // --- pictures and heat maps ------------------------------------------------------------------

  let pictures = []; // a decoded atlas each
  let trainAtlas = null; // decoded
  let damaged = false; // an atlas could not be decoded
  const levels = []; // of each layer's atlas: Uint8Array, 0 to 15, and its width

  function corner(sheet, tile) {
    const [h, w] = sheet.size;
    return [(tile % sheet.columns) * w, Math.floor(tile / sheet.columns) * h, w, h];
  }

  function drawPicture(canvas, row, factor = 1) {
    const sheet = gallery.sheets[sheetOf(row)];
    const [x, y, w, h] = corner(sheet, tileOf[row]);
    [canvas.width, canvas.height] = [w * factor, h * factor];
    canvas.classList.toggle("photo", isPhoto);
    const context = canvas.getContext("2d", { willReadFrequently: canvas.classList.contains("map") });
    context.imageSmoothingEnabled = isPhoto; // else the pixels stay squares, as the network sees them
    context.drawImage(pictures[sheetOf(row)], x, y, w, h, 0, 0, w * factor, h * factor);
    return context;
  }

  // Nothing, not an empty frame, where the picture was not kept.
  function thumbnail(row) {
    if (sheetOf(row) < 0) return "";
    const canvas = make("canvas");
    drawPicture(canvas, row);
    return canvas;
  }

  // The training images beside a mistake, of either class.
  function nearest(row) {
    const at = near.at.get(row);
    const { each } = neighbors;
    const sides = [0, 1].map((side) => {
      const from = (2 * at + side) * each;
      const tiles = [...near.places.slice(from, from + each)].map((place, i) => [place, near.percents[from + i]]);
      return nearSide(side ? labels[row] : preds[row], side ? "true" : "predicted", tiles);
    });
    return make("span", { className: "near" }, ...sides);
  }

  function nearSide(label, kind, tiles) {
    const made = tiles.filter(([place]) => place > 0).map(([place, percents]) => trainTile(place - 1, percents));
    const head = make("span", { className: "head" }, make("small", { textContent: kind }), classes[label]);
    return make("span", { className: "side" }, head, make("span", { className: "row" }, ...made));
  }

  function trainTile(tile, percents) {
    const id = neighbors.idPrefix + neighbors.ids[tile];
    const like = percents === undefined ? "" : ` ${percents} % similar`;
    const canvas = make("canvas", { role: "img", title: id + (like && `,${like}`), ariaLabel: `training image ${id}${like}` });
    const [x, y, w, h] = corner(neighbors, tile);
    [canvas.width, canvas.height] = [w, h];
    canvas.classList.toggle("photo", isPhoto);
    if (trainAtlas) canvas.getContext("2d").drawImage(trainAtlas, x, y, w, h, 0, 0, w, h);
    return canvas;
  }

  function readMaps() {
    while (levels.length < gallery.maps.length) {
      const atlas = $(`maps-${levels.length}`);
      const canvas = make("canvas", { width: atlas.naturalWidth, height: atlas.naturalHeight });
      const context = canvas.getContext("2d", { willReadFrequently: true });
      context.drawImage(atlas, 0, 0);
      const rgba = context.getImageData(0, 0, canvas.width, canvas.height).data;
      const gray = new Uint8Array(rgba.length / 4);
      for (let i = 0; i < gray.length; i++) gray[i] = Math.round(rgba[4 * i] / LEVEL);
      levels.push({ gray, wide: canvas.width });
    }
  }

  function mapAt(layer, tile) {
    const [x, y, w, h] = corner(gallery.maps[layer], tile);
    const { gray, wide } = levels[layer];
    const map = new Float32Array(w * h);
    for (let i = 0; i < map.length; i++) map[i] = gray[(y + Math.floor(i / w)) * wide + x + (i % w)];
    return { map, w, h };
  }

  // A map of few cells shows them as they are: smooth, it would say more than it knows.
  function inCells({ map, w, h }, wide, tall) {
    const out = new Uint8Array(wide * tall);
    for (let y = 0; y < tall; y++) {
      const from = Math.floor((y * h) / tall) * w;
      for (let x = 0; x < wide; x++) out[y * wide + x] = Math.round(LEVEL * map[from + Math.floor((x * w) / wide)]);
    }
    return out;
  }

  // Bilinear, corners not aligned: the center of a cell stays at its center. To 0..255.
  function enlarge({ map, w, h }, wide, tall) {
    const axis = (from, to) =>
      Array.from({ length: to }, (_, i) => {
        const at = Math.min(Math.max(((i + 0.5) * from) / to - 0.5, 0), from - 1);
        const first = Math.floor(at);
        return [first, Math.min(first + 1, from - 1), at - first];
      });
    const columns = axis(w, wide);
    const out = new Uint8Array(wide * tall);
    axis(h, tall).forEach(([top, bottom, down], y) => {
      columns.forEach(([left, rightmost, across], x) => {
        const above = map[top * w + left] * (1 - across) + map[top * w + rightmost] * across;
        const below = map[bottom * w + left] * (1 - across) + map[bottom * w + rightmost] * across;
        out[y * wide + x] = Math.round(LEVEL * (above * (1 - down) + below * down));
      });
    });
    return out;
  }

  // --- one image -------------------------------------------------------------------------------

  const viewer = $("viewer");
  const opacity = $("opacity");
  let rows = []; // that the viewer goes through
  let at = 0;
  let opener = null;
  let overlays = []; // { canvas, base, map } of the image that is shown

  function open(list, position, from) {
    [rows, at, opener] = [list, position, from];
    show();
    viewer.showModal();
    $("close").focus();
  }

  function step(by) {
    if (at + by < 0 || at + by >= rows.length) return;
    at += by;
    show();
  }

  function show() {
    const row = rows[at];
    const [label, prediction] = [classes[labels[row]], classes[preds[row]]];
    $("viewer-title").textContent = right(row) ? `✓ ${prediction}, as labeled` : `✗ ${label}, taken for ${prediction}`;
    $("viewer-id").textContent = `${idOf(row)} · loss ${losses[row].toFixed(3)}`;
    $("viewer-place").textContent = `${number(at + 1)} of ${number(rows.length)}`;
    $("previous").disabled = at === 0;
    $("next").disabled = at === rows.length - 1;
    const facts = fact(`predicted: ${prediction}`, confidence[row], "");
    if (!right(row)) facts.push(...fact(`true: ${label}`, Math.exp(-losses[row]), " other"));
    $("viewer-facts").replaceChildren(...facts);
    const cause = document.querySelectorAll(".causes h3")[causeOf.get(row)];
    $("viewer-cause").textContent = cause ? `Why: ${cause.textContent}` : "";
    const title = make("p", { textContent: "Nearest training images" });
    $("viewer-near").replaceChildren(...(near?.at.has(row) ? [title, nearest(row)] : []));
    $("strip").replaceChildren(strip(row, label));
    showMark(row);
    $("viewer-tools").hidden = overlays.length === 0;
    $("viewer-note").textContent = remark(row);
    blend();
  }

  function fact(text, share, kind) {
    const meter = make("span", { className: `meter${kind}` }, make("i"));
    meter.style.setProperty("--share", share);
    return [make("span", { textContent: text }), meter, make("span", { textContent: percent(share, share < 0.01 ? 2 : 1) })];
  }

  function remark(row) {
    if (!gallery) return "There are no pictures in this report.";
    if (damaged) return "The pictures of this run are damaged; resight explain makes them again.";
    if (sheetOf(row) < 0) return "The picture of this image is not kept, for size.";
    if (!hasMaps(row)) {
      return `${pixels(row)}There is no heat map of this image; they are kept for ${number(gallery.mapped)} images (choose "with heat maps").`;
    }
    return `${pixels(row)}${gallery.method}: what speaks for a class, layer by layer, from early to late. The maps of an image at a layer share one scale; 100 % shows the map alone.`;
  }

  // Nobody should look for something in a photo that the network could not see.
  function pixels(row) {
    const px = isPhoto ? gallery.sheets[sheetOf(row)].size[1] : 0;
    return px > gallery.seen ? `Shown at ${px} px; the network saw ${gallery.seen} px. ` : "";
  }

  function strip(row, label) {
    overlays = [];
    if (!gallery || sheetOf(row) < 0) return "";
    const factor = Math.max(1, Math.round(264 / gallery.sheets[sheetOf(row)].size[1]));
    const picture = make("canvas", { className: "picture", role: "img", ariaLabel: `the image, labeled ${label}` });
    drawPicture(picture, row, factor);
    if (!hasMaps(row)) return picture;
    readMaps();
    const head = make("tr", {}, make("td"), make("th", { scope: "col" }, make("b", { textContent: "image" })));
    gallery.maps.forEach(({ layer, whole: [h, w], size }) => {
      const coarse = isCoarse([h, w]) ? ", too coarse to say where" : "";
      const kept = size[0] < h || size[1] < w ? `, kept as ${size.join(" × ")}` : "";
      head.append(make("th", { scope: "col" }, make("b", { textContent: layer }), `${h} × ${w} map${kept}${coarse}`));
    });
    const lines = [line(row, "predicted", classes[preds[row]], mapOf[row], picture, factor)];
    if (hasTrueMap(row)) lines.push(line(row, "true", label, trueMapOf[row], null, factor));
    return make("table", {}, make("thead", {}, head), make("tbody", {}, ...lines));
  }

  function line(row, kind, name, tile, picture, factor) {
    const made = make(
      "tr",
      {},
      make("th", { scope: "row" }, make("small", { textContent: `for ${kind}` }), name),
      make("td", {}, ...(picture ? [picture] : [])),
    );
    gallery.maps.forEach(({ layer, whole: own }, i) => {
      const canvas = make("canvas", { role: "img", className: "map" });
      const context = drawPicture(canvas, row, factor);
      const small = mapAt(i, tile);
      const where = strongest(small);
      canvas.ariaLabel = `${layer}: what speaks for ${name} is ${where ?? "nothing"}`;
      overlays.push({
        context,
        base: context.getImageData(0, 0, canvas.width, canvas.height),
        map: (isCoarse(own) ? inCells : enlarge)(small, canvas.width, canvas.height),
        cells: isCoarse(own) ? [small.h, small.w] : null,
      });
      const cell = make("td", {}, canvas);
      if (where === null) cell.append(make("p", { textContent: "Nothing here speaks for it." }));
      made.append(cell);
    });
    return made;
  }

  const isCoarse = (size) => Math.min(...size) < data.coarse;

  // In words, for those who cannot see it; null if the map is empty.
  function strongest({ map, w, h }) {
    const most = Math.max(...map);
    if (most === 0) return null;
    const peak = map.indexOf(most);
    const down = ["top", "middle", "bottom"][Math.floor((3 * (Math.floor(peak / w) + 0.5)) / h)];
    const across = ["left", "center", "right"][Math.floor((3 * ((peak % w) + 0.5)) / w)];
    return `strongest at the ${down} ${across}`;
  }

  // The color covers the image where there is evidence, and all of it at 100 %.
  function blend() {
    const full = Number(opacity.value) / 100;
    const shares = Float32Array.from({ length: 256 }, (_, level) => full * (level / 255) ** (1 - full));
    $("opacity-value").textContent = `${opacity.value} %`;
    opacity.setAttribute("aria-valuetext", `${opacity.value} %`);
    for (const { context, base, map, cells } of overlays) {
      const mixed = new ImageData(base.width, base.height);
      for (let i = 0; i < map.length; i++) {
        const share = shares[map[i]];
        for (let c = 0; c < 3; c++) {
          mixed.data[4 * i + c] = (1 - share) * base.data[4 * i + c] + share * data.palette[3 * map[i] + c];
        }
        mixed.data[4 * i + 3] = 255;
      }
      context.putImageData(mixed, 0, 0);
      if (cells) drawEdges(context, cells, 2 * full * (1 - full));
    }
  }

  // Neither on the image alone nor on the map alone.
  function drawEdges(context, [h, w], strength) {
    if (strength === 0) return;
    const { width, height } = context.canvas;
    context.fillStyle = `rgb(255 255 255 / ${strength})`;
    for (let x = 1; x < w; x++) context.fillRect(Math.round((x * width) / w), 0, 1, height);
    for (let y = 1; y < h; y++) context.fillRect(0, Math.round((y * height) / h), width, 1);
  }

  function drawLegend() {
    const context = $("legend").getContext("2d");
    for (let i = 0; i < 256; i++) {
      context.fillStyle = `rgb(${data.palette.slice(3 * i, 3 * i + 3).join(" ")})`;
      context.fillRect(i, 0, 1, 1);
    }
  }

  // --- confusion matrix ------------------------------------------------------------------------

  const grid = []; // [line][column] of cells; line and column 0 are names

  function drawMatrix() {
    const k = classes.length;
    const totals = new Array(k).fill(0);
    const cells = new Map();
    let most = 1;
    for (const [t, p, n] of data.confusion) {
      totals[t] += n;
      cells.set(t * k + p, n);
      if (t !== p) most = Math.max(most, n);
    }
    drawPairs();
    if (k > MATRIX) {
      $("matrix-note").textContent = `With ${number(k)} classes there is no matrix; choose a pair below, or classes in the filters.`;
      return;
    }
    const table = $("matrix");
    table.classList.toggle("many", k > 20);
    const head = make("tr", {}, make("td", { className: "corner" }));
    grid.push([null]);
    classes.forEach((name, p) => {
      const cell = make("th", { scope: "col", title: name }, make("span", { textContent: name }));
      prepare(cell, `predicted ${name}, all`, -1, p);
      head.append(cell);
      grid[0].push(cell);
    });
    table.append(make("thead", {}, head));
    const body = make("tbody");
    classes.forEach((name, t) => {
      const cell = make("th", { scope: "row", title: name, textContent: name });
      prepare(cell, `${name}, all ${number(totals[t])}`, t, -1);
      grid.push([cell]);
      const line = make("tr", {}, cell);
      classes.forEach((other, p) => {
        const n = cells.get(t * k + p) ?? 0;
        const share = t === p ? (0.6 * n) / Math.max(totals[t], 1) : Math.sqrt(n / most);
        const kind = `${t === p ? "same" : ""}${n === 0 ? " none" : ""}${t === p || share < 0.6 ? "" : share < 0.8 ? " deep" : " deep deepest"}`;
        const made = make("td", { className: kind, textContent: n === 0 && t !== p ? "·" : number(n) });
        made.style.setProperty("--share", share.toFixed(3));
        made.title = `${name} → ${other}: ${number(n)}`;
        prepare(made, `${name} taken for ${other}: ${number(n)}`, t, p);
        line.append(made);
        grid.at(-1).push(made);
      });
      body.append(line);
    });
    table.append(body);
    (grid[1]?.[1] ?? table).tabIndex = 0; // one stop for the tab key; arrows go on from there
    table.addEventListener("keydown", moveInMatrix);
  }

  function prepare(cell, label, t, p) {
    cell.tabIndex = -1;
    cell.setAttribute("aria-label", label);
    cell.setAttribute("aria-selected", "false");
    cell.addEventListener("click", () => {
      stop(cell);
      choose(t, p);
    });
  }

  function stop(cell) {
    for (const other of $("matrix").querySelectorAll('[tabindex="0"]')) other.tabIndex = -1;
    cell.tabIndex = 0;
  }

  function moveInMatrix(event) {
    const cell = event.target.closest("th, td");
    const line = grid.findIndex((cells) => cells.includes(cell));
    if (line < 0) return;
    const column = grid[line].indexOf(cell);
    const last = classes.length;
    const to = {
      ArrowUp: [line - 1, column],
      ArrowDown: [line + 1, column],
      ArrowLeft: [line, column - 1],
      ArrowRight: [line, column + 1],
      Home: [line, line === 0 ? 1 : 0],
      End: [line, last],
    }[event.key];
    if (to) {
      const next = grid[to[0]]?.[to[1]];
      if (next) {
        stop(next);
        next.focus();
      }
    } else if (event.key === "Enter" || event.key === " ") cell.click();
    else if (event.key === "Escape") reset();
    else return;
    event.preventDefault();
  }

  function markMatrix(t, p) {
    grid.forEach((cells, line) =>
      cells.forEach((cell, column) => cell?.setAttribute("aria-selected", String(line - 1 === t && column - 1 === p))),
    );
  }

  function drawPairs() {
    const pairs = data.confusion.filter(([t, p]) => t !== p).sort((a, b) => b[2] - a[2]);
    for (const [t, p, n] of pairs.slice(0, classes.length > MATRIX ? 40 : 8)) {
      const arrow = make("span", { className: "into", textContent: " taken for " });
      const button = make("button", { type: "button" }, make("b", { textContent: number(n) }), ` ${classes[t]}`, arrow, classes[p]);
      button.addEventListener("click", () => choose(t, p));
      $("pairs").append(make("li", {}, button));
    }
    if (pairs.length === 0) $("pairs").append(make("li", { className: "note", textContent: "No image was taken for another class." }));
  }

  // --- why it was wrong ------------------------------------------------------------------------

  const STRIP = 8; // images of a cause that are shown at once

  function drawStrips() {
    for (const place of document.querySelectorAll("[data-set]")) {
      const value = Number(place.dataset.set);
      const { rows, near: sides } = sets[value];
      rows.slice(0, STRIP).forEach((row, position) => {
        const [label, prediction] = [classes[labels[row]], classes[preds[row]]];
        const picture = thumbnail(row);
        const button = make("button", { type: "button", className: "tile" }, picture || `${label} → ${prediction}`, badge(row));
        button.dataset.row = row;
        button.title = `${label}, taken for ${prediction}`;
        button.ariaLabel = `${idOf(row)}: ${label}, taken for ${prediction}`;
        button.addEventListener("click", () => {
          chooseSet(value);
          open(rows, position, button);
        });
        place.append(button);
      });
      const all = make("button", { type: "button", textContent: rows.length > 1 ? `All ${number(rows.length)}` : "Show it" });
      all.addEventListener("click", () => {
        chooseSet(value);
        $("images").scrollIntoView();
        document.querySelector(".card")?.focus({ preventScroll: true });
      });
      place.append(all);
      if (!neighbors || !sides.some((side) => side.length)) continue;
      const names = rows.length ? [labels[rows[0]], preds[rows[0]]] : [];
      const made = sides.map((side, i) => nearSide(names[i], i ? "predicted" : "true", side.map((tile) => [tile])));
      place.append(make("span", { className: "near" }, ...made));
    }
  }

  // --- marks -----------------------------------------------------------------------------------

  const KEY = `resight marks ${data.run}`;
  const marks = new Map(); // row -> "keep", "drop" or the number of the right class

  function readMarks() {
    try {
      for (const [row, mark] of Object.entries(JSON.parse(localStorage.getItem(KEY)) ?? {})) {
        const valid = mark === "keep" || mark === "drop" || (Number.isInteger(mark) && classes[mark] !== undefined);
        if (valid && Number(row) < count) marks.set(Number(row), mark);
      }
    } catch {
      // Nothing is remembered here, or not by this page: the marks last as long as the page is open.
    }
  }

  function setMark(row, mark) {
    if (mark === undefined || marks.get(row) === mark) marks.delete(row);
    else marks.set(row, mark);
    saveMarks();
    paintMarks(row);
  }

  function saveMarks() {
    try {
      if (marks.size) localStorage.setItem(KEY, JSON.stringify(Object.fromEntries(marks)));
      else localStorage.removeItem(KEY);
    } catch {
      // as above
    }
  }

  function markText(row) {
    const mark = marks.get(row);
    return mark === undefined ? "" : Number.isInteger(mark) ? `→ ${classes[mark]}` : mark;
  }

  function badge(row) {
    const made = make("span", { className: "badge", textContent: markText(row) });
    made.dataset.badge = row;
    return made;
  }

  function paintMarks(row) {
    const which = row === undefined ? "[data-badge]" : `[data-badge="${row}"]`;
    for (const made of document.querySelectorAll(which)) made.textContent = markText(made.dataset.badge | 0);
    const all = [...marks.values()];
    const [drop, keep] = ["drop", "keep"].map((kind) => all.filter((mark) => mark === kind).length);
    const wrong = all.length - drop - keep;
    $("marks").hidden = all.length === 0;
    $("marks-count").textContent = `Marked: ${number(wrong)} wrong label${wrong === 1 ? "" : "s"}, ${number(drop)} to drop, ${number(keep)} to keep`;
    $("labels-csv").disabled = wrong === 0;
    $("exclude-csv").disabled = drop === 0;
    $("marks-clear").textContent = "Clear";
    if (viewer.open) showMark(rows[at]);
    if (part.value === "marked" && !viewer.open) select();
  }

  // The class that an image should perhaps have; -1 if nothing says so.
  const otherClass = (row) => suggested.get(row) ?? (right(row) ? -1 : preds[row]);

  function showMark(row) {
    const mark = marks.get(row);
    const isLabel = Number.isInteger(mark);
    for (const kind of ["keep", "drop"]) $(`mark-${kind}`).setAttribute("aria-pressed", String(mark === kind));
    $("mark-label").setAttribute("aria-pressed", String(isLabel));
    $("mark-class").value = isLabel ? mark : otherClass(row);
  }

  // Without a class to choose, the person has to.
  function markLabel(row, chosen) {
    if (Number.isInteger(marks.get(row))) setMark(row);
    else if (chosen >= 0 && chosen !== labels[row]) setMark(row, chosen);
    else if (viewer.open) $("mark-class").focus();
  }

  function markByKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea")) return;
    if (event.key === "?" && !document.querySelector("dialog[open]")) $("help").showModal();
    const chosen = event.target.closest("[data-row]");
    if (!viewer.open && !chosen) return;
    const row = viewer.open ? rows[at] : Number(chosen.dataset.row);
    const key = event.key.toLowerCase();
    if (key === "k") setMark(row, "keep");
    else if (key === "d") setMark(row, "drop");
    else if (key === "w") markLabel(row, viewer.open ? Number($("mark-class").value) : otherClass(row));
    else if (key === "c" && viewer.open) $("mark-class").focus();
    else return;
    event.preventDefault();
  }

  // A second click clears: what a person has looked at for an hour is not lost by one.
  function clearMarks() {
    if ($("marks-clear").textContent === "Clear") {
      $("marks-clear").textContent = `Clear all ${number(marks.size)}?`;
      return;
    }
    marks.clear();
    saveMarks();
    paintMarks();
  }

  const marked = (kind) => [...marks].filter(([, mark]) => kind(mark)).sort((a, b) => a[0] - b[0]);

  function wireMarks() {
    readMarks();
    $("mark-class").append(new Option("choose a class", -1), ...classes.map((name, k) => new Option(name, k)));
    $("mark-keep").addEventListener("click", () => setMark(rows[at], "keep"));
    $("mark-drop").addEventListener("click", () => setMark(rows[at], "drop"));
    $("mark-label").addEventListener("click", () => markLabel(rows[at], Number($("mark-class").value)));
    $("mark-class").addEventListener("change", () => {
      const chosen = Number($("mark-class").value);
      setMark(rows[at], chosen >= 0 && chosen !== labels[rows[at]] ? chosen : undefined);
    });
    $("marks-show").addEventListener("click", () => {
      chooseSet("marked");
      $("images").scrollIntoView();
    });
    $("marks-clear").addEventListener("click", clearMarks);
    $("labels-csv").addEventListener("click", () => {
      const lines = marked(Number.isInteger).map(([row, mark]) => `${cell(idOf(row))},${cell(classes[mark])}`);
      save("labels.csv", ["id,label", ...lines]);
    });
    $("exclude-csv").addEventListener("click", () => {
      save("exclude.csv", ["id", ...marked((mark) => mark === "drop").map(([row]) => cell(idOf(row)))]);
    });
    document.addEventListener("keydown", markByKey);
    paintMarks();
  }

  // --- download --------------------------------------------------------------------------------

  // Quoted; a spreadsheet would run a cell that begins like a formula, so an apostrophe goes first,
  // as in the CSV files of the run (files.py).
  const cell = (value) => `"${value.replace(/^(?='*[=+\-@\t\r])/, "'").replaceAll('"', '""')}"`;

  function download() {
    const lines = ["id,truth,prediction,confidence,loss,correct"];
    for (const row of selection) {
      const names = [idOf(row), classes[labels[row]], classes[preds[row]]].map(cell);
      const values = [confidence[row], losses[row]].map((x) => String(Number(x.toPrecision(7))));
      lines.push([...names, ...values, right(row) ? "True" : "False"].join(","));
    }
    save(data.file, lines);
  }

  function save(name, lines) {
    const url = URL.createObjectURL(new Blob([`${lines.join("\n")}\n`], { type: "text/csv" }));
    make("a", { href: url, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  }

  // --- start -----------------------------------------------------------------------------------

  function wire() {
    for (const list of [trueClass, predClass]) {
      list.append(new Option("any", -1), ...classes.map((name, k) => new Option(name, k)));
    }
    part.append(new Option("any", "all"), ...sets.map(({ name }, k) => new Option(name, k)));
    if (suggested.size) part.append(new Option("label may be wrong", "issues"));
    part.append(new Option("marked by you", "marked"));
    $("set-label").hidden = false;
    for (const control of controls) control.addEventListener("input", select);
    $("filters").addEventListener("submit", (event) => event.preventDefault());
    $("mapped-label").hidden = !gallery?.mapped;
    $("beside-label").hidden = !neighbors;
    $("help-open").addEventListener("click", () => $("help").showModal());
    $("help-close").addEventListener("click", () => $("help").close());
    $("reset").addEventListener("click", reset);
    $("csv").addEventListener("click", download);
    $("more").addEventListener("click", () => showMore().querySelector("button").focus());
    $("cards").addEventListener("click", (event) => {
      const button = event.target.closest(".card");
      if (button) open(selection, selection.indexOf(Number(button.dataset.row)), button);
    });
    $("previous").addEventListener("click", () => step(-1));
    $("next").addEventListener("click", () => step(1));
    $("close").addEventListener("click", () => viewer.close());
    opacity.addEventListener("input", blend);
    viewer.addEventListener("click", (event) => event.target === viewer && viewer.close());
    viewer.addEventListener("keydown", (event) => {
      if (event.target.closest("input, select")) return;
      if (event.key === "ArrowLeft") step(-1);
      if (event.key === "ArrowRight") step(1);
    });
    viewer.addEventListener("close", () => {
      const inGrid = rows === selection;
      if (part.value === "marked") select(); // some may be marked no more
      const current = inGrid && document.querySelector(`.card[data-row="${rows[at]}"]`);
      (current || opener)?.focus();
    });
  }

  function wireLabels() {
    if (suggested.size) {
      const all = [...suggested.keys()];
      $("review").hidden = false;
      $("review").addEventListener("click", () => open(all, 0, $("review")));
    }
    const lines = [...document.querySelectorAll("#labels tr[data-id]")];
    if (lines.length === 0) return;
    const rowOf = new Map(data.ids.map((_, row) => [idOf(row), row]));
    const known = lines.filter((line) => rowOf.has(line.dataset.id));
    const list = known.map((line) => rowOf.get(line.dataset.id));
    const head = document.querySelector("#labels thead tr");
    head.prepend(make("td"));
    if (neighbors) head.append(make("th", { scope: "col", textContent: "nearest training images" }));
    head.append(make("th", { scope: "col", textContent: "mark" }));
    lines.forEach((line) => line.prepend(make("td", { className: "thumb" })));
    known.forEach((line, position) => {
      const row = list[position];
      const where = line.querySelector("td.id");
      const button = make("button", { type: "button", textContent: where.textContent });
      button.addEventListener("click", () => open(list, position, button));
      where.replaceChildren(button);
      line.dataset.row = row;
      line.querySelector(".thumb").append(thumbnail(row));
      if (neighbors) line.append(make("td", { className: "train" }, ...(near.at.has(row) ? [nearest(row)] : [])));
      line.append(make("td", {}, badge(row)));
    });
  }

  async function start() {
    wire();
    drawLegend();
    drawMatrix();
    try {
      await Promise.all([...document.querySelectorAll('img[id^="maps-"]')].map((atlas) => atlas.decode()));
      pictures = await Promise.all(
        [...document.querySelectorAll('img[id^="pictures-"]')].map(async (atlas) => {
          await atlas.decode();
          return createImageBitmap(atlas);
        }),
      );
      if (neighbors) {
        await $("train").decode();
        trainAtlas = await createImageBitmap($("train"));
      }
    } catch {
      damaged = true; // everything else works without pictures
      place.fill(0);
    }
    wireMarks();
    drawStrips();
    wireLabels();
    reset();
    document.documentElement.dataset.ready = "";
  }

  start();
})();
