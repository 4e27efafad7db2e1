// The walk theatre: plays the scenes of one page walk, which all come at once, so that stepping needs no kernel.
//
// It holds no truth: a control is a question to the kernel, which answers with the scenes of another walk. State comes
// through a plain core model, the feed (traits walk, step, note), as for the stage: see stage.js.

const STORES = new WeakMap();
const SPEEDS = [1, 2, 4, 8];

function storeOf(feed) {
  if (!STORES.has(feed)) STORES.set(feed, createStore(feed));
  return STORES.get(feed);
}

function createStore(feed) {
  const store = { feed, views: new Set(), walk: null, step: 0, playing: false, speed: 2, timer: 0, asked: false };
  feed.on("change:walk", () => takeWalk(store));
  feed.on("change:step", () => {
    if (!store.saving && feed.get("step") !== store.step) go(store, feed.get("step"));
  });
  feed.on("change:note", () => {
    store.asked = false;
    for (const view of store.views) view.note(feed.get("note").text);
  });
  takeWalk(store);
  return store;
}

function takeWalk(store) {
  const walk = store.feed.get("walk");
  if (!walk || !walk.scenes || (store.walk && store.walk.serial === walk.serial)) return;
  pause(store);
  store.walk = walk;
  store.asked = false;
  store.step = clamp(store.feed.get("step") || 0, 0, walk.scenes.length - 1);
  for (const view of store.views) view.rebuild();
}

const last = (store) => store.walk.scenes.length - 1;

function go(store, step) {
  if (!store.walk) return;
  store.step = clamp(step, 0, last(store));
  for (const view of store.views) view.paint();
  clearTimeout(store.saver); // a courtesy to the kernel: nothing waits for it
  store.saver = setTimeout(() => {
    store.saving = true;
    store.feed.set("step", store.step);
    store.saving = false;
    store.feed.save_changes();
  }, 200);
}

function walkTo(store, step) {
  pause(store);
  go(store, step);
}

// The next or the previous scene that is not a host's table: the guest's own entries, and the ends.
function seek(store, direction) {
  let step = store.step + direction;
  while (step > 0 && step < last(store) && store.walk.scenes[step].entry?.owner === "host" && store.walk.scenes[step].kind !== "end") step += direction;
  walkTo(store, step);
}

function play(store) {
  if (!store.walk) return;
  if (store.step >= last(store)) go(store, 0);
  store.playing = true;
  const tick = () => {
    if (!store.playing) return;
    go(store, store.step + 1);
    if (store.step >= last(store)) pause(store);
    else store.timer = setTimeout(tick, 1000 / store.speed);
  };
  store.timer = setTimeout(tick, 1000 / store.speed);
  for (const view of store.views) view.paint();
}

function pause(store) {
  if (!store.playing) return;
  store.playing = false;
  clearTimeout(store.timer);
  for (const view of store.views) view.paint();
}

function ask(store, message) {
  store.asked = true;
  for (const view of store.views) view.root.setAttribute("aria-busy", "true");
  store.feed.send(message);
}

// ------------------------------------------------------------------------------------------------------- the controls

const BUTTONS = [
  ["first", "To the start", "Home", (store) => walkTo(store, 0)],
  ["previous", "Previous table of the guest", "p", (store) => seek(store, -1)],
  ["back", "Step back", "←", (store) => walkTo(store, store.step - 1)],
  ["play", "Play", "Space", (store) => (store.playing ? pause(store) : play(store))],
  ["step", "Step", "→", (store) => walkTo(store, store.step + 1)],
  ["next", "Next table of the guest", "n", (store) => seek(store, 1)],
  ["last", "To the end", "End", (store) => walkTo(store, last(store))],
];
const ACTIONS = Object.fromEntries(BUTTONS.map(([name, , , action]) => [name, action]));
const KEYS = { ArrowLeft: "back", ArrowRight: "step", " ": "play", n: "next", p: "previous", Home: "first", End: "last" };

function keyboard(root, store) {
  root.addEventListener("keydown", (event) => {
    const { tagName, type } = event.target;
    if (event.ctrlKey || event.metaKey || event.altKey || tagName === "SELECT" || (tagName === "INPUT" && type === "text")) return;
    if (event.key === " " && (tagName === "BUTTON" || tagName === "SUMMARY" || type === "checkbox")) return; // its own key
    const name = KEYS[event.key];
    if (!name || !store.walk) return;
    event.preventDefault();
    event.stopPropagation();
    ACTIONS[name](store);
  });
}

function buildControl(store, { name, label, kind, options, value }) {
  const send = (given) => ask(store, { type: "set", name, value: given });
  if (kind === "choice") return select(name, label, options.map((each) => [each, each]), value, send);
  if (kind === "check") {
    const box = make("input", { type: "checkbox", "data-testid": name, "aria-label": label });
    box.checked = value;
    box.addEventListener("change", () => send(box.checked));
    return make("label", { class: "vm-choice" }, box, make("span", {}, label));
  }
  const box = make("input", { type: "text", "data-testid": name, "aria-label": label, spellcheck: "false", size: name === "address" ? "18" : "7" });
  box.value = value;
  box.addEventListener("change", () => send(box.value));
  return make("label", { class: "vm-choice" }, make("span", {}, label), box);
}

function buildToolbar(store) {
  const { walk } = store;
  const bar = make("header", { class: "vm-toolbar" });
  if (!walk.controls.some((control) => control.name === "guest_format")) bar.append(make("strong", { class: "vm-title" }, walk.title));
  for (const control of walk.controls) {
    const page = control.name.endsWith("_page"); // it stays beside the format whose pages it sizes
    const group = page ? bar.lastElementChild : bar.appendChild(make("span", { class: "vm-choices" }));
    group.append(buildControl(store, control));
  }
  for (const [name, label, title] of walk.actions) {
    const button = make("button", { type: "button", class: "vm-button", "data-testid": name, title }, label);
    button.addEventListener("click", () => ask(store, { type: "act", name }));
    bar.append(button);
  }
  return bar;
}

// --------------------------------------------------------------------------- the addresses, with the bits of each level

function paintStrips(box, scene, drawn) {
  if (drawn && JSON.stringify(drawn.strips) === JSON.stringify(scene.strips)) return;
  box.replaceChildren(...scene.strips.map((strip) => {
    const fields = strip.fields.map(([name, high, low, slot], n) => {
      const width = high - low + 1;
      const lit = n >= strip.lit[0] && n < strip.lit[1];
      const bits = slot === null ? "·".repeat(width) : slot.toString(2).padStart(width, "0");
      const offset = n === strip.fields.length - 1;
      const element = make("div", { class: `vm-field${lit ? " vm-lit" : ""}`, "data-field": name, style: `flex-grow: ${width}` },
        make("span", { class: "vm-field-name" }, name, make("small", {}, ` ${high === low ? high : `${high}:${low}`}`)),
        make("code", {}, bits), make("b", {}, slot === null ? "–" : offset ? `0x${slot.toString(16)}` : String(slot)));
      return element;
    });
    return make("div", { class: "vm-strip" }, make("div", { class: "vm-strip-label" }, strip.label, " ", make("code", {}, strip.value)), make("div", { class: "vm-fields" }, ...fields));
  }));
}

// ----------------------------------------------------------------------------------------------------------- the grid

function buildGrid(grid, number, walk) {
  const across = grid.columns.length;
  const body = make("div", { class: "vm-grid", style: `grid-template-columns: max-content repeat(${across}, minmax(32px, ${across > 1 ? "1fr" : "220px"}))` });
  const cells = new Map();
  const labelled = grid.columns.some(Boolean);
  if (labelled) {
    body.append(make("span", { class: "vm-corner" }, walk.kind === "nested" ? "guest ↓  host →" : ""));
    grid.columns.forEach((name, n) => body.append(make("span", { class: n < across - 1 || walk.kind === "host" ? "vm-column" : "vm-column vm-own" }, name)));
  }
  const there = new Set(grid.cells.map(([row, column]) => `${row},${column}`));
  grid.rows.forEach((name, row) => {
    body.append(make("span", { class: "vm-row" }, name));
    for (let column = 0; column < across; column += 1) {
      if (!there.has(`${row},${column}`)) {
        body.append(make("span", {}));
        continue;
      }
      const cell = make("span", { class: "vm-cell", "data-cell": `${number},${row},${column}` });
      cells.set(`${row},${column}`, cell);
      body.append(cell);
    }
  });
  const token = make("span", { class: "vm-token", "aria-hidden": "true" });
  const frame = make("div", { class: "vm-grid-frame" }, body, token);
  const element = make("figure", { class: "vm-figure", role: "img", "data-testid": `grid-${number}` }, make("figcaption", {}, grid.title), frame);
  return { element, cells, token, body };
}

const isByte = (grid, row, column) => row === grid.rows.length - 1 && column === grid.columns.length - 1;

function paintGrids(parts, store, step) {
  const { walk } = store;
  const scene = walk.scenes[step];
  walk.grids.forEach((grid, number) => {
    const { cells, token, element } = parts[number];
    const read = new Map();
    walk.scenes.slice(0, step + 1).forEach((past, n) => past.cell && past.cell[0] === number && read.set(`${past.cell[1]},${past.cell[2]}`, [past, n]));
    const over = scene.kind === "end" || (scene.cell && scene.cell[0] > number);
    let count = 0;
    for (const [place, cell] of cells) {
      const [row, column] = place.split(",").map(Number);
      const known = read.get(place);
      const past = known?.[0];
      const now = known !== undefined && known[1] === step;
      const ends = past?.kind === "end";
      const owner = isByte(grid, row, column) ? "byte" : walk.kind === "shadow" && number === 1 ? "shadow" : column === grid.columns.length - 1 && walk.kind !== "host" ? "guest" : "host";
      const bad = ends && past.ok === false;
      cell.className = ["vm-cell", `vm-of-${owner}`, past ? "vm-read" : over ? "vm-unread" : "", past?.served && past.served !== "memory" ? "vm-saved" : "", now ? "vm-now" : "", bad ? "vm-bad" : ""].filter(Boolean).join(" ");
      const text = bad ? "✕" : ends ? "✓" : past ? { memory: past.references, cache: "hit", "nested TLB": "nTLB", register: "reg" }[past.served] : over ? "–" : "";
      setText(cell, String(text));
      if (past && past.served === "memory") count = Math.max(count, past.references);
      if (now) {
        token.style.transform = `translate(${cell.offsetLeft - 3}px, ${cell.offsetTop - 3}px)`;
        token.style.width = `${cell.offsetWidth + 6}px`;
        token.style.height = `${cell.offsetHeight + 6}px`;
      }
    }
    token.hidden = !(scene.cell && scene.cell[0] === number);
    token.classList.toggle("vm-bad", scene.ok === false);
    element.setAttribute("aria-label", `${grid.title || walk.title}: ${counted(count, "reference")} so far`);
  });
}

const counted = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

// ---------------------------------------------------------------------------------------------------- the entry's bits

function paintEntry(panel, store, scene, step) {
  const { entry } = scene;
  setText(panel.title, entry ? entry.title : "No table is read");
  panel.owner.hidden = !entry || entry.owner === "guest" && scene.kind === "end";
  setText(panel.owner, entry ? `${entry.owner}'s`.replace("shadow's", "VMM's shadow") : "");
  panel.element.dataset.owner = entry ? entry.owner : "";
  const body = [];
  if (entry) {
    body.push(make("div", { class: "vm-value" }, make("code", { "data-testid": "entry" }, entry.value), entry.served ? make("em", {}, entry.served) : ""));
    body.push(make("div", { class: "vm-where" }, entry.where));
    if (entry.leads) body.push(make("div", { class: "vm-leads" }, entry.leads));
    const list = make("div", { class: "vm-bits" });
    for (const [name, low, value, meaning, right] of entry.bits) {
      const live = store.walk.editable && low >= 0 && scene.kind !== "start";
      const bit = make(live ? "button" : "span", { class: `vm-bit${right ? " vm-right" : ""}`, "data-bit": name }, make("b", {}, `${name} ${value}`), make("span", {}, meaning));
      if (live) {
        bit.type = "button";
        bit.title = `Flip bit ${low} of the entry in memory, and walk again`;
        bit.addEventListener("click", () => ask(store, { type: "flip", step, bit: low }));
      }
      list.append(bit);
    }
    body.push(list);
    if (store.walk.editable && entry.bits.length && scene.kind === "step") body.push(make("div", { class: "vm-hint" }, "click a bit to flip it in memory"));
  }
  panel.body.replaceChildren(...body);
}

// ----------------------------------------------------------------------------------------------------------- one view

function createView(root, store) {
  const view = { root, parts: null, drawn: null };

  view.rebuild = () => {
    const { walk } = store;
    const focused = root.contains(document.activeElement) ? document.activeElement.dataset.testid : null;
    const toolbar = buildToolbar(store);
    const strips = make("div", { class: "vm-strips", "data-testid": "strips" });
    const grids = walk.grids.map((grid, n) => buildGrid(grid, n, walk));
    const entry = { title: make("h4"), owner: make("span", { class: "vm-owner" }), body: make("div", { class: "vm-entry-body" }) };
    entry.element = make("section", { class: "vm-panel vm-entry", "aria-label": "The entry that is read" }, make("div", { class: "vm-head" }, entry.owner, entry.title), entry.body);
    const caption = make("p", { class: "vm-caption", "aria-live": "polite", "data-testid": "caption" });
    const mark = make("span", { class: "vm-caption-mark", "aria-hidden": "true" });
    const row = make("div", { class: "vm-buttons", role: "toolbar", "aria-label": "Transport" });
    const buttons = {};
    for (const [name, label, key, action] of BUTTONS) {
      buttons[name] = iconButton(name, label, key);
      buttons[name].addEventListener("click", () => action(store));
      row.append(buttons[name]);
    }
    const slider = make("input", { type: "range", min: 0, max: last(store), step: 1, "data-testid": "scrub", "aria-label": "Step of the walk" });
    slider.addEventListener("input", () => walkTo(store, Number(slider.value)));
    const speed = select("speed", "Speed", SPEEDS.map((each) => [String(each), `${each}/s`]), String(store.speed), (value) => { store.speed = Number(value); });
    const counter = make("output", { class: "vm-counter", "data-testid": "counter" });
    const text = make("details", { class: "vm-text" }, make("summary", {}, "The whole walk as text"), make("pre", { "data-testid": "text", tabindex: "0" }, walk.text));
    root.replaceChildren(
      toolbar, strips,
      make("div", { class: "vm-main" }, make("div", { class: "vm-panel vm-grids" }, ...grids.map((each) => each.element)), entry.element),
      make("div", { class: "vm-say" }, mark, caption),
      make("footer", { class: "vm-footer" }, row, slider, counter, speed),
      text,
    );
    view.parts = { strips, grids, entry, caption, mark, buttons, slider, counter };
    view.drawn = null;
    root.setAttribute("aria-label", `Page walk, ${walk.title}: arrow keys step, space plays, n and p go to the next and previous table of the guest`);
    if (focused) root.querySelector(`[data-testid="${focused}"]`)?.focus();
    view.paint();
  };

  view.note = (text) => {
    root.setAttribute("aria-busy", "false");
    if (!view.parts) return;
    setText(view.parts.caption, text);
    setText(view.parts.mark, "✕");
    view.parts.mark.dataset.mark = "bad";
  };

  view.paint = () => {
    const { parts } = view;
    if (!parts || !store.walk) return;
    const { walk, step } = store;
    const scene = walk.scenes[step];
    paintStrips(parts.strips, scene, view.drawn);
    paintGrids(parts.grids, store, step);
    paintEntry(parts.entry, store, scene, step);
    const [glyph, kind] = scene.kind === "end" ? (scene.ok ? ["✓", "good"] : ["✕", "bad"]) : scene.kind === "tlb" && walk.tlb === "hit" ? ["✓", "good"] : scene.served && scene.served !== "memory" ? ["≈", "saved"] : ["", ""];
    setText(parts.mark, glyph);
    parts.mark.dataset.mark = kind;
    setText(parts.caption, scene.caption);
    parts.caption.setAttribute("aria-live", store.playing ? "off" : "polite");
    parts.slider.value = step;
    parts.slider.setAttribute("aria-valuetext", `step ${step} of ${last(store)}`);
    const saved = walk.scenes.slice(0, step + 1).filter((past) => past.kind === "step" && (past.served === "cache" || past.served === "nested TLB")).length;
    const tlb = step > 0 && { hit: "TLB hit · ", miss: "TLB miss · ", rights: "TLB miss · " }[walk.tlb];
    setText(parts.counter, `${tlb || ""}${counted(scene.references, "reference")}${saved ? ` · ${saved} from caches` : ""}`);
    const name = store.playing ? "pause" : "play";
    parts.buttons.play.setAttribute("aria-label", store.playing ? "Pause" : "Play");
    parts.buttons.play.querySelector("path").setAttribute("d", ICONS[name]);
    for (const [key, end] of [["first", 0], ["back", 0], ["previous", 0], ["step", last(store)], ["next", last(store)], ["last", last(store)]]) {
      parts.buttons[key].setAttribute("aria-disabled", String(step === end));
    }
    view.drawn = scene;
    root.setAttribute("aria-busy", String(store.asked));
    Object.assign(root.dataset, { step, serial: walk.serial, playing: store.playing });
  };
  return view;
}

async function render({ model, el }) {
  const root = make("div", { class: "vmlab-walk", tabindex: "0", role: "group", "data-testid": "walk", "data-lm-suppress-shortcuts": "true", "aria-busy": "true" });
  el.append(root);
  let feed = null;
  try {
    feed = await feedOf(model);
  } catch {
    root.append("This theatre has lost its kernel: run the cell again.");
    return;
  }
  const store = storeOf(feed);
  const view = createView(root, store);
  keyboard(root, store);
  store.views.add(view);
  if (store.walk) view.rebuild();
  const resize = new ResizeObserver(() => view.paint());
  resize.observe(root);
  feed.send({ type: "ready" });
  return () => {
    resize.disconnect();
    store.views.delete(view);
    if (store.views.size === 0) pause(store);
  };
}

export default { render };
