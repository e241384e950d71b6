"""The elements, style sheet and script of `label_page`."""

BODY = """<section class="classes">
<form id="add">
<input id="name" autocomplete="off" placeholder="classes, such as: cat, dog" aria-label="Classes">
<button>Add</button>
</form>
<p class="quiet small keys">Keys: 1 to 9 assign a class, arrows move, Backspace clears, U
undoes<span id="accept-key" hidden>, Enter accepts the suggestion</span>.</p>
</section>
<section id="work">
<div class="view"><img id="image" alt=""></div>
<div class="side">
<div class="head"><span id="progress" class="number" aria-live="polite"></span>
<button id="undo">Undo</button><button id="save" class="primary">Save</button></div>
<div class="track"><span class="fill" id="bar"></span></div>
<p class="path quiet small" id="path"></p>
<button id="accept" hidden></button>
<div id="classes"></div>
</div>
</section>
<section><div id="grid"></div></section>
"""

CSS = """
main { max-width: 76rem; }
button, input { font: inherit; color: inherit; border: 1px solid var(--line); border-radius: 8px;
  background: var(--page); min-height: 2.75rem; padding: 0.3rem 0.9rem; }
button { cursor: pointer; }
button:disabled { opacity: 0.45; cursor: default; }
button.primary { background: var(--accent); border-color: var(--accent); color: var(--card);
  font-weight: 600; }
form { display: flex; gap: 0.5rem; }
input { flex: 1; min-width: 0; cursor: text; }
#work { position: sticky; top: 0; z-index: 1; display: grid; gap: 1rem;
  grid-template-columns: minmax(0, 22rem) minmax(0, 1fr); }
.view { height: min(22rem, 45vh); display: grid; place-items: center; background: var(--track);
  border-radius: 8px; }
#image { width: 100%; height: min(22rem, 45vh); object-fit: contain; }
.pixels { image-rendering: pixelated; }
.side { display: flex; flex-direction: column; gap: 0.6rem; min-width: 0; }
.side p { margin: 0; }
.head { display: flex; align-items: center; gap: 0.5rem; }
#progress { flex: 1; font-weight: 600; }
.track { height: 0.5rem; flex: none; }
.fill { background: var(--accent); }
#accept { text-align: left; border-style: dashed; }
#classes { display: flex; flex-wrap: wrap; gap: 0.5rem; max-height: 11rem; overflow-y: auto; }
.class { display: inline-flex; align-items: center; gap: 0.45rem; }
.class[aria-pressed="true"] { border-color: var(--accent); box-shadow: 0 0 0 1px var(--accent); }
.class kbd { font: 0.8rem ui-monospace, Menlo, Consolas, monospace; color: var(--quiet); }
.class .count { color: var(--quiet); font-size: 0.85rem; }
.remove { min-height: 0; border: 0; padding: 0 0.2rem; background: none; color: var(--quiet); }
#grid { display: grid; gap: 0.5rem; grid-template-columns: repeat(auto-fill, minmax(5.5rem, 1fr)); }
.tile { padding: 0.2rem; display: block; min-width: 0; font-size: 0.8rem; line-height: 1.3;
  scroll-margin-top: calc(min(22rem, 45vh) + 4rem); }
.tile img { display: block; width: 100%; aspect-ratio: 1; object-fit: contain; border-radius: 5px;
  background: var(--track); }
.tile span { display: block; min-height: 1.3em; overflow: hidden; white-space: nowrap;
  text-overflow: ellipsis; font-weight: 600; color: var(--accent); }
.tile[aria-current="true"] { border-color: var(--text); box-shadow: 0 0 0 2px var(--text); }
@media (hover: none) { .keys, .class kbd { display: none; } }  /* no keyboard */
@media (max-width: 40rem) {
  main { padding: 0.5rem 0.5rem 2rem; }
  #work { grid-template-columns: minmax(0, 1fr); gap: 0.6rem; padding: 0.6rem; }
  .view, #image { height: 32vh; }
  .side { gap: 0.45rem; }
  #classes { max-height: 9.5rem; }
  #grid { grid-template-columns: repeat(auto-fill, minmax(4.5rem, 1fr)); }
  .tile { scroll-margin-top: calc(32vh + 19rem); }
}
"""

SCRIPT = r"""
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const images = data.images;
const $ = (id) => document.getElementById(id);
const make = (tag, properties, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};

// classes: names in the order of their keys; labels: the class of each image, or null.
let classes = [...data.classes], labels = images.map(() => null);
let current = 0, saved = true;
const before = [];  // states to undo to

const kept = "labels " + data.key;
try {
  const stored = JSON.parse(localStorage.getItem(kept));
  if (stored) ({classes, labels} = stored);
} catch (error) {}  // no storage: labels last as long as the page
const keep = () => {
  try { localStorage.setItem(kept, JSON.stringify({classes, labels})); } catch (error) {}
};

const tiles = images.map((image, index) => {
  const picture = make("img", {alt: image.path, src: image.source});
  const tile = make("button", {className: "tile", title: image.path}, picture, make("span"));
  tile.addEventListener("click", () => show(index));
  return tile;
});
$("grid").append(...tiles);
for (const picture of document.querySelectorAll(".tile img")) {
  const sharpen = () => picture.classList.toggle("pixels", picture.naturalWidth < 64);
  picture.complete ? sharpen() : picture.addEventListener("load", sharpen);
}

function show(index) {
  current = index;
  draw();
  tiles[current].scrollIntoView({block: "nearest"});
}

function nextUnlabeled() {
  const order = images.map((_, offset) => (current + 1 + offset) % images.length);
  return order.find((index) => labels[index] === null) ?? current;
}

function assign(name) {
  before.push({index: current, label: labels[current]});
  labels[current] = name;
  changed();
  show(name === null ? current : nextUnlabeled());
}

function undo() {
  const last = before.pop();
  if (!last) return;
  labels[last.index] = last.label;
  changed();
  show(last.index);
}

function changed() {
  saved = false;
  keep();
}

function add(text) {
  const names = text.split(",").map((name) => name.trim()).filter(Boolean);
  classes = [...new Set([...classes, ...names])];
  keep();
  draw();
}

function csv() {
  // An apostrophe before what a spreadsheet would take for a formula, as in tf2/cells.py.
  const plain = (text) => /^'*[=+\-@\t\r]/.test(text) ? "'" + text : text;
  const quoted = (text) => '"' + text.replaceAll('"', '""') + '"';
  const cell = (text) => /[",;\t\r\n]/.test(text) ? quoted(plain(text)) : plain(text);
  const here = images.map((image, index) => [image.path, labels[index], ""])
    .filter((row) => row[1] !== null);
  const rows = [...data.earlier, ...here];
  const columns = rows.some((row) => row[2]) ? 3 : 2;
  const table = [["path", "label", "split"], ...rows];
  return table.map((row) => row.slice(0, columns).map(cell).join(",") + "\n").join("");
}

function save() {
  const address = URL.createObjectURL(new Blob([csv()], {type: "text/csv"}));
  const link = make("a", {href: address, download: "labels.csv"});
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
  saved = true;
}

function draw() {
  const image = images[current], done = labels.filter((label) => label !== null).length;
  $("image").src = image.source;
  $("image").alt = image.path;
  $("image").className = tiles[current].firstChild.className;
  $("path").textContent = image.path;
  $("progress").textContent = `${done} of ${images.length} labeled`;
  $("bar").style.width = 100 * done / images.length + "%";
  $("undo").disabled = !before.length;
  $("save").disabled = !done;
  $("accept").hidden = $("accept-key").hidden = !image.suggestion;
  if (image.suggestion) {
    const percent = Math.round(100 * image.probability);
    $("accept").textContent = `Predicted: ${image.suggestion}, ${percent} %`;
  }
  tiles.forEach((tile, index) => {
    tile.lastChild.textContent = labels[index] ?? "";
    tile.setAttribute("aria-current", index === current);
  });
  $("classes").replaceChildren(...classes.map((name, number) => {
    const count = labels.filter((label) => label === name).length;
    const button = make("button", {className: "class"}, name);
    if (number < 9) button.prepend(make("kbd", {}, String(number + 1)));
    if (count) button.append(make("span", {className: "count"}, String(count)));
    button.setAttribute("aria-pressed", labels[current] === name);
    button.addEventListener("click", () => assign(name));
    if (count) return button;
    const remove = make("button", {className: "remove", title: "Remove " + name}, "\u00d7");
    remove.addEventListener("click", () => {
      classes = classes.filter((other) => other !== name);
      keep();
      draw();
    });
    return make("span", {}, button, remove);
  }));
}

const accept = () => { add(images[current].suggestion); assign(images[current].suggestion); };
$("accept").addEventListener("click", accept);
$("undo").addEventListener("click", undo);
$("save").addEventListener("click", save);
$("add").addEventListener("submit", (event) => {
  event.preventDefault();
  add($("name").value);
  $("name").value = "";
  $("name").blur();
});
document.addEventListener("keydown", (event) => {
  if (event.target === $("name") || event.altKey) return;
  const control = event.ctrlKey || event.metaKey, pressed = event.key.toLowerCase();
  const actions = {
    arrowright: () => show(Math.min(current + 1, images.length - 1)),
    arrowleft: () => show(Math.max(current - 1, 0)),
    backspace: () => assign(null),
    delete: () => assign(null),
    u: undo,
    enter: images[current].suggestion ? accept : undefined,
  };
  const named = classes[Number(pressed) - 1];
  let action = pressed.length === 1 && named !== undefined ? () => assign(named) : actions[pressed];
  if (control) action = {z: undo, s: save}[pressed];
  if (!action || (pressed === "enter" && event.target.tagName === "BUTTON")) return;
  event.preventDefault();
  action();
});
window.addEventListener("beforeunload", (event) => { if (!saved) event.preventDefault(); });
show(labels[0] === null ? 0 : nextUnlabeled());
"""
